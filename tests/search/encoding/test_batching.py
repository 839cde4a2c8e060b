"""The one thread that encodes for all: what goes together, what goes first, and what becomes of calls."""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence

import numpy as np
import pytest

from penstock.errors import Overloaded, TooCostly, Unavailable
from penstock.search.encoding import Encoder, QueryEncoder, Vectors, batching
from tests.waiting import until

LONG = "d" * batching.CHUNK_CHARS_MAX  # a document that is a chunk of its own


class Gated:
    """The real encoder behind a gate: a call waits in it until it is let through. Notes what was encoded together."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._gate = threading.Semaphore(0)
        self.name = encoder.name
        self.dimensions = encoder.dimensions
        self.calls: list[list[str]] = []
        self.entered = threading.Semaphore(0)
        self.error: Exception | None = None

    def let(self, calls: int) -> None:
        """Lets so many calls through, now or when they come."""
        self._gate.release(calls)

    async def busy(self) -> None:
        """Waits until one more call is at the gate."""
        assert await asyncio.to_thread(self.entered.acquire, timeout=30)

    def encode(self, texts: Sequence[str]) -> Vectors:
        self.calls.append(list(texts))
        self.entered.release()
        assert self._gate.acquire(timeout=60)
        if self.error is not None:
            raise self.error
        return self._encoder.encode(texts)


@pytest.fixture
def gated(minilm: Encoder) -> Gated:
    return Gated(minilm)


@pytest.fixture
async def queries(gated: Gated) -> AsyncIterator[QueryEncoder]:
    opened = QueryEncoder(gated)
    yield opened
    gated.let(10_000)
    await opened.close()


@pytest.fixture
async def free(minilm: Encoder) -> AsyncIterator[QueryEncoder]:
    """Without a gate."""
    opened = QueryEncoder(minilm)
    yield opened
    await opened.close()


async def test_a_query_has_the_encoders_vector(free: QueryEncoder, minilm: Encoder) -> None:
    texts = ["sofa", "", "a lamp with three legs", "x" * 10_000]
    found = await asyncio.gather(*map(free.encode, texts))
    assert np.allclose(found, minilm.encode(texts), atol=1e-5)
    assert (free.name, free.dimensions) == (minilm.name, minilm.dimensions)
    assert not found[0].flags.writeable  # it is shared


async def test_what_queues_up_meanwhile_goes_together(queries: QueryEncoder, gated: Gated) -> None:
    first = asyncio.create_task(queries.encode("first"))
    await gated.busy()
    later = [asyncio.create_task(queries.encode(f"later {number}")) for number in range(batching.QUERY_BATCH_MAX + 1)]
    await until(lambda: queries.queued_queries == len(later))
    gated.let(3)
    await asyncio.gather(first, *later)
    assert [len(call) for call in gated.calls] == [1, batching.QUERY_BATCH_MAX, 1]
    assert queries.totals.batches == 3


async def test_equal_queries_are_encoded_once(queries: QueryEncoder, gated: Gated) -> None:
    before = [asyncio.create_task(queries.encode("sofa")) for _ in range(3)]
    await gated.busy()
    while_running = asyncio.create_task(queries.encode("sofa"))
    await until(lambda: queries.totals.joined == 3)
    gated.let(1)
    await asyncio.gather(*before, while_running)
    await queries.encode("sofa")
    assert gated.calls == [["sofa"]]
    assert queries.totals.recent == 1
    assert queries.totals.queries == 5


async def test_recent_queries_are_bounded_and_the_oldest_goes(
    free: QueryEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "RECENT_QUERIES_MAX", 2)
    for text in ("a", "b", "a", "c", "a"):
        await free.encode(text)
    assert (free.totals.recent, free.totals.batches) == (2, 3)
    await free.encode("b")
    assert (free.totals.recent, free.totals.batches) == (2, 4)


async def test_long_queries_are_not_kept(free: QueryEncoder) -> None:
    for _ in range(2):
        await free.encode("x" * (batching.RECENT_CHARS_MAX + 1))
    assert free.totals.recent == 0
    assert free.totals.batches == 2


async def test_a_full_queue_says_so(queries: QueryEncoder, gated: Gated) -> None:
    running = asyncio.create_task(queries.encode("running"))
    await gated.busy()
    waiting = [asyncio.create_task(queries.encode(str(number))) for number in range(batching.QUERIES_QUEUED_MAX)]
    await until(lambda: queries.queued_queries == batching.QUERIES_QUEUED_MAX)
    with pytest.raises(Overloaded) as caught:
        await queries.encode("one more")
    assert (caught.value.reason, caught.value.retry_after_s) == ("OVERLOADED", 1.0)
    joined = asyncio.create_task(queries.encode("7"))  # takes no room
    gated.let(1_000)
    await asyncio.gather(running, joined, *waiting)


async def test_cancelled_queries_are_dropped(queries: QueryEncoder, gated: Gated) -> None:
    running = asyncio.create_task(queries.encode("running"))
    await gated.busy()
    gone = asyncio.create_task(queries.encode("gone"))
    shared = [asyncio.create_task(queries.encode("shared")) for _ in range(2)]
    await until(lambda: queries.queued_queries == 2 and queries.totals.joined == 1)
    gone.cancel()
    shared[0].cancel()
    running.cancel()
    await asyncio.gather(running, gone, shared[0], return_exceptions=True)
    assert queries.queued_queries == 1
    gated.let(2)
    assert (await shared[1]).shape == (384,)
    assert gated.calls == [["running"], ["shared"]]


async def test_errors_come_to_those_who_asked_and_pass(queries: QueryEncoder, gated: Gated) -> None:
    gated.let(10)
    gated.error = RuntimeError("no memory")
    failed = await asyncio.gather(
        queries.encode("sofa"), queries.encode("lamp"), queries.encode_many(["a", "b"]), return_exceptions=True
    )
    assert [str(each) for each in failed] == ["no memory"] * 3
    gated.error = None
    assert (await queries.encode("sofa")).shape == (384,)
    assert (await queries.encode_many(["a", "b"])).shape == (2, 384)
    assert queries.queued_documents == 0


async def test_documents_have_the_encoders_vectors(free: QueryEncoder, minilm: Encoder) -> None:
    texts = [word * count for count in (1, 40, 7, 300) for word in ("lamp ", "Ölbild ", "")]
    assert np.allclose(await free.encode_many(texts), minilm.encode(texts), atol=1e-5)
    assert (await free.encode_many([])).shape == (0, 384)
    assert free.totals.documents == len(texts)
    assert free.queued_documents == 0


async def test_chunks_of_documents_are_of_like_length_and_bounded(queries: QueryEncoder, gated: Gated) -> None:
    gated.let(1_000)
    texts = ["x" * (number * 37 % 700) for number in range(100)]
    await queries.encode_many(texts)
    assert sorted(text for call in gated.calls for text in call) == sorted(texts)
    for call in gated.calls:
        assert len(call) == 1 or len(call) * max(map(len, call)) <= batching.CHUNK_CHARS_MAX
    lengths = [len(text) for call in gated.calls for text in call]
    assert lengths == sorted(lengths)


async def test_a_query_waits_for_one_chunk_at_most(queries: QueryEncoder, gated: Gated) -> None:
    documents = asyncio.create_task(queries.encode_many([LONG] * 5))
    await gated.busy()
    query = asyncio.create_task(queries.encode("sofa"))
    await until(lambda: queries.queued_queries == 1)
    gated.let(2)
    await query
    assert gated.calls[:2] == [[LONG], ["sofa"]]
    gated.let(4)
    assert (await documents).shape == (5, 384)


async def test_queries_do_not_starve_documents(queries: QueryEncoder, gated: Gated) -> None:
    running = asyncio.create_task(queries.encode("running"))
    await gated.busy()
    documents = asyncio.create_task(queries.encode_many([LONG]))
    await until(lambda: queries.queued_documents == 1)
    count = batching.QUERY_BATCH_MAX * (batching.TURN_BATCHES + 2)
    waiting = [asyncio.create_task(queries.encode(str(number))) for number in range(count)]
    await until(lambda: queries.queued_queries == count)
    gated.let(1_000)
    await asyncio.gather(running, documents, *waiting)
    assert gated.calls.index([LONG]) == 1 + batching.TURN_BATCHES


async def test_calls_for_documents_take_turns(queries: QueryEncoder, gated: Gated) -> None:
    large = asyncio.create_task(queries.encode_many([LONG] * 20))
    await gated.busy()
    small = asyncio.create_task(queries.encode_many(["one changed product"]))
    await until(lambda: queries.queued_documents == 21)
    gated.let(2)
    await small
    assert not large.done()
    gated.let(100)
    await large
    assert gated.calls[1] == ["one changed product"]


async def test_cancelled_documents_are_dropped(queries: QueryEncoder, gated: Gated) -> None:
    running = asyncio.create_task(queries.encode_many([LONG] * 5))
    await gated.busy()
    waiting = asyncio.create_task(queries.encode_many(["gone"]))
    await until(lambda: queries.queued_documents == 6)
    running.cancel()
    waiting.cancel()
    await asyncio.gather(running, waiting, return_exceptions=True)
    assert queries.queued_documents == 0
    gated.let(3)
    await queries.encode("sofa")
    await queries.encode_many(["kept"])
    assert gated.calls == [[LONG], ["sofa"], ["kept"]]


async def test_documents_are_bounded(queries: QueryEncoder, gated: Gated) -> None:
    with pytest.raises(TooCostly):
        await queries.encode_many(["x"] * (batching.DOCUMENTS_QUEUED_MAX + 1))
    first = asyncio.create_task(queries.encode_many(["x"] * (batching.DOCUMENTS_QUEUED_MAX - 1)))
    await gated.busy()
    with pytest.raises(Overloaded):
        await queries.encode_many(["x", "x"])
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    gated.let(10)
    assert (await queries.encode_many(["x", "x"])).shape == (2, 384)


async def test_close_tells_those_who_wait_and_answers_those_who_run(minilm: Encoder) -> None:
    gated = Gated(minilm)
    queries = QueryEncoder(gated)
    running = asyncio.create_task(queries.encode("running"))
    await gated.busy()
    waiting = [asyncio.create_task(queries.encode("waiting")), asyncio.create_task(queries.encode_many([LONG]))]
    await until(lambda: queries.queued_queries == 1 and queries.queued_documents == 1)
    closing = asyncio.create_task(queries.close())
    for each in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(each, Unavailable)
        assert each.reason == "SHUTTING_DOWN"
    gated.let(1)
    await closing
    assert (await running).shape == (384,)
    assert gated.calls == [["running"]]
    with pytest.raises(Unavailable):
        await queries.encode("running")  # even one that is known
    with pytest.raises(Unavailable):
        await queries.encode_many(["x"])
    await queries.close()


async def test_close_ends_documents_after_their_chunk(minilm: Encoder) -> None:
    gated = Gated(minilm)
    queries = QueryEncoder(gated)
    documents = asyncio.create_task(queries.encode_many([LONG] * 3))
    await gated.busy()
    closing = asyncio.create_task(queries.close())
    await until(lambda: queries._closed)
    gated.let(1)
    await closing
    with pytest.raises(Unavailable):
        await documents
    assert len(gated.calls) == 1


async def test_tenants_share_neither_the_queue_nor_what_was_encoded(queries: QueryEncoder, gated: Gated) -> None:
    running = asyncio.create_task(queries.encode("running", "a"))
    await gated.busy()
    waiting = [asyncio.create_task(queries.encode(str(n), "a")) for n in range(batching.QUERIES_QUEUED_MAX)]
    await until(lambda: queries.queued_queries == batching.QUERIES_QUEUED_MAX)
    with pytest.raises(Overloaded):
        await queries.encode("one more", "a")
    others = asyncio.create_task(queries.encode("7", "b"))
    await until(lambda: queries.queued_queries == batching.QUERIES_QUEUED_MAX + 1)
    gated.let(1_000)
    await asyncio.gather(running, others, *waiting)
    before = queries.totals.recent
    await queries.encode("running", "b")
    assert queries.totals.recent == before
    await queries.encode("running", "a")
    assert queries.totals.recent == before + 1
