"""A private folder for a unix socket, which the next server clears away when its owner was killed.

Not in the data folder, because a socket's path may have 107 bytes at most.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX = "penstock-redis-"
LOCK = "lock"
SOCKET = "s"
SOCKET_PATH_BYTES_MAX = 103  # macOS's bound; Linux has four more
FOLDERS_CLEARED_MAX = 100  # at one start


@contextmanager
def socket_folder() -> Iterator[Path]:
    """A new folder that only this user may enter, locked as long as it is used, and removed on leaving.

    Raises OSError when none can be made.
    """
    base = _base()
    _clear_abandoned(base)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
    unlocked = folder / "new"
    lock = os.open(unlocked, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        unlocked.rename(folder / LOCK)  # under its name it is locked from the first moment, so nobody clears it away
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _base() -> Path:
    """The temporary folder, or `/tmp` where its path would make the socket's too long."""
    base = Path(tempfile.gettempdir())
    longest = base / f"{PREFIX}12345678" / SOCKET
    return base if len(os.fsencode(longest)) <= SOCKET_PATH_BYTES_MAX else Path("/tmp")


def _clear_abandoned(base: Path) -> None:
    """Removes folders of this user whose lock nobody holds: the kernel let go of it when their owner died.

    Locks tell what process ids cannot, where ids come again or containers share the folder.
    """
    for folder in list(base.glob(f"{PREFIX}*"))[:FOLDERS_CLEARED_MAX]:
        with contextlib.suppress(OSError):
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            lock = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
