"""Where a network is trained: device, precision, one process or several. Nearly everything here is Accelerate's work.

Of the two trainers that leave the loop to us, Accelerate is the lighter one (LOG.md has the figures). Sharding is
torch's own (FSDP2), for Accelerate shards on GPUs only.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState, GradientState, PartialState

from everloop.errors import TrainError
from everloop.spec.torch import Torch


class RanShort(Exception):
    """One of several processes has too little memory: all of them begin again, with smaller parts."""


class Place:
    """One process's place. ``threads``: for the processor's own kernels. ``sharded``: each process holds a part."""

    def __init__(self, declared: Torch, module: Any, *, threads: int, sharded: bool = False) -> None:
        if declared.device == "cuda" and not torch.cuda.is_available():
            raise TrainError("Torch.device is 'cuda', and this machine has no GPU that torch sees; write \"auto\".")
        on_cpu = declared.device == "cpu" or not torch.cuda.is_available()
        self.precision = precision(declared, on_cpu=on_cpu)
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            for state in (AcceleratorState, PartialState, GradientState):
                state._reset_state()  # They are the process's own, and another fit may want another precision.
        else:
            _meet("gloo" if on_cpu else "nccl")
        mixed = {"32": "no"}.get(self.precision, self.precision)
        shared = DistributedDataParallelKwargs(gradient_as_bucket_view=True, broadcast_buffers=_steers(module))
        self._accelerator = Accelerator(mixed_precision=mixed, cpu=on_cpu, kwargs_handlers=[shared])
        self.device = self._accelerator.device
        self.rank, self.world = self._accelerator.process_index, self._accelerator.num_processes
        self.sharded = sharded and self.world > 1
        self.channels_last = any(isinstance(each, torch.nn.Conv2d) for each in module.modules())
        if self.channels_last:
            module.to(memory_format=torch.channels_last)
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

    def placed(self, module: Any) -> Any:
        """On the device, before there is an optimiser; sharded by its children, so that one at a time is whole."""
        module = module.to(self.device)
        if self.sharded:
            from torch.distributed.fsdp import fully_shard

            for child in module.children():
                if any(each.requires_grad for each in child.parameters()):
                    fully_shard(child, mesh=self._mesh())
            fully_shard(module, mesh=self._mesh())
        return module

    def _mesh(self) -> Any:
        return torch.distributed.init_device_mesh(self.device.type, (self.world,))

    def wrap(self, module: Any) -> Any:
        """The module as it is called: in the chosen precision, and with gradients that all processes share."""
        self.unwrap(module)
        return self._accelerator.prepare_model(module, device_placement=False) if not self.sharded else module

    def unwrap(self, wrapped: Any) -> Any:
        """The module as it was built: in its own precision."""
        return self._accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False)

    @property
    def autocasts(self) -> bool:
        """Whether `called` must stand around each call, for `wrap` did not wrap the module."""
        return self.sharded and self.precision != "32"

    def called(self) -> Any:
        return self._accelerator.autocast()

    def seed(self, number: int) -> None:
        chosen = (number * self.world + self.rank) % 2**63
        for each in self._generators:
            each.manual_seed(chosen)

    @contextmanager
    def alone(self, wrapped: Any) -> Iterator[None]:
        """Gradients of this part stay here until the last part of the step."""
        if self.sharded:
            wrapped.set_requires_gradient_sync(False)
            yield
            wrapped.set_requires_gradient_sync(True)
            return
        with self._accelerator.no_sync(wrapped):
            yield

    def backward(self, loss: torch.Tensor) -> None:
        # Accelerate's own divides the loss by its parts first, of which it knows only one: 30 µs a step for nothing.
        scaler = self._accelerator.scaler
        (loss if scaler is None else scaler.scale(loss)).backward()

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

    def weights(self, module: Any) -> dict[str, Any]:
        """A copy of the whole state, on the processor. All processes must ask."""
        if not self.sharded:
            return {name: each.detach().cpu().clone() for name, each in module.state_dict().items()}
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        return dict(get_model_state_dict(module, options=StateDictOptions(full_state_dict=True, cpu_offload=True)))

    def gathered(self, module: Any, optimiser: Any) -> dict[str, Any]:
        """The whole state of both, for a checkpoint. All processes must ask."""
        if not self.sharded:
            return {"module": module.state_dict(), "optimiser": optimiser.state_dict()}
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        found = get_optimizer_state_dict(module, optimiser, options=options)
        return {"module": self.weights(module), "optimiser": found}

    def restore(self, module: Any, state: Any, optimiser: Any = None, optimisers: Any = None) -> None:
        """What `weights` or `gathered` gave, in all processes."""
        if not self.sharded:
            module.load_state_dict(state)
            if optimiser is not None:
                optimiser.load_state_dict(optimisers)
            return
        from torch.distributed.checkpoint import state_dict

        options = state_dict.StateDictOptions(full_state_dict=True)
        state_dict.set_model_state_dict(module, state, options=options)
        if optimiser is not None:
            state_dict.set_optimizer_state_dict(module, optimiser, optimisers, options=options)

    def lost(self, error: RuntimeError) -> bool:
        """Whether the error says that another process is gone."""
        said = str(error).lower()
        return self.world > 1 and any(word in said for word in ("gloo", "nccl", "connection", "peer"))

    def ran_short(self, most: int) -> None:
        """Other processes wait for this one's gradients: all of them must begin again with smaller parts."""
        if self.world > 1:
            raise RanShort(f"memory holds {most} rows at once at most; begin again.")


def _steers(module: Any) -> bool:
    """Whether buffers may have a say in training, so that all processes must begin each step with the same.

    What batch normalisation has seen so far has none, and the first process's is what is kept.
    """
    passive = sum(len(list(each.buffers(recurse=False))) for each in module.modules()
                  if isinstance(each, torch.nn.modules.batchnorm._BatchNorm))  # fmt: skip
    return len(list(module.buffers())) > passive


def _meet(backend: str) -> None:
    """Join the other processes under the number of this start.

    torchrun keeps its store over restarts, and in it the addresses of processes that are gone: who starts again would
    now and then wait for one of them.
    """
    restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if restarts == "0" or torch.distributed.is_initialized():
        return  # Accelerate does it.
    store = torch.distributed.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    torch.distributed.init_process_group(
        backend,
        store=torch.distributed.PrefixStore(f"start-{restarts}", store),
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
    )


def precision(declared: Torch, *, on_cpu: bool) -> str:
    """``32``, ``bf16`` or ``fp16``: as declared, or what the machine has units for."""
    if declared.precision == "fp16" and on_cpu:
        raise TrainError('Torch.precision is \'fp16\', which processors do not train in; write "auto" or "bf16".')
    if declared.precision != "auto":
        return declared.precision
    if on_cpu:
        return "bf16" if getattr(torch.cpu, "_is_amx_tile_supported", bool)() else "32"
    return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
