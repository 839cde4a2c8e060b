"""The form in which the engine reads batches: derived from the contract, so the two cannot drift apart.

A batch travels as the client's own AppendRequest bytes with a stamp behind them. Serialised protobuf messages join by
simply being appended. Stamp fields that a client sends of its own are taken out at the edge.
"""

from typing import cast

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from penstock.events.v1 import events_service_pb2

_F = FieldDescriptor
_SCALARS = {
    _F.TYPE_STRING: "string",
    _F.TYPE_DOUBLE: "double",
    _F.TYPE_INT32: "int32",
    _F.TYPE_INT64: "int64",
    _F.TYPE_UINT32: "uint32",
    _F.TYPE_BOOL: "bool",
}
# Numbers that AppendRequest reserves.
STAMP_FIELDS = {
    "batch": (1000, _F.TYPE_UINT32),
    "tenant": (1001, _F.TYPE_STRING),
    "stream_id": (1002, _F.TYPE_STRING),
    "first_offset": (1003, _F.TYPE_INT64),
    "row_count": (1004, _F.TYPE_UINT32),
    "client_address": (1005, _F.TYPE_STRING),
    "user_agent": (1006, _F.TYPE_STRING),
}


def _stamp_descriptor() -> Descriptor:
    file = descriptor_pb2.FileDescriptorProto(name="penstock/events/stamp.proto", package="penstock.events.internal")
    message = file.message_type.add(name="Stamp")
    for name, (number, kind) in STAMP_FIELDS.items():
        message.field.add(name=name, number=number, type=kind, label=_F.LABEL_OPTIONAL)
    descriptor_pool.Default().Add(file)
    return descriptor_pool.Default().FindMessageTypeByName("penstock.events.internal.Stamp")


Stamp = message_factory.GetMessageClass(_stamp_descriptor())


def _message_source(descriptor: Descriptor, extra: list[str]) -> str:
    """The .proto text of a message, its own messages nested in it under their plain names."""
    lines = [f"message {descriptor.name} {{"]
    nested = {inner.name: inner for field in descriptor.fields if (inner := _nested(field)) is not None}
    lines.extend(_message_source(inner, []) for inner in nested.values())
    for each in descriptor.fields:
        if each.message_type is not None and each.message_type.GetOptions().map_entry:
            key, value = each.message_type.fields
            kind = f"map<{_SCALARS[key.type]}, {_SCALARS[value.type]}>"
        else:
            name = each.message_type.name if each.message_type is not None else _SCALARS[each.type]
            kind = ("repeated " if each.is_repeated else "") + name
        lines.append(f"{kind} {each.name} = {each.number};")
    return "\n".join([*lines, *extra, "}"])


def _nested(field: FieldDescriptor) -> Descriptor | None:
    """The message of a field that holds one; maps are written as maps."""
    message = field.message_type
    return None if message is None or message.GetOptions().map_entry else message


def batch_source() -> str:
    """A self-contained .proto that describes a stamped batch, for the engine's `format_schema`."""
    rows = events_service_pb2.AppendRequest.DESCRIPTOR.fields_by_name["event_rows"]
    stamp = [f"{_SCALARS[kind]} {name} = {number};" for name, (number, kind) in STAMP_FIELDS.items()]
    nested = _message_source(cast(Descriptor, rows.message_type), [])
    return "\n".join(
        ['syntax = "proto3";', "message Batch {", nested, f"EventRows {rows.name} = {rows.number};", *stamp, "}"]
    )
