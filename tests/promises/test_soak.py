"""Twenty seconds of load with hot swaps, killed processes, clients that leave and clients that talk nonsense.

The whole of it takes ten minutes: ``python -m bench.soak``.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECONDS = 20


@pytest.mark.slow
def test_every_acknowledged_prediction_is_right_and_in_the_log_once_whatever_happens() -> None:
    command = [sys.executable, "-m", "bench.soak", "--minutes", str(SECONDS / 60), "--json"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert ended.returncode == 0, ended.stderr
    told = {row["what"]: row for row in json.loads(ended.stdout)}
    assert all(row["met"] is not False for row in told.values()), told
    found = {what: row["ours"] for what, row in told.items()}
    assert found["acknowledged and not in the log (killed process's last second excepted)"] == 0
    # And all of it happened, on a machine however slow.
    assert found["soak, c=32, 2 processes: answers"] > 500
    assert found["hot swaps"] >= SECONDS / 4
    assert found["processes killed"] >= 2
    assert found["clients that left"] > 10
    assert found["malformed or too large, refused"] > 5
