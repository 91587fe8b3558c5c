"""Networks: what the trainer costs beside a loop written by hand, what bf16 and a second process bring, what kills cost.

Run: python -m bench.deep [--quick] [--json] [--only overhead,bf16,ddp,kills,parity]. Everything on the processor. A run
that is not quick keeps its parts in results/deep.json, and leaves there what other parts found on the same machine.

- overhead: one epoch of the same network over the same rows by ours, by hand (permutation, batch, loss, backward, clipped
  gradients, fused AdamW, the rate set at each step), by Accelerate with its optimiser wrapped as its guide says, and by
  Lightning's Trainer where it can be imported (bench/peers/requirements-lightning.txt). In turns, one thread each.
- bf16: a step of two ResNets at 32 × 32, 64 rows, in 32 bits and under autocast, through our trainer. What the processor has
  for it is printed: without matrix units (AMX) nothing is promised.
- ddp: an epoch by 2 processes of 1 thread beside 1 process of 1 thread, the same rows a step.
- kills: SIGKILL of the job, and of a rank, at several steps; how many ended at the very same weights, and how many steps
  were done twice at most, where each step is a checkpoint.
- parity: our graph beside torch on the rows of a CNN and of a transformer.
"""

import contextlib
import hashlib
import json
import os
import platform
import signal
import tempfile
from dataclasses import replace
from datetime import timedelta
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime
import torch
from bench.deep_fits import columns, context, fitted, images
from bench.deep_nets import Columns, ResNet, Transformer
from bench.deep_overhead import overhead

from bench import rows as table
from everloop.jobs.job import Job
from everloop.jobs.process import ProcessExecutor
from everloop.jobs.torchrun import torchrun
from everloop.measure.tensors import Tensors
from everloop.package.torch_models import exported
from everloop.spec.torch import Torch
from everloop.train.function import Machine, TrainContext

RESULTS = Path(__file__).parent / "results" / "deep.json"
SPEED_SMALL, SPEED_LARGE, TWO, PARITY = 1.3, 1.5, 1.7, 1e-4


# bf16


def bf16(quick: bool) -> list[table.Row]:
    amx = bool(getattr(torch.cpu, "_is_amx_tile_supported", bool)())
    units = "AMX" if amx else "no AMX"
    found = []
    for width, name, target in ((16, "0.7 M", SPEED_SMALL), (64, "11 M", SPEED_LARGE)):
        if quick and width > 16:
            continue
        inputs, truth = images(64 * (8 if width == 16 else 3))
        rounds, took = 2 if quick else 3, {"32": [], "bf16": []}  # type: dict[str, list[float]]
        for _ in range(rounds):
            for precision, each in took.items():
                declared = Torch(
                    ResNet, parameters={"width": width, "outputs": 10}, epochs=2, batch_size=64, precision=precision,
                    compile="off",
                )  # fmt: skip
                history = fitted(declared, inputs, truth, context()).history
                each.append(history[-1]["seconds"])
        ratio = median(a / b for a, b in zip(took["32"], took["bf16"], strict=True))
        found.append(
            table.Row(
                what=f"bf16 autocast, ResNet of {name} parameters, {units}", ours=ratio, unit="× 32 bits", rounds=rounds,
                target=target, greater_is_better=True,
            )
        )  # fmt: skip
    return found


# Several processes

COMPUTED = Torch(
    ResNet, parameters={"width": 16, "outputs": 10}, epochs=2, batch_size=128, precision="32", compile="off"
)


