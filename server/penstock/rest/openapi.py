"""The OpenAPI 3.1 document of the REST face, made from the contract: what is not declared there is not in it."""

import json
import re
from collections.abc import Iterator
from functools import cache

from penstock.access.v1 import access_pb2
from penstock.rest import contract
from penstock.rest.contract import Binding, Rpc
from penstock.rest.schemas import (
    STATUS,
    Json,
    Message,
    Schema,
    components,
    field_schema,
    message,
    message_schema,
    reference,
)

HTTP_BODY = ".google.api.HttpBody"
_REFERENCE = re.compile(r"#/components/schemas/([\w.]+)")
_VARIABLE = re.compile(r"\{([\w.]+)\}")

# Bodies that an rpc takes as they are; the contract says so only in words.
RAW_REQUESTS: dict[str, tuple[str, Schema]] = {
    "Collect": ("application/json", {"type": "object", "additionalProperties": True}),
    "UploadEvents": ("application/x-ndjson", {"type": "string"}),
    "UploadProducts": ("application/x-ndjson", {"type": "string"}),
}
RAW_RESPONSES: dict[str, tuple[str, Schema]] = {
    "GetOpenApi": ("application/json", {"type": "object", "additionalProperties": True}),
    "GetSigningKeys": ("application/json", {"type": "object", "additionalProperties": True}),
    "ExportFeatures": ("application/vnd.apache.arrow.stream", {"type": "string", "format": "binary"}),
}
_SECURITY_SCHEMES: dict[str, Json] = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key, or the access token of POST /auth/token.",
    },
    "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "An API key."},
}
_ERROR: Schema = {
    "type": "object",
    "description": "What went wrong. The HTTP status is that of `code`.",
    "required": ["code", "message", "details"],
    "properties": {
        "code": {"type": "integer", "description": "The number of a google.rpc.Code."},
        "message": {"type": "string", "description": "For a person."},
        "details": {
            "type": "array",
            "description": "Always one google.rpc.ErrorInfo, whose `reason` is stable; google.rpc.BadRequest where "
            "fields are wrong; google.rpc.RetryInfo where trying again helps.",
            "items": reference("google.protobuf.Any"),
        },
    },
}


@cache
def document_json(version: str) -> bytes:
    """The document as JSON; the same bytes for the same version."""
    return json.dumps(document(version), ensure_ascii=False).encode()


def document(version: str) -> dict[str, Json]:
    """The document of all rpcs that have a REST face; `version` is that of the server."""
    paths: dict[str, Json] = {}
    for rpc in contract.rpcs():
        for nth, binding in enumerate(rpc.bindings):
            item = paths.setdefault(binding.path, {})
            assert isinstance(item, dict)
            item[binding.verb] = _operation(rpc, binding, nth)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Penstock",
            "version": version,
            "description": "Event streams in, decisions out. The same contract is served by gRPC on the server's own "
            "port and, with gRPC-Web, on this one.",
        },
        "servers": [{"url": "/"}],
        "tags": list(_tags()),
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": {**components(set(_REFERENCE.findall(json.dumps(paths)))), "Error": _ERROR},
            "securitySchemes": _SECURITY_SCHEMES,
        },
    }


def _tags() -> Iterator[Json]:
    for rpc in contract.rpcs():
        if rpc.place[-1] == 0:
            said = contract.comments(rpc.file.name).get(rpc.place[:2], "")
            yield {"name": rpc.service.name, "description": said}


def _operation(rpc: Rpc, binding: Binding, nth: int) -> Json:
    summary, _, _ = rpc.comment.partition(". ")
    operation: dict[str, Json] = {
        "operationId": rpc.method.name if nth == 0 else f"{rpc.method.name}_{binding.verb}",
        "tags": [rpc.service.name],
        "summary": " ".join(summary.partition("\n\n")[0].split()).rstrip("."),
        "description": rpc.comment,
        "responses": {
            "200": _response(rpc),
            "default": {
                "description": "An error.",
                "content": {"application/json": {"schema": reference(STATUS)}},
            },
        },
    }
    # What needs no credential says so with an empty alternative; a server that is open takes every call without one.
    anonymous = rpc.needs.role == access_pb2.ROLE_ANONYMOUS
    operation["security"] = [{}] if anonymous else [{"bearer": []}, {"apiKey": []}]
    if not anonymous:
        operation["x-penstock-role"] = access_pb2.Role.Name(rpc.needs.role).removeprefix("ROLE_").lower()
    if parameters := list(_parameters(rpc, binding)):
        operation["parameters"] = parameters
    if binding.body:
        operation["requestBody"] = _request_body(rpc, binding)
    return operation


