"""CLIP, from a local folder: texts and images in one space.

The folder is as ONNX exports have it: `text_model.onnx` and `vision_model.onnx` (in it, or in its subfolder `onnx`),
`tokenizer.json` and `preprocessor_config.json`. Made for ViT-B/32 (512 dimensions); others of that layout work, too.
"""

import hashlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from penstock.search.encoding.encoder import Vectors, unit_length, unusable
from penstock.search.encoding.images import pixels, read_preparation
from penstock.search.encoding.session import Session
from penstock.search.encoding.tokens import Tokens

TOKENS_MAX = 77  # what CLIP was trained with
PADDING = "<|endoftext|>"  # the model reads a text at the first one, so what follows does not count
THREADS = 1  # as in minilm.py

TEXT, VISION = "text_model.onnx", "vision_model.onnx"
TOKENIZER, PREPARATION = "tokenizer.json", "preprocessor_config.json"

_TEXT_OUTPUT, _IMAGE_OUTPUT = "text_embeds", "image_embeds"


class Clip:
    """Satisfies `Encoder` and `ImageEncoder`."""

    def __init__(self, folder: Path, threads: int = THREADS) -> None:
        """Loads and tries both models. Raises Conflict (ENCODER_UNUSABLE), which names the file and what mends it."""
        graphs = folder if (folder / TEXT).exists() else folder / "onnx"
        text, vision = _present(graphs / TEXT), _present(graphs / VISION)
        tokenizer, preparation = _present(folder / TOKENIZER), _present(folder / PREPARATION)
        self._preparation = read_preparation(preparation)
        self._text = Session(text, threads)
        self._text.require(inputs={"input_ids"}, optional={"attention_mask"}, output=_TEXT_OUTPUT)
        self._vision = Session(vision, threads)
        self._vision.require(inputs={"pixel_values"}, optional=set(), output=_IMAGE_OUTPUT)
        width = _fixed_width(self._text.inputs["input_ids"])
        self._tokens = Tokens(tokenizer, tokens_max=TOKENS_MAX, padding=PADDING, width=width)
        self._dimensions = self._tried()
        self._name = f"clip-{_digest(tokenizer, preparation, *_with_data(text), *_with_data(vision))}"

    @property
    def name(self) -> str:
        """Made of what is in the files: those of another export have another name."""
        return self._name

    @property
    def dimensions(self) -> int:
        """512 for ViT-B/32."""
        return self._dimensions

    def encode(self, texts: Sequence[str]) -> Vectors:
        """See `Encoder.encode`; reads up to 77 tokens of a text."""
        return unit_length(self._embedded(texts), self._text.path)

    def encode_images(self, images: Sequence[bytes]) -> Vectors:
        """See `ImageEncoder.encode_images`. One after the other: memory does not grow with their number."""
        found = np.empty((len(images), self._dimensions), dtype=np.float32)
        for row, image in enumerate(images):
            found[row] = self._vision.run(_IMAGE_OUTPUT, {"pixel_values": pixels(image, self._preparation)})[0]
        return unit_length(found, self._vision.path)

    def _embedded(self, texts: Sequence[str]) -> Vectors:
        found = np.empty((len(texts), self._dimensions), dtype=np.float32)
        for run in self._tokens.runs(texts):
            found[run.rows] = self._text.run(_TEXT_OUTPUT, {"input_ids": run.ids, "attention_mask": run.mask})
        return found

    def _tried(self) -> int:
        """The dimensions of both models, found by running them."""
        (run,) = self._tokens.runs(["a lamp", "a lamp"])  # two: a graph for one text at a time would not do
        of_texts = self._text.run(_TEXT_OUTPUT, {"input_ids": run.ids, "attention_mask": run.mask})
        sample = BytesIO()
        Image.new("RGB", (8, 8), "grey").save(sample, "PNG")
        of_images = self._vision.run(_IMAGE_OUTPUT, {"pixel_values": pixels(sample.getvalue(), self._preparation)})
        if of_texts.ndim != 2 or of_images.ndim != 2 or of_texts.shape[1] != of_images.shape[1]:
            raise unusable(
                f"{self._text.path} gives {_TEXT_OUTPUT} of shape {of_texts.shape} and {self._vision.path} "
                f"{_IMAGE_OUTPUT} of shape {of_images.shape}: they must be rows of as many numbers; copy both from one "
                f"export with projection"
            )
        unit_length(of_texts, self._text.path)
        unit_length(of_images, self._vision.path)
        dimensions: int = of_texts.shape[1]
        return dimensions


def _present(path: Path) -> Path:
    if not path.is_file():
        raise unusable(f"{path} is missing; copy it from an ONNX export of CLIP (ViT-B/32) into that folder")
    return path


def _fixed_width(shape: tuple[int | None, ...]) -> int | None:
    return shape[1] if len(shape) == 2 else None


def _with_data(graph: Path) -> list[Path]:
    """The graph's file and those in which some exports keep its weights."""
    return sorted(graph.parent.glob(f"{graph.name}*"))


def _digest(*paths: Path) -> str:
    whole = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()[:12]
