"""The bench of serving runs to its end: a figure that nobody can take again is no figure."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    command = [sys.executable, "-m", "bench.serving", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


def test_the_serving_bench_gives_rows_of_a_server_with_everything_on() -> None:
    done = run("--quick", "--json", "tabular")
    assert done.returncode == 0, done.stderr
    rows = {row["what"]: row for row in json.loads(done.stdout)}
    assert rows["tabular, c=64: requests a second"]["ours"] > 0
    # No server can answer in less than the graph alone takes.
    spent = rows["tabular, c=64: CPU a request"]
    assert spent["ours"] > spent["limit"] > 0


def test_a_part_that_does_not_exist_is_refused_with_the_parts_there_are() -> None:
    done = run("tabula")
    assert done.returncode == 2
    assert "there is no part tabula; parts are tabular, cnn" in done.stderr
