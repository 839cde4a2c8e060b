"""The nearest neighbours of vectors over gRPC: how many a second, how soon, how right, also behind filters."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from statistics import median

import grpc
import numpy as np
import numpy.typing as npt

from loadtest import empty
from loadtest.calls import CONCURRENCY, by_turns, caller, calls_per_s, empty_server, percentile_ms, percentiles_ms
from loadtest.launch import scratch, server
from loadtest.result import Detail, Result
from loadtest.scale import Scale
from loadtest.shop import ONE_IN, Shop, product_id, shop
from loadtest.stocked import Vectors, ready
from loadtest.stream import CHANNEL_OPTIONS
from penstock.search.v1 import search_pb2
from penstock.search.v1 import search_service_pb2 as pb
from penstock_client import Client

SEARCH_VECTORS = "/penstock.search.v1.SearchService/SearchVectors"
NEAREST = 10
P95_MS_MAX = 8.0  # what was promised, of 8 clients over 100,000 products
RECALL_MIN = 0.99  # likewise, and behind every filter
OF_EMPTY = 0.7  # likewise: throughput, as a share of empty calls of the same client
WIDTHS = (*(1 / each for each in ONE_IN), 1.0)
FILTERED_QUERIES = 100  # of each filter, whose answers are compared with exact ones
EQUAL = 1e-5  # scores that differ by less are of equally near products, of which any will do


async def vector_search(name: str, scale: Scale) -> Result:
    """SearchVectors without a filter, ids alone and whole products, and an empty call, by turns."""
    stocked = await asyncio.to_thread(shop, scale.products)
    truth = exact(stocked.vectors, stocked.queries, None)
    async with serving(stocked) as (target, index), AsyncExitStack() as held:
        with scratch() as folder, empty_server(folder) as (port, _):
            bodies = requests(stocked.queries, ids_only=True)
            recall = (await answered(target, bodies, stocked, truth)).recall
            ids = await caller(held, target, SEARCH_VECTORS, bodies)
            whole = await caller(held, target, SEARCH_VECTORS, requests(stocked.queries, ids_only=False))
            call_empty = await caller(held, f"127.0.0.1:{port}", empty.METHOD, [b""])
            rates, empties, waits_s = await by_turns(ids, call_empty, scale)
            whole_rates, whole_empties, whole_waits_s = await by_turns(whole, call_empty, scale)
    return Result(
        name, median(rates), "rpc/s", median(empties), "an empty unary call of the same runtime",
        target=OF_EMPTY,
        holds=recall >= RECALL_MIN and percentile_ms(waits_s, 95) <= P95_MS_MAX,
        details={
            "products": stocked.products, "concurrency": CONCURRENCY,
            "recall_at_10": recall, "recall_min": RECALL_MIN,
            **percentiles_ms(waits_s, 50, 95), "p95_ms_max": P95_MS_MAX,
            "whole_products_per_s": median(whole_rates),
            "whole_products_ratio": median(whole_rates) / median(whole_empties),
            "whole_products_p95_ms": percentile_ms(whole_waits_s, 95),
            **_of(index),
        },
    )  # fmt: skip


async def vector_search_filtered(name: str, scale: Scale) -> Result:
    """Filters that let through from one in ten thousand to all: scattered over the shop, or of a few kinds only."""
    stocked = await asyncio.to_thread(shop, scale.products)
    details: dict[str, Detail] = {"products": stocked.products, "concurrency": CONCURRENCY}
    recalls: list[float] = []
    p95s_ms: list[float] = []
    async with serving(stocked) as (target, index), AsyncExitStack() as held:
        for each in filters(stocked):
            truth = exact(stocked.vectors, stocked.queries[:FILTERED_QUERIES], each.lets_through)
            bodies = requests(stocked.queries, ids_only=True, filters=each.filter)
            right = await answered(target, bodies[:FILTERED_QUERIES], stocked, truth)
            call = await caller(held, target, SEARCH_VECTORS, bodies)
            waits_s: list[float] = []
            await calls_per_s(call, scale.seconds, waits_s)
            recalls.append(right.recall)
            p95s_ms.append(percentile_ms(waits_s, 95))
            details |= {
                f"{each.name}_recall": right.recall,
                f"{each.name}_p50_ms": percentile_ms(waits_s, 50),
                f"{each.name}_p95_ms": p95s_ms[-1],
                f"{each.name}_plan": right.plan,
            }
    return Result(
        name, min(recalls), "recall@10", RECALL_MIN, "what was promised behind every filter",
        target=1.0,
        details={"p95_ms": max(p95s_ms), **details, **_of(index)},
    )  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Wide:
    """A filter, and what it lets through."""

    name: str
    filter: search_pb2.ProductFilter
    lets_through: npt.NDArray[np.bool_] | None  # (products,); None: all


def filters(stocked: Shop) -> Sequence[Wide]:
    """Each width twice: `scattered`, by an attribute, and `together`, by a range of prices, which is few kinds."""
    made = []
    numbers, prices = np.arange(stocked.products), np.asarray(stocked.prices)
    for each, share in zip(ONE_IN, WIDTHS[:-1], strict=True):
        chosen = numbers % each == each // 2
        if not chosen.any():
            continue  # a small shop has no product that is one in so many
        by_attribute = search_pb2.ProductFilter(attributes={f"one_in_{each}": search_pb2.Values(values=["yes"])})
        made.append(Wide(f"scattered_{share * 100:g}pct", by_attribute, chosen))
        first = stocked.products // 3
        last = first + max(1, round(stocked.products * share)) - 1
        made.append(
            Wide(
                f"together_{share * 100:g}pct",
                search_pb2.ProductFilter(min_price=first, max_price=last),
                (prices >= first) & (prices <= last),
            )
        )
    return [*made, Wide("all_100pct", search_pb2.ProductFilter(in_stock=True), None)]


@asynccontextmanager
async def serving(stocked: Shop) -> AsyncIterator[tuple[str, search_pb2.Index]]:
    """Where a server over the shop listens, and how its index is."""
    with server(stocked.folder, fsync=False, pipeline=False) as running:
        async with Client(running.target) as client:
            index = await ready(client)
        yield running.target, index


def requests(queries: Vectors, *, ids_only: bool, filters: search_pb2.ProductFilter | None = None) -> Sequence[bytes]:
    """A request for each query, as it goes over the wire."""
    return [
        pb.SearchVectorsRequest(
            vectors=[search_pb2.Vector(packed=query.astype("<f4").tobytes())],
            limit=NEAREST,
            ids_only=ids_only,
            filters=filters,
        ).SerializeToString()
        for query in queries
    ]


def exact(vectors: Vectors, queries: Vectors, among: npt.NDArray[np.bool_] | None) -> Vectors:
    """(q,): the cosine of the last of the NEAREST that each query has to find; all are compared."""
    chosen = vectors if among is None else vectors[among]
    last = min(NEAREST, len(chosen))
    blocks = (queries[first : first + 100] @ chosen.T for first in range(0, len(queries), 100))
    kth: Vectors = np.concatenate([-np.partition(-block, last - 1, axis=1)[:, last - 1] for block in blocks])
    return kth


@dataclass(frozen=True, slots=True)
class Answered:
    """How right the answers were, and how they were found."""

    recall: float
    plan: str


async def answered(target: str, bodies: Sequence[bytes], stocked: Shop, truth: Vectors) -> Answered:
    """Asks each query once, one after another. What is found is judged by our own vectors, not by the answers' scores.

    Raises RuntimeError for an answer with a product twice, or with too few.
    """
    number_of = {product_id(number): number for number in range(stocked.products)}
    found = wanted = 0
    plans: Counter[str] = Counter()
    async with grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS) as channel:
        search = channel.unary_unary(SEARCH_VECTORS, response_deserializer=pb.SearchVectorsResponse.FromString)
        for place, body in enumerate(bodies):
            answer: pb.SearchVectorsResponse = await search(body)
            ids = [result.product.product_id for result in answer.neighbours[0].results]
            if len(set(ids)) != min(NEAREST, answer.plan.matches):
                raise RuntimeError(f"{ids} are found, where {answer.plan.matches} products match")
            scores = stocked.vectors[[number_of[each] for each in ids]] @ stocked.queries[place]
            found += int((scores >= truth[place] - EQUAL).sum())
            wanted += len(ids)
            plans[answer.plan.kind] += 1
    return Answered(found / wanted, plans.most_common(1)[0][0])


def _of(index: search_pb2.Index) -> Mapping[str, Detail]:
    return {
        "index": index.kind,
        "index_mb": index.memory_bytes / 1e6,
        "own_recall_at_10": index.recall_at_10,
        "delta": index.delta_size,
    }
