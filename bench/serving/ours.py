"""Our server as it is measured: a home with one package, everything that guards it on. Knows nothing of peers.

On: validation, prediction and request ids, a key for every request, a rate limit that is never reached, deadlines,
metrics, the prediction log. Off, as in the promise: TLS, tracing, the cache, the access log.
"""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
from bench.serving.contenders import Answers, message
from bench.serving.load import NUMBER
from bench.serving.models import Model
from bench.serving.processes import Server, free_port

from everloop.serve import keys
from everloop.testing.serving import ServedHome

LOOP = "bench"
KEY = {"keys": True}
RATE = {"limits": {"rate": "10000000/s"}}
IDS = {"request_ids": True}
ID_HEADER = {"x-request-id": "7f3c9a52-2f5e-4f7e-9a55-3d1f" + NUMBER.decode()}
URGENCY = {"x-everloop-deadline-ms": "20000", "x-everloop-priority": "normal"}


@dataclass(kw_only=True)
class Ours:
    """``settings`` as in ``[ENV.serve]``; ``headers`` go with each request; ``release`` are fields of the release."""

    name: str = "everloop"
    settings: Mapping[str, Any] = field(default_factory=lambda: {**KEY, **RATE, **IDS})
    headers: Mapping[str, str] = field(default_factory=lambda: {**ID_HEADER, **URGENCY})
    release: Mapping[str, Any] = field(default_factory=dict)
    processes: int = 1
    key: str = ""
    """Made with the home, sent with each request."""

    def why_not(self) -> str | None:
        return None

    def versions(self) -> dict[str, str]:
        names = ("everloop", "onnxruntime", "numpy", "msgspec", "httptools", "uvloop")
        return {name: metadata.version(name) for name in names}

    def home(self, model: Model, folder: Path) -> ServedHome:
        """Sealed and released."""
        root = folder / "-".join([*self.name.replace(",", "").split(), model.name])
        served = ServedHome(root, LOOP)
        served.seal(1, model.signature, graph=model.graph)
        served.release(1, **self.release)
        (root / "settings.json").write_text(json.dumps(self.settings))
        if self.settings.get("keys"):
            self.key = keys.add(served.home, "bench", now=time.time())
        return served

    @property
    def secure(self) -> bool:
        return "tls" in self.settings

    def command(self, served: ServedHome, port: int) -> list[str]:
        root = served.home.root
        return [
            sys.executable, "-m", "everloop.serve", "--home", str(root), "--loop", LOOP, "--port", str(port),
            "--settings", str(root / "settings.json"), "--processes", str(self.processes),
        ]  # fmt: skip

    def start(self, model: Model, folder: Path, pinned: Sequence[int]) -> Server:
        served = self.home(model, folder)
        port = free_port()
        taken = partial(_prediction, model.name)
        answers = Answers(model, self.messages(model), taken, self.name, secure=self.secure)
        command = self.command(served, port)
        return Server(self.name, command, port=port, folder=served.home.root, pinned=pinned, answers=answers)

    def messages(self, model: Model) -> list[bytes]:
        """The short form with named columns; an image as bytes behind the JSON of the Open Inference Protocol V2."""
        headers = {**self.headers, **({"x-api-key": self.key} if self.key else {})}
        if model.name == "cnn":
            return [_binary(model, row, headers) for row in model.rows]
        path = f"/predict/{LOOP}"
        return [message(path, msgspec.json.encode(named(model, row)), headers=headers) for row in model.rows]


def named(model: Model, row: Any) -> dict[str, Any]:
    """A row in the short form: columns by name."""
    if model.name == "tabular":
        return dict(zip((column.name for column in model.signature.inputs), row.tolist(), strict=True))
    return {model.input: row.tolist()}


def _binary(model: Model, row: Any, headers: Mapping[str, str]) -> bytes:
    sent = row.tobytes()
    tensor = {"name": model.input, "shape": [1, *row.shape], "datatype": "FP32"}
    head = msgspec.json.encode({"inputs": [{**tensor, "parameters": {"binary_data_size": len(sent)}}]})
    headers = {**headers, "inference-header-content-length": str(len(head))}
    return message(f"/v2/models/{LOOP}/infer", head + sent, "application/octet-stream", headers=headers)


def _prediction(model: str, answer: Any) -> Any:
    if model == "cnn":
        return next(each["data"] for each in answer["outputs"] if each["name"] == "probability")
    return list(answer["probability"].values())
