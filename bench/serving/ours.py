"""Our server as it is measured: a home with one package, everything that guards it on. Knows nothing of peers.

On: validation, prediction and request ids, a key for every request, a rate limit that is never reached, deadlines,
metrics, the prediction log. Off, as in the promise: TLS, tracing, the cache, the access log.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
from bench.serving.contenders import checked, message, text_of
from bench.serving.models import Model
from bench.serving.processes import Server, free_port

from everloop.testing.serving import ServedHome

LOOP = "bench"
SETTINGS: dict[str, Any] = {"request_ids": True, "limits": {"rate": "10000000/s"}}
HEADERS = {
    "x_request_id": "7f3c9a52-2f5e-4f7e-9a55-3d1f4a0c8b11",
    "x_everloop_deadline_ms": "20000",
    "x_everloop_priority": "normal",
}


@dataclass(frozen=True, kw_only=True)
class Ours:
    """``settings`` as in ``[ENV.serve]``; ``headers`` go with each request; ``release`` are fields of the release."""

    name: str = "everloop"
    settings: dict[str, Any] = field(default_factory=lambda: dict(SETTINGS))
    headers: dict[str, str] = field(default_factory=lambda: dict(HEADERS))
    release: dict[str, Any] = field(default_factory=dict)
    processes: int = 1

    def why_not(self) -> str | None:
        return None

    def versions(self) -> dict[str, str]:
        names = ("everloop", "onnxruntime", "numpy", "msgspec", "httptools", "uvloop")
        return {name: metadata.version(name) for name in names}

    def home(self, model: Model, folder: Path) -> ServedHome:
        """Sealed and released, once a folder."""
        root = folder / f"{self.name.replace(' ', '-')}-{model.name}"
        served = ServedHome(root, LOOP)
        served.seal(1, model.signature, graph=model.graph)
        served.release(1, **self.release)
        (root / "settings.json").write_text(json.dumps(self.settings))
        return served

    def command(self, served: ServedHome, port: int) -> list[str]:
        root = served.home.root
        return [
            sys.executable, "-m", "everloop.serve", "--home", str(root), "--loop", LOOP, "--port", str(port),
            "--settings", str(root / "settings.json"), "--processes", str(self.processes),
        ]  # fmt: skip

    def start(self, model: Model, folder: Path, pinned: Sequence[int]) -> Server:
        served = self.home(model, folder)
        port = free_port()
        asks = checked(model, self.messages(model), _prediction, self.name)
        return Server(
            self.name, self.command(served, port), port=port, folder=served.home.root, pinned=pinned, asks=asks
        )

    def messages(self, model: Model) -> list[bytes]:
        path = f"/predict/{LOOP}"
        return [message(path, msgspec.json.encode(named(model, row)), **self.headers) for row in model.rows]


def named(model: Model, row: Any) -> dict[str, Any]:
    """A row in the short form: columns by name."""
    if model.name == "tabular":
        return dict(zip((column.name for column in model.signature.inputs), row.tolist(), strict=True))
    return {model.input: text_of(row) if model.name == "cnn" else row.tolist()}


def _prediction(answer: Any) -> Any:
    return list(answer["probability"].values())
