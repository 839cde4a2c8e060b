"""One thread that encodes for all: what queued up while it was busy goes together, queries before documents.

A query waits for what runs when it comes, which is one batch of queries or one chunk of documents, and for the queries
before it. Documents wait for queries, but not for ever: after `TURN_BATCHES` batches of queries they have a turn.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from penstock.errors import Overloaded, PenstockError, TooCostly, Unavailable
from penstock.search.encoding.encoder import Encoder, Vectors
from penstock.search.encoding.tokens import groups
from penstock.storage.shares import Shares

Vector = npt.NDArray[np.float32]
_Asked: TypeAlias = tuple[str, str]  # a tenant, and the text of its query

# Each bound is of a tenant that is alone; beside others it has less, and all together have twice as much at most.
QUERIES_QUEUED_MAX = 256  # different ones; the last of them waits half a second
QUERY_BATCH_MAX = 16  # takes 28 ms on one thread; more would hardly be faster for each (1.75 to 1.3 ms)
RECENT_QUERIES_MAX = 1_024  # kept with their vectors, 2 kB each
RECENT_CHARS_MAX = 512  # a longer query is not kept: it is hardly asked twice, and takes room of many
DOCUMENTS_QUEUED_MAX = 16_384  # of all calls together, likewise; some two minutes
# Documents × the longest of them in one chunk, about 64 tokens: 12 ms on one thread. Chunks of 512 took 23 ms, and 7 %
# less CPU time for each document. A document that is longer by itself is a chunk, too, of 45 ms at most.
CHUNK_CHARS_MAX = 256
TURN_BATCHES = 8


@dataclass(slots=True)
class Totals:
    """What was done since the start."""

    queries: int = 0
    recent: int = 0  # of them, answered without encoding
    joined: int = 0  # of them, that waited for the same query of another caller
    batches: int = 0
    documents: int = 0


@dataclass(slots=True)
class _Query:
    """A query that is to be encoded, and how many callers wait for it."""

    done: asyncio.Future[Vector]
    callers: int = 0


@dataclass(slots=True, eq=False)
class _Documents:
    """A call of `encode_many`, a chunk at a time."""

    texts: Sequence[str]
    chunks: deque[list[int]]  # positions of those that are still to be encoded
    found: Vectors
    done: asyncio.Future[Vectors]


class QueryEncoder:
    """An encoder for the event loop it is first used on. Close it at the end; the encoder itself needs no closing."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="encoder")
        self._queued: dict[_Asked, _Query] = {}  # in their order
        self._running: dict[_Asked, _Query] = {}
        self._recent: OrderedDict[_Asked, Vector] = OrderedDict()
        self._query_room = Shares(2 * QUERIES_QUEUED_MAX, QUERIES_QUEUED_MAX)
        self._documents: deque[_Documents] = deque()
        self._documents_queued = 0
        self._document_room = Shares(2 * DOCUMENTS_QUEUED_MAX, DOCUMENTS_QUEUED_MAX)
        self._since_turn = 0
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self.totals = Totals()

    @property
    def name(self) -> str:
        """The encoder's name, which identifies the vectors."""
        return self._encoder.name

    @property
    def dimensions(self) -> int:
        """How many numbers a vector has."""
        return self._encoder.dimensions

    @property
    def queued_queries(self) -> int:
        """Different queries that wait, those that are being encoded apart."""
        return len(self._queued)

    @property
    def queued_documents(self) -> int:
        """Documents of all calls that wait or are being encoded."""
        return self._documents_queued

    async def encode(self, text: str, tenant: str = "") -> Vector:
        """The query's vector, (dimensions,), of length 1, not to be written to.

        Equal queries of one tenant at the same time are encoded once; of two tenants not, or the time it takes would
        tell one what the other looked for. Raises Overloaded with `QUERIES_QUEUED_MAX` others of the tenant before
        it, or fewer beside those of other tenants, Unavailable once closed, and what the encoder raises.
        """
        self._check_open()
        self.totals.queries += 1
        asked = (tenant, text)
        if (recent := self._recent.get(asked)) is not None:
            self._recent.move_to_end(asked)
            self.totals.recent += 1
            return recent
        query = self._running.get(asked) or self._queued.get(asked)
        if query is None:
            query = self._enqueue(asked)
        else:
            self.totals.joined += 1
        query.callers += 1
        try:
            return await asyncio.shield(query.done)
        finally:
            query.callers -= 1
            if not query.callers and self._queued.get(asked) is query:
                self._dequeue(asked)  # its callers were cancelled before its turn

    async def encode_many(self, texts: Sequence[str], tenant: str = "") -> Vectors:
        """The documents' vectors, a row each, in their order; calls at the same time take turns by chunks.

        Raises Overloaded while other calls leave no room for so many, TooCostly for more than `DOCUMENTS_QUEUED_MAX`,
        Unavailable once closed, and what the encoder raises.
        """
        self._check_open()
        if len(texts) > DOCUMENTS_QUEUED_MAX:
            raise TooCostly(f"{DOCUMENTS_QUEUED_MAX:,} documents at a time are the most", reason="TOO_MANY_DOCUMENTS")
        found = np.empty((len(texts), self._encoder.dimensions), dtype=np.float32)
        if not texts:
            return found
        if not self._document_room.take(tenant, len(texts)):
            raise Overloaded("too many documents wait to be encoded", reason="OVERLOADED", retry_after_s=1.0)
        chunks = deque(groups([len(text) for text in texts], CHUNK_CHARS_MAX))
        call = _Documents(tuple(texts), chunks, found, asyncio.get_running_loop().create_future())
        self._documents.append(call)
        self._documents_queued += len(texts)
        self._wake()
        try:
            return await call.done
        finally:
            self._documents_queued -= len(texts)
            self._document_room.give_back(tenant, len(texts))
            if call in self._documents:
                self._documents.remove(call)

    async def close(self) -> None:
        """What waits is told Unavailable; ends with the batch or chunk that runs, whose callers still get it."""
        self._closed = True
        for asked in [*self._queued]:
            _fail(self._dequeue(asked).done, _closing())
        for call in self._documents:
            _fail(call.done, _closing())
        self._documents.clear()
        if self._task is not None:
            await asyncio.wait({self._task})
        await asyncio.to_thread(self._thread.shutdown)

    def _check_open(self) -> None:
        if self._closed:
            raise _closing()

    def _enqueue(self, asked: _Asked) -> _Query:
        if not self._query_room.take(asked[0]):
            raise Overloaded("too many queries wait to be encoded", reason="OVERLOADED", retry_after_s=1.0)
        query = _Query(asyncio.get_running_loop().create_future())
        self._queued[asked] = query
        self._wake()
        return query

    def _dequeue(self, asked: _Asked) -> _Query:
        self._query_room.give_back(asked[0])
        return self._queued.pop(asked)

    def _wake(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="encoder")

    async def _run(self) -> None:
        while self._queued or self._documents:
            if self._queued and not (self._documents and self._since_turn >= TURN_BATCHES):
                self._since_turn = self._since_turn + 1 if self._documents else 0
                await self._run_queries()
            else:
                self._since_turn = 0
                await self._run_chunk(self._documents.popleft())

    async def _run_queries(self) -> None:
        taken = list(self._queued)[:QUERY_BATCH_MAX]
        self._running = {asked: self._dequeue(asked) for asked in taken}
        try:
            vectors = await self._encoded([text for _, text in taken])
            self.totals.batches += 1
            for asked, vector in zip(taken, vectors, strict=True):
                self._settle(asked, self._running[asked], vector.copy())  # a view would keep the whole batch
        except Exception as error:
            for query in self._running.values():
                _fail(query.done, error)
        finally:
            self._running = {}

    def _settle(self, asked: _Asked, query: _Query, vector: Vector) -> None:
        vector.setflags(write=False)  # callers share it
        if len(asked[1]) <= RECENT_CHARS_MAX:
            self._recent[asked] = vector
            if len(self._recent) > RECENT_QUERIES_MAX:
                self._recent.popitem(last=False)
        query.done.set_result(vector)

    async def _run_chunk(self, call: _Documents) -> None:
        chunk = call.chunks.popleft()
        try:
            call.found[chunk] = await self._encoded([call.texts[row] for row in chunk])
        except Exception as error:
            _fail(call.done, error)
            return
        self.totals.documents += len(chunk)
        if call.done.done():  # its caller was cancelled meanwhile
            return
        if not call.chunks:
            call.done.set_result(call.found)
        elif self._closed:
            _fail(call.done, _closing())
        else:
            self._documents.append(call)

    async def _encoded(self, texts: Sequence[str]) -> Vectors:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._encoder.encode, texts)


def _fail(done: asyncio.Future[Vector], error: Exception) -> None:
    if not done.done():
        done.set_exception(error)
        done.exception()  # seen, should nobody wait for it any more


def _closing() -> PenstockError:
    return Unavailable("the server is shutting down", reason="SHUTTING_DOWN", retry_after_s=1.0)
