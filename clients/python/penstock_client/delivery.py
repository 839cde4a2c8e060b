"""Delivers items at least once, over a stream whose requests are answered, and as many connections as it takes.

Requests are kept until they are answered; after a broken connection those that were not are sent again, in order. So
it is for what may be sent twice without harm.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, Protocol, TypeVar

import grpc

from penstock_client.backoff import Backoff
from penstock_client.connection import Connection, pause
from penstock_client.errors import Error, Overloaded, Unavailable, from_rpc
from penstock_client.loop_thread import SupportsAclose
from penstock_client.signal import Signal

# Unanswered requests: enough to hide the way to the server, few enough that what is kept for sending again stays small.
REQUESTS_OUT_MAX = 8
# Of a request: an eighth of what the server takes, since a message that is nearly too large helps nobody.
REQUEST_BYTES_MAX = 2 * 1024 * 1024
# More than the server itself waits for room in its queue and for its database; past it the connection is given up.
ANSWER_S_MAX = 90.0
# What gRPC itself says of a failed write, and how often to look whether it says by now what the server said.
FAILED_WRITE = "Internal error from Core"
STATUS_LOOKS = 100
STATUS_LOOK_S = 0.01


class Sized(Protocol):
    """A message."""

    def ByteSize(self) -> int:
        """Bytes, serialised."""
        ...


Item = TypeVar("Item", bound=Sized)
Request = TypeVar("Request")
Answer = TypeVar("Answer")
Given = TypeVar("Given")
Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Exchange(Generic[Item, Request, Answer]):
    """What is said on the stream."""

    start: Callable[[], Any]  # makes the call
    request: Callable[[Sequence[Item]], Request]
    answer: type[Answer]
    rows: int  # of a request, at most
    read_ahead: int  # items that are taken at once from an iterable that may block


async def deliver(
    connection: Connection,
    exchange: Exchange[Item, Request, Answer],
    items: Iterable[Item] | AsyncIterable[Item],
) -> AsyncGenerator[Answer]:
    """The answers, in the order of the requests, which are made of what items are there when one can be sent.

    Raises the Error that trying again does not help, any other once `retry_total_s` went by without an answer, and
    what `items` raises, when what came before is answered.
    """
    intake, unanswered = _Intake(items, exchange), deque[Request]()
    backoff = Backoff(connection.retry_total_s)
    try:
        while unanswered or await intake.more():
            call = exchange.start()
            ending = Ending(call)
            try:
                async with aclosing(_converse(call, exchange, intake, unanswered)) as answers:
                    async for answer in answers:
                        backoff.progressed()
                        yield answer
                continue
            except grpc.aio.AioRpcError:
                failure = await ending.error()
            except Error as error:
                failure = error
            except asyncio.CancelledError:
                if (closed := connection.closed_under()) is None:
                    raise  # whoever reads was cancelled; that is not the call's failure
                raise closed from None
            finally:
                call.cancel()
            if not isinstance(failure, Unavailable | Overloaded):
                raise failure
            await pause(backoff, failure)
    finally:
        await intake.close()
    if intake.error is not None:
        raise intake.error


async def _converse(
    call: Any, exchange: Exchange[Item, Request, Answer], intake: "_Intake[Item]", unanswered: deque[Request]
) -> AsyncGenerator[Answer]:
    """What is answered on one connection, until there is nothing more to send."""
    # What is broken is only read from: answers that came before it broke, and then why it did. They are iterated, since
    # `read` gives no answer of a call into which a write failed, and gRPC no status while answers are not read.
    sending, answers = True, aiter(call)
    for request in tuple(unanswered):
        sending = sending and await written(call, request)
    while unanswered or await intake.more():
        while sending and len(unanswered) < REQUESTS_OUT_MAX and intake.ready:
            unanswered.append(exchange.request(intake.take()))
            sending = await written(call, unanswered[-1])
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                answer = await anext(answers)
        except TimeoutError:
            raise Unavailable(f"the server did not answer for {ANSWER_S_MAX:.0f} s", reason="STALLED") from None
        except StopAsyncIteration:
            raise Unavailable("the server ended the stream", reason="STREAM_ENDED") from None
        assert isinstance(answer, exchange.answer)
        unanswered.popleft()
        yield answer
    if sending:
        await call.done_writing()


async def written(call: Any, request: object) -> bool:
    """Whether it went out: a write into a broken call fails with less to say than the read behind it."""
    try:
        await call.write(request)
    except (grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError):
        return False
    return True


class Ending:
    """What the server said as it ended a call.

    gRPC's Python makes an INTERNAL of its own of a write into a call that just ended. It may stand in place of what the
    server said, which then only a callback has seen; or it stands there first, and what the server said comes a few
    turns of the loop later, without a callback.
    """

    def __init__(self, call: Any) -> None:
        self._call = call
        self._said: Error | None = None
        call.add_done_callback(self._look)

    async def error(self) -> Error:
        """The error; when the server said nothing, that the connection was lost."""
        for _ in range(STATUS_LOOKS):
            self._look(self._call)
            if self._said is not None:
                return self._said
            await asyncio.sleep(STATUS_LOOK_S)
        return Unavailable("the connection was lost", reason="CONNECTION_LOST")

    def _look(self, call: Any) -> None:
        code, details = _at_once(call.code()), _at_once(call.details())
        if self._said is not None or details == FAILED_WRITE:
            return
        if code is grpc.StatusCode.OK:
            self._said = Unavailable("the server ended the stream", reason="STREAM_ENDED")
        else:
            trailing = _at_once(call.trailing_metadata()) or grpc.aio.Metadata()
            self._said = from_rpc(grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, details))


def _at_once(answer: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine returns that has nothing to wait for, as those of a call that ended."""
    try:
        answer.send(None)
    except StopIteration as returned:
        return returned.value
    answer.close()
    raise AssertionError("a call that ended does not know how")


