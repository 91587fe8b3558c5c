"""A server under test: started in a group of its own, pinned, stopped while others are measured, ended. Knows no HTTP.

CPU time is the kernel's account (/proc/PID/task/*/schedstat) of the whole tree: the server, its workers, its helpers.
"""

import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Protocol

from bench.status import memory

PATIENCE = 90.0


def cores() -> tuple[int, int | None]:
    """Where servers are measured and where the load comes from; None: there is one core for both."""
    found = sorted(os.sched_getaffinity(0))
    return found[0], found[-1] if len(found) > 1 else None


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def tree(root: int) -> list[int]:
    """The process, its descendants, and whoever else is in the session that it leads."""
    parents: dict[int, int] = {}
    found = {root}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        if fields[0] == "Z":
            continue
        parents[int(folder.name)] = int(fields[1])
        if int(fields[3]) == root:
            found.add(int(folder.name))
    size = 0
    while size != len(found):
        size = len(found)
        found |= {each for each, parent in parents.items() if parent in found}
    return sorted(found)


def adopt_orphans() -> None:
    """Whatever a server leaves behind becomes our child (prctl(2), PR_SET_CHILD_SUBREAPER): its CPU time is then ours."""
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)


class Neighbours:
    """How much of the machine ran what is not ours, from when this is made: figures of a busy machine are noise."""

    def __init__(self) -> None:
        self._began = self._now()

    @staticmethod
    def _now() -> tuple[float, float, float]:
        fields = [
            int(each) / os.sysconf("SC_CLK_TCK") for each in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]
        ]
        used = sum(getattr(os.times(), each) for each in ("user", "system", "children_user", "children_system"))
        idle, stolen = fields[3] + fields[4], fields[7]
        return sum(fields), sum(fields) - idle - stolen - used, stolen

    def share(self) -> tuple[float, float]:
        """Of all cores: what other processes here ran, and what the host took away. From 0 to 1."""
        whole, others, stolen = (now - began for now, began in zip(self._now(), self._began, strict=True))
        return max(0.0, others / max(whole, 1e-9)), stolen / max(whole, 1e-9)


class Expected(Protocol):
    """What a server at a port has to answer. Both raise RuntimeError when it answers wrongly."""

    def begin(self, port: int) -> bool:
        """Whether it answers yet."""
        ...

    def check(self, port: int) -> None: ...


class Server:
    """Started, answering as it should. Use with ``with``."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        port: int,
        folder: Path,
        environment: Mapping[str, str] = {},
        pinned: Sequence[int] = (),
        answers: Expected,
    ) -> None:
        self.name = name
        self.port = port
        self.log = folder / f"{name.replace(' ', '-')}.log"
        began = time.perf_counter()
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                command, env={**os.environ, **environment}, cwd=folder, stdin=subprocess.DEVNULL, stdout=output,
                stderr=output, start_new_session=True,
                preexec_fn=(lambda: os.sched_setaffinity(0, pinned)) if pinned else None,
            )  # fmt: skip
        try:
            self._wait(answers)
            self.seconds_to_answer = time.perf_counter() - began
            answers.check(port)
        except BaseException:
            self.close()
            raise

    def _wait(self, answers: Expected) -> None:
        end = time.monotonic() + PATIENCE
        while True:
            with suppress(OSError):
                if answers.begin(self.port):
                    return
            if self.process.poll() is not None or time.monotonic() > end:
                said = self.log.read_text(errors="replace")[-3000:]
                raise RuntimeError(f"{self.name} does not answer on port {self.port}; it said: {said}")
            time.sleep(0.002)

    @property
    def processes(self) -> list[int]:
        return tree(self.process.pid)

    def cpu_seconds(self) -> float:
        total = 0
        for each in self.processes:
            for task in Path(f"/proc/{each}/task").glob("*/schedstat"):
                with suppress(OSError):  # a thread that ended meanwhile
                    total += int(task.read_text().split()[0])
        return total / 1e9

    def memory(self) -> float:
        """MB held in RAM by all of its processes; what they share is counted once (PSS)."""
        total = 0
        for each in self.processes:
            with suppress(OSError):
                for line in Path(f"/proc/{each}/smaps_rollup").read_text().splitlines():
                    if line.startswith("Pss:"):
                        total += int(line.split()[1])
        return total / 1024

    def resident(self) -> float:
        """MB resident in its largest process."""
        return max((memory("VmRSS", each) for each in self.processes), default=0) / 2**20

    def pause(self) -> None:
        """Stop all of its processes: a server that polls while idle would slow the one that is measured."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        for each in self.processes:
            with suppress(ProcessLookupError):
                os.kill(each, number)

    def close(self) -> None:
        """Ask it to end, then make sure that nothing of it is left."""
        left = self.processes
        self.resume()
        if self.process.poll() is None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
        for each in {*left, *self.processes} - {os.getpid()}:
            with suppress(ProcessLookupError):
                if os.getsid(each) == self.process.pid or each in left:
                    os.kill(each, signal.SIGKILL)
        self.process.wait(10)
        for each in left:
            with suppress(ChildProcessError):  # its own parent took it
                os.waitpid(each, 0)

    def __enter__(self) -> "Server":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
