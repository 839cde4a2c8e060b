"""Redis is killed, started again and hangs under load: answers stay right, limits hold, all comes back by itself."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import grpc
import pytest

from penstock.accounts.v1 import accounts_service_pb2, accounts_service_pb2_grpc
from penstock.cache.redis import CALL_S_MAX as REDIS_CALL_S_MAX
from penstock.cache.redis import key_of
from penstock.operations.v1 import operations_pb2, operations_service_pb2, operations_service_pb2_grpc
from tests.accounts.people import PASSWORD, people
from tests.faults.call_record import CallRecord, latencies, median_s
from tests.faults.redis_on_port import RedisOnPort
from tests.faults.shop.clicker import Clicker
from tests.faults.shop.patrons import Eager, Keeper, Patron, Reader, Tracker
from tests.process import ServerProcess
from tests.search.shop import products

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(120)]

TENANT, QUIET_TENANT = "default", "other"  # in the quiet one no product changes, so that answers stay in caches
COUNT = 180
LIMIT, WINDOW_S = 20, 2  # of the eager client, who calls about three times as often
EAGER_PAUSE_S, KEEPER_PAUSE_S, CLICKER_PAUSE_S = 0.03, 0.3, 0.05
ROUNDS = 3  # of each client, in each phase at least
PHASE_S_MAX = 30.0  # for whatever is waited for
# While Redis hangs. A server that waits for it waits until it goes on; this one waits for one answer, and then for no
# more. The rest is what a busy machine adds.
CALL_S_MAX_WITHOUT_REDIS = 40 * REDIS_CALL_S_MAX
LOG_S = 0.2  # between what happens and the line of the log that tells of it, at most
EAGER = "eager"


@dataclass(slots=True)
class Scene:
    """A running server, its Redis, and who calls."""

    server: ServerProcess
    redis: RedisOnPort
    operations: operations_service_pb2_grpc.OperationsServiceStub
    record: CallRecord = field(default_factory=CallRecord)
    patrons: list[Patron] = field(default_factory=list)

    async def cache_stats(self) -> operations_service_pb2.GetCacheStatsResponse:
        """What the server tells of its caches."""
        answer: operations_service_pb2.GetCacheStatsResponse = await self.operations.GetCacheStats(
            operations_service_pb2.GetCacheStatsRequest()
        )
        return answer

    async def says(self, redis: str, state: operations_pb2.Dependency.State) -> None:
        """Waits until the server says so of its Redis, in every place; it is ready all the time."""

        async def said() -> bool:
            health = await self.operations.CheckHealth(operations_service_pb2.CheckHealthRequest())
            status = await self.operations.GetStatus(operations_service_pb2.GetStatusRequest())
            ready = await self.operations.CheckReady(operations_service_pb2.CheckReadyRequest())
            assert ready.status == "ready"
            states = {each.state for told in (health, status) for each in told.dependencies if each.name == "cache"}
            return (await self.cache_stats()).redis == redis and states == {state}

        await until(said, f"the server says that Redis is {redis}")

    async def everybody_goes_on(self) -> None:
        """Waits until each client has done all it does several times."""
        before = [each.rounds for each in self.patrons]

        async def done() -> bool:
            return all(each.rounds >= was + ROUNDS for each, was in zip(self.patrons, before, strict=True))

        await until(done, f"every client goes on: {before}, {[each.rounds for each in self.patrons]}")

    async def limited(self, since: float) -> None:
        """Waits until the eager client was refused since then, and let through more than its limit, in several windows.

        So the limit was neither lifted nor closed for good.
        """

        async def seen() -> bool:
            calls = self.record.of(EAGER, since=since)
            let_through = [each for each in calls if each.code is grpc.StatusCode.OK]
            return LIMIT < len(let_through) < len(calls) and let_through[-1].began > since + WINDOW_S

        await until(seen, "the eager client is limited, and let through")

    async def hits(self, since: float) -> None:
        """Waits until recommendations are answered from the cache, which they are only when Redis vouches for them."""
        before = _recommendation_hits(await self.cache_stats())

        async def hit() -> bool:
            seen = any(each.cached for each in self.record.of("reader", "Recommend", since=since))
            return seen and _recommendation_hits(await self.cache_stats()) > before

        await until(hit, "recommendations come from the cache")

    def logged(self, key: str, value: str) -> list[dict[str, str]]:
        """Lines of the server's log that have this."""
        lines = [json.loads(line) for line in self.server.log.splitlines() if line.startswith("{")]
        return [line for line in lines if line.get(key) == value]


