"""Run by the Python of the peers' own environment: Qdrant's engine in the same process as its caller, without a server.

`peer_qdrant.py FOLDER SECONDS THREADS`: FOLDER has `vectors.npy` and `queries.npy`, unit vectors, and `truth.json`, the
ids of the exact ten; gets `peer.json`: recall and queries a second at the least effort that finds WANTED of them.
"""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from qdrant_edge import (  # type: ignore[import-not-found]
    Distance,
    EdgeConfig,
    EdgeShard,
    EdgeVectorParams,
    HnswIndexConfig,
    Point,
    Query,
    QueryRequest,
    SearchParams,
    UpdateOperation,
)

INSERTED_AT_ONCE = 2_000
EFFORTS = (32, 64, 128, 256, 512)
WANTED = 0.99
LINKS, CONSTRUCTION_EFFORT = 32, 64  # as Penstock's


def main(folder: Path, seconds: float, threads: int) -> None:
    """Fills it, measures, and writes the file."""
    vectors, queries = np.load(folder / "vectors.npy"), np.load(folder / "queries.npy")
    truth = [set(ids) for ids in json.loads((folder / "truth.json").read_text("utf-8"))]
    built = HnswIndexConfig(LINKS, CONSTRUCTION_EFFORT, 1_000)
    config = EdgeConfig(vectors=EdgeVectorParams(size=vectors.shape[1], distance=Distance.Cosine), hnsw_config=built)
    shard_folder = folder / "shard"
    shard_folder.mkdir()
    shard = EdgeShard.create(str(shard_folder), config)
    for first in range(0, len(vectors), INSERTED_AT_ONCE):
        some = vectors[first : first + INSERTED_AT_ONCE]
        points = [Point(first + row, each.tolist()) for row, each in enumerate(some)]
        shard.update(UpdateOperation.upsert_points(points))
    shard.optimize()
    for effort in EFFORTS:
        requests = [
            QueryRequest(limit=10, query=Query.Nearest(query.tolist()), params=SearchParams(hnsw_ef=effort))
            for query in queries
        ]
        found = [{hit.id for hit in shard.query(request)} for request in requests]
        recall = sum(len(of & ids) for of, ids in zip(truth, found, strict=True)) / (10 * len(found))
        if recall >= WANTED:
            break
    until = time.perf_counter() + seconds

    def ask(number: int) -> int:
        asked = 0
        while time.perf_counter() < until:
            shard.query(requests[(number + asked * threads) % len(requests)])
            asked += 1
        return asked

    started = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        asked = sum(pool.map(ask, range(threads)))
    rate = asked / (time.perf_counter() - started)
    (folder / "peer.json").write_text(
        json.dumps({"recall": recall, "effort": effort, "queries_per_s": rate}), encoding="utf-8"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
