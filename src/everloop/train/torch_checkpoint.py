"""Keeps a fit's state so that another process can go on with it. Knows nothing of what is in it.

A checkpoint is whole or it is not there: written beside, forced to disk, renamed into place.
"""

import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch


class Checkpoints:
    """One state under ``folder``, of the fit that ``identity`` names: what another fit left is not taken."""

    def __init__(self, folder: Path | None, identity: str, every: timedelta) -> None:
        self._path = None if folder is None else folder / f"{identity[:32]}.pt"
        self._identity = identity
        self._every = every.total_seconds()
        self._last = time.monotonic()

    @property
    def kept(self) -> bool:
        return self._path is not None

    def due(self) -> bool:
        return self._path is not None and time.monotonic() - self._last >= self._every

    def save(self, state: dict[str, Any]) -> None:
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        beside = self._path.with_suffix(f".{os.getpid()}")
        with beside.open("wb") as file:
            torch.save({"identity": self._identity, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self._path)
        self._last = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """The last state of this very fit, or None."""
        if self._path is None or not self._path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(self._path, map_location="cpu", weights_only=True)
        except Exception:  # a damaged disk: beginning again is what helps
            return None
        return state if state.get("identity") == self._identity else None

    def forget(self) -> None:
        """The fit has ended: its result says all."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
