"""One channel to a server, and the calls over it."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import grpc

from penstock_client.backoff import Backoff
from penstock_client.errors import Error, Overloaded, Unavailable, from_rpc, from_status

MESSAGE_BYTES_MAX = 16 * 1024 * 1024  # as the server's bound
# A dead peer is noticed within 40 s. The server allows pings this often; fewer than its bound, or it hangs up.
KEEPALIVE_TIME_MS = 30_000
KEEPALIVE_TIMEOUT_MS = 10_000

OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.http2.max_pings_without_data", 0),
    # gRPC's own waits between attempts to connect; ours come on top of them.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # How long an attempt may take, too: a busy server needs more than a moment for the handshake.
    ("grpc.min_reconnect_backoff_ms", 2_000),
    # Clients in one process that talk to one server get a connection each: streams do not share a window.
    ("grpc.use_local_subchannel_pool", 1),
)

T = TypeVar("T")
Frame = TypeVar("Frame")


class Connection:
    """A channel, opened with the first call, on the event loop of that call."""

    def __init__(
        self,
        target: str,
        *,
        api_key: str | None,
        tls: bool | grpc.ChannelCredentials,
        timeout_s: float,
        retry_total_s: float,
        options: tuple[tuple[str, int | str], ...] = (),
    ) -> None:
        self.target = target
        self.timeout_s = timeout_s
        self.retry_total_s = retry_total_s
        self.credential: str | None = None
        self.use(api_key)
        self._background: set[asyncio.Task[None]] = set()
        self._credentials = grpc.ssl_channel_credentials() if tls is True else tls
        self._options = (*OPTIONS, *options)
        self._channel: grpc.aio.Channel | None = None
        self._closed = False

    @property
    def channel(self) -> grpc.aio.Channel:
        """The channel itself. Raises RuntimeError once closed."""
        if self._closed:
            raise RuntimeError("the client is closed")
        if self._channel is None:
            self._channel = (
                grpc.aio.secure_channel(self.target, self._credentials, options=self._options)
                if self._credentials
                else grpc.aio.insecure_channel(self.target, options=self._options)
            )
        return self._channel

    def use(self, credential: str | None) -> None:
        """Has every call from now on bring this credential; None or empty for none.

        Raises ValueError for what no header can hold, such as a line's end.
        """
        if credential and not (credential.isascii() and credential.isprintable() and " " not in credential):
            raise ValueError("a credential is one word of printable ASCII; is there more where it comes from?")
        self.credential = credential

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with every call."""
        return (("authorization", f"Bearer {self.credential}"),) if self.credential else ()

    def in_background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs something beside the calls, until it is done or the connection is closed."""
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    async def call(
        self, method: Callable[..., Awaitable[Any]], request: object, answer: type[T], timeout_s: float | None = None
    ) -> T:
        """One unary call. Raises the Error it ends with."""
        try:
            response = await method(request, timeout=timeout_s or self.timeout_s, metadata=self.metadata)
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error) from None
        assert isinstance(response, answer)
        return response

    async def read(
        self, method: Callable[..., Awaitable[Any]], request: object, answer: type[T], timeout_s: float | None = None
    ) -> T:
        """One unary call that may be made twice, and so is tried again while the server is away, within its timeout."""
        timeout_s = timeout_s or self.timeout_s
        backoff, deadline = Backoff(timeout_s), time.monotonic() + timeout_s
        while True:
            try:
                return await self.call(method, request, answer, max(deadline - time.monotonic(), 0.1))
            except (Unavailable, Overloaded) as error:
                await pause(backoff, error)

    async def follow(self, start: Callable[[], Any], frame: type[Frame]) -> AsyncIterator[Frame]:
        """The frames of a server stream that is started again whenever the connection breaks or the server ends it.

        `start` makes the call, and so decides where to go on. Raises the Error of an `error` frame that trying again
        does not help, and any other once `retry_total_s` went by without a frame.
        """
        backoff = Backoff(self.retry_total_s)
        while True:
            call = start()
            try:
                async for each in call:
                    assert isinstance(each, frame)
                    kind = each.WhichOneof("frame")  # type: ignore[attr-defined]
                    if kind == "error":
                        raise from_status(each.error)  # type: ignore[attr-defined]
                    if kind == "end":
                        break
                    backoff.progressed()
                    yield each
                failure: Error = Unavailable("the server ended the stream", reason="STREAM_ENDED")
            except grpc.aio.AioRpcError as error:
                failure = from_rpc(error)
            except Error as error:
                failure = error
            except asyncio.CancelledError:
                if (closed := self.closed_under()) is None:
                    raise  # whoever reads was cancelled; that is not the call's failure
                raise closed from None
            finally:
                call.cancel()
            if not isinstance(failure, Unavailable | Overloaded):
                raise failure
            await pause(backoff, failure)

    def closed_under(self) -> Unavailable | None:
        """What a call failed with that ended as cancelled; None where its task was, and not the client closed."""
        task = asyncio.current_task()
        if not self._closed or (task is not None and task.cancelling()):
            return None
        return Unavailable("the client was closed", reason="CLIENT_CLOSED")

    async def close(self) -> None:
        """Ends the channel and every call on it."""
        self._closed = True
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        if self._channel is not None:
            await self._channel.close()
            self._channel = None


async def pause(backoff: Backoff, error: Error) -> None:
    """Waits before the next try; raises `error` when the bound is passed."""
    import asyncio

    wait = backoff.next_s(error.retry_after_s)
    if wait is None:
        raise error
    await asyncio.sleep(wait)
