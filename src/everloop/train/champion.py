"""A champion's weights and encoding, for a fit that begins with them. Knows nothing of releases. Imports no torch itself."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from everloop.records import Encoding, encode

WEIGHTS, TABLE = "network.pt", "network.json"


@dataclass(frozen=True, kw_only=True)
class Champion:
    folder: Path
    encoding: Encoding

    def state(self) -> dict[str, Any]:
        """By parameter name, on the processor."""
        import torch

        found: dict[str, Any] = torch.load(self.folder / WEIGHTS, map_location="cpu", weights_only=True)
        return found


def leave(folder: Path, fitted: Any, encoding: Encoding) -> None:
    """Keep what a later fit may begin with, if the model is a network."""
    if fitted.kind != "torch":
        return
    import torch

    torch.save(fitted.model.module.state_dict(), folder / WEIGHTS)
    (folder / TABLE).write_bytes(encode(encoding))


def read(folder: Path | None) -> Champion | None:
    """None where nothing was left: another kind of model, or a candidate that was thrown away."""
    if folder is None or not (folder / WEIGHTS).exists() or not (folder / TABLE).exists():
        return None
    return Champion(folder=folder, encoding=msgspec.json.decode((folder / TABLE).read_bytes(), type=Encoding))


def fits(encoding: Encoding, learned: Encoding) -> bool:
    """Whether rows encoded as the champion's were can be taken for these: the same features of the same types."""
    return encoding.network and [(each.name, each.type) for each in encoding.features] == [
        (each.name, each.type) for each in learned.features
    ]
