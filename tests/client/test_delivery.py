"""The streams of feedback and products against a model of the server that fails on demand."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from google.rpc import code_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

import penstock
from penstock_client import Interaction, LimitReached, Product, interaction, product
from penstock_client.delivery import REQUEST_BYTES_MAX, REQUESTS_OUT_MAX
from penstock_client.loop_thread import shared_loop
from tests.client.model_server import status
from tests.client.shop_model import ShopModel


@pytest.fixture
async def model() -> AsyncIterator[ShopModel]:
    """A model server."""
    async with ShopModel() as running:
        yield running


@pytest.fixture
async def client(model: ShopModel) -> AsyncIterator[penstock.Client]:
    """A client of it."""
    async with penstock.Client(model.target, timeout_s=5, retry_total_s=10) as opened:
        yield opened


def clicks(count: int) -> Iterator[Any]:
    """Interactions that tell their number."""
    return (interaction("u", f"p{n}", "click") for n in range(count))


async def slowly(items: Any) -> AsyncIterator[Any]:
    """One after the other, with a turn of the loop between them."""
    for each in items:
        await asyncio.sleep(0)
        yield each


async def test_what_comes_is_stored_and_answered_in_order(client: penstock.Client, model: ShopModel) -> None:
    answers = [each async for each in client.feedback.stream(slowly(clicks(100)), batch=7)]
    assert list(model.interactions.values()) == [f"p{n}" for n in range(100)]
    assert sum(each.stored for each in answers) == 100
    assert [each.commit for each in answers] == list(range(1, len(answers) + 1))
    assert max(model.sizes) <= 7


async def test_an_interaction_does_not_wait_for_the_next(client: penstock.Client, model: ShopModel) -> None:
    """Neither from an async source, nor from a plain one that blocks."""
    more = asyncio.Event()

    async def source() -> AsyncIterator[Interaction]:
        yield interaction("u", "first", "view")
        await more.wait()
        yield interaction("u", "second", "view")

    stream = client.feedback.stream(source())
    assert (await asyncio.wait_for(anext(stream), 5)).stored == 1
    more.set()
    assert [each.stored async for each in stream] == [1]


async def test_a_broken_connection_stores_nothing_twice(client: penstock.Client, model: ShopModel) -> None:
    """Neither what was stored and not answered, nor what was not stored; the caller's messages stay as they were."""
    model.break_before.append(3)
    model.break_after.append(5)
    sent = [Interaction(user_id="u", product_id=f"p{n}", interaction_type="VIEW") for n in range(200)]
    answers = [each async for each in client.feedback.stream(sent, batch=10)]
    assert list(model.interactions.values()) == [f"p{n}" for n in range(200)]
    assert sum(each.stored + each.duplicates for each in answers) == 200
    assert sum(each.duplicates for each in answers) > 0
    assert not any(each.request_id for each in sent)


@settings(max_examples=15)
@given(
    count=st.integers(0, 120),
    batch=st.integers(1, 50),
    before=st.lists(st.integers(1, 6), max_size=3),
    after=st.lists(st.integers(1, 6), max_size=3),
    overloaded=st.integers(0, 2),
)
async def test_whatever_breaks_all_is_stored_once(
    count: int, batch: int, before: list[int], after: list[int], overloaded: int
) -> None:
    async with ShopModel() as model, penstock.Client(model.target, retry_total_s=30) as client:
        model.break_before.extend(before)
        model.break_after.extend(after)
        model.refuse.extend([status(code_pb2.RESOURCE_EXHAUSTED, "OVERLOADED", 0.01)] * overloaded)
        answers = [each async for each in client.feedback.stream(clicks(count), batch=batch)]
        assert list(model.interactions.values()) == [f"p{n}" for n in range(count)]
        assert sum(each.stored + each.duplicates for each in answers) == count


async def test_a_refusal_that_stays_is_raised(client: penstock.Client, model: ShopModel) -> None:
    """What was answered before is stored; trying again would not help."""
    stream = client.feedback.stream(slowly(clicks(500)), batch=5)
    await anext(stream)
    model.refuse.append(status(code_pb2.INVALID_ARGUMENT, "INVALID_FIELD"))
    with pytest.raises(penstock.InvalidRequest):
        async for _ in stream:
            pass


