"""Promise: a search that is killed at any moment goes on to the same end; no trial that has ended is done again."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import psutil

from everloop.spec.train import Search, Uniform
from everloop.store.home import Home
from everloop.store.ledger import Ledger, candidates
from everloop.train import trials
from everloop.train.search import Plan, Report, search, work
from small_loop import PRELOAD, SmallLoop

TRIALS = 16
EVERLOOP = "from everloop.cli import main; main()"
PLAN = Plan(
    declared=Search({"x": Uniform(-1.0, 1.0), "y": Uniform(-1.0, 1.0)}, trials=TRIALS, pruner="median"),
    greater_is_better=False,
    seed=7,
)


def logged(parameters: dict[str, Any], report: Report) -> float:
    log = os.open(os.environ["BEGUN"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(log, f"{parameters['x']!r}\n".encode())
    os.close(log)
    time.sleep(0.03)
    return value(parameters, report)


def worker(folder: Path) -> None:
    os.environ["BEGUN"] = str(folder / "begun.log")
    work(PLAN, logged, folder)


def value(parameters: dict[str, Any], report: Report) -> float:
    found = parameters["x"] ** 2 + parameters["y"] ** 2
    for step in range(3):
        report(step, found + 0.1 / (step + 1))
    return float(found)


def essence(ended: Any) -> list[Any]:
    return [(each.number, each.parameters, each.state, each.score, each.steps, each.marks) for each in ended]


def test_workers_killed_at_any_moment_leave_a_search_that_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    undisturbed = search(PLAN, value)
    assert {each.state for each in undisturbed.trials} == {"complete", "pruned"}
    chance = random.Random(11)
    # Forked from a process that has imported everything: a worker costs its own work.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    kills = 0
    for _ in range(60):
        workers = [context.Process(target=worker, args=(tmp_path,)) for _ in range(2)]
        for each in workers:
            each.start()
        _wait_for_two_more(tmp_path, workers)  # a trial that is killed three times is left out
        time.sleep(chance.uniform(0.0, 0.06))
        ended = trials.of(tmp_path)
        for each in workers:
            each.kill()
            each.join()
            kills += each.exitcode == -signal.SIGKILL
        assert set(ended) <= set(trials.of(tmp_path))
        if len(trials.of(tmp_path)) == TRIALS:
            break
    found = search(PLAN, value, folder=tmp_path)
    assert essence(found.trials) == essence(undisturbed.trials)
    assert kills >= 2
    begun = len((tmp_path / "begun.log").read_text().splitlines())
    assert begun <= TRIALS + kills, "only trials that were killed are begun again"


def _wait_for_two_more(folder: Path, workers: list[Any]) -> None:
    before, deadline = len(trials.of(folder)), time.monotonic() + 60
    while time.monotonic() < deadline and any(each.is_alive() for each in workers):
        if len(trials.of(folder)) >= before + 2:
            return
        time.sleep(0.005)


FUNCTION = '''
def fit(samples, params, context):
    """The first trial is slow enough that other processes are asked to help."""
    import os
    import time
    from pathlib import Path

    log = Path(os.environ["TRIED"])
    slow = 2.0 if not log.exists() else 0.15
    with log.open("a") as file:
        file.write(f"{os.getpid()} {params}\\n")
    if params:
        time.sleep(slow)
    return LogisticRegression(C=params.get("C", 1.0)).fit(samples.X, samples.y)


fit.accepts_missing = False
'''


def _declared(folder: Path) -> SmallLoop:
    loop = SmallLoop(
        folder,
        train='el.Train(fit, search=el.Search({"C": el.LogUniform(1e-4, 10)}, trials=12, workers=2), seed=5)',
    )
    head, begin, rest = loop.file.read_text("utf-8").partition("loop = el.Loop(")
    loop.file.write_text(head + FUNCTION + "\n\n" + begin + rest, "utf-8")
    return loop


def test_a_turn_killed_in_its_search_goes_on_with_the_trials_it_has(tmp_path: Path) -> None:
    loop = _declared(tmp_path / "killed")
    log = tmp_path / "tried.log"
    environment = {**os.environ, "TRIED": str(log)}
    command = [sys.executable, "-c", EVERLOOP, "run", str(loop.file), "--json"]
    with (tmp_path / "said").open("wb") as said:
        run = subprocess.Popen(command, env=environment, cwd=loop.folder, stdout=said, stderr=said)
        try:
            folder = _until_some_have_ended(loop, 5)
            processes = {int(line.split()[0]) for line in log.read_text().splitlines()}
        finally:
            run.send_signal(signal.SIGKILL)
            assert run.wait() == -signal.SIGKILL, (tmp_path / "said").read_text()
    _until_gone(processes)
    kept = {path.name: path.stat().st_mtime_ns for path in folder.glob("trial-*.json")}
    ended = trials.of(folder)
    assert 5 <= len(kept) < 12
    assert len(processes) >= 2, "helpers were at work"
    begun = len(log.read_text().splitlines())

    again = subprocess.run(command, env=environment, cwd=loop.folder, capture_output=True, check=False)
    assert again.returncode == 0, again.stderr.decode()
    ledger = Ledger.open(Home(loop.home).ledger)
    with ledger.read() as connection:
        (candidate,) = candidates.of(connection, loop.name)
    ledger.close()
    details = msgspec.json.decode((Path(candidate.folder) / "details.json").read_bytes())
    (entry,) = details["entries"]
    for number, each in ended.items():
        assert entry["trials"][number]["score"] == each.score
        assert entry["trials"][number]["seconds"] == each.seconds, "what had ended was not done again"
    assert len(entry["trials"]) == 12
    done_again = len(log.read_text().splitlines()) - begun
    assert done_again == 12 - len(ended) + 1, "the trials that were left, and the fit on all rows"

    # The next turn begins where this one ended.
    shown = subprocess.run([*command[:3], "why", "v1", "--json"], cwd=loop.folder, capture_output=True, check=True)
    assert json.loads(shown.stdout)["package"]["lineage"]["parameters"] == candidate.parameters


def _until_some_have_ended(loop: SmallLoop, count: int) -> Path:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for folder in loop.home.glob("jobs/*/search-0"):
            if len(list(folder.glob("trial-*.json"))) >= count:
                return folder
        time.sleep(0.01)
    raise AssertionError("the search did not get so far")


def _until_gone(processes: set[int]) -> None:
    deadline = time.monotonic() + 30
    while any(psutil.pid_exists(each) for each in processes):
        assert time.monotonic() < deadline, "a helper outlived the command that wanted its search"
        time.sleep(0.05)
