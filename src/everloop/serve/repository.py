"""The model repository extension of the Open Inference Protocol: which models there are; load one, unload one.

As Triton has it, so that its clients work. Knows nothing of how a model comes into memory.
"""

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from everloop.errors import RequestError
from everloop.serve.exchange import Exchange
from everloop.serve.heads import Headers
from everloop.serve.loops import Loops
from everloop.serve.service import Service

Handler = Callable[[Exchange, Headers, bytes], None]
Methods = dict[bytes, Handler]
PATH = b"/v2/repository"
STATES = {"live": "READY", "resting": "READY", "loading": "LOADING", "unloaded": "UNAVAILABLE", "none": "UNAVAILABLE"}


class Asked(msgspec.Struct):
    ready: bool = False
    parameters: dict[str, Any] = {}


class Repository:
    def __init__(self, loops: Loops) -> None:
        self.loops = loops

    def routes(self) -> dict[bytes, Methods]:
        return {PATH + b"/index": {b"POST": self._index}}

    def routes_of(self, service: Service) -> dict[bytes, Methods]:
        path = PATH + b"/models/" + service.name.encode()

        def load(exchange: Exchange, headers: Headers, body: bytes) -> None:
            check_parameters(_read(body).parameters)
            self.loops.load(service, exchange)

        def unload(exchange: Exchange, headers: Headers, body: bytes) -> None:
            _read(body)
            self.loops.unload(service, exchange)

        return {path + b"/load": {b"POST": load}, path + b"/unload": {b"POST": unload}}

    def index(self, *, ready: bool = False) -> list[dict[str, str]]:
        """Each model with each of its versions; with ``ready`` only those that answer."""
        found = []
        for service in self.loops.services.values():
            state = service.state
            if ready and STATES[state] != "READY":
                continue
            live = service.predictor.live
            release = service.follower.release
            versions = [str(version) for version in live.versions] if live is not None else []
            if not versions and release is not None and release.champion is not None:
                versions = [str(release.champion.version)]
            reason = service.follower.problem or ("" if state == "live" else state)
            found += [
                {"name": service.name, "version": version, "state": STATES[state], "reason": reason}
                for version in versions or [""]
            ]
        return found

    def _index(self, exchange: Exchange, headers: Headers, body: bytes) -> None:
        exchange.finish(200, msgspec.json.encode(self.index(ready=_read(body).ready)))


def check_parameters(names: Iterable[str]) -> None:
    """Raises RequestError for what a model cannot be loaded with."""
    given = [name for name in names if name == "config" or name.startswith("file:")]
    if given:
        raise RequestError(
            f"A model is loaded as it was released; {given[0][:80]!r} cannot be given here. Release another version."
        )


def _read(body: bytes) -> Asked:
    """What a request says, which may be nothing. Raises RequestError."""
    try:
        return msgspec.json.decode(body, type=Asked) if body.strip() else Asked()
    except (ValueError, RecursionError) as error:
        raise RequestError(
            f'This is not read here: {error}. Send nothing, or {{"ready": true}} to the index.'
        ) from None
