"""Redis, which may be away: a call is answered within CALL_S_MAX, by Redis or by ABSENT, and never raises for Redis.

The first call that fails opens a circuit breaker: the calls after it are ABSENT at once, while a task in the background
looks whether Redis answers again, and quickly enough. So Redis that was never there, was killed, hangs or is restarted
costs one call at most CALL_S_MAX, and nothing has to be started anew when it is back.

ABSENT of a script that changes something means that nobody knows whether it was run. Scripts must be such that running
them again changes nothing.
"""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from enum import Enum
from types import TracebackType
from typing import Final, Self
from urllib.parse import quote

import structlog
from redis.exceptions import NoScriptError, RedisError, ResponseError

from penstock.cache.connections import Argument, Connections, Reply
from penstock.cache.embedded import MEMORY_BYTES, EmbeddedRedis

log = structlog.get_logger()

EMBEDDED = "embedded"
CALL_S_MAX = 0.05  # a cache that takes longer than what it saves is none; on a socket of this machine it takes 0.0002
START_S_MAX = 0.5  # entering waits so long for Redis, so that a server starts with what it has
PROBE_S_MIN = 0.02  # wait after the first look that found it away, doubled with each
PROBE_S_MAX = 1.0
PROBE_CONNECT_S_MAX = 1.0  # a look may take longer than a call, to connect
# Sent in one go. Their answers must come within CALL_S_MAX all together: 64 scripts of 200 arguments took 43 ms on a
# machine six times overloaded.
PIPELINE_CALLS_MAX = 64
PIPELINE_ARGUMENTS_MAX = 2_000


class Absent(Enum):
    """The type of ABSENT, so that a type checker tells it from a reply."""

    ABSENT = "ABSENT"


