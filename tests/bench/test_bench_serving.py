"""The bench of serving runs to its end: a figure that nobody can take again is no figure."""

import json
import os
import subprocess
import sys
from pathlib import Path

from bench.serving.inside import microseconds
from bench.serving.load import Loader
from bench.serving.models import tabular
from bench.serving.ours import Ours
from bench.serving.processes import cores

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


def test_what_each_safety_feature_costs_is_measured_without_sockets_too(tmp_path: Path) -> None:
    model = tabular()
    homes: dict[Path, Path] = {}
    for each in (Ours(name="bare", settings={}, headers={}), Ours(name="all")):
        home = each.home(model, tmp_path).home.root
        with Loader(each.messages(model)[:8]) as loader:
            homes[home] = loader.file.rename(tmp_path / f"{each.name}.requests")
    bare, everything = microseconds(homes, rounds=1, core=cores()[0])
    assert bare > 0
    assert everything > 0


def test_a_part_that_does_not_exist_is_refused_with_the_parts_there_are() -> None:
    done = run("tabula")
    assert done.returncode == 2
    assert "there is no part tabula; parts are tabular, cnn" in done.stderr
