"""How many cores this process may use, and keeping a process on one. Knows nothing of what runs there."""

import os
from contextlib import suppress
from math import ceil
from pathlib import Path

QUOTA = Path("/sys/fs/cgroup/cpu.max")


def cores(quota: Path = QUOTA) -> list[int]:
    """The cores that may be used: those the process is bound to, no more than a container's quota pays for."""
    try:
        ours = sorted(os.sched_getaffinity(0))
    except AttributeError:
        ours = list(range(os.cpu_count() or 1))
    try:
        most, period = quota.read_text().split()
        if most != "max":
            ours = ours[: max(1, ceil(int(most) / int(period)))]
    except (OSError, ValueError):
        pass  # no container, or one that sets no bound
    return ours


def keep_on(core: int) -> None:
    """Keep this process, and every thread it will have, on one core, where the system can."""
    with suppress(OSError, AttributeError):  # the core is gone, or the system knows no such thing: it runs all the same
        os.sched_setaffinity(0, {core})