ABSENT: Final = Absent.ABSENT


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script: atomic, and one round trip."""

    source: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        # The name under which Redis knows it; no secret rests on it.
        object.__setattr__(self, "sha", hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest())


@dataclass(frozen=True, slots=True)
class Call:
    """One run of a script."""

    keys: Sequence[str]
    arguments: Sequence[Argument]


@dataclass(frozen=True, slots=True)
class Counters:
    """What became of calls since the start."""

    answered: int = 0
    absent: int = 0  # all that were not answered: skipped, late, refused, or failed
    skipped: int = 0  # the breaker was open
    late: int = 0  # no answer within CALL_S_MAX
    refused: int = 0  # Redis answered with an error: a script is wrong, or its memory is full
    recoveries: int = 0


class Redis:
    """One Redis, for all of a server. `async with Redis(url) as redis`, in the loop that uses it."""

    def __init__(self, url: str, *, shared: bool = True, call_s_max: float = CALL_S_MAX) -> None:
        """`url`: `redis://`, `rediss://`, `unix://`, or empty for none: then every call is ABSENT.

        `shared` is whether other servers may use it too; `call_s_max` what a call may take, all in all. Raises
        ValueError for a URL that is none of these.
        """
        self.shared = shared and bool(url)
        self._connections = Connections(url) if url else None
        self._call_s_max = call_s_max
        self._callbacks: list[Callable[[], None]] = []
        self._probing: asyncio.Task[None] | None = None
        self._open = False  # whether calls are let through
        self._falls = 0
        self._last_error = "" if url else "no Redis is configured"
        self._counters = Counters()

    @property
    def configured(self) -> bool:
        """Whether there is a Redis to ask at all."""
        return self._connections is not None

    @property
    def available(self) -> bool:
        """Whether it answered last; calls are skipped while it does not."""
        return self._open

    @property
    def last_error(self) -> str:
        """What was wrong last; empty when nothing ever was. Holds no credentials."""
        return self._last_error

    @property
    def counters(self) -> Counters:
        """What became of calls so far."""
        return self._counters

    def on_recovered(self, callback: Callable[[], None]) -> None:
        """Has `callback` called when Redis is there, at first and each time again, before calls are let through."""
        self._callbacks.append(callback)

    async def __aenter__(self) -> Self:
        """Looks for Redis, at most START_S_MAX; goes on looking when it is not there."""
        if self._connections is not None:
            self._probing = asyncio.create_task(self._probe(self._connections), name="redis-probe")
            await asyncio.wait({self._probing}, timeout=START_S_MAX)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes its connections; calls are ABSENT from now on."""
        self._open = False
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.wait({self._probing})
        if self._connections is not None:
            await self._connections.close()

    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Argument]) -> Reply | Absent:
        """Runs a script; its reply."""
        return (await self._run([_evaluation(script, Call(keys, arguments))], script))[0]

    async def run_many(self, script: Script, calls: Sequence[Call]) -> list[Reply | Absent]:
        """Runs a script for each call, many in one round trip; a reply or ABSENT in the place of each.

        At most PIPELINE_CALLS_MAX calls go in one round trip, and no second one once they have PIPELINE_ARGUMENTS_MAX.
        """
        replies: list[Reply | Absent] = []
        for chunk in _chunks(calls):
            replies += await self._run([_evaluation(script, call) for call in chunk], script)
        return replies

    async def hash(self, key: str) -> dict[bytes, bytes] | Absent:
        """The fields of a hash; none when there is no such key."""
        reply = (await self._run([("HGETALL", key)], None))[0]
        if reply is ABSENT:
            return ABSENT
        assert isinstance(reply, list)
        flat = [item for item in reply if isinstance(item, bytes)]
        return dict(zip(flat[::2], flat[1::2], strict=True))

    async def _run(self, commands: Sequence[Sequence[Argument]], script: Script | None) -> list[Reply | Absent]:
        """The replies to commands that are sent in one go, all within CALL_S_MAX."""
        connections = self._connections
        if connections is None or not self._open:
            self._count(absent=len(commands), skipped=len(commands))
            return [ABSENT] * len(commands)
        asked: float | None = None
        falls = self._falls
        try:
            async with asyncio.timeout(self._call_s_max):
                await connections.lend()
                asked = time.monotonic()
                replies = await connections.exchange(commands)
                unknown = [place for place, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
                if unknown and script is not None:  # Redis was started anew, or another one answers
                    await self._load(connections, script)
                    again = await connections.exchange([commands[place] for place in unknown])
                    for place, reply in zip(unknown, again, strict=True):
                        replies[place] = reply
        except (RedisError, OSError) as error:  # TimeoutError among them
            self._count(absent=len(commands), late=len(commands) if isinstance(error, TimeoutError) else 0)
            # Who found no place to ask does not know whether Redis answers; who asked before it fell knows nothing new.
            if asked is not None and falls == self._falls and not self._is_our_own_delay(error, asked):
                self._fell(connections, error)
            return [ABSENT] * len(commands)
        finally:
            if asked is not None:
                connections.take_back()
        return [self._settled(reply) for reply in replies]

    async def _load(self, connections: Connections, script: Script) -> None:
        reply = (await connections.exchange([("SCRIPT", "LOAD", script.source)]))[0]
        if isinstance(reply, ResponseError):
            raise reply

    def _settled(self, reply: Reply | ResponseError) -> Reply | Absent:
        if not isinstance(reply, ResponseError):
            self._count(answered=1)
            return reply
        self._count(absent=1, refused=1)
        if str(reply) != self._last_error:  # not a line for every call while its memory is full
            log.error("redis refuses", error=str(reply))
        self._last_error = str(reply)
        return ABSENT

    def _fell(self, connections: Connections, error: Exception) -> None:
        self._last_error = str(error) or f"no answer within {self._call_s_max:g} s"
        if not self._open:  # it was closed meanwhile
            return
        self._open = False
        self._falls += 1
        connections.drop()
        log.warning("redis is away", error=self._last_error)
        self._probing = asyncio.create_task(self._probe(connections), name="redis-probe")

    def _is_our_own_delay(self, error: Exception, asked: float) -> bool:
        """Whether a timeout says more of this process than of Redis: there was little time left, or the loop was late.

        Two thousand calls at once keep the loop so busy that all are late, with Redis idle (measured).
        """
        waited = (time.monotonic() - asked) / self._call_s_max
        return isinstance(error, TimeoutError) and not 0.5 <= waited <= 1.5

    async def _probe(self, connections: Connections) -> None:
        """Looks until Redis answers, and within CALL_S_MAX on a connection that stands: a slow one would fail again."""
        wait_s = PROBE_S_MIN
        while True:
            try:
                async with asyncio.timeout(PROBE_CONNECT_S_MAX):
                    await _ping(connections)
                async with asyncio.timeout(self._call_s_max):
                    await _ping(connections)
                break
            except Exception as error:  # whatever it is: if this task ended, Redis would be away for good
                connections.drop()
                self._last_error = str(error) or f"no answer within {self._call_s_max:g} s"
                if not isinstance(error, RedisError | OSError):
                    log.exception("looking for redis failed")
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, PROBE_S_MAX)
        self._count(recoveries=1)
        for callback in self._callbacks:
            callback()
        self._open = True
        log.info("redis answers")

    def _count(self, **more: int) -> None:
        self._counters = replace(
            self._counters, **{name: getattr(self._counters, name) + count for name, count in more.items()}
        )


@asynccontextmanager
async def open_redis(url: str, *, memory_bytes: int = MEMORY_BYTES) -> AsyncIterator[Redis]:
    """The Redis of the setting: `embedded` for one of this server's own, a URL, or empty for none.

    `memory_bytes` bounds the embedded one.

    Raises ValueError for another URL, `penstock.cache.embedded.RedisFailed` when the embedded one does not start.
    """
    if url != EMBEDDED:
        async with Redis(url) as redis:
            yield redis
        return
    async with EmbeddedRedis(memory_bytes=memory_bytes) as own, Redis(own, shared=False) as redis:
        yield redis


def key_of(*parts: str) -> str:
    """A key of these parts. Different parts make different keys, whatever stands in them: tenants never meet."""
    return ":".join(["penstock", *(quote(part, safe="") for part in parts)])


def _chunks(calls: Sequence[Call]) -> Iterator[list[Call]]:
    chunk: list[Call] = []
    arguments = 0
    for call in calls:
        if chunk and (len(chunk) == PIPELINE_CALLS_MAX or arguments + len(call.arguments) > PIPELINE_ARGUMENTS_MAX):
            yield chunk
            chunk, arguments = [], 0
        chunk.append(call)
        arguments += len(call.arguments)
    if chunk:
        yield chunk


def _evaluation(script: Script, call: Call) -> tuple[Argument, ...]:
    return ("EVALSHA", script.sha, len(call.keys), *call.keys, *call.arguments)


async def _ping(connections: Connections) -> None:
    # Its own place is not needed: the breaker is open, so nobody else asks.
    reply = (await connections.exchange([("PING",)]))[0]
    if isinstance(reply, ResponseError):
        raise reply
