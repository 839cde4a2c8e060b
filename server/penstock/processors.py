"""How many processors this process may use."""

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")  # where a container sees its own


def processors(cgroup: Path = CGROUP) -> int:
    """At least 1. A container's quota counts, too: `os.cpu_count` knows those of the machine alone."""
    return max(1, math.ceil(min(_allowed(), _quota(cgroup))))


def _allowed() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS


def _quota(cgroup: Path) -> float:
    """Processors' worth of time; infinite where it is not bounded, or nothing tells."""
    v2, v1 = cgroup / "cpu.max", cgroup / "cpu"
    try:
        if v2.exists():
            quota, period = v2.read_text().split()
        else:
            quota, period = ((v1 / f"cpu.cfs_{each}_us").read_text() for each in ("quota", "period"))
        return int(quota) / int(period) if int(quota) > 0 else math.inf
    except (OSError, ValueError):  # `max` is no number, either
        return math.inf
