"""Networks for tests of several processes, which import them by name."""

import os
from typing import Any

import torch

from tiny_nets import Net


class Starved(Net):
    """In the second of two processes memory holds six rows of it."""

    def forward(self, columns: torch.Tensor) -> Any:
        if os.environ.get("RANK") == "1" and len(columns) > 6 and self.training:
            raise torch.OutOfMemoryError("made")
        return super().forward(columns)
