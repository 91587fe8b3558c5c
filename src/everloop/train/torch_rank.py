"""One of several processes that fit a network together (`everloop.train.torch_ranks` starts them)."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from everloop.errors import TrainError
from everloop.spec import codec
from everloop.train import kept_tensors
from everloop.train.function import Machine, TrainContext, load
from everloop.train.held import Scoring
from everloop.train.torch import train
from everloop.train.torch_ranks import WEIGHTS


def main(context: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """The entry point of the job: what each of the processes does."""
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
