"""Writes a backup into one file, which is there whole or not at all.

It is a tar in a zstd frame, so that `tar --zstd` opens it too; the first member is the manifest. Behind the frame
stands the SHA-256 of every byte before it, in a frame that zstd skips: so a change of any byte is noticed, also of one
that no member's digest covers, and in an archive that was cut short the end is missing.

Most of a data folder are ClickHouse's columns, which are compressed already. On 420 MB of one, gzip (level 1) left 80 %
at 50 MB/s and zstd (level 1) left 80 % at 800 MB/s, on one core, and so long a stopped server waits. Python's own zstd
came with 3.14; pyarrow, which is here anyway, has the same.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import struct
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from penstock.durable import sync_folder
from penstock.storage.backup import manifest
from penstock.storage.backup.manifest import About, BackupError, Manifest, Member, Moved

CHUNK_BYTES = 1024 * 1024
# What zstd skips: a magic number, how many bytes follow, and those.
SEAL = struct.pack("<II", 0x184D2A5E, 8 + 32) + b"PENSTOCK"
SEALED_BYTES = len(SEAL) + 32


def pack(
    file: Path,
    about: About,
    sources: Sequence[tuple[str, Path]],
    *,
    force: bool = False,
    moved: Moved = lambda *_: None,
) -> Manifest:
    """Writes the files of `sources`, each under its path in the archive, to `file`.

    Nothing may change the files meanwhile; each is read twice. Raises BackupError, also when `file` is there and not to
    be overwritten.
    """
    check_free(file, force=force)
    try:
        total = 2 * sum(path.stat().st_size for _, path in sources)
        done = 0

        def step(count: int) -> None:
            nonlocal done
            done += count
            moved(done, total)

        with _part_of(file) as part:
            made = Manifest(about, tuple(_member(name, path, step) for name, path in sources))
            frame = _Frame(part)
            packed = pa.CompressedOutputStream(pa.PythonFile(frame, mode="w"), "zstd")
            _write_tar(packed, made, [path for _, path in sources], step)
            packed.close()
            part.write(SEAL + frame.sha256.digest())
            part.flush()
            os.fsync(part.fileno())
            _publish(part_path(file), file, force=force)
        sync_folder(file.parent)
    except OSError as error:
        which = f" ({error.filename})" if error.filename else ""
        raise BackupError(f"cannot write {file}: {error.strerror or error}{which}") from error
    return made


def check_free(file: Path, *, force: bool) -> None:
    """Raises BackupError when `file` is there and not to be overwritten."""
    if file.is_dir():
        raise BackupError(f"{file} is a folder: give the name of a file")
    if file.exists() and not force:
        raise BackupError(f"{file} is there already: choose another name, or overwrite it with --force")


def part_path(file: Path) -> Path:
    """Where a backup to `file` is written first; it may be deleted, or overwritten, when nothing writes it."""
    return file.with_name(f".{file.name}.part")


@contextlib.contextmanager
def _part_of(file: Path) -> Iterator[BinaryIO]:
    """A file of this process's own beside `file`, to be renamed; one that a killed process left is begun anew."""
    path = part_path(file)
    # Nobody else may read here what nobody else can in a data folder.
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as part:
        try:
            fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine = path.exists() and os.path.samestat(path.stat(), os.fstat(part.fileno()))
        except BlockingIOError:
            mine = False
        if not mine:  # or it was renamed between its opening and the lock, and is a backup now
            raise BackupError(f"another backup to {file} is under way")
        try:
            os.truncate(path, 0)
            yield part
        finally:
            path.unlink(missing_ok=True)


def _publish(part: Path, file: Path, *, force: bool) -> None:
    if not force:
        try:
            os.link(part, file)  # which, unlike a rename, never replaces a file that came meanwhile
            return
        except FileExistsError:
            check_free(file, force=False)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):  # a disk that knows no links
                raise
            check_free(file, force=False)
    part.replace(file)


class _Frame:
    """What pyarrow writes to: the file, which stays its owner's, and the digest of what went there."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        return self._file.write(data)

    def flush(self) -> None: ...

    def close(self) -> None: ...


def _member(name: str, path: Path, step: Callable[[int], None]) -> Member:
    manifest.check_path(name)
    size, digest = _read(path, step)
    return Member(name, size, digest)


def _read(path: Path, step: Callable[[int], None], take: Callable[[bytes], object] = lambda _: None) -> tuple[int, str]:
    """How large a file is and its SHA-256; `take` gets all of it, in pieces."""
    size, digest = 0, hashlib.sha256()
    with path.open("rb", buffering=0) as source:
        while piece := source.read(CHUNK_BYTES):
            digest.update(piece)
            take(piece)
            size += len(piece)
            step(len(piece))
    return size, digest.hexdigest()


def _write_tar(packed: Any, made: Manifest, paths: Sequence[Path], step: Callable[[int], None]) -> None:
    about = manifest.written(made)
    packed.write(_header(manifest.NAME, len(about)) + about + _padding(len(about)))
    for member, path in zip(made.members, paths, strict=True):
        packed.write(_header(member.path, member.bytes))
        if _read(path, step, packed.write) != (member.bytes, member.sha256):
            raise BackupError(f"{path} changed while it was read: something else writes to the data folder")
        packed.write(_padding(member.bytes))
    packed.write(bytes(2 * tarfile.BLOCKSIZE))


def _header(name: str, size: int) -> bytes:
    header = tarfile.TarInfo(name)
    header.size, header.mode = size, 0o600
    return header.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")


def _padding(size: int) -> bytes:
    return bytes(-size % tarfile.BLOCKSIZE)
