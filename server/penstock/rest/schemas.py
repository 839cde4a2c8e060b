"""Messages of the contract as JSON schemas: their proto3-JSON form, with snake_case names."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias, cast

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)

from buf.validate import validate_pb2
from penstock.rest import contract

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"
Schema: TypeAlias = dict[str, Json]
Place: TypeAlias = tuple[int, ...]

F = FieldDescriptorProto
_SCALARS: Mapping[int, Schema] = {
    F.TYPE_DOUBLE: {"type": "number", "format": "double"},
    F.TYPE_FLOAT: {"type": "number", "format": "float"},
    F.TYPE_INT32: {"type": "integer", "format": "int32"},
    F.TYPE_UINT32: {"type": "integer", "format": "int64", "minimum": 0},
    # A JSON number would lose digits past 2^53.
    F.TYPE_INT64: {"type": "string", "format": "int64", "pattern": "^-?[0-9]+$"},
    F.TYPE_UINT64: {"type": "string", "format": "uint64", "pattern": "^[0-9]+$"},
    F.TYPE_BOOL: {"type": "boolean"},
    F.TYPE_STRING: {"type": "string"},
    F.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
}
_WELL_KNOWN: Mapping[str, Schema] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$", "examples": ["1.5s"]},
    "google.protobuf.FieldMask": {"type": "string"},
    "google.protobuf.Any": {
        "type": "object",
        "properties": {"@type": {"type": "string"}},
        "required": ["@type"],
        "additionalProperties": True,
    },
}
STATUS = "google.rpc.Status"


@dataclass(frozen=True, slots=True)
class Message:
    """A message type, with where it stands in its file."""

    file: FileDescriptorProto
    descriptor: DescriptorProto
    place: Place

    def comment(self, *below: int) -> str:
        """The comment at the message, or at what is at `below` in it."""
        return contract.comments(self.file.name).get((*self.place, *below), "")


@dataclass(frozen=True, slots=True)
class Enumeration:
    """An enum type, with where it stands in its file."""

    file: FileDescriptorProto
    descriptor: EnumDescriptorProto
    place: Place


@cache
def types() -> dict[str, Message | Enumeration]:
    """Every type of the descriptor set by its full name."""
    found: dict[str, Message | Enumeration] = {}
    for file in contract.descriptors().file:
        for e, enumeration in enumerate(file.enum_type):
            place = (FileDescriptorProto.ENUM_TYPE_FIELD_NUMBER, e)
            found[f"{file.package}.{enumeration.name}"] = Enumeration(file, enumeration, place)
        for m, message in enumerate(file.message_type):
            place = (FileDescriptorProto.MESSAGE_TYPE_FIELD_NUMBER, m)
            found.update(_within(file, message, place, file.package))
    return found


def message(full_name: str) -> Message:
    """The message of that name. Raises KeyError."""
    found = types()[full_name.removeprefix(".")]
    assert isinstance(found, Message)
    return found


def component(full_name: str) -> str:
    """A type's name in the document: `events.Event` of `penstock.events.v1.Event`."""
    name = full_name.removeprefix(".")
    return "Error" if name == STATUS else name.removeprefix(contract.PACKAGE).replace(".v1.", ".")


def reference(full_name: str) -> Schema:
    """The schema of a message or enum by name: well-known types as they print, others by reference."""
    known = _WELL_KNOWN.get(full_name.removeprefix("."))
    return dict(known) if known is not None else {"$ref": f"#/components/schemas/{component(full_name)}"}


def components(roots: set[str]) -> dict[str, Json]:
    """Schemas of the components named, and of all that they refer to."""
    found: dict[str, Json] = {}
    waiting = [name for name in types() if component(name) in roots]
    while waiting:
        name = waiting.pop()
        if component(name) in found or name in _WELL_KNOWN:
            continue
        subject = types()[name]
        if isinstance(subject, Enumeration):
            found[component(name)] = _enum_schema(subject)
        else:
            found[component(name)] = message_schema(subject)
            waiting.extend(_mentioned(subject))
    return dict(sorted(found.items()))


