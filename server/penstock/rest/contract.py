"""The contract as data: which rpc answers which path, read from the descriptor set that Envoy reads too."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

from google.api import annotations_pb2, http_pb2
from google.protobuf.descriptor_pb2 import (
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
    ServiceDescriptorProto,
)

from buf.validate import validate_pb2  # noqa: F401  # options are read only where their extension is known
from penstock.access.v1 import access_pb2

PACKAGE = "penstock."
VERBS = ("get", "put", "post", "delete", "patch")


@dataclass(frozen=True, slots=True)
class Binding:
    """One REST path of an rpc."""

    verb: str  # "get", lower case
    path: str  # "/v1/streams/{stream_id}"
    body: str  # the field that the body is; "*" the whole request, "" none


@dataclass(frozen=True, slots=True)
class Rpc:
    """One rpc, with where it stands in its file (for its comments)."""

    file: FileDescriptorProto
    service: ServiceDescriptorProto
    method: MethodDescriptorProto
    place: tuple[int, ...]  # as SourceCodeInfo.Location.path
    bindings: tuple[Binding, ...]

    @property
    def path(self) -> str:
        """`/penstock.kpis.v1.KpiService/GetMetrics`."""
        return f"/{self.file.package}.{self.service.name}/{self.method.name}"

    @property
    def comment(self) -> str:
        """What the contract says of it."""
        return comments(self.file.name).get(self.place, "")

    @property
    def needs(self) -> access_pb2.Needs:
        """What the rpc is declared to need."""
        return cast(access_pb2.Needs, self.method.options.Extensions[cast(Any, access_pb2.needs)])


def descriptor_path() -> Path:
    """The descriptor set's file."""
    return Path(str(files("penstock.rpc").joinpath("contract.binpb")))


@cache
def descriptors() -> FileDescriptorSet:
    """The descriptor set: our files and all they import, with comments."""
    return FileDescriptorSet.FromString(descriptor_path().read_bytes())


@cache
def rpcs() -> tuple[Rpc, ...]:
    """Every rpc of every penstock service, in the contract's order."""
    return tuple(_rpcs())


@cache
def comments(file_name: str) -> dict[tuple[int, ...], str]:
    """The comments of a file by the place of what they stand at, without the margin."""
    file = next(file for file in descriptors().file if file.name == file_name)
    return {
        tuple(location.path): _without_margin(location.leading_comments)
        for location in file.source_code_info.location
        if location.leading_comments
    }


def service_names() -> list[str]:
    """Every penstock service by its full name."""
    return list(dict.fromkeys(f"{rpc.file.package}.{rpc.service.name}" for rpc in rpcs()))


def _without_margin(comment: str) -> str:
    return "\n".join(line.removeprefix(" ") for line in comment.splitlines()).strip()


def _rpcs() -> Iterator[Rpc]:
    service_field = FileDescriptorProto.SERVICE_FIELD_NUMBER
    method_field = ServiceDescriptorProto.METHOD_FIELD_NUMBER
    for file in descriptors().file:
        if not file.package.startswith(PACKAGE):
            continue
        for s, service in enumerate(file.service):
            for m, method in enumerate(service.method):
                rule = method.options.Extensions[annotations_pb2.http]
                yield Rpc(file, service, method, (service_field, s, method_field, m), tuple(_bindings(rule)))


def _bindings(rule: http_pb2.HttpRule) -> Iterator[Binding]:
    verb = rule.WhichOneof("pattern")
    if verb in VERBS:
        yield Binding(verb, getattr(rule, verb), rule.body)
    for another in rule.additional_bindings:
        yield from _bindings(another)
