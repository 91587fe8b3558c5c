"""Networks: what the trainer costs beside a loop written by hand, what bf16 and a second process bring, what kills cost.

Run: python -m bench.deep [--quick] [--json] [--only overhead,bf16,ddp,kills,parity]. Everything on the processor.

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
import itertools
import logging
import os
import signal
import tempfile
import time
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime
import torch
from bench.deep_nets import Columns, ResNet, Transformer

from bench import rows as table
from everloop.jobs.job import Job
from everloop.jobs.process import ProcessExecutor
from everloop.jobs.torchrun import torchrun
from everloop.measure.tensors import Tensors
from everloop.package.torch_models import exported
from everloop.spec.torch import Torch
from everloop.train.function import Machine, TrainContext
from everloop.train.torch import fit
from everloop.train.torch_batches import order, step_places, steps
from everloop.train.torch_optimiser import rate

SOURCE = Path(__file__).with_name("deep_nets.py")
OVERHEAD, SPEED_SMALL, SPEED_LARGE, TWO, PARITY = 1.05, 1.3, 1.5, 1.7, 1e-4
PARTS = ("overhead", "bf16", "ddp", "kills", "parity")


def columns(rows: int, width: int = 32) -> tuple[Tensors, Any]:
    made = np.random.default_rng(0).normal(size=(rows, width)).astype(np.float32)
    return Tensors({"columns": made}), (made[:, 0] * made[:, 1] > 0).astype(np.int64)


def images(rows: int, size: int = 32) -> tuple[Tensors, Any]:
    random = np.random.default_rng(0)
    target = random.integers(0, 10, rows)
    made = random.normal(size=(rows, 3, size, size)).astype(np.float32) + target[:, None, None, None] / 5
    return Tensors({"image": made.astype(np.float32)}), target


def context(**more: Any) -> TrainContext:
    return TrainContext(seed=0, threads=1, **more)


def fitted(declared: Torch, inputs: Tensors, target: Any, given: TrainContext) -> Any:
    classes = int(target.max()) + 1
    task: Any = "binary" if classes == 2 else "multiclass"
    return fit(declared, inputs, target, task=task, classes=classes, weights=None, context=given, source=SOURCE)


# Overhead


def by_us(inputs: Tensors, target: Any, declared: Torch) -> float:
    """Seconds of this process's CPU for an epoch after the first: others use the machine, too."""
    ends: list[float] = []

    def watch(detail: dict[str, Any]) -> None:
        if "learning_rate" in detail:
            ends.append(time.process_time())

    fitted(declared, inputs, target, context(progress=watch))
    return median(end - begun for begun, end in itertools.pairwise(ends))


def by_hand(inputs: Tensors, target: Any, declared: Torch, *, accelerate: bool = False) -> float:
    torch.manual_seed(0)
    module: Any = Columns(inputs.shapes["columns"][0], 2, **declared.parameters)
    optimiser: Any = torch.optim.AdamW(module.parameters(), lr=declared.learning_rate, fused=True)
    backward: Callable[[Any], None] = lambda loss: loss.backward()  # noqa: E731
    clip: Callable[..., Any] = torch.nn.utils.clip_grad_norm_
    if accelerate:
        from accelerate import Accelerator

        accelerator = Accelerator(cpu=True)
        module, optimiser = accelerator.prepare(module, optimiser)
        backward, clip = accelerator.backward, accelerator.clip_grad_norm_
    rows, truth = torch.from_numpy(inputs["columns"]), torch.from_numpy(target)
    count, took = steps(inputs.rows, declared.batch_size), []
    for epoch in range(declared.epochs):
        begun = time.process_time()
        places = order(inputs.rows, seed=0, epoch=epoch)
        total = torch.zeros(())
        for step in range(count):
            for group in optimiser.param_groups:
                group["lr"] = declared.learning_rate * rate(
                    declared.schedule, epoch * count + step, count * declared.epochs
                )
            index = torch.from_numpy(step_places(places, step, count))
            loss = torch.nn.functional.cross_entropy(module(rows[index]), truth[index])
            backward(loss)
            clip(module.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            total += loss.detach()
        float(total)
        took.append(time.process_time() - begun)
    return median(took[1:])


def by_lightning(inputs: Tensors, target: Any, declared: Torch) -> float | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import pytorch_lightning as lightning
        except ImportError:
            return None
        logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
        took: list[float] = []

        class Timed(lightning.Callback):  # type: ignore[misc, unused-ignore]
            def on_train_epoch_start(self, *_: Any) -> None:
                self.begun = time.process_time()

            def on_train_epoch_end(self, *_: Any) -> None:
                took.append(time.process_time() - self.begun)

        class Module(lightning.LightningModule):  # type: ignore[misc, unused-ignore]
            def __init__(self) -> None:
                super().__init__()
                self.net = Columns(inputs.shapes["columns"][0], 2, **declared.parameters)

            def training_step(self, batch: Any, _: int) -> Any:
                return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])

            def configure_optimizers(self) -> Any:
                return torch.optim.AdamW(self.parameters(), lr=declared.learning_rate, fused=True)

        data = torch.utils.data.TensorDataset(torch.from_numpy(inputs["columns"]), torch.from_numpy(target))
        # Whole batches by index, as the others take them: a loader that gathers row by row would be many times slower.
        sampler = torch.utils.data.BatchSampler(
            torch.utils.data.RandomSampler(data), declared.batch_size, drop_last=False
        )
        loader = torch.utils.data.DataLoader(data, sampler=sampler, batch_size=None)
        trainer = lightning.Trainer(
            max_epochs=declared.epochs, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, gradient_clip_val=1.0, callbacks=[Timed()],
        )  # fmt: skip
        trainer.fit(Module(), loader)
    return median(took[1:])


