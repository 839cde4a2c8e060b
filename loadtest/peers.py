"""Other engines on the same vectors in the same run: milvus-lite over gRPC, and Qdrant's engine without a server.

The vectors are Fashion-MNIST's 60,000 pictures; queries are 1,000 of its test pictures. Penstock's index has the 384
dimensions of its encoder, so all engines are given the first 384 principal components of the 784 pixels, of length 1,
and all compare by cosine. All build a graph with 32 links and an effort of 64; each is asked at the least effort that
finds .99 of the exact ten.

The peers live in an environment of their own, `loadtest/fetched/peers`, made when it is first needed: they are no part
of the product. `rm -r loadtest/fetched` removes it.
"""

import asyncio
import gzip
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from statistics import median

import numpy as np

from loadtest.calls import CONCURRENCY, Call, by_turns, caller, percentile_ms
from loadtest.launch import scratch, server
from loadtest.quality_recommendations import FOLDER as FETCHED
from loadtest.result import Result
from loadtest.scale import Scale
from loadtest.stocked import Stock, Vectors, kept, ready
from loadtest.vectors import NEAREST, SEARCH_VECTORS, requests
from penstock.catalog.v1.catalog_pb2 import Product
from penstock.search.v1 import search_service_pb2 as pb
from penstock_client import Client

DATA = Path("/usr/share/datasets/fashion-mnist")
PACKAGE = "dataset-fashion-mnist"
MISSING = f"the vectors come from {DATA}, which is not there: apt-get install {PACKAGE} (Debian, Ubuntu)"
PINNED = ("milvus-lite==3.2.2", "pymilvus==3.0.2", "qdrant-edge-py==0.9.0")
INSTALL_S_MAX = 240.0
FILL_S_MAX = 900.0
START_S_MAX = 60.0
DIMENSIONS = 384
QUERIES = 1_000
MILVUS_SEARCH = "/milvus.proto.milvus.MilvusService/Search"
TIMES_WANTED = 5.0


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """Unit vectors, and what each query has to find."""

    vectors: Vectors
    queries: Vectors
    truth: Sequence[Sequence[int]]  # the exact ten of each query, by number


async def vs_milvus_lite(name: str, scale: Scale) -> Result:
    """Both over gRPC, from one client that sends what was serialised before, by turns."""
    shown = await asyncio.to_thread(pictures, scale.products)
    stocked = await asyncio.to_thread(_stocked, scale.products)
    with scratch() as folder:
        _write(folder, shown)
        python = await asyncio.to_thread(_environment)
        with _milvus(python, folder) as address:
            await _run(python, "peer_milvus.py", address, str(folder))
            peer, bodies = _told(folder), [bytes.fromhex(each) for each in _texts(folder / "requests.json")]
            async with AsyncExitStack() as held:
                theirs = await caller(held, address, MILVUS_SEARCH, bodies)
                with server(stocked, fsync=False, pipeline=False) as running:
                    ours, recall = await _ours(held, running.target, shown)
                    rates, their_rates, waits_s = await by_turns(ours, theirs, scale)
    return Result(
        name, median(rates), "queries/s", median(their_rates), "milvus-lite 3.2.2, over gRPC, from the same client",
        target=TIMES_WANTED,
        holds=recall >= peer["recall"],
        details={
            "vectors": len(shown.vectors), "concurrency": CONCURRENCY, "p95_ms": percentile_ms(waits_s, 95),
            "recall_at_10": recall, "their_recall_at_10": peer["recall"], "their_effort": peer["effort"],
            "recall_as_good": recall >= peer["recall"],
        },
    )  # fmt: skip


async def vs_qdrant_edge(name: str, scale: Scale) -> Result:
    """Penstock over gRPC, and Qdrant's engine called by its own process on as many threads: no network, no protocol."""
    shown = await asyncio.to_thread(pictures, scale.products)
    stocked = await asyncio.to_thread(_stocked, scale.products)
    with scratch() as folder:
        _write(folder, shown)
        python = await asyncio.to_thread(_environment)
        seconds = str(scale.seconds * scale.rounds)
        await _run(python, "peer_qdrant.py", str(folder), seconds, str(CONCURRENCY))
        peer = _told(folder)
        async with AsyncExitStack() as held:
            with server(stocked, fsync=False, pipeline=False) as running:
                ours, recall = await _ours(held, running.target, shown)
                rates, _, waits_s = await by_turns(ours, ours, scale)
    return Result(
        name, median(rates), "queries/s", peer["queries_per_s"], "qdrant-edge-py 0.9.0 within its caller's process",
        details={
            "vectors": len(shown.vectors), "concurrency": CONCURRENCY, "p95_ms": percentile_ms(waits_s, 95),
            "recall_at_10": recall, "their_recall_at_10": peer["recall"], "their_effort": peer["effort"],
        },
    )  # fmt: skip


