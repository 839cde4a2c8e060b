"""Archives that were damaged, or that somebody altered: refused, and nothing is left of them."""

import hashlib
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from penstock.settings import Settings
from penstock.storage.backup import folder, manifest, pack, unpack
from penstock.storage.backup.manifest import BackupError, Manifest, Member
from tests.storage.backups import ABOUT, TABLE, flipped, small_backup


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A backup that no database was needed for."""
    return small_backup(tmp_path)


# --- archives that were damaged ----------------------------------------


def test_every_byte_counts(small: Path, tmp_path: Path) -> None:
    whole = small.read_bytes()
    damaged = tmp_path / "damaged"
    for place in range(len(whole)):
        damaged.write_bytes(flipped(whole, place, (0x01, 0x80, 0xFF)[place % 3]))
        with pytest.raises(BackupError, match="cannot be used"):
            folder.verify(damaged)


def test_one_that_was_cut_short(small: Path, tmp_path: Path) -> None:
    whole = small.read_bytes()
    cut = tmp_path / "cut"
    for length in range(len(whole)):
        cut.write_bytes(whole[:length])
        with pytest.raises(BackupError, match="cannot be used"):
            folder.verify(cut)
    cut.write_bytes(whole + b"\0")
    with pytest.raises(BackupError, match="cannot be used"):
        folder.verify(cut)


# --- archives that somebody altered ----------------------------------------


def packed(*members: tuple[str, bytes] | tuple[tarfile.TarInfo, bytes], behind: bytes = b"") -> bytes:
    """An archive with these members, its seal right."""
    tar = b""
    for name, content in members:
        header = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
        header.size = header.size or len(content)
        tar += header.tobuf(tarfile.PAX_FORMAT) + content + bytes(-len(content) % 512)
    return sealed(tar + bytes(1024) + behind)


def sealed(tar: bytes) -> bytes:
    """The tar as an archive."""
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(tar)
    frame = sink.getvalue().to_pybytes()
    return bytes(frame + pack.SEAL + hashlib.sha256(frame).digest())


def said(*members: tuple[str, bytes], **about: Any) -> tuple[str, bytes]:
    """The manifest that goes with these files."""
    known = tuple(Member(name, len(content), hashlib.sha256(content).hexdigest()) for name, content in members)
    data = json.loads(manifest.written(Manifest(ABOUT, known))) | about
    return manifest.NAME, json.dumps(data).encode()


def linked(name: str, kind: bytes, to: str) -> tuple[tarfile.TarInfo, bytes]:
    """A member that is no file."""
    header = tarfile.TarInfo(name)
    header.type, header.linkname = kind, to
    return header, b""


def headed(name: str, content: bytes, **pax: str) -> tuple[tarfile.TarInfo, bytes]:
    """A member with tar's own extensions."""
    header = tarfile.TarInfo(name)
    header.pax_headers = pax
    return header, content


SPARSE = {"GNU.sparse.size": "20", "GNU.sparse.map": "0,20"}
FILE = (TABLE, b"CREATE TABLE commits")
MORE = ("index/a", b"12345")
HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    **{
        path: (lambda path=path: packed(said((path, b"x")), (path, b"x")), "is no file of a data folder")
        for path in (
            *("../x", "/etc/x", "clickhouse/../../x", "clickhouse/./x", "clickhouse//x", "clickhouse", "x", "lock"),
            *("clickhouse/", "clickhouse/a\\b", "clickhouse/a\nb", "clickhouse/ä", "index/\0", "envoy/x", ""),
            *("index/" + "x" * 256, "index/" + "x/" * 1000 + "x"),
        )
    },
    "signing keys": (lambda: packed(said(key := ("index/Signing-Keys.json", b"{}")), key), "signing keys"),
    "symlink": (lambda: packed(said(FILE, MORE), FILE, linked("index/a", tarfile.SYMTYPE, "/etc")), "where its mani"),
    "hardlink": (lambda: packed(said(("index/a", b"")), linked("index/a", tarfile.LNKTYPE, TABLE)), "where its mani"),
    "device": (lambda: packed(said(("index/a", b"")), linked("index/a", tarfile.CHRTYPE, "")), "where its manifest"),
    "folder": (lambda: packed(said(("index/a", b"")), linked("index/a", tarfile.DIRTYPE, "")), "where its manifest"),
    "symlinked manifest": (lambda: packed(linked(manifest.NAME, tarfile.SYMTYPE, "/etc/passwd"), FILE), "begin with a"),
    "said twice": (lambda: packed(said(FILE, FILE), FILE, FILE), "twice"),
    "there twice": (lambda: packed(said(FILE), FILE, FILE), "more files than its manifest"),
    "twice, the other in its place": (lambda: packed(said(FILE, MORE), FILE, FILE), "where its manifest has"),
    "a file and a folder": (lambda: packed(said(MORE, ("index/a/b", b"")), MORE, ("index/a/b", b"")), "cannot be"),
    "one missing": (lambda: packed(said(FILE, MORE), FILE), "it ends before index/a"),
    "all missing": (lambda: packed(said(FILE)), "it ends before"),
    "another order": (lambda: packed(said(FILE, MORE), MORE, FILE), "where its manifest has"),
    "one too many": (lambda: packed(said(FILE), FILE, MORE), "more files than its manifest"),
    "too large": (lambda: packed(said(FILE, MORE), FILE, ("index/a", b"123456")), "where its manifest has"),
    "too small": (lambda: packed(said(FILE, MORE), FILE, ("index/a", b"1234")), "where its manifest has"),
    "other content": (lambda: packed(said(FILE, MORE), FILE, ("index/a", b"54321")), "not what was backed up"),
    "something behind": (lambda: packed(said(FILE), FILE, behind=b"\0" * 20_000), "goes on behind its end"),
    "something else behind": (lambda: packed(said(FILE), FILE, behind=b"x"), "goes on behind its end"),
    "no manifest": (lambda: packed(FILE), "does not begin with a manifest"),
    "nothing": (lambda: packed(), "cannot be used"),
    "no tar": (lambda: sealed(b"hello" * 1000), "cannot be used"),
    "no zstd": (lambda: b"hello" + pack.SEAL + hashlib.sha256(b"hello").digest(), "cannot be used"),
    "no JSON": (lambda: packed((manifest.NAME, b"hello")), "its manifest cannot be read"),
    "deep JSON": (lambda: packed((manifest.NAME, b"[" * 100_000)), "its manifest cannot be read"),
    "a list": (lambda: packed((manifest.NAME, b"[]")), "its manifest cannot be read"),
    "a newer format": (lambda: packed(said(FILE, format=2), FILE), "format 2, this program knows 1"),
    "a strange format": (lambda: packed(said(FILE, format="1"), FILE), "parts do not agree"),
    "wrong sums": (lambda: packed(said(FILE, bytes=1), FILE), "parts do not agree"),
    "a wrong type": (lambda: packed(said(FILE, commit="7"), FILE), "its manifest is wrong: commit"),
    "a negative size": (lambda: packed(said(members=[{"path": TABLE, "bytes": -1, "sha256": "0" * 64}])), "is wrong"),
    "a database elsewhere": (lambda: packed(said(FILE, database="../../../etc"), FILE), "manifest is wrong: database"),
    "a database with a tail": (lambda: packed(said(FILE, database=f"{ABOUT.database}\n"), FILE), "is wrong: database"),
    "a huge header": (lambda: packed(said(FILE), headed(*FILE, comment="x" * 50_000_000)), "header of a member is too"),
    "a header of another size": (lambda: packed(said(FILE), headed(*FILE, size="100")), "where its manifest has"),
    "a header of another path": (lambda: packed(said(FILE), headed(*FILE, path="../../x")), "where its manifest has"),
    "a sparse file": (lambda: packed(said(FILE), headed(*FILE, **SPARSE)), "where its manifest has"),
    "a header of nonsense": (lambda: packed(said(FILE), headed(*FILE, size="-5")), "cannot be used"),
    "a huge manifest": (lambda: packed((_sized(manifest.NAME, 2**40), b"")), "manifest is too large"),
}  # fmt: skip


