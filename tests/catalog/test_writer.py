"""The catalogue keeps what it acknowledged: whole, once, in order, and as of every version."""

import asyncio
import copy
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import limits
from penstock.catalog.reader import Wanted
from penstock.catalog.v1.catalog_pb2 import Product
from penstock.errors import NotFound, OutOfRange, Overloaded, TooCostly, Unavailable
from penstock.storage.commit_log import CommitLog
from penstock.storage.engine import ClickHouseEngine, Lane
from tests.catalog.conftest import House, house


def lamp(number: int, **fields: object) -> Product:
    return Product(product_id=f"lamp-{number}", name=f"Lamp {number}", **fields)  # type: ignore[arg-type]


async def listed(shop: House, tenant: str = "default", version: int = 0) -> dict[str, str]:
    """Names by id, of all pages."""
    found: dict[str, str] = {}
    token = ""
    while True:
        wanted = Wanted(include_inactive=True)
        page = await shop.reader.page(tenant, wanted, size=3, page_token=token, version=version)
        found |= {product.product_id: product.name for product in page.products}
        token = page.next_token
        if not token:
            assert page.total == len(found)
            return found


async def test_products_are_completed_and_read_back(shop: House) -> None:
    sent = lamp(1, price=12.5, stock_quantity=0, feed_image_url="feed.png", large_image_url="large.png")
    done = await shop.writer.upsert("default", [sent])
    found = await shop.reader.get("default", "lamp-1")
    product = found.product
    assert found.commit == done.commit == shop.log.head
    assert (product.currency, product.in_stock, product.is_active) == ("EUR", False, True)
    assert product.image_url == "feed.png"
    assert product.create_time == product.update_time
    assert abs(product.create_time.ToDatetime(UTC) - datetime.now(UTC)).total_seconds() < 60
    assert await shop.reader.get("default", "lamp-1", done.commit) == found


async def test_what_is_equal_is_not_written_again(shop: House) -> None:
    first = await shop.writer.upsert("default", [lamp(1), lamp(2)])
    assert (first.counts.created, first.counts.updated, first.counts.unchanged) == (2, 0, 0)
    again = await shop.writer.upsert("default", [lamp(1), lamp(2, colour="red"), lamp(3)])
    assert (again.counts.created, again.counts.updated, again.counts.unchanged) == (1, 1, 1)
    head = shop.log.head
    same = await shop.writer.upsert("default", [lamp(1), lamp(2, colour="red")])
    assert (same.counts.unchanged, same.commit, shop.log.head) == (2, 0, head)
    kept = (await shop.reader.get("default", "lamp-2")).product
    assert kept.create_time.ToNanoseconds() < kept.update_time.ToNanoseconds()


async def test_of_one_id_in_a_call_the_last_counts(shop: House) -> None:
    done = await shop.writer.upsert("default", [lamp(1, colour="red"), lamp(1, colour="blue")])
    assert done.counts.created == 1
    assert (await shop.reader.get("default", "lamp-1")).product.colour == "blue"


async def test_a_removed_product_is_in_older_versions_only(shop: House) -> None:
    commit = (await shop.writer.upsert("default", [lamp(1), lamp(2)])).commit
    await shop.writer.remove("default", "lamp-1")
    with pytest.raises(NotFound):
        await shop.reader.get("default", "lamp-1")
    with pytest.raises(NotFound):
        await shop.writer.remove("default", "lamp-1")
    assert await listed(shop) == {"lamp-2": "Lamp 2"}
    assert set(await listed(shop, version=commit)) == {"lamp-1", "lamp-2"}
    assert (await shop.reader.get("default", "lamp-1", commit)).product.name == "Lamp 1"
    with pytest.raises(OutOfRange):
        await shop.reader.get("default", "lamp-1", 999)


async def test_concurrent_calls_share_commits(shop: House) -> None:
    before = shop.log.head
    done = await asyncio.gather(*(shop.writer.upsert("default", [lamp(number)]) for number in range(100)))
    assert sum(each.counts.created for each in done) == 100
    assert shop.log.head - before <= 3
    assert len(await listed(shop)) == 100


async def test_tenants_have_catalogues_of_their_own(shop: House) -> None:
    await asyncio.gather(shop.writer.upsert("default", [lamp(1)]), shop.writer.upsert("other", [lamp(1, colour="red")]))
    await shop.writer.remove("other", "lamp-1")
    assert await listed(shop) == {"lamp-1": "Lamp 1"}
    assert await listed(shop, "other") == {}
    assert await shop.catalogue.tenants() == ["default", "other"]


