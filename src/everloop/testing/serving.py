"""A home with small packages made by hand and a real server over it: for tests of the server and of its clients.

Nothing here is trained: a graph answers ``sigmoid(sum of its inputs + bias)``, so that a test can say what the answer
must be, and which version gave it.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import httptools
import numpy as np
from onnx import TensorProto, helper, numpy_helper

from everloop.records import MISSING_INTEGER, InputColumn, Signature, TensorColumn, encode
from everloop.serve.live import Live
from everloop.serve.model import Model
from everloop.serve.releases import ReleaseFile, Served
from everloop.store import packages, segments
from everloop.store.files import write_atomically
from everloop.store.home import Home

FAILS_ABOVE = 1e6
"""A graph made with ``fails=True`` cannot answer a row whose first number is larger."""
KINDS = {"numbers": ("number",), "integers": ("integer", "boolean", "instant"), "texts": ("text",)}
PATIENCE = 60.0
ELEMENTS = {"FP64": "DOUBLE", "FP32": "FLOAT", "FP16": "FLOAT16"}
"""V2's name of a datatype → ONNX's, where they differ."""


def signature_of(columns: Mapping[str, str], **changes: Any) -> Signature:
    """A binary signature of ``columns`` (name → type).

    "instant:America/Chicago" is one with a zone, "FP32[3,64,64]" a tensor.
    """
    inputs = []
    tensors = []
    places = dict.fromkeys(KINDS, 0)
    for name, written in columns.items():
        if written.endswith("]"):
            datatype, _, sizes = written[:-1].partition("[")
            shape = tuple(int(size) for size in sizes.split(","))
            tensors.append(TensorColumn(name=name, datatype=datatype, shape=shape))
            continue
        kind, _, zone = written.partition(":")
        packed = next(each for each, types in KINDS.items() if kind in types)
        inputs.append(InputColumn(name=name, type=kind, index=places[packed], time_zone=zone or None))  # type: ignore[arg-type]
        places[packed] += 1
    given: dict[str, Any] = {"task": "binary", "classes": (False, True), "positive": 1, **changes}
    return Signature(inputs=tuple(inputs), tensors=tuple(tensors), **given)


def graph_of(signature: Signature, *, bias: float = 0.0, fails: bool = False) -> bytes:
    """A graph for ``signature``: missing counts 0, a whole number its value, a text 1 when it is "yes".

    A tensor counts the sum of its values; an image (three sizes) is summed by a convolution as large as itself.
    """
    nodes: list[Any] = []
    inputs: list[Any] = []
    constants = {"zero": 0.0, "bias": bias, "one": 1.0, "half": 0.5, "limit": FAILS_ABOVE}
    tensors = [numpy_helper.from_array(np.array(value, np.float64), name) for name, value in constants.items()]
    axes = numpy_helper.from_array(np.array([1], np.int64), "axes")
    missing = numpy_helper.from_array(np.array(MISSING_INTEGER, np.int64), "missing")
    sums: list[str] = []

    def node(operation: str, taken: Sequence[str], made: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(operation, list(taken), [made], **attributes))
        return made

    for packed, types in KINDS.items():
        width = len(signature.of(*types))  # type: ignore[arg-type]
        if not width:
            continue
        element = {"numbers": TensorProto.DOUBLE, "integers": TensorProto.INT64, "texts": TensorProto.STRING}[packed]
        inputs.append(helper.make_tensor_value_info(packed, element, [None, width]))
        if packed == "numbers":
            lacking = node("IsNaN", [packed], "number_lacking")
            values = packed
        elif packed == "integers":
            lacking = node("Equal", [packed, "missing"], "integer_lacking")
            values = node("Cast", [packed], "integer_values", to=TensorProto.DOUBLE)
        else:
            codes = node(
                "LabelEncoder", [packed], "codes", domain="ai.onnx.ml",
                keys_strings=["yes"], values_int64s=[1], default_int64=0,
            )  # fmt: skip
            values = node("Cast", [codes], "text_values", to=TensorProto.DOUBLE)
            lacking = node("Less", [values, "zero"], "text_lacking")
        known = node("Where", [lacking, "zero", values], f"{packed}_known")
        sums.append(node("ReduceSum", [known, "axes"], f"{packed}_sum", keepdims=1))
    for column in signature.tensors:
        element = getattr(TensorProto, ELEMENTS.get(column.datatype, column.datatype))
        inputs.append(helper.make_tensor_value_info(column.name, element, [None, *column.shape]))
        values = column.name
        if len(column.shape) == 3:
            kernel = f"{column.name}_kernel"
            tensors.append(numpy_helper.from_array(np.ones((1, *column.shape), np.float32), kernel))
            as_float = node("Cast", [values], f"{column.name}_float", to=TensorProto.FLOAT)
            values = node("Conv", [as_float, kernel], f"{column.name}_convolved")
        flat = node("Flatten", [values], f"{column.name}_flat", axis=1)
        exact = node("Cast", [flat], f"{column.name}_exact", to=TensorProto.DOUBLE)
        sums.append(node("ReduceSum", [exact, "axes"], f"{column.name}_sum", keepdims=1))
    total = node("Sum", [*sums, "bias"], "total") if len(sums) else "bias"
    if fails:  # an index out of range for a row above the limit
        over = node("Greater", [sums[0], "limit"], "over")
        index = node("Cast", [over], "index", to=TensorProto.INT64)
        table = node("Unsqueeze", ["zero", "axes_of_table"], "table")
        tensors.append(numpy_helper.from_array(np.array([0], np.int64), "axes_of_table"))
        total = node("Add", [total, node("Gather", [table, index], "gathered")], "total_or_error")
    if signature.task == "regression":
        node("Identity", [total], "prediction")
    else:
        positive = node("Sigmoid", [total], "positive")
        negative = node("Sub", ["one", positive], "negative")
        node("Concat", [negative, positive], "prediction", axis=1)
        above = node("GreaterOrEqual", [positive, "half"], "above")
        node("Squeeze", [node("Cast", [above], "chosen", to=TensorProto.INT64), "axes"], "decision")
    outputs = [helper.make_tensor_value_info("prediction", TensorProto.DOUBLE, [None, len(signature.classes) or 1])]
    if signature.task != "regression":
        outputs.append(helper.make_tensor_value_info("decision", TensorProto.INT64, [None]))
    graph = helper.make_graph(nodes, "made", inputs, outputs, [*tensors, axes, missing])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString())


def live_of(signature: Signature) -> Live:
    """Version 1 of a made graph as it is served, without a server."""
    manifest = packages.Manifest(
        loop="made", created_at=datetime(2026, 1, 1, tzinfo=UTC), files={}, signature=signature
    )
    release = ReleaseFile(loop="made", revision=1, stage="steady", champion=Served(1, "f" * 64), epoch=1, salt="")
    return Live(release, Model("f" * 64, manifest, graph_of(signature)), None)


def expected(total: float) -> float:
    """The probability that a made graph gives for inputs and bias that sum up to ``total``."""
    return float(1.0 / (1.0 + np.exp(-total)))


class Client:
    """A keep-alive connection that sends what it is told and takes answers apart. Requests may be pipelined."""

    def __init__(self, port: int, *, timeout: float = PATIENCE) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._parser = httptools.HttpResponseParser(self)
        self._answers: list[tuple[int, bytes]] = []
        self._body: list[bytes] = []
        self.headers: dict[bytes, bytes] = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        self._answers.append((self._parser.get_status_code(), b"".join(self._body)))
        self._body = []

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answers(self, count: int) -> list[tuple[int, bytes]]:
        """The next ``count`` answers as (status, body); fewer when the server closes before."""
        while len(self._answers) < count:
            try:
                data = self.socket.recv(1 << 20)
            except ConnectionError:
                data = b""
            if not data:
                break
            self._parser.feed_data(data)
        found, self._answers = self._answers[:count], self._answers[count:]
        return found

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """One request; the answer's status and its JSON (or bytes). Header names are written with '_' for '-'."""
        self.send(message(method, path, body, **headers))
        ((status, answer),) = self.answers(1)
        try:
            return status, json.loads(answer)
        except ValueError:
            return status, answer

    def post(self, path: str, body: Any, **headers: str) -> tuple[int, Any]:
        return self.ask("POST", path, body, **headers)

    def get(self, path: str) -> tuple[int, Any]:
        return self.ask("GET", path)

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def message(method: str, path: str, body: Any = None, **headers: str) -> bytes:
    """A whole HTTP request; ``body`` is bytes, or something to write as JSON."""
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    head = f"{method} {path} HTTP/1.1\r\nhost: test\r\n{lines}content-length: {len(data)}\r\n\r\n"
    return head.encode() + data


