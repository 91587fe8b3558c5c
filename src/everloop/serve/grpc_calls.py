"""The Open Inference Protocol V2 over gRPC: calls as requests, answers as messages. Knows nothing of sockets or batches.

A call is treated as the HTTP request of the same meaning: the same gate, the same log line, the same refusals, and its
rows go into the same batches.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote, unquote

import grpc
from google.protobuf.message import DecodeError

from everloop.errors import RequestError
from everloop.serve import urgency, v2, v2_routes
from everloop.serve.application import Application
from everloop.serve.aside import Large
from everloop.serve.bounds import EARLY_BYTES
from everloop.serve.exchange import JSON, MESSAGE_LENGTH, Exchange
from everloop.serve.grpc_messages import CONTENTS, HEALTH, NOT_SERVING, SERVICE, SERVING, message
from everloop.serve.heads import WANTED, Headers
from everloop.serve.journal import say
from everloop.serve.live import Answer, Live
from everloop.serve.predictor import PredictionJob
from everloop.serve.repository import PATH as REPOSITORY
from everloop.serve.repository import Repository, check_parameters
from everloop.serve.service import Resting, Service
from everloop.serve.v2_values import ALL_DATATYPES, FLOATING, Given, check_finite

CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT, 401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED, 404: grpc.StatusCode.NOT_FOUND, 413: grpc.StatusCode.OUT_OF_RANGE,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED, 499: grpc.StatusCode.CANCELLED, 500: grpc.StatusCode.INTERNAL, 503: grpc.StatusCode.UNAVAILABLE,
    507: grpc.StatusCode.RESOURCE_EXHAUSTED,
}  # fmt: skip
Handler = Callable[["Call", Any, Headers], bytes | None]
"""Answers at once with the bytes of its message, or later through the call: None."""


class Peer:
    """Stands for the connection of a call: who is at its other end."""

    transport = None

    def __init__(self, application: Application, told: str) -> None:
        self.application = application
        kind, _, address = told.partition(":")
        if kind in ("ipv4", "ipv6"):
            address = unquote(address).rpartition(":")[0].strip("[]")
        self.peer = address


class Call(Exchange):
    """One call that waits for its answer; ``url`` is the path of the same over HTTP."""

    def __init__(self, application: Application, url: bytes, context: Any) -> None:
        super().__init__(Peer(application, context.peer()), b"GRPC", url)  # type: ignore[arg-type]
        remaining = context.time_remaining()
        if remaining is not None:
            self.deadline = self.arrived + remaining
        self.answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.status = 0
        self.message = ""
        self.reason = ""
        self.told = b""
        """Header lines of the answer."""

    def finish(self, status: int, body: bytes, kind: bytes = JSON, extra: bytes = b"") -> None:
        if self.response is not None:
            return
        self.status, self.response, self.told = status, body, extra + self.lines
        if self.observer is not None:
            self.observer(self, status, len(body))
        if not self.answered.done():
            self.answered.set_result(None)

    def refuse(
        self, status: int, message: str, extra: bytes = b"", *, reason: str = "", retry_after: float | None = None
    ) -> None:
        if len(message) > MESSAGE_LENGTH:  # it goes out in a trailer: the other side takes 8 KiB of them
            message = message[:MESSAGE_LENGTH] + "…"
        self.message, self.reason = message, reason
        super().refuse(status, message, extra, reason=reason, retry_after=retry_after)

    @property
    def code(self) -> Any:
        if self.reason == "deadline":
            return grpc.StatusCode.DEADLINE_EXCEEDED
        return CODES.get(self.status, grpc.StatusCode.UNKNOWN)

    @property
    def trailers(self) -> tuple[tuple[str, str], ...]:
        lines = self.told.decode("latin-1").split("\r\n")
        return tuple((name, value) for name, _, value in (line.partition(": ") for line in lines) if value)


class Calls:
    """What answers the calls of one server."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._made = {name: message(name) for name in (
            "ServerLiveResponse", "ServerReadyResponse", "ModelReadyResponse", "ServerMetadataResponse",
            "ModelMetadataResponse", "ModelInferResponse", "HealthCheckResponse", "RepositoryIndexResponse",
        )}  # fmt: skip

    def handlers(self) -> tuple[Any, ...]:
        """For `grpc.Server.add_generic_rpc_handlers`."""
        model = b"/v2/models/"

        def path(request: Any) -> bytes:
            return model + quote(request.name, safe="").encode()

        methods = {
            "ServerLive": self._method("ServerLiveRequest", lambda _: b"/v2/health/live", self._live),
            "ServerReady": self._method("ServerReadyRequest", lambda _: b"/v2/health/ready", self._ready),
            "ServerMetadata": self._method("ServerMetadataRequest", lambda _: b"/v2", self._server),
            "ModelReady": self._method("ModelReadyRequest", lambda r: path(r) + b"/ready", self._model_ready),
            "ModelMetadata": self._method("ModelMetadataRequest", path, self._model_metadata),
            "ModelInfer": self._method(
                "ModelInferRequest",
                lambda request: model + quote(request.model_name, safe="").encode() + b"/infer",
                self._infer,
            ),
            "RepositoryIndex": self._method("RepositoryIndexRequest", lambda _: REPOSITORY + b"/index", self._index),
        }
        for name, handler in (("Load", self._load), ("Unload", self._unload)):
            url = REPOSITORY + b"/models/%b/" + name.lower().encode()
            methods[f"RepositoryModel{name}"] = self._method(
                f"RepositoryModel{name}Request",
                lambda request, url=url: url % quote(request.model_name, safe="").encode(),  # type: ignore[misc]
                handler,
            )
        health = {"Check": self._method("HealthCheckRequest", lambda _: b"/v2/health/ready", self._health)}
        return (
            grpc.method_handlers_generic_handler(SERVICE, methods),
            grpc.method_handlers_generic_handler(HEALTH, health),
        )

    def _method(self, name: str, url: Callable[[Any], bytes], handler: Handler) -> Any:
        """A method that takes the message ``name``. Bytes in, bytes out: what is wrong with them is said here."""
        read = message(name).FromString

        async def answer(data: bytes, context: Any) -> bytes:
            if len(data) > EARLY_BYTES:  # as over HTTP: a stranger's long message is not taken apart
                early = Call(self._application, b"/v2", context)
                error = self._application.turned_away(early, headers_of(context.invocation_metadata()))
                if error is not None:
                    early.refuse(error.status, str(error), reason=error.reason, retry_after=error.retry_after)
                    await context.abort(early.code, early.message, early.trailers)
            try:
                request = read(data)
            except DecodeError:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"This is not a {name}.")
            call = Call(self._application, url(request), context)
            self._begin(call, request, handler, context)
            try:
                await call.answered
            except asyncio.CancelledError:
                call.deadline = urgency.GONE  # whatever is done for it now comes too late
                raise
            if call.trailers:
                context.set_trailing_metadata(call.trailers)
            if call.status != 200:
                await context.abort(call.code, call.message, call.trailers)
            return call.response or b""

        return grpc.unary_unary_rpc_method_handler(answer)

    def _begin(self, call: Call, request: Any, handler: Handler, context: Any) -> None:
        application = self._application
        headers = headers_of(context.invocation_metadata())
        try:
            if application.gate is not None and not application.gate.admit(call, headers, b""):
                return
            allowed = call.deadline
            urgency.read(call, headers)
            call.deadline = min(call.deadline, allowed)
            self._answer(call, request, headers, handler)
        except RequestError as error:
            call.refuse(error.status, str(error), reason=error.reason, retry_after=error.retry_after)
        except Exception as error:
            say("call failed", error=repr(error), path=call.url.decode(errors="replace")[:200])
            call.refuse(500, "The server failed on this call; its log says more.")

    def _answer(self, call: Call, request: Any, headers: Headers, handler: Handler) -> None:
        try:
            body = handler(call, request, headers)
        except Large as large:
            self._application.aside.add(call, large, lambda: self._again(call, request, headers, handler))
            return
        except Resting as resting:
            if self._application.draining:
                raise
            resting.service.parked.add(call, request.ByteSize(), lambda: self._again(call, request, headers, handler))
            return
        if body is not None:
            call.finish(200, body)

    def _again(self, call: Call, request: Any, headers: Headers, handler: Handler) -> None:
        """For a call that has waited."""
        try:
            if call.response is None:
                self._answer(call, request, headers, handler)
        except RequestError as error:
            call.refuse(error.status, str(error), reason=error.reason, retry_after=error.retry_after)
        except Exception as error:
            say("call failed", error=repr(error), path=call.url.decode(errors="replace")[:200])
            call.refuse(500, "The server failed on this call; its log says more.")

    # About the server

    def _live(self, call: Call, request: Any, headers: Headers) -> bytes:
        return self._bytes("ServerLiveResponse", live=True)

    def _ready(self, call: Call, request: Any, headers: Headers) -> bytes:
        return self._bytes("ServerReadyResponse", ready=not self._application.waits_for())

    def _health(self, call: Call, request: Any, headers: Headers) -> bytes:
        if request.service not in ("", SERVICE, HEALTH):
            raise RequestError(f"There is no service {request.service[:80]!r} here.", status=404)
        return self._bytes("HealthCheckResponse", status=NOT_SERVING if self._application.waits_for() else SERVING)

    def _server(self, call: Call, request: Any, headers: Headers) -> bytes:
        return self._bytes("ServerMetadataResponse", **v2_routes.server())

    # The models as a repository

    def _repository(self) -> Repository:
        found = self._application.repository
        if found is None:
            raise RequestError("Models are not loaded and unloaded here.", status=404)
        return found

    def _index(self, call: Call, request: Any, headers: Headers) -> bytes:
        return self._bytes("RepositoryIndexResponse", models=self._repository().index(ready=request.ready))

    def _load(self, call: Call, request: Any, headers: Headers) -> None:
        check_parameters(request.parameters)
        self._repository().loops.load(self._service(request.model_name), call, answer=b"")

    def _unload(self, call: Call, request: Any, headers: Headers) -> None:
        self._repository().loops.unload(self._service(request.model_name), call, answer=b"")

    # About a model

    def _service(self, name: str) -> Service:
        found = self._application.services.get(name)
        if found is None:
            known = ", ".join(sorted(self._application.services)) or "none"
            raise RequestError(f"There is no model {name[:80]!r}. Loops here: {known}.", status=404)
        return found

    def _model_ready(self, call: Call, request: Any, headers: Headers) -> bytes:
        service = self._application.services.get(request.name)
        ready = service is not None and service.ready
        if ready and service is not None and request.version:
            ready = request.version in map(str, service.live().versions)
        return self._bytes("ModelReadyResponse", ready=ready)

    def _model_metadata(self, call: Call, request: Any, headers: Headers) -> bytes:
        service = self._service(request.name)
        return self._bytes("ModelMetadataResponse", **v2_routes.model(service, _version(request.version, service)))

    def _infer(self, call: Call, request: Any, headers: Headers) -> None:
        service = self._service(request.model_name)
        version = _version(request.model_version, service)
        live = service.live()
        wanted = request_of(request)
        raw = bool(request.raw_input_contents)

        def form(answers: list[Answer], job: PredictionJob) -> bytes:
            return self._response(service.name, live, wanted, answers, raw)

        service.ask(call, headers, live, wanted, form, version)

    def _response(self, name: str, live: Live, request: v2.Request, answers: Sequence[Answer], raw: bool) -> bytes:
        """The answer in the form in which the question came: bytes, or typed values."""
        response = self._made["ModelInferResponse"](
            model_name=name, model_version=v2.version_of(live, answers), id=request.id or ""
        )
        for output in v2.outputs(live, answers, request.outputs):
            told = response.outputs.add(name=output.name, datatype=output.datatype, shape=output.shape)
            if raw:
                response.raw_output_contents.append(output.raw)
            else:
                values = map(str.encode, output.values) if output.datatype == "BYTES" else output.values
                getattr(told.contents, CONTENTS[output.datatype]).extend(values)
        data: bytes = response.SerializeToString()
        return data

    def _bytes(self, kind: str, /, **fields: Any) -> bytes:
        data: bytes = self._made[kind](**fields).SerializeToString()
        return data