async def until(holds: Callable[[], Awaitable[bool]], what: str) -> None:
    """Waits for something that is to come about."""
    try:
        async with asyncio.timeout(PHASE_S_MAX):
            while not await holds():  # noqa: ASYNC110 - nobody tells when
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"never: {what}") from None


@contextlib.asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[tuple[Scene, dict[str, str]]]:
    """A server that wants credentials, with a Redis beside it, and what its callers call with."""
    data_dir = folder / "data"
    known = await asyncio.to_thread(people, data_dir)
    credentials = {role: known.keys[TENANT, role] for role in ("admin", "operator", "viewer")}
    async with contextlib.AsyncExitStack() as ending:
        redis = await ending.enter_async_context(RedisOnPort(folder / "redis"))
        env = {
            "PENSTOCK_AUTH": "required",
            "PENSTOCK_REDIS_URL": redis.url,
            "PENSTOCK_RATE_LIMIT_USER": str(LIMIT),
            "PENSTOCK_RATE_WINDOW": str(WINDOW_S),
            "PENSTOCK_PIPELINE_INTERVAL_S": "0.2",
            "PENSTOCK_LOG_FORMAT": "json",
        }
        server = ending.enter_context(ServerProcess(data_dir, env=env))
        record = CallRecord()
        watching = await ending.enter_async_context(record.channel("watcher", server.target, credentials["admin"]))
        scene = Scene(server, redis, operations_service_pb2_grpc.OperationsServiceStub(watching), record)
        token = await accounts_service_pb2_grpc.AccountServiceStub(watching).CreateToken(
            accounts_service_pb2.CreateTokenRequest(username=known.user, password=PASSWORD)
        )
        yield scene, {**credentials, "user": token.access_token, "quiet": known.keys[QUIET_TENANT, "operator"]}


@contextlib.asynccontextmanager
async def busy(scene: Scene, credentials: dict[str, str]) -> AsyncIterator[Clicker]:
    """Clients call, each in its own way, and each checks its answers; given is a user who does what they are told."""
    async with contextlib.AsyncExitStack() as ending:

        async def channel(caller: str, credential: str) -> grpc.aio.Channel:
            made = scene.record.channel(caller, scene.server.target, credentials[credential])
            return await ending.enter_async_context(made)

        keeper = Keeper(await channel("keeper", "operator"), products(COUNT), KEEPER_PAUSE_S)
        await keeper.stock()
        clickers = [
            Clicker(f"clicker-{number}", await channel("clicker", "operator"), COUNT, CLICKER_PAUSE_S)
            for number in range(2)
        ]
        tracker = Tracker(await channel("tracker", "operator"), "site-1")
        reader = Reader(await channel("reader", "viewer"), "quiet")
        scene.patrons += [*clickers, tracker, keeper, reader, Eager(await channel(EAGER, "user"), EAGER_PAUSE_S)]
        quiet = await channel("witness", "quiet")
        await Keeper(quiet, products(COUNT), KEEPER_PAUSE_S).stock()
        witness = Clicker("witness", quiet, COUNT)
        enough = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for patron in scene.patrons:
                tasks.create_task(patron.run(enough))
            yield witness
            enough.set()
        await _all_is_counted(tracker)
        for clicker in (*clickers, witness):
            await clicker.check()
        assert reader.compared > reader.rounds  # of two in each round: the catalogue does not change all the time


async def test_redis_killed_and_hanging_under_load(tmp_path: Path) -> None:
    """Twice killed and once hung; what is checked of each call is in the clients, of all of them at the end."""
    async with opened(tmp_path) as (scene, credentials):
        hung: list[tuple[float, float]] = []
        away: list[tuple[float, float]] = []
        async with busy(scene, credentials) as witness:
            await scene.says("connected", operations_pb2.Dependency.STATE_UP)
            await scene.everybody_goes_on()
            await scene.limited(since=0.0)
            await scene.hits(since=0.0)
            calm = (0.0, time.time())
            for number, trouble in enumerate((_killed, _killed, _hanging)):
                await witness.click(f"p{2 * number:04}")
                await _session_counts(witness)  # the answer is kept in Redis; one that hangs still has it afterwards
                began = time.time()
                async with trouble(scene.redis):
                    await scene.says("away", operations_pb2.Dependency.STATE_DEGRADED)
                    noticed = time.time()
                    await scene.everybody_goes_on()
                    await scene.limited(since=noticed)
                    await _session_counts(witness)
                    await witness.click(f"p{2 * number + 1:04}")
                    await _session_counts(witness)
                    away.append((noticed, time.time()))
                if trouble is _hanging:
                    hung.append((began, time.time()))
                await scene.says("connected", operations_pb2.Dependency.STATE_UP)
                back = time.time()
                await scene.everybody_goes_on()
                await scene.limited(since=back)
                await scene.hits(since=back)
                await _session_counts(witness)
                await _session_is_in_redis(scene.redis, witness)
        _every_call_was_answered(scene.record)
        _nothing_was_vouched_for_without_redis(scene.record, away)
        _nobody_waited_for_redis(scene.record, calm, hung)
        _limits_held(scene, away)
        assert scene.server.running()
        assert "Traceback" not in scene.server.log, scene.server.log
        assert not scene.logged("level", "error")


