"""Pages of one tenant's searches are kept whatever another's take."""

from types import SimpleNamespace
from typing import cast

import pytest

from penstock.errors import OutOfRange
from penstock.search import pages as module
from penstock.search.hosted import View
from penstock.search.pages import Pages

SEARCHES_MAX, VERSIONS_MAX, RESULTS_MAX = 6, 4, 60


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> Pages:
    most = (SEARCHES_MAX, VERSIONS_MAX, RESULTS_MAX)
    bounds = tuple((measure, bound) for (measure, _), bound in zip(module._BOUNDS, most, strict=True))
    monkeypatch.setattr(module, "_BOUNDS", bounds)
    return Pages()


def view(tenant: str, version: int = 1) -> View:
    return cast(View, SimpleNamespace(products=SimpleNamespace(tenant=tenant), version=SimpleNamespace(number=version)))


def kept(pages: Pages, tenant: str, searches: range, *, version: int = 1) -> list[int]:
    """Those of them whose pages go on."""
    found = []
    for number in searches:
        try:
            pages.shown(tenant, version, b"%d" % number, 1)
        except OutOfRange:
            continue
        found.append(number)
    return found


def test_one_tenant_alone_has_all_the_room(pages: Pages) -> None:
    for number in range(SEARCHES_MAX + 2):
        pages.keep(b"%d" % number, view("a"), ("p",))
    assert kept(pages, "a", range(SEARCHES_MAX + 2)) == [*range(2, SEARCHES_MAX + 2)]


def test_a_tenant_takes_no_room_of_one_that_has_less(pages: Pages) -> None:
    for number in range(2):
        pages.keep(b"%d" % number, view("b"), ("p",))
    for number in range(100):
        pages.keep(b"%d" % number, view("a"), ("p",) * 8)
    assert kept(pages, "b", range(2)) == [0, 1]
    assert kept(pages, "a", range(100)) == [96, 97, 98, 99]
    pages.keep(b"large", view("b"), ("p",) * RESULTS_MAX)
    assert kept(pages, "a", range(100)) == [97, 98, 99]  # it had most searches, and none of its results is in the way
    with pytest.raises(OutOfRange):
        pages.shown("b", 1, b"large", 1)


def test_versions_that_are_held_are_shared_too(pages: Pages) -> None:
    pages.keep(b"0", view("b", 7), ("p",))
    for version in range(9):
        pages.keep(b"0", view("a", version), ("p",))
    assert kept(pages, "b", range(1), version=7) == [0]
    assert [version for version in range(9) if kept(pages, "a", range(1), version=version)] == [6, 7, 8]


def test_nobody_turns_the_pages_of_another(pages: Pages) -> None:
    pages.keep(b"0", view("a"), ("p", "q"))
    assert pages.shown("a", 1, b"0", 2).product_ids == ("p", "q")
    with pytest.raises(OutOfRange):
        pages.shown("b", 1, b"0", 1)
