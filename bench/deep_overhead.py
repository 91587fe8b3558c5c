"""What a step costs by ours, by hand, by Accelerate and by Lightning's Trainer. A part of bench.deep."""

import itertools
import logging
import time
import warnings
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from bench.deep_fits import columns, context, fitted
from bench.deep_nets import Columns

from bench import rows as table
from everloop.measure.tensors import Tensors
from everloop.spec.torch import Torch
from everloop.train.torch_batches import order, step_places, steps
from everloop.train.torch_optimiser import rate

OVERHEAD = 1.05


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
