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
from everloop.train.function import TrainContext
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
        name="train", entry="everloop.train.torch_rank:main", arguments=arguments, folder=folder,
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
