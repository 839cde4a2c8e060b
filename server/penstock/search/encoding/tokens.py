"""Texts as padded rows of token ids, in groups that waste little on padding."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from penstock.search.encoding.encoder import unusable

TEXT_CHARS_MAX = 16_384  # of a text, what is past it is not read: 256 tokens of prose end before 2,000

# Padded tokens in one run of the graph. Larger runs were not faster: on one thread, titles of 16 tokens went at 344 a
# second in runs of 64 tokens and 341 in runs of 512, descriptions of 95 tokens at 67 one by one and at 40 by 32. Also
# the bound of a run's memory: the widest layer of MiniLM takes 6 kB a token.
RUN_TOKENS_MAX = 256


@dataclass(frozen=True, slots=True)
class Run:
    """Some of the texts, as the graph takes them."""

    rows: npt.NDArray[np.int64]  # which texts: (k,) positions
    ids: npt.NDArray[np.int64]  # (k, tokens)
    mask: npt.NDArray[np.int64]  # (k, tokens): 1 for a token, 0 for padding


class Tokens:
    """A tokenizer of the Hugging Face `tokenizers` format, with the model's own bound of tokens."""

    def __init__(self, path: Path, *, tokens_max: int, padding: str, width: int | None = None) -> None:
        """`padding` is the token to pad with; `width` pads to so many tokens, for graphs of a fixed shape."""
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing narrower
            raise unusable(f"{path} cannot be read as a tokenizer; copy it again from the model ({error})") from error
        padding_id = self._tokenizer.token_to_id(padding)
        if padding_id is None:
            raise unusable(f"{path} does not know the token {padding}: it is not this model's; copy the model's own")
        self._padding_id = padding_id
        self._width = width
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length=tokens_max if width is None else min(width, tokens_max))

    def runs(self, texts: Sequence[str]) -> Iterator[Run]:
        """All texts, the shortest first, so that those of one run are of nearly one length."""
        readable = [_readable(text) for text in texts]
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(readable)]
        for rows in groups([self._width or len(each) for each in ids], RUN_TOKENS_MAX):
            yield self._padded(rows, [ids[row] for row in rows])

    def _padded(self, rows: Sequence[int], ids: Sequence[Sequence[int]]) -> Run:
        tokens = self._width or max(map(len, ids))
        padded = np.full((len(ids), tokens), self._padding_id, dtype=np.int64)
        mask = np.zeros((len(ids), tokens), dtype=np.int64)
        for index, each in enumerate(ids):
            padded[index, : len(each)] = each
            mask[index, : len(each)] = 1
        return Run(np.array(rows, dtype=np.int64), padded, mask)


def groups(lengths: Sequence[int], padded_max: int) -> Iterator[list[int]]:
    """Positions of `lengths` in rising order of length, cut so that a group's count × longest is at most `padded_max`.

    What is longer than that by itself is a group of its own.
    """
    group: list[int] = []
    for position in sorted(range(len(lengths)), key=lengths.__getitem__):
        if group and (len(group) + 1) * lengths[position] > padded_max:
            yield group
            group = []
        group.append(position)
    if group:
        yield group


def _readable(text: str) -> str:
    # A lone surrogate is a string in Python and JSON, but no text in UTF-8, which is what the tokenizer takes.
    return text[:TEXT_CHARS_MAX].encode("utf-8", "replace").decode("utf-8")
