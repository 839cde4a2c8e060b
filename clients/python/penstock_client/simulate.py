"""Simulated browsing, labelled as such: every event is of the site `simulated-shop` and carries the property
`generator = penstock simulate`, so that nobody takes it for the real thing, and it is easily left out.

Visitors come in the rhythm of a day, look at a few pages and products, and some put things into the cart and buy. The
same seed gives the same visits.
"""

import asyncio
import heapq
import itertools
import math
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass

from penstock.events.v1.events_pb2 import Event
from penstock_client.client import Client
from penstock_client.fields import event
from penstock_client.writer import WriterStats

SITE_ID = "simulated-shop"
GENERATOR = {"generator": "penstock simulate"}
PRODUCTS = 500
VISITORS = 20_000
EVENTS_A_VISIT = 5.77  # the mean that the shape below has; visits begin at rate / EVENTS_A_VISIT

_SOURCES = (
    ("", "", ""),
    ("google", "organic", ""),
    ("google", "cpc", "spring-sale"),
    ("newsletter", "email", "weekly"),
    ("instagram", "social", ""),
)
_SOURCE_SHARES = (0.42, 0.66, 0.79, 0.90, 1.0)  # of each and those before it
_PAGES = ("/", "/sale", "/new", "/about", "/help/delivery")
_CATEGORIES = ("chairs", "lamps", "tables", "rugs", "shelves")
_P_LISTING, _P_CART, _P_BUY, _P_KNOWN_USER = 0.25, 0.16, 0.42, 0.35
# A product's price never changes: 5 to 400, most of them low.
_PRICES = tuple(round(5 * 80 ** random.Random(product).random(), 2) for product in range(PRODUCTS))
BUSIEST = 1.7  # of the day's mean
WARM_UP_S = 120.0  # a visit lasts so long at the mean
WARM_UP_EVENTS_MAX = 30_000
TICK_S = 0.05  # events due within it go together


@dataclass(frozen=True, slots=True)
class SimulateOptions:
    """What is simulated."""

    rate: float = 50.0  # events a second, as a mean over the day
    seed: int = 1
    duration_s: float | None = None  # None: until cancelled
    daily_rhythm: bool = True  # from 0.3 of the mean at 4 h to 1.7 at 16 h, UTC


def visit(rng: random.Random, start: float) -> Iterator[Event]:
    """One visit, begun at `start` (Unix seconds): its events in their order."""
    visitor = rng.randrange(VISITORS)
    source, medium, campaign = rng.choices(_SOURCES, cum_weights=_SOURCE_SHARES)[0]
    session_id = f"sim-{rng.getrandbits(64):016x}"
    user_id = f"user-{visitor}" if visitor % 100 < _P_KNOWN_USER * 100 else None
    clock, first = start, True
    cart: list[int] = []

    def made(event_type: str, path: str, product: int | None = None, order_id: str | None = None) -> Event:
        nonlocal first
        landing, first = first, False
        return event(
            event_type,
            timestamp=clock,
            user_id=user_id,
            visitor_id=f"visitor-{visitor}",
            session_id=session_id,
            site_id=SITE_ID,
            product_id=f"p{product}" if product is not None else None,
            order_id=order_id,
            price=_PRICES[product] if product is not None else None,
            quantity=1 if event_type == "purchase" else None,
            path=path,
            utm_source=source if landing else None,
            utm_medium=medium if landing else None,
            utm_campaign=campaign if landing else None,
            properties=GENERATOR,
        )

    yield made("page_view", rng.choice(_PAGES))
    while rng.random() < 0.8:  # another page: 4 on average
        clock += rng.lognormvariate(3.0, 0.8)
        if rng.random() < _P_LISTING:
            yield made("page_view", f"/c/{rng.choice(_CATEGORIES)}")
            continue
        product = min(int(rng.paretovariate(1.1)) - 1, PRODUCTS - 1)  # few products draw most looks
        yield made("page_view", f"/p/{product}", product)
        if rng.random() < _P_CART:
            clock += rng.uniform(2, 20)
            cart.append(product)
            yield made("add_to_cart", f"/p/{product}", product)
    if cart and rng.random() < _P_BUY:
        clock += rng.uniform(30, 180)
        yield made("page_view", "/checkout")
        clock += rng.uniform(20, 90)
        for product in cart:
            yield made("purchase", "/checkout/done", product, order_id=f"order-{session_id}")


def intensity(when: float) -> float:
    """How busy the shop is at that time (Unix seconds), 1 being the day's mean."""
    hour = when % 86_400 / 3_600
    return 1 + (BUSIEST - 1) * math.cos((hour - 16) / 24 * 2 * math.pi)


def history(options: SimulateOptions, start: float, end: float = math.inf) -> Iterator[Event]:
    """The events of all visits that begin in [start, end), Unix seconds, in the order of their times."""
    rng = random.Random(options.seed)
    busiest = options.rate / EVENTS_A_VISIT * (BUSIEST if options.daily_rhythm else 1.0)
    under_way: list[tuple[float, int, Event, Iterator[Event]]] = []
    order = itertools.count()

    def follow(events: Iterator[Event]) -> None:
        following = next(events, None)
        if following is not None:
            heapq.heappush(under_way, (_seconds(following), next(order), following, events))

    clock = start
    while clock < end:
        # Thinning: visits come as often as in the busiest hour, and are let in as often as in this one.
        clock += rng.expovariate(busiest)
        while under_way and (under_way[0][0] <= clock or clock >= end):
            _, _, due, events = heapq.heappop(under_way)
            yield due
            follow(events)
        if clock < end and (not options.daily_rhythm or rng.random() * BUSIEST < intensity(clock)):
            follow(visit(random.Random(rng.getrandbits(64)), clock))


async def live(options: SimulateOptions) -> AsyncIterator[Event]:
    """Events as they happen, from now on."""
    begun = time.time()
    end = math.inf if options.duration_s is None else begun + options.duration_s
    # Visits that are under way at the start began before it; without them the rate would take minutes to be reached.
    warm_up_s = min(WARM_UP_S, WARM_UP_EVENTS_MAX / options.rate)
    events = (each for each in history(options, begun - warm_up_s) if _seconds(each) >= begun)
    first = await asyncio.to_thread(next, events)
    for each in itertools.chain((first,), events):
        when = _seconds(each)
        if when >= end:
            return
        wait = when - time.time()
        if wait > 0:
            await asyncio.sleep(max(wait, TICK_S))
        yield each


async def simulate(
    client: Client,
    options: SimulateOptions | None = None,
    progress: Callable[[WriterStats], None] | None = None,
    *,
    stream_id: str = "",
) -> WriterStats:
    """Streams simulated events until `duration_s` is over or the task is cancelled, and says what was stored.

    Each run has a stream of its own unless `stream_id` names one. `progress` is told about once a second.
    """
    options = options or SimulateOptions()
    told = time.monotonic()
    async with client.events.writer(stream_id or f"simulate:{time.time_ns()}") as writer:
        async for each in live(options):
            await writer.send(each)
            if progress is not None and time.monotonic() - told >= 1:
                told = time.monotonic()
                progress(writer.stats)
    if progress is not None:
        progress(writer.stats)
    return writer.stats


def _seconds(each: Event) -> float:
    return each.timestamp.seconds + each.timestamp.nanos / 1e9
