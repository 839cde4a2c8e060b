"""Sessions over a real Redis: as the model says, whatever becomes of Redis; forgotten is forgotten."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis as Client

from penstock.cache.redis import Redis
from penstock.errors import Unavailable
from penstock.feedback import sessions_local
from penstock.feedback.sessions import KNOWN_S, Sessions
from penstock.feedback.sessions_state import INTERACTIONS_MAX, Interaction, InteractionType, newest
from penstock.feedback.sessions_store import TRIM_AT
from tests.cache.running import PATIENT_S, Server, flush, noticed_away, redis_server
from tests.feedback.test_sessions_state import interactions
from tests.waiting import until

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@dataclass(slots=True)
class Storage:
    """What ClickHouse would answer; may be away, and may be made to wait in the middle of an answer."""

    stored: dict[tuple[str, str], list[Interaction]] = field(default_factory=dict)
    reads: int = 0
    away: bool = False
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    go_on: asyncio.Event | None = None

    async def load(self, tenant: str, user: str) -> Sequence[Interaction]:
        self.reads += 1
        if self.away:
            raise Unavailable("storage is away", reason="STORAGE_UNAVAILABLE", retry_after_s=1.0)
        answer = list(self.stored.get((tenant, user), ()))
        self.begun.set()
        if self.go_on is not None:
            await self.go_on.wait()
        return answer

    def add(self, user: str, *interactions: Interaction) -> None:
        self.stored.setdefault(("t", user), []).extend(interactions)


@dataclass(slots=True)
class Clock:
    """A clock that stands still."""

    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def click(name: str, *, seconds_ago: float = 0, product_id: str = "p") -> Interaction:
    return Interaction(name, product_id, InteractionType.CLICK, NOW - timedelta(seconds=seconds_ago))


def names(found: Sequence[Interaction]) -> list[str]:
    return [each.request_id for each in found]


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with redis_server() as running:
        yield running


@pytest.fixture
async def redis(server: Server) -> AsyncIterator[Redis]:
    async with Redis(server.url, call_s_max=PATIENT_S) as connected:
        yield connected


@pytest.fixture
async def hasty_redis(server: Server) -> AsyncIterator[Redis]:
    async with Redis(server.url) as connected:
        yield connected


@pytest.fixture
def storage() -> Storage:
    return Storage()


@pytest.fixture
async def two(server: Server, storage: Storage) -> AsyncIterator[tuple[Sessions, Sessions]]:
    """Two servers on one Redis and one ClickHouse."""
    async with AsyncExitStack() as stack:
        redises = [await stack.enter_async_context(Redis(server.url, call_s_max=PATIENT_S)) for _ in range(2)]
        one, other = [await stack.enter_async_context(Sessions(redis, storage.load)) for redis in redises]
        yield one, other


async def test_the_next_read_has_seen_the_click(two: tuple[Sessions, Sessions]) -> None:
    one, other = two
    await one.update("t", "u", click("r1", seconds_ago=600, product_id="p"))
    await other.update("t", "u", click("r2", product_id="q"))
    for sessions in two:
        state = await sessions.read("t", "u")
        assert state.weights(NOW) == {"p": pytest.approx(0.15), "q": pytest.approx(0.3)}
        assert state.complete
    assert names((await one.read("t", "u")).interactions) == ["r2", "r1"]


async def test_users_and_tenants_do_not_meet(two: tuple[Sessions, Sessions]) -> None:
    await two[0].update("t", "u:v", click("r1"))
    await two[0].update("t:u", "v", click("r2"))
    assert names((await two[1].read("t", "u:v")).interactions) == ["r1"]
    assert names((await two[1].read("t:u", "v")).interactions) == ["r2"]
    assert not (await two[1].read("u", "u:v")).interactions


async def test_storage_is_read_once_also_for_a_user_without_a_past(
    two: tuple[Sessions, Sessions], storage: Storage
) -> None:
    for _ in range(3):
        for sessions in two:
            assert (await sessions.read("t", "nobody")).interactions == ()
    assert storage.reads == 1


async def test_a_click_before_the_first_read_does_not_hide_the_past(
    two: tuple[Sessions, Sessions], storage: Storage
) -> None:
    storage.add("u", click("old", seconds_ago=60), click("new"))
    await two[0].update("t", "u", click("new"))
    assert names((await two[1].read("t", "u")).interactions) == ["new", "old"]
    assert storage.reads == 1


async def test_many_users_in_one_call(two: tuple[Sessions, Sessions]) -> None:
    batch = {f"u{place}": [click(f"r{place}"), click(f"s{place}", seconds_ago=1)] for place in range(700)}
    await two[0].update_many("t", batch)
    assert two[0].unsent_users == 0
    for place in (0, 350, 699):
        assert names((await two[1].read("t", f"u{place}")).interactions) == [f"r{place}", f"s{place}"]


async def test_only_the_newest_are_kept(two: tuple[Sessions, Sessions], redis: Redis) -> None:
    everything = [click(f"r{place}", seconds_ago=place // 2) for place in range(3 * INTERACTIONS_MAX)]
    for each in reversed(everything):
        await two[0].update("t", "u", each)
        stored = await redis.hash("penstock:session:t:u")
        assert isinstance(stored, dict)
        assert len(stored) <= TRIM_AT + 2
    assert (await two[1].read("t", "u")).interactions == newest(everything)


_users = count()
_ids = st.sampled_from([f"r{place}" for place in range(12)])


@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.lists(interactions(request_id=_ids), max_size=4), st.booleans()), max_size=12
    )
)
@settings(max_examples=60)
async def test_redis_is_as_the_model(
    two: tuple[Sessions, Sessions], steps: list[tuple[int, list[Interaction], bool]]
) -> None:
    """In the order in which they came the first of a name counts, on whichever server."""
    user = f"model{next(_users)}"
    model: list[Interaction] = []
    for place, given_, read in steps:
        await two[place].update("t", user, *given_)
        model = [*newest([*model, *given_])]
        if read:
            assert (await two[1 - place].read("t", user)).interactions == newest(model)
    assert (await two[0].read("t", user)).interactions == newest(model)


@given(st.lists(interactions(), max_size=2 * INTERACTIONS_MAX, unique_by=lambda each: each.request_id), st.randoms())
@settings(max_examples=15)
async def test_redis_shortens_as_the_model(
    two: tuple[Sessions, Sessions], given_: list[Interaction], chance: object
) -> None:
    """Ties in time among them, which Redis and Python must break alike. One by one, so that Redis does it."""
    user = f"long{next(_users)}"
    many = [
        Interaction(f"{each.request_id}{place}", each.product_id, each.type, each.time, each.rating)
        for place in range(1 + 2 * INTERACTIONS_MAX // max(1, len(given_)))
        for each in given_
    ][: 2 * INTERACTIONS_MAX]
    many = list({each.request_id: each for each in many}.values())
    for each in many:
        await two[0].update("t", user, each)
    assert (await two[1].read("t", user)).interactions == newest(many)


async def test_killed_under_load_nothing_is_lost(
    two: tuple[Sessions, Sessions], storage: Storage, server: Server
) -> None:
    """A click is in storage first, as the service has it; every read after its update shows it."""
    ended = False

    async def visit(user: str, sessions: Sessions) -> int:
        clicks = 0
        while not ended and clicks < INTERACTIONS_MAX - 1:
            storage.add(user, click(f"r{clicks}"))
            await sessions.update("t", user, click(f"r{clicks}"))
            clicks += 1
            assert len((await sessions.read("t", user)).interactions) == clicks
            await asyncio.sleep(0.01)
        return clicks

    visits = [asyncio.create_task(visit(f"u{place}", two[place % 2])) for place in range(8)]
    for _ in range(2):
        await server.kill()
        await asyncio.sleep(0.1)
    ended = True
    clicks = await asyncio.gather(*visits)
    await until(lambda: not any(sessions.unsent_users for sessions in two))
    for place, expected in enumerate(clicks):
        for sessions in two:
            assert len((await sessions.read("t", f"u{place}")).interactions) == expected


async def test_what_came_while_it_hung_reaches_it(server: Server, hasty_redis: Redis, storage: Storage) -> None:
    async with (
        Redis(server.url) as second,
        Sessions(hasty_redis, storage.load, clock=Clock()) as one,
        Sessions(second, storage.load) as other,
    ):
        storage.add("u", click("r1"))
        await one.update("t", "u", click("r1"))
        assert names((await other.read("t", "u")).interactions) == ["r1"]
        reads = storage.reads
        async with server.hanging():
            await noticed_away(hasty_redis)
            await one.update("t", "u", click("r2"))  # not in storage yet, for whatever reason
            assert names((await one.read("t", "u")).interactions) == ["r2", "r1"]
            assert names((await one.read("t", "u")).interactions) == ["r2", "r1"]
            assert storage.reads == reads + 1  # it is kept for a moment
        # From the first moment on, although Redis has the session, and takes it for whole, without r2.
        assert names((await one.read("t", "u")).interactions) == ["r2", "r1"]
        await until(lambda: one.unsent_users == 0)
        assert names((await other.read("t", "u")).interactions) == ["r2", "r1"]
        assert storage.reads == reads + 1


async def test_redis_that_takes_no_more_is_read_and_not_waited_for(
    two: tuple[Sessions, Sessions], server: Server, storage: Storage
) -> None:
    """One that is full and may not evict: it goes on to answer, with what it has, and takes it for whole."""
    one, _ = two
    await one.update("t", "u", click("r1", seconds_ago=1))
    assert names((await one.read("t", "u")).interactions) == ["r1"]
    async with Client.from_url(server.url) as client:
        await client.config_set("maxmemory-policy", "noeviction")
        await client.config_set("maxmemory", 1)
        await one.update("t", "u", click("r2"))
        assert one.unsent_users == 1
        assert names((await one.read("t", "u")).interactions) == ["r2", "r1"]
        await client.config_set("maxmemory", 0)
    await until(lambda: one.unsent_users == 0)
    assert names((await two[1].read("t", "u")).interactions) == ["r2", "r1"]
    assert storage.reads == 1


async def test_what_redis_took_and_lost_is_not_missed(server: Server, hasty_redis: Redis, storage: Storage) -> None:
    """It is away, answers for a moment, and is away again, all while what ClickHouse said first is still fresh."""
    async with Sessions(hasty_redis, storage.load, clock=Clock()) as sessions:
        async with server.hanging():
            await noticed_away(hasty_redis)
            assert (await sessions.read("t", "u")).interactions == ()
            storage.add("u", click("r"))
            await sessions.update("t", "u", click("r"))
        await until(lambda: sessions.unsent_users == 0)
        async with server.hanging():
            await noticed_away(hasty_redis)
            assert names((await sessions.read("t", "u")).interactions) == ["r"]


async def test_without_redis_it_works_from_storage_and_memory(storage: Storage) -> None:
    clock = Clock()
    async with Redis("") as none, Sessions(none, storage.load, clock=clock) as sessions:
        storage.add("u", click("old", seconds_ago=5))
        await sessions.update("t", "u", click("new"))
        assert names((await sessions.read("t", "u")).interactions) == ["new", "old"]
        storage.add("u", click("from another server", seconds_ago=9))
        clock.now += sessions_local.FRESH_S
        assert names((await sessions.read("t", "u")).interactions) == ["new", "old", "from another server"]
        assert storage.reads == 2
        assert await sessions.remaining("t", "u") == 3
        storage.stored.clear()
        assert await sessions.forget("t", "u") == 3
        assert await sessions.remaining("t", "u") == 0
        assert (await sessions.read("t", "u")).interactions == ()


@pytest.mark.parametrize("with_redis", [True, False])
async def test_storage_away_is_told_and_not_taken_for_empty(
    server: Server, storage: Storage, *, with_redis: bool
) -> None:
    async with Redis(server.url if with_redis else "") as redis, Sessions(redis, storage.load) as sessions:
        storage.away = True
        await sessions.update("t", "u", click("new"))
        state = await sessions.read("t", "u")
        assert (names(state.interactions), state.complete) == (["new"], False)
        storage.away = False
        storage.add("u", click("old", seconds_ago=5))
        state = await sessions.read("t", "u")
        assert (names(state.interactions), state.complete) == (["new", "old"], True)


async def test_redis_may_evict_a_session(two: tuple[Sessions, Sessions], storage: Storage, redis: Redis) -> None:
    storage.add("u", click("r1"))
    await two[0].update("t", "u", click("r1"))
    await two[0].read("t", "u")
    await flush(redis)
    storage.add("u", click("r2"))
    await two[0].update("t", "u", click("r2"))
    assert names((await two[1].read("t", "u")).interactions) == ["r2", "r1"]


async def test_a_session_is_read_anew_after_a_while(server: Server, redis: Redis, storage: Storage) -> None:
    clock = Clock()
    async with Sessions(redis, storage.load, wall_clock=clock) as sessions:
        await sessions.read("t", "u")
        storage.add("u", click("lost with another server"))
        clock.now += KNOWN_S - 1
        assert (await sessions.read("t", "u")).interactions == ()
        clock.now += 1
        assert names((await sessions.read("t", "u")).interactions) == ["lost with another server"]


async def test_more_than_can_be_kept_is_read_from_storage(
    server: Server, hasty_redis: Redis, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions_local, "KEPT_MAX", 10)
    async with Sessions(hasty_redis, storage.load) as sessions:
        for place in range(20):
            assert (await sessions.read("t", f"u{place}")).interactions == ()  # now Redis takes it for whole
        async with server.hanging():
            await noticed_away(hasty_redis)
            for place in range(20):
                storage.add(f"u{place}", click("r"))
                await sessions.update("t", f"u{place}", click("r"))
            assert sessions.unsent_users == 10
        await until(lambda: sessions.unsent_users == 0)
        for place in range(20):
            assert names((await sessions.read("t", f"u{place}")).interactions) == ["r"]


async def test_forgotten_it_is_gone(two: tuple[Sessions, Sessions], storage: Storage) -> None:
    for place in range(3):
        await two[0].update("t", "u", click(f"r{place}"))
    await two[0].update("t", "bystander", click("r"))
    assert await two[0].remaining("t", "u") == 3
    assert await two[1].forget("t", "u") == 3
    for sessions in two:
        assert await sessions.remaining("t", "u") == 0
        assert (await sessions.read("t", "u")).interactions == ()
        assert names((await sessions.read("t", "bystander")).interactions) == ["r"]


@pytest.mark.parametrize("by", [0, 1])
async def test_what_was_read_before_does_not_come_back(
    two: tuple[Sessions, Sessions], storage: Storage, by: int
) -> None:
    """A session is being read from storage while it is forgotten, there and then here."""
    storage.add("u", click("old"))
    storage.go_on = asyncio.Event()
    reading = asyncio.create_task(two[0].read("t", "u"))
    await storage.begun.wait()
    storage.stored.clear()
    await two[by].forget("t", "u")
    storage.go_on.set()
    assert (await reading).interactions == ()
    for sessions in two:
        assert await sessions.remaining("t", "u") == 0
        assert (await sessions.read("t", "u")).interactions == ()


async def test_forgetting_is_not_claimed_when_redis_cannot_be_asked(
    server: Server, hasty_redis: Redis, storage: Storage
) -> None:
    async with Sessions(hasty_redis, storage.load) as sessions:
        await sessions.update("t", "u", click("r"))
        async with server.hanging():
            await noticed_away(hasty_redis)
            await sessions.update("t", "u", click("s"))
            for ask in (sessions.forget, sessions.remaining):
                with pytest.raises(Unavailable) as caught:
                    await ask("t", "u")
                assert caught.value.reason == "SESSIONS_UNAVAILABLE"
            assert sessions.unsent_users == 0  # what is here is forgotten at once
        await until(lambda: hasty_redis.available)
        assert await sessions.forget("t", "u") == 1
        assert await sessions.remaining("t", "u") == 0


async def test_one_reading_of_storage_serves_all_who_wait(two: tuple[Sessions, Sessions], storage: Storage) -> None:
    storage.add("u", click("r"))
    storage.go_on = asyncio.Event()
    reading = [asyncio.create_task(two[0].read("t", "u")) for _ in range(20)]
    await storage.begun.wait()
    await two[0].update("t", "u", click("meanwhile"))
    storage.go_on.set()
    for state in await asyncio.gather(*reading):
        assert set(names(state.interactions)) == {"r", "meanwhile"}
    assert storage.reads == 1
