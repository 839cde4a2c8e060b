"""Answers that are kept for whoever asks the same of the same version."""

import re
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from penstock import limits
from penstock.storage.user_sql.statement import Answer

# Functions whose value is another one the next time. To take a text for one of them costs no more than a look-up.
_CHANGING = re.compile(
    r"\b(?:now|now64|nowInBlock\w*|today|yesterday|current_?(?:date|time|timestamp)|utc_?timestamp|rand\w*|"
    r"\w*random\w*|generate\w+|fuzz\w+|rowNumber\w+|blockNumber|runningAccumulate|queryID|timezone)\s*\(",
    re.IGNORECASE,
)


def repeatable(text: str) -> bool:
    """Whether a statement answers the same as long as its tables do."""
    return _CHANGING.search(text) is None


@dataclass(frozen=True, slots=True)
class _Entry:
    answer: Answer
    until: float  # on the clock


class KeptAnswers:
    """The answers that were used last, within bounds of number, bytes and age.

    A key holds the statement with the version in it, so nothing here is ever wrong of its version; but a purge takes
    rows of old versions too, and that is what the age is for.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._bytes = 0

    def get(self, key: Hashable) -> Answer | None:
        """The answer, if it is kept and young enough."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.until <= self._clock():
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return entry.answer

    def put(self, key: Hashable, answer: Answer) -> None:
        """Keeps an answer, unless it is too large to be worth it."""
        if answer.size > limits.SQL_ANSWERS_BYTES_MAX // 8:
            return
        if key in self._entries:
            self._drop(key)
        self._entries[key] = _Entry(answer, self._clock() + limits.SQL_ANSWER_S_MAX)
        self._bytes += answer.size
        while len(self._entries) > limits.SQL_ANSWERS_MAX or self._bytes > limits.SQL_ANSWERS_BYTES_MAX:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: Hashable) -> None:
        self._bytes -= self._entries.pop(key).answer.size