def request_of(sent: Any) -> v2.Request:
    """What a ModelInferRequest asks. Raises RequestError naming the tensor and what is wrong with it."""
    raws = sent.raw_input_contents
    if raws and len(raws) != len(sent.inputs):
        raise RequestError(
            f"There are {len(sent.inputs)} inputs and {len(raws)} raw_input_contents; send one for each."
        )
    inputs = []
    for place, tensor in enumerate(sent.inputs):
        shown = f"Input {tensor.name[:80]!r}"
        if "shared_memory_region" in tensor.parameters:
            raise RequestError(f"{shown} lies in shared memory, which is not read here. Send its data.")
        if tensor.datatype not in ALL_DATATYPES:
            known = ", ".join(ALL_DATATYPES)
            raise RequestError(f"{shown} has the datatype {tensor.datatype[:20]!r}; known are {known}.")
        shape = list(tensor.shape)
        if raws:
            if tensor.HasField("contents"):
                raise RequestError(f"{shown} has both contents and raw_input_contents; send one of them.")
            inputs.append(Given(tensor.name, tensor.datatype, shape, raws[place], raw=True))
            continue
        inputs.append(Given(tensor.name, tensor.datatype, shape, _typed(tensor, shown)))
    for wanted in sent.outputs:
        if "classification" in wanted.parameters:
            raise RequestError(
                f"Output {wanted.name[:80]!r} asks for a classification; ask for the output probability, which holds "
                "all classes."
            )
    parameters = {name: getattr(value, chosen) for name, value in sent.parameters.items()
                  if (chosen := value.WhichOneof("parameter_choice"))}  # fmt: skip
    return v2.Request(inputs, sent.id or None, parameters, [v2.Wanted(each.name) for each in sent.outputs])


def _typed(tensor: Any, shown: str) -> list[Any]:
    wanted = CONTENTS.get(tensor.datatype)
    if wanted is None:
        raise RequestError(f"{shown} is {tensor.datatype}; that comes as raw_input_contents only.")
    for field, _ in tensor.contents.ListFields():
        if field.name != wanted:
            raise RequestError(f"{shown} is {tensor.datatype} but brings {field.name}; send {wanted}.")
    values = list(getattr(tensor.contents, wanted))
    if tensor.datatype in FLOATING:
        check_finite(tensor.name, values)
    return values


def _version(text: str, service: Service) -> int | None:
    return v2_routes.number(text, service) if text else None


def headers_of(metadata: Any) -> Headers:
    """Metadata as the gate and the service know headers."""
    sent = {name.encode(): value for name, value in metadata or ()}
    return {
        name: value if isinstance(value, bytes) else value.encode() for name, value in sent.items() if name in WANTED
    }
