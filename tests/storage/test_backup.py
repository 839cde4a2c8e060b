"""Backups: what is in one comes back, what was altered is refused, and nothing is ever half there."""

import asyncio
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import settings as settings_of_examples
from hypothesis import strategies as st

from penstock.settings import Settings
from penstock.startup import data_folder
from penstock.storage import schema
from penstock.storage.backup import folder, manifest, pack
from penstock.storage.backup.manifest import BackupError
from penstock.storage.commit_log import Advance, CommitLog, Entry
from penstock.storage.engine import open_engine
from penstock.storage.schema import migrate
from tests.storage.backups import ABOUT, TABLE, flipped, small_backup
from tests.storage.rows import count_bronze, write_bronze

CANARY = b"do-not-back-me-up-7f3a9c"

# Backs up or restores, and dies when so many bytes are done, or right before the end.
KILLED = """
import os, signal, sys
from pathlib import Path
from penstock.settings import Settings
from penstock.storage.backup import folder, pack

what, data_dir, file, share = sys.argv[1:]

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def moved(done, total):
    if done >= total * float(share):
        die()

if share == "end":
    moved = lambda *_: None
    pack._publish = folder._publish = die
getattr(folder, what)(Settings(data_dir=data_dir), Path(file), moved=moved)
"""


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stopped server's folder: two commits of a stream, rows of a third that a crash left void, index and models."""
    made = tmp_path_factory.mktemp("backup") / "data"
    asyncio.run(_filled(Settings(data_dir=made, fsync=False)))
    for name in ("index/tenant/base.bin", "models/tenant/model.json", "envoy/envoy.yaml", "server.log", "ready.json"):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_bytes(name.encode() * 100)
    for place in ("", "index/", "models/tenant/", "clickhouse/"):
        (made / f"{place}signing-keys.json").write_bytes(CANARY)
    (made / "index" / "elsewhere").symlink_to(made / "signing-keys.json")
    return made


async def _filled(settings: Settings) -> None:
    engine = open_engine(settings)
    try:
        await migrate(engine, settings)
        log = CommitLog(engine)
        await log.open()
        for rows in (3, 5):
            async with log.transaction() as transaction:
                await write_bronze(engine, transaction.commit, rows=rows)
                offset = 3 * (transaction.commit - 1)
                moved = Advance("default", "s", offset, offset + rows, rows, 0)
                await transaction.append(Entry("append", rows=rows, streams=[moved]))
        await write_bronze(engine, log.head + 1, rows=9)
    finally:
        await engine.close()


