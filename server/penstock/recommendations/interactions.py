"""What users did with products, as columns: what everything here is learnt from."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32]
Doubles: TypeAlias = NDArray[np.float64]
Codes: TypeAlias = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Interaction:
    """One of them."""

    user_id: str
    product_id: str
    weight: float  # what it says of the user's liking, -1 to 1: penstock.feedback's
    time: float  # seconds since 1970


@dataclass(frozen=True, slots=True, eq=False)
class Interactions:
    """Many, in the order of users and then of time; those of one user and time stay in the order they came in."""

    users: tuple[str, ...]  # in their order, as are the products, so that the same rows make the same codes
    products: tuple[str, ...]
    user: Codes  # places in `users`
    product: Codes
    weight: Floats
    time: Doubles  # seconds since 1970

    def __len__(self) -> int:
        return len(self.user)

    @classmethod
    def of(cls, rows: Iterable[Interaction]) -> "Interactions":
        """From rows."""
        kept = list(rows)
        columns = {
            "user_id": pa.array([row.user_id for row in kept], pa.string()),
            "product_id": pa.array([row.product_id for row in kept], pa.string()),
            "weight": pa.array([row.weight for row in kept], pa.float64()),
            "time": pa.array([row.time for row in kept], pa.float64()),
        }
        return cls.from_arrow(pa.table(columns))

    @classmethod
    def from_arrow(cls, table: pa.Table) -> "Interactions":
        """From columns `user_id`, `product_id` (strings), `weight` (a number) and `time` (a timestamp, or seconds).

        Raises ValueError on nulls, and on weights or times that are not finite.
        """
        if any(table[name].null_count for name in ("user_id", "product_id", "weight", "time")):
            raise ValueError("an interaction has no nulls")
        users, user = _coded(table["user_id"])
        products, product = _coded(table["product_id"])
        weight: Floats = table["weight"].cast(pa.float32()).to_numpy()
        time = _seconds(table["time"])
        if not (np.isfinite(weight).all() and np.isfinite(time).all()):
            raise ValueError("weights and times are finite")
        order = np.lexsort((time, user))  # stable
        return cls(users, products, user[order], product[order], weight[order], time[order])

    def where(self, kept: NDArray[np.bool_]) -> "Interactions":
        """Those of which `kept` says so; users and products keep their codes."""
        return Interactions(
            self.users, self.products, self.user[kept], self.product[kept], self.weight[kept], self.time[kept]
        )

    def newest(self, most: int) -> "Interactions":
        """The newest `most` of them."""
        if len(self) <= most:
            return self
        kept = np.zeros(len(self), np.bool_)
        kept[np.argsort(self.time, kind="stable")[len(self) - most :]] = True
        return self.where(kept)

    def decay(self, half_life_days: float) -> Floats:
        """What is left of each, 1 for the newest of all: half of it after `half_life_days`."""
        if not len(self):
            return np.empty(0, np.float32)
        age_days = (self.time.max() - self.time) / 86_400.0
        left: Floats = np.exp2(-age_days / half_life_days).astype(np.float32)
        return left


def _coded(column: pa.ChunkedArray) -> tuple[tuple[str, ...], Codes]:
    encoded = column.combine_chunks()
    if not pa.types.is_dictionary(encoded.type):
        encoded = encoded.dictionary_encode()
    order = pc.sort_indices(encoded.dictionary).to_numpy()
    place = np.empty(len(order), np.int32)
    place[order] = np.arange(len(order), dtype=np.int32)
    return tuple(encoded.dictionary.take(pa.array(order)).to_pylist()), place[encoded.indices.to_numpy()]


def _seconds(column: pa.ChunkedArray) -> Doubles:
    if pa.types.is_timestamp(column.type):
        micros: Doubles = column.cast(pa.timestamp("us", column.type.tz)).cast(pa.int64()).to_numpy().astype(np.float64)
        return micros / 1e6
    seconds: Doubles = column.cast(pa.float64()).to_numpy()
    return seconds
