"""What every executor of jobs must do, wherever it runs them. Knows no executor."""

import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path
from threading import Event
from typing import Any

from everloop.errors import DataError, JobError, JobKilled, JobTimedOut
from everloop.jobs.context import Context
from everloop.jobs.job import Executor, Job
from everloop.testing.raised import raised


def adds(context: Context, arguments: Any) -> Any:
    for number in arguments["numbers"]:
        context.progress({"number": number})
    return {"sum": sum(arguments["numbers"]), "pid": os.getpid()}


def raises(context: Context, arguments: Any) -> Any:
    raise DataError(arguments) if arguments else ValueError("a user's mistake")


def hangs(context: Context, arguments: Any) -> Any:
    context.progress({"pid": os.getpid()})
    time.sleep(600)


def is_killed_once(context: Context, arguments: Any) -> Any:
    if not (context.checkpoints / "tried").exists():
        (context.checkpoints / "tried").write_text("once")
        sys.stdout.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    return "second time"


def check_executor(executor: Executor, folder: Path) -> None:
    """Run every check; ``folder`` is one that the executor's jobs can reach. Takes some seconds."""

    def job(function: str, place: str, arguments: Any = None, **more: Any) -> Job:
        entry = f"{__name__}:{function}"
        return Job(name=function, entry=entry, arguments=arguments, folder=folder / place, **more)

    seen: list[Any] = []
    result = executor.run(job("adds", "a", {"numbers": [1, 2]}), on_progress=seen.append)
    assert result["sum"] == 3
    assert result["pid"] != os.getpid(), "a job never runs in the controller's process"
    assert seen == [{"number": 1}, {"number": 2}], "progress arrives whole and in order"
    assert executor.run(job("adds", "a", {"numbers": [1, 2]})) == result, "a job that has its result is not run again"

    _raises(JobError, "a user's mistake", executor, job("raises", "b"))
    _raises(DataError, "no rows", executor, job("raises", "c", "no rows"))
    _raises(JobTimedOut, "hangs", executor, job("hangs", "d", timeout=timedelta(seconds=3)))
    _raises(JobKilled, "memory", executor, job("is_killed_once", "e"))
    assert executor.run(job("is_killed_once", "f", retries=1)) == "second time"

    stop = Event()
    stopped = job("hangs", "g")
    raised(
        JobKilled,
        lambda: executor.run(stopped, on_progress=lambda detail: stop.set(), stop=stop),
        "a job whose run is stopped must raise JobKilled",
    )


def _raises(kind: type[Exception], words: str, executor: Executor, job: Job) -> None:
    error = raised(kind, lambda: executor.run(job), f"{job.name} must raise {kind.__name__}")
    assert words in str(error), f"{error} does not say {words!r}"
