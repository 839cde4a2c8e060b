"""A shop of made-up products, 100,000 of them, with vectors and what 5,000 users did, drawn from one seed.

The vectors are made up, too, and not those of the texts: kinds of products (one for every fifty) are points of a space
of 64 dimensions in which a few matter most, products lie about their kind, and a little of every one of the 384
dimensions is noise. So neighbours are near and others far, as with texts, which vectors without structure would not
have. Queries are drawn from the same shop.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from pathlib import Path

import numpy as np

from loadtest.stocked import Stock, Vectors, kept
from penstock.catalog.v1.catalog_pb2 import Product
from penstock.feedback.interactions import Interaction

SEED = 20_260_725
DIMENSIONS = 384
QUERIES = 1_000
PRODUCTS_A_KIND = 50
USERS_A_PRODUCT = 0.05
INTERACTIONS_A_USER = 20
# Of the products, the share that has the attribute `one_in_N`, and the share that N × price picks; see `price`.
ONE_IN = (10_000, 1_000, 100, 10, 2)

BRANDS = tuple(
    f"{first}{last}" for first in ("Nord", "Alp", "Lux", "Terra", "Vel") for last in ("wind", "is", "ora", "eko")
)
COLOURS = ("red", "blue", "green", "black", "white", "grey", "yellow", "brown", "pink", "violet", "orange", "beige")
MATERIALS = ("wool", "cotton", "silk", "linen", "leather", "oak", "steel", "glass", "paper", "clay", "brass", "cork")
NOUNS = (
    *("scarf", "shirt", "hat", "jacket", "glove", "sock", "belt", "bag", "boot", "dress", "coat", "jumper", "lamp"),
    *("chair", "table", "shelf", "mirror", "vase", "bowl", "cup", "plate", "knife", "pan", "kettle", "clock", "frame"),
    *("blanket", "pillow", "curtain", "carpet", "basket", "box", "candle", "tray", "hook", "rack", "stool", "desk"),
)  # fmt: skip
USES = (
    "winter",
    "summer",
    "kitchen",
    "garden",
    "office",
    "children",
    "travel",
    "evening",
    "sport",
    "wedding",
    "camping",
)


@dataclass(frozen=True, slots=True, eq=False)
class Shop:
    """A shop whose index is built and whose users were learnt from."""

    folder: Path  # of the data; not to be written to
    vectors: Vectors  # (products, 384), unit length, in the order of their numbers
    queries: Vectors  # (QUERIES, 384), unit length
    prices: Sequence[int]  # of each product, see `price`

    @property
    def products(self) -> int:
        """How many there are."""
        return len(self.vectors)

    @property
    def users(self) -> int:
        """How many there are."""
        return users(len(self.vectors))


def shop(products: int) -> Shop:
    """A shop of so many products; blocks while its folder is made."""
    folder = kept("shop", [Path(__file__)], str(products), partial(stock, products), learn=True)
    return Shop(folder, *vectors(products), prices(products))


def stock(products: int) -> Stock:
    """What is in it."""
    made, _ = vectors(products)
    return Stock(_products(products), made, _interactions(products))


def product_id(number: int) -> str:
    """Of the product with this number."""
    return f"p-{number:06}"


def user_id(number: int) -> str:
    """Of the user with this number."""
    return f"u-{number:05}"


def users(products: int) -> int:
    """How many users a shop of so many products has."""
    return max(50, int(products * USERS_A_PRODUCT))


@cache
def vectors(products: int) -> tuple[Vectors, Vectors]:
    """Those of the products, (n, 384), and of the queries, (QUERIES, 384)."""
    chance = np.random.default_rng(SEED)
    spread = 1.0 / np.sqrt(np.arange(1, 65))  # of the 64 dimensions that count, the first counts most
    basis = np.linalg.qr(chance.standard_normal((DIMENSIONS, 64)))[0].T
    kinds = chance.standard_normal((_kinds(products), 64)) * spread
    of = np.concatenate([kind_of(products), chance.integers(0, len(kinds), QUERIES)])
    about = kinds[of] + 0.5 * spread * chance.standard_normal((len(of), 64))
    made = about @ basis + 0.02 * chance.standard_normal((len(of), DIMENSIONS))
    made = (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)
    return made[:products], made[products:]


def kind_of(products: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """(products,): of which kind each is. Products of a kind are scattered over the numbers."""
    return np.random.default_rng(SEED + 1).permutation(products) % _kinds(products)


def prices(products: int) -> Sequence[int]:
    """Of each product, a price that no other has, from 1 on; kind by kind, so that a range of prices is few kinds.

    A filter by price so lets through what is near together and, mostly, far from the query, which is the hardest.
    """
    order = np.argsort(kind_of(products), kind="stable")
    made = np.empty(products, np.int64)
    made[order] = np.arange(1, products + 1)
    return made.tolist()


def _kinds(products: int) -> int:
    return max(20, products // PRODUCTS_A_KIND)


def _products(count: int) -> list[Product]:
    chance = np.random.default_rng(SEED + 2)
    drawn = zip(
        *(chance.integers(0, len(words), count).tolist() for words in (BRANDS, COLOURS, MATERIALS, NOUNS, USES)),
        chance.random(count).tolist(),
        kind_of(count).tolist(),
        prices(count),
        strict=True,
    )
    made = []
    for number, (brand, colour, material, noun, use, rating, kind, price) in enumerate(drawn):
        product = Product(
            product_id=product_id(number),
            # The number makes the text one of its own: equal texts have equal vectors.
            name=f"{BRANDS[brand]} {COLOURS[colour]} {MATERIALS[material]} {NOUNS[noun]} {number}",
            description=f"A {NOUNS[noun]} of {MATERIALS[material]} in {COLOURS[colour]}, for {USES[use]}. Kind {kind}.",
            brand=BRANDS[brand],
            merchant_id=f"m-{number % 40}",
            category_path=["Home" if noun % 2 else "Clothes", NOUNS[noun]],
            price=price,
            colour=COLOURS[colour],
            average_rating=round(1 + 4 * rating, 1),
            review_count=int(200 * rating * rating),
            sku=f"{BRANDS[brand][:3].upper()}-{number}",
            image_url=f"https://images.example/{number}.webp",
            product_url=f"https://shop.example/p/{number}",
            attributes={"material": MATERIALS[material], "use": USES[use]},
        )
        for each in ONE_IN:
            if number % each == each // 2:
                product.attributes[f"one_in_{each}"] = "yes"
        made.append(product)
    return made


def _interactions(products: int) -> list[Interaction]:
    """Each user likes three kinds, and now and then anything; of what is touched, few are bought."""
    chance = np.random.default_rng(SEED + 3)
    kinds = kind_of(products)
    by_kind = np.split(np.argsort(kinds, kind="stable"), np.cumsum(np.bincount(kinds))[:-1])
    end = datetime(2026, 7, 1, tzinfo=UTC)
    made = []
    for user in range(users(products)):
        liked = chance.integers(0, len(by_kind), 3)
        for number in range(INTERACTIONS_A_USER):
            among = by_kind[chance.choice(liked)]
            # The square makes few products of a kind popular and many rare.
            place = int(len(among) * chance.random() ** 2) if chance.random() < 0.8 else -1
            of = int(among[place]) if place >= 0 else int(chance.integers(0, products))
            made.append(
                Interaction(
                    user_id=user_id(user),
                    product_id=product_id(of),
                    interaction_type=str(
                        chance.choice(["VIEW", "CLICK", "ADD_TO_CART", "PURCHASE"], p=[0.4, 0.4, 0.15, 0.05])
                    ),
                    event_time=end - timedelta(seconds=int(chance.integers(0, 90 * 86_400))),
                    request_id=f"{user}-{number}",
                )
            )
    return made
