"""What happened, in order: one JSON object a line, for whoever must find out why a run failed."""

import json
import time
from pathlib import Path


class PromiseBroken(AssertionError):
    """The server did what it must never do."""


class Journal:
    """The journal of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("w", encoding="utf-8", buffering=1)
        self._start = time.monotonic()

    def note(self, who: str, what: str, **details: object) -> None:
        """Writes one line; `who` is a stream, or the part of the test that acted."""
        seconds = round(time.monotonic() - self._start, 4)
        self._file.write(json.dumps({"s": seconds, "who": who, "what": what, **details}, default=str) + "\n")

    def broken(self, who: str, promise: str) -> PromiseBroken:
        """Notes a broken promise, and returns it for raising."""
        self.note(who, "PROMISE BROKEN", promise=promise)
        return PromiseBroken(f"{who}: {promise}")

    def close(self) -> None:
        """Ends the file."""
        self._file.close()
