"""How well searches find what people judged to be relevant, through the API, with older ways of searching beside."""

import os
from pathlib import Path

from loadtest.launch import scratch, server
from loadtest.result import Result
from loadtest.scale import Scale
from penstock.cli.evaluate_search import CUT, Judgements, judgements, quality, searched
from penstock.cli.evaluate_server import rows_of, shelve
from penstock_client import Client

VARIABLE = "PENSTOCK_BENCH_DATA"
FILE = "search_relevance_dev.parquet"
COLUMNS = {"relevance": "median_relevance", "title": "product_title", "description": "product_description"}
MISSING = f"""search_ndcg_dev needs data that Penstock may not ship: {FILE}, with the columns query, product_title,
product_description and median_relevance (1 to 4). Set {VARIABLE} to the folder that has it."""
WANTED = 0.84
# Measured on the same 130 queries, before there was a Penstock: BM25 over titles and descriptions, cosines of MiniLM's
# vectors of the titles.
BM25 = 0.754
MINILM_TITLES = 0.820


async def search_ndcg_dev(name: str, scale: Scale) -> Result:
    """NDCG@10 of hybrid searches; --quick judges every twentieth query, among its own products only."""
    folder = os.environ.get(VARIABLE, "")
    if not folder or not (file := Path(folder) / FILE).is_file():
        raise SystemExit(MISSING)
    judged = _some(judgements([rows_of(file, COLUMNS, needs=("query", *COLUMNS), delimiter=",")]), scale.share)
    with scratch() as data, server(data / "server", fsync=False, pipeline=False) as running:
        async with Client(running.target) as client:
            await shelve(client, judged.products)
            found = {
                mode: quality(judged, await searched(client, judged.relevance, mode))
                for mode in ("hybrid", "lexical", "vector")
            }
    return Result(
        name, found["hybrid"].ndcg, f"NDCG@{CUT}", MINILM_TITLES, "vectors of titles alone, on all of these queries",
        target_value=WANTED,
        details={
            "queries": len(judged.relevance), "products": len(judged.products),
            "lexical": found["lexical"].ndcg, "vector": found["vector"].ndcg,
            "bm25_before": BM25, "minilm_titles_before": MINILM_TITLES,
            "mrr": found["hybrid"].mrr, "judged": found["hybrid"].judged,
        },
    )  # fmt: skip


def _some(judged: Judgements, share: float) -> Judgements:
    kept = dict(list(judged.relevance.items())[:: round(1 / share)])
    ids = {product_id for of in kept.values() for product_id in of}
    return Judgements([each for each in judged.products if each.product_id in ids], kept, judged.worthless)
