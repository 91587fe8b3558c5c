"""Listens for gRPC on the event loop that serves HTTP. Knows nothing of messages or models.

Loaded only when a port is given: the libraries are an extra and cost a tenth of a second.
"""

from pathlib import Path
from typing import Any

import grpc
from grpc import aio

from everloop.errors import ServeError, SpecError
from everloop.serve.application import Application
from everloop.serve.grpc_calls import Calls
from everloop.serve.releases import mark
from everloop.serve.settings import Tls
from everloop.serve.tls import Certificate

OVERHEAD_BYTES = 64 * 2**10
"""What names and shapes may take beside the values of a message."""


class GrpcServer:
    """``port``: where it listens, once started."""

    def __init__(self, application: Application, *, share_port: bool, tls: Tls | None) -> None:
        bounds = application.bounds
        self._server = aio.server(
            maximum_concurrent_rpcs=bounds.connections,
            options=[
                ("grpc.so_reuseport", int(share_port)),
                ("grpc.max_receive_message_length", bounds.body_bytes + OVERHEAD_BYTES),
                ("grpc.max_metadata_size", bounds.header_bytes),
                ("grpc.max_connection_idle_ms", round(bounds.idle_seconds * 1000)),
            ],
        )
        self._server.add_generic_rpc_handlers(Calls(application).handlers())
        self._tls = tls
        self.port = 0

    async def start(self, host: str, port: int) -> None:
        """Raises ServeError when it cannot listen there."""
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if self._tls is None:
                self.port = self._server.add_insecure_port(address)
            else:
                shown = Shown(self._tls)
                self.port = self._server.add_secure_port(address, grpc.dynamic_ssl_server_credentials(shown(), shown))
            await self._server.start()
        except (RuntimeError, OSError) as error:
            raise ServeError(f"Cannot listen for gRPC on {address}. Choose another --grpc-port or --host.") from error

    async def stop(self, seconds: float) -> None:
        """Take no more calls; end those that are not answered in ``seconds``."""
        await self._server.stop(seconds)


class Shown:
    """The certificate that the next client is shown: read again when its files change and still fit together."""

    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        self._seen: Any = None

    def __call__(self) -> Any:
        """None: the same as before."""
        key, certificate = Path(self._tls.key), Path(self._tls.certificate)
        marks = (mark(key), mark(certificate))
        if marks == self._seen:
            return None
        try:
            Certificate(self._tls)  # the other file may be under way
            pair = (key.read_bytes(), certificate.read_bytes())
        except (SpecError, OSError):
            return None
        self._seen = marks
        return grpc.ssl_server_certificate_configuration([pair])
