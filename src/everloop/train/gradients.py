"""What each column, pixel and token brought to one answer of a network, by its own gradients. Trains and opens nothing.

Integrated gradients (Sundararajan, Taly and Yan, 2017) by captum: gradients are summed up on the straight way from where
nothing is said to the row, so that all contributions together are the answer less what it is there. Where nothing is said:
the columns of other rows (the mean over them, as Shapley's values have it), an image of its own mean colour, an unknown
token in the place of each. Loaded only to explain a network.
"""

import dataclasses
import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from captum.attr import LayerIntegratedGradients

from everloop.errors import TrainError
from everloop.forms import Special
from everloop.measure.encode import COLUMNS
from everloop.measure.tensors import Tensors
from everloop.spec.torch import Torch
from everloop.train.torch_build import build
from everloop.train.torch_forward import forward, said

STEPS, MOST_STEPS = 64, 1024
"""Points of a way, doubled until the contributions add up."""
ADDS_UP, NEAR = 0.005, 0.001
"""What they may miss, as a share of what they explain, and on the scale of the answer where that is more."""
BESIDE, BESIDE_WHOLES = 40, 8
"""Other rows, where a network takes columns alone, and where it takes images or tokens as well."""
ROWS_AT_ONCE = 256

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Brought:
    """``base`` and all ``shares`` are ``total``, but for ``gap``, which the sums over steps miss."""

    base: float
    total: float
    gap: float
    shares: dict[str, Numbers]
    """By tensor: columns [width], an image's pixels [height, width], tokens [length]."""


def again(
    declared: Torch, weights: bytes, like: Tensors, *, outputs: int, source: Path, folder: Path | None
) -> Any:  # fmt: skip
    """The network as it was trained: the declared module with the weights that were kept. Raises `TrainError`.

    ``like``: rows as it takes them; ``outputs``: how many classes, or 1. For the rest see `everloop.train.torch_build.build`.
    """
    declared = dataclasses.replace(declared, adapt=None)  # what stood beside the weights is within them
    module = build(declared, like, outputs, seed=0, source=source, folder=folder)
    try:
        module.load_state_dict(torch.load(io.BytesIO(weights), map_location="cpu", weights_only=True))
    except RuntimeError as error:
        raise TrainError(
            f"the weights that were kept do not fit the network as it is declared: {said(error)}."
        ) from error
    return module


def brought(module: Any, row: Tensors, others: Tensors, *, place: int | None) -> Brought:
    """What speaks for class ``place``, in log odds; for the one number that there is where it is None.

    ``row``: one row as the network takes it; ``others``: rows as they usually are. Raises `TrainError` for a
    network whose gradients tell nothing.
    """
    whole = _Whole(module.float().cpu().eval(), tuple(row.shapes), place)
    wholes = [name for name in row.shapes if name != COLUMNS]
    count = min(others.rows, BESIDE_WHOLES if wholes else BESIDE) if COLUMNS in row.shapes else 1
    own = {name: torch.from_numpy(each) for name, each in row.batch(np.zeros(count, np.int64)).items()}
    usual = {name: _usual(name, each, row.special, others, count) for name, each in own.items()}
    layers = whole.layers(own)
    ids, plain = tuple(own.values()), tuple(usual.values())
    try:
        total = float(whole(*ids)[0].detach())
        with whole.instead(layers, plain):  # not the network's answer to them: what is padded stays so
            base = float(whole(*ids).mean().detach())
        steps = STEPS
        while True:
            found = _integrated(whole, layers, ids, plain, steps)
            gap = total - base - float(sum(each.sum() for each in found))
            if abs(gap) <= max(NEAR, ADDS_UP * abs(total - base)) or steps >= MOST_STEPS:
                break
            steps *= 2
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        raise TrainError(f"the network's gradients cannot be taken: {said(error)}.") from error
    return Brought(base=base, total=total, gap=gap, shares=dict(zip(own, found, strict=True)))


