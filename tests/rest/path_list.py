"""The REST paths that are promised (paths.tsv), and which path of the contract a request is for."""

import csv
from pathlib import Path

from penstock.rest import contract

with Path(__file__).with_name("paths.tsv").open(encoding="utf-8", newline="") as lines:
    PROMISED = [(row["method"], row["path"]) for row in csv.DictReader(lines, delimiter="\t")]


def rpc_of(method: str, path: str) -> contract.Rpc | None:
    """What answers `GET /v1/streams/s?x=1`; None when nothing does."""
    found = _found(method, path)
    return found[0] if found else None


def template_of(method: str, path: str) -> tuple[str, str] | None:
    """`GET`, `/v1/streams/{stream_id}` of `GET /v1/streams/s?x=1`; None when the contract has no such path."""
    found = _found(method, path)
    return (method, found[1].path) if found else None


def _found(method: str, path: str) -> tuple[contract.Rpc, contract.Binding] | None:
    path = path.partition("?")[0]
    found = [
        (rpc, binding)
        for rpc in contract.rpcs()
        for binding in rpc.bindings
        if binding.verb == method.lower() and _fits(binding.path, path)
    ]
    assert len(found) <= 1, (method, path, found)
    return found[0] if found else None


def _fits(template: str, path: str) -> bool:
    parts, found = template.split("/"), path.split("/")
    return len(parts) == len(found) and all(
        each == other or (each.startswith("{") and (":" in each.partition("}")[2]) == (":" in other))
        for each, other in zip(parts, found, strict=True)
    )