class _Intake(Generic[Item]):
    """Reads the caller's items ahead, at most as many as two requests hold."""

    def __init__(self, items: Iterable[Item] | AsyncIterable[Item], exchange: Exchange[Item, Request, Answer]) -> None:
        self.ready: deque[Item] = deque()
        self.error: Exception | None = None
        self._rows = exchange.rows
        self._ended = False
        self._signal = Signal()
        chunks = _singly(items) if isinstance(items, AsyncIterable) else _chunks(items, exchange.read_ahead)
        self._reading = asyncio.create_task(self._read(chunks))

    def take(self) -> Sequence[Item]:
        """As much of what is ready as one request may hold, at least one."""
        taken = [self.ready.popleft()]
        size = taken[0].ByteSize()
        while self.ready and len(taken) < self._rows and size + self.ready[0].ByteSize() <= REQUEST_BYTES_MAX:
            size += self.ready[0].ByteSize()
            taken.append(self.ready.popleft())
        self._signal.tell()
        return taken

    async def more(self) -> bool:
        """Waits for an item; False when there are no more."""
        await self._signal.until(lambda: self.ready or self._ended)
        return bool(self.ready)

    async def close(self) -> None:
        """Reads no further."""
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self, chunks: AsyncGenerator[Sequence[Item]]) -> None:
        try:
            async with aclosing(chunks):
                async for chunk in chunks:
                    self.ready.extend(chunk)
                    self._signal.tell()
                    await self._signal.until(lambda: len(self.ready) < self._rows)
        except Exception as error:
            self.error = error
        finally:
            self._ended = True
            self._signal.tell()


async def converted(items: AsyncIterable[Given], convert: Callable[[Given], Made]) -> AsyncGenerator[Made]:
    """Each item converted; a generator of items is closed with this one, as nobody else can go on with it."""
    try:
        async for item in items:
            yield convert(item)
    finally:
        if isinstance(items, SupportsAclose):
            await items.aclose()


def _singly(items: AsyncIterable[Item]) -> AsyncGenerator[Sequence[Item]]:
    return converted(items, lambda item: (item,))


async def _chunks(items: Iterable[Item], count: int) -> AsyncGenerator[Sequence[Item]]:
    iterator = iter(items)
    while chunk := await asyncio.to_thread(_some, iterator, count):
        yield chunk


def _some(iterator: Iterator[Item], count: int) -> Sequence[Item]:
    return tuple(islice(iterator, count))
