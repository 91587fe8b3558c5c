"""A network's fit survives SIGKILL of its job, of one of its ranks and of the controller, to the very same weights."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import onnx
import psutil
import pytest
from onnx import numpy_helper

from everloop.errors import JobKilled
from everloop.jobs.context import Context
from everloop.jobs.job import Job
from everloop.jobs.process import ProcessExecutor
from everloop.jobs.torchrun import torchrun
from everloop.jobs.worker import RESULT, RESULT_OF_RANKS
from everloop.testing.executors import check_executor
from small_loop import SmallLoop, made_rows
from tiny_nets import HEAD

pytestmark = pytest.mark.xdist_group("torch")

TRAIN = (
    "el.Torch(Net, parameters={'hidden': 8}, epochs=4, batch_size=32, learning_rate=0.02, deterministic=True, "
    "checkpoint_every=td(0))"
)
PATIENCE = 120.0


def weights_of(loop: SmallLoop) -> list[bytes]:
    """Every number in the candidate's graph, in its order."""
    (graph,) = loop.home.glob("candidates/*/graph.onnx")
    model = onnx.load(graph)
    return [numpy_helper.to_array(each).tobytes() for each in model.graph.initializer if each.data_type == 1]


def loop_in(folder: Path, *, toml: str = "") -> SmallLoop:
    loop = SmallLoop(folder, rows=made_rows(400), train=TRAIN, head=HEAD)
    if toml:
        (folder / "everloop.toml").write_text(toml)
    return loop


def run(loop: SmallLoop) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", "from everloop.cli import main; main()", "run", str(loop.file)]
    with (loop.folder / "said").open("ab") as said:
        return subprocess.Popen(command, cwd=loop.folder, stdout=said, stderr=said, start_new_session=True)


def ended(process: "subprocess.Popen[bytes]", loop: SmallLoop) -> None:
    try:
        assert process.wait(PATIENCE) == 0, (loop.folder / "said").read_text("utf-8")
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def progress(loop: SmallLoop) -> list[dict[str, Any]]:
    lines = [line for path in loop.home.rglob("progress.jsonl") for line in path.read_bytes().splitlines()]
    return [each for line in lines if isinstance(each := _decoded(line), dict)]


def _decoded(line: bytes) -> Any:
    try:
        return msgspec.json.decode(line)
    except msgspec.DecodeError:  # half a line
        return None


def wait_for(what: Callable[[], bool], process: "subprocess.Popen[bytes]", loop: SmallLoop) -> None:
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert process.poll() is None, (loop.folder / "said").read_text("utf-8")
        assert time.monotonic() < deadline
        time.sleep(0.005)


def of_this(loop: SmallLoop, words: str) -> list[psutil.Process]:
    """Processes below our own that run these words, deepest last."""
    found = []
    for each in psutil.Process().children(recursive=True):
        try:
            if words in " ".join(each.cmdline()) and each.environ().get("PWD") is not None:
                found.append(each)
        except psutil.Error:
            continue
    return found


def checkpointed(loop: SmallLoop) -> bool:
    return any("checkpoint" in each for each in progress(loop))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    loop = loop_in(tmp_path_factory.mktemp("undisturbed"))
    ended(run(loop), loop)
    return weights_of(loop)


def test_a_killed_job_goes_on_to_the_very_same_weights(undisturbed: list[bytes], tmp_path: Path) -> None:
    loop = loop_in(tmp_path)
    process = run(loop)
    wait_for(lambda: checkpointed(loop), process, loop)
    # The worker under our own command: everything else is another test's.
    (worker, *_) = [
        each for each in psutil.Process(process.pid).children() if "jobs.worker" in " ".join(each.cmdline())
    ]
    worker.send_signal(signal.SIGKILL)
    ended(process, loop)
    assert "resumed" in (loop.folder / "said").read_text("utf-8")
    assert weights_of(loop) == undisturbed


def test_a_killed_controller_goes_on_to_the_very_same_weights(undisturbed: list[bytes], tmp_path: Path) -> None:
    loop = loop_in(tmp_path)
    process = run(loop)
    wait_for(lambda: checkpointed(loop), process, loop)
    process.send_signal(signal.SIGKILL)
    process.wait()
    ended(run(loop), loop)
    assert "resumed" in (loop.folder / "said").read_text("utf-8")
    assert weights_of(loop) == undisturbed


def test_ranks_train_together_and_a_killed_one_costs_nothing(tmp_path: Path) -> None:
    toml = '[local]\nexecutor = "torchrun"\nnproc = 2\n'
    whole, hurt = loop_in(tmp_path / "whole", toml=toml), loop_in(tmp_path / "hurt", toml=toml)
    ended(run(whole), whole)
    process = run(hurt)
    wait_for(lambda: checkpointed(hurt), process, hurt)
    ranks = [
        each
        for each in psutil.Process(process.pid).children(recursive=True)
        if " ".join(each.cmdline()[1:3]) == "-m everloop.jobs.worker" and len(each.cmdline()) == 4
    ]
    assert len(ranks) == 2
    ranks[-1].send_signal(signal.SIGKILL)
    ended(process, hurt)
    assert "resumed" in (hurt.folder / "said").read_text("utf-8")
    assert weights_of(hurt) == weights_of(whole)
    assert not any(each.is_running() for each in ranks)


@pytest.mark.slow
def test_torchrun_does_what_every_executor_must(tmp_path: Path) -> None:
    with torchrun(2, restarts=0) as executor:
        assert isinstance(executor, ProcessExecutor)
        check_executor(executor, tmp_path)


def together(function: str, folder: Path) -> Job:
    return Job(name=function, entry=f"{__name__}:{function}", arguments=None, folder=folder, path=tuple(sys.path))


def dies_when_the_first_is_done(context: Context, arguments: Any) -> Any:
    if context.rank > 0 and context.attempt == 0:
        deadline = time.monotonic() + PATIENCE
        while not (context.folder / RESULT_OF_RANKS).exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    return context.attempt


def meets_the_others_until_one_is_killed(context: Context, arguments: Any) -> Any:
    import torch

    torch.distributed.init_process_group("gloo")
    if context.rank > 0:
        os.kill(os.getpid(), signal.SIGKILL)
    torch.distributed.barrier()


def test_a_killed_rank_is_named_and_not_the_peers_who_lost_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = tmp_path / "temporary"
    left.mkdir()
    monkeypatch.setenv("TMPDIR", str(left))
    job = together("meets_the_others_until_one_is_killed", tmp_path / "job")
    with torchrun(2, restarts=0) as executor, pytest.raises(JobKilled, match="memory"):
        executor.run(job)
    assert not list(left.glob("torch*")), "nothing is left among the machine's own"


def test_a_result_does_not_count_when_another_rank_died_after_it_was_left(tmp_path: Path) -> None:
    job = together("dies_when_the_first_is_done", tmp_path)
    with torchrun(2, restarts=0) as executor, pytest.raises(JobKilled):
        executor.run(job)
    assert not (tmp_path / RESULT).exists()
    with torchrun(2, restarts=1) as executor:
        assert executor.run(job) == 1
