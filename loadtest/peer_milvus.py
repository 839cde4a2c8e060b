"""Run by the Python of the peers' own environment: fills milvus-lite, and writes what its client would send.

`peer_milvus.py ADDRESS FOLDER`: FOLDER has `vectors.npy` and `queries.npy`, unit vectors, and `truth.json`, the ids of
the exact ten; gets `requests.json`, a request for each query in hex, and `peer.json`: the recall at the least effort
that finds WANTED of them.
"""

import json
import sys
from pathlib import Path

import numpy as np
from pymilvus import DataType, MilvusClient  # type: ignore[import-not-found]
from pymilvus.client.prepare import Prepare  # type: ignore[import-not-found]

COLLECTION = "fashion"
INSERTED_AT_ONCE = 2_000
EFFORTS = (32, 64, 128, 256, 512)
WANTED = 0.99
LINKS, CONSTRUCTION_EFFORT = 32, 64  # as Penstock's


def main(address: str, folder: Path) -> None:
    """Fills it, and writes the files."""
    vectors, queries = np.load(folder / "vectors.npy"), np.load(folder / "queries.npy")
    truth = [set(ids) for ids in json.loads((folder / "truth.json").read_text("utf-8"))]
    client = MilvusClient(f"http://{address}")
    schema = client.create_schema(auto_id=False)
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=vectors.shape[1])
    index = client.prepare_index_params()
    built = {"M": LINKS, "efConstruction": CONSTRUCTION_EFFORT}
    index.add_index("vector", index_type="HNSW", metric_type="COSINE", params=built)
    client.create_collection(COLLECTION, schema=schema, index_params=index)
    for first in range(0, len(vectors), INSERTED_AT_ONCE):
        some = vectors[first : first + INSERTED_AT_ONCE]
        client.insert(COLLECTION, [{"id": first + row, "vector": each.tolist()} for row, each in enumerate(some)])
    client.flush(COLLECTION)
    client.load_collection(COLLECTION)
    for effort in EFFORTS:
        asked = {"metric_type": "COSINE", "params": {"ef": effort}}
        found = [
            [
                hit["id"]
                for hit in client.search(
                    COLLECTION, [query.tolist()], limit=10, output_fields=["id"], search_params=asked
                )[0]
            ]
            for query in queries
        ]
        recall = sum(len(of & set(ids)) for of, ids in zip(truth, found, strict=True)) / (10 * len(found))
        if recall >= WANTED:
            break
    requests = [
        Prepare.search_requests_with_expr(
            COLLECTION, "vector", asked, 10, data=[query.tolist()], output_fields=["id"]
        ).SerializeToString()
        for query in queries
    ]
    (folder / "requests.json").write_text(json.dumps([each.hex() for each in requests]), encoding="utf-8")
    (folder / "peer.json").write_text(json.dumps({"recall": recall, "effort": effort}), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
