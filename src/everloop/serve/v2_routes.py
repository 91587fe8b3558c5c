"""The paths of the Open Inference Protocol V2 over HTTP. Knows nothing of sockets, rows or batches."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from everloop import __version__
from everloop.errors import RequestError
from everloop.serve import v2
from everloop.serve.exchange import Exchange
from everloop.serve.heads import Headers
from everloop.serve.service import Service

Handler = Callable[[Exchange, Headers, bytes], None]
Methods = dict[bytes, Handler]
MODELS = b"/v2/models/"
VERSIONS = b"/versions/"


def server() -> dict[str, Any]:
    """What the server says of itself."""
    return {"name": "everloop", "version": __version__, "extensions": list(v2.EXTENSIONS)}


def model(service: Service, version: int | None = None) -> dict[str, Any]:
    """What is said of a model, or of one of its live versions. Raises RequestError (404, 503)."""
    live = service.live()
    told = v2.metadata(service.name, live if version is None else live.pinned(version))
    return {**told, "versions": [str(each) for each in live.versions]}


def of(service: Service) -> dict[bytes, Methods]:
    """The paths of one model, whichever version answers."""
    path = MODELS + service.name.encode()
    return {path: _described(service), path + b"/ready": _ready(service), path + b"/infer": {b"POST": service.infer}}


def versioned(services: Mapping[str, Service], path: bytes) -> Methods | None:
    """What answers at ``/v2/models/<model>/versions/<version>`` and below; None for any other path.

    Raises RequestError (404) for a version that is not live.
    """
    if not path.startswith(MODELS):
        return None
    model, _, rest = path[len(MODELS) :].partition(VERSIONS)
    given, _, what = rest.partition(b"/")
    service = services.get(model.decode(errors="replace"))
    if service is None or not given:
        return None
    version = number(given.decode(errors="replace"), service)
    if what == b"infer":
        return {b"POST": lambda exchange, headers, body: service.infer(exchange, headers, body, version)}
    return _ready(service, version) if what == b"ready" else _described(service, version) if not what else None


def number(text: str, service: Service) -> int:
    """The version that ``text`` names. Raises RequestError (404) when it is none that is live, 503 when none is."""
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        live = ", ".join(map(str, service.live().versions))
        raise RequestError(f"There is no version {text[:40]!r} of {service.name}; live are {live}.", status=404)
    service.live().pinned(int(text))
    return int(text)


def _described(service: Service, version: int | None = None) -> Methods:
    def describe(exchange: Exchange, headers: Headers, body: bytes) -> None:
        exchange.finish(200, msgspec.json.encode(model(service, version)))

    return {b"GET": describe, b"HEAD": describe}


def _ready(service: Service, version: int | None = None) -> Methods:
    def tell(exchange: Exchange, headers: Headers, body: bytes) -> None:
        if not service.rests:  # one that does is loaded for whoever asks for more than this
            service.live()
        exchange.finish(200, msgspec.json.encode({"name": service.name, "ready": True}))

    return {b"GET": tell, b"HEAD": tell}
