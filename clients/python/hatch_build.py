"""Puts the generated messages, and the `penstock` package that holds them, into the SDK's distribution.

In the repository the contract is two folders up; a source distribution carries it along.
"""

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

HERE = Path(__file__).resolve().parent
PROTOS, NAMES = Path("protos"), Path("server/penstock/__init__.py")


class MessagesHook(BuildHookInterface):  # type: ignore[type-arg]
    """Adds to what hatchling collects; `target_name` is "wheel" or "sdist"."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = HERE if (HERE / PROTOS).is_dir() else HERE.parent.parent
        if self.target_name == "sdist":
            build_data["force_include"] |= {str(root / PROTOS): str(PROTOS), str(root / NAMES): str(NAMES)}
            return
        out = Path(self.directory).resolve() / "messages"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        _generator(root / PROTOS).generate(out)
        shutil.rmtree(out / "penstock" / "rpc")  # the descriptor set is for servers
        files = [path for path in out.rglob("*") if path.is_file()]
        build_data["force_include"] |= {str(path): path.relative_to(out).as_posix() for path in files}
        build_data["force_include"][str(root / NAMES)] = "penstock/__init__.py"


def _generator(protos: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("penstock_protos", protos / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
