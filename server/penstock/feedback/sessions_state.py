"""What a user does now: their last interactions, and what these are worth at a moment.

The state is the interactions themselves, not an average of them: it can be computed for any moment without having been
touched in between, it does not depend on the order in which interactions arrive, and two states of one user merge by
taking the union.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

INTERACTIONS_MAX = 100  # of one user; of a hundred clicks in a row the first is worth a thousandth of the last
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_TIME_DIGITS = 17  # of microseconds since 1970: until the year 5138


class InteractionType(StrEnum):
    """What a user did with a product; named as in the contract."""

    VIEW = "VIEW"
    CLICK = "CLICK"
    LIKE = "LIKE"
    SHARE = "SHARE"
    ADD_TO_CART = "ADD_TO_CART"
    PURCHASE = "PURCHASE"
    RATING = "RATING"


# What one says of the user's liking, and after how many seconds it says half as much. A like and a share are as
# deliberate as a cart, so they last as long; a rating is the last word on a product, as a purchase is.
WEIGHTS = {
    InteractionType.VIEW: 0.1,
    InteractionType.CLICK: 0.3,
    InteractionType.LIKE: 0.5,
    InteractionType.SHARE: 0.5,
    InteractionType.ADD_TO_CART: 0.6,
    InteractionType.PURCHASE: 1.0,
}
HALF_LIFE_S = {
    InteractionType.VIEW: 300.0,
    InteractionType.CLICK: 600.0,
    InteractionType.LIKE: 1800.0,
    InteractionType.SHARE: 1800.0,
    InteractionType.ADD_TO_CART: 1800.0,
    InteractionType.PURCHASE: 3600.0,
    InteractionType.RATING: 3600.0,
}
_LETTERS = dict(zip(InteractionType, "vclsapr", strict=True))
_OF_LETTER = {letter: each for each, letter in _LETTERS.items()}


@dataclass(frozen=True, slots=True)
class Interaction:
    """One interaction of a user. The same `request_id` of the same user is the same interaction."""

    request_id: str
    product_id: str
    type: InteractionType
    time: datetime
    rating: float | None = None  # 1 to 5, of a RATING only

    def __post_init__(self) -> None:
        """Raises ValueError where a time is not aware or before 1970, or a rating is missing or out of place."""
        if self.time.tzinfo is None or self.time < _EPOCH:
            raise ValueError("a time must have a zone and be after 1970")
        if (self.rating is not None) != (self.type is InteractionType.RATING):
            raise ValueError("a RATING has a rating, and nothing else has")
        if self.rating is not None and not 1 <= self.rating <= 5:
            raise ValueError("a rating is from 1 to 5")

    @property
    def weight(self) -> float:
        """What it says when it is fresh: -1 to 1. A rating of 3 of 5 says nothing, one below it counts against."""
        return WEIGHTS[self.type] if self.rating is None else (self.rating - 3.0) / 2.0

    def weight_at(self, now: datetime) -> float:
        """What it says at `now`: half after each half-life. One that is later than `now` is fresh."""
        age_s = max(0.0, (now - self.time).total_seconds())
        return self.weight * float(0.5 ** (age_s / HALF_LIFE_S[self.type]))


@dataclass(frozen=True, slots=True)
class SessionState:
    """What is known of what a user does now."""

    interactions: tuple[Interaction, ...] = ()  # the newest first, at most INTERACTIONS_MAX
    complete: bool = True  # False: older ones may be missing, because neither Redis nor ClickHouse could be asked

    def weights(self, now: datetime) -> dict[str, float]:
        """Each product's weight at `now`: the sum of what its interactions say then; below 0 for dislike.

        The exponential moving average of the products' vectors over the session is the average of the vectors by these
        weights.
        """
        weights: dict[str, float] = {}
        for each in self.interactions:
            weights[each.product_id] = weights.get(each.product_id, 0.0) + each.weight_at(now)
        return weights


def newest(interactions: Iterable[Interaction]) -> tuple[Interaction, ...]:
    """The INTERACTIONS_MAX newest, the newest first, each request_id once: of two with the same the first counts.

    At equal times the greater request_id is the newer one, so that the result depends on no order.
    """
    distinct: dict[str, Interaction] = {}
    for each in interactions:
        distinct.setdefault(each.request_id, each)
    return tuple(sorted(distinct.values(), key=lambda each: (each.time, each.request_id), reverse=True))[
        :INTERACTIONS_MAX
    ]


def packed(interaction: Interaction) -> bytes:
    """All of it but its request_id, beginning with its time so that texts are ordered as times are."""
    micros = (interaction.time - _EPOCH) // _MICROSECOND
    rating = "" if interaction.rating is None else repr(interaction.rating)
    return f"{micros:0{_TIME_DIGITS}d}{_LETTERS[interaction.type]}{rating}|{interaction.product_id}".encode()


def unpacked(request_id: str, value: bytes) -> Interaction:
    """The interaction that `packed` made `value` of."""
    text = value.decode()
    rating, _, product_id = text[_TIME_DIGITS + 1 :].partition("|")
    return Interaction(
        request_id,
        product_id,
        _OF_LETTER[text[_TIME_DIGITS]],
        _EPOCH + timedelta(microseconds=int(text[:_TIME_DIGITS])),
        float(rating) if rating else None,
    )
