"""What a job is, and what runs one. Knows no executor.

A job's folder holds ``job.json`` (what to do), ``progress.jsonl``, ``output.log`` (what it printed) and, renamed into
place at its end, ``result.json`` or ``error.json``. That is the whole protocol: an executor elsewhere needs no more.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from threading import Event
from typing import Any, Protocol

OnProgress = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    name: str
    entry: str
    """``module:function``; called as function(context, arguments), it returns JSON."""
    arguments: Any
    """JSON. With `entry` it must say all that the result depends on."""
    folder: Path
    timeout: timedelta | None = None
    """For each attempt; a job that timed out is not tried again."""
    retries: int = 0
    """How often more after a crash or a user's exception. everloop's own errors are final."""
    environment: Mapping[str, str] = field(default_factory=dict)
    path: tuple[str, ...] = ()
    """Folders in which ``entry`` is looked for first."""
    memory: int | None = None
    """Bytes that the job and its children may hold together."""


class Executor(Protocol):
    """Something that runs jobs. `everloop.testing.executors.check_executor` says what it must do."""

    def run(self, job: Job, *, on_progress: OnProgress | None = None, stop: Event | None = None) -> Any:
        """The job's result, as JSON builtins. A job whose folder holds its result already is not run again.

        Raises JobError with the user's own line for an exception in the job, everloop's own error for one that the
        job raised, JobTimedOut, or JobKilled for a signal, too much memory, or ``stop`` having been set.
        """
        ...
