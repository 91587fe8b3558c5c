"""What code in a job sees of the place where it runs. Knows no executor."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from everloop.records import encode

PROGRESS = "progress.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    folder: Path
    """Where results may be left for whoever started the job."""
    attempt: int = 0
    """0 the first time, then 1, 2, … after failures."""
    rank: int = 0
    world: int = 1
    """Processes that do this job together."""

    @property
    def checkpoints(self) -> Path:
        """A folder that later attempts find again."""
        path = self.folder / "checkpoints"
        path.mkdir(exist_ok=True)
        return path

    def progress(self, detail: dict[str, Any]) -> None:
        """Tell how far the job is; small, JSON. Of processes that do it together the first one tells."""
        if self.rank != 0:
            return
        line = encode(detail) + b"\n"
        descriptor = os.open(self.folder / PROGRESS, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(descriptor, line)  # One write: lines of several processes do not mix.
        finally:
            os.close(descriptor)