class ServedHome:
    """A home with a key, packages and a release file, for one loop."""

    def __init__(self, root: Path, loop: str = "made") -> None:
        self.home = Home(root)
        self.loop = loop
        self.revision = 0
        self._key = packages.generate_key(self.home.keys)
        self.versions: dict[int, str] = {}

    def seal(
        self,
        version: int,
        signature: Signature,
        *,
        graph: bytes | None = None,
        bias: float = 0.0,
        profile: bytes = b"{}",
    ) -> str:
        """Seal a package as ``version``, with what its rows looked like. Returns its digest."""
        digest = packages.seal(
            self.home.packages,
            {
                packages.MODEL: graph if graph is not None else graph_of(signature, bias=bias),
                "profile.json": profile,
                "evidence.json": b'{"version":%d}' % version,
            },
            loop=self.loop,
            created_at=datetime(2026, 1, 1, tzinfo=UTC),
            signature=signature,
            key=self._key,
        )
        self.versions[version] = digest
        return digest

    def release(self, champion: int | None, challenger: int | None = None, **more: Any) -> int:
        """Write the release file, as the controller does. Returns its revision."""
        self.revision += 1

        def served(version: int | None) -> dict[str, Any] | None:
            return None if version is None else {"version": version, "package": self.versions.get(version, "f" * 64)}

        stage = "empty" if champion is None else "steady" if challenger is None else "shadow"
        content = {
            "loop": self.loop,
            "revision": self.revision,
            "stage": stage,
            "champion": served(champion),
            "challenger": served(challenger),
            "epoch": self.revision,
            "salt": self.loop,
            **more,
        }
        write_atomically(self.home.release_file(self.loop), encode(content), sync=False)
        return self.revision

    def frames(self) -> list[segments.Frame]:
        """Everything in the log so far."""
        return [
            segments.decode(payload)
            for path in segments.files(self.home.segments(self.loop))
            for payload, _ in segments.read(path)
        ]

    def predictions(self, arm: str | None = None) -> list[segments.PredictionFrame]:
        frames = [each for each in self.frames() if isinstance(each, segments.PredictionFrame)]
        return [each for each in frames if arm is None or each.arm == arm]

    def outcomes(self) -> list[tuple[str, str, str | int | float | bool | None, int]]:
        return [each for frame in self.frames() if isinstance(frame, segments.OutcomeFrame) for each in frame.outcomes]

    def serve(
        self, *arguments: str, token: str | None = None, before: str | None = None, every_loop: bool = False
    ) -> "ServerProcess":
        """Start a server and wait until it listens. ``before``: Python that its process runs first.

        ``every_loop``: it is not told which loops to serve.
        """
        named = [] if every_loop else ["--loop", self.loop]
        return ServerProcess(self, [*named, *arguments], token, before)


