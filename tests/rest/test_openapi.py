"""The OpenAPI document: valid, whole, and true to the contract."""

import json
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from penstock.rest import contract
from penstock.rest.openapi import document, document_json


@pytest.fixture(scope="module")
def spec() -> dict[str, Any]:
    """The document as a reader gets it."""
    parsed: dict[str, Any] = json.loads(document_json("1.2.3"))
    return parsed


def test_it_is_valid_openapi(spec: dict[str, Any]) -> None:
    OpenAPIV31SpecValidator(spec).validate()
    assert spec["info"]["version"] == "1.2.3"


def test_every_binding_of_the_contract_is_in_it_and_no_other(spec: dict[str, Any]) -> None:
    declared = {(binding.path, binding.verb) for rpc in contract.rpcs() for binding in rpc.bindings}
    assert {(path, verb) for path, item in spec["paths"].items() for verb in item} == declared


def test_operation_ids_are_unique(spec: dict[str, Any]) -> None:
    ids = [operation["operationId"] for item in spec["paths"].values() for operation in item.values()]
    assert len(ids) == len(set(ids))


def test_every_operation_parameter_and_property_is_described(spec: dict[str, Any]) -> None:
    for path, item in spec["paths"].items():
        for operation in item.values():
            assert operation["summary"], path
            assert all(parameter["description"] for parameter in operation.get("parameters", ())), path
    for name, schema in spec["components"]["schemas"].items():
        assert schema["description"], name
        assert all(each.get("description") for each in schema.get("properties", {}).values()), name


def test_every_schema_is_referred_to(spec: dict[str, Any]) -> None:
    text = json.dumps(spec)
    unused = [name for name in spec["components"]["schemas"] if f'"#/components/schemas/{name}"' not in text]
    assert unused == []


def test_bounds_are_told(spec: dict[str, Any]) -> None:
    parameters = {each["name"]: each["schema"] for each in spec["paths"]["/events/recent"]["get"]["parameters"]}
    assert (parameters["page_size"]["minimum"], parameters["page_size"]["maximum"]) == (0, 1000)
    assert parameters["page_token"]["maxLength"] == 512
    batch = spec["components"]["schemas"]["events.BatchCollectRequest"]
    assert (batch["properties"]["events"]["minItems"], batch["properties"]["events"]["maxItems"]) == (1, 10_000)
    assert batch["required"] == ["events"]


def test_types_are_those_of_proto3_json(spec: dict[str, Any]) -> None:
    stored = spec["components"]["schemas"]["events.StoredEvent"]["properties"]
    assert stored["commit"]["type"] == "string"
    assert stored["ingest_time"]["format"] == "date-time"
    event = spec["components"]["schemas"]["events.Event"]["properties"]
    assert event["price"]["type"] == "number"
    assert event["properties"]["additionalProperties"] == {"type": "string"}
    assert "RAW_FORMAT_JSON" in spec["components"]["schemas"]["events.RawFormat"]["enum"]


def test_streams_and_raw_bodies_say_what_they_are(spec: dict[str, Any]) -> None:
    tail = spec["paths"]["/v1/events:tail"]["get"]["responses"]["200"]["content"]
    assert set(tail) == {"text/event-stream"}
    upload = spec["paths"]["/v1/events:upload"]["post"]["requestBody"]["content"]
    assert set(upload) == {"application/x-ndjson"}
    stream = spec["paths"]["/v1/events:stream"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert stream["type"] == "array"
    free = spec["paths"]["/collect"]["get"]["parameters"][0]
    assert free["explode"]
    assert free["schema"]["additionalProperties"]


def test_a_path_variable_is_not_in_the_body_too(spec: dict[str, Any]) -> None:
    operation = spec["paths"]["/etl/process/{event_type}"]["post"]
    assert [each["name"] for each in operation["parameters"]] == ["event_type"]
    assert "event_type" not in operation["requestBody"]["content"]["application/json"]["schema"]["properties"]


def test_a_body_is_required_where_a_field_of_it_is(spec: dict[str, Any]) -> None:
    assert spec["paths"]["/v1/events:batchCollect"]["post"]["requestBody"]["required"]
    assert not spec["paths"]["/etl/run-sync"]["post"]["requestBody"]["required"]


def test_errors_have_one_shape(spec: dict[str, Any]) -> None:
    for item in spec["paths"].values():
        for operation in item.values():
            error = operation["responses"]["default"]["content"]["application/json"]["schema"]
            assert error == {"$ref": "#/components/schemas/Error"}
    assert spec["components"]["schemas"]["Error"]["required"] == ["code", "message", "details"]


def test_the_same_version_gives_the_same_bytes() -> None:
    assert document_json("1") is document_json("1")
    assert document("1") == document("1")