@pytest.fixture(scope="module")
def archive(data_dir: Path) -> Path:
    """A backup of it."""
    file = data_dir.parent / "shop.backup"
    (data_dir / "index" / "keys.json").write_bytes(CANARY)
    folder.back_up(Settings(data_dir=data_dir, signing_keys=data_dir / "index" / "keys.json"), file)
    (data_dir / "index" / "keys.json").unlink()
    return file


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A backup that no database was needed for."""
    return small_backup(tmp_path)


# --- what is in it, and what comes back ----------------------------------------


async def test_what_was_backed_up_comes_back(archive: Path, tmp_path: Path) -> None:
    restored = Settings(data_dir=tmp_path / "new" / "data", fsync=False)
    steps: list[tuple[int, int]] = []
    made = await asyncio.to_thread(folder.restore, restored, archive, moved=lambda *step: steps.append(step))
    assert steps[-1] == (made.bytes, made.bytes)
    assert steps == sorted(steps)
    assert (made.about.commit, made.about.schema) == (2, schema.migrations()[-1][0])
    engine = open_engine(restored)
    try:
        assert await migrate(engine, restored) == made.about.schema
        assert await count_bronze(engine) == 17
        log = CommitLog(engine)
        await log.open()
        assert log.head == 2
        assert await count_bronze(engine) == 8, "void rows go at the start, there as here"
        assert await log.next_offset("default", "s") == (8, 2)
        async with log.transaction() as transaction:
            await write_bronze(engine, transaction.commit, rows=2)
            await transaction.append(Entry("append", rows=2))
        assert await count_bronze(engine) == 10
    finally:
        await engine.close()
    assert (restored.data_dir / "index/tenant/base.bin").read_bytes() == b"index/tenant/base.bin" * 100
    assert (restored.data_dir / "models/tenant/model.json").is_file()
    assert [path.name for path in restored.data_dir.parent.iterdir()] == ["data"]


def test_no_secret_and_nothing_of_the_run_time_is_in_it(archive: Path, data_dir: Path) -> None:
    made = folder.verify(archive)
    names = [member.path for member in made.members]
    assert {name.partition("/")[0] for name in names} == set(manifest.ROOTS)
    assert not [name for name in names if name.endswith("keys.json") or "elsewhere" in name or "shadow" in name]
    assert not [name for name in names if name.startswith(("clickhouse/status", "clickhouse/tmp"))]
    with pa.CompressedInputStream(pa.OSFile(str(archive)), "zstd") as plain:
        unpacked = plain.read()
    assert CANARY not in unpacked
    assert str(data_dir).encode() not in unpacked
    assert list((data_dir / "clickhouse" / "shadow").glob("penstock*")) == []


def test_it_opens_with_tar_and_says_what_it_is(archive: Path) -> None:
    with pa.CompressedInputStream(pa.OSFile(str(archive)), "zstd") as plain:
        tar = tarfile.open(fileobj=io.BytesIO(plain.read()))  # noqa: SIM115
    first, *others = tar.getmembers()
    assert first.name == "manifest.json"
    said = json.load(tar.extractfile(first) or io.BytesIO())
    assert (said["format"], said["files"], said["commit"]) == (1, len(others), 2)
    assert said["clickhouse"]
    assert said["penstock"]
    assert said["created"]
    assert "signing-keys.json" in said["left_out"]
    for told, member in zip(said["members"], others, strict=True):
        content = (tar.extractfile(member) or io.BytesIO()).read()
        assert (told["path"], told["bytes"]) == (member.name, len(content))
        assert told["sha256"] == hashlib.sha256(content).hexdigest()
    assert archive.stat().st_mode & 0o077 == 0, "nobody else may read it"


def test_one_backup_does_not_replace_another(small: Path, tmp_path: Path) -> None:
    before = small.read_bytes()
    source = tmp_path / "sources" / TABLE
    with pytest.raises(BackupError, match="is there already"):
        pack.pack(small, ABOUT, [(TABLE, source)])
    assert small.read_bytes() == before
    pack.pack(small, ABOUT, [(TABLE, source)], force=True)
    assert len(folder.verify(small).members) == 1
    with pytest.raises(BackupError, match="is a folder"):
        pack.pack(tmp_path, ABOUT, [(TABLE, source)], force=True)


def test_one_that_came_meanwhile_is_not_replaced_either(small: Path, tmp_path: Path) -> None:
    file = tmp_path / "other.backup"
    with pytest.raises(BackupError, match="is there already"):
        pack.pack(file, ABOUT, [(TABLE, tmp_path / "sources" / TABLE)], moved=lambda *_: file.touch())
    assert file.read_bytes() == b""
    assert not pack.part_path(file).exists()


def test_two_backups_to_one_file(tmp_path: Path, small: Path) -> None:
    file, source = tmp_path / "other.backup", tmp_path / "sources" / TABLE
    refused: list[str] = []

    def again(*_: int) -> None:
        with pytest.raises(BackupError, match=r"another backup to .* is under way") as caught:
            pack.pack(file, ABOUT, [(TABLE, source)])
        refused.append(str(caught.value))

    pack.pack(file, ABOUT, [(TABLE, source)], moved=again)
    assert refused
    folder.verify(file)


def test_a_file_that_changes_meanwhile_is_noticed(tmp_path: Path, small: Path) -> None:
    source = tmp_path / "sources" / TABLE
    with pytest.raises(BackupError, match="changed while it was read"):
        pack.pack(
            tmp_path / "b", ABOUT, [(TABLE, source)], moved=lambda done, total: source.write_bytes(os.urandom(700))
        )
    assert not (tmp_path / "b").exists()


def test_an_open_folder_is_not_backed_up(data_dir: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from penstock.settings import Settings; from penstock.startup import data_folder\n"
        f"with data_folder(Settings(data_dir={str(data_dir)!r})): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(BackupError, match=f"process {holder.pid} has the data folder .* open: stop that server"):
            folder.back_up(Settings(data_dir=data_dir), tmp_path / "b")
        holder.kill()
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_data_folder_is_left_as_it_is(tmp_path: Path, data_dir: Path) -> None:
    with pytest.raises(BackupError, match="there is no database in"):
        folder.back_up(Settings(data_dir=tmp_path / "none"), tmp_path / "b")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(BackupError, match="lies in the folder"):
        folder.back_up(Settings(data_dir=data_dir), data_dir / "b")


# --- disks ----------------------------------------


def test_a_full_disk(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "sources" / "large"
    source.write_bytes(os.urandom(3_000_000))
    _limited(monkeypatch)
    with pytest.raises(BackupError, match=r"cannot write .*: No space left on device"):
        pack.pack(tmp_path / "b", ABOUT, [("index/large", source)])
    assert not (tmp_path / "b").exists()
    assert not pack.part_path(tmp_path / "b").exists()


def _limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on a backup's frame takes a megabyte and no more."""
    written = pack._Frame.write
    total = 0

    def write(frame: pack._Frame, data: Any) -> int:
        nonlocal total
        total += len(data)
        if total > 1_000_000:
            raise OSError(28, "No space left on device")
        return written(frame, data)

    monkeypatch.setattr(pack._Frame, "write", write)


