"""A version on disk: written beside the one before and put in its place in one step, checked and mapped at start.

    FOLDER/CURRENT            the name of the snapshot that counts, and the SHA-256 of its manifest
    FOLDER/NAME/manifest.json what it is, and the size and CRC-32 of every other file
    FOLDER/NAME/*.faiss, *.npy, names.json

A crash at any moment leaves the old snapshot or the new one. What is not exactly as it was written is refused: a
snapshot saves time, the catalogue has the truth.
"""

import hashlib
import os
import re
import shutil
import uuid
import zlib
from dataclasses import astuple
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from penstock.durable import sync_folder
from penstock.search.index import stored
from penstock.search.index.base import Effort, Kind
from penstock.search.index.version import IndexVersion

FORMAT = 2
"""Of what is written; another one is not read. It stands for how texts become terms, too: `words.py`, `texts.py`."""

_CURRENT = "CURRENT"
_MANIFEST = "manifest.json"
_POINTER = re.compile(rb"([0-9a-f-]+) ([0-9a-f]{64})\n")
_PIECE_BYTES = 1 << 22


class SnapshotUnusable(Exception):
    """A snapshot that cannot be used: `problem` says why. The index is to be made from the catalogue."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int
    crc32: int


class _Manifest(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int
    encoder: str
    dimensions: int
    number: int
    commit: int
    mark: str
    kind: Kind
    effort: tuple[int, int, int, float]
    written: datetime
    files: dict[str, _File]


def write(version: IndexVersion, encoder: str, folder: Path, mark: str = "") -> datetime:
    """Puts a version on disk in the place of the one before and returns when. Raises OSError.

    `mark` is kept with it: what tells its commit from one of the same number in another database.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{version.commit:020d}-{uuid.uuid4().hex[:12]}"
    made = folder / f"{name}.making"
    made.mkdir()
    try:
        manifest = _write_files(version, encoder, made, mark)
        made.rename(folder / name)
        sync_folder(folder)
        _replace(folder / _CURRENT, f"{name} {hashlib.sha256(manifest).hexdigest()}\n".encode())
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    for other in folder.iterdir():  # what is mapped stays readable without a name
        if other.is_dir() and other.name != name:
            shutil.rmtree(other, ignore_errors=True)
    return datetime.now(UTC)


def read(folder: Path, dimensions: int, encoder: str) -> tuple[IndexVersion, str]:
    """The version that was last written here, and its mark. Raises SnapshotUnusable."""
    try:
        manifest, place = _manifest(folder)
        if (manifest.format, manifest.encoder, manifest.dimensions) != (FORMAT, encoder, dimensions):
            raise SnapshotUnusable(
                f"it is of format {manifest.format}, encoder {manifest.encoder}, {manifest.dimensions} dimensions;"
                f" needed are {FORMAT}, {encoder}, {dimensions}"
            )
        for name, expected in manifest.files.items():
            _check(place / name, expected)
        effort = Effort(*manifest.effort)
        return stored.read(place, manifest.number, manifest.commit, manifest.kind, effort), manifest.mark
    except FileNotFoundError as error:
        raise SnapshotUnusable(f"{Path(error.filename).name} is missing") from error
    except (OSError, ValidationError, ValueError, KeyError, IndexError, RuntimeError) as error:
        raise SnapshotUnusable(f"it cannot be read: {error}") from error


def _write_files(version: IndexVersion, encoder: str, made: Path, mark: str) -> bytes:
    base = version.store.base
    stored.write(version, made)
    files = {path.name: _synced(path) for path in sorted(made.iterdir())}
    manifest = _Manifest(
        format=FORMAT,
        encoder=encoder,
        dimensions=version.dimensions,
        number=version.number,
        commit=version.commit,
        mark=mark,
        kind=base.kind,
        effort=astuple(base.effort),
        written=datetime.now(UTC),
        files=files,
    )
    written = manifest.model_dump_json().encode()
    (made / _MANIFEST).write_bytes(written)
    _synced(made / _MANIFEST)
    sync_folder(made)
    return written


def _manifest(folder: Path) -> tuple[_Manifest, Path]:
    current = _POINTER.fullmatch((folder / _CURRENT).read_bytes())
    if current is None:
        raise SnapshotUnusable(f"{_CURRENT} is damaged")
    name, digest = (part.decode() for part in current.groups())
    written = (folder / name / _MANIFEST).read_bytes()
    if hashlib.sha256(written).hexdigest() != digest:
        raise SnapshotUnusable(f"{_MANIFEST} is damaged")
    return _Manifest.model_validate_json(written), folder / name


def _check(path: Path, expected: _File) -> None:
    size, crc32 = path.stat().st_size, 0
    if size == expected.size:
        with path.open("rb", buffering=0) as file:
            while piece := file.read(_PIECE_BYTES):
                crc32 = zlib.crc32(piece, crc32)
    if (size, crc32) != (expected.size, expected.crc32):
        raise SnapshotUnusable(f"{path.name} is damaged")


def _synced(path: Path) -> _File:
    """What the file is, once it is on disk."""
    crc32 = size = 0
    with path.open("rb") as file:
        os.fsync(file.fileno())
        while piece := file.read(_PIECE_BYTES):
            crc32, size = zlib.crc32(piece, crc32), size + len(piece)
    return _File(size=size, crc32=crc32)


def _replace(path: Path, content: bytes) -> None:
    made = path.with_name(f"{path.name}.making")
    made.write_bytes(content)
    _synced(made)
    made.replace(path)
    sync_folder(path.parent)
