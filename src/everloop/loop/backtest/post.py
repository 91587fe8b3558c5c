"""Letters to workers that stay: starts them through an executor, hands out work, brings answers back. Knows no fits.

A letter is a file, renamed by whoever takes it. A worker that dies gives its letter back once; what kills two workers
is answered with the reason.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import psutil

from everloop.errors import EverloopError, JobError, JobKilled
from everloop.jobs.job import Executor, Job
from everloop.loop.backtest.worker import DONE, QUEUE, STOP, TAKEN
from everloop.records import encode
from everloop.store.files import write_atomically

ENTRY = "everloop.loop.backtest.worker:main"
ATTEMPTS = 2
"""How many workers may die of one letter."""


class Post:
    """``arguments`` go to every worker; ``folder`` must be one that workers see too."""

    def __init__(self, executor: Executor, arguments: Mapping[str, Any], *, folder: Path, workers: int) -> None:
        self._executor = executor
        folder.mkdir(parents=True, exist_ok=True)
        swept(folder)
        self._folder = Path(tempfile.mkdtemp(prefix=f"mail-{os.getpid()}-", dir=folder))
        for name in (QUEUE, TAKEN, DONE):
            (self._folder / name).mkdir()
        self._done = str(self._folder / DONE)
        """Looked into hundreds of times a second: as a text."""
        self._arguments = {**arguments, "mail": str(self._folder)}
        self._stop = threading.Event()
        self._sent = 0
        self._open: dict[str, int] = {}
        """Letter → workers that died of it."""
        self._failed: dict[str, str] = {}
        self._lock = threading.Lock()
        self._broken: EverloopError | None = None
        self.cpu = 0.0
        """Of all workers so far, in answering."""
        self.predicting = 0.0
        """CPU seconds of it that models took to predict."""
        self.busy = 0.0
        """Seconds on the wall that workers spent on letters, added up."""
        self._threads = [threading.Thread(target=self._work, args=(number,), daemon=True) for number in range(workers)]
        for thread in self._threads:
            thread.start()

    def send(self, tasks: list[dict[str, Any]]) -> str:
        """Ask for these, one after the other; the name under which the answer comes."""
        self._sent += 1
        name = f"{self._sent:08d}.json"
        self._open[name] = 0
        write_atomically(self._folder / QUEUE / name, encode({"tasks": tasks}), sync=False)
        return name

    def collect(self) -> list[tuple[str, list[Any]]]:
        """What has been answered since the last call: (letter, answers). Raises when no worker can work."""
        found: list[tuple[str, list[Any]]] = []
        with os.scandir(self._done) as listed:
            names = sorted(each.name for each in listed if not each.name.startswith("."))
        for name in names:
            path = Path(self._done, name)
            answer = msgspec.json.decode(path.read_bytes())
            path.unlink()
            self.cpu += answer["cpu"]
            self.predicting += answer["predicting"]
            self.busy += answer["seconds"]
            if self._open.pop(name, None) is not None:
                found.append((name, answer["answers"]))
        with self._lock:
            failed, self._failed = self._failed, {}
        for name, reason in failed.items():
            if self._open.pop(name, None) is not None:
                found.append((name, [{"problem": reason}]))
        if self._broken is not None and self._open and not any(thread.is_alive() for thread in self._threads):
            raise self._broken
        return found

    def close(self) -> None:
        """Let workers end after what they have in hand, end those that take long, and remove the letters."""
        (self._folder / STOP).touch()
        for thread in self._threads:
            thread.join(0.5)
        self._stop.set()
        for thread in self._threads:
            thread.join()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Post:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _work(self, number: int) -> None:
        """Keep one worker going until all is done."""
        attempt = 0
        while not self._stop.is_set() and not (self._folder / STOP).exists():
            worker = f"{number}.{attempt}"
            attempt += 1
            job = Job(
                name=f"backtest worker {number}",
                entry=ENTRY,
                arguments={**self._arguments, "worker": worker},
                folder=self._folder / f"worker-{worker}",
            )
            try:
                self._executor.run(job, stop=self._stop)
            except EverloopError as error:
                if self._stop.is_set() or (self._folder / STOP).exists():
                    return
                if not self._returned(worker, error):
                    self._broken = error  # It died before its first letter: another one would as well.
                    return

    def _returned(self, worker: str, error: EverloopError) -> bool:
        """Give back what a dead worker had in hand; whether it had anything."""
        mine = [path for path in (self._folder / TAKEN).iterdir() if path.name.endswith(f"@{worker}")]
        for path in mine:
            name = path.name.partition("@")[0]
            with self._lock:
                died = self._open.get(name, 0) + 1
                if name in self._open:
                    self._open[name] = died
            if died < ATTEMPTS and isinstance(error, JobError | JobKilled):
                path.rename(self._folder / QUEUE / name)
            else:
                with self._lock:
                    self._failed[name] = str(error)
                path.unlink()
        return bool(mine)


def swept(folder: Path) -> None:
    """Remove what processes that were killed have left: their letters, and histories and fits that they had begun."""
    letters = [(path, path.name.split("-")[1]) for path in folder.glob("mail-*-*")]
    begun = [(path, path.name.split(".")[2]) for path in folder.glob("fits/*/.*.*.*")]
    begun += [(path, path.name.split("-")[1]) for path in folder.glob("history/.*-*-*")]
    for path, owner in (*letters, *begun):
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(path, ignore_errors=True)
