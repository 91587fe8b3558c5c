"""Kill workers anywhere: every run comes to its end, no finished step runs again, nobody waits longer than a lease."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from everloop.clock import SystemClock
from everloop.durable import Engine, Run, runs
from everloop.store.ledger import Ledger
from everloop.testing import crash

STEPS = ("read", "fit", "gate", "release")
HEAD = f"""
import os, random, signal, sys, time
from datetime import timedelta
from pathlib import Path
from everloop.clock import SystemClock
from everloop.durable import Engine
from everloop.store.ledger import Ledger

home = Path(sys.argv[1])
STEPS = {STEPS!r}

def append(line):
    descriptor = os.open(home / "bodies.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(descriptor, (line + chr(10)).encode())
    os.close(descriptor)

def turn(run):
    for step in STEPS:
        run.step(step, lambda: append(f"{{run.id}} {{step}}"))
    return "done"
"""
ONE = HEAD + "Engine(Ledger.open(home / 'ledger.sqlite'), SystemClock()).work({'turn': turn}, 'code')"


def append(home: Path, line: str) -> None:
    with (home / "bodies.log").open("a") as file:
        file.write(line + "\n")


def bodies(home: Path) -> Counter[str]:
    return Counter((home / "bodies.log").read_text().splitlines() if (home / "bodies.log").exists() else [])


@pytest.mark.parametrize("point", crash.of_steps("turn", STEPS))
def test_a_run_killed_at_any_point_of_any_step_goes_on_there(tmp_path: Path, point: str) -> None:
    ledger = Ledger.open(tmp_path / "ledger.sqlite")
    engine = Engine(ledger, SystemClock())
    run = engine.submit("turn", "flights", {}, "code")
    killed = subprocess.run([sys.executable, "-c", ONE, str(tmp_path)], env={**os.environ, crash.VARIABLE: point})
    assert killed.returncode == -signal.SIGKILL
    with ledger.read() as connection:
        finished = [each.name for each in runs.steps_of(connection, run)]
    before = bodies(tmp_path)

    def turn(each: Run) -> Any:
        for step in STEPS:
            each.step(step, lambda step=step: append(tmp_path, f"{each.id} {step}"))  # type: ignore[misc]
        return "done"

    # At once: the dead process is recognised, its lease need not end.
    assert engine.work({"turn": turn}, "code") == 1
    with ledger.read() as connection:
        assert runs.get(connection, run).status == "done"
    engine.close()
    ledger.close()

    _, name, place = point.split(".")
    position = STEPS.index(name)
    assert finished == list(STEPS[: position + (place == "after")])
    after = bodies(tmp_path)
    for step in finished:
        assert after[f"{run} {step}"] == before[f"{run} {step}"] == 1, "what was finished did not run again"
    again = [step for step in STEPS if after[f"{run} {step}"] == 2]
    assert again == ([name] if place == "inside" else []), "only the step killed between effect and journal did"


STORM = (
    HEAD
    + """
random.seed(11)
# What a body may do is granted in small parts, so that no machine is fast enough to finish before the last kill.
granted, grant = os.pipe()

def turn(run):
    def body(step):
        os.read(granted, 1)
        append(f"{run.id} {step}")
    for step in STEPS:
        run.step(step, lambda: body(step))
    return "done"

def work():
    os.close(grant)
    engine = Engine(Ledger.open(home / "ledger.sqlite"), SystemClock(), term=timedelta(seconds=30))
    while engine.work({"turn": turn}, "code") or engine.next_due() is not None:
        pass
    os._exit(0)

def start():
    process = os.fork()
    if process == 0:
        work()
    return process

workers, kills = [start() for _ in range(3)], int(sys.argv[2])
for _ in range(kills):
    os.write(grant, bytes(int(sys.argv[3])))
    time.sleep(random.uniform(0.02, 0.12))
    victim = workers.pop(random.randrange(len(workers)))
    os.kill(victim, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(victim, 0)[1]) == -signal.SIGKILL
    workers.append(start())
os.close(grant)  # A read returns at once from here on.
for worker in workers:
    assert os.waitpid(worker, 0)[1] == 0
engine = Engine(Ledger.open(home / "ledger.sqlite"), SystemClock())
engine.work({"turn": turn}, "code")  # What a worker held that was the last to be killed.
"""
)


def test_three_workers_under_random_kills_finish_every_run(tmp_path: Path) -> None:
    count, kills = 200, 20
    ledger = Ledger.open(tmp_path / "ledger.sqlite")
    engine = Engine(ledger, SystemClock())
    with ledger.write() as connection:
        submitted = [engine.submit("turn", "flights", {}, "code", connection=connection) for _ in range(count)]
    part = count * len(STEPS) * 3 // 4 // kills
    command = [sys.executable, "-c", STORM, str(tmp_path), str(kills), str(part)]
    storm = subprocess.run(command, capture_output=True, text=True, check=False)
    assert storm.returncode == 0, storm.stderr
    with ledger.read() as connection:
        states = Counter(each.status for each in runs.of(connection, "flights"))
        steps = [tuple(each.name for each in runs.steps_of(connection, run)) for run in submitted]
    engine.close()
    ledger.close()
    assert states == {"done": count}
    assert steps == [STEPS] * count
    done = bodies(tmp_path)
    assert len(done) == count * len(STEPS)
    assert done.total() - len(done) <= kills, "at most one body a kill ran twice"


STOPPED = (
    HEAD
    + """
def slow(run):
    def body():
        print("begun", flush=True)
        sys.stdin.readline()
        append("the stopped worker's effect")
        return "stopped worker"
    result = run.step("fit", body)
    append("the stopped worker went on")
    return result

term = timedelta(seconds=float(sys.argv[2]))
Engine(Ledger.open(home / "ledger.sqlite"), SystemClock(), term=term).work({"turn": slow}, "code")
"""
)


def test_a_worker_that_hangs_is_taken_over_within_one_and_a_half_leases_and_can_write_nothing_more(
    tmp_path: Path,
) -> None:
    term = 2.0
    ledger = Ledger.open(tmp_path / "ledger.sqlite")
    engine = Engine(ledger, SystemClock(), term=timedelta(seconds=term))
    run = engine.submit("turn", "flights", {}, "code")
    command = [sys.executable, "-c", STOPPED, str(tmp_path), str(term)]
    hung = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert hung.stdout is not None
    assert hung.stdout.readline() == "begun\n"
    turn = {"turn": lambda run: run.step("fit", lambda: "second worker")}

    # While it lives, its heartbeat keeps the run, for longer than a lease.
    end = time.monotonic() + 1.5 * term
    while time.monotonic() < end:
        assert engine.work(turn, "code") == 0
        time.sleep(0.05)
    hung.send_signal(signal.SIGSTOP)
    stopped = time.monotonic()
    longest, looked = 0.0, stopped
    while engine.work(turn, "code") == 0:
        assert time.monotonic() - stopped < 20 * term
        time.sleep(0.02)
        longest, looked = max(longest, time.monotonic() - looked), time.monotonic()
    taken_over = time.monotonic() - stopped

    hung.send_signal(signal.SIGCONT)
    hung.communicate("go on\n")
    assert hung.returncode == 0
    with ledger.read() as connection:
        assert runs.get(connection, run).result == "second worker"
        assert [each.result for each in runs.steps_of(connection, run)] == ["second worker"]
    engine.close()
    ledger.close()
    assert (tmp_path / "bodies.log").read_text() == "the stopped worker's effect\n"
    assert taken_over <= 1.5 * term + longest, "however long this machine let us wait between two looks"
