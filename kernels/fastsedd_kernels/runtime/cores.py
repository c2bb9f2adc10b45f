"""The cores that this process may use: by affinity, and by the quotas of control groups."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path


def available_cores() -> int:
    """Cores that this process may use: the scheduler's affinity, and the container's quota where there is one."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min(cores, _quota()))


def _quota(groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int:
    """The least number of cores that a control group of this process, of either version, or one above it is given."""
    least = sys.maxsize
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        return least
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mounted = root / "cpu" if controllers else root
        group = mounted / path.lstrip(
            "/"
        )  # in a container it may not be there, but what is above it is the container's
        for folder in (group, *group.parents):
            least = min(least, _quota_of(folder))
            if folder == mounted:
                break
    return least


def _quota_of(folder: Path) -> int:
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        return sys.maxsize if quota in ("max", "-1") else math.ceil(int(quota) / int(period))
    except (OSError, ValueError):
        return sys.maxsize  # without such a file there is no quota
