"""How good recommendations are: what users did next is held out, and looked for in what a server recommends to them.

The server is told of everything before, learns, and is asked for each user's FEED: by the calls that a shop makes.
"""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from itertools import islice

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.catalog.v1.catalog_pb2 import Product
from penstock.recommendations.evaluation import CUTS, Report, Split, evaluate, global_time_split, leave_last_out
from penstock.recommendations.interactions import Interactions
from penstock.recommendations.user import Touched
from penstock_client import Client, Error, Interaction, interaction
from penstock_client.feedback import InteractionType
from penstock_client.recommendations import RecommendFields
from penstock_client.replay_mapping import instants

SENT_AT_ONCE = 2_000
ASKED_AT_ONCE = 25  # users of one call
KINDS: tuple[InteractionType, ...] = ("view", "click", "like", "share", "add_to_cart", "purchase", "rating")


class How(StrEnum):
    """What is held out."""

    LAST = "last"
    """Each user's last product. Their times are moved, each user's by their own span, so that what came before it ends
    now: a session fades within minutes, and it is the session that goes on with the product held out."""
    TIME = "time"
    """The newest fifth of all that happened. All times are moved by one span, so that the fifth begins now."""


@dataclass(frozen=True, slots=True, eq=False)
class History:
    """What users did."""

    users: Sequence[str]
    products: Sequence[str]
    seconds: NDArray[np.float64]  # since 1970
    kinds: Sequence[InteractionType]
    ratings: Sequence[float | None]
    names: Mapping[str, str]  # of products; those that have none are called by their ids

    def split(self, how: How) -> tuple[Split, NDArray[np.int64]]:
        """What is held out and what is not, and the rows of the latter in its order."""
        rows = pa.table(
            {
                "user_id": pa.array(self.users, pa.string()),
                "product_id": pa.array(self.products, pa.string()),
                # A split looks at no weights; as the numbers of rows they say afterwards which rows are in it.
                "weight": pa.array(np.arange(len(self.users)), pa.int64()),
                "time": pa.array(self.seconds, pa.float64()),
            }
        )
        everything = Interactions.from_arrow(rows)
        split = leave_last_out(everything) if how is How.LAST else global_time_split(everything)
        return split, split.train.weight.astype(np.int64)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one way to hold out."""

    server: Report
    popularity: Report  # what most users had touched, beside


def history(rows: pa.Table, kind: InteractionType) -> History:
    """From columns `user_id`, `product_id`, `time`, and `type`, `rating` and `title` where there are any.

    What has no `type` is a rating where it has a `rating`, else `kind`. Raises ValueError for no rows, a row without
    user, product or time, a type that is none, or a rating that is not from 1 to 5.
    """
    if not rows.num_rows:
        raise ValueError("there are no interactions in it")
    # The row's number has to fit into a weight.
    if rows.num_rows >= 2**24:
        raise ValueError(f"{rows.num_rows:,} interactions are too many; {2**24:,} are the most")
    users, products, titles = _texts(rows, "user_id"), _texts(rows, "product_id"), _texts(rows, "title")
    seconds = instants(rows["time"]).combine_chunks().to_numpy(zero_copy_only=False).astype(np.float64) / 1e6
    ratings = [_rating(each) for each in _texts(rows, "rating")]
    kinds = [
        _kind(each, kind if rating is None else "rating")
        for each, rating in zip(_texts(rows, "type"), ratings, strict=True)
    ]
    for place in range(rows.num_rows):
        if not users[place] or not products[place] or not seconds[place]:
            raise ValueError(f"row {place + 1} has no user, no product, or no time that can be read")
        if kinds[place] == "rating" and ratings[place] is None:
            raise ValueError(f"row {place + 1} is a rating without one")
    names = {product: title for product, title in zip(products, titles, strict=True) if title}
    rated = [rating if each == "rating" else None for each, rating in zip(kinds, ratings, strict=True)]
    return History(users, products, seconds, kinds, rated, names)


def joined(parts: Sequence[History]) -> History:
    """Several files as one."""
    return History(
        [user for part in parts for user in part.users],
        [product for part in parts for product in part.products],
        np.concatenate([part.seconds for part in parts]),
        [kind for part in parts for kind in part.kinds],
        [rating for part in parts for rating in part.ratings],
        {product: name for part in parts for product, name in part.names.items()},
    )


async def load(client: Client, told: History, split: Split, rows: NDArray[np.int64], how: How) -> None:
    """Tells the server of all that is not held out, and has it learn."""
    seconds = moved(split, how, time.time())
    sent = (_interaction(told, row, at) for row, at in zip(rows.tolist(), seconds.tolist(), strict=True))
    async for _ in client.feedback.stream(sent, batch=SENT_AT_ONCE):
        pass
    await (await client.recommendations.train()).wait()


def moved(split: Split, how: How, now: float) -> NDArray[np.float64]:
    """The times of what is not held out, as the server is told: see `How`."""
    train = split.train
    if not len(train):
        return np.empty(0)
    if how is How.TIME:
        end: NDArray[np.float64] = np.full(len(train), train.time.max())
    else:
        last = np.full(len(train.users), -np.inf)
        np.maximum.at(last, train.user, train.time)
        end = last[train.user]
    return train.time + (now - end)


async def asked(client: Client, split: Split) -> Mapping[str, Sequence[str]]:
    """What is recommended to each user of whom something is held out. Raises the Error of a call that fails."""
    found: dict[str, Sequence[str]] = {}
    users = list(split.held_out)
    for first in range(0, len(users), ASKED_AT_ONCE):
        some = users[first : first + ASKED_AT_ONCE]
        requests = [RecommendFields(user_id=user, limit=max(CUTS), ids_only=True) for user in some]
        for user, answer in zip(some, await client.recommendations.batch(requests), strict=True):
            if isinstance(answer, Error):
                raise answer
            found[user] = [each.product.product_id for each in answer.items]
    return found


def judged(split: Split, found: Mapping[str, Sequence[str]], products: int) -> Outcome:
    """How good it is, and how good what is popular would be."""
    by_popularity = [product for product, _ in Counter(_touched_by_users(split.train)).most_common()]

    def popular(user: str, before: Touched, count: int) -> Sequence[str]:
        known = set(before.ids)
        unknown = (product for product in by_popularity if product not in known)
        return list(islice(unknown, count))

    return Outcome(
        evaluate(split, lambda user, before, count: found[user][:count], products),
        evaluate(split, popular, products),
    )


def products_of(told: History) -> Iterator[Product]:
    """The products that the interactions are about."""
    for product_id in sorted(set(told.products)):
        yield Product(product_id=product_id, name=told.names.get(product_id, product_id))


def _interaction(told: History, row: int, at: float) -> Interaction:
    return interaction(
        told.users[row],
        told.products[row],
        told.kinds[row],
        rating=told.ratings[row],
        timestamp=datetime.fromtimestamp(at, UTC),
        request_id=f"evaluate-{row}",
    )


def _touched_by_users(train: Interactions) -> Iterator[str]:
    """Each product once for each user that touched it."""
    for pair in np.unique(np.column_stack([train.user, train.product]), axis=0)[:, 1].tolist():
        yield train.products[pair]


def _kind(text: str, otherwise: InteractionType) -> InteractionType:
    if not text:
        return otherwise
    for each in KINDS:
        if text.lower() == each:
            return each
    raise ValueError(f"{text!r} is no type of interaction; there are {', '.join(KINDS)}")


def _rating(text: str) -> float | None:
    if not text:
        return None
    try:
        rating = float(text)
    except ValueError:
        raise ValueError(f"{text!r} is no rating") from None
    if not 1 <= rating <= 5:
        raise ValueError(f"ratings are from 1 to 5, and {text} is not")
    return rating


def _texts(rows: pa.Table, name: str) -> list[str]:
    if name not in rows.column_names:
        return [""] * rows.num_rows
    return ["" if each is None else str(each) for each in rows[name].to_pylist()]
