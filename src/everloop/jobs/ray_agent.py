"""The process between an executor and a Ray cluster: ``python -m everloop.jobs.ray_agent ADDRESS PROCESSES CPUS GPUS RESTARTS``.

Waits for one line on its standard input that names the job's folder, as a worker does, has Ray start an ordinary worker in
that folder (``python -m everloop.jobs.worker``), and ends as that worker ended. It lives as long as the input stays open;
Ray ends what belongs to a driver that is gone. The only file that loads Ray.
"""

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from everloop.jobs.worker import ERROR, OUTPUT, RESULT, die_with_parent, ranks_ended_well, redirect

REACHED_SECONDS = 10.0
"""A cluster that does not take a connection within so long is not there."""


def main(arguments: list[str]) -> int:
    address, processes, cpus, gpus, restarts = arguments[:5]
    # Ray's own chatter is no output of the job; what goes wrong in connecting is said when a job is asked for.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    trouble = connected(address) if arguments[5:6] == ["--preload"] else None
    line = sys.stdin.buffer.readline()
    if not line:
        return 0
    threading.Thread(target=die_with_parent, daemon=True).start()
    folder = Path(json.loads(line))
    redirect(folder / OUTPUT)
    if arguments[5:6] != ["--preload"]:
        trouble = connected(address)
    if trouble is not None:
        print(trouble, file=sys.stderr)
        return 1
    run = alone if int(processes) == 1 else together
    return run(folder, int(processes), float(cpus), float(gpus), int(restarts))


def connected(address: str) -> str | None:
    """Why there is no cluster; None where there is one."""
    remedy = "start one with `ray start --head`, or correct ray= in everloop.toml."
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        try:  # Ray itself tries for minutes
            socket.create_connection((host, int(port)), timeout=REACHED_SECONDS).close()
        except OSError as error:
            return f"There is no Ray cluster at {address!r} ({error.strerror or error}); {remedy}"
    try:
        ray: Any = importlib.import_module("ray")
    except ModuleNotFoundError as error:
        return f"Ray is not installed here ({error}); install it with pip install 'everloop[ray]'."
    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        return f"There is no Ray cluster at {address!r} ({str(error).strip().splitlines()[0]}); {remedy}"
    return None


def alone(folder: Path, processes: int, cpus: float, gpus: float, restarts: int) -> int:
    """One task, never tried again by Ray: whether and how often is the executor's business."""
    ray: Any = importlib.import_module("ray")
    task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(work)
    try:
        code = ray.get(task.remote(str(folder.absolute()), _environment()))
    except ray.exceptions.RayError as error:  # its machine went away, or it was taken for too large
        print(f"Ray lost the job: {str(error).strip().splitlines()[0]}", file=sys.stderr)
        os.kill(os.getpid(), signal.SIGKILL)
        raise  # never reached
    if code < 0:
        os.kill(os.getpid(), -code)  # whoever waits is told what ended the worker
    return int(code)


def together(folder: Path, processes: int, cpus: float, gpus: float, restarts: int) -> int:
    """Ranks by Ray Train, each an ordinary worker."""
    train: Any = importlib.import_module("ray.train")
    parallel: Any = importlib.import_module("ray.train.v2.api.data_parallel_trainer")
    resources = {"CPU": cpus, **({"GPU": gpus} if gpus else {})}
    trainer = parallel.DataParallelTrainer(
        rank,
        train_loop_config={"folder": str(folder.absolute()), "environment": _environment()},
        scaling_config=train.ScalingConfig(num_workers=processes, use_gpu=gpus > 0, resources_per_worker=resources),
        run_config=train.RunConfig(
            name="ray-train",
            storage_path=str(folder.absolute()),
            failure_config=train.FailureConfig(max_failures=restarts),
        ),
    )
    try:
        trainer.fit()
        ranks_ended_well(folder)
    except Exception as error:  # Ray Train has kinds of its own for what a rank's end has caused
        print(f"Ray Train ended: {type(error).__name__}: {error}", file=sys.stderr)
    return 0 if (folder / RESULT).exists() and not (folder / ERROR).exists() else 1


def rank(given: Mapping[str, Any]) -> None:
    """One process of those that train together. Where rank 0 is, the others meet."""
    train: Any = importlib.import_module("ray.train")
    collective: Any = importlib.import_module("ray.train.collective")
    context = train.get_context()
    meeting = collective.broadcast_from_rank_zero(_meeting() if context.get_world_rank() == 0 else None)
    own = {
        **given["environment"], **meeting,
        "RANK": str(context.get_world_rank()), "WORLD_SIZE": str(context.get_world_size()),
        "LOCAL_RANK": str(context.get_local_rank()), "LOCAL_WORLD_SIZE": str(context.get_local_world_size()),
    }  # fmt: skip
    code = work(given["folder"], own)
    if code != 0:
        raise RuntimeError(f"rank {context.get_world_rank()} ended with {code}")


def _meeting() -> dict[str, str]:
    ray: Any = importlib.import_module("ray")
    with socket.socket() as free:
        free.bind(("", 0))
        return {"MASTER_ADDR": ray.util.get_node_ip_address(), "MASTER_PORT": str(free.getsockname()[1])}


def work(folder: str, environment: Mapping[str, str]) -> int:
    """On a machine of the cluster: an ordinary worker, which ends with this process; how it ended."""
    place = Path(folder)
    if not place.is_dir():
        raise FileNotFoundError(f"{folder} is not on this machine; keep the home where every machine finds it.")
    process = subprocess.Popen(
        [sys.executable, "-m", "everloop.jobs.worker"],
        stdin=subprocess.PIPE,
        env={**os.environ, **environment},
        start_new_session=True,
    )
    try:
        assert process.stdin is not None
        process.stdin.write(json.dumps(folder).encode() + b"\n")
        process.stdin.flush()  # left open: its end would tell the worker that nobody wants the job any more
        return process.wait()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _environment() -> dict[str, str]:
    names = ("EVERLOOP_ATTEMPT", "OMP_NUM_THREADS", "OMP_WAIT_POLICY")
    return {name: os.environ[name] for name in names if name in os.environ}


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
