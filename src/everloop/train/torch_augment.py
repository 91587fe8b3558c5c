"""Augmentation of a batch on the device, each row by itself. Draws from torch's generator, which every step seeds anew.

All rows at once: torchvision's transforms change a whole batch in one way, or are called row by row.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from everloop.errors import TrainError
from everloop.forms import Special
from everloop.spec import augment
from everloop.spec.augment import Augmentation

Inputs = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Mixed:
    """The loss is ``share`` of that of a row's own label, and the rest of that of the row ``other``."""

    share: float
    other: torch.Tensor


def augmented(
    declared: Sequence[Augmentation], inputs: Inputs, special: Mapping[str, Special]
) -> tuple[dict[str, torch.Tensor], Mixed | None]:
    """Inputs as the network sees them in training. Raises TrainError where there is nothing to be augmented.

    ``special``: of tokens which ids are no words; those of `everloop.forms.Special` where it says nothing.
    """
    found, mixed = dict(inputs), None
    for each in declared:
        names = _names(each, found)
        if isinstance(each, augment.MixUp):
            found, mixed = _mixup(each, found, names)
        elif isinstance(each, augment.CutMix):
            found, mixed = _cutmix(each, found, names)
        elif isinstance(each, augment.TokenDropout):
            for name in names:
                found[name] = _dropout(each, found[name], special.get(name, Special()))
        elif isinstance(each, augment.TokenSwap):
            for name in names:
                found[name] = _swap(each, found[name], special.get(name, Special()))
        else:
            for name in names:
                found[name] = _CHANGES[type(each)](each, found[name])
    return found, mixed


def _names(each: Augmentation, inputs: Inputs) -> tuple[str, ...]:
    of_tokens = isinstance(each, augment.TokenDropout | augment.TokenSwap)
    fitting = tuple(
        name
        for name, tensor in inputs.items()
        if (tensor.dim() == 2 and tensor.dtype == torch.int64 if of_tokens else tensor.dim() == 4)
    )
    strange = [name for name in each.features if name not in fitting]
    if strange or not fitting:
        kind = "tokens" if of_tokens else "images"
        raise TrainError(
            f"augment.{type(each).__name__} is for {kind}, and {f'{strange[0]!r} is none' if strange else 'there are none'}; "
            f"features of {kind} are {', '.join(fitting) or 'none'}."
        )
    return each.features or fitting


# Images [rows, channels, height, width]


def _flip(each: augment.Flip, images: torch.Tensor) -> torch.Tensor:
    chosen = torch.rand(len(images), device=images.device) < each.share
    return torch.where(_wide(chosen), images.flip(3 if each.axis == "horizontal" else 2), images)


def _rotate(each: augment.Rotate, images: torch.Tensor) -> torch.Tensor:
    angle = _uniform(images, math.radians(each.degrees))
    ratio = images.shape[3] / images.shape[2]  # the grid is a square whatever the image is
    sine, cosine, nothing = angle.sin(), angle.cos(), torch.zeros_like(angle)
    turned = [torch.stack([cosine, -sine / ratio, nothing], 1), torch.stack([sine * ratio, cosine, nothing], 1)]
    return _moved(images, torch.stack(turned, 1))


def _crop(each: augment.Crop, images: torch.Tensor) -> torch.Tensor:
    rows = len(images)
    size = each.least + (1 - each.least) * torch.rand(rows, device=images.device)
    across, down = ((1 - size) * (2 * torch.rand(rows, device=images.device) - 1) for _ in range(2))
    nothing = torch.zeros_like(size)
    return _moved(
        images, torch.stack([torch.stack([size, nothing, across], 1), torch.stack([nothing, size, down], 1)], 1)
    )