def _integrated(whole: Any, layers: list[Any], ids: Any, plain: Any, steps: int) -> list[Numbers]:
    """By tensor, the mean over the rows beside."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that layers must not follow one another: they stand side by side
        ways = LayerIntegratedGradients(whole, layers)
    found = ways.attribute(ids, baselines=plain, n_steps=steps, internal_batch_size=max(ROWS_AT_ONCE, len(ids[0])))
    return [_summed(each.detach().double().mean(dim=0)) for each in found]


def _summed(shares: torch.Tensor) -> Numbers:
    """Over the colours of a pixel, or the width of a token's vector."""
    if shares.dim() == 3:
        shares = shares.sum(dim=0)
    elif shares.dim() == 2:
        shares = shares.sum(dim=1)
    made: Numbers = shares.numpy()
    return made


def _usual(name: str, own: torch.Tensor, special: Mapping[str, Special], others: Tensors, count: int) -> torch.Tensor:
    if name == COLUMNS:
        places = np.unique(np.linspace(0, others.rows - 1, count).astype(np.int64))
        return torch.from_numpy(others.batch(places)[COLUMNS])
    if own.dtype == torch.int64:
        each = special.get(name, Special())
        word = ~torch.isin(own, torch.tensor(each.all))
        return torch.where(word, torch.full_like(own, each.unknown), own)
    return own.mean(dim=(2, 3), keepdim=True).expand_as(own).clone()


class _Whole(torch.nn.Module):  # type: ignore[misc]
    """The network with a layer before each of its tensors of numbers, so that all of them are layers to captum."""

    def __init__(self, module: Any, names: tuple[str, ...], place: int | None) -> None:
        super().__init__()
        self.module, self.names, self.place = module, names, place
        self.doors = torch.nn.ModuleList(torch.nn.Identity() for _ in names)

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        """[rows]."""
        batch = {
            name: door(each) if each.is_floating_point() else each
            for name, door, each in zip(self.names, self.doors, tensors, strict=True)
        }
        answer = forward(self.module, batch).reshape(len(tensors[0]), -1)
        if self.place is None:
            return answer[:, 0]
        if answer.shape[1] == 1:  # the log odds of the second of two classes
            return answer[:, 0] if self.place == 1 else -answer[:, 0]
        rest = [column for column in range(answer.shape[1]) if column != self.place]
        return answer[:, self.place] - torch.logsumexp(answer[:, rest], dim=1)

    def layers(self, own: Mapping[str, torch.Tensor]) -> list[Any]:
        """What stands for each tensor: its door, or the embedding that looks its tokens up."""
        return [
            door if each.is_floating_point() else self._embedding(name, own)
            for door, (name, each) in zip(self.doors, own.items(), strict=True)
        ]

    def _embedding(self, name: str, own: Mapping[str, torch.Tensor]) -> Any:
        asked: list[Any] = []

        def look(module: Any, given: tuple[Any, ...]) -> None:
            if given and torch.is_tensor(given[0]) and torch.equal(given[0], own[name]):
                asked.append(module)

        tables = [each for each in self.module.modules() if isinstance(each, torch.nn.Embedding)]
        hooks = [each.register_forward_pre_hook(look) for each in tables]
        try:
            with torch.no_grad():
                self(*own.values())
        finally:
            for each in hooks:
                each.remove()
        if len(asked) != 1:
            raise TrainError(
                f"the tokens of {name!r} are looked up {len(asked)} times in a torch.nn.Embedding; once is what gradients "
                "can be told apart by."
            )
        return asked[0]

    @contextmanager
    def instead(self, layers: list[Any], plain: tuple[torch.Tensor, ...]) -> Iterator[None]:
        """Each layer answers what it says of ``plain``, whatever it is given."""

        def answering(given: torch.Tensor) -> Any:
            return lambda module, _, answer: module.forward(given)

        hooks = [layer.register_forward_hook(answering(each)) for layer, each in zip(layers, plain, strict=True)]
        try:
            yield
        finally:
            for each in hooks:
                each.remove()
