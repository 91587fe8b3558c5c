"""What running a job in a process of its own promises."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from everloop.errors import DataError, JobError, JobKilled, JobTimedOut
from everloop.jobs.process import Job, ProcessExecutor, run

CODE = """
import os, signal, subprocess, sys, time


def add(context, arguments):
    print("adding")
    for number in range(3):
        context.progress({"number": number})
    return {"sum": sum(arguments["numbers"]), "group": os.getpgid(0), "pid": os.getpid()}


def fail(context, arguments):
    numbers = sorted(arguments["numbers"])
    return int("not a number")  # the user's line


def refuse(context, arguments):
    from everloop.errors import DataError
    raise DataError("The column carrier holds no value.")


def kill(context, arguments):
    os.kill(os.getpid(), getattr(signal, arguments["signal"]))


def leave(context, arguments):
    os._exit(3)


def grow(context, arguments):
    held = []
    while True:
        held.append(bytearray(b"x" * 8_000_000))
        time.sleep(0.01)


def hang(context, arguments):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    context.progress({"child": child.pid, "pid": os.getpid()})
    time.sleep(60)


def second_time(context, arguments):
    marker = context.checkpoints / "tried"
    if not marker.exists():
        marker.write_text("once")
        os.kill(os.getpid(), signal.SIGKILL)
    return context.attempt


def loaded(context, arguments):
    return sorted(set(arguments) & set(sys.modules))


def variable(context, arguments):
    return os.environ.get("SHADE")
"""


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., Job]:
    code = tmp_path / "code"
    code.mkdir()
    (code / "job_of_test.py").write_text(textwrap.dedent(CODE))

    def make(name: str, arguments: Any = None, **more: Any) -> Job:
        folder = tmp_path / "jobs" / name
        return Job(
            name=name, entry=f"job_of_test:{name}", arguments=arguments, folder=folder, path=(str(code),), **more
        )

    return make


def gone(process: int) -> bool:
    """True once the process is dead, waiting for it a little: it is ended by a signal, not awaited."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if not psutil.pid_exists(process) or psutil.Process(process).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.01)
    return False


def test_a_job_gives_its_result_and_tells_its_progress(job: Callable[..., Job]) -> None:
    seen: list[Any] = []
    made = job("add", {"numbers": [1, 2, 3]})
    result = run(made, on_progress=seen.append)
    assert result["sum"] == 6
    assert seen == [{"number": 0}, {"number": 1}, {"number": 2}]
    assert (made.folder / "output.log").read_text() == "adding\n"
    assert result["group"] == result["pid"] != os.getpgid(0)


def test_a_job_that_has_its_result_is_not_run_again(job: Callable[..., Job]) -> None:
    first = run(job("add", {"numbers": [1]}))
    assert run(job("add", {"numbers": [1]})) == first
    assert run(job("add", {"numbers": [2]}))["sum"] == 2


def test_an_exception_names_the_users_own_line(job: Callable[..., Job]) -> None:
    line = next(number for number, text in enumerate(CODE.splitlines(), 1) if "the user's line" in text)
    with pytest.raises(JobError, match=rf"fail raised ValueError: invalid literal.*job_of_test\.py:{line}\)"):
        run(job("fail", {"numbers": [1]}))


def test_an_error_of_everloop_arrives_as_it_was(job: Callable[..., Job]) -> None:
    with pytest.raises(DataError, match=r"^The column carrier holds no value\.$"):
        run(job("refuse", retries=2))


def test_an_entry_that_is_not_there_is_a_job_error(job: Callable[..., Job]) -> None:
    with pytest.raises(JobError, match="has no attribute 'nowhere'"):
        run(job("nowhere"))


def test_a_kill_from_outside_says_memory(job: Callable[..., Job]) -> None:
    with pytest.raises(JobKilled, match="memory"):
        run(job("kill", {"signal": "SIGKILL"}))


def test_a_crash_in_native_code_names_the_signal(job: Callable[..., Job]) -> None:
    with pytest.raises(JobKilled, match="SIGSEGV"):
        run(job("kill", {"signal": "SIGSEGV"}))


def test_a_job_that_leaves_without_a_word_is_an_error(job: Callable[..., Job]) -> None:
    with pytest.raises(JobError, match="ended with code 3 and left no result"):
        run(job("leave"))


def test_a_job_over_its_memory_limit_is_ended(job: Callable[..., Job]) -> None:
    with pytest.raises(JobKilled, match="more than its limit of 100 MiB"):
        run(job("grow", memory=100 << 20))


def test_a_timeout_ends_the_job_and_its_children(job: Callable[..., Job]) -> None:
    seen: list[Any] = []
    with pytest.raises(JobTimedOut, match=r"did not end within 1\.5 s"):
        run(job("hang", timeout=timedelta(seconds=1.5), retries=5), on_progress=seen.append)
    assert len(seen) == 1
    assert gone(seen[0]["child"])
    assert gone(seen[0]["pid"])


def test_a_job_ends_when_its_run_is_stopped(job: Callable[..., Job]) -> None:
    stop = threading.Event()
    seen: list[Any] = []

    def stop_then(detail: Any) -> None:
        seen.append(detail)
        stop.set()

    with pytest.raises(JobKilled, match="stopped"):
        run(job("hang"), on_progress=stop_then, stop=stop)
    assert gone(seen[0]["child"])


def test_a_job_that_was_killed_once_is_tried_again(job: Callable[..., Job]) -> None:
    assert run(job("second_time", retries=1)) == 1


def test_the_standing_worker_has_its_imports_done(job: Callable[..., Job]) -> None:
    with ProcessExecutor(preload=("fractions", "no_such_module")) as executor:
        assert executor.run(job("loaded", ["fractions", "decimal", "tkinter"])) == ["decimal", "fractions"]
        standing = executor._standing
        assert standing is not None
        os.kill(standing.pid, signal.SIGKILL)
        # One that died while it stood by is replaced without a word.
        assert gone(standing.pid)
        assert executor.run(job("add", {"numbers": [4]}))["sum"] == 4
        assert executor.run(job("variable", environment={"SHADE": "blue"})) == "blue"
        last = executor._standing
    assert last is not None
    assert gone(last.pid)


def test_a_job_dies_with_its_controller(job: Callable[..., Job], tmp_path: Path) -> None:
    made = job("hang")
    script = (
        "import sys; from pathlib import Path; from everloop.jobs.process import Job, run\n"
        f"run(Job(name='hang', entry='job_of_test:hang', arguments=None, folder=Path({str(made.folder)!r}),"
        f" path={made.path!r}), on_progress=lambda detail: print(detail['child'], detail['pid'], flush=True))"
    )
    controller = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert controller.stdout is not None
    with controller.stdout:
        child, worker = map(int, controller.stdout.readline().split())
    controller.kill()
    controller.wait()
    assert gone(worker)
    assert gone(child)
