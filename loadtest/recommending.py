"""Recommendations out of 100,000 products to users with a history, and feedback that changes the next ones."""

import asyncio
import itertools
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack

import grpc

from loadtest.calls import CONCURRENCY, Call, caller, calls, calls_per_s, percentile_ms, percentiles_ms
from loadtest.launch import scratch, server
from loadtest.result import Better, Result
from loadtest.scale import Scale
from loadtest.shop import Shop, product_id, shop, user_id
from loadtest.stocked import copied, ready
from loadtest.stream import CHANNEL_OPTIONS
from loadtest.vectors import serving
from penstock.feedback.v1 import feedback_pb2
from penstock.feedback.v1 import feedback_service_pb2 as feedback_pb
from penstock.feedback.v1.feedback_service_pb2_grpc import FeedbackServiceStub
from penstock.recommendations.v1 import recommendations_pb2
from penstock.recommendations.v1 import recommendations_service_pb2 as pb
from penstock.recommendations.v1.recommendations_service_pb2_grpc import RecommendationServiceStub
from penstock_client import Client

RECOMMEND = "/penstock.recommendations.v1.RecommendationService/Recommend"
UNCACHED_MS_MAX = 25.0  # what was promised, of 8 clients over 100,000 products
SESSION_MS_MAX = 5.0  # likewise, of the update of a session
MODEL_S_MAX = 60.0
POLL_S = 0.1
FIRST_USERS = 500
LIMITS = range(10, 110)  # a user is asked for once with each: the answers of before are in memory


async def recommend(name: str, scale: Scale) -> Result:
    """FEED of users with a history, none from memory, whole products in the answer.

    A user's first call, for which the session is looked up in ClickHouse, is counted apart from the later ones.
    """
    stocked = await asyncio.to_thread(shop, scale.products)
    first_s: list[float] = []
    waits_s: list[float] = []
    async with serving(stocked) as (target, _), AsyncExitStack() as held:
        version = await _learnt(target)
        some = range(min(stocked.users, FIRST_USERS))
        firsts = await caller(held, target, RECOMMEND, _feeds(some, LIMITS[:1]))
        feeds = await caller(held, target, RECOMMEND, _feeds(some, LIMITS[1:]))
        await calls(_checked(firsts), len(some), first_s)
        rate = await calls_per_s(_checked(feeds), scale.seconds * scale.rounds, waits_s)
    return Result(
        name, percentile_ms(waits_s, 95), "ms", UNCACHED_MS_MAX, "what was promised",
        better=Better.LOWER,
        target=1.0,
        details={
            "products": stocked.products, "users": len(some), "concurrency": CONCURRENCY, "calls": len(waits_s),
            **percentiles_ms(waits_s, 50, 99), "calls_per_s": rate, "model_version": version,
            **{f"first_call_{at}": took for at, took in percentiles_ms(first_s, 50, 95).items()},
        },
    )  # fmt: skip


async def feedback_session(name: str, scale: Scale) -> Result:
    """FEED, a click on a product of the shop, and FEED again, which must be another; durable, with fsync.

    The figure is what the server says that the update of the session took; the whole call beside it.
    """
    stocked = await asyncio.to_thread(shop, scale.products)
    session_ms: list[float] = []
    whole_s: list[float] = []
    with scratch() as folder:
        copy = await asyncio.to_thread(copied, stocked.folder, folder / "server")
        with server(copy, fsync=True, pipeline=False) as running:
            async with Client(running.target) as client:
                await ready(client)
            await _learnt(running.target)
            async with grpc.aio.insecure_channel(running.target, options=CHANNEL_OPTIONS) as channel:
                numbers = itertools.count()
                until = time.perf_counter() + scale.seconds * scale.rounds

                async def one_after_another() -> None:
                    while time.perf_counter() < until:
                        await _clicked(channel, stocked, next(numbers), session_ms, whole_s)

                await asyncio.gather(*(one_after_another() for _ in range(CONCURRENCY)))
    in_s = [each / 1e3 for each in session_ms]
    return Result(
        name, percentile_ms(in_s, 95), "ms", SESSION_MS_MAX, "what was promised",
        better=Better.LOWER,
        target=1.0,
        details={
            "products": stocked.products, "users": stocked.users, "concurrency": CONCURRENCY, "calls": len(in_s),
            **percentiles_ms(in_s, 50, 99),
            **{f"whole_call_{at}": took for at, took in percentiles_ms(whole_s, 50, 95).items()},
        },
    )  # fmt: skip


def _feeds(users: Sequence[int], limits: Sequence[int]) -> Sequence[bytes]:
    return [
        pb.RecommendRequest(user_id=user_id(user), context=recommendations_pb2.FEED, limit=limit).SerializeToString()
        for limit in limits
        for user in users
    ]


def _checked(call: Call) -> Call:
    """The call; RuntimeError for an answer from memory, or one that does not rest on what the user liked."""

    async def checked(number: int) -> bytes:
        answer = await call(number)
        found = pb.RecommendResponse.FromString(answer)
        if found.cached or len(found.items) < LIMITS.start or not found.weights.long_term:
            raise RuntimeError(f"{len(found.items)} items, from memory: {found.cached}, by {found.weights}")
        return answer

    return checked


async def _clicked(
    channel: grpc.aio.Channel, stocked: Shop, number: int, session_ms: list[float], whole_s: list[float]
) -> None:
    recommendations, feedback = RecommendationServiceStub(channel), FeedbackServiceStub(channel)
    user = user_id(number % stocked.users)
    asked = pb.RecommendRequest(user_id=user, context=recommendations_pb2.FEED, ids_only=True)
    before = await recommendations.Recommend(asked)
    interaction = feedback_pb2.Interaction(
        user_id=user,
        product_id=product_id(number * 7_919 % stocked.products),
        interaction_type=feedback_pb2.CLICK,
        request_id=f"click-{number}",
    )
    started = time.perf_counter()
    told = await feedback.SendFeedback(feedback_pb.SendFeedbackRequest(interaction=interaction))
    whole_s.append(time.perf_counter() - started)
    session_ms.append(told.session_ms)
    after = await recommendations.Recommend(asked)
    if after.cached or [each.product.product_id for each in after.items] == [
        each.product.product_id for each in before.items
    ]:
        raise RuntimeError(f"{user} clicked on {interaction.product_id}, and is recommended the same")


async def _learnt(target: str) -> int:
    """The version of the model, which is taken up a moment after the start. Raises TimeoutError."""
    async with Client(target) as client:
        for _ in range(int(MODEL_S_MAX / POLL_S)):
            if version := (await client.recommendations.model()).version:
                return version
            await asyncio.sleep(POLL_S)
    raise TimeoutError(f"there was no model after {MODEL_S_MAX:g} s")
