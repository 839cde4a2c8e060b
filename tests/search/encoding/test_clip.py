"""CLIP: images, and files that are missing or not as they should be."""

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from penstock.errors import Conflict, InvalidInput
from penstock.search.encoding import ImageEncoder, images
from penstock.search.encoding.clip import Clip
from penstock.search.encoding.images import pixels, read_preparation
from tests.search.encoding import clip_export
from tests.search.encoding.clip_export import EDGE, as_file, export, image

IMAGES = [
    image("red"),
    image("red", form="JPEG"),
    image("blue", (500, 7), "WEBP"),
    image("green", (1, 9_000)),
    as_file(Image.new("RGBA", (3, 3))),
    as_file(Image.new("1", (40, 20)), "GIF"),
]


def test_images_have_unit_vectors_of_their_own(clip: Clip) -> None:
    encoder: ImageEncoder = clip
    vectors = encoder.encode_images(IMAGES)
    assert vectors.shape == (len(IMAGES), clip_export.DIMENSIONS)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.array_equal(vectors[::-1], encoder.encode_images(IMAGES[::-1]))
    assert encoder.encode_images([]).shape == (0, clip_export.DIMENSIONS)


def test_like_images_are_near(clip: Clip) -> None:
    red, tomato, blue = clip.encode_images([image("red"), image("tomato"), image("blue")])
    assert red @ tomato > red @ blue


def test_many_threads_at_the_same_time(clip: Clip) -> None:
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(clip.encode_images, [IMAGES] * 8))
    assert all(np.array_equal(each, found[0]) for each in found)


def test_a_graph_of_fixed_width_gives_the_same(clip: Clip, clip_of_fixed_width: Clip) -> None:
    texts = ["a lamp", "", "a lamp with three legs and a shade of paper"]
    assert np.allclose(clip.encode(texts), clip_of_fixed_width.encode(texts), atol=1e-5)


def test_a_text_is_cut_but_keeps_its_end(clip: Clip) -> None:
    text = "y" * 75  # with start and end 77
    full, longer = clip.encode([text, text + "zzz"])
    assert np.allclose(full, longer, atol=1e-5)


def test_pixels_of_an_image_that_fits_are_its_own(clip_folder: Path) -> None:
    shown = np.random.default_rng(1).integers(0, 256, (EDGE, EDGE, 3), dtype=np.uint8)
    found = pixels(as_file(Image.fromarray(shown)), read_preparation(clip_folder / "preprocessor_config.json"))
    mean, deviation = np.array(clip_export.PREPARATION["image_mean"]), np.array(clip_export.PREPARATION["image_std"])
    assert found.shape == (1, 3, EDGE, EDGE)
    assert np.allclose(found[0].transpose(1, 2, 0), (shown / 255 - mean) / deviation, atol=1e-5)


@pytest.mark.parametrize("size", [(64, 64), (128, 64), (64, 160)])
def test_cropping_while_resizing_is_resizing_then_cropping(clip_folder: Path, size: tuple[int, int]) -> None:
    random = np.random.default_rng(2)
    shown = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize(size)
    width, height = size[0] * EDGE // min(size), size[1] * EDGE // min(size)
    left, top = (width - EDGE) // 2, (height - EDGE) // 2
    apart = shown.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + EDGE, top + EDGE))
    preparation = read_preparation(clip_folder / "preprocessor_config.json")
    assert np.allclose(pixels(as_file(shown), preparation), pixels(as_file(apart), preparation), atol=0.05)


def test_older_spelling_of_the_preparation(tmp_path: Path) -> None:
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(clip_export.PREPARATION | {"size": EDGE, "crop_size": EDGE}))
    assert read_preparation(path).shortest == EDGE
    assert read_preparation(path).crop == (EDGE, EDGE)


@pytest.mark.parametrize(
    "file",
    [
        b"",
        b"GIF89a",
        image("red", form="TIFF"),
        b"no image",
        IMAGES[0][:60],
        IMAGES[1][:200],
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    ],
)
def test_what_is_no_image_is_refused(clip: Clip, file: bytes) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        clip.encode_images([IMAGES[0], file])