def _response(rpc: Rpc) -> Json:
    if rpc.method.output_type == HTTP_BODY:
        media, schema = RAW_RESPONSES[rpc.method.name]
        return {"description": "The body as it is.", "content": {media: {"schema": dict(schema)}}}
    schema = reference(rpc.method.output_type)
    said = message(rpc.method.output_type).comment()
    if not rpc.method.server_streaming:
        return {"description": said or "The answer.", "content": {"application/json": {"schema": schema}}}
    return {
        "description": f"Server-sent events, the `data:` of each a message of this schema. {said}",
        "content": {"text/event-stream": {"schema": schema}},
    }


def _parameters(rpc: Rpc, binding: Binding) -> Iterator[Json]:
    in_path = _VARIABLE.findall(binding.path)
    if rpc.method.input_type == HTTP_BODY:
        if not binding.body:
            yield _free_parameters()
        return
    subject = message(rpc.method.input_type)
    for name in in_path:
        yield _parameter(subject, name, by_path=True)
    if binding.body == "*":
        return
    for field in subject.descriptor.field:
        if field.name not in {binding.body, *in_path}:
            yield _parameter(subject, field.name, by_path=False)


def _parameter(subject: Message, name: str, *, by_path: bool) -> Json:
    """The parameter of a field; in a path it may be a field of a field, `kpi.name`."""
    *outer, last = name.split(".")
    for each in outer:
        subject = message(subject.descriptor.field[_place(subject, each)].type_name)
    schema = field_schema(subject, _place(subject, last))
    parameter: dict[str, Json] = {
        "name": name,
        "in": "path" if by_path else "query",
        "required": by_path,
        "description": schema.pop("description", ""),
        "schema": schema,
    }
    return parameter


def _place(subject: Message, name: str) -> int:
    return next(index for index, field in enumerate(subject.descriptor.field) if field.name == name)


def _free_parameters() -> Json:
    return {
        "name": "parameters",
        "in": "query",
        "description": "Any names and values.",
        "style": "form",
        "explode": True,
        "schema": {"type": "object", "additionalProperties": {"type": "string"}},
    }


def _request_body(rpc: Rpc, binding: Binding) -> Json:
    if rpc.method.input_type == HTTP_BODY or _raw_field(rpc):
        media, raw = RAW_REQUESTS[rpc.method.name]
        return {"required": True, "content": {media: {"schema": dict(raw)}}}
    in_path = frozenset(_VARIABLE.findall(binding.path))
    body_type = rpc.method.input_type
    subject = message(body_type)
    if binding.body != "*":
        body_type = subject.descriptor.field[_place(subject, binding.body)].type_name
        subject = message(body_type)
        in_path = frozenset(name.removeprefix(f"{binding.body}.") for name in in_path)
    one = message_schema(subject, without=in_path) if in_path else reference(body_type)
    schema: Schema = {"type": "array", "items": one} if rpc.method.client_streaming else one
    return {
        # Without a body a unary rpc gets the request in which every field is absent.
        "required": rpc.method.client_streaming or "required" in message_schema(subject, without=in_path),
        "description": subject.comment(),
        "content": {"application/json": {"schema": schema}},
    }


def _raw_field(rpc: Rpc) -> bool:
    """Whether the body is one raw field of the request."""
    bodies = {binding.body for binding in rpc.bindings} - {"", "*"}
    fields = () if rpc.method.input_type == HTTP_BODY else message(rpc.method.input_type).descriptor.field
    return any(field.name in bodies and field.type_name == HTTP_BODY for field in fields)
