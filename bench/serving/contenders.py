"""Every server that is measured: how it is started, asked and understood. Knows nothing of figures.

Each serves the same graphs with one thread of ONNX Runtime, in the form of request that is natural to it and cheap for
it. Its `Answers` are held against the graph's own before it is measured.
"""

import base64
import http.client
import json
import os
import ssl
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
import onnxruntime
from bench.serving.models import Model
from bench.serving.processes import Server, free_port

ROOT = Path(__file__).resolve().parents[2]
PEERS = ROOT / "bench" / "peers"
CHECKED_ROWS = 16


class Contender(Protocol):
    """``name`` as it stands in the table."""

    @property
    def name(self) -> str: ...

    def why_not(self) -> str | None:
        """Why it cannot be started here; None: it can."""
        ...

    def versions(self) -> dict[str, str]: ...

    def start(self, model: Model, folder: Path, pinned: Sequence[int]) -> Server:
        """Started and answering correctly. Raises RuntimeError."""
        ...

    def messages(self, model: Model) -> list[bytes]:
        """One whole HTTP request for each of the model's rows."""
        ...


def message(
    path: str, body: bytes, kind: str = "application/json", *, headers: Mapping[str, str] | None = None
) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    head = f"POST {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: {kind}\r\n{lines}content-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def text_of(row: Any) -> str:
    """An image as base64 of its float32 bytes."""
    return base64.b64encode(np.ascontiguousarray(row, np.float32).tobytes()).decode()


def ask(port: int, sent: bytes, *, secure: bool = False, timeout: float = 20.0) -> tuple[int, bytes]:
    """Send a whole request as it is; the status and the body of its answer. Any certificate is taken."""
    head, _, body = sent.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    method, path, _ = lines[0].split(" ")
    connection: http.client.HTTPConnection
    if secure:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=timeout, context=context)
    else:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(method, path, body, dict(line.split(": ", 1) for line in lines[1:]))
        answer = connection.getresponse()
        return answer.status, answer.read()
    except http.client.HTTPException as error:
        raise ConnectionError(str(error)) from error
    finally:
        connection.close()


