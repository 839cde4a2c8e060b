"""A few connections to one Redis, lent to one exchange at a time.

They are the library's; its pools are not used, because a task that is cancelled while it gives a connection back to one
of them takes the connection's place with it. Here giving back is one synchronous step.
"""

import asyncio
from collections.abc import Sequence
from typing import TypeAlias

from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from penstock.storage.deadline import detached

Argument: TypeAlias = bytes | str | int
Reply: TypeAlias = bytes | int | list[bytes | int | None] | None  # scripts answer no deeper lists

CONNECTIONS_MAX = 8  # exchanges under way at once; Redis works on one of them at a time, two keep it busy
CONNECT_S_MAX = 1.0


class Connections:
    """At most CONNECTIONS_MAX connections, made when they are needed; the one used last is lent first."""

    def __init__(self, url: str) -> None:
        """`url`: `redis://`, `rediss://` or `unix://`. Raises ValueError for another one."""
        self._pool: ConnectionPool = ConnectionPool.from_url(
            url,
            protocol=2,  # the same replies of every version, and no round trip to agree on one
            socket_timeout=None,  # the caller bounds the whole of an exchange
            socket_connect_timeout=CONNECT_S_MAX,
            retry=Retry(NoBackoff(), 0),
            driver_info=None,  # or each connection tells of itself by a command that Redis before 7.2 refuses
        )
        self._places = asyncio.Semaphore(CONNECTIONS_MAX)
        self._idle: list[AbstractConnection] = []
        self._generation = 0
        self._closing: set[asyncio.Task[None]] = set()  # the loop itself holds tasks only weakly

    async def lend(self) -> None:
        """Waits for a place; give it back with `take_back`."""
        await self._places.acquire()

    def take_back(self) -> None:
        """Frees a place."""
        self._places.release()

    async def exchange(self, commands: Sequence[Sequence[Argument]]) -> list[Reply | ResponseError]:
        """Sends commands in one go and reads their replies; an error reply stands in the place of its reply.

        Call it between `lend` and `take_back`. Raises RedisError or OSError when Redis cannot be reached, and whatever
        cancels it; the connection is then closed, because the rest of the replies may still come.
        """
        generation = self._generation
        connection = self._idle.pop() if self._idle else self._made()
        try:
            if not connection.is_connected:
                await connection.connect()  # type: ignore[no-untyped-call]
            await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
            replies: list[Reply | ResponseError] = []
            for _ in commands:
                try:
                    replies.append(await connection.read_response())
                except ResponseError as error:
                    replies.append(error)
        except BaseException:
            self._close(connection)
            raise
        if generation == self._generation:
            self._idle.append(connection)
        else:
            self._close(connection)
        return replies

    def drop(self) -> None:
        """Closes those that are idle, and those that are lent when they come back: the Redis behind them is gone."""
        self._generation += 1
        while self._idle:
            self._close(self._idle.pop())

    async def close(self) -> None:
        """Closes all, and waits until they are closed."""
        self.drop()
        if self._closing:
            await asyncio.wait(self._closing)

    def _made(self) -> AbstractConnection:
        connection: AbstractConnection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        return connection

    def _close(self, connection: AbstractConnection) -> None:
        task = detached(_closed(connection))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


async def _closed(connection: AbstractConnection) -> None:
    try:
        await connection.disconnect(nowait=True)
    except (RedisError, OSError):
        return  # it is closed on our side
