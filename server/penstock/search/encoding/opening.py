"""The encoder that the settings name."""

from pathlib import Path

from penstock.search.encoding.encoder import Encoder, unusable
from penstock.search.encoding.minilm import MiniLm

MINILM = "minilm"
CLIP = "clip"


def open_encoder(name: str, path: Path | None) -> Encoder:
    """Loads `minilm`, whose weights are installed, or `clip` from the folder `path`. Blocking, a fifth of a second.

    Raises Conflict (ENCODER_UNUSABLE), which says what is wrong and what mends it.
    """
    if name == MINILM:
        if path is not None:
            raise unusable(f"{MINILM} brings its own weights; leave the path {path} out, or name {CLIP}")
        return MiniLm()
    if name == CLIP:
        if path is None:
            raise unusable(f"{CLIP} needs the path of a folder with an ONNX export of it")
        return _clip(path)
    raise unusable(f"there is no encoder {name!r}; name {MINILM} or {CLIP}")


def _clip(folder: Path) -> Encoder:
    try:
        from penstock.search.encoding.clip import Clip
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "PIL":
            raise
        raise unusable(f"{CLIP} needs Pillow; install penstock[clip]") from error
    return Clip(folder)