class ServerProcess:
    """A real server in a process group of its own; leaving the ``with`` ends the group."""

    def __init__(self, served: ServedHome, arguments: Sequence[str], token: str | None, before: str | None) -> None:
        self._served = served
        given = ["--home", str(served.home.root), "--parent", str(os.getpid()), *arguments]
        environment = dict(os.environ)
        if token is not None:
            environment["EVERLOOP_TEST_TOKEN"] = token
            given += ["--replay-token-env", "EVERLOOP_TEST_TOKEN"]
        if before is None:
            command = [sys.executable, "-m", "everloop.serve", *given]
        else:
            code = f"{before}\nimport sys\nfrom everloop.serve.__main__ import main\nsys.exit(main({given!r}))"
            command = [sys.executable, "-c", code]
        self.log = served.home.root / "server.log"
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        try:
            self.wait(lambda told: bool(told.get("ready")))
        except BaseException:
            self.kill()
            raise
        self.port = int(self.told()["port"])
        self.grpc_port = int(self.told().get("grpc_port") or 0)

    def told(self) -> dict[str, Any]:
        """What the server says in ``servers/<pid>.json``; empty before it speaks."""
        try:
            content: dict[str, Any] = json.loads((self._served.home.servers / f"{self.process.pid}.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return content

    def wait(self, reached: Callable[[dict[str, Any]], bool]) -> None:
        """Return when what the server says is so. Raises TimeoutError with its log."""
        end = time.monotonic() + PATIENCE
        while not reached(self.told()):
            if self.process.poll() is not None or time.monotonic() > end:
                raise TimeoutError(f"the server ended or stayed silent; it said: {self.log.read_text()[-3000:]}")
            time.sleep(0.005)

    def wait_for(self, revision: int) -> None:
        self.wait(lambda told: told.get("loops", {}).get(self._served.loop, -1) >= revision)

    def terminate(self) -> int:
        """End it as an operator does; returns its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)

    def kill(self) -> None:
        """SIGKILL to the whole group."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE)

    def __enter__(self) -> "ServerProcess":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(PATIENCE)
        self.kill()
