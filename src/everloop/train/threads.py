"""How many threads this job may use. Knows nothing of what runs in them."""

import os
from pathlib import Path


def share() -> int:
    """Cores this process may run on, cut to the control group's quota: at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))
