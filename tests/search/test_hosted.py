"""An index that lives with its catalogue: through restarts, damage, changes of text, and a change of encoder."""

import asyncio
import hashlib
import shutil
import threading
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from penstock.catalog.products import Catalogue
from penstock.catalog.v1.catalog_pb2 import Product
from penstock.catalog.writer import CatalogueWriter
from penstock.search.encoding import QueryEncoder, Vectors
from penstock.search.hosted import Encoding, HostedIndex
from penstock.search.index import Filter
from penstock.search.stored_vectors import StoredVectors
from penstock.storage.commit_log import CommitLog
from penstock.storage.engine import ClickHouseEngine
from tests.waiting import until

WAIT_S = 20.0


class Hashes:
    """An encoder that says of a text only that it is that text; it counts what it was asked for."""

    dimensions = 16

    def __init__(self, name: str) -> None:
        self.name = name
        self.encoded = 0
        self.go = threading.Event()
        self.go.set()

    def encode(self, texts: Sequence[str]) -> Vectors:
        self.go.wait(WAIT_S)
        self.encoded += len(texts)
        seeds = [int.from_bytes(hashlib.sha256(f"{self.name}{text}".encode()).digest()[:8], "little") for text in texts]
        made = np.stack([np.random.default_rng(seed).normal(size=self.dimensions) for seed in seeds])
        return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


class House:
    """A catalogue, and indexes of it as one start of a server after another has them."""

    def __init__(self, engine: ClickHouseEngine, log: CommitLog, folder: Path) -> None:
        self.engine, self.log, self.folder = engine, log, folder
        self.catalogue = Catalogue(engine, log)
        self.writer = CatalogueWriter(engine, log, self.catalogue, "USD")

    async def store(self, *names: str, **fields: object) -> int:
        products = [Product(product_id=name.split()[0], name=name, **fields) for name in names]  # type: ignore[arg-type]
        return (await self.writer.upsert("default", products)).commit

    @asynccontextmanager
    async def index(self, wanted: Hashes, *others: Hashes) -> AsyncIterator[HostedIndex]:
        catalogue = Catalogue(self.engine, self.log)  # as a new process reads it
        catalogue_of_writer = await self.catalogue.of("default")
        products = await catalogue.of("default")
        catalogue_of_writer.listen(
            lambda commit, ids: products.apply(
                commit, {each: stored.message if (stored := catalogue_of_writer.get(each)) else None for each in ids}
            )
        )
        encodings = [
            Encoding(QueryEncoder(each), StoredVectors(self.engine, self.log, each.name)) for each in (wanted, *others)
        ]
        hosted = HostedIndex(products, catalogue.mark, self.folder)
        try:
            await hosted.open(encodings[0], encodings[1:], partial(catalogue.changed_since, "default"))
            yield hosted
        finally:
            await hosted.close()
            for encoding in encodings:
                await encoding.encoder.close()


@pytest.fixture
async def house(engine: ClickHouseEngine, commit_log: CommitLog, tmp_path: Path) -> AsyncIterator[House]:
    made = House(engine, commit_log, tmp_path / "index")
    made.writer.start()
    yield made
    await made.writer.stop()


def names(hosted: HostedIndex) -> set[str]:
    version = hosted.view.version
    return set(version.product_ids(version.matching(Filter()).numbers))


async def encoded(hosted: HostedIndex) -> None:
    await until(lambda: hosted.view.version.pending_vectors == 0)


async def test_a_vector_is_found_whatever_its_digest_ends_in(house: House) -> None:
    stored = StoredVectors(house.engine, house.log, "one")
    digests = [bytes([first]) + bytes(14) + bytes([last]) for first in (0, 7) for last in (0, 9)]
    vectors = {each: np.full(4, number, np.float32) for number, each in enumerate(digests)}
    await stored.keep("default", vectors)
    await stored.flush()
    found = await StoredVectors(house.engine, house.log, "one").find("default", digests)
    assert {each: vector.tolist() for each, vector in found.items()} == {
        each: vector.tolist() for each, vector in vectors.items()
    }


async def test_what_was_encoded_once_is_not_encoded_again(house: House) -> None:
    await house.store("a lamp", "b hat")
    first = Hashes("one")
    async with house.index(first) as hosted:
        await encoded(hosted)
        assert first.encoded == 2
        await house.store("a lamp", price=5.0)  # another price, the same text
        await hosted.has(house.log.head, ["a"])
        await house.store("c chair")
        await hosted.has(house.log.head, ["c"])
        assert first.encoded == 3
    for keeps_snapshot in (True, False):
        if not keeps_snapshot:
            shutil.rmtree(house.folder)
        again = Hashes("one")
        async with house.index(again) as hosted:
            assert names(hosted) == {"a", "b", "c"}
            await encoded(hosted)
            assert again.encoded == 0
            assert hosted.state().snapshot_problem == ""


async def test_what_changed_while_it_was_away_is_taken_over(house: House) -> None:
    await house.store("a lamp", "b hat", "c chair")
    async with house.index(Hashes("one")) as hosted:
        await encoded(hosted)
    await house.writer.remove("default", "b")
    await house.store("c chair of oak", "d scarf")
    async with house.index(Hashes("one")) as hosted:
        assert names(hosted) == {"a", "c", "d"}
        await encoded(hosted)
        found = hosted.view.version.lexical("oak", 10, hosted.view.version.everything)
        assert hosted.view.version.product_ids(found.numbers) == ["c"]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing", "foreign"])