def _moved(images: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    grid = functional.affine_grid(matrix.to(images.dtype), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _colour(each: augment.Colour, images: torch.Tensor) -> torch.Tensor:
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    deviation = images.std(dim=(1, 2, 3), keepdim=True)
    changed = (images - mean) * (1 + _wide(_uniform(images, each.contrast))) + mean
    changed = changed + deviation * _wide(_uniform(images, each.brightness))
    grey = changed.mean(dim=1, keepdim=True)
    return grey + (changed - grey) * (1 + _wide(_uniform(images, each.saturation)))


def _noise(each: augment.Noise, images: torch.Tensor) -> torch.Tensor:
    return images + each.deviation * torch.randn_like(images)


def _mixup(
    each: augment.MixUp, inputs: dict[str, torch.Tensor], names: Sequence[str]
) -> tuple[dict[str, torch.Tensor], Mixed]:
    share, other = _pairs(each.alpha, inputs[names[0]])
    mixed = {name: share * inputs[name] + (1 - share) * inputs[name][other] for name in names}
    return {**inputs, **mixed}, Mixed(share, other)


def _cutmix(
    each: augment.CutMix, inputs: dict[str, torch.Tensor], names: Sequence[str]
) -> tuple[dict[str, torch.Tensor], Mixed]:
    """One rectangle for the whole batch, so that the labels' shares are the same in all rows."""
    share, other = _pairs(each.alpha, inputs[names[0]])
    mixed = dict(inputs)
    height, width = inputs[names[0]].shape[2:]
    high, wide = (max(1, round(side * math.sqrt(1 - share))) for side in (height, width))
    top, left = (int(torch.randint(0, side - part + 1, ())) for side, part in ((height, high), (width, wide)))
    for name in names:
        changed = inputs[name].clone()
        changed[:, :, top : top + high, left : left + wide] = inputs[name][
            other, :, top : top + high, left : left + wide
        ]
        mixed[name] = changed
    return mixed, Mixed(1 - high * wide / (height * width), other)


def _pairs(alpha: float, images: torch.Tensor) -> tuple[float, torch.Tensor]:
    """The share of a row's own, and which row is mixed in."""
    drawn = torch._sample_dirichlet(torch.tensor([alpha, alpha], dtype=torch.float64))[0].item()
    return max(drawn, 1 - drawn), torch.randperm(len(images)).to(images.device)


# Tokens int64 [rows, length]


def _words(tokens: torch.Tensor, special: Special) -> torch.Tensor:
    return ~torch.isin(tokens, torch.tensor(special.all, device=tokens.device))


def _dropout(each: augment.TokenDropout, tokens: torch.Tensor, special: Special) -> torch.Tensor:
    chosen = (torch.rand(tokens.shape, device=tokens.device) < each.share) & _words(tokens, special)
    return tokens.masked_fill(chosen, special.unknown)


def _swap(each: augment.TokenSwap, tokens: torch.Tensor, special: Special) -> torch.Tensor:
    """Places that are exchanged never touch one another, so that every token stays."""
    length = tokens.shape[1]
    if length < 2:
        return tokens
    chosen = torch.rand((len(tokens), length - 1), device=tokens.device) < each.share
    words = _words(tokens, special)
    chosen &= words[:, 1:] & words[:, :-1]
    chosen[:, 1:] &= ~chosen[:, :-1].clone()
    place = torch.arange(length, device=tokens.device).expand_as(tokens).clone()
    ahead = functional.pad(chosen, (0, 1)).long()
    behind = functional.pad(chosen, (1, 0)).long()
    return tokens.gather(1, place + ahead - behind)


def _uniform(images: torch.Tensor, most: float) -> torch.Tensor:
    return most * (2 * torch.rand(len(images), device=images.device) - 1)


def _wide(each: torch.Tensor) -> torch.Tensor:
    return each.view(-1, 1, 1, 1)


_CHANGES: dict[type, Callable[[Any, torch.Tensor], torch.Tensor]] = {
    augment.Flip: _flip, augment.Rotate: _rotate, augment.Crop: _crop, augment.Colour: _colour, augment.Noise: _noise,
}  # fmt: skip
