"""What a filter lets through is kept for the next search, and never shown of another version."""

import numpy as np

from penstock.search.index import Between, Document, Except, Filter, InStock, Number, TenantIndex, Upsert
from penstock.search.index.recent import FILTERS_KEPT


def _document(number: int, *, in_stock: bool = True) -> Document:
    return Document(f"p{number}", title="thing", numbers={Number.PRICE: float(number)}, in_stock=in_stock)


def test_the_same_filter_is_looked_at_once_a_version() -> None:
    index = TenantIndex(4, "made")
    before = index.apply([Upsert(_document(number)) for number in range(10)], 1)
    cheap = Filter((Between(Number.PRICE, None, 4.0),))
    assert before.matching(cheap) is before.matching(Filter((Between(Number.PRICE, None, 4.0),)))
    after = index.apply([Upsert(_document(11)), Upsert(Document("p2", title="thing"))], 2)
    assert after.matching(cheap).count == 4
    assert before.matching(cheap).count == 5
    assert before.product_ids(before.matching(cheap).numbers) == ["p0", "p1", "p2", "p3", "p4"]


def test_a_filter_that_all_pass_is_none() -> None:
    index = TenantIndex(4, "made")
    version = index.apply([Upsert(_document(number)) for number in range(10)], 1)
    assert version.matching(Filter((InStock(True),))) is version.everything
    version = index.apply([Upsert(_document(3, in_stock=False))], 2)
    assert version.matching(Filter((InStock(True),))).count == 9


def test_only_so_many_filters_are_kept_and_none_that_names_products() -> None:
    index = TenantIndex(4, "made")
    version = index.apply([Upsert(_document(number)) for number in range(2 * FILTERS_KEPT)], 1)
    filters = [Filter((Between(Number.PRICE, None, float(most)),)) for most in range(FILTERS_KEPT + 1)]
    made = [version.matching(each) for each in filters]
    assert version.matching(filters[-1]) is made[-1]
    assert version.matching(filters[0]) is not made[0]
    np.testing.assert_array_equal(version.matching(filters[0]).numbers, made[0].numbers)
    others = Filter((Except(frozenset({"p1"})),))
    assert version.matching(others) is not version.matching(others)


def test_numbers_are_of_what_this_version_can_find() -> None:
    index = TenantIndex(4, "made")
    before = index.apply([Upsert(_document(number)) for number in range(3)], 1)
    index.apply([Upsert(_document(7))], 2)
    hidden = index.apply([Upsert(Document("p1", title="thing", is_active=False))], 3)
    asked = ["p2", "p7", "nobody", "p1", "p2"]
    assert before.numbers_of(asked).tolist() == [2, -1, -1, 1, 2]
    assert hidden.numbers_of(asked).tolist() == [2, 3, -1, -1, 2]
    assert before.numbers_of([]).tolist() == []
