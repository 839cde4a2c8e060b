"""A folder laid out as an ONNX export of CLIP, with small made-up weights.

The text model is like the real one in what matters here: causal, and read at the first token with the highest id.
"""

import json
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

Weights = np.ndarray[tuple[int, ...], np.dtype[np.float32 | np.int64]]
Matrix = np.ndarray[tuple[int, int], np.dtype[np.float32]]

DIMENSIONS = 24
EDGE = 32
START, END = "<|startoftext|>", "<|endoftext|>"
PREPARATION: dict[str, object] = {
    "crop_size": {"height": EDGE, "width": EDGE},
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "size": {"shortest_edge": EDGE},
}


def export(
    folder: Path, *, width: int | None = None, text_dimensions: int = DIMENSIONS, zero: bool = False, seed: int = 0
) -> Path:
    """Writes all files; `width` fixes the tokens of a text, `zero` makes all weights 0."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    scale = np.float32(0 if zero else 1)
    tokenizer = _tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    words = random.standard_normal((tokenizer.get_vocab_size(), 16), dtype=np.float32)
    onnx.save(
        _text_model(words, scale * random.standard_normal((16, text_dimensions), dtype=np.float32), width),
        folder / "text_model.onnx",
    )
    onnx.save(
        _vision_model(scale * random.standard_normal((12, DIMENSIONS), dtype=np.float32)), folder / "vision_model.onnx"
    )
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPARATION))
    return folder


def image(colour: str, size: tuple[int, int] = (48, 40), form: str = "PNG") -> bytes:
    """A file of one colour, with a white square in its upper left quarter."""
    drawn = Image.new("RGB", size, colour)
    drawn.paste(Image.new("RGB", (max(1, size[0] // 4), max(1, size[1] // 4)), "white"), (0, 0))
    return as_file(drawn, form)


def as_file(drawn: Image.Image, form: str = "PNG") -> bytes:
    """The image as a file of that form."""
    file = BytesIO()
    drawn.save(file, form)
    return file.getvalue()


def _tokenizer() -> Tokenizer:
    """Bytes as tokens; texts of any script have some."""
    vocabulary = {byte: number for number, byte in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocabulary |= {START: 256, END: 257}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", pair=None, special_tokens=[(START, 256), (END, 257)]
    )
    return tokenizer


def _text_model(
    words: Matrix,
    projection: Matrix,
    width: int | None,
) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Gather", ["words", "input_ids"], ["embedded"]),
        helper.make_node("CumSum", ["embedded", "one"], ["summed"]),  # causal: a token knows those before it
        helper.make_node("Tanh", ["summed"], ["states"]),
        helper.make_node("ArgMax", ["input_ids"], ["end"], axis=1, keepdims=1),
        helper.make_node("Mul", ["input_ids", "zero"], ["zeros"]),
        helper.make_node("Add", ["zeros", "one"], ["ones"]),
        helper.make_node("CumSum", ["ones", "one"], ["counted"]),
        helper.make_node("Sub", ["counted", "one"], ["positions"]),
        helper.make_node("Equal", ["positions", "end"], ["is_end"]),
        helper.make_node("Cast", ["is_end"], ["is_end_float"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["is_end_float", "two"], ["chosen"]),
        helper.make_node("Mul", ["states", "chosen"], ["at_end"]),
        helper.make_node("ReduceSum", ["at_end", "axis"], ["pooled"], keepdims=0),
        helper.make_node("MatMul", ["pooled", "projection"], ["text_embeds"]),
    ]
    weights: dict[str, Weights] = {
        "words": words,
        "projection": projection,
        "zero": np.array(0, dtype=np.int64),
        "one": np.array(1, dtype=np.int64),
        "two": np.array([2], dtype=np.int64),
        "axis": np.array([1], dtype=np.int64),
    }
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", width or "sequence"])
    found = helper.make_tensor_value_info("text_embeds", TensorProto.FLOAT, ["batch", projection.shape[1]])
    return _model(nodes, weights, ids, found)


def _vision_model(projection: Matrix) -> onnx.ModelProto:
    nodes = [
        helper.make_node(
            "AveragePool",
            ["pixel_values"],
            ["quarters"],
            kernel_shape=[EDGE // 2, EDGE // 2],
            strides=[EDGE // 2, EDGE // 2],
        ),
        helper.make_node("Flatten", ["quarters"], ["flat"]),
        helper.make_node("MatMul", ["flat", "projection"], ["image_embeds"]),
    ]
    taken = helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch", 3, EDGE, EDGE])
    found = helper.make_tensor_value_info("image_embeds", TensorProto.FLOAT, ["batch", DIMENSIONS])
    return _model(nodes, {"projection": projection}, taken, found)


def _model(
    nodes: list[onnx.NodeProto],
    weights: Mapping[str, Weights],
    taken: onnx.ValueInfoProto,
    found: onnx.ValueInfoProto,
) -> onnx.ModelProto:
    initial = [numpy_helper.from_array(weight, name) for name, weight in weights.items()]
    graph = helper.make_graph(nodes, "made_up", [taken], [found], initial)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model