def test_a_full_disk_that_the_system_tells_of(small: Path, tmp_path: Path) -> None:
    source = tmp_path / "sources" / "large"
    source.write_bytes(os.urandom(3_000_000))
    pack.pack(tmp_path / "large.backup", ABOUT, [(TABLE, source)])
    program = f"""
import resource
from pathlib import Path
from penstock.settings import Settings
from penstock.storage.backup import folder, manifest, pack
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
about, here = manifest.About("", "", 1, "", 0, {ABOUT.database!r}), Path({str(tmp_path)!r})
for do in (
    lambda: pack.pack(here / "b", about, [({TABLE!r}, Path({str(source)!r}))]),
    lambda: folder.restore(Settings(data_dir=here / "r"), here / "large.backup"),
):
    try:
        do()
    except manifest.BackupError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.count("File too large") == 2, done.stdout + done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large.backup", "small.backup", "sources"]


def test_where_nothing_can_be_written(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackupError, match=r"cannot write .*: No such file or directory"):
        pack.pack(tmp_path / "none" / "b", ABOUT, [(TABLE, tmp_path / "sources" / TABLE)])
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    with pytest.raises(BackupError, match="Not a directory"):
        folder.restore(Settings(data_dir=in_the_way / "data"), small)
    # The system's own folder, which is read-only for everybody.
    with pytest.raises(BackupError, match="cannot write /proc/b"):
        pack.pack(Path("/proc/b"), ABOUT, [(TABLE, tmp_path / "sources" / TABLE)])
    monkeypatch.setattr(folder, "disk_free_bytes", lambda _: 2**40)
    with pytest.raises(BackupError, match="cannot restore to /proc/penstock"):
        folder.restore(Settings(data_dir=Path("/proc/penstock")), small)


def test_no_room(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "disk_free_bytes", lambda _: 1000)
    with pytest.raises(BackupError, match="0 MiB are free"):
        folder.restore(Settings(data_dir=tmp_path / "r"), small)
    assert not (tmp_path / "r").exists()


# --- where it is restored to ----------------------------------------


def test_only_an_empty_folder_is_restored_to(small: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "mine").touch()
    with pytest.raises(BackupError, match="is not empty"):
        folder.restore(Settings(data_dir=target), small)
    (target / "mine").unlink()
    folder.restore(Settings(data_dir=target), small)
    assert (target / TABLE).is_file()
    assert (target / "clickhouse/metadata/default/commits.sql").is_file()


def test_a_server_that_starts_there_meanwhile_keeps_its_folder(small: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    with pytest.raises(BackupError, match="Directory not empty"), _held_by_then(target) as moved:
        folder.restore(Settings(data_dir=target), small, moved=moved)
    assert [path.name for path in target.iterdir()] == ["lock"]


class _held_by_then:  # noqa: N801
    """Takes the folder's lock at the first step."""

    def __init__(self, target: Path) -> None:
        self._folder = data_folder(Settings(data_dir=target))
        self._taken = False

    def __enter__(self) -> Callable[[int, int], None]:
        return self._step

    def _step(self, *_: int) -> None:
        if not self._taken:
            self._taken = True
            self._folder.__enter__()

    def __exit__(self, *_: object) -> None:
        self._folder.__exit__(None, None, None)


