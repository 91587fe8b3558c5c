"""Where a network is trained: device, precision, one process or several. Everything here is Accelerate's work.

Of the two trainers that leave the loop to us, Accelerate is the lighter one (LOG.md has the figures).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState

from everloop.errors import TrainError
from everloop.spec.torch import Torch


class Place:
    """One process's place. ``threads``: for the processor's own kernels."""

    def __init__(self, declared: Torch, module: Any, *, threads: int, seed: int) -> None:
        if declared.device == "cuda" and not torch.cuda.is_available():
            raise TrainError("Torch.device is 'cuda', and this machine has no GPU that torch sees; write \"auto\".")
        on_cpu = declared.device == "cpu" or not torch.cuda.is_available()
        self.precision = precision(declared, on_cpu=on_cpu)
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            for state in (AcceleratorState, PartialState, GradientState):
                state._reset_state()  # They are the process's own, and another fit may want another precision.
        mixed = {"32": "no"}.get(self.precision, self.precision)
        self._accelerator = Accelerator(mixed_precision=mixed, cpu=on_cpu)
        self.device = self._accelerator.device
        self.rank, self.world = self._accelerator.process_index, self._accelerator.num_processes
        self.channels_last = any(isinstance(each, torch.nn.Conv2d) for each in module.modules())
        if self.channels_last:
            module.to(memory_format=torch.channels_last)
        self._seed = seed
        self._generators = [torch.default_generator]
        if not on_cpu:
            torch.cuda.init()
            self._generators.append(torch.cuda.default_generators[self.device.index or 0])
        self.threads = threads

    @contextmanager
    def at_work(self, *, deterministic: bool) -> Iterator[None]:
        """Threads and rules of torch for as long as this fit runs."""
        threads, before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
        torch.set_num_threads(self.threads)
        if deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(before)

    def wrap(self, module: Any, optimiser: Any) -> Any:
        """The module as it is called: in the chosen precision, and with gradients that all processes share."""
        return self._accelerator.prepare_model(module)

    def seed(self, number: int) -> None:
        for each in self._generators:
            each.manual_seed((number * self.world + self.rank) % 2**63)

    def alone(self, wrapped: Any) -> Any:
        """Gradients of this part stay here until the last part of the step."""
        return self._accelerator.no_sync(wrapped)

    def backward(self, loss: torch.Tensor) -> None:
        self._accelerator.backward(loss)

    def step(self, optimiser: Any, module: Any, clip: float | None) -> None:
        scaler = self._accelerator.scaler
        if scaler is not None:
            scaler.unscale_(optimiser)
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(module.parameters(), clip)
        if scaler is not None:
            scaler.step(optimiser)
            scaler.update()
        else:
            optimiser.step()

    def agree(self, due: bool) -> bool:
        """What the first process says, in all of them."""
        if self.world == 1:
            return due
        flag = torch.tensor([int(due)], device=self.device)
        torch.distributed.broadcast(flag, 0)
        return bool(flag.item())

    def same(self, score: float) -> float:
        """The first process's figure, in all of them."""
        if self.world == 1:
            return score
        held = torch.tensor([score], dtype=torch.float64, device=self.device)
        torch.distributed.broadcast(held, 0)
        return float(held.item())

    def gathered(self, module: Any, optimiser: Any) -> dict[str, Any]:
        """The whole state of both, for a checkpoint."""
        return {"module": module.state_dict(), "optimiser": optimiser.state_dict()}

    def ran_short(self, most: int) -> None:
        """Other processes wait for this one's gradients: all of them must begin again with smaller parts."""
        if self.world > 1:
            raise TrainError(f"memory holds {most} rows at once at most; begin again.")


def precision(declared: Torch, *, on_cpu: bool) -> str:
    """``32``, ``bf16`` or ``fp16``: as declared, or what the machine has units for."""
    if declared.precision == "fp16" and on_cpu:
        raise TrainError('Torch.precision is \'fp16\', which processors do not train in; write "auto" or "bf16".')
    if declared.precision != "auto":
        return declared.precision
    if on_cpu:
        return "bf16" if getattr(torch.cpu, "_is_amx_tile_supported", bool)() else "32"
    return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
