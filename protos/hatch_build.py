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
# Not imported by ours, but REST needs them in the descriptor set: Envoy prints error details and operation metadata by it.
ALSO_DESCRIBED = ("google/rpc/error_details.proto",)
CONSTRAINTS = "buf/validate/validate.proto"


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


def generate(out: Path = SERVER) -> list[Path]:
    """Writes stubs below `out` and the descriptor set to `out`/penstock/rpc/; returns the directories it filled."""
    import grpc_tools
    from grpc_tools import protoc

    googleapis = Path(str(files("google.rpc").joinpath("status.proto"))).parents[2]
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    own = sorted(path.relative_to(PROTOS).as_posix() for path in PROTOS.glob("penstock/*/v1/*.proto"))
    descriptors = out / "penstock" / "rpc" / "contract.binpb"
    descriptors.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(suffix=".binpb") as constraints:
        constraints.write(constraint_descriptors())
        constraints.flush()
        include = [f"-I{PROTOS}", f"-I{googleapis}", f"-I{well_known}", f"--descriptor_set_in={constraints.name}"]
        messages = [f"--python_out={out}", f"--pyi_out={out}"]
        services = [f"--grpc_python_out={out}", f"--mypy_grpc_out={out}"]
        image = [f"--descriptor_set_out={descriptors}", "--include_imports", "--include_source_info"]
        for arguments in (
            [*include, *messages, *own, CONSTRAINTS],
            [*include, *services, *(name for name in own if name.endswith("_service.proto"))],
            [*include, *image, *own, *ALSO_DESCRIBED],
        ):
            if protoc.main(["protoc", *arguments]) != 0:
                raise SystemExit("protoc failed; its message stands above")
    filled = sorted({out / Path(name).parent for name in own})
    for folder in filled:
        (folder / "__init__.py").touch()
        if not (folder.parent / "__init__.py").exists():  # `access` has no code of its own
            (folder.parent / "__init__.py").touch()
    return filled


class StubsHook(BuildHookInterface):  # type: ignore[misc,valid-type]
    """Generates before hatchling collects the files of a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        generate()


if __name__ == "__main__":
    generate(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else SERVER)
