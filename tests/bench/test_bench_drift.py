"""A simulated year of quiet data keeps the alarm budget through the live code, and a shift is found: not by silence."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    command = [sys.executable, "-m", "bench.watch.quiet", "--json", "--years", "1", "--windows", "1000"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_quiet_years_keep_the_budget_of_one_alarm_day_in_ninety(rows: list[dict[str, Any]]) -> None:
    alarms = [each for each in rows if each["what"].startswith("alarm days per 90 quiet ones")]
    assert len(alarms) == 6
    # Single years scatter: in twenty of them the mean is below half a day, the largest one.
    assert max(each["ours"] for each in alarms) <= 2
    assert all(each["peer"] > 80 for each in alarms if each["peer_name"] == "p < .05")
    assert all(each["peer"] > 60 for each in alarms if each["peer_name"] == "PSI > .2" and "habits" in each["what"])


def test_a_shift_of_six_tenths_in_one_of_thirty_columns_is_found_within_three_windows(
    rows: list[dict[str, Any]],
) -> None:
    found = [each for each in rows if each["what"].startswith("+.6 sd in one of 30 columns found, ")]
    assert [each["unit"] for each in found] == ["windows"] * 3
    assert max(each["ours"] for each in found) <= 3
    # On formulas, before there is a history, too.
    early = [each for each in rows if "on day 14" in each["what"]]
    assert len(early) == 3
    assert max(each["ours"] for each in early) <= 3