def half(meeting: Any, rows: int, told: Any) -> None:
    """Every other row, by a process that knows of no other; both begin each epoch at the same time."""
    torch.set_num_threads(1)
    inputs, truth = images(rows)
    mine = np.arange(0, rows, 2)
    declared = replace(COMPUTED, batch_size=COMPUTED.batch_size // 2)
    meeting.wait()

    def watch(detail: dict[str, Any]) -> None:
        if "learning_rate" in detail:
            meeting.wait()

    told.put(fitted(declared, inputs.taken(mine), truth[mine], context(progress=watch)).history[-1]["seconds"])


def apart(rows: int) -> float:
    """Seconds of an epoch of two such processes."""
    spawned = get_context("spawn")
    meeting, told = spawned.Barrier(2), spawned.Queue()
    processes = [spawned.Process(target=half, args=(meeting, rows, told)) for _ in range(2)]
    for each in processes:
        each.start()
    took = [told.get(timeout=300) for _ in processes]
    for each in processes:
        each.join()
    return float(max(took))


def ddp(quick: bool) -> list[table.Row]:
    inputs, truth = images(512 if quick else 1_024)
    rounds, ratios, limits, ours = 1 if quick else 5, [], [], []
    for number in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            one = fitted(COMPUTED, inputs, truth, context()).history[-1]["seconds"]
            given = TrainContext(seed=0, threads=2, folder=Path(folder) / str(number), machine=Machine(processes=2))
            two = fitted(COMPUTED, inputs, truth, given).history[-1]["seconds"]
            limits.append(one / apart(inputs.rows))
            ratios.append(one / two)
            ours.append(inputs.rows / two)
    return [
        table.Row(
            what="2 processes of 1 thread beside 1, ResNet of 0.7 M parameters", ours=median(ratios), unit="×",
            limit=median(limits), target=TWO, greater_is_better=True, rounds=rounds,
        ),
        table.Row(what="rows a second by 2 processes", ours=median(ours), unit="rows/s", rounds=rounds),
    ]  # fmt: skip


# Kills


def killed(job: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """A fit that is ended by SIGKILL once it has kept its ``at``th checkpoint, the first time."""
    torch.set_num_threads(1)
    inputs, target = columns(600)
    mark = job.checkpoints / "killed"
    seen, resumed = [0], [0]

    def watch(detail: dict[str, Any]) -> None:
        resumed[0] += "resumed" in detail
        seen[0] += "checkpoint" in detail
        if seen[0] == arguments["at"] and not mark.exists():
            mark.write_text("once")
            os.kill(os.getpid(), signal.SIGKILL)

    declared = Torch(
        Columns, parameters={"hidden": 16}, epochs=3, batch_size=64, deterministic=True, checkpoint_every=timedelta(0)
    )
    given = TrainContext(seed=0, threads=1, checkpoints=job.checkpoints, progress=watch)
    model = fitted(declared, inputs, target, given)
    whole = hashlib.sha256()
    for each in model.module.state_dict().values():
        whole.update(each.numpy().tobytes())
    return {"weights": whole.hexdigest(), "resumed": resumed[0]}


def kills(quick: bool) -> list[table.Row]:
    found = []
    for name, places in (("the job", (1, 7, 15, 26)), ("a rank of two", (1, 15))):
        if quick:
            places = places[:1]
        same = 0
        with tempfile.TemporaryDirectory() as temporary:
            executor = ProcessExecutor() if name == "the job" else torchrun(2)
            with executor:

                def ended(at: int, folder: str, executor: Any = executor, root: str = temporary) -> dict[str, Any]:
                    result: dict[str, Any] = executor.run(
                        Job(
                            name="killed", entry="bench.deep:killed", arguments={"at": at}, retries=1,
                            folder=Path(root) / folder, path=(str(Path(__file__).parents[1]),),
                        )
                    )  # fmt: skip
                    return result

                undisturbed = ended(0, "whole")["weights"]
                for at in places:
                    result = ended(at, f"at-{at}")
                    same += result["weights"] == undisturbed and result["resumed"] == 1
        found.append(
            table.Row(
                what=f"SIGKILL of {name}: ended at the very same weights", ours=same / len(places), unit="share",
                target=1.0, greater_is_better=True, rounds=len(places),
            )
        )  # fmt: skip
    return found


# Parity


def parity(quick: bool) -> list[table.Row]:
    random = np.random.default_rng(1)
    tokens = random.integers(0, 500, (400, 32))
    tokens[:, 1:][random.random((400, 31)) < 0.2] = 0
    cases = {
        "CNN": (Torch(ResNet, parameters={"width": 8, "outputs": 10}, epochs=2), *images(400)),
        "transformer": (
            Torch(Transformer, parameters={"outputs": 2}, epochs=3), Tensors({"tokens": tokens}),
            (tokens[:, 0] > 250).astype(np.int64),
        ),
    }  # fmt: skip
    found = []
    for name, (declared, inputs, target) in cases.items():
        model = fitted(declared, inputs, target, context())
        session = onnxruntime.InferenceSession(exported(model).SerializeToString(), providers=["CPUExecutionProvider"])
        (key,) = inputs
        (logits,) = session.run(None, {key: inputs[key]})
        own = model.predict_proba(inputs)
        shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
        graph = shifted / shifted.sum(axis=1, keepdims=True)
        found.append(
            table.Row(
                what=f"{name}: largest difference of a probability",
                ours=float(np.abs(graph - own).max()),
                unit="",
                target=PARITY,
                rounds=len(own),
            )
        )
        found.append(
            table.Row(
                what=f"{name}: flipped classes",
                ours=float((graph.argmax(1) != own.argmax(1)).sum()),
                unit="rows",
                target=0,
                rounds=len(own),
            )
        )
    return found


PARTS = {"overhead": overhead, "bf16": bf16, "ddp": ddp, "kills": kills, "parity": parity}


def machine() -> dict[str, Any]:
    try:
        about = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        about = ""
    lines = dict(line.replace("\t", "").split(":", 1) for line in about.split("\n\n")[0].splitlines() if ":" in line)
    units = [each for each in ("avx512_bf16", "amx_bf16") if each in lines.get("flags", "").split()]
    return {
        "cores": os.cpu_count(), "processor": lines.get("model name", platform.processor()).strip(),
        "16-bit units": units, "python": platform.python_version(),
        **{name: version(name) for name in ("everloop", "torch", "accelerate", "onnxruntime")},
    }  # fmt: skip


def keep(parts: dict[str, list[table.Row]]) -> None:
    """In the results, beside what the other parts found on the same machine."""
    mine, kept = machine(), dict[str, list[dict[str, Any]]]()
    if RESULTS.exists():
        before = json.loads(RESULTS.read_text("utf-8"))
        if before["machine"] == mine:
            kept = {part: [row for row in before["rows"] if row["part"] == part] for part in PARTS}
    kept |= {part: [{"part": part, **row.to_json()} for row in found] for part, found in parts.items()}
    rows = [row for part in PARTS for row in kept.get(part, ())]
    RESULTS.write_text(json.dumps({"machine": mine, "rows": rows}, indent=1) + "\n", "utf-8")


def main() -> None:
    parser = table.parser(__doc__ or "")
    parser.add_argument("--only", default=",".join(PARTS), help=f"some of {', '.join(PARTS)}")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, list[table.Row]] = {}
    for part in chosen.only.split(","):
        with contextlib.redirect_stdout(None):
            found[part] = PARTS[part](chosen.quick)
    if not chosen.quick:
        keep(found)
    table.show([row for rows in found.values() for row in rows], as_json=chosen.json)


if __name__ == "__main__":
    main()
