"""Tells whether somebody opened a file in a folder, or connected to a port."""

import contextlib
import ctypes
import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

_OPEN, _CREATE = 0x20, 0x100
_EVENT = struct.Struct("iIII")


class OpenedFiles:
    """Names of the files in `folder` that were opened or made, in this process or another (Linux's inotify)."""

    def __init__(self, folder: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.inotify_init1(os.O_NONBLOCK)
        if self._descriptor < 0 or libc.inotify_add_watch(self._descriptor, bytes(folder), _OPEN | _CREATE) < 0:
            raise OSError(ctypes.get_errno(), "inotify")

    def take(self) -> list[str]:
        """Those since the last time."""
        try:
            data = os.read(self._descriptor, 65536)
        except BlockingIOError:
            return []
        names, start = [], 0
        while start < len(data):
            length = _EVENT.unpack_from(data, start)[3]
            start += _EVENT.size
            names.append(data[start : start + length].rstrip(b"\0").decode())
            start += length
        return [name for name in names if name]

    def close(self) -> None:
        """Stops watching."""
        os.close(self._descriptor)


class Listener:
    """A port of this machine that counts who comes."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.connections = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                self.connections += 1
                connection.close()

    def close(self) -> None:
        """Stops listening."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@contextlib.contextmanager
def watched(folder: Path) -> Iterator[tuple[OpenedFiles, Listener]]:
    """Both, for a while."""
    files, listener = OpenedFiles(folder), Listener()
    try:
        yield files, listener
    finally:
        files.close()
        listener.close()