@pytest.mark.parametrize("size", [(5_001, 5_000), (10_000, 10_000), (20_000, 20_000)])
def test_too_many_pixels_are_refused(clip: Clip, size: tuple[int, int]) -> None:
    assert size[0] * size[1] > images.IMAGE_PIXELS_MAX
    with pytest.raises(InvalidInput, match="pixels"):
        clip.encode_images([as_file(Image.new("1", size), "PNG")])


def test_the_name_is_of_what_is_in_the_files(clip: Clip, clip_folder: Path, tmp_path: Path) -> None:
    assert Clip(export(tmp_path / "again")).name == clip.name
    names = {clip.name, Clip(export(tmp_path / "seed", seed=1)).name}
    for graph in ("text_model.onnx", "vision_model.onnx"):
        with_data = shutil.copytree(clip_folder, tmp_path / graph)
        (with_data / f"{graph}_data").write_bytes(b"weights")
        names.add(Clip(with_data).name)
    prepared = shutil.copytree(clip_folder, tmp_path / "prepared")
    (prepared / "preprocessor_config.json").write_text(json.dumps(clip_export.PREPARATION | {"resample": 2}))
    names.add(Clip(prepared).name)
    assert len(names) == 5


def test_graphs_in_a_subfolder(clip: Clip, clip_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(clip_folder, tmp_path / "clip")
    (folder / "onnx").mkdir()
    for name in ("text_model.onnx", "vision_model.onnx"):
        (folder / name).rename(folder / "onnx" / name)
    assert Clip(folder).name == clip.name


def _with_preparation(**changed: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / "preprocessor_config.json").write_text(json.dumps(clip_export.PREPARATION | changed))

    return change


def _swapped(folder: Path) -> None:
    shutil.copyfile(folder / "vision_model.onnx", folder / "text_model.onnx")


def _cut(name: str) -> Callable[[Path], None]:
    def cut(folder: Path) -> None:
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])

    return cut


def _other_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace(clip_export.END, "<|end|>"))


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "no text model": (lambda folder: (folder / "text_model.onnx").unlink(), "text_model.onnx is missing; copy"),
    "no vision model": (lambda folder: (folder / "vision_model.onnx").unlink(), "vision_model.onnx is missing; copy"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json is missing; copy"),
    "no preparation": (lambda folder: (folder / "preprocessor_config.json").unlink(), "config.json is missing; copy"),
    "half a text model": (_cut("text_model.onnx"), "text_model.onnx cannot be loaded .* export it again"),
    "half a vision model": (_cut("vision_model.onnx"), "vision_model.onnx cannot be loaded .* export it again"),
    "half a tokenizer": (_cut("tokenizer.json"), "tokenizer.json cannot be read as a tokenizer; copy"),
    "half a preparation": (_cut("preprocessor_config.json"), "preprocessor_config.json: .*; copy"),
    "another model's tokenizer": (_other_tokenizer, r"does not know the token <\|endoftext\|>"),
    "models swapped": (_swapped, "text_model.onnx takes .'pixel_values'.* must take .'input_ids'"),
    "spaces differ": (lambda folder: _export_over(folder, text_dimensions=7), "rows of as many numbers"),
    "no direction": (lambda folder: _export_over(folder, zero=True), "without a direction"),
    "a bound size": (_with_preparation(size=100_000), "preprocessor_config.json: size"),
    "no deviation": (_with_preparation(image_std=[0, 1, 1]), "preprocessor_config.json: image_std"),
    "not cropped": (_with_preparation(do_center_crop=False), "preprocessor_config.json: do_center_crop"),
    "crop too large": (_with_preparation(crop_size=EDGE + 1), "crop_size .* is more than size"),
    "another crop": (_with_preparation(size=16, crop_size=16), "vision_model.onnx cannot be run"),
}


def _export_over(folder: Path, *, text_dimensions: int = clip_export.DIMENSIONS, zero: bool = False) -> None:
    export(folder, text_dimensions=text_dimensions, zero=zero)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_exports_are_told_apart(clip_folder: Path, tmp_path: Path, damage: str) -> None:
    folder = shutil.copytree(clip_folder, tmp_path / "clip")
    change, told = DAMAGES[damage]
    change(folder)
    with pytest.raises(Conflict, match=told) as caught:
        Clip(folder)
    assert caught.value.reason == "ENCODER_UNUSABLE"
    assert str(folder) in str(caught.value)
