"""What must hold of every rpc, message and setting, so that nobody can forget it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from google.api import annotations_pb2
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor

from penstock.access.v1 import access_pb2
from penstock.accounts.v1 import accounts_service_pb2
from penstock.catalog.v1 import catalog_service_pb2
from penstock.events import bronze, engine_schema
from penstock.events.v1 import events_pb2, events_service_pb2
from penstock.feedback.v1 import feedback_service_pb2
from penstock.kpis.v1 import kpis_service_pb2
from penstock.operations.v1 import operations_service_pb2
from penstock.pipeline.v1 import pipeline_service_pb2
from penstock.queries.v1 import queries_service_pb2
from penstock.recommendations.v1 import recommendations_service_pb2
from penstock.rest import contract
from penstock.rpc.needs import needs_of
from penstock.search.v1 import search_service_pb2
from penstock.settings import Settings

ROOT = Path(__file__).parents[2]
MODULES = (
    *(
        accounts_service_pb2,
        catalog_service_pb2,
        events_service_pb2,
        feedback_service_pb2,
        kpis_service_pb2,
        operations_service_pb2,
    ),
    *(pipeline_service_pb2, queries_service_pb2, recommendations_service_pb2, search_service_pb2),
)
METHODS = [
    method
    for module in MODULES
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]


def by_name(method: MethodDescriptor) -> str:
    return method.full_name


def test_every_service_is_looked_at() -> None:
    named = {service.full_name for module in MODULES for service in module.DESCRIPTOR.services_by_name.values()}
    assert named == set(contract.service_names())


@pytest.mark.parametrize("method", METHODS, ids=by_name)
def test_every_rpc_declares_what_it_needs_and_its_rest_face(method: MethodDescriptor) -> None:
    needs = needs_of(method)
    assert needs.role
    assert needs.cost
    assert needs.cache
    rule = method.GetOptions().Extensions[annotations_pb2.http]  # type: ignore[index]
    verb = rule.WhichOneof("pattern")
    if verb is None:
        path = f"/{method.containing_service.full_name}/{method.name}"
        comment = next(rpc.comment for rpc in contract.rpcs() if rpc.path == path)
        assert "no REST face" in comment, "an rpc without a REST face says why"
        return
    if needs.cost == access_pb2.COST_CLASS_WRITE:
        assert verb in {"post", "patch", "delete"}
    if needs.cost == access_pb2.COST_CLASS_HEAVY and verb == "get":
        assert needs.cache != access_pb2.CACHEABILITY_NONE, "what changes something must not be a GET"


@pytest.mark.parametrize("method", METHODS, ids=by_name)
def test_a_stream_that_rest_can_reach_ends_with_a_frame_that_says_so(method: MethodDescriptor) -> None:
    has_rest = method.GetOptions().Extensions[annotations_pb2.http].WhichOneof("pattern")  # type: ignore[index]
    if not has_rest or not method.server_streaming or method.output_type.full_name == "google.api.HttpBody":
        return  # a body as it is has the end that its own format gives it
    frame = method.output_type.oneofs_by_name["frame"]
    assert {"error", "end"} <= {field.name for field in frame.fields}


def test_the_engine_reads_events_as_the_contract_writes_them() -> None:
    """Every field of Event is a column of bronze, and none is forgotten."""
    paths = {path.partition(".")[0] for _, _, _, path in bronze.FLAT}
    assert paths == {field.name for field in events_pb2.Event.DESCRIPTOR.fields}
    nested = {path for _, _, _, path in bronze.FLAT if path.startswith("attribution.")}
    assert nested == {f"attribution.{field.name}" for field in events_pb2.Attribution.DESCRIPTOR.fields}


def test_stamps_use_only_numbers_that_the_contract_reserves() -> None:
    source = (ROOT / "protos/penstock/events/v1/events_service.proto").read_text(encoding="utf-8")
    first, last = map(int, re.search(r"reserved (\d+) to (\d+);", source).groups())  # type: ignore[union-attr]
    assert all(first <= number <= last for number, _ in engine_schema.STAMP_FIELDS.values())


def test_the_source_for_the_engine_describes_the_same_wire(tmp_path: Path) -> None:
    """protoc reads it, and a batch of the contract parses with it, field by field."""
    (tmp_path / "batch.proto").write_text(engine_schema.batch_source(), encoding="utf-8")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            f"-I{tmp_path}",
            f"--descriptor_set_out={tmp_path}/out",
            "batch.proto",
        ],
        check=True,
    )
    from google.protobuf import descriptor_pb2

    described = descriptor_pb2.FileDescriptorSet.FromString((tmp_path / "out").read_bytes())
    event = described.file[0].message_type[0].nested_type[0].nested_type[0]
    assert {(f.name, f.number) for f in event.field} == {(f.name, f.number) for f in events_pb2.Event.DESCRIPTOR.fields}


def test_counts_and_money_are_json_numbers() -> None:
    """int64 prints as a string in JSON: only positions in a stream and commits, which may pass 2^53, are such."""
    positions = {"offset", "next_offset", "expected_offset", "commit", "run", "first_commit", "last_commit",
                 "processed_commit", "version", "current_version", "oldest_version", "from_version",
                 "to_version", "index_version", "snapshot_commit"}  # fmt: skip
    wide = {FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_UINT64}
    seen: set[str] = set()
    for method in METHODS:
        queue = [method.output_type]
        while queue:
            message = queue.pop()
            if message.full_name in seen or not message.full_name.startswith("penstock."):
                continue
            seen.add(message.full_name)
            for field in message.fields:
                assert field.type not in wide or field.name in positions, field.full_name
                if field.message_type is not None:
                    queue.append(field.message_type)


def test_every_setting_says_what_it_is() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name


def test_every_setting_is_documented() -> None:
    documented = (ROOT / "OPERATIONS.md").read_text(encoding="utf-8")
    missing = [name for name in Settings.model_fields if f"PENSTOCK_{name.upper()}" not in documented]
    assert not missing
