"""A server with a protection taken out, or with rare things made frequent.

`PENSTOCK_TEST_ALTERATION=NAME python -m tests.faults.altered serve …` is `penstock serve …`, altered. Tests that pass
against a server without its protections would prove nothing; so each of them is taken out once, and must be missed.
"""

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tests.process import ServerProcess

VARIABLE = "PENSTOCK_TEST_ALTERATION"


class AlteredServer(ServerProcess):
    """`ServerProcess` of an altered server."""

    module = "tests.faults.altered"  # which knows the alteration

    def __init__(self, alteration: str, data_dir: Path, *, env: dict[str, str]) -> None:
        super().__init__(data_dir, env={**env, VARIABLE: alteration})
        self._command[self._command.index("penstock")] = self.module


def nothing() -> None:
    """The control: the server as it is."""


def small_limits() -> None:
    """Commits are split, runs take a few commits, streams are forgotten and the log is folded all the time."""
    from penstock import limits

    limits.COMMIT_ROWS_MAX = 150
    limits.GROUP_ROWS_MAX = 40
    limits.PIPELINE_BATCH_ROWS = 400
    limits.PIPELINE_BATCH_COMMITS = 5
    from penstock.events import streams
    from penstock.storage import commit_log

    commit_log.CHECKPOINT_EVERY_COMMITS = 7
    streams.CLOSED_STATES_KEPT = 1


def impatient() -> None:
    """Storage that is away is waited for only half a second."""
    from penstock import limits

    limits.COMMIT_RETRY_S_MAX = 0.5


def log_before_rows() -> None:
    """A commit is logged before its rows are stored."""
    from penstock import failpoints
    from penstock.events import commit
    from penstock.events.commit import CommitWriter, Placed
    from penstock.storage.commit_log import Transaction

    async def store(self: CommitWriter, placed: list[Placed], transaction: Transaction) -> bool:
        await self._find_bad(placed, transaction)
        if any(each.bad and not each.keeps_good for each in placed):
            self._refuse_bad(placed)
            return False
        await transaction.append(commit._entry(placed))
        failpoints.reached("commit.before_log")
        await self._each_form(placed, transaction, self._insert)
        await self._keep_rejected(placed, transaction)
        return True

    replace(CommitWriter, "store", store)


def acknowledge_before_log() -> None:
    """A commit is answered while its log row is still on the way."""
    from penstock.storage.commit_log import CommitLog

    append: Callable[..., Awaitable[None]] = CommitLog._append
    held: list[tuple[Any, ...]] = []

    async def lazy(self: CommitLog, *entry: Any) -> None:
        # The pipeline's own rows take along what waits, so that it is the lie that is noticed, not that nothing runs.
        if entry[2].operation == "append" and len(held) < 3:
            held.append(entry)
            self.head = self.last_append = entry[0]
            return
        for each in (*held, entry):
            await append(self, *each)
        held.clear()

    replace(CommitLog, "_append", lazy)


def keep_void_rows() -> None:
    """Rows of commits that were never logged stay, those of runs do not."""
    from penstock.storage.commit_log import CommitLog

    remove: Callable[..., Awaitable[None]] = CommitLog._remove

    async def keep(self: CommitLog, tables: Any, column: str, beyond: int) -> None:
        if column != "commit":
            await remove(self, tables, column, beyond)

    replace(CommitLog, "_remove", keep)


def keep_void_runs() -> None:
    """Rows of runs that were never logged stay, those of commits do not."""
    from penstock.storage.commit_log import CommitLog

    async def delete_void(self: CommitLog, *_: Any) -> None:
        pass

    replace(CommitLog, "delete_void", delete_void)


def any_offset() -> None:
    """Offsets are not checked."""
    from penstock.events import committer

    replace(committer, "check_offset", lambda *_: None)


def keep_repetitions() -> None:
    """Silver takes an event id as often as it comes."""
    from penstock.pipeline import silver

    without = silver._SILVER
    for part in ("LIMIT 1 BY tenant, event_id", "AND (tenant, event_id) NOT IN (SELECT tenant, event_id FROM known)"):
        assert part in without, f"silver has no {part!r} to take out"
        without = without.replace(part, "")
    replace(silver, "_SILVER", without)


ALTERATIONS: dict[str, Callable[[], None]] = {
    each.__name__: each
    for each in (
        nothing, small_limits, impatient, log_before_rows, acknowledge_before_log, keep_void_rows, keep_void_runs,
        any_offset, keep_repetitions,
    )
}  # fmt: skip


def replace(owner: Any, name: str, value: object) -> None:
    """Raises AttributeError where there is nothing to replace: what alters nothing proves nothing."""
    getattr(owner, name)
    setattr(owner, name, value)


if __name__ == "__main__":
    ALTERATIONS[os.environ[VARIABLE]]()
    from penstock.cli import main

    main()