@contextlib.asynccontextmanager
async def _killed(redis: RedisOnPort) -> AsyncIterator[None]:
    await redis.kill()
    yield
    await redis.start()


@contextlib.asynccontextmanager
async def _hanging(redis: RedisOnPort) -> AsyncIterator[None]:
    redis.hang()
    try:
        yield
    finally:
        redis.go_on()


async def _session_counts(witness: Clicker) -> None:
    """What the user clicked on, whenever that was, is what they do now, and is what is recommended from."""
    answer = await witness.look()
    assert not witness.wrong, witness.wrong
    assert answer.weights.session > 0


async def _session_is_in_redis(redis: RedisOnPort, user: Clicker) -> None:
    """It was made again there, whole, where Redis had been empty."""

    async def there() -> bool:
        async with redis.client() as looking:
            fields = await looking.hgetall(key_of("session", QUIET_TENANT, user.name))
        names = {str(name) for name in fields}
        return "known" in names and sum(name.startswith("=") for name in names) == len(user.clicked)

    await until(there, "the session is in Redis")


async def _all_is_counted(tracker: Tracker) -> None:
    """Every event that was acknowledged is in the metrics; that no other is, each of their answers was checked for."""

    async def counted() -> bool:
        return await tracker.metric(least=0) == await tracker.latest() == tracker.sent

    await until(counted, f"the metrics are {tracker.sent}")


def _every_call_was_answered(record: CallRecord) -> None:
    for call in record.calls:
        if call.caller == EAGER and call.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            assert call.reason == "RATE_LIMITED"
            assert call.retry_s is not None
            assert 0 < call.retry_s <= WINDOW_S + 1, call
        else:
            assert call.code is grpc.StatusCode.OK, call


def _nothing_was_vouched_for_without_redis(record: CallRecord, away: Sequence[tuple[float, float]]) -> None:
    """Another server may have invalidated what is kept here, and only Redis would know."""
    for since, end in away:
        calls = record.of("reader", "Recommend", since=since, until=end)
        assert calls
        assert not [call for call in calls if call.cached]


def _nobody_waited_for_redis(
    record: CallRecord, calm: tuple[float, float], hung: Sequence[tuple[float, float]]
) -> None:
    """It hung for longer than any call took; and most of them did not ask it at all."""
    before = record.of("", since=calm[0], until=calm[1])
    print("calm:", latencies(before))
    for began, end in hung:
        calls = [each for each in record.of("", since=began) if each.began < end]
        print(f"hanging for {end - began:.1f} s:", latencies(calls))
        slowest = max(calls, key=lambda call: call.seconds)
        assert slowest.seconds < CALL_S_MAX_WITHOUT_REDIS < end - began, slowest
        # One recommendation asks Redis three times or more.
        assert median_s(calls, "Recommend") < median_s(before, "Recommend") + 2 * REDIS_CALL_S_MAX


def _limits_held(scene: Scene, away: Sequence[tuple[float, float]]) -> None:
    """No window had more than the limit; where Redis came back within it, once more for each time, as documented."""
    recoveries = [
        datetime.fromisoformat(line["timestamp"]).timestamp() for line in scene.logged("message", "redis answers")
    ]
    let_through = [call for call in scene.record.of(EAGER) if call.code is grpc.StatusCode.OK]
    for first in let_through:
        end = first.began + WINDOW_S
        calls = [call for call in let_through if call.began >= first.began and call.ended < end]
        back = sum(first.began - LOG_S <= each <= end + LOG_S for each in recoveries)
        assert len(calls) <= LIMIT * (1 + back), f"{len(calls)} calls in {WINDOW_S} s, Redis came back {back} times"
    for since, end in away:
        assert end > since + WINDOW_S
        alone = sum(call.began >= since and call.ended < since + WINDOW_S for call in let_through)
        assert 0 < alone <= LIMIT, f"{alone} calls in {WINDOW_S} s without Redis"
    print(f"{len(scene.record.calls)} calls; Redis came back {len(recoveries)} times")


def _recommendation_hits(stats: operations_service_pb2.GetCacheStatsResponse) -> float:
    return sum(each.local_hits + each.redis_hits for each in stats.kinds if each.kind == "recommendations")
