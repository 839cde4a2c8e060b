"""A server of products with a protection taken out, or with rare things made frequent; as tests/faults/altered.py.

`PENSTOCK_TEST_ALTERATION=NAME python -m tests.faults.shop.altered serve …` is `penstock serve …`, altered.
"""

import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from tests.faults import altered
from tests.faults.altered import impatient, nothing, replace


class AlteredServer(altered.AlteredServer):
    """One that is altered here."""

    module = "tests.faults.shop.altered"


def small_steps() -> None:
    """The index takes over a few products at a time and is saved all the time; commits take a few writes."""
    from penstock import limits
    from penstock.storage import commit_log

    limits.INDEX_APPLY_PRODUCTS = 3
    limits.INDEX_ENCODE_PRODUCTS = 2
    limits.INDEX_TEND_S = 0.05
    limits.INDEX_SAVE_S = 0.0
    limits.GROUP_COMMIT_ROWS_MAX = 9
    limits.PRODUCTS_LOADED_ROWS = 7
    commit_log.CHECKPOINT_EVERY_COMMITS = 7


def acknowledge_before_log() -> None:
    """A commit of products or feedback is answered while its log row is still on the way."""
    from penstock.storage.commit_log import CommitLog

    append: Callable[..., Awaitable[None]] = CommitLog._append
    held: list[tuple[Any, ...]] = []

    async def lazy(self: CommitLog, *entry: Any) -> None:
        if entry[2].operation in ("catalogue", "feedback") and len(held) < 3:
            held.append(entry)
            self.head = entry[0]
            return
        for each in (*held, entry):
            await append(self, *each)
        held.clear()

    replace(CommitLog, "_append", lazy)


def keep_void_rows() -> None:
    """Rows of commits that were never logged stay."""
    from penstock.storage.commit_log import CommitLog

    async def keep(self: CommitLog, *_: Any) -> None:
        pass

    replace(CommitLog, "_remove", keep)


def forget_requests() -> None:
    """Feedback is stored as often as it comes."""
    from penstock.feedback.interactions import Interactions

    async def known(self: Interactions, writes: Sequence[Any]) -> set[tuple[str, str, str]]:
        return set()

    replace(Interactions, "_known", known)


def trust_the_snapshot() -> None:
    """A saved index is taken for what the catalogue is; only which products there are is compared."""
    from penstock.catalog.products import Catalogue

    async def changed_since(self: Catalogue, tenant: str, commit: int) -> set[str]:
        return set()

    replace(Catalogue, "changed_since", changed_since)


def do_not_look_at_the_snapshot() -> None:
    """Files of a saved index are not compared with what was written."""
    from penstock.search.index import snapshot

    replace(snapshot, "_check", lambda *_: None)


def label_too_new() -> None:
    """An index says that it has a commit of which it has only a part."""
    from penstock.search.index import IndexVersion, TenantIndex

    apply: Callable[..., IndexVersion] = TenantIndex.apply

    def labelled(self: TenantIndex, changes: Sequence[Any], commit: int) -> IndexVersion:
        return apply(self, changes[: max(1, len(changes) // 2)], commit)

    replace(TenantIndex, "apply", labelled)


def lose_sessions() -> None:
    """A session that Redis does not know is not made again."""
    from penstock.discovery import Discovery

    async def touches(self: Discovery, tenant: str, user_id: str) -> Sequence[Any]:
        return []

    replace(Discovery, "_touches", touches)


ALTERATIONS: dict[str, Callable[[], None]] = {
    each.__name__: each
    for each in (
        nothing, impatient, small_steps, acknowledge_before_log, keep_void_rows, forget_requests, trust_the_snapshot,
        do_not_look_at_the_snapshot, label_too_new, lose_sessions,
    )
}  # fmt: skip


if __name__ == "__main__":
    ALTERATIONS[os.environ[altered.VARIABLE]]()
    from penstock.cli import main

    main()