async def test_a_full_catalogue_is_no_reason_to_try_again(client: penstock.Client, model: ShopModel) -> None:
    model.refuse.append(status(code_pb2.RESOURCE_EXHAUSTED, "TOO_MANY_PRODUCTS"))
    with pytest.raises(penstock.Error, match="TOO_MANY_PRODUCTS") as full:
        await client.catalog.load([product("p", "P")])
    assert isinstance(full.value, LimitReached)
    assert len(model.requests) == 1


async def test_a_server_that_stays_away_is_given_up(model: ShopModel) -> None:
    model.break_before.extend([1] * 1_000)
    async with penstock.Client(model.target, retry_total_s=0.3) as client:
        with pytest.raises(penstock.Unavailable):
            await anext(client.feedback.stream(clicks(1)))


async def test_an_error_of_the_source_is_raised_behind_what_came_before_it(
    client: penstock.Client, model: ShopModel
) -> None:
    async def source() -> AsyncIterator[Interaction]:
        for each in clicks(3):
            yield each
        raise ZeroDivisionError

    answers = []
    with pytest.raises(ZeroDivisionError):  # noqa: PT012
        async for answer in client.feedback.stream(source()):
            answers.append(answer)  # noqa: PERF401  # a comprehension would keep nothing of what came before
    assert sum(each.stored for each in answers) == 3


async def test_leaving_early_ends_the_source(client: penstock.Client, model: ShopModel) -> None:
    ended = asyncio.Event()

    async def source() -> AsyncIterator[Interaction]:
        try:
            while True:
                yield interaction("u", "p", "view")
        finally:
            ended.set()

    stream: Any = client.feedback.stream(source(), batch=2)
    await anext(stream)
    await stream.aclose()
    await asyncio.wait_for(ended.wait(), 5)


async def test_a_closed_client_ends_the_stream(model: ShopModel) -> None:
    hold = asyncio.Event()

    async def source() -> AsyncIterator[Interaction]:
        yield interaction("u", "p", "view")
        await hold.wait()
        yield interaction("u", "q", "view")

    client = penstock.Client(model.target)
    stream = client.feedback.stream(source())
    await anext(stream)
    await client.close()
    hold.set()
    with pytest.raises((penstock.Unavailable, RuntimeError)):
        await anext(stream)


async def test_a_load_reads_no_further_than_the_server_takes(client: penstock.Client, model: ShopModel) -> None:
    """What is read and not yet stored is bounded, however much there is."""
    read = 0

    def source() -> Iterator[Product]:
        nonlocal read
        for n in range(10_000):
            read += 1
            yield product(f"p{n}", "P")

    ahead = [read - len(model.products) async for _ in client.catalog.stream(source(), batch=100)]
    assert len(model.products) == 10_000
    # Requests out, those being read and waiting, and one that is made.
    assert max(ahead) <= 100 * (REQUESTS_OUT_MAX + 4)


async def test_requests_are_bounded_in_bytes(client: penstock.Client, model: ShopModel) -> None:
    long = "x" * 30_000
    loaded = await client.catalog.load((product(f"p{n}", "P", description=long) for n in range(200)), batch=5_000)
    assert loaded.created == 200
    assert len(model.requests) > 2
    assert max(each.ByteSize() for each in model.requests) < REQUEST_BYTES_MAX + 40_000


async def test_a_load_counts_and_takes_mappings(client: penstock.Client, model: ShopModel) -> None:
    rows = [{"product_id": f"p{n}", "name": f"P{n}"} for n in range(25)]
    loaded = await client.catalog.load(rows, batch=10)
    assert (loaded.created, loaded.unchanged, loaded.commit) == (25, 0, 3)
    assert (await client.catalog.load(slowly(rows))).unchanged == 25
    with pytest.raises(TypeError, match="nme"):
        await client.catalog.load([{"product_id": "p", "nme": "P", "name": "P"}])


def test_sync_streams_too() -> None:
    model = ShopModel()
    shared_loop().run(model.__aenter__())
    try:
        with penstock.SyncClient(model.target) as client:
            assert sum(each.stored for each in client.feedback.stream(clicks(30), batch=4)) == 30
            assert client.catalog.load(product(f"p{n}", "P") for n in range(30)).created == 30
    finally:
        shared_loop().run(model.__aexit__(None, None, None))
