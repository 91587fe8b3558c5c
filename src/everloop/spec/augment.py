"""What is done to training rows so that a network learns what does not matter (users see ``el.augment``). Does nothing.

Only training rows, anew in each epoch, by the fit's seed: never what is tested, proved or served. Each applies to every
image (or every text of tokens) among the features unless ``features`` names some.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from everloop.errors import SpecError
from everloop.spec.conform import conform, within
from everloop.spec.taught import taught


def _above(value: float, where: str) -> None:
    if value <= 0:
        raise SpecError(f"{where} is {value:g}; write more than 0.")


@taught
@dataclass(frozen=True, kw_only=True)
class Flip:
    """Mirror a share of the images."""

    share: float = 0.5
    axis: Literal["horizontal", "vertical"] = "horizontal"
    features: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        conform(self)
        within(self.share, 0, 1, "augment.Flip.share")


@taught
@dataclass(frozen=True, kw_only=True)
class Rotate:
    """Turn each image by up to so many degrees either way; what comes in from outside is the nearest edge."""

    degrees: float = 15.0
    features: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        conform(self)
        _above(self.degrees, "augment.Rotate.degrees")


@taught
@dataclass(frozen=True, kw_only=True)
class Crop:
    """Cut a part of each image out, with ``least`` to all of its sides' lengths, at any place, and enlarge it again."""

    least: float = 0.75
    features: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        conform(self)
        within(self.least, 0, 1, "augment.Crop.least")


@taught
@dataclass(frozen=True, kw_only=True)
class Colour:
    """Change brightness, contrast and saturation of each image by up to these shares, either way.

    Contrast is around the image's mean, brightness in its standard deviations, saturation between grey and itself.
    """

    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    features: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        conform(self)
        for name in ("brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) <= 1:
                raise SpecError(f"augment.Colour.{name} is {getattr(self, name):g}; write 0 to 1.")


@taught
@dataclass(frozen=True, kw_only=True)
class Noise:
    """Add normal noise of this standard deviation to the values that the network sees."""

    deviation: float = 0.05
    features: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        conform(self)
        _above(self.deviation, "augment.Noise.deviation")


@taught
@dataclass(frozen=True, kw_only=True)
class MixUp:
    """Lay two images over each other, with the loss of both labels in the same shares (Zhang et al., 2018).

    The share of one is drawn from Beta(``alpha``, ``alpha``). Columns and tokens stay those of the first.
    """

    alpha: float = 0.2
    features: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        conform(self)
        _above(self.alpha, "augment.MixUp.alpha")


@taught
@dataclass(frozen=True, kw_only=True)
class CutMix:
    """Put a rectangle of another image in, with the loss of both labels by area (Yun et al., 2019)."""

    alpha: float = 1.0
    features: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        conform(self)
        _above(self.alpha, "augment.CutMix.alpha")


@taught
@dataclass(frozen=True, kw_only=True)
class TokenDropout:
    """Make this share of a text's tokens unknown."""

    share: float = 0.1
    features: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        conform(self)
        within(self.share, 0, 1, "augment.TokenDropout.share")


@taught
@dataclass(frozen=True, kw_only=True)
class TokenSwap:
    """Exchange this share of a text's tokens with the one after them."""

    share: float = 0.05
    features: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        conform(self)
        within(self.share, 0, 1, "augment.TokenSwap.share")


Augmentation = Flip | Rotate | Crop | Colour | Noise | MixUp | CutMix | TokenDropout | TokenSwap
