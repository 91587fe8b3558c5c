"""Which rows are in which step, and the rows themselves as torch tensors. Knows nothing of networks.

The order is a function of seed and epoch alone: a fit that begins in the middle of an epoch sees exactly the rows that
are left of it, whatever the number of processes.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from everloop.measure.pictures import Pictures
from everloop.measure.tensors import Tensors
from everloop.train import decoders

Places = npt.NDArray[np.int64]


def order(rows: int, *, seed: int, epoch: int) -> Places:
    """All rows once, shuffled anew in each epoch."""
    return np.random.default_rng((seed, epoch)).permutation(rows)


def steps(rows: int, batch_size: int) -> int:
    """Steps of one epoch. Their sizes differ by one row at most: no last step of a single row, which no batch
    normalisation takes.

    >>> steps(1_000, 64), steps(10, 64)
    (16, 1)
    """
    return max(1, -(-rows // batch_size))


def step_places(places: Places, step: int, count: int) -> Places:
    """The rows of one of ``count`` steps.

    >>> [len(step_places(np.arange(10), step, 3)) for step in range(3)]
    [4, 3, 3]
    """
    size, longer = divmod(len(places), count)
    first = step * size + min(step, longer)
    return places[first : first + size + (step < longer)]


def of_rank(places: Places, rank: int, world: int) -> Places:
    """What one process takes of a step's rows."""
    return places if world == 1 else places[rank::world]


def parts(places: Places, most: int, at_least: int = 1) -> list[Places]:
    """A step's rows in parts of at most ``most``, of about one size, at least so many parts if there are rows."""
    count = max(1, min(len(places), max(at_least, -(-len(places) // most))))
    return [places] if count == 1 else [step_places(places, each, count) for each in range(count)]


class Source:
    """Rows as torch tensors on the device. Arrays are turned into tensors once; other columns when they are asked for.

    ``epochs``: how often each row will be asked for. Pictures whose decoding is worth it are decoded by other processes
    until the context ends.
    """

    def __init__(
        self, inputs: Tensors, target: npt.NDArray[Any], weights: npt.NDArray[Any] | None, device: Any, *,
        channels_last: bool = False, epochs: int = 1,
    ) -> None:  # fmt: skip
        self._device = device
        self._pinned = device.type == "cuda"
        self._channels_last = channels_last
        self._whole: dict[str, Any] = {}
        self._made: dict[str, Any] = {}
        for name, column in inputs.items():
            if isinstance(column, np.ndarray) and column.flags.writeable:  # not one that is mapped from a file
                self._whole[name] = self._placed(torch.from_numpy(np.ascontiguousarray(column)))
            else:
                self._made[name] = column
        self._target = self._placed(torch.from_numpy(target))
        self._weights = None if weights is None else self._placed(torch.from_numpy(weights.astype(np.float32)))
        self._epochs = epochs
        self._ahead = [each.ahead for each in self._made.values() if hasattr(each, "ahead")]

    @property
    def makes(self) -> bool:
        """Whether there is something to be made `ahead` of the step that asks for it."""
        return bool(self._ahead)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        with ExitStack() as ending:
            for column in self._made.values():
                whole = getattr(column, "whole", column)
                if isinstance(whole, Pictures):
                    ending.enter_context(decoders.helping(whole, self._epochs))
            yield

    def ahead(self, places: Places) -> None:
        """Begin with rows that will be asked for next."""
        for begin in self._ahead:
            begin(places)

    def batch(self, places: Places) -> tuple[Mapping[str, torch.Tensor], torch.Tensor, torch.Tensor | None]:
        """Inputs by name, target, weights (None: all alike)."""
        index = torch.from_numpy(places)
        found = {name: self._moved(tensor[index]) for name, tensor in self._whole.items()}
        for name, column in self._made.items():
            made = torch.from_numpy(column[places])
            found[name] = self._moved(made.pin_memory() if self._pinned else made)
        weights = None if self._weights is None else self._moved(self._weights[index])
        return found, self._moved(self._target[index]), weights

    def _placed(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.pin_memory() if self._pinned else tensor

    def _moved(self, tensor: torch.Tensor) -> torch.Tensor:
        if self._pinned:
            tensor = tensor.to(self._device, non_blocking=True)
        if tensor.dim() == 4:  # pictures come with channels last
            order = torch.channels_last if self._channels_last else torch.contiguous_format
            tensor = tensor.contiguous(memory_format=order)
        return tensor
