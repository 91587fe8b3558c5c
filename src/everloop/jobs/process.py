"""Runs a job in a process group of its own on this machine. Knows nothing of what the job does.

The controller never runs user code. A worker that has imported the heavy libraries ahead stands by, so that a job
does not begin with seconds of imports.
"""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Lock
from types import TracebackType
from typing import Any

import msgspec
import psutil

from everloop import errors
from everloop.errors import EverloopError, JobError, JobKilled, JobTimedOut
from everloop.jobs.context import PROGRESS
from everloop.jobs.job import Executor, Job, OnProgress
from everloop.jobs.worker import ERROR, OUTPUT, RESULT, SPEC
from everloop.records import encode

LOOK_SECONDS = 0.1

__all__ = ["Executor", "Job", "ProcessExecutor", "run"]


def run(job: Job, *, on_progress: OnProgress | None = None, stop: Event | None = None) -> Any:
    """`ProcessExecutor.run` without a worker standing by."""
    with ProcessExecutor() as executor:
        return executor.run(job, on_progress=on_progress, stop=stop)


class ProcessExecutor:
    """Runs jobs, one at a time per calling thread. ``preload`` names modules that the standing worker imports.

    ``launcher``: the module that is run and its arguments, where it is not the worker itself.
    """

    def __init__(self, *, preload: Sequence[str] = (), launcher: Sequence[str] = ("everloop.jobs.worker",)) -> None:
        self._preload = tuple(preload)
        self._launcher = tuple(launcher)
        self._standing: subprocess.Popen[bytes] | None = None
        self._lock = Lock()

    def warm(self) -> None:
        """Start the standing worker, if modules are to be imported ahead and none stands by."""
        with self._lock:
            if self._preload and (self._standing is None or self._standing.poll() is not None):
                self._standing = _start([*self._launcher, "--preload", ",".join(self._preload)], {})

    def run(self, job: Job, *, on_progress: OnProgress | None = None, stop: Event | None = None) -> Any:
        """See `everloop.jobs.job.Executor.run`."""
        spec = encode(
            {
                "name": job.name,
                "entry": job.entry,
                "arguments": job.arguments,
                "environment": dict(job.environment),
                "path": job.path,
            }
        )
        job.folder.mkdir(parents=True, exist_ok=True)
        result = job.folder / RESULT
        if not (result.exists() and (job.folder / SPEC).exists() and (job.folder / SPEC).read_bytes() == spec):
            result.unlink(missing_ok=True)
            (job.folder / SPEC).write_bytes(spec)
            (job.folder / OUTPUT).unlink(missing_ok=True)
            self._attempts(job, on_progress or (lambda detail: None), stop or Event())
        return msgspec.json.decode(result.read_bytes())

    def _attempts(self, job: Job, on_progress: OnProgress, stop: Event) -> None:
        for attempt in range(job.retries + 1):
            try:
                return self._attempt(job, attempt, on_progress, stop)
            except JobTimedOut:
                raise
            except JobError:
                if attempt == job.retries or stop.is_set():
                    raise
        return None

    def _attempt(self, job: Job, attempt: int, on_progress: OnProgress, stop: Event) -> None:
        for name in (ERROR, PROGRESS):
            (job.folder / name).unlink(missing_ok=True)
        process = self._worker(job, attempt)
        with _ended(process):
            watch = _Watch(job, process, on_progress, stop)
            code = watch.until_it_ends()
        self.warm()
        if (job.folder / RESULT).exists():
            return
        if (job.folder / ERROR).exists():
            raise _of(job, msgspec.json.decode((job.folder / ERROR).read_bytes()))
        raise _without_word(job, code, watch)

    def _worker(self, job: Job, attempt: int) -> "subprocess.Popen[bytes]":
        """A process that has been told to do the job: the standing one, if it can be used."""
        plain = not job.environment and attempt == 0  # What a variable changes may have been imported already.
        with self._lock:
            standing, self._standing = (self._standing, None) if plain else (None, self._standing)
        if standing is not None:
            try:
                _tell(standing, job.folder)
                return standing
            except BrokenPipeError:
                _end(standing)
        process = _start([*self._launcher], {**job.environment, "EVERLOOP_ATTEMPT": str(attempt)}, job.folder / OUTPUT)
        with suppress(BrokenPipeError):  # It died at its start: its output says why.
            _tell(process, job.folder)
        return process

    def close(self) -> None:
        with self._lock:
            if self._standing is not None:
                _end(self._standing)
                self._standing = None

    def __enter__(self) -> "ProcessExecutor":
        self.warm()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class _Watch:
    """Follows one process: passes its progress on, and ends it when it takes too long or too much."""

    def __init__(self, job: Job, process: "subprocess.Popen[bytes]", on_progress: OnProgress, stop: Event) -> None:
        self._job, self._process, self._on_progress, self._stop = job, process, on_progress, stop
        self._position = 0
        self._kills = _memory_kills()
        self.most_memory = 0

    def until_it_ends(self) -> int:
        """The exit code; negative for a signal. Raises JobTimedOut, or JobKilled for what was ended here."""
        timeout = self._job.timeout.total_seconds() if self._job.timeout is not None else float("inf")
        deadline = time.monotonic() + timeout
        with _ending(self._process) as ended:
            while not ended(min(LOOK_SECONDS, max(0.0, deadline - time.monotonic()))):
                self._pass_on()
                self._measure()
                if self._stop.is_set():
                    raise JobKilled(f"The job {self._job.name} was ended because its run was stopped.")
                if self._job.memory is not None and self.most_memory > self._job.memory:
                    raise JobKilled(
                        f"The job {self._job.name} held {_size(self.most_memory)} of memory, more than its limit of "
                        f"{_size(self._job.memory)}; raise the limit, or fit on a smaller window."
                    )
                if time.monotonic() >= deadline:
                    raise JobTimedOut(
                        f"The job {self._job.name} did not end within {timeout:g} s; raise the timeout, or ask for "
                        f"less.{_last_words(self._job)}"
                    )
            self._pass_on()
            # The leader is a zombie still, so its group's number is nobody else's: now its children can be ended.
            _kill_group(self._process.pid)
        return self._process.wait()

    def memory_kills(self) -> int:
        """How many processes the kernel has killed for memory here since this one began."""
        return _memory_kills() - self._kills

    def _pass_on(self) -> None:
        try:
            with (self._job.folder / PROGRESS).open("rb") as file:
                file.seek(self._position)
                lines = file.read()
        except FileNotFoundError:
            return
        whole = lines[: lines.rfind(b"\n") + 1]
        self._position += len(whole)
        for line in whole.splitlines():
            self._on_progress(msgspec.json.decode(line))

    def _measure(self) -> None:
        total = 0
        with suppress(psutil.Error):
            root = psutil.Process(self._process.pid)
            children = root.children(recursive=True) if self._job.memory is not None else []
            for each in (root, *children):
                with suppress(psutil.Error):
                    total += each.memory_info().rss
        self.most_memory = max(self.most_memory, total)


