"""What was written is read as it was, or not at all."""

import shutil
from pathlib import Path

import pytest

from penstock.search.index import (
    Delete,
    Document,
    Filter,
    Keywords,
    Kind,
    Number,
    SetVector,
    SnapshotUnusable,
    TenantIndex,
    Upsert,
)
from penstock.search.index.build import kind_for
from tests.search.index.made import clustered

DIMENSIONS = 16
VECTORS = clustered(400, DIMENSIONS)


def _index(monkeypatch: pytest.MonkeyPatch, kind: Kind) -> TenantIndex:
    monkeypatch.setattr("penstock.search.index.build.kind_for", lambda rows: kind)
    monkeypatch.setattr("penstock.search.index.rebuild.kind_for", lambda rows: kind)
    index = TenantIndex(DIMENSIONS, "made")
    index.apply([Upsert(_document(number)) for number in range(300)], 7)
    index.rebuild()
    index.apply([Upsert(_document(number)) for number in range(290, 350)] + [Delete("p5")], 8)
    assert index.status().kind is kind
    return index


def _document(number: int) -> Document:
    return Document(
        f"p{number}",
        title=f"lamp {number}",
        description="of oak",
        codes=(f"SKU-{number}",),
        numbers={Number.PRICE: number / 2},
        keywords={"colour": "Red" if number % 3 else "blue", "attributes.size": str(number % 5)},
        category_path=("Home", f"Room {number % 4}"),
        vector=None if number % 50 == 9 else VECTORS[number],
    )


def _answers(index: TenantIndex) -> object:
    version = index.version
    red = version.matching(Filter((Keywords(("colour",), ("RED",)),)))
    nearest = version.nearest(VECTORS[350:360], 10, red)
    words = version.lexical("oak lamps 12", 20, version.everything)
    return (
        version.commit,
        version.size,
        version.pending_vectors,
        [(version.product_ids(hits.numbers), hits.scores.tolist()) for hits in nearest.hits],
        (version.product_ids(words.numbers), words.scores.tolist(), words.found.count),
        version.product_ids(version.lexical("sku33", 5, version.everything).numbers),
        version.facet("category", red, 20),
        version.number_facet(Number.PRICE, red),
    )


@pytest.mark.parametrize("kind", list(Kind))
def test_what_was_written_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind) -> None:
    index = _index(monkeypatch, kind)
    before = _answers(index)
    written = index.snapshot(tmp_path)
    assert written.commit == 8
    loaded = TenantIndex.load(tmp_path, DIMENSIONS, "made")
    assert _answers(loaded) == before
    assert loaded.version.number > index.version.number
    status = index.status()
    assert (status.snapshot_commit, status.kind, loaded.status().kind) == (8, kind, kind)


@pytest.mark.parametrize("kind", list(Kind))
def test_what_was_read_goes_on_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind) -> None:
    """Nothing that is mapped from disk is written to."""
    index = _index(monkeypatch, kind)
    index.snapshot(tmp_path)
    loaded = TenantIndex.load(tmp_path, DIMENSIONS, "made")
    for each in (index, loaded):
        each.apply([Upsert(_document(number)) for number in range(340, 400)] + [Delete("p17")], 9)
        each.apply([SetVector("p9", VECTORS[9])], 10)
        each.rebuild()
        each.apply([Delete("p18"), Upsert(_document(5))], 11)
    assert _answers(loaded) == _answers(index)
    loaded.snapshot(tmp_path)
    shutil.copytree(tmp_path, tmp_path / "copy")
    assert _answers(TenantIndex.load(tmp_path, DIMENSIONS, "made")) == _answers(index)


def test_a_new_snapshot_takes_the_place_of_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = _index(monkeypatch, Kind.FLAT)
    index.snapshot(tmp_path)
    loaded = TenantIndex.load(tmp_path, DIMENSIONS, "made")
    index.apply([Delete("p1")], 12)
    index.snapshot(tmp_path)
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 1
    assert TenantIndex.load(tmp_path, DIMENSIONS, "made").version.commit == 12
    assert loaded.version.nearest(VECTORS[:1], 5, loaded.version.everything).hits[0].scores[0] > 0.99  # still mapped


def test_a_snapshot_that_was_not_finished_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = _index(monkeypatch, Kind.FLAT)
    index.snapshot(tmp_path)
    index.apply([Delete("p1")], 12)

    def _fails(*_: object) -> None:
        raise OSError(28, "no space left on device")

    monkeypatch.setattr("penstock.search.index.snapshot._replace", _fails)
    with pytest.raises(OSError, match="no space left"):
        index.snapshot(tmp_path)
    assert index.status().snapshot_commit == 8
    assert TenantIndex.load(tmp_path, DIMENSIONS, "made").version.commit == 8
    monkeypatch.undo()
    index.snapshot(tmp_path)
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 1


def test_none_is_no_snapshot(tmp_path: Path) -> None:
    with pytest.raises(SnapshotUnusable, match="CURRENT is missing"):
        TenantIndex.load(tmp_path / "nothing", DIMENSIONS, "made")


@pytest.mark.parametrize(("dimensions", "encoder"), [(DIMENSIONS + 1, "made"), (DIMENSIONS, "another")])
def test_a_snapshot_of_another_encoder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dimensions: int, encoder: str
) -> None:
    _index(monkeypatch, Kind.FLAT).snapshot(tmp_path)
    with pytest.raises(SnapshotUnusable, match="encoder"):
        TenantIndex.load(tmp_path, dimensions, encoder)


def test_a_snapshot_of_another_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = _index(monkeypatch, Kind.FLAT)
    monkeypatch.setattr("penstock.search.index.snapshot.FORMAT", 999)
    index.snapshot(tmp_path)
    monkeypatch.undo()
    with pytest.raises(SnapshotUnusable, match="format 999"):
        TenantIndex.load(tmp_path, DIMENSIONS, "made")


@pytest.mark.parametrize("kind", list(Kind))
def test_every_file_that_is_not_as_it_was_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind
) -> None:
    folder = tmp_path
    _index(monkeypatch, kind).snapshot(folder)
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 25
    for file in files:
        content = (folder / file).read_bytes()
        # CURRENT has the digest of the manifest: where one of them is damaged, it cannot tell which.
        name = "(CURRENT|manifest.json)" if file.name in ("CURRENT", "manifest.json") else file.name
        for damaged in _damaged(content):
            (folder / file).unlink(missing_ok=True)
            if damaged is not None:
                (folder / file).write_bytes(damaged)
            with pytest.raises(SnapshotUnusable, match=f"{name} is (damaged|missing)"):
                TenantIndex.load(folder, DIMENSIONS, "made")
            (folder / file).write_bytes(content)
    assert TenantIndex.load(folder, DIMENSIONS, "made").version.commit == 8


def _damaged(content: bytes) -> list[bytes | None]:
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 0x10]) + content[middle + 1 :]
    return [None, b"", content[:middle], content[:-1], flipped, content + b"\0"]


def test_constants_of_kinds_are_what_sizes_mean() -> None:
    assert [kind_for(rows) for rows in (0, 4_000, 4_001, 400_000, 400_001)] == [
        Kind.FLAT,
        Kind.FLAT,
        Kind.HNSW,
        Kind.HNSW,
        Kind.IVF,
    ]
