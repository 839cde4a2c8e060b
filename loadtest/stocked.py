"""Data folders with a catalogue in them: products with their vectors, what users did, the index built, a model learnt.

Products and vectors are written by the server's own writers, in a process of their own; then a server is started over
the folder, which finds every vector stored, builds its index, learns, and is stopped. To encode 100,000 texts instead
would take a quarter of an hour. Folders that many benchmarks read are kept in `loadtest/stocked/`, named by what made
them; `rm -r loadtest/stocked` removes them.
"""

import asyncio
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from loadtest.kept import in_own_process, kept_folder
from loadtest.launch import server
from penstock.catalog.products import Catalogue
from penstock.catalog.v1.catalog_pb2 import Product
from penstock.catalog.writer import CatalogueWriter
from penstock.feedback.interactions import Interaction, Interactions
from penstock.search import stored_vectors
from penstock.search.documents import document
from penstock.search.encoding.minilm import NAME
from penstock.search.index import texts_to_encode
from penstock.search.stored_vectors import StoredVectors, digest_of
from penstock.search.v1.search_pb2 import Index
from penstock.settings import Settings
from penstock.storage.commit_log import CommitLog
from penstock.storage.engine import Engine, open_engine
from penstock.storage.schema import migrate
from penstock_client import Client, RunInProgress, TimedOut, Unavailable

FOLDER = Path(__file__).parent / "stocked"
TENANT = "default"
WRITE_ROWS = 5_000  # of one commit
READY_S_MAX = 900.0  # a graph of 100,000 products is built in half a minute, on a machine that is busy in ten
POLL_S = 0.25

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Stock:
    """What is put into a folder."""

    products: Sequence[Product]
    vectors: Vectors | None  # (n, 384), of the products in order; None: the server makes them of their texts
    interactions: Sequence[Interaction] = ()


def kept(name: str, made_by: Sequence[Path], detail: str, stock: Callable[[], Stock], *, learn: bool) -> Path:
    """The data folder of that name and making, made where it is not there yet; blocks meanwhile.

    One server at a time may open it, and none may write to it: who writes takes a copy (`copied`).
    """
    makers = (Path(__file__), Path(stored_vectors.__file__), *made_by)
    parts = [*(path.read_text("utf-8") for path in makers), NAME, detail]
    return kept_folder(FOLDER, f"{name}-", parts, lambda partial: make(partial, stock, learn=learn))


def make(folder: Path, stock: Callable[[], Stock], *, learn: bool) -> None:
    """Makes a data folder; `stock` is called in a process of its own, because one process opens one data folder."""
    in_own_process(_write, folder, stock)
    with server(folder, fsync=False, pipeline=False) as running:
        asyncio.run(_prepared(running.target, learn=learn))


def copied(folder: Path, to: Path) -> Path:
    """A copy for a server that writes."""
    shutil.copytree(folder, to, symlinks=True)  # the database names its folders by relative ones
    return to


async def ready(client: Client) -> Index:
    """Waits until every product is found by its vector, and nothing is being built or measured. Raises TimeoutError."""
    deadline = time.monotonic() + READY_S_MAX
    while time.monotonic() < deadline:
        try:
            index = await client.search.index()
        except (TimedOut, Unavailable):
            pass  # it is being read
        else:
            # The recall is measured when all have their vectors and what had to be built is.
            if index.state == "READY" and not index.pending_vectors and index.HasField("recall_at_10"):
                return index
        await asyncio.sleep(POLL_S)
    raise TimeoutError(f"the index was not ready after {READY_S_MAX:g} s")


async def _prepared(target: str, *, learn: bool) -> None:
    async with Client(target) as client:
        # What came while the index was built stays beside it, compared one by one, until it is a twenty-fifth of all:
        # how much that is differs from making to making, so all of it is built in.
        if (await ready(client)).delta_size:
            await (await client.search.rebuild()).wait(READY_S_MAX)
        if learn:
            await _learnt(client)


async def _learnt(client: Client) -> None:
    """Learns from all behaviour; the server may be at it of its own accord, and what that sees is not known."""
    async with asyncio.timeout(READY_S_MAX):
        while True:
            try:
                await (await client.recommendations.train()).wait()
            except RunInProgress:
                await asyncio.sleep(POLL_S)
            else:
                return


def _write(folder: Path, stock: Callable[[], Stock]) -> None:
    asyncio.run(_fill(folder, stock()))


async def _fill(folder: Path, stock: Stock) -> None:
    settings = Settings.model_validate({"data_dir": folder, "fsync": False})
    engine = open_engine(settings)
    try:
        await migrate(engine, settings)
        log = CommitLog(engine)
        await log.open()
        catalogue = Catalogue(engine, log)
        writer, interactions = CatalogueWriter(engine, log, catalogue, settings.currency), Interactions(engine, log)
        writer.start()
        interactions.start()
        for first in range(0, len(stock.products), WRITE_ROWS):
            await writer.upsert(TENANT, stock.products[first : first + WRITE_ROWS])
        for first in range(0, len(stock.interactions), WRITE_ROWS):
            await interactions.store(TENANT, stock.interactions[first : first + WRITE_ROWS])
        if stock.vectors is not None:
            await _keep(engine, log, stock.products, stock.vectors)
        await writer.stop()
        await interactions.stop()
        await catalogue.stop()
    finally:
        await engine.close()


async def _keep(engine: Engine, log: CommitLog, products: Sequence[Product], vectors: Vectors) -> None:
    """Stores vectors as those of the products' texts, so that the server encodes nothing."""
    kept = StoredVectors(engine, log, NAME)
    for product, vector in zip(products, vectors, strict=True):
        await kept.keep(TENANT, {digest_of(texts_to_encode(document(product))): vector})
    await kept.flush()