def _start(arguments: list[str], environment: dict[str, str], output: Path | None = None) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", *arguments]
    with (output or Path(os.devnull)).open("ab") as out:
        return subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )


def _tell(process: "subprocess.Popen[bytes]", folder: Path) -> None:
    assert process.stdin is not None
    process.stdin.write(encode(str(folder.absolute())) + b"\n")
    process.stdin.flush()  # Left open: its end would tell the worker that nobody wants the job any more.


@contextmanager
def _ended(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    try:
        yield
    finally:
        _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    if process.returncode is None:
        _kill_group(process.pid)
        process.wait()
    if process.stdin is not None:
        with suppress(BrokenPipeError):
            process.stdin.close()


def _kill_group(leader: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


@contextmanager
def _ending(process: "subprocess.Popen[bytes]") -> Iterator[Any]:
    """A function that waits so many seconds and says whether the process has ended, without reaping it."""
    if not hasattr(os, "pidfd_open"):

        def by_asking(seconds: float) -> bool:
            with suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
            return process.returncode is not None

        yield by_asking
        return
    descriptor = os.pidfd_open(process.pid)
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    try:
        yield lambda seconds: bool(poll.poll(seconds * 1_000))
    finally:
        os.close(descriptor)


def _of(job: Job, described: dict[str, Any]) -> EverloopError:
    """The error that the job left behind: our own as it was, a user's with their line."""
    kind = getattr(errors, described["type"], None)
    if described["everloop"] and isinstance(kind, type) and issubclass(kind, EverloopError):
        return kind(described["message"])
    where = f" ({described['where']})" if described["where"] else ""
    return JobError(
        f"The job {job.name} raised {described['type']}: {described['message']}{where}. "
        f"All it said is in {job.folder / OUTPUT}."
    )


def _without_word(job: Job, code: int, watch: _Watch) -> JobError:
    if code == -signal.SIGKILL:
        held = f"it held {_size(watch.most_memory)} when last seen"
        if watch.memory_kills() > 0:
            by = f"The kernel killed the job {job.name} because memory ran out"
        else:
            by = f"The job {job.name} was killed (SIGKILL), most likely by the kernel because memory ran out"
        return JobKilled(f"{by}: {held}. Fit on a smaller window or fewer columns, or give it more memory.")
    if code < 0:
        name = signal.Signals(-code).name
        return JobKilled(f"The job {job.name} was ended by {name}, in native code or from outside.{_last_words(job)}")
    return JobError(f"The job {job.name} ended with code {code} and left no result.{_last_words(job)}")


def _last_words(job: Job, lines: int = 5) -> str:
    try:
        said = (job.folder / OUTPUT).read_text("utf-8", "replace").strip().splitlines()[-lines:]
    except FileNotFoundError:
        said = []
    return f" Its last words: {' / '.join(said)}" if said else ""


def _memory_kills() -> int:
    """The kernel's count of memory kills in this control group, or on this machine; 0 where it tells none."""
    for path, name in ((Path("/sys/fs/cgroup/memory.events"), "oom_kill"), (Path("/proc/vmstat"), "oom_kill")):
        with suppress(OSError):
            for line in path.read_text("ascii").splitlines():
                if line.startswith(f"{name} "):
                    return int(line.split()[1])
    return 0


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