def _sized(name: str, size: int) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.size = size
    return header


@pytest.mark.parametrize("name", HOSTILE)
def test_an_altered_archive_is_refused(tmp_path: Path, name: str) -> None:
    made, reason = HOSTILE[name]
    file = tmp_path / "a" / "b" / "altered"
    file.parent.mkdir(parents=True)
    file.write_bytes(made())
    if name != "a file and a folder":  # which a file system alone refuses
        with pytest.raises(BackupError, match=reason):
            folder.verify(file)
    with pytest.raises(BackupError, match=reason):
        folder.restore(Settings(data_dir=file.parent / "target"), file)
    assert [path for path in tmp_path.rglob("*") if path.is_file() or path.name.endswith(("target", ".restoring"))] == [
        file
    ]


def test_the_tests_own_archives_would_be_taken(tmp_path: Path) -> None:
    file = tmp_path / "altered"
    file.write_bytes(packed(said(FILE, MORE), FILE, MORE))
    folder.restore(Settings(data_dir=tmp_path / "target"), file)
    assert (tmp_path / "target" / "index" / "a").read_bytes() == b"12345"
    file.write_bytes(packed(said(FILE, MORE), FILE, headed(*MORE, comment="harmless")))
    folder.verify(file)


@pytest.mark.parametrize(
    "path", ["clickhouse/metadata/default", "clickhouse/metadata/default/x", "clickhouse/metadata"]
)
def test_nothing_stands_where_the_link_to_the_database_goes(tmp_path: Path, path: str) -> None:
    file = tmp_path / "altered"
    file.write_bytes(packed(said(FILE, (path, b"x")), FILE, (path, b"x")))
    with pytest.raises(BackupError):
        folder.restore(Settings(data_dir=tmp_path / "target"), file)
    file.write_bytes(packed(said(MORE), MORE))
    with pytest.raises(BackupError, match="not among its files"):
        folder.restore(Settings(data_dir=tmp_path / "target"), file)
    assert list(tmp_path.iterdir()) == [file]


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """200 MB of zeros in some kilobytes: announced as ten bytes, and as more than there is room for."""
    zeros = bytes(200_000_000)
    file = tmp_path / "bomb"
    read: list[int] = []
    pieces = unpack._Plain.pieces
    monkeypatch.setattr(unpack._Plain, "pieces", lambda plain, size: read.append(size) or pieces(plain, size))
    file.write_bytes(packed(said(("index/a", b"1234567890")), ("index/a", zeros)))
    assert file.stat().st_size < 100_000
    with pytest.raises(BackupError, match="where its manifest has"):
        folder.restore(Settings(data_dir=tmp_path / "target"), file)
    assert sum(read) < 10_000
    monkeypatch.setattr(folder, "disk_free_bytes", lambda _: 1_200_000_000)
    file.write_bytes(packed(said(("index/a", zeros)), ("index/a", zeros)))
    with pytest.raises(BackupError, match="MiB are free on the disk"):
        folder.restore(Settings(data_dir=tmp_path / "target"), file)
    assert list(tmp_path.iterdir()) == [file]