class Answers:
    """What a server has to answer. ``taken``: the probabilities in an answer's JSON."""

    def __init__(
        self, model: Model, sent: Sequence[bytes], taken: Callable[[Any], Any], name: str, *, secure: bool = False
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(model.graph, options, providers=["CPUExecutionProvider"])
        self._expected = session.run(["prediction"], {model.input: model.rows[:CHECKED_ROWS]})[0]
        self._sent = sent
        self._taken = taken
        self._name = f"{name} on {model.name}"
        self._secure = secure

    def begin(self, port: int) -> bool:
        """Whether it answers the first row yet. Raises RuntimeError when it answers wrongly."""
        return self._asked(port, 0)

    def check(self, port: int) -> None:
        """Ask for the others. Raises RuntimeError when it answers otherwise than the graph does."""
        for number in range(len(self._expected)):
            if not self._asked(port, number):
                raise RuntimeError(f"{self._name} answered and does not any more")

    def _asked(self, port: int, number: int) -> bool:
        status, body = ask(port, self._sent[number], secure=self._secure)
        if status in (404, 502, 503) or (status == 400 and b"not ready" in body):
            return False  # it listens and is not ready
        if status != 200:
            raise RuntimeError(f"{self._name} answers {status}: {body[:500]!r}")
        found, want = np.asarray(self._taken(json.loads(body)), float).ravel(), self._expected[number]
        if found.shape != want.shape or not np.allclose(found, want, rtol=1e-3, atol=1e-5):
            raise RuntimeError(f"{self._name} answers {found} to row {number}; the graph says {want}")
        return True


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A server of somebody else, in an environment of its own (`make bench-peers`)."""

    name: str
    environment: str
    packages: tuple[str, ...]
    command: Callable[["Peer", Model, int, Path], list[str]]
    body: Callable[[Model, Any], tuple[bytes, str]]
    taken: Callable[[Any], Any]
    path: str = "/predict"
    cores: int = 1
    says: str = ""
    """Its settings, in words."""

    @property
    def python(self) -> Path:
        # Not resolved: the link is what makes it that environment's interpreter.
        return Path(os.environ.get("BENCH_PEERS", ROOT / ".venv-bench")) / self.environment / "bin" / "python"

    def program(self, name: str) -> str:
        return str(self.python.with_name(name))

    def why_not(self) -> str | None:
        if not self.python.exists():
            return f"it is not installed; `make bench-peers` makes {self.environment}"
        return None

    def versions(self) -> dict[str, str]:
        code = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
        command = [str(self.python), "-c", code, *self.packages]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return dict(zip(self.packages, said.split(), strict=True))

    def messages(self, model: Model) -> list[bytes]:
        return [message(self.path, *self.body(model, row)) for row in model.rows]

    def start(self, model: Model, folder: Path, pinned: Sequence[int]) -> Server:
        port = free_port()
        own = folder / f"{self.name.replace(' ', '-')}-{model.name}"
        own.mkdir(exist_ok=True)
        path = folder / f"{model.name}.onnx"
        if not path.exists():
            path.write_bytes(model.graph)
        variables = {
            "MODEL": str(path), "KIND": model.name, "PORT": str(port), "LARGEST": "256" if model.name == "tabular" else "16",
            "PYTHONPATH": str(PEERS), "OMP_NUM_THREADS": "1", "BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": str(own),
            "HOME": str(own), "NO_COLOR": "1", "WORKERS": str(self.cores),
        }  # fmt: skip
        answers = Answers(model, self.messages(model), self.taken, self.name)
        command = self.command(self, model, port, own)
        return Server(self.name, command, port=port, folder=own, environment=variables, pinned=pinned, answers=answers)


def _plain(model: Model, row: Any) -> tuple[bytes, str]:
    """``{"x": …}``: a list of numbers or tokens, or an image as base64."""
    return msgspec.json.encode({"x": text_of(row) if model.name == "cnn" else row.tolist()}), "application/json"


def _raw(model: Model, row: Any) -> tuple[bytes, str]:
    return (row.tobytes(), "application/octet-stream") if model.name == "cnn" else _plain(model, row)


def _many(model: Model, row: Any) -> tuple[bytes, str]:
    return msgspec.json.encode({"x": [text_of(row) if model.name == "cnn" else row.tolist()]}), "application/json"


def _v2(model: Model, row: Any) -> tuple[bytes, str]:
    datatype = {"tabular": "FP64", "cnn": "BYTES", "transformer": "INT64"}[model.name]
    data, shape = ([text_of(row)], [1, 1]) if model.name == "cnn" else (row.tolist(), [1, *row.shape])
    one = {"name": model.input, "datatype": datatype, "shape": shape, "data": data}
    return msgspec.json.encode({"inputs": [one]}), "application/json"


def _uvicorn(peer: Peer, model: Model, port: int, folder: Path) -> list[str]:
    return [
        peer.program("uvicorn"), "fastapi_server:app", "--host", "127.0.0.1", "--port", str(port), "--loop", "uvloop",
        "--http", "httptools", "--no-access-log", "--log-level", "warning", "--workers", str(peer.cores),
    ]  # fmt: skip


def _litserve(peer: Peer, model: Model, port: int, folder: Path) -> list[str]:
    return [str(peer.python), str(PEERS / "litserve_server.py")]


def _mlserver(peer: Peer, model: Model, port: int, folder: Path) -> list[str]:
    settings = {
        "host": "127.0.0.1", "http_port": port, "grpc_port": free_port(), "metrics_port": free_port(), "debug": False,
        "parallel_workers": 0 if peer.cores == 1 else peer.cores,
    }  # fmt: skip
    served = {
        "name": "model", "implementation": "mlserver_server.Graph", "max_batch_time": 0.002,
        "max_batch_size": 256 if model.name == "tabular" else 16,
        "parameters": {"uri": str(folder.parent / f"{model.name}.onnx")},
    }  # fmt: skip
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(served))
    return [peer.program("mlserver"), "start", str(folder)]


def _bentoml(peer: Peer, model: Model, port: int, folder: Path) -> list[str]:
    return [
        peer.program("bentoml"), "serve", "bentoml_server:Graph", "--host", "127.0.0.1", "--port", str(port),
        "--working-dir", str(PEERS),
    ]  # fmt: skip


def _prediction(answer: Any) -> Any:
    return answer["prediction"]


FASTAPI = Peer(
    name="FastAPI", environment="fastapi", packages=("fastapi", "uvicorn", "uvloop", "onnxruntime"), command=_uvicorn,
    body=_raw, taken=_prediction, says="async def, uvloop, httptools; an image as raw float32",
)  # fmt: skip
MLSERVER = Peer(
    name="MLServer", environment="mlserver", packages=("mlserver", "fastapi", "uvicorn", "onnxruntime"),
    command=_mlserver, body=_v2, path="/v2/models/model/infer",
    taken=lambda answer: next(o["data"] for o in answer["outputs"] if o["name"] == "prediction"),
    says="in-process runtime, max_batch_size 256 (16), max_batch_time 2 ms; an image as base64",
)  # fmt: skip
LITSERVE = Peer(
    name="LitServe", environment="litserve", packages=("litserve", "fastapi", "uvicorn", "onnxruntime"),
    command=_litserve, body=_plain, taken=_prediction,
    says="one worker, max_batch_size 256 (16), batch_timeout 1 ms; an image as base64",
)  # fmt: skip
BENTOML = Peer(
    name="BentoML", environment="bentoml", packages=("bentoml", "starlette", "uvicorn", "onnxruntime"),
    command=_bentoml, body=_many, taken=lambda answer: answer,
    says="one worker, batchable, max_batch_size 256 (16), no access log or metrics; an image as base64",
)  # fmt: skip
EACH = (FASTAPI, MLSERVER, LITSERVE, BENTOML)


def twice(peer: Peer) -> Peer:
    """With two workers, by the peer's own means."""
    return replace(peer, name=f"{peer.name}, 2 workers", cores=2)
