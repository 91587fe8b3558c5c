"""Whether a network's calls are compiled: as declared, as remembered, or as the first steps show. Trains nothing."""

from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from everloop.errors import TrainError

LOOK = 8
"""So many steps of each way are measured."""
WORTH_SECONDS = 120.0
"""Compiling takes some ten to sixty seconds: a fit that would be over by then is left alone."""


class Compiled:
    """``choice``: on, off, or auto. ``keep`` is told what was found, for the next fit."""

    def __init__(self, choice: str, keep: Callable[[bool, str], None]) -> None:
        self._on = choice == "on"
        self._open = choice == "auto"
        self._must = choice == "on"
        self._keep = keep
        self._plain: list[float] = []
        self._fast: list[float] = []

    def called(self, wrapped: Any) -> Any:
        """What is called in place of the network."""
        return torch.compile(wrapped) if self._on else wrapped

    def after(self, seconds: float, left: int) -> bool:
        """Told what a step took and how many are left; whether `called` gives something else from now on."""
        if not self._open:
            return False
        if not self._on:
            self._plain.append(seconds)
            if len(self._plain) < LOOK:
                return False
            if median(self._plain) * left < WORTH_SECONDS:
                self._open = False
                return False
            self._on = True
            return True
        self._fast.append(seconds)
        if len(self._fast) <= LOOK:
            return False
        before, now = median(self._plain), median(self._fast[1:])
        self._open, self._on = False, now < before
        self._keep(self._on, f"compiled steps take {now / before:.2f} of what plain ones take")
        return not self._on

    def failed(self, error: Exception) -> bool:
        """Whether compiling is what failed, so that the step is to be done again without it."""
        if not self._on or not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            return False
        if self._must:
            raise TrainError(
                f"Torch.compile is 'on', and the network cannot be compiled here ({type(error).__name__}: "
                f'{(str(error).splitlines() or [""])[0]:.200}); write compile="auto".'
            ) from error
        self._open = self._on = False
        self._keep(False, "the network cannot be compiled here")
        return True
