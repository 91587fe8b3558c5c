"""How much of the machine is used: memory, processors, disk, network, GPUs, and each process of ours. Judges nothing.

A container's limits count before the machine's: what is full is what the kernel would kill for (control groups, v2
and v1; memory that only caches files is not counted, as the kubelet does not).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from everloop.watch import gpu

CGROUPS = Path("/sys/fs/cgroup")
NO_LIMIT = 1 << 60
"""What control groups v1 write for "none" is larger than any memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One process of ours. Seconds since its start; bytes."""

    pid: int
    role: str
    processor_seconds: float
    memory_bytes: int
    open_files: int
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One look. Bytes and processor cores; ``…_total`` only rise."""

    memory_used: int
    memory_limit: int
    cores: float
    """What may be used of the processors: 1.5 is one and a half."""
    load: float
    """Runnable threads, over a minute."""
    processor_seconds: float
    """Used by all, or by all in this container."""
    throttled_seconds: float
    """How long the container was held back by its limit."""
    disk_used: int
    disk_size: int
    disk_read_total: int
    disk_written_total: int
    network_received_total: int
    network_sent_total: int
    processes: tuple[Process, ...] = ()
    gpus: tuple[gpu.Gpu, ...] = ()

    @property
    def memory_share(self) -> float:
        return self.memory_used / max(self.memory_limit, 1)

    @property
    def disk_share(self) -> float:
        """Of what may be written: what is kept back for the system is not ours to fill."""
        return self.disk_used / max(self.disk_size, 1)


def look(home: Path, pids: Iterable[tuple[str, int]] = (), *, root: Path = CGROUPS) -> Machine:
    """The machine as it is now. ``pids``: role and id of processes; one that has ended is left out."""
    group = Group.of_this_process(root)
    memory, disk = psutil.virtual_memory(), psutil.disk_usage(str(home))
    times = psutil.cpu_times()
    read, network = psutil.disk_io_counters(), psutil.net_io_counters()
    limit, used = group.memory()
    busy, throttled = group.processor()
    return Machine(
        memory_used=used if limit is not None and used is not None else memory.total - memory.available,
        memory_limit=min(limit or memory.total, memory.total),
        cores=min(group.cores() or float("inf"), len(os.sched_getaffinity(0))),
        load=os.getloadavg()[0],
        processor_seconds=busy if busy is not None else times.user + times.system,
        throttled_seconds=throttled,
        disk_used=disk.used,
        disk_size=disk.used + disk.free,
        disk_read_total=read.read_bytes if read else 0,
        disk_written_total=read.write_bytes if read else 0,
        network_received_total=network.bytes_recv if network else 0,
        network_sent_total=network.bytes_sent if network else 0,
        processes=tuple(found for role, pid in pids if (found := _process(role, pid)) is not None),
        gpus=gpu.look(),
    )


def _process(role: str, pid: int) -> Process | None:
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        with process.oneshot():
            times = process.cpu_times()
            return Process(
                pid=pid,
                role=role,
                processor_seconds=times.user + times.system,
                memory_bytes=process.memory_info().rss,
                open_files=process.num_fds(),
                threads=process.num_threads(),
            )
    return None


@dataclass(frozen=True, slots=True)
class Group:
    """The control group of a process: its folder where groups are v2, and where its memory is counted where v1."""

    folder: Path | None
    old: Path | None

    @classmethod
    def of_this_process(cls, root: Path = CGROUPS) -> Group:
        lines = _text(Path("/proc/self/cgroup")).splitlines()
        inside = next((line.split(":", 2)[2] for line in lines if line.startswith("0::")), "/")
        # In a container the path may be that of the host: then its own group is mounted at the root.
        places = [root / inside.lstrip("/"), root]
        new = next((each for each in places if (each / "memory.current").exists() or (each / "cpu.max").exists()), None)
        old = root / "memory" if (root / "memory" / "memory.limit_in_bytes").exists() else None
        return cls(new, old)

    def memory(self) -> tuple[int | None, int | None]:
        """The limit in bytes, None without one, and what is used and cannot simply be dropped."""
        if self.folder is not None:
            limit, used = _number(self.folder / "memory.max"), _number(self.folder / "memory.current")
            idle = _entry(self.folder / "memory.stat", "inactive_file")
        elif self.old is not None:
            limit, used = _number(self.old / "memory.limit_in_bytes"), _number(self.old / "memory.usage_in_bytes")
            idle = _entry(self.old / "memory.stat", "total_inactive_file")
        else:
            return None, None
        if limit is None or limit >= NO_LIMIT:
            return None, None
        return limit, None if used is None else max(used - (idle or 0), 0)

    def cores(self) -> float | None:
        """How many cores' worth of time it may use; None without a limit."""
        if self.folder is not None:
            words = _text(self.folder / "cpu.max").split()
            return int(words[0]) / int(words[1]) if len(words) == 2 and words[0] != "max" else None
        if self.old is not None:
            share, period = (_number(self.old.parent / "cpu" / f"cpu.cfs_{each}_us") for each in ("quota", "period"))
            return share / period if share is not None and share > 0 and period else None
        return None

    def processor(self) -> tuple[float | None, float]:
        """Seconds used and seconds held back; None where they are not counted."""
        if self.folder is None:
            return None, 0.0
        used = _entry(self.folder / "cpu.stat", "usage_usec")
        held = _entry(self.folder / "cpu.stat", "throttled_usec")
        return None if used is None else used / 1e6, (held or 0) / 1e6


def _text(path: Path) -> str:
    try:
        return path.read_text("ascii")
    except (OSError, ValueError):
        return ""


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.lstrip("-").isdigit() else None


def _entry(path: Path, name: str) -> int | None:
    for line in _text(path).splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.isdigit():
            return int(value)
    return None