def message_schema(subject: Message, *, without: frozenset[str] = frozenset()) -> Schema:
    """A message as an object. `without` leaves fields out that come by another way, such as in the path."""
    fields = [(index, each) for index, each in enumerate(subject.descriptor.field) if each.name not in without]
    schema: Schema = {
        "type": "object",
        "properties": {each.name: field_schema(subject, index) for index, each in fields},
        # What is not declared would be ignored without a word.
        "additionalProperties": False,
    }
    if comment := subject.comment():
        schema["description"] = comment
    required: list[Json] = [each.name for _, each in fields if _is_required(each)]
    if required:
        schema["required"] = required
    return schema


def field_schema(subject: Message, index: int) -> Schema:
    """One field, with its comment and its bounds."""
    field = subject.descriptor.field[index]
    rules = _rules(field)
    single = {**_single(field), **_bounds(rules, field)}
    schema: Schema = single
    if (entry := _map_entry(field)) is not None:
        schema = {"type": "object", "additionalProperties": _single(entry.field[1])}
    elif field.label == F.LABEL_REPEATED:
        schema = {"type": "array", "items": _single(field), **_item_bounds(rules)}
    comment = subject.comment(DescriptorProto.FIELD_FIELD_NUMBER, index)
    return {**schema, "description": comment} if comment else schema


def _within(
    file: FileDescriptorProto, subject: DescriptorProto, place: Place, outer: str
) -> Iterator[tuple[str, Message | Enumeration]]:
    name = f"{outer}.{subject.name}"
    yield name, Message(file, subject, place)
    for e, enumeration in enumerate(subject.enum_type):
        within = (*place, DescriptorProto.ENUM_TYPE_FIELD_NUMBER, e)
        yield f"{name}.{enumeration.name}", Enumeration(file, enumeration, within)
    for n, nested in enumerate(subject.nested_type):
        yield from _within(file, nested, (*place, DescriptorProto.NESTED_TYPE_FIELD_NUMBER, n), name)


def _mentioned(subject: Message) -> Iterator[str]:
    for field in subject.descriptor.field:
        entry = _map_entry(field)
        named = entry.field[1] if entry is not None else field
        if named.type_name:
            yield named.type_name.removeprefix(".")


def _map_entry(field: FieldDescriptorProto) -> DescriptorProto | None:
    if field.type != F.TYPE_MESSAGE:
        return None
    descriptor = message(field.type_name).descriptor
    return descriptor if descriptor.options.map_entry else None


def _single(field: FieldDescriptorProto) -> Schema:
    return reference(field.type_name) if field.type_name else dict(_SCALARS[field.type])


def _enum_schema(subject: Enumeration) -> Schema:
    said = contract.comments(subject.file.name)
    value_field = EnumDescriptorProto.VALUE_FIELD_NUMBER
    lines = [
        f"- `{value.name}`: {said.get((*subject.place, value_field, index), '')}"
        for index, value in enumerate(subject.descriptor.value)
    ]
    return {
        "type": "string",
        "enum": [value.name for value in subject.descriptor.value],
        "description": "\n".join([said.get(subject.place, ""), "", *lines]).strip(),
    }


def _rules(field: FieldDescriptorProto) -> validate_pb2.FieldRules:
    return cast(validate_pb2.FieldRules, field.options.Extensions[cast(Any, validate_pb2.field)])


def _is_required(field: FieldDescriptorProto) -> bool:
    rules = _rules(field)
    return rules.required or rules.string.min_len > 0 or rules.repeated.min_items > 0


def _bounds(rules: validate_pb2.FieldRules, field: FieldDescriptorProto) -> Schema:
    """The declared bounds that JSON schema has words for."""
    found: Schema = {}
    if field.type == F.TYPE_STRING:
        text = rules.string
        for keyword, name in (("minLength", "min_len"), ("maxLength", "max_len"), ("pattern", "pattern")):
            if text.HasField(name):
                found[keyword] = getattr(text, name)
    if field.type == F.TYPE_INT32:
        number = rules.int32
        for keyword, name in (
            ("minimum", "gte"),
            ("maximum", "lte"),
            ("exclusiveMinimum", "gt"),
            ("exclusiveMaximum", "lt"),
        ):
            if number.HasField(name):
                found[keyword] = getattr(number, name)
    return found


def _item_bounds(rules: validate_pb2.FieldRules) -> Schema:
    items = rules.repeated
    pairs = (("minItems", "min_items"), ("maxItems", "max_items"))
    return {keyword: getattr(items, name) for keyword, name in pairs if items.HasField(name)}
