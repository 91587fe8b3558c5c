"""What this process takes of the machine: processor time, memory, files. Knows nothing of serving.

The names and meanings are those of Prometheus client libraries.
"""

import os
import platform
import resource
import time
from pathlib import Path

from everloop.serve.families import Families
from everloop.serve.memory import PAGE

STARTED = time.time()
"""Seconds since 1970 when this was loaded, which is early in the life of a server."""


def add(families: Families) -> None:
    times = os.times()
    families.count("process_cpu_seconds_total", "Processor time of the server.", [({}, times.user + times.system)])
    families.gauge("process_start_time_seconds", "When the server started, since 1970.", [({}, STARTED)], "min")
    try:
        sizes = Path("/proc/self/statm").read_bytes().split()
        # As large as the process with the most: that is what its limit is held against.
        files = sum(1 for _ in Path("/proc/self/fd").iterdir())
    except OSError:
        return  # a system that does not say
    families.gauge("process_resident_memory_bytes", "Memory in use.", [({}, int(sizes[1]) * PAGE)])
    families.gauge("process_virtual_memory_bytes", "Memory asked for.", [({}, int(sizes[0]) * PAGE)])
    families.gauge("process_open_fds", "Open files of the process with the most.", [({}, files)], "max")
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    families.gauge("process_max_fds", "Files that a process may have open.", [({}, most)], "max")


def build(version: str, runtime: str) -> dict[str, str]:
    """What the server is made of, as labels."""
    return {"version": version, "python": platform.python_version(), "onnxruntime": runtime}
