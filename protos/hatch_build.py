"""Generates the Python stubs and the descriptor set from protos/, for every way of building or installing Penstock.

Run as a script (`python protos/hatch_build.py [OUT]`) it generates in place, which is what `make generate` does.
"""

import sys
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # as a script, where hatchling is not needed
    BuildHookInterface = object  # type: ignore[assignment,misc]

PROTOS = Path(__file__).resolve().parent
SERVER = PROTOS.parent / "server"
# Not imported by ours, but Envoy prints the details of errors by it.
ALSO_DESCRIBED = ("google/rpc/error_details.proto",)
CONSTRAINTS = "buf/validate/validate.proto"
LONGRUNNING = "google/longrunning/operations.proto"


def constraint_descriptors() -> bytes:
    """`buf/validate/validate.proto` and what it imports, serialised as a FileDescriptorSet.

    protovalidate ships the descriptor inside its generated module but no .proto, so imports of it resolve against this
    set. (Field 1 of a FileDescriptorSet is the repeated file.)
    """
    from google.protobuf import descriptor_pb2
    from protovalidate._gen.buf.validate import validate_pb

    found: dict[str, bytes] = {}

    def add(file: Any) -> None:
        for dependency in file.dependencies:
            add(dependency)
        found[file.name] = file.proto.to_binary()

    add(validate_pb._DESC)
    parsed = [descriptor_pb2.FileDescriptorProto.FromString(serialised) for serialised in found.values()]
    return descriptor_pb2.FileDescriptorSet(file=parsed).SerializeToString()


def _protoc(protos: Path, *arguments: str) -> None:
    """Runs protoc over `protos`, with all that its files import within reach."""
    import grpc_tools
    from grpc_tools import protoc

    googleapis = Path(str(files("google.rpc").joinpath("status.proto"))).parents[2]
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    with tempfile.NamedTemporaryFile(suffix=".binpb") as constraints:
        constraints.write(constraint_descriptors())
        constraints.flush()
        include = [
            f"-I{protos}",
            # The wheel has this one file under another name than its module, and imports of it, go by.
            f"-I{LONGRUNNING}={googleapis / 'google/longrunning/operations_proto.proto'}",
            f"-I{googleapis}",
            f"-I{well_known}",
            f"--descriptor_set_in={constraints.name}",
        ]
        if protoc.main(["protoc", *include, *arguments]) != 0:
            raise SystemExit("protoc failed; its message stands above")


def own_files(protos: Path = PROTOS) -> list[str]:
    """The contract's files, by the names they import each other by."""
    return sorted(path.relative_to(protos).as_posix() for path in protos.glob("penstock/*/v1/*.proto"))


def write_descriptors(target: Path, protos: Path = PROTOS) -> None:
    """Writes the descriptor set of the contract, with all it imports and its comments, to `target`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    image = [f"--descriptor_set_out={target}", "--include_imports", "--include_source_info"]
    _protoc(protos, *image, *own_files(protos), *ALSO_DESCRIBED)


def generate(out: Path = SERVER) -> None:
    """Writes stubs below `out`, and the descriptor set to `out`/penstock/rpc/."""
    own = own_files()
    _protoc(PROTOS, f"--python_out={out}", f"--pyi_out={out}", *own, CONSTRAINTS)
    services = [name for name in own if name.endswith("_service.proto")]
    _protoc(PROTOS, f"--grpc_python_out={out}", f"--mypy_grpc_out=quiet:{out}", *services)
    for folder in {out / Path(name).parent for name in own}:
        (folder / "__init__.py").touch()
        (folder.parent / "__init__.py").touch()  # `access` has no code of its own
    write_descriptors(out / "penstock" / "rpc" / "contract.binpb")


class StubsHook(BuildHookInterface):  # type: ignore[misc,valid-type]
    """Generates before hatchling collects the files of a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        generate()


if __name__ == "__main__":
    generate(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else SERVER)
