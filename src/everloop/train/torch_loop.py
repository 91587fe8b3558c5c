"""The training loop: epochs, steps, parts, checkpoints. Knows nothing of declarations' sources, encodings or packages.

Accelerate places the network (device, precision, several processes); what it does not know is here: a step that can be
repeated in smaller parts when memory runs out, and a state from which another process goes on to the very same weights.
Every step draws its randomness from its own seed, so nothing of a generator's state needs keeping.
"""

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from everloop.errors import TrainError
from everloop.measure.pictures import AHEAD
from everloop.measure.tensors import Tensors
from everloop.spec.torch import Torch
from everloop.train import torch_batches as batches
from everloop.train.torch_augment import Mixed, augmented
from everloop.train.torch_build import check_patterns, freeze
from everloop.train.torch_checkpoint import Checkpoints
from everloop.train.torch_compiled import Compiled
from everloop.train.torch_forward import forward, said
from everloop.train.torch_objective import Loss
from everloop.train.torch_optimiser import Watched, optimiser, rate
from everloop.train.torch_place import Place
from everloop.train.torch_remembered import Remembered

PROGRESS_SECONDS = 1.0
Judge = Callable[[Any], float]
"""The module as it is now → its validation score."""


@dataclass(kw_only=True)
class Training:
    """One fit, on one process or on one of several that do it together."""

    declared: Torch
    module: Any
    inputs: Tensors
    target: npt.NDArray[Any]
    """int64 class indices, or float32."""
    weights: npt.NDArray[np.float64] | None
    loss: Loss
    place: Place
    seed: int
    checkpoints: Checkpoints
    judge: Judge | None = None
    greater_is_better: bool = False
    progress: Callable[[dict[str, Any]], None]
    ended: Callable[[int, Any], None] = lambda epochs, module: None
    """Called after so many epochs; may raise to end the fit."""
    remembered: Remembered
    most: int | None = None
    """Rows that memory is known to hold at once; None: nothing is known."""
    history: list[dict[str, Any]] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Train to the end, from the last checkpoint if there is one. The module then holds the weights to be kept."""
        declared, place = self.declared, self.place
        if declared.batch_size < place.world:
            raise TrainError(f"Torch.batch_size is {declared.batch_size} for {place.world} processes; give each a row.")
        check_patterns(self.module, declared.freeze)
        freeze(self.module, declared.freeze, 0)
        known = self.remembered.known()
        self.most = known.get("rows_at_once")
        self._compiled = Compiled(self._compiling(known), self._found_compiling)
        self.module = place.placed(self.module)
        self._source = batches.Source(
            self.inputs, self.target, self.weights, place.device, channels_last=place.channels_last,
            epochs=declared.epochs,
        )  # fmt: skip
        self._steps = batches.steps(self.inputs.rows, declared.batch_size)
        self._watched = Watched(declared, greater_is_better=self.greater_is_better)
        self._best: dict[str, Any] | None = None
        self._parameters = list(self.module.parameters())
        self._optimiser = optimiser(declared, self._parameters)
        epoch, step = self._resumed()
        self._wrap()
        self._shown = time.monotonic()
        with self._source.at_work():
            while epoch < declared.epochs and not self._watched.over:
                if freeze(self.module, declared.freeze, epoch):
                    self._wrap()
                self._epoch(epoch, step)
                epoch, step = epoch + 1, 0
        place.unwrap(self._wrapped)
        if self._best is not None:
            place.restore(self.module, self._best)

    def _wrap(self) -> None:
        self._wrapped = self.place.wrap(self.module)
        self._called = self._compiled.called(self._wrapped)

    def _compiling(self, known: dict[str, Any]) -> str:
        declared = self.declared
        if declared.compile != "auto":
            return declared.compile
        if declared.deterministic or self.place.world > 1:
            return "off"
        return {True: "on", False: "off"}.get(known.get("compile", "?"), "auto")

    def _found_compiling(self, pays: bool, why: str) -> None:
        self.remembered.keep(compile=pays)
        self.told.append(why)
        self.progress({"compile": why})

    # One epoch

    def _epoch(self, epoch: int, first: int) -> None:
        started, total = time.perf_counter(), torch.zeros((), device=self.place.device)
        places = batches.order(self.inputs.rows, seed=self.seed, epoch=epoch)
        every = self._steps * self.declared.epochs
        self._wrapped.train()
        for step in range(first, self._steps):
            now = epoch * self._steps + step
            factor = rate(self.declared.schedule, now, every) * self._watched.factor
            for group in self._optimiser.param_groups:
                group["lr"] = self.declared.learning_rate * factor
            whole = batches.step_places(places, step, self._steps)
            self._next = batches.step_places(places, step + 1, self._steps) if step + 1 < self._steps else None
            begun = time.perf_counter()
            total += self._step(whole, now)
            if self._compiled.after(time.perf_counter() - begun, every - now):
                self._called = self._compiled.called(self._wrapped)
            self._say(epoch, step, total, first)
            if step + 1 < self._steps and self.place.agree(self.checkpoints.due()):
                self._keep(epoch, step + 1)
        mean = float(total) / max(1, self._steps - first)
        record: dict[str, Any] = {
            "epoch": epoch + 1, "of": self.declared.epochs, "loss": mean,
            "learning_rate": self._optimiser.param_groups[0]["lr"], "seconds": time.perf_counter() - started,
        }  # fmt: skip
        if not np.isfinite(mean):
            raise TrainError(
                f"the loss is {mean} in epoch {epoch + 1}: the network diverged; lower Torch.learning_rate (it is "
                f"{self.declared.learning_rate:g}), or write clip_gradient=1.0."
            )
        if self.judge is not None:
            record["score"] = score = self.place.same(self.judge(self._wrapped))
            if self._watched.saw(score, epoch) and self.declared.early_stopping is not None:
                self._best = self.place.weights(self.module)
        self.history.append(record)
        self.progress(record)
        if self.place.agree(self.checkpoints.due()):
            self._keep(epoch + 1, 0)
        self.ended(epoch + 1, self._wrapped)

    def _say(self, epoch: int, step: int, total: torch.Tensor, first: int) -> None:
        if time.monotonic() - self._shown >= PROGRESS_SECONDS:
            self._shown = time.monotonic()
            self.progress(
                {
                    "epoch": epoch + 1, "of": self.declared.epochs, "step": step + 1, "steps": self._steps,
                    "loss": float(total) / (step + 1 - first),
                }
            )  # fmt: skip

    # One step

    def _step(self, whole: batches.Places, now: int) -> torch.Tensor:
        """The mean loss over this process's rows of the step. In smaller parts, from then on, if memory runs out."""
        mine = batches.of_rank(whole, self.place.rank, self.place.world)
        while True:
            short = None
            try:
                loss = self._through(mine, len(whole), now)
            except (torch.OutOfMemoryError, MemoryError) as error:
                short = said(error)
            except RuntimeError as error:
                if self._compiled.failed(error):
                    self._optimiser.zero_grad(set_to_none=True)
                    self._called = self._wrapped
                    continue
                if self.place.lost(error):
                    raise  # Another process is gone, and who watches over all of them begins again.
                if "can't allocate memory" not in str(error) and "out of memory" not in str(error):
                    raise TrainError(f"a step of the network fails: {said(error)}.") from error
                short = said(error)
            except TrainError:
                raise
            except Exception as error:
                if self._compiled.failed(error):
                    self._optimiser.zero_grad(set_to_none=True)
                    self._called = self._wrapped
                    continue
                raise TrainError(f"a step of the network fails: {said(error)}.") from error
            if short is None:
                self.place.step(self._optimiser, self.module, self.declared.clip_gradient)
                for parameter in self._parameters:  # as zero_grad does, without what it notes for profilers
                    parameter.grad = None
                return loss
            # Outside of except: the error holds the frames, and the frames hold the memory.
            self._halve(len(mine), short)

    def _through(self, mine: batches.Places, whole: int, now: int) -> torch.Tensor:
        """Forward and backward of all parts: the gradients are those of the mean over the whole step."""
        parts = batches.parts(mine, self.most or len(mine) or 1, self.declared.accumulate)
        total: torch.Tensor | None = None
        for number, each in enumerate(parts):
            self.place.seed((self.seed * 1_000_003 + now) * 64 + number)
            inputs, target, weights = self._source.batch(each)
            if self._source.makes:
                self._ahead(parts[number + 1 :])
            share = len(each) * self.place.world / whole
            last = number == len(parts) - 1
            if last:
                loss = self._once(inputs, target, weights, share)
            else:
                with self.place.alone(self._wrapped):
                    loss = self._once(inputs, target, weights, share)
            total = loss if total is None else total + loss
        assert total is not None
        return total

    def _ahead(self, parts: list[batches.Places]) -> None:
        """What is left of this step, and the next one, are made while this part goes there and back."""
        if self._next is not None:
            mine = batches.of_rank(self._next, self.place.rank, self.place.world)
            parts = parts + batches.parts(mine, self.most or len(mine) or 1, self.declared.accumulate)
        for each in parts[:AHEAD]:
            self._source.ahead(each)

    def _once(self, inputs: Any, target: Any, weights: Any, share: float) -> torch.Tensor:
        """One part there and back; its share of the step's loss."""
        mixed = None
        if self.declared.augment:
            inputs, mixed = augmented(self.declared.augment, inputs, self.inputs.special)
        if self.place.autocasts:
            with self.place.called():
                loss = self._loss(forward(self._called, inputs), target, weights, mixed)
        else:
            loss = self._loss(forward(self._called, inputs), target, weights, mixed)
        if share != 1.0:
            loss = loss * share
        self.place.backward(loss)
        return loss.detach()

    def _loss(self, outputs: torch.Tensor, target: Any, weights: Any, mixed: Mixed | None) -> torch.Tensor:
        if mixed is None:
            return self.loss(outputs, target, weights)
        other = None if weights is None else weights[mixed.other]
        own, others = self.loss(outputs, target, weights), self.loss(outputs, target[mixed.other], other)
        return mixed.share * own + (1 - mixed.share) * others

    def _halve(self, rows: int, why: str) -> None:
        self._optimiser.zero_grad(set_to_none=True)
        gc.collect()
        if self.place.device.type == "cuda":
            torch.cuda.empty_cache()
        now = min(self.most or rows, -(-rows // self.declared.accumulate))
        if now <= 1:
            raise TrainError(
                f"memory does not hold the network with a single row ({why}); take a smaller network or smaller inputs."
            )
        self.most = -(-now // 2)
        said_so = (
            f"memory does not hold {now} rows at once; steps of {self.declared.batch_size} rows go on in parts of "
            f"{self.most}, with the same gradients"
        )
        self.told.append(said_so)
        self.progress({"memory": said_so, "rows_at_once": self.most})
        self.remembered.keep(rows_at_once=self.most)
        self.place.ran_short(self.most)

    # What survives a kill

    def _keep(self, epoch: int, step: int) -> None:
        state = self.place.gathered(self.module, self._optimiser)
        if self.place.rank == 0:
            self.checkpoints.save(
                {
                    **state, "epoch": epoch, "step": step, "watched": self._watched.state(), "best": self._best,
                    "most": self.most, "history": self.history, "told": self.told,
                }
            )  # fmt: skip
        self.progress({"checkpoint": {"epoch": epoch, "step": step}})

    def _resumed(self) -> tuple[int, int]:
        state = self.checkpoints.load()
        if state is None:
            return 0, 0
        self.place.restore(self.module, state["module"], self._optimiser, state["optimiser"])
        self._watched.restore(state["watched"])
        self._best, self.most = state["best"], self.most or state["most"]
        self.history[:], self.told[:] = state["history"], state["told"]
        self.progress({"resumed": {"epoch": state["epoch"], "step": state["step"]}})
        return state["epoch"], state["step"]
