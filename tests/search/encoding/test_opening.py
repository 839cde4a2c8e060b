"""The encoder by its name in the settings."""

import sys
from pathlib import Path

import pytest

from penstock.errors import Conflict
from penstock.search.encoding import Encoder, open_encoder
from penstock.search.encoding.clip import Clip


def test_by_name(minilm: Encoder, clip: Clip, clip_folder: Path) -> None:
    assert (minilm.name, minilm.dimensions) == ("minilm-l6-v2-int8-blocks", 384)
    opened = open_encoder("clip", clip_folder)
    assert (opened.name, opened.dimensions) == (clip.name, clip.dimensions)


@pytest.mark.parametrize(
    ("name", "path", "told"),
    [
        ("minilm", Path("/weights"), "leave the path /weights out"),
        ("clip", None, "needs the path"),
        ("clip", Path("/nowhere"), "/nowhere/onnx/text_model.onnx is missing"),
        ("bert", None, "name minilm or clip"),
    ],
)
def test_what_cannot_be_opened(name: str, path: Path | None, told: str) -> None:
    with pytest.raises(Conflict, match=told) as caught:
        open_encoder(name, path)
    assert caught.value.reason == "ENCODER_UNUSABLE"


def test_clip_without_pillow(monkeypatch: pytest.MonkeyPatch, clip_folder: Path) -> None:
    for module in ("clip", "images"):
        monkeypatch.delitem(sys.modules, f"penstock.search.encoding.{module}")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(Conflict, match=r"install penstock\[clip\]"):
        open_encoder("clip", clip_folder)
