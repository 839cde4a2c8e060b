"""Redis that may be away: right replies or ABSENT, whatever happens to it."""

import asyncio
import random
from collections.abc import Awaitable
from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from penstock.cache.connections import CONNECTIONS_MAX, Reply
from penstock.cache.redis import ABSENT, PIPELINE_CALLS_MAX, Absent, Call, Redis, Script, key_of
from tests.cache.running import GET, SET, Server, noticed_away
from tests.waiting import until

ECHO = Script("return ARGV[1]")
FILL = Script("return redis.call('HSET', KEYS[1], unpack(ARGV))")


async def test_scripts_and_hashes(redis: Redis) -> None:
    assert await redis.run(FILL, ["h"], ["one", b"\x00\xff", "two", 2]) == 2
    assert await redis.hash("h") == {b"one": b"\x00\xff", b"two": b"2"}
    assert await redis.hash("none") == {}
    assert await redis.run(GET, ["none"], ()) is None


async def test_many_calls_keep_their_order(redis: Redis) -> None:
    count = 3 * PIPELINE_CALLS_MAX + 1
    replies = await redis.run_many(ECHO, [Call((), [place]) for place in range(count)])
    assert replies == [str(place).encode() for place in range(count)]
    assert redis.counters.answered == count


async def test_calls_with_much_in_them_go_in_smaller_lots(redis: Redis) -> None:
    sizes = [0, 1, 1500, 400, 200, 3000, 3000, 1]
    count_all = Script("return #ARGV")
    assert await redis.run_many(count_all, [Call((), ["x"] * size) for size in sizes]) == sizes
    assert await redis.run_many(count_all, []) == []


async def test_never_there() -> None:
    async with Redis("unix:///nonexistent/socket") as redis:
        assert not redis.available
        assert redis.last_error
        assert await redis.run(GET, ["any"], ()) is ABSENT
        assert await redis.run_many(GET, [Call(["any"], ())] * 3) == [ABSENT] * 3
        assert await redis.hash("any") is ABSENT
        assert redis.counters.skipped == redis.counters.absent == 5


async def test_a_script_that_fails_is_absent_and_redis_stays(redis: Redis) -> None:
    assert await redis.run(Script("return redis.call('HGET', KEYS[1])"), ["k"], ()) is ABSENT
    assert "number of args" in redis.last_error
    assert redis.available
    assert redis.counters.refused == 1


async def test_one_bad_call_of_many_spoils_no_other(redis: Redis) -> None:
    assert await redis.run(FILL, ["hash"], ["field", "1"]) == 1
    replies = await redis.run_many(SET, [Call(["a"], ["1"]), Call(["b"], ()), Call(["c"], ["3"])])
    assert replies == [b"OK", ABSENT, b"OK"]


async def test_hanging_costs_one_call_and_it_comes_back(server: Server, hasty_redis: Redis) -> None:
    recovered: list[bool] = []
    hasty_redis.on_recovered(lambda: recovered.append(hasty_redis.available))
    assert await hasty_redis.run(SET, ["key"], ["1"]) == b"OK"
    async with server.hanging():
        await noticed_away(hasty_redis)
        late = hasty_redis.counters.late
        for _ in range(10):
            assert await hasty_redis.run(GET, ["key"], ()) is ABSENT
        assert hasty_redis.counters.late == late
        assert hasty_redis.counters.skipped == 10
        assert recovered == []
    await until(lambda: hasty_redis.available)
    assert recovered == [False]  # before calls are let through
    assert await hasty_redis.run(GET, ["key"], ()) == b"1"


async def test_replies_never_go_to_another_call(server: Server, hasty_redis: Redis) -> None:
    """Calls that are given up, by a timeout or by whoever made them, leave nothing behind that others could read."""

    async def ask(text: str) -> Reply | Absent:
        return await hasty_redis.run(ECHO, (), [text])

    chance = random.Random(7)
    for turn in range(40):
        asked = {f"{turn}-{place}": asyncio.create_task(ask(f"{turn}-{place}")) for place in range(20)}
        if turn % 10 == 5:
            async with server.hanging():
                await asyncio.sleep(0.1)
        for task in asked.values():
            if chance.random() < 0.3:
                await asyncio.sleep(0)
                task.cancel()
        replies = await asyncio.gather(*asked.values(), return_exceptions=True)
        for text, reply in zip(asked, replies, strict=True):
            assert reply is ABSENT or reply == text.encode() or isinstance(reply, asyncio.CancelledError)
        await until(lambda: hasty_redis.available)
    await all_places_are_free(hasty_redis)


async def test_killed_under_load(server: Server, hasty_redis: Redis) -> None:
    ended = False
    answered = 0

    async def work(name: str) -> None:
        nonlocal answered
        count = 0
        while not ended:
            count += 1
            set_, got = await hasty_redis.run(SET, [name], [count]), await hasty_redis.run(GET, [name], ())
            assert set_ in (b"OK", ABSENT)
            assert got in (ABSENT, None, str(count).encode()) or set_ is ABSENT
            answered += got is not ABSENT
            await asyncio.sleep(0)

    def has_answered(goal: int) -> bool:
        return answered >= goal

    workers = [asyncio.create_task(work(f"worker-{place}")) for place in range(20)]
    for _ in range(3):
        await server.kill()
        await until(lambda: hasty_redis.available)
        goal = answered + 100
        await until(partial(has_answered, goal))
    ended = True
    await asyncio.gather(*workers)
    assert hasty_redis.counters.recoveries >= 4
    await all_places_are_free(hasty_redis)


async def test_scripts_are_known_again_after_a_restart(server: Server, redis: Redis) -> None:
    assert await redis.run(ECHO, (), ["1"]) == b"1"
    await server.kill()
    await noticed_away(redis)
    await until(lambda: redis.available)
    assert await redis.run_many(ECHO, [Call((), ["2"]), Call((), ["3"])]) == [b"2", b"3"]


async def test_two_clients_see_one_redis(server: Server, redis: Redis) -> None:
    async with Redis(server.url) as other:
        assert await redis.run(SET, ["key"], ["from one"]) == b"OK"
        assert await other.run(GET, ["key"], ()) == b"from one"


async def test_closed_it_is_absent(server: Server) -> None:
    async with Redis(server.url) as redis:
        assert redis.available
    assert await redis.run(GET, ["any"], ()) is ABSENT


@given(st.lists(st.text(max_size=5), max_size=4), st.lists(st.text(max_size=5), max_size=4))
def test_different_parts_make_different_keys(parts: list[str], others: list[str]) -> None:
    assert (key_of(*parts) == key_of(*others)) == (parts == others)


async def all_places_are_free(redis: Redis) -> None:
    """As many calls as there are connections run beside each other, twice over."""
    calls: list[Awaitable[Reply | Absent]] = [redis.run(ECHO, (), [place]) for place in range(2 * CONNECTIONS_MAX)]
    assert await asyncio.gather(*calls) == [str(place).encode() for place in range(2 * CONNECTIONS_MAX)]