@cache
def pictures(count: int) -> Pictures:
    """The first `count` of the 60,000. Raises SystemExit where the package is not installed."""
    if not DATA.exists():
        raise SystemExit(MISSING)
    train, test = _pixels("train-images-idx3-ubyte.gz")[:count], _pixels("t10k-images-idx3-ubyte.gz")[:QUERIES]
    mean = train.mean(axis=0)
    covariance = (train - mean).T @ (train - mean)
    components = np.linalg.eigh(covariance)[1][:, ::-1][:, :DIMENSIONS]
    vectors, queries = (_unit((each - mean) @ components) for each in (train, test))
    blocks = (queries[first : first + 100] @ vectors.T for first in range(0, len(queries), 100))
    truth = [row for block in blocks for row in np.argpartition(-block, NEAREST - 1, axis=1)[:, :NEAREST].tolist()]
    return Pictures(vectors, queries, truth)


def stock(count: int) -> Stock:
    """A catalogue of pictures."""
    names = (Product(product_id=str(number), name=f"Picture {number}") for number in range(count))
    shown = pictures(count)
    return Stock(list(names)[: len(shown.vectors)], shown.vectors)


def _stocked(count: int) -> Path:
    return kept("fashion", [Path(__file__)], str(count), partial(stock, count), learn=False)


async def _ours(held: AsyncExitStack, target: str, shown: Pictures) -> tuple[Call, float]:
    """Penstock's call, and its recall."""
    async with Client(target) as client:
        await ready(client)
    call = await caller(held, target, SEARCH_VECTORS, requests(shown.queries, ids_only=True))
    found = 0
    for of in shown.truth:
        answer = pb.SearchVectorsResponse.FromString(await call(0))
        found += len({int(each.product.product_id) for each in answer.neighbours[0].results} & set(of))
    return call, found / (NEAREST * len(shown.truth))


def _write(folder: Path, shown: Pictures) -> None:
    np.save(folder / "vectors.npy", shown.vectors)
    np.save(folder / "queries.npy", shown.queries)
    (folder / "truth.json").write_text(json.dumps(shown.truth), encoding="utf-8")


def _environment() -> Path:
    """The Python of the peers, in an environment that is made where it is not there. Raises SystemExit."""
    folder = FETCHED / "peers"
    python = folder / "bin" / "python"
    marker = folder / "-".join(PINNED).replace("=", "")
    if not marker.exists():
        FETCHED.mkdir(exist_ok=True)
        for command in (
            [sys.executable, "-m", "venv", "--clear", str(folder)],
            [str(python), "-m", "pip", "install", "--quiet", *PINNED],
        ):
            done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S_MAX, check=False)
            if done.returncode:
                raise SystemExit(f"the peers cannot be installed: {done.stderr.strip()}")
        marker.touch()
    return python


@contextmanager
def _milvus(python: Path, folder: Path) -> Iterator[str]:
    """Where milvus-lite's server listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(python.parent / "milvus-lite"), "server", "--data-dir", str(folder / "milvus")]
    with (folder / "milvus.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)], stdout=log, stderr=subprocess.STDOUT
        )
    try:
        _until_it_listens(process, port)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=30)


def _until_it_listens(process: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = time.monotonic() + START_S_MAX
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise RuntimeError("milvus-lite did not start")


def _told(folder: Path) -> Mapping[str, float]:
    made: dict[str, float] = json.loads((folder / "peer.json").read_text("utf-8"))
    return made


def _texts(file: Path) -> Sequence[str]:
    made: list[str] = json.loads(file.read_text("utf-8"))
    return made


async def _run(python: Path, name: str, *arguments: str) -> None:
    """Runs a program that stands beside this module by the peers' Python. Raises RuntimeError with what it printed."""
    program = Path(__file__).with_name(name)
    process = await asyncio.create_subprocess_exec(
        str(python), str(program), *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(FILL_S_MAX):
        output, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{name} ended with {process.returncode}:\n{output.decode(errors='replace')}")


def _pixels(name: str) -> Vectors:
    """(n, 784), of a file in the format of MNIST: sixteen bytes before the pixels."""
    data = gzip.decompress((DATA / name).read_bytes())
    return np.frombuffer(data, np.uint8, offset=16).reshape(-1, 784).astype(np.float32)


def _unit(vectors: Vectors) -> Vectors:
    made: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return made
