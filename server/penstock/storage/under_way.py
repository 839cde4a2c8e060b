"""Statements under way: how many of each lane, how long a call waits for its own, and where they are in a trace."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from penstock import observation, tracing


class UnderWay:
    """Counts statements. For the event loop's thread alone, but for `counts`."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    @contextmanager
    def one(self, sql: str, lane: str) -> Iterator[None]:
        """A statement of this lane, from when it is handed over until its answer is there."""
        self._counts[lane] += 1
        try:
            with tracing.statement(sql, lane), observation.stage("clickhouse"):
                yield
        finally:
            self._counts[lane] -= 1

    def counts(self) -> Mapping[str, int]:
        """Statements that run or wait for a handle, by lane. For any thread."""
        return dict(self._counts)
