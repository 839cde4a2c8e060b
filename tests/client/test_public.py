"""What the SDK shows to the world, and what importing it costs."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import penstock
import penstock_client

PACKAGE = Path(penstock_client.__file__).parent
GENERATOR = PACKAGE.parent / "scripts" / "generate_sync.py"


def test_the_public_names_are_exact() -> None:
    """Every name that the SDK's first module binds is public, and the other way round."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text("utf-8"))
    bound = {
        alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert sorted(bound) == sorted(penstock_client.__all__)
    assert penstock_client.__all__ == sorted(penstock_client.__all__)


def test_penstock_has_the_same_names() -> None:
    """`penstock.Client` is `penstock_client.Client`, for every name and no other."""
    assert frozenset(penstock_client.__all__) == penstock._NAMES
    for name in penstock_client.__all__:
        assert getattr(penstock, name) is getattr(penstock_client, name)


def test_importing_is_cheap() -> None:
    """The server imports `penstock` everywhere; a client that sends rows needs no Arrow."""
    code = "import sys, {0}; print(*(name for name in {1} if name in sys.modules))"
    for module, heavy in (
        ("penstock", ("grpc", "google.protobuf", "pyarrow", "chdb", "penstock_client")),
        ("penstock_client", ("pyarrow", "pandas", "chdb", "numpy")),
    ):
        done = subprocess.run([sys.executable, "-c", code.format(module, heavy)], capture_output=True, text=True)
        assert (done.stdout.strip(), done.stderr) == ("", "")


def test_either_may_be_imported_first() -> None:
    """The SDK's messages live in `penstock`, whose names live in the SDK: neither order makes a circle."""
    for code in ("import penstock_client, penstock", "import penstock, penstock_client"):
        subprocess.run([sys.executable, "-c", f"{code}; penstock.Client; penstock_client.Client"], check=True)


def test_the_sync_twin_is_generated_from_the_async_one() -> None:
    """sync.py is what scripts/generate_sync.py makes of the async classes now."""
    spec = importlib.util.spec_from_file_location("generate_sync", GENERATOR)
    assert spec is not None
    assert spec.loader is not None
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    assert generator.formatted(generator.generated()) == (PACKAGE / "sync.py").read_text("utf-8")
