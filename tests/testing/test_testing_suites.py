"""The conformance suites on our own parts, the crash points, and the names that users meet."""

import dataclasses
import importlib
import inspect
import os
import re
import signal
import subprocess
import sys
from collections.abc import Collection, Sequence
from datetime import timedelta
from pathlib import Path

import pytest

import everloop.testing
from everloop.errors import DataError, SpecError
from everloop.jobs.process import ProcessExecutor
from everloop.loop.turn import Turn
from everloop.measure import drift, profile
from everloop.testing import check_detector, check_executor, crash
from everloop.testing.detectors import Columns


def test_processes_conform_to_executors(tmp_path: Path) -> None:
    with ProcessExecutor() as executor:
        check_executor(executor, tmp_path)


def test_our_drift_conforms_to_detectors() -> None:
    def detect(reference: Columns, windows: Sequence[Columns]) -> Collection[str]:
        before = profile.build(reference)
        seen = [profile.build(window, like=before) for window in windows]
        raised = drift.alarms(before, seen, false_alarm_every=timedelta(days=90), windows_per_day=1)
        return {each.column for each in raised}

    check_detector(detect)


def test_a_detector_that_cries_wolf_does_not_conform() -> None:
    with pytest.raises(AssertionError, match="30 alarms in 30 quiet histories"):
        check_detector(lambda reference, windows: {"miles"})


def test_a_detector_that_sleeps_does_not_conform() -> None:
    with pytest.raises(AssertionError, match="mean that moves"):
        check_detector(lambda reference, windows: ())


def test_every_place_that_the_product_reaches_is_named() -> None:
    source = Path(everloop.testing.__file__).parents[1]
    written = {
        found
        for path in source.rglob("*.py")
        if path.parent.name not in ("testing", "durable")
        for found in re.findall(r'\breached\("([^"]+)"\)', path.read_text("utf-8"))
    }
    assert written == set(crash.OTHERS)
    assert len(set(crash.POINTS)) == len(crash.POINTS)


def test_every_step_of_a_turn_is_named_in_order() -> None:
    steps = re.findall(r'run\.(?:step|commit)\(\s*"([^"]+)"', inspect.getsource(Turn.__call__))
    assert tuple(steps) == crash.STEPS["turn"]


def test_a_crash_point_kills_the_time_it_is_told() -> None:
    script = (
        "from everloop.testing.crash import reached\nfor number in range(5): reached('a.b'); print(number, flush=True)"
    )

    def run(point: str | None) -> tuple[int, str]:
        environment = {**os.environ, **({crash.VARIABLE: point} if point else {})}
        done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
        return done.returncode, done.stdout.replace("\n", "")

    assert run(None) == (0, "01234")
    assert run("a.c") == (0, "01234")
    assert run("a.b") == (-signal.SIGKILL, "")
    assert run("a.b:3") == (-signal.SIGKILL, "01")


def test_every_public_name_can_be_had() -> None:
    for name in everloop.testing.__all__:
        assert callable(getattr(everloop.testing, name))
    with pytest.raises(AttributeError, match="it has SimulatedClock"):
        everloop.testing.nothing  # noqa: B018


DECLARATION = """
import everloop as el
from sklearn.linear_model import LogisticRegression

loop = el.Loop(
    name="lost",
    source=el.Parquet("nowhere/*.parquet", key="id", event_time="at"),
    label=el.Label("late"),
    train=el.Train(LogisticRegression()),
)
"""


def test_a_trial_turn_finds_the_file_that_declares_its_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lost_declaration.py").write_text(DECLARATION)
    (tmp_path / "lost_user.py").write_text("from lost_declaration import loop\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    loop = importlib.import_module("lost_user").loop
    with pytest.raises(DataError, match=re.escape(f"'nowhere/*.parquet' in {tmp_path}")):
        everloop.testing.turn(loop)
    with pytest.raises(SpecError, match="give the declaration's file"):
        everloop.testing.turn(dataclasses.replace(loop))
