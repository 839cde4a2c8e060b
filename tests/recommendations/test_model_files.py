"""A model on disk is the one that was saved, or an error."""

from pathlib import Path

import pytest

from penstock.recommendations.model import EMPTY
from penstock.recommendations.model_files import ModelDamaged, ModelMissing, load, save
from tests.recommendations.test_training import same
from tests.recommendations.world import learnt, purchases

FILES = (
    "model.json",
    "products.json",
    "vectors.npy",
    "popularity.npy",
    "counts.npy",
    "starts.npy",
    "neighbours.npy",
    "strengths.npy",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(learnt(), tmp_path / "models" / "one", 7)
    return tmp_path / "models" / "one"


def test_what_was_saved_is_loaded(folder: Path) -> None:
    model, version = load(folder)
    saved = learnt()
    assert version == 7
    assert same(model, saved)
    assert (model.parts, model.interactions, model.users) == (saved.parts, saved.interactions, saved.users)
    assert (model.train_ms > 0, model.trained_at > 1e9) == (True, True)
    assert {path.name for path in folder.iterdir()} == set(FILES)


def test_an_empty_model_too(tmp_path: Path) -> None:
    save(EMPTY, tmp_path / "empty", 1)
    assert same(load(tmp_path / "empty")[0], EMPTY)


def test_a_new_one_takes_the_place_of_the_old_one_and_leaves_nothing_else(folder: Path) -> None:
    (folder.parent / f".{folder.name}.deadbeef.new").mkdir()  # of a server that died
    save(learnt(purchases(seed=2)), folder, 8)
    model, version = load(folder)
    assert version == 8
    assert same(model, learnt(purchases(seed=2)))
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_what_cannot_be_written_leaves_the_old_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.rename

    def fails_for_the_new_one(self: Path, target: Path) -> Path:
        if self.name.endswith(".new"):
            raise OSError("no space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails_for_the_new_one)
    with pytest.raises(OSError, match="no space"):
        save(learnt(purchases(seed=2)), folder, 8)
    assert load(folder)[1] == 7
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_nothing_was_saved(tmp_path: Path) -> None:
    with pytest.raises(ModelMissing):
        load(tmp_path / "never")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "gone"])
def test_damage_is_noticed(folder: Path, name: str, damage: str) -> None:
    path = folder / name
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        middle = len(data) // 2
        flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        path.write_bytes({"cut": data[:-1], "flipped": flipped, "empty": b""}[damage])
    with pytest.raises(ModelMissing if (name, damage) == ("model.json", "gone") else ModelDamaged):
        load(folder)


def test_every_byte_of_the_head_counts(folder: Path) -> None:
    path = folder / "model.json"
    data = path.read_bytes()
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(ModelDamaged):
            load(folder)