def test_a_mount_point_is_restored_into(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "target"
    (target / "lost+found").mkdir(parents=True)
    monkeypatch.setattr(Path, "is_mount", lambda path: path == target)
    folder.restore(Settings(data_dir=target), small)
    assert sorted(path.name for path in target.iterdir()) == ["clickhouse", "index", "lock", "lost+found", "models"]
    assert (target / "clickhouse/metadata/default/commits.sql").is_file()
    with pytest.raises(BackupError, match="is not empty"):
        folder.restore(Settings(data_dir=target), small)


def test_a_newer_schema_is_refused(tmp_path: Path, small: Path) -> None:
    newer = replace(ABOUT, schema=schema.migrations()[-1][0] + 1, penstock="9.9.9")
    pack.pack(small, newer, [(TABLE, tmp_path / "sources" / TABLE)], force=True)
    folder.verify(small)
    with pytest.raises(BackupError, match=r"has schema \d+, this program knows \d+: use Penstock 9.9.9"):
        folder.restore(Settings(data_dir=tmp_path / "target"), small)
    assert not (tmp_path / "target").exists()


# --- kill -9 ----------------------------------------


@pytest.mark.parametrize("share", ["0.2", "0.7", "end"])
def test_a_killed_backup_leaves_none(data_dir: Path, tmp_path: Path, share: str) -> None:
    file = tmp_path / "b"
    _killed("back_up", data_dir, file, share)
    assert not file.exists()
    assert {path.name for path in tmp_path.iterdir()} <= {pack.part_path(file).name}
    left = list((data_dir / "clickhouse" / "shadow").glob("penstock*"))
    assert len(left) == 1
    if share == "0.2":
        folder.remove_leftovers(data_dir)
        assert not left[0].exists()
    if share == "0.7":
        made = folder.back_up(Settings(data_dir=data_dir), file)
        assert folder.verify(file) == made
        assert list(tmp_path.iterdir()) == [file]
        assert list((data_dir / "clickhouse" / "shadow").glob("penstock*")) == []


@pytest.mark.parametrize("share", ["0.0", "0.5", "1.0", "end"])
def test_a_killed_restore_leaves_no_folder(archive: Path, tmp_path: Path, share: str) -> None:
    target = tmp_path / "target"
    _killed("restore", target, archive, share)
    assert not target.exists()
    folder.restore(Settings(data_dir=target), archive)
    assert list(tmp_path.iterdir()) == [target]


def _killed(what: str, data_dir: Path, file: Path, share: str) -> None:
    command = [sys.executable, "-c", KILLED, what, str(data_dir), str(file), share]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


@settings_of_examples(max_examples=40)
@given(place=st.integers(0, 2**40), mask=st.integers(1, 255))
@example(place=0, mask=1)
@example(place=-1, mask=128)
def test_every_byte_of_a_large_one_counts(archive: Path, place: int, mask: int) -> None:
    whole = archive.read_bytes()
    damaged = archive.with_name("damaged")
    damaged.write_bytes(flipped(whole, place % len(whole), mask))
    with pytest.raises(BackupError, match="cannot be used"):
        folder.verify(damaged)
    target = archive.with_name("damaged-target")
    with pytest.raises(BackupError, match="cannot be used"):
        folder.restore(Settings(data_dir=target), damaged)
    assert not target.exists()
