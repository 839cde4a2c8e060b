"""Writes that share commits: one that cannot be stored fails alone, and no tenant fills the queue."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from penstock import limits
from penstock.errors import InvalidInput, Overloaded
from penstock.storage.commit_log import CommitLog, Entry, Transaction
from penstock.storage.group_commit import GroupCommit, Write
from penstock.storage.isolation import Unstored, set_apart


@dataclass(frozen=True, slots=True)
class Item:
    tenant: str
    number: int
    poison: Exception | None = None


@dataclass(slots=True)
class Store:
    """Keeps what is stored, in order; knows no item that is poisoned."""

    stored: list[Item] = field(default_factory=list)
    tried: int = 0

    async def store(self, writes: Sequence[Write[Item]], transaction: Transaction) -> Entry | None:
        self.tried += 1
        for write in writes:
            if write.item.poison is not None:
                raise write.item.poison
        return Entry("feedback", rows=len(writes))

    async def landed(self, writes: Sequence[Write[Item]], commit: int, time: datetime) -> None:
        self.stored += [write.item for write in writes]


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
async def commits(
    commit_log: CommitLog, store: Store, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[GroupCommit[Item]]:
    monkeypatch.setattr(limits, "GROUP_ROWS_QUEUED_MAX", 40)
    made: GroupCommit[Item] = GroupCommit(commit_log, name="test", store=store.store, landed=store.landed)
    yield made
    await made.stop()


@pytest.mark.parametrize("poison", [RuntimeError("broken"), InvalidInput("bad", reason="INVALID_FIELD")])
async def test_a_poisoned_write_fails_alone(commits: GroupCommit[Item], store: Store, poison: Exception) -> None:
    items = [Item("ab"[n % 2], n, poison if n in (4, 10) else None) for n in range(14)]
    writing = [asyncio.create_task(commits.write(item, 1)) for item in items]
    await asyncio.sleep(0)
    commits.start()
    done = await asyncio.gather(*writing, return_exceptions=True)
    assert [n for n, each in enumerate(done) if each is poison] == [4, 10]
    assert all(isinstance(each, int) for n, each in enumerate(done) if n not in (4, 10))
    for tenant in "ab":
        assert [item.number for item in store.stored if item.tenant == tenant] == [
            item.number for item in items if item.tenant == tenant and item.poison is None
        ]
    assert commits.queued_rows == 0


async def test_a_tenant_does_not_fill_the_queue(commits: GroupCommit[Item]) -> None:
    writing = [asyncio.create_task(commits.write(Item("a", n), 10)) for n in range(5)]
    await asyncio.sleep(0)
    writing.append(asyncio.create_task(commits.write(Item("b", 0), 10)))
    await asyncio.sleep(0)
    commits.start()
    done = await asyncio.gather(*writing, return_exceptions=True)
    assert [type(each) for each in done] == [int, int, int, Overloaded, Overloaded, int]


@dataclass(slots=True)
class Sent:
    tenant: str
    poison: bool
    outcome: str = ""

    @property
    def answered(self) -> bool:
        return bool(self.outcome)


def committing(stored: list[Sent]) -> Callable[[Sequence[Sent]], Awaitable[None]]:
    async def commit(writes: Sequence[Sent]) -> None:
        if any(each.poison for each in writes):
            raise Unstored("poison")
        for each in writes:
            assert not each.answered
            each.outcome = "stored"
        stored.extend(writes)

    return commit


def refuse(writes: Sequence[Sent], error: Unstored) -> None:
    for each in writes:
        assert not each.answered
        each.outcome = "refused"


@hypothesis(max_examples=300)
@given(st.lists(st.builds(Sent, st.sampled_from("abc"), st.booleans()), max_size=20))
def test_whatever_is_poisoned_is_found(writes: list[Sent]) -> None:
    for each in writes:
        each.outcome = ""
    stored: list[Sent] = []
    asyncio.run(set_apart(writes, committing(stored), refuse))
    assert [each.outcome for each in writes] == ["refused" if each.poison else "stored" for each in writes]
    for tenant in "abc":
        assert [id(each) for each in stored if each.tenant == tenant] == [
            id(each) for each in writes if each.tenant == tenant and not each.poison
        ]


async def test_when_the_time_is_over_other_tenants_are_stored_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ISOLATION_S_MAX", -1.0)
    writes = [Sent("a", n == 3) for n in range(8)] + [Sent("b", False) for _ in range(8)]
    await set_apart(writes, committing([]), refuse)
    assert [each.outcome for each in writes] == ["refused"] * 8 + ["stored"] * 8