async def test_a_saved_index_that_is_not_whole_is_made_anew(house: House, damage: str) -> None:
    await house.store("a lamp", "b hat", "c chair")
    async with house.index(Hashes("one")) as hosted:
        await encoded(hosted)
    files = sorted(path for path in house.folder.rglob("*") if path.is_file() and path.stat().st_size > 64)
    assert files
    for path in files if damage != "foreign" else files[:1]:
        kept = path.read_bytes()
        if damage == "truncated":
            path.write_bytes(kept[: len(kept) // 2])
        elif damage == "flipped":
            path.write_bytes(kept[:-9] + bytes([kept[-9] ^ 1]) + kept[-8:])
        elif damage == "missing":
            path.unlink()
        else:  # of a catalogue that had a product more, and one less
            await house.writer.remove("default", "a")
            await house.store("e glove")
            await house.engine.execute("ALTER TABLE products DELETE WHERE product_id = 'e' SETTINGS mutations_sync = 2")
            house.catalogue = Catalogue(house.engine, house.log)
        async with house.index(Hashes("one")) as hosted:
            assert names(hosted) == set(await house.catalogue.of("default"))
            if damage != "foreign":
                assert hosted.state().snapshot_problem
            await encoded(hosted)
        # The index was saved again: for the next file the damage is alone.
        files_now = [each for each in house.folder.rglob("*") if each.is_file()]
        assert files_now
        if damage != "foreign":
            break


async def test_an_index_of_a_newer_database_is_not_believed(
    house: House, engine: ClickHouseEngine, commit_log: CommitLog
) -> None:
    await house.store("a lamp")
    await house.store("b hat")
    async with house.index(Hashes("one")) as hosted:
        await encoded(hosted)
    await engine.execute("ALTER TABLE products DELETE WHERE product_id = 'b' SETTINGS mutations_sync = 2")
    await engine.execute("ALTER TABLE commits DELETE WHERE commit = 2 SETTINGS mutations_sync = 2")
    older = CommitLog(engine)
    await older.open()
    restored = House(engine, older, house.folder)
    async with restored.index(Hashes("one")) as hosted:
        assert names(hosted) == {"a"}
        assert hosted.state().snapshot_problem == "it is newer than the database"


async def test_after_a_change_of_encoder_the_old_index_answers_until_the_new_one_is_made(house: House) -> None:
    await house.store("a lamp", "b hat", "c chair")
    old = Hashes("old")
    async with house.index(old) as hosted:
        await encoded(hosted)
    new = Hashes("new")
    new.go.clear()
    async with house.index(new, Hashes("old")) as hosted:
        assert hosted.view.encoder.name == "old"
        assert hosted.view.version.pending_vectors == 0
        await until(lambda: hosted.state().coming == "new")
        await house.store("d scarf")  # both learn of it
        await hosted.has(house.log.head, ["d"])
        assert names(hosted) == {"a", "b", "c", "d"}
        new.go.set()
        await until(lambda: hosted.view.encoder.name == "new")
        assert hosted.view.version.pending_vectors == 0
        assert names(hosted) == {"a", "b", "c", "d"}
        await until(lambda: not any(path.name == "old" for path in house.folder.rglob("*")))
    again = Hashes("new")
    async with house.index(again, Hashes("old")) as hosted:
        assert hosted.view.encoder.name == "new"
        assert (hosted.state().coming, again.encoded) == ("", 0)


async def test_a_text_that_cannot_be_encoded_holds_nobody_up(house: House) -> None:
    class Picky(Hashes):
        def encode(self, texts: Sequence[str]) -> Vectors:
            if any("bad" in text for text in texts):
                raise ValueError("bad")
            return super().encode(texts)

    await house.store(*(f"p{number} {'bad' if number == 7 else 'good'} thing" for number in range(20)))
    async with house.index(Picky("one")) as hosted:
        await until(lambda: hosted.view.version.pending_vectors == 1)
        assert hosted.view.version.pending(10) == ["p7"]
        await house.store("p7 mended thing")
        await encoded(hosted)


async def test_half_a_change_does_not_call_itself_whole(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.limits.INDEX_APPLY_PRODUCTS", 3)
    await house.store(*(f"p{number} thing" for number in range(10)), price=1.0)
    async with house.index(Hashes("one")) as hosted:
        await encoded(hosted)
        commit = hosted.view.version.commit
        seen: list[tuple[int, bool, str]] = []
        change: Awaitable[int] = house.store(*(f"p{number} thing" for number in range(10)), price=2.0)
        writing = asyncio.ensure_future(change)
        while not (writing.done() and hosted.view.version.commit == house.log.head):
            view = hosted.view
            prices = {view.products.get(f"p{number}").product.price for number in range(10)}  # type: ignore[union-attr]
            seen.append((view.version.commit, view.whole, view.content))
            assert prices
            await asyncio.sleep(0)
        assert {each[0] for each in seen} <= {commit, house.log.head}
        assert hosted.view.whole or await _whole(hosted)
        halves = {content for _, whole, content in seen if not whole}
        assert halves.isdisjoint({content for _, whole, content in seen if whole})


async def _whole(hosted: HostedIndex) -> bool:
    await until(lambda: hosted.view.whole)
    return True
