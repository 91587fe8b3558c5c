"""The job that helps with a search, and what starts so many of them. Knows no estimator and draws no parameters.

A helper that dies takes one trial with it, which is free again at once (`everloop.train.trials`); its job begins again.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from everloop.errors import JobError
from everloop.jobs.job import Executor, Job
from everloop.jobs.process import ProcessExecutor
from everloop.loop.functions import binder
from everloop.records import digest_of, encode
from everloop.spec import codec
from everloop.spec.resolve import LabelFacts, Resolved, resolve
from everloop.store.home import Home
from everloop.train.compete import Hands, assist
from everloop.train.judging import Goal

RETRIES = 12
"""How often a helper that died is started again; a trial that kills everybody is left out after three times."""

Progress = Callable[[dict[str, Any]], None]


def goal_of(resolved: Resolved) -> Goal:
    return Goal(
        task=resolved.task,
        metric=resolved.score,
        classes=resolved.classes,
        positive=1 if resolved.positive is None else resolved.positive,
        scale=resolved.loop.label.scale,
    )


def opened(arguments: dict[str, Any]) -> Resolved:
    """The declaration as a job is told of it, with the user's own functions at hand."""
    home = Home(Path(arguments["home"]))
    loop = codec.from_bytes(
        (home.code / arguments["code"] / "loop.json").read_bytes(), bind=binder(Path(arguments["declaration"]))
    )
    facts = msgspec.convert(arguments["facts"], LabelFacts) if arguments["facts"] else None
    return resolve(loop, arguments["schema"], facts)


def main(context: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """The entry point of a helper."""
    resolved = opened(arguments)
    ended = assist(
        resolved.loop.train,
        arguments["place"],
        Path(arguments["folder"]),
        goal_of(resolved),
        source=Path(arguments["declaration"]),
        progress=context.progress,
    )
    return {"ended": ended}


def hands(arguments: dict[str, Any], executor: Executor | None = None) -> Hands:
    """Starts helpers of a search, each a job. ``arguments``: those of the fit job."""
    told = {name: arguments[name] for name in ("home", "code", "declaration", "schema", "facts")}

    def start(place: int, folder: Path, count: int, progress: Progress) -> None:
        runner = executor or ProcessExecutor()

        def job(number: int) -> Job:
            given = {**told, "place": place, "folder": str(folder), "judging": digest_of(_about(folder))}
            return Job(
                name=f"search {number + 1}",
                entry="everloop.loop.search_job:main",
                arguments=given,
                folder=folder / f"helper-{number}",
                retries=RETRIES,
            )

        with ThreadPoolExecutor(count) as pool:
            ran = [pool.submit(runner.run, job(number), on_progress=progress) for number in range(count)]
        failed = [each.exception() for each in ran]
        if all(isinstance(each, BaseException) for each in failed):
            raise failed[0] or JobError("The helpers of the search ended without a word.")

    return start


def _about(folder: Path) -> bytes:
    return encode(sorted(path.name for path in folder.glob("*.npy"))) + (folder / "judging.json").read_bytes()
