"""How well recommendations foresee the last film that users of MovieLens-100K rated, through the API.

The ratings come from the wheel of `recbole` 1.2.1, which carries them; it is fetched once, without what it depends on,
is not installed, and nothing of it is run. Every rating counts as a purchase, whatever its value, as in what is
published of this protocol: leave-last-out, full ranking, what the user had before left out.
"""

import asyncio
import subprocess
import sys
import zipfile
from pathlib import Path

import pyarrow as pa

from loadtest.launch import scratch, server
from loadtest.result import Result
from loadtest.scale import Scale
from penstock.cli import evaluate_recommendations as evaluation
from penstock.cli.evaluate_recommendations import History, How
from penstock.cli.evaluate_server import shelve
from penstock_client import Client

FOLDER = Path(__file__).parent / "fetched"
WHEEL = "recbole-1.2.1-py3-none-any.whl"
PART = "recbole/dataset_example/ml-100k/ml-100k."
HIT_RATE = 0.20  # wanted
NDCG = 0.11  # likewise
FETCH_S_MAX = 120.0
MISSING = "recommend_ml100k needs a package index to fetch recbole 1.2.1 from (2 MB), which carries MovieLens-100K: "


async def recommend_ml100k(name: str, scale: Scale) -> Result:
    """HR@10 of FEED; --quick takes every twentieth user's history, and means little.

    Each user's times are moved so that their last rating but the one held out is of now: sessions fade in minutes.
    """
    told = await asyncio.to_thread(_history, scale.share)
    split, rows = told.split(How.LAST)
    with scratch() as folder, server(folder / "server", fsync=False, pipeline=False) as running:
        async with Client(running.target) as client:
            await shelve(client, evaluation.products_of(told))
            await evaluation.load(client, told, split, rows, How.LAST)
            found = await evaluation.asked(client, split)
    outcome = evaluation.judged(split, found, len(set(told.products)))
    at_10, at_20, popular = outcome.server.at[10], outcome.server.at[20], outcome.popularity.at[10]
    return Result(
        name, at_10.hit_rate, "HR@10", popular.hit_rate, "the most popular films that the user had not",
        target_value=HIT_RATE,
        holds=at_10.ndcg >= NDCG,
        details={
            "users": outcome.server.users, "products": outcome.server.products,
            "ndcg_at_10": at_10.ndcg, "ndcg_at_10_wanted": NDCG, "popularity_ndcg_at_10": popular.ndcg,
            "mrr_at_10": at_10.mrr, "coverage_at_10": at_10.coverage,
            "hr_at_20": at_20.hit_rate, "ndcg_at_20": at_20.ndcg,
        },
    )  # fmt: skip


def _history(share: float) -> History:
    with zipfile.ZipFile(_fetched()) as wheel:
        ratings = _lines(wheel, "inter")
        names = {film: f"{title} ({year}), {genres}" for film, title, year, genres in _lines(wheel, "item")}
    kept = [row for row in ratings if int(row[0]) % round(1 / share) == 0]
    users, films, _, seconds = zip(*kept, strict=True)
    return evaluation.history(
        pa.table(
            {
                "user_id": pa.array(users),
                "product_id": pa.array(films),
                "time": pa.array([int(float(each)) for each in seconds], pa.int64()),
                "title": pa.array([names[film] for film in films]),
            }
        ),
        "purchase",
    )


def _lines(wheel: zipfile.ZipFile, what: str) -> list[list[str]]:
    return [line.split("\t") for line in wheel.read(PART + what).decode("utf-8").splitlines()[1:]]


def _fetched() -> Path:
    """The wheel. Raises SystemExit where it cannot be fetched."""
    if not (FOLDER / WHEEL).exists():
        FOLDER.mkdir(exist_ok=True)
        package = "==".join(WHEEL.split("-")[:2])
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(FOLDER), package]
        done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_S_MAX, check=False)
        if done.returncode:
            raise SystemExit(MISSING + done.stderr.strip())
    return FOLDER / WHEEL