def overhead(quick: bool) -> list[table.Row]:
    found = []
    for hidden, batch in ((64, 64), (256, 256)):
        inputs, target = columns(4_000 if quick else 16_000)
        declared = Torch(
            Columns, parameters={"hidden": hidden}, epochs=4, batch_size=batch, compile="off", weight_decay=0.01
        )
        count, rounds = steps(inputs.rows, batch), 3 if quick else 7
        ways: dict[str, Callable[[], float | None]] = {
            "ours": lambda i=inputs, t=target, d=declared: by_us(i, t, d),
            "by hand": lambda i=inputs, t=target, d=declared: by_hand(i, t, d),
            "Accelerate": lambda i=inputs, t=target, d=declared: by_hand(i, t, d, accelerate=True),
            "Lightning Trainer": lambda i=inputs, t=target, d=declared: by_lightning(i, t, d),
        }
        took: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, way in ways.items():
                seconds = way()
                if seconds is not None:
                    took[name].append(1e6 * seconds / count)
        hand = median(took["by hand"])
        # Ratios of one round, so that the machine's mood meets both.
        ratios = {
            name: median(a / b for a, b in zip(each, took["by hand"], strict=False))
            for name, each in took.items()
            if each
        }
        what = f"a step, {hidden} wide, {batch} rows"
        found.append(
            table.Row(what=what, ours=median(took["ours"]), peer=hand, peer_name="by hand", unit="µs", rounds=rounds)
        )
        found.append(
            table.Row(
                what=f"{what}: ours as a multiple of by hand",
                ours=ratios["ours"],
                unit="×",
                target=OVERHEAD,
                rounds=rounds,
            )
        )
        found += [
            table.Row(what=f"{what}: {name} as a multiple of by hand", ours=ratio, unit="×", rounds=rounds)
            for name, ratio in ratios.items() if name not in ("ours", "by hand")
        ]  # fmt: skip
    return found


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
                target=target if amx else None, greater_is_better=True,
            )
        )  # fmt: skip
    return found


# Several processes


def ddp(quick: bool) -> list[table.Row]:
    inputs, truth = images(1_024 if quick else 2_048)
    rounds, ratios, ours = 1 if quick else 3, [], []
    declared = Torch(
        ResNet, parameters={"width": 16, "outputs": 10}, epochs=2, batch_size=128, precision="32", compile="off"
    )
    for number in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            one = fitted(declared, inputs, truth, context()).history[-1]["seconds"]
            given = TrainContext(seed=0, threads=2, folder=Path(folder) / str(number), machine=Machine(processes=2))
            two = fitted(declared, inputs, truth, given).history[-1]["seconds"]
            ratios.append(one / two)
            ours.append(inputs.rows / two)
    return [
        table.Row(
            what="2 processes of 1 thread beside 1, ResNet of 0.7 M parameters", ours=median(ratios), unit="×",
            target=TWO, greater_is_better=True, rounds=rounds,
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


def main() -> None:
    parser = table.parser(__doc__ or "")
    parser.add_argument("--only", default=",".join(PARTS), help=f"some of {', '.join(PARTS)}")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    found: list[table.Row] = []
    for part in chosen.only.split(","):
        with contextlib.redirect_stdout(None):
            found += globals()[part](chosen.quick)
    table.show(found, as_json=chosen.json)


if __name__ == "__main__":
    main()