async def test_a_new_process_finds_what_was_stored(
    shop: House, engine: ClickHouseEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PRODUCTS_LOADED_ROWS", 7)
    await shop.writer.upsert("default", [lamp(number, description=f"é\0{number}") for number in range(30)])
    await shop.writer.remove("default", "lamp-3")
    await shop.writer.upsert("default", [lamp(4, colour="red")])
    later = house(engine, shop.log)
    known, found = await shop.catalogue.of("default"), await later.catalogue.of("default")
    assert {each: found.get(each) for each in found} == {each: known.get(each) for each in known}
    assert len(found) == 29


async def test_another_server_follows(shop: House, engine: ClickHouseEngine) -> None:
    await shop.writer.upsert("default", [lamp(1), lamp(2)])
    other = house(engine, CommitLog(engine))
    await other.log.open()
    seen = await other.catalogue.of("default")
    told: list[frozenset[str]] = []
    seen.listen(lambda commit, ids: told.append(ids))
    seen.epoch = -1  # as where another process writes
    other.catalogue.start()
    await shop.writer.upsert("default", [lamp(2, colour="red")])
    await shop.writer.remove("default", "lamp-1")
    other.log._clean = False  # this log is not the one that writes
    await other.log.refresh()
    async with asyncio.timeout(10):
        while "lamp-1" in set(seen):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    stored = seen.get("lamp-2")
    assert stored is not None
    assert stored.product.colour == "red"
    assert {each for ids in told for each in ids} == {"lamp-1", "lamp-2"}
    await other.catalogue.stop()


async def test_a_full_catalogue_takes_changes_but_nothing_new(shop: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PRODUCTS_MAX", 2)
    await shop.writer.upsert("default", [lamp(1), lamp(2)])
    with pytest.raises(TooCostly) as refused:
        await shop.writer.upsert("default", [lamp(1, colour="red"), lamp(3)])
    assert refused.value.reason == "TOO_MANY_PRODUCTS"
    assert (await shop.reader.get("default", "lamp-1")).product.colour == ""
    await shop.writer.upsert("default", [lamp(1, colour="red")])
    await shop.writer.remove("default", "lamp-2")
    await shop.writer.upsert("default", [lamp(3)])
    assert set(await listed(shop)) == {"lamp-1", "lamp-3"}


@pytest.fixture
def few_rows_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "GROUP_ROWS_QUEUED_MAX", 5)


async def test_too_much_at_once_is_told_to_come_again(few_rows_wait: None, shop: House) -> None:
    calls = [shop.writer.upsert("default", [lamp(3 * n + each) for each in range(3)]) for n in range(10)]
    done = await asyncio.gather(*calls, return_exceptions=True)
    refused = [each for each in done if isinstance(each, Overloaded)]
    assert refused
    assert all(each.retry_after_s for each in refused)
    assert len(await listed(shop)) == 3 * (10 - len(refused))


@pytest.mark.parametrize("fails", ["insert_arrow", "execute"])
async def test_storage_that_fails_for_a_moment_stores_once(
    shop: House, engine: ClickHouseEngine, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    """Before the work and after it: the answer of an insert, or of the log's row, is lost."""
    await shop.writer.upsert("default", [lamp(0)])
    for after in (False, True):
        right = getattr(engine, fails)
        flaky = Flaky(right, after=after)

        with monkeypatch.context() as patch:
            patch.setattr(engine, fails, flaky)
            done = await shop.writer.upsert("default", [lamp(1, colour=f"{after}"), lamp(0)])
        assert done.counts.unchanged == 1
        rows = await engine.rows(
            "SELECT count() AS n FROM products WHERE product_id = 'lamp-1' AND commit = {commit:Int64}",
            {"commit": done.commit},
            lane=Lane.COMMIT,
        )
        assert rows[0]["n"] == 1
        assert (await shop.reader.get("default", "lamp-1")).product.colour == f"{after}"


class Flaky:
    """A call of the engine that fails once, before its work or behind it."""

    def __init__(self, right: Callable[..., Awaitable[None]], *, after: bool) -> None:
        self._right = right
        self._after = after
        self._fails = True

    async def __call__(self, *args: object, **more: object) -> None:
        if self._after or not self._fails:
            await self._right(*args, **more)
        if self._fails:
            self._fails = False
            raise Unavailable("lost", reason="STORAGE_UNAVAILABLE", retry_after_s=0.1)


names = st.sampled_from(["a", "b", "c", "d"])
changes = st.lists(
    st.one_of(
        st.tuples(st.just("upsert"), st.dictionaries(names, st.sampled_from("xyz"), min_size=1)),
        st.tuples(st.just("remove"), names),
    ),
    max_size=12,
)


@settings(max_examples=15)
@given(history=changes)
def test_any_history_is_what_a_plain_dictionary_says(
    history: list[tuple[str, dict[str, str] | str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    async def live() -> None:
        from penstock.settings import Settings
        from penstock.storage.engine import open_engine
        from penstock.storage.schema import migrate

        chosen = Settings(data_dir=tmp_path_factory.mktemp("catalogue"), fsync=False)
        engine = open_engine(chosen)
        await migrate(engine, chosen)
        log = CommitLog(engine)
        await log.open()
        shop = house(engine, log)
        shop.writer.start()
        model: dict[str, str] = {}
        versions: dict[int, dict[str, str]] = {}
        for kind, what in history:
            if kind == "upsert":
                assert isinstance(what, dict)
                await shop.writer.upsert("default", [Product(product_id=i, name=n) for i, n in what.items()])
                model |= what
            else:
                assert isinstance(what, str)
                try:
                    await shop.writer.remove("default", what)
                    del model[what]
                except NotFound:
                    assert what not in model
            versions[log.head] = copy.copy(model)
        assert await listed(shop) == model
        for version, then in versions.items():
            if version:
                assert await listed(shop, version=version) == then
        await shop.writer.stop()
        await engine.close()

    asyncio.run(live())
