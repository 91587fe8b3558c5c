"""How many threads a fit may use, and how they wait. Knows nothing of what runs in them."""

import os
from pathlib import Path

CELLS = 500_000
"""Cells of the matrix (rows by columns) for each further thread: below that, threads cost more than they bring."""


def share() -> int:
    """Cores this process may run on, cut to the control group's quota: at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))


def worth(cells: int, most: int) -> int:
    """Threads for a matrix of so many cells: one each `CELLS`, at least 1, at most ``most``.

    >>> worth(16_000, 8), worth(1_200_000, 8), worth(100_000_000, 8)
    (1, 3, 8)
    """
    return max(1, min(most, 1 + cells // CELLS))


def wait_quietly() -> None:
    """Let idle OpenMP threads sleep instead of spin. Only works before LightGBM, XGBoost or scikit-learn is loaded.

    Spinning threads fight the server for the same cores: on two busy cores a LightGBM fit of elec2 took 2.5 to 7.9 s
    with them and 0.4 s without.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
