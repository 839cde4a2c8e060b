"""Reads a backup that anybody may have altered.

Nothing is taken from an archive but what its manifest announces, in its order, byte for byte; and the manifest may
announce files of a data folder alone. So there is no path that leads elsewhere, no link, no file twice, and nothing
that is larger than was said.
"""

import contextlib
import hashlib
import hmac
import io
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, BinaryIO, cast

import pyarrow as pa

from penstock.storage.backup import manifest
from penstock.storage.backup.manifest import BackupError, Manifest, Member, Moved
from penstock.storage.backup.pack import CHUNK_BYTES, SEAL, SEALED_BYTES

# Of one member: tarfile keeps what extends a header in memory, and calls itself for each extension of an extension.
HEADER_BYTES_MAX = 64 * 1024
_END_BYTES_MAX = 10 * 1024  # zeros behind the last member; tar's own unit

Take = Callable[[Member, Iterator[bytes]], None]


class Archive:
    """A backup that is open. Its manifest has been read; `unpack` or `verify` once, to read the rest."""

    def __init__(self, file: Path, opened: BinaryIO) -> None:
        self._file = file
        self._frame = _Frame(opened)
        self._plain = _Plain(pa.CompressedInputStream(pa.PythonFile(self._frame, mode="r"), "zstd"))
        self._tar = tarfile.TarFile(fileobj=cast("IO[bytes]", self._plain))
        self.manifest = self._read_manifest(self._tar.next())

    def unpack(self, folder: Path, moved: Moved = lambda *_: None) -> None:
        """Writes all files below `folder`, which is empty, each flushed. Raises BackupError; what is there then is of
        no use."""

        def take(member: Member, pieces: Iterator[bytes]) -> None:
            path = folder / member.path
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as made:
                for piece in pieces:
                    made.write(piece)
                made.flush()
                os.fsync(made.fileno())

        with _told(self._file):
            self._read(take, moved)

    def verify(self, moved: Moved = lambda *_: None) -> None:
        """Reads all of it. Raises BackupError where a byte is not as it was written."""

        def take(_: Member, pieces: Iterator[bytes]) -> None:
            for _piece in pieces:
                pass

        with _told(self._file):
            self._read(take, moved)

    def _read_manifest(self, header: tarfile.TarInfo | None) -> Manifest:
        if header is None or header.name != manifest.NAME or not _plain_file(header):
            raise BackupError("it does not begin with a manifest: it is no backup of Penstock")
        if header.size > manifest.BYTES_MAX:
            raise BackupError("its manifest is too large")
        return manifest.parsed(b"".join(self._plain.pieces(header.size)))

    def _read(self, take: Take, moved: Moved) -> None:
        done, total = 0, self.manifest.bytes
        for member in self.manifest.members:
            header = self._tar.next()
            if header is None:
                raise BackupError(f"it ends before {member.path}")
            if (header.name, header.size) != (member.path, member.bytes) or not _plain_file(header):
                raise BackupError(f"it has {header.name[:200]!r} where its manifest has {member.path}")
            digest = hashlib.sha256()

            def pieces(size: int = member.bytes, digest: "hashlib._Hash" = digest) -> Iterator[bytes]:
                nonlocal done
                for piece in self._plain.pieces(size):
                    digest.update(piece)
                    done += len(piece)
                    moved(done, total)
                    yield piece

            take(member, pieces())
            if digest.hexdigest() != member.sha256:
                raise BackupError(f"{member.path} is not what was backed up")
        if self._tar.next() is not None:
            raise BackupError("it has more files than its manifest")
        self._plain.end()
        self._frame.check_seal()


@contextlib.contextmanager
def open_archive(file: Path) -> Iterator[Archive]:
    """Opens a backup. Raises BackupError for what is none."""
    with contextlib.ExitStack() as held:
        with _told(file):
            opened = held.enter_context(file.open("rb"))
            archive = Archive(file, opened)
        yield archive


@contextlib.contextmanager
def _told(file: Path) -> Iterator[None]:
    """Says of which archive an error is, and what those of the libraries mean."""
    try:
        yield
    except BackupError as error:
        raise BackupError(f"{file} cannot be used: {error}") from error
    except (tarfile.TarError, pa.ArrowException, ValueError, OverflowError, RecursionError) as error:
        raise BackupError(f"{file} cannot be used: it is damaged, or no backup of Penstock ({error})") from error
    except OSError as error:
        # pyarrow's words for what zstd found have no number.
        if error.errno is None:
            raise BackupError(f"{file} cannot be used: it is damaged, or no backup of Penstock ({error})") from error
        where = f" ({error.filename})" if error.filename else ""
        raise BackupError(f"{file} cannot be unpacked: {error.strerror}{where}") from error


def _plain_file(header: tarfile.TarInfo) -> bool:
    return header.isreg() and header.sparse is None


class _Frame:
    """What pyarrow reads: the bytes before the seal, digested as they go by."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self._left = file.seek(0, io.SEEK_END) - SEALED_BYTES
        if self._left <= 0:
            raise BackupError("it is too short to be a backup")
        file.seek(self._left)
        self._seal = file.read()
        if not self._seal.startswith(SEAL):
            raise BackupError("its end is missing: it was cut short or damaged, or is no backup of Penstock")
        file.seek(0)

    def read(self, count: int = -1) -> bytes:
        piece = self._file.read(min(self._left, CHUNK_BYTES if count < 0 else count))
        self._left -= len(piece)
        self._sha256.update(piece)
        return piece

    def close(self) -> None: ...

    def check_seal(self) -> None:
        """Raises BackupError unless everything was read, and is what was written."""
        while self._left > 0 and self.read(CHUNK_BYTES):
            pass
        if not hmac.compare_digest(self._seal, SEAL + self._sha256.digest()):
            raise BackupError("it is damaged: its bytes are not those that were written")


class _Plain:
    """What is unpacked, forwards, as tarfile wants it; headers are bounded."""

    def __init__(self, source: pa.CompressedInputStream) -> None:
        self._source = source
        self._at = 0
        self._headers_left = HEADER_BYTES_MAX

    def pieces(self, size: int) -> Iterator[bytes]:
        """The next `size` bytes, which are a member's content."""
        while size:
            piece = self._source.read(min(size, CHUNK_BYTES))
            if not piece:
                raise BackupError("it ends in the middle of a file")
            self._at += len(piece)
            size -= len(piece)
            yield piece
        self._headers_left = HEADER_BYTES_MAX

    def end(self) -> None:
        """Raises BackupError unless what is left is the end of a tar."""
        if any(self.read(_END_BYTES_MAX)) or self._source.read(1):
            raise BackupError("it goes on behind its end")

    def read(self, size: int = -1) -> bytes:
        """For tarfile, which reads headers alone by it."""
        if not 0 <= size <= self._headers_left:
            raise BackupError("the header of a member is too large")
        self._headers_left -= size
        found = bytearray()
        while len(found) < size and (piece := self._source.read(size - len(found))):
            found += piece
        self._at += len(found)
        return bytes(found)

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET or place < self._at:
            raise BackupError("the headers of its members contradict each other")
        self.read(place - self._at)
        return self._at

    def tell(self) -> int:
        return self._at
