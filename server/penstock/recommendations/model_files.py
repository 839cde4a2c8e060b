"""The model on disk: a folder that is replaced whole, and is read only if every byte is as it was written.

    model.json     format, what the model says of itself, and of each other file its size and SHA-256
    products.json  the products' ids
    *.npy          the arrays

A new folder is written beside the old one, flushed, and renamed. Between the two renames that this takes there is a
moment without a model: a crash in it costs a training.
"""

import hashlib
import os
import shutil
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from uuid import uuid4

import numpy as np
import orjson
from numpy.typing import NDArray

from penstock.durable import sync_folder
from penstock.recommendations.covisitation import Neighbours
from penstock.recommendations.model import BehaviourModel

FORMAT = 1
_HEAD = "model.json"
_ABOUT = ("parts", "interactions", "users", "trained_at", "train_ms")


class ModelUnreadable(Exception):
    """There is no model that can be used; train one."""


class ModelMissing(ModelUnreadable):
    """Nothing was saved there."""


class ModelDamaged(ModelUnreadable):
    """What was saved is not what is there now, or is of another format."""


def save(model: BehaviourModel, folder: Path, version: int) -> None:
    """Writes the model, in place of one that is there. For one writer at a time.

    Raises OSError; then the old one is still there.
    """
    contents = _contents(model)
    listed = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in contents.items()}
    about = {name: getattr(model, name) for name in _ABOUT}
    head = orjson.dumps({"format": FORMAT, "version": version, "about": about, "files": listed})
    contents[_HEAD] = orjson.dumps({"head": head.decode(), "sha256": hashlib.sha256(head).hexdigest()})
    folder.parent.mkdir(parents=True, exist_ok=True)
    mark = uuid4().hex[:8]
    fresh, stale = (folder.with_name(f".{folder.name}.{mark}.{kind}") for kind in ("new", "old"))
    try:
        fresh.mkdir()
        for name, data in contents.items():
            _write(fresh / name, data)
        sync_folder(fresh)
        if folder.exists():
            folder.rename(stale)
        fresh.rename(folder)
        sync_folder(folder.parent)
    except OSError:
        if stale.exists() and not folder.exists():
            stale.rename(folder)
        raise
    finally:
        for left in folder.parent.glob(f".{folder.name}.*"):  # those of a crash, too
            shutil.rmtree(left, ignore_errors=True)


def load(folder: Path) -> tuple[BehaviourModel, int]:
    """The model, and the version it was saved as. Raises ModelMissing, ModelDamaged; never gives what was not saved."""
    try:
        outer = orjson.loads((folder / _HEAD).read_bytes())
        head = outer["head"].encode()
        _check(hashlib.sha256(head).hexdigest() == outer["sha256"], _HEAD)
        described = orjson.loads(head)
        _check(described["format"] == FORMAT, "format")
        contents = {name: _checked(folder / name, listed) for name, listed in described["files"].items()}
        return _model(contents, described["about"]), int(described["version"])
    except FileNotFoundError as error:
        if not (folder / _HEAD).exists():
            raise ModelMissing(f"no model in {folder}") from error
        raise ModelDamaged(f"{error.filename} is missing") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelDamaged(f"the model in {folder} cannot be read: {error}") from error


def _contents(model: BehaviourModel) -> dict[str, bytes]:
    arrays: dict[str, NDArray[np.generic]] = {
        "vectors": model.vectors,
        "popularity": model.popularity,
        "counts": model.counts,
        "starts": model.neighbours.starts,
        "neighbours": model.neighbours.products,
        "strengths": model.neighbours.strengths,
    }
    contents = {f"{name}.npy": _bytes_of(array) for name, array in arrays.items()}
    return {"products.json": orjson.dumps(model.products), **contents}


def _model(contents: Mapping[str, bytes], about: Mapping[str, object]) -> BehaviourModel:
    def array(name: str) -> NDArray[np.generic]:
        loaded: NDArray[np.generic] = np.load(BytesIO(contents[f"{name}.npy"]), allow_pickle=False)
        return loaded

    neighbours = Neighbours(
        array("starts").astype(np.int64), array("neighbours").astype(np.int32), array("strengths").astype(np.float32)
    )
    return BehaviourModel(
        products=tuple(orjson.loads(contents["products.json"])),
        vectors=array("vectors").astype(np.float32),
        neighbours=neighbours,
        popularity=array("popularity").astype(np.float32),
        counts=array("counts").astype(np.float32),
        parts=tuple(str(part) for part in _listed(about["parts"])),
        interactions=int(str(about["interactions"])),
        users=int(str(about["users"])),
        trained_at=float(str(about["trained_at"])),
        train_ms=float(str(about["train_ms"])),
    )


def _listed(value: object) -> list[object]:
    if not isinstance(value, list):
        raise TypeError("parts are a list")
    return value


def _bytes_of(array: NDArray[np.generic]) -> bytes:
    buffer = BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _checked(path: Path, listed: Mapping[str, object]) -> bytes:
    data = path.read_bytes()
    _check(len(data) == listed["bytes"] and hashlib.sha256(data).hexdigest() == listed["sha256"], path.name)
    return data


def _check(is_so: bool, name: str) -> None:
    if not is_so:
        raise ValueError(f"{name} is not what was written")


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
