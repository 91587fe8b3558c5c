"""Shows one page of metrics to whoever asks over HTTP. Knows nothing of what is on it.

A server of the standard library in a thread: it is asked a few times a minute, beside a controller that only looks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from everloop.errors import CannotListen
from everloop.serve.families import CONTENT_TYPE


class MetricsPage:
    """``text`` gives the page at each request. Raises CannotListen where the address cannot be had."""

    def __init__(self, host: str, port: int, text: Callable[[], bytes]) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = 10
            server_version, sys_version = "everloop", ""

            def do_GET(self) -> None:
                known = self.path.split("?", 1)[0] in ("/metrics", "/")
                body = text() if known else b"The metrics are at /metrics.\n"
                self.send_response(200 if known else 404)
                self.send_header("content-type", CONTENT_TYPE.decode() if known else "text/plain; charset=utf-8")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *given: Any) -> None:
                """Nobody wants a line for each scrape."""

        try:
            self._server = ThreadingHTTPServer((host, port), Handler)
        except OSError as error:
            raise CannotListen(
                f"The controller's metrics cannot be shown at {host}:{port} ({error.strerror or error}); free it, or write "
                'metrics = "127.0.0.1:8702" in everloop.toml ("" for none).'
            ) from None
        self._server.daemon_threads = True
        self.address = f"{host}:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.2}, name="metrics"
        )
        self._thread.daemon = True
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
