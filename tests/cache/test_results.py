"""The answers that are kept: never another's, never of before, computed once; on one server and on two."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.cache.local import ENTRY_OVERHEAD_BYTES, Asked, Entry, LocalTier
from penstock.cache.redis import CALL_S_MAX, Redis
from penstock.cache.results import RENEWED_AT_ONCE_MAX, Answer, Kind, Results, Tier
from penstock.cache.shared import SCOPE_FIELDS_MAX
from penstock.cache.tally import Tallies
from tests.cache.running import KEYS, PATIENT_S, Server, flush, noticed_away, redis_server
from tests.waiting import until

EXACT = Kind("recommend", ttl_s=120, trust_s=0)
TRUSTED = Kind("search", ttl_s=300, trust_s=300)
LATE = Kind("late", ttl_s=300, trust_s=5)
KINDS = (EXACT, TRUSTED, LATE)


@dataclass(slots=True)
class Clock:
    """A clock that stands still."""

    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass(slots=True)
class Source:
    """What answers are computed from: counts how often, and may be told to wait."""

    value: bytes = b"first"
    loads: int = 0
    cancelled: int = 0
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    go_on: asyncio.Event | None = None

    async def load(self) -> bytes:
        self.loads += 1
        value = self.value
        self.begun.set()
        if self.go_on is not None:
            try:
                await self.go_on.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        return value


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
async def servers(server: Server) -> AsyncIterator[tuple[Results, Results]]:
    """Two servers on one Redis."""
    async with two_servers(server, PATIENT_S) as both:
        yield both


@pytest.fixture
async def hasty(server: Server) -> AsyncIterator[tuple[Results, Results]]:
    """Two servers that wait no longer for Redis than they really do."""
    async with two_servers(server, CALL_S_MAX) as both:
        yield both


@asynccontextmanager
async def two_servers(server: Server, call_s_max: float) -> AsyncIterator[tuple[Results, Results]]:
    async with AsyncExitStack() as stack:
        redises = [await stack.enter_async_context(Redis(server.url, call_s_max=call_s_max)) for _ in range(2)]
        one, other = [await stack.enter_async_context(Results(redis, KINDS)) for redis in redises]
        yield one, other


@pytest.fixture
async def results(servers: tuple[Results, Results]) -> Results:
    return servers[0]


def asked(
    kind: Kind = EXACT, *, tenant: str = "t", key: bytes = b"k", version: str = "1", scope: str = "user"
) -> Asked:
    return Asked(kind.name, tenant, key, version, scope)


async def test_an_answer_is_computed_once_and_then_kept_here(results: Results, source: Source) -> None:
    answers = [await results.get(asked(), source.load) for _ in range(3)]
    assert [answer.tier for answer in answers] == [Tier.LOADED, Tier.LOCAL, Tier.LOCAL]
    assert {answer.value for answer in answers} == {b"first"}
    assert source.loads == 1


async def test_another_server_finds_it_in_redis(servers: tuple[Results, Results], source: Source) -> None:
    one, other = servers
    for kind in KINDS:
        await one.get(asked(kind), source.load)
        assert [(await other.get(asked(kind), source.load)).tier for _ in range(2)] == [Tier.REDIS, Tier.LOCAL]
    assert source.loads == len(KINDS)


@pytest.mark.parametrize(
    "another",
    [
        *[asked(tenant="u"), asked(key=b"l"), asked(version="2"), asked(scope="user2"), asked(scope=""), asked(LATE)],
        Asked("recommend", "t:recommend", b"k", "1", "user"),
        Asked("recommend", "t", b"1k", "", "user"),
    ],
)
async def test_what_differs_is_another_answer(servers: tuple[Results, Results], source: Source, another: Asked) -> None:
    one, other = servers
    await one.get(asked(), source.load)
    source.value = b"second"
    for results in (one, other):
        assert (await results.get(another, source.load)).value == b"second"
        assert (await results.get(asked(), source.load)).value == b"first"


async def test_many_who_ask_at_once_wait_for_one_computation(results: Results, source: Source) -> None:
    source.go_on = asyncio.Event()
    waiting = [asyncio.create_task(results.get(asked(), source.load)) for _ in range(50)]
    await source.begun.wait()
    source.go_on.set()
    assert {answer.value for answer in await asyncio.gather(*waiting)} == {b"first"}
    assert source.loads == 1


async def test_who_asked_first_may_go_away(results: Results, source: Source) -> None:
    source.go_on = asyncio.Event()
    first = asyncio.create_task(results.get(asked(), source.load))
    await source.begun.wait()
    others = [asyncio.create_task(results.get(asked(), source.load)) for _ in range(3)]
    await asyncio.sleep(0.05)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    source.go_on.set()
    assert {answer.value for answer in await asyncio.gather(*others)} == {b"first"}
    assert (first.cancelled(), source.loads, source.cancelled) == (True, 1, 0)


async def test_when_all_have_gone_it_is_cancelled(results: Results, source: Source) -> None:
    source.go_on = asyncio.Event()
    waiting = [asyncio.create_task(results.get(asked(), source.load)) for _ in range(3)]
    await source.begun.wait()
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await until(lambda: source.cancelled == 1)
    source.go_on.set()
    assert (await results.get(asked(), source.load)).value == b"first"  # nobody joins what was cancelled
    assert source.loads == 2


async def test_a_failure_is_told_to_all_and_not_kept(results: Results, source: Source) -> None:
    async def fail() -> bytes:
        source.loads += 1
        await asyncio.sleep(0.05)
        raise LookupError("not now")

    told = await asyncio.gather(*(results.get(asked(), fail) for _ in range(5)), return_exceptions=True)
    assert [type(each) for each in told] == [LookupError] * 5
    assert source.loads == 1
    assert (await results.get(asked(), source.load)).tier is Tier.LOADED


async def test_it_is_served_no_longer_than_its_time(redis: Redis, server: Server, source: Source) -> None:
    clock, wall_clock = Clock(), Clock()
    async with Redis(server.url, call_s_max=PATIENT_S) as second:
        one = Results(redis, KINDS, clock=clock, wall_clock=wall_clock)
        other = Results(second, KINDS, clock=clock, wall_clock=wall_clock)
        await one.get(asked(), source.load)
        for passed_s, tier in ((119, Tier.REDIS), (1, Tier.LOADED)):
            clock.now += passed_s
            wall_clock.now += passed_s
            assert (await other.get(asked(), source.load)).tier is tier


async def test_in_the_end_of_its_time_it_is_served_and_computed_anew(
    redis: Redis, server: Server, source: Source
) -> None:
    clock, wall_clock = Clock(), Clock()
    began = clock.now
    async with (
        Redis(server.url, call_s_max=PATIENT_S) as second,
        Results(redis, KINDS, clock=clock, wall_clock=wall_clock) as one,
        Results(second, KINDS, clock=clock, wall_clock=wall_clock) as other,
    ):
        await one.get(asked(), source.load)
        source.value, source.go_on = b"second", asyncio.Event()
        for age, loads in ((0.79, 1), (0.81, 2), (0.9, 2)):  # of its time; it is computed once, however many ask
            clock.now = wall_clock.now = began + age * EXACT.ttl_s
            answer = await one.get(asked(), source.load)
            await until(lambda loads=loads: source.loads == loads)
            assert (answer.value, answer.tier) == (b"first", Tier.LOCAL)
        source.go_on.set()
        await until(lambda: not one._renewing)
        assert (await one.get(asked(), source.load)).value == b"second"
        clock.now = wall_clock.now = began + 1.5 * EXACT.ttl_s
        assert (await one.get(asked(), source.load)).tier is Tier.LOCAL
        found = await other.get(asked(), source.load)
        assert (found.value, found.tier) == (b"second", Tier.REDIS)
        clock.now = wall_clock.now = began + 1.85 * EXACT.ttl_s
        assert (await other.get(asked(), source.load)).tier is Tier.LOCAL  # the other renews, too
        await until(lambda: source.loads == 3 and not other._renewing)


async def test_what_cannot_be_renewed_is_served_to_its_end(source: Source) -> None:
    clock = Clock()

    async def fail() -> bytes:
        raise RuntimeError("storage is away")

    async with Redis("") as redis, Results(redis, KINDS, clock=clock) as results:
        await results.get(asked(), source.load)
        clock.now += 0.9 * EXACT.ttl_s
        for _ in range(3):
            assert (await results.get(asked(), fail)).value == b"first"
            await until(lambda: not results._renewing)
        clock.now += 0.1 * EXACT.ttl_s
        with pytest.raises(RuntimeError, match="storage is away"):
            await results.get(asked(), fail)


async def test_what_is_invalidated_while_it_is_renewed_is_not_kept(source: Source) -> None:
    clock = Clock()
    async with Redis("") as redis, Results(redis, KINDS, clock=clock) as results:
        await results.get(asked(), source.load)
        clock.now += 0.9 * EXACT.ttl_s
        source.value, source.go_on = b"of before", asyncio.Event()
        source.begun.clear()
        await results.get(asked(), source.load)
        await source.begun.wait()
        await results.invalidate("t", EXACT.name, "user")
        source.go_on.set()
        await until(lambda: not results._renewing)
        source.value = b"of after"
        assert (await results.get(asked(), source.load)).value == b"of after"


async def test_few_are_renewed_at_once_and_none_after_the_end(source: Source) -> None:
    clock = Clock()
    async with Redis("") as redis, Results(redis, KINDS, clock=clock) as results:
        keys = [bytes([number]) for number in range(5)]
        for key in keys:
            await results.get(asked(key=key), source.load)
        clock.now += 0.9 * EXACT.ttl_s
        source.go_on = asyncio.Event()
        for key in keys:
            assert (await results.get(asked(key=key), source.load)).tier is Tier.LOCAL
        await until(lambda: source.loads == len(keys) + RENEWED_AT_ONCE_MAX)
    assert source.cancelled == RENEWED_AT_ONCE_MAX


async def test_invalidated_it_is_gone_from_both_tiers_on_both_servers(
    servers: tuple[Results, Results], source: Source
) -> None:
    one, other = servers
    for results in servers:
        await results.get(asked(), source.load)
        await results.get(asked(scope="bystander"), source.load)
    source.value = b"second"
    assert await one.invalidate("t", "recommend", "user")
    assert await other.get(asked(), source.load) == Answer(b"second", Tier.LOADED)
    assert await one.get(asked(), source.load) == Answer(b"second", Tier.REDIS)
    for results in servers:
        assert await results.get(asked(scope="bystander"), source.load) == Answer(b"first", Tier.LOCAL)


async def test_a_whole_kind_is_invalidated(servers: tuple[Results, Results], source: Source) -> None:
    one, other = servers
    several = [asked(), asked(scope="another"), asked(scope="")]
    for what in [*several, asked(tenant="u"), asked(LATE)]:
        await one.get(what, source.load)
        await other.get(what, source.load)
    source.value = b"second"
    assert await one.invalidate("t", "recommend")
    for results in (other, one):
        assert {(await results.get(what, source.load)).value for what in several} == {b"second"}
        assert (await results.get(asked(tenant="u"), source.load)).value == b"first"
        assert (await results.get(asked(LATE), source.load)).value == b"first"


async def test_redis_holds_nothing_of_an_invalidated_scope(results: Results, redis: Redis, source: Source) -> None:
    for place in range(5):
        await results.get(asked(key=bytes([place])), source.load)
    keys = await redis.run(KEYS, (), ())
    assert isinstance(keys, list)
    assert len(keys) == 2
    await results.invalidate("t", "recommend", "user")
    assert await redis.run(KEYS, (), ()) == [b"penstock:answers:t:recommend"]


@pytest.mark.parametrize("scope", ["user", None])
@pytest.mark.parametrize("by", [0, 1])
async def test_a_computation_from_before_is_neither_kept_nor_joined(
    servers: tuple[Results, Results], source: Source, by: int, scope: str | None
) -> None:
    """Whichever server the invalidation comes to."""
    source.go_on = asyncio.Event()
    before = asyncio.create_task(servers[0].get(asked(), source.load))
    await source.begun.wait()
    source.value = b"second"
    await servers[by].invalidate("t", "recommend", scope)
    after = asyncio.create_task(servers[0].get(asked(), source.load))
    await until(lambda: source.loads == 2)
    source.go_on.set()
    assert (await before).value == b"first"
    assert (await after).value == b"second"
    for results in servers:
        assert (await results.get(asked(), source.load)).value == b"second"
    assert source.loads == 2


async def test_a_computation_that_ends_after_the_invalidation_is_not_kept_in_redis(
    servers: tuple[Results, Results], source: Source
) -> None:
    for kind in (None, "user"):
        source.value, source.go_on = b"first", asyncio.Event()
        source.begun.clear()
        key = str(kind).encode()
        before = asyncio.create_task(servers[0].get(asked(key=key), source.load))
        await source.begun.wait()
        await servers[1].invalidate("t", "recommend", kind)
        source.go_on.set()
        assert (await before).value == b"first"
        source.value = b"second"
        assert (await servers[1].get(asked(key=key), source.load)).value == b"second"


async def test_the_same_without_redis(source: Source) -> None:
    """The computation from before ends last."""
    async with Redis("") as redis, Results(redis, KINDS) as results:
        source.go_on = gate = asyncio.Event()
        before = asyncio.create_task(results.get(asked(), source.load))
        await source.begun.wait()
        source.value, source.go_on = b"second", None
        await results.invalidate("t", "recommend", "user")
        assert (await results.get(asked(), source.load)).value == b"second"
        gate.set()
        assert (await before).value == b"first"
        assert (await results.get(asked(), source.load)).value == b"second"


async def test_what_redis_said_before_is_not_kept_after(server: Server, source: Source) -> None:
    """Redis answers with the answer of before, and the invalidation is under way to it meanwhile."""
    async with (
        Redis(server.url, shared=False) as redis,
        Results(redis, KINDS) as other,
        Results(redis, KINDS) as results,
    ):
        await other.get(asked(), source.load)
        source.value = b"second"
        async with server.hanging():  # both are sent meanwhile, and answered in this order
            before = asyncio.create_task(results.get(asked(), source.load))
            await asyncio.sleep(0.005)
            invalidated = asyncio.create_task(results.invalidate("t", "recommend", "user"))
            await asyncio.sleep(0.005)
        await asyncio.gather(before, invalidated)
        assert (await results.get(asked(), source.load)).value == b"second"


async def test_trust_is_how_late_another_server_may_be(redis: Redis, server: Server, source: Source) -> None:
    clock = Clock()
    async with Redis(server.url, call_s_max=PATIENT_S) as second:
        one, other = Results(redis, KINDS, clock=clock), Results(second, KINDS, clock=clock)
        await other.get(asked(LATE), source.load)
        source.value = b"second"
        await one.invalidate("t", "late", "user")
        clock.now += LATE.trust_s - 1
        assert (await other.get(asked(LATE), source.load)).value == b"first"
        clock.now += 1
        assert (await other.get(asked(LATE), source.load)).value == b"second"


async def test_redis_away_is_slower_and_never_wrong(server: Server, hasty_redis: Redis, source: Source) -> None:
    async with Results(hasty_redis, KINDS) as results:
        for kind in (EXACT, TRUSTED):
            await results.get(asked(kind), source.load)
        async with server.hanging():
            await noticed_away(hasty_redis)
            # Another server may have invalidated the one kind, and nobody invalidates the other within its time.
            assert (await results.get(asked(EXACT), source.load)).tier is Tier.LOADED
            assert (await results.get(asked(TRUSTED), source.load)).tier is Tier.LOCAL
        await until(lambda: hasty_redis.available)
        assert (await results.get(asked(EXACT), source.load)).tier is Tier.REDIS  # nobody did


async def test_an_invalidation_while_redis_hangs_reaches_it_later(
    hasty: tuple[Results, Results], server: Server, source: Source
) -> None:
    one, other = hasty
    for results in hasty:
        await results.get(asked(), source.load)
    async with server.hanging():
        source.value = b"second"
        assert not await one.invalidate("t", "recommend", "user")
        assert (await one.get(asked(), source.load)).value == b"second"
    # At no moment from here on does this server believe what Redis still has of before.
    for _ in range(200):
        assert (await one.get(asked(), source.load)).value == b"second"
        await asyncio.sleep(0)
    await until(lambda: not one.unsent)
    assert (await other.get(asked(), source.load)).value == b"second"


async def test_more_invalidations_than_are_remembered_invalidate_the_kind(
    hasty: tuple[Results, Results], server: Server, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.cache.results.UNSENT_MAX", 3)
    one, other = hasty
    users = [f"user{place}" for place in range(6)]
    for user in users:
        await other.get(asked(scope=user), source.load)
    source.value = b"second"
    async with server.hanging():
        for user in users:
            assert not await one.invalidate("t", "recommend", user)
        assert one.unsent <= 3
        for user in users:
            assert (await one.get(asked(scope=user), source.load)).value == b"second"
    await until(lambda: not one.unsent)
    for results in hasty:
        assert {(await results.get(asked(scope=user), source.load)).value for user in users} == {b"second"}


async def test_a_redis_of_ones_own_is_not_asked_for_what_is_here(server: Server, source: Source) -> None:
    async with Redis(server.url, shared=False, call_s_max=PATIENT_S) as redis, Results(redis, KINDS) as results:
        await results.get(asked(), source.load)
        answered = redis.counters.answered
        assert (await results.get(asked(), source.load)).tier is Tier.LOCAL
        assert redis.counters.answered == answered
        source.value = b"second"
        await results.invalidate("t", "recommend", "user")
        assert (await results.get(asked(), source.load)).value == b"second"


async def test_without_redis_it_works_alone(source: Source) -> None:
    async with Redis("") as redis, Results(redis, KINDS) as results:
        assert [(await results.get(asked(), source.load)).tier for _ in range(2)] == [Tier.LOADED, Tier.LOCAL]
        source.value = b"second"
        assert await results.invalidate("t", "recommend", "user")
        assert (await results.get(asked(), source.load)).value == b"second"


async def test_redis_may_forget_anything(results: Results, redis: Redis, source: Source) -> None:
    await results.get(asked(), source.load)
    await flush(redis)
    source.value = b"second"
    assert (await results.get(asked(), source.load)).value == b"second"  # it may have been invalidated before
    assert (await results.get(asked(), source.load)).tier is Tier.LOCAL


async def test_redis_that_is_full_evicts_and_all_answers_stay_right() -> None:
    async with (
        redis_server(memory_bytes=1) as server,  # the least there is
        Redis(server.url, call_s_max=PATIENT_S) as redis,
        Results(redis, KINDS, entries_max=1) as results,
    ):
        tiers = []
        for turn in range(3):
            for place in range(300):
                value = place.to_bytes(2, "big") * 25_000
                answer = await results.get(asked(key=b"%d" % place, scope=f"u{place}"), partial(_give, value))
                assert answer.value == value
                tiers.append((turn, answer.tier))
        assert redis.counters.refused == 0
        assert (1, Tier.LOADED) in tiers  # some were evicted,
        assert await results.get(asked(key=b"299", scope="u299"), _fail)  # and some were not


async def test_a_scope_holds_so_many_answers_in_redis(results: Results, redis: Redis, source: Source) -> None:
    for place in range(3 * SCOPE_FIELDS_MAX):
        await results.get(asked(key=b"%d" % place), source.load)
    fields = await redis.hash("penstock:answers:t:recommend:user")
    assert isinstance(fields, dict)
    assert 2 < len(fields) <= SCOPE_FIELDS_MAX + 2
    assert (await results.get(asked(key=b"0"), source.load)).tier is Tier.LOCAL  # it is no invalidation


async def test_what_is_counted(servers: tuple[Results, Results], source: Source) -> None:
    one, other = servers
    await one.get(asked(), source.load)
    await one.get(asked(), source.load)
    await other.get(asked(), source.load)
    await one.invalidate("t", "recommend", "user")
    stats = one.stats("t")
    counted = stats.kinds["recommend"]
    assert (counted.local_hits, counted.redis_hits, counted.misses, counted.sets) == (1, 0, 1, 1)
    assert (counted.invalidations, counted.evictions, counted.hit_rate) == (1, 0, 0.5)
    assert counted.get_us_mean > 0
    assert counted.set_us_mean > 0
    assert (stats.entries, one.size) == (0, (0, 0))
    assert stats.uptime_s > 0
    assert other.stats("t").kinds["recommend"].redis_hits == 1
    assert stats.kinds["search"].hit_rate is None
    assert one.stats("another tenant").kinds["recommend"].hit_rate is None
    assert one.tallies.sums()["recommend"] == counted


async def test_a_scope_that_names_nothing_is_refused(results: Results) -> None:
    with pytest.raises(ValueError, match="scope"):
        await results.invalidate("t", "recommend", "")


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("xyz"), st.integers(0, 3000)), max_size=60))
def test_the_local_tier_keeps_within_its_bounds(puts: list[tuple[str, str, int]]) -> None:
    tier = LocalTier(entries_max=4, bytes_max=20_000, tallies=Tallies(), clock=Clock())
    for key, scope, size in puts:
        tier.put(asked(key=key.encode(), scope=scope), Entry(b"v" * size, 2e6, b"", 0.0))
        assert len(tier) <= 4
        assert tier.bytes <= 20_000
        if size <= 20_000 // 8 - ENTRY_OVERHEAD_BYTES - 1:
            assert tier.get(asked(key=key.encode(), scope=scope)) is not None
    for scope in "xyz":
        tier.drop_scope("t", "recommend", scope)
    assert (len(tier), tier.bytes) == (0, 0)


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["get", "get", "get", "change", "change kind", "flush"]),
        st.integers(0, 1),  # which server
        st.sampled_from(["u1", "u2"]),
        st.sampled_from([b"a", b"b"]),
    ),
    max_size=30,
)


_tenants = count()  # hypothesis runs an example again to make it smaller


@given(steps=_STEPS)
@settings(max_examples=60)
async def test_whatever_happens_nothing_of_before_is_served(
    redis: Redis, steps: list[tuple[str, int, str, bytes]]
) -> None:
    tenant = str(next(_tenants))
    # The second keeps one answer only, so that it finds the others in Redis.
    servers = Results(redis, KINDS), Results(redis, KINDS, entries_max=1)
    truth = {"u1": 0, "u2": 0}
    for step, place, user, key in steps:
        results = servers[place]
        if step == "change":
            truth[user] += 1
            assert await results.invalidate(tenant, "recommend", user)
        elif step == "change kind":
            truth = {each: value + 1 for each, value in truth.items()}
            assert await results.invalidate(tenant, "recommend")
        elif step == "flush":
            await flush(redis)
        else:
            now = b"%d" % truth[user]
            got = await results.get(asked(tenant=tenant, scope=user, key=key), partial(_give, now))
            assert got.value == now


async def _give(value: bytes) -> bytes:
    return value


async def _fail() -> bytes:
    raise AssertionError("it was to be kept")
