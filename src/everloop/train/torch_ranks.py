"""The same fit by several processes, of this machine or of a Ray cluster. What is fitted, and how, is `everloop.train.torch`'s business.

The fit's rows are left as arrays that the processes map; the first of them leaves the weights. A process that dies
takes the others with it, and all of them go on from the last checkpoint.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from everloop.errors import JobError, TrainError
from everloop.jobs.job import Job
from everloop.jobs.ray import ray_train
from everloop.jobs.torchrun import torchrun
from everloop.measure.tensors import Tensors
from everloop.spec import codec
from everloop.train import kept_tensors
from everloop.train.function import Machine, TrainContext, load
from everloop.train.held import Scoring

WEIGHTS = "weights.pt"
LEAST = 2


def elsewhere(context: TrainContext) -> bool:
    """Whether the fit is to be done by other processes than this one."""
    return context.machine.processes >= LEAST and "RANK" not in os.environ


def run(declared: Any, inputs: Tensors, arrays: dict[str, Any], *, identity: str, context: TrainContext,
        scoring: Scoring | None, source: Path | None, **plain: Any) -> tuple[dict[str, Any], dict[str, Any]]:  # fmt: skip
    """The state of the trained module, and what was said of it. ``arrays``: by name, None where there is none."""
    if context.folder is None:
        raise TrainError("a fit by several processes needs a folder for them.")
    folder = context.folder / f"ranks-{identity[:16]}"
    kept_tensors.save(folder / "inputs", inputs)
    for name, array in arrays.items():
        if array is not None:
            np.save(folder / f"{name}.npy", array)
    arguments = {
        "declared": codec.to_json(declared),
        "scoring": None if scoring is None else [codec.to_json(scoring.metric), scoring.positive],
        "source": None if source is None else str(source.absolute()),
        "checkpoints": str((context.checkpoints or folder).absolute()),
        "weights": None if context.weights is None else str(context.weights.absolute()),
        "seed": context.seed, "threads": max(1, context.threads // context.machine.processes), "sharded": context.machine.sharded,
        "remembered": str((context.machine.remembered or folder / "remembered").absolute()),
        "plain": plain, "champion": None if context.champion is None else str(context.champion.absolute()),
    }  # fmt: skip
    job = Job(
        name="train", entry=f"{__name__}:main", arguments=arguments, folder=folder,
        environment={"OMP_NUM_THREADS": str(arguments["threads"])},
    )  # fmt: skip
    try:
        machine = context.machine
        ranks = ray_train(machine.ray, machine.processes) if machine.ray is not None else torchrun(machine.processes)
        with ranks as executor:
            said: dict[str, Any] = executor.run(job, on_progress=context.progress)
    except JobError as error:
        raise TrainError(f"the fit by {context.machine.processes} processes failed: {error}") from error
    state: dict[str, Any] = torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True)
    return state, said


def main(context: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """What each of the processes does."""
    from everloop.train.torch import train

    source = None if arguments["source"] is None else Path(arguments["source"])

    def bind(function: Any) -> Any:
        if source is None:
            raise TrainError(f"the function {function.name!r} needs the declaration's source file.")
        return load(source, function.module_file_digest, function.name)

    scoring = None
    if arguments["scoring"] is not None:
        metric, positive = arguments["scoring"]
        scoring = Scoring(metric=codec.value(metric, bind), positive=positive)
    folder: Path = context.folder

    def array(name: str) -> Any:
        return np.load(folder / f"{name}.npy") if (folder / f"{name}.npy").exists() else None

    own = TrainContext(
        seed=arguments["seed"], threads=arguments["threads"], folder=folder, progress=context.progress,
        checkpoints=Path(arguments["checkpoints"]),
        champion=None if arguments["champion"] is None else Path(arguments["champion"]),
        machine=Machine(
            processes=context.world, sharded=arguments["sharded"], remembered=Path(arguments["remembered"])
        ),
        weights=None if arguments["weights"] is None else Path(arguments["weights"]),
    )  # fmt: skip
    done = train(
        codec.value(arguments["declared"], bind), kept_tensors.load(folder / "inputs"), array("target"),
        weights=array("row_weights"), context=own, scoring=scoring, source=source, **arguments["plain"],
    )  # fmt: skip
    state = done.place.weights(done.module)
    if context.rank == 0:
        beside = folder / f".{WEIGHTS}"
        torch.save(state, beside)
        beside.replace(folder / WEIGHTS)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    return {"history": done.history, "told": done.told}
