"""An HTTP server and an SMTP server on loopback that keep what they are sent, and fail when they are told to."""

import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Web:
    """``answers``: the next statuses, then 200."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, dict[str, str], Any]] = []
        self.answers: list[int] = []
        kept = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                kept.taken.append((self.path, headers, json.loads(body)))
                status = kept.answers.pop(0) if kept.answers else 200
                self.send_response(status)
                if status in (301, 302, 307):
                    self.send_header("location", "/elsewhere")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *given: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    @property
    def bodies(self) -> list[Any]:
        return [body for _, _, body in self.taken]

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextmanager
def web() -> Iterator[Web]:
    each = Web()
    try:
        yield each
    finally:
        each.close()


class Mail:
    """As much of SMTP (RFC 5321) as a sender needs; ``refuse``: so many senders are told to come back later."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.refuse = 0
        kept = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self._say("220 here")
                while line := self.rfile.readline().decode().strip():
                    word = line.split(" ", 1)[0].upper()
                    if word == "DATA":
                        self._say("354 go on")
                        lines: list[str] = []
                        while (text := self.rfile.readline().decode().rstrip("\r\n")) != ".":
                            lines.append(text.removeprefix("."))
                        kept.taken.append("\n".join(lines))
                        self._say("250 kept")
                    elif word == "MAIL" and kept.refuse:
                        kept.refuse -= 1
                        self._say("451 later")
                    elif word == "QUIT":
                        self._say("221 gone")
                        return
                    else:
                        self._say("250 yes")

            def _say(self, text: str) -> None:
                self.wfile.write(f"{text}\r\n".encode())

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextmanager
def mail() -> Iterator[Mail]:
    each = Mail()
    try:
        yield each
    finally:
        each.close()
