"""Named places where a fault test makes this process die or fail.

`PENSTOCK_FAILPOINT=commit.before_log` kills the process, with SIGKILL, when it comes by that place;
`commit.before_log@3` the third time; `commit.before_insert!` raises StorageUnavailable there instead, every time until
the variable's file form says otherwise. Unset, which is always outside tests, a failpoint costs one comparison.

`PENSTOCK_FAILPOINT_FILE` names a file that holds the same and is read at each pass, so that a test can switch a running
server.
"""

import os
import signal
from pathlib import Path

from penstock.errors import Unavailable

_SPEC = os.environ.get("PENSTOCK_FAILPOINT", "")
_FILE = os.environ.get("PENSTOCK_FAILPOINT_FILE", "")
_passes: dict[str, int] = {}

NAMES = (
    "commit.before_insert",
    "commit.before_log",
    "commit.before_ack",
    "pipeline.after_silver",
    "pipeline.after_gold",
    "pipeline.before_log",
    "catalogue.before_insert",
    "catalogue.before_log",
    "catalogue.before_ack",
    "feedback.before_insert",
    "feedback.before_log",
    "feedback.before_ack",
    "forget.after_log",
    "forget.after_gold",
    "forget.before_done",
)


def reached(name: str) -> None:
    """Call it where the failpoint is."""
    if not _SPEC and not _FILE:
        return
    spec = _SPEC
    if _FILE and Path(_FILE).exists():
        spec = Path(_FILE).read_text(encoding="utf-8").strip()
    wanted, _, nth = spec.partition("@")
    if wanted == f"{name}!":
        raise Unavailable(f"failpoint {name}", reason="STORAGE_UNAVAILABLE", retry_after_s=1)
    if wanted != name:
        return
    _passes[name] = _passes.get(name, 0) + 1
    if _passes[name] >= int(nth or 1):
        os.kill(os.getpid(), signal.SIGKILL)
