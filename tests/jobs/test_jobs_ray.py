"""Jobs on a real Ray keep every promise that jobs on this machine keep."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from everloop.errors import JobError
from everloop.jobs.job import Job
from everloop.jobs.ray import ray, ray_train
from everloop.testing.executors import check_executor
from ray_cluster import ray_cluster
from small_loop import SmallLoop, made_rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    with ray_cluster() as address:
        yield address


def test_ray_runs_jobs_as_any_executor_does(cluster: str, tmp_path: Path) -> None:
    with ray(cluster) as executor:
        check_executor(executor, tmp_path)


def test_a_whole_turn_fits_on_ray(cluster: str, tmp_path: Path) -> None:
    """The same declaration; what becomes of the version is as anywhere."""
    loop = SmallLoop(tmp_path, rows=made_rows(400))
    (tmp_path / "everloop.toml").write_text(f'[local]\nexecutor = "ray"\nray = "{cluster}"\n')
    command = [sys.executable, "-c", "from everloop.cli import main; main()", "run", str(loop.file)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(loop.home.glob("candidates/*/graph.onnx"))) == 1


@pytest.mark.skipif(
    os.environ.get("CI") != "true", reason="Ray Train takes a minute to start ranks twice: CI waits for it"
)
def test_ranks_on_ray_train_know_each_other_and_start_again_when_one_is_killed(cluster: str, tmp_path: Path) -> None:
    job = Job(
        name="ranks", entry="ranks:meet", arguments={}, folder=tmp_path / "ranks",
        path=(str(Path(__file__).parents[1] / "support"),),
    )  # fmt: skip
    with ray_train(cluster, 2, cpus=0.5) as executor:
        result = executor.run(job)
    assert result == {"sum": 3.0, "world": 2}
    assert (tmp_path / "ranks" / "checkpoints" / "killed").exists(), "rank 1 was killed once"


def test_a_cluster_that_is_not_there_is_said(tmp_path: Path) -> None:
    job = Job(name="adds", entry="everloop.testing.executors:adds", arguments={"numbers": []}, folder=tmp_path / "a")
    with ray("127.0.0.1:1") as executor, pytest.raises(JobError, match=r"no Ray cluster at '127\.0\.0\.1:1'"):
        executor.run(job)
