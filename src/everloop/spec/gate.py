"""What a challenger must show before it may meet traffic. Compares nothing: that is ``gate.compare``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from everloop.errors import SpecError
from everloop.spec.conform import conform, within
from everloop.spec.taught import taught


def _slices(gate: NotWorse | Better) -> None:
    """A single name is a list of one; each slice once."""
    object.__setattr__(gate, "slices", (gate.slices,) if isinstance(gate.slices, str) else gate.slices)
    conform(gate)
    kind = type(gate).__name__
    if len(set(gate.slices)) < len(gate.slices):
        raise SpecError(f"{kind}.slices is {gate.slices}; name each column once.")
    if gate.slice_margin is not None and gate.slice_margin < 0:
        raise SpecError(f"{kind}.slice_margin is {gate.slice_margin:g}; write 0 or more.")


@taught
@dataclass(frozen=True, kw_only=True)
class NotWorse:
    """Shown not to be worse than the champion by ``margin`` (in the score's units), at level ``alpha``.

    A slice vetoes only when it is shown to be worse by more than ``slice_margin``. ``unsure``: what happens when the
    rows cannot tell: go on to shadow, keep the champion, or reject.
    """

    margin: float = 0.01
    slices: tuple[str, ...] = ()
    slice_margin: float | None = None
    unsure: Literal["shadow", "keep", "reject"] = "shadow"
    alpha: float = 0.05

    if TYPE_CHECKING:  # the short forms that people write

        def __init__(
            self,
            *,
            margin: float = 0.01,
            slices: str | Sequence[str] = (),
            slice_margin: float | None = None,
            unsure: Literal["shadow", "keep", "reject"] = "shadow",
            alpha: float = 0.05,
        ) -> None: ...

    def __post_init__(self) -> None:
        _slices(self)
        if self.margin <= 0:
            raise SpecError(
                f"NotWorse.margin is {self.margin:g}; write more than 0: no number of rows proves equality."
            )
        within(self.alpha, 0, 0.5, "NotWorse.alpha")


@taught
@dataclass(frozen=True, kw_only=True)
class Better:
    """Shown to be better than the champion by more than ``by`` (in the score's units)."""

    by: float = field(default=0.0, kw_only=False)
    slices: tuple[str, ...] = ()
    slice_margin: float | None = None
    alpha: float = 0.05

    if TYPE_CHECKING:  # the short forms that people write

        def __init__(
            self,
            by: float = 0.0,
            *,
            slices: str | Sequence[str] = (),
            slice_margin: float | None = None,
            alpha: float = 0.05,
        ) -> None: ...

    def __post_init__(self) -> None:
        _slices(self)
        if self.by < 0:
            raise SpecError(f"Better.by is {self.by:g}; write 0 or more, or use NotWorse(margin=…).")
        within(self.alpha, 0, 0.5, "Better.alpha")


Gate = NotWorse | Better
