"""What each thing that guards a request costs it: one at a time beside a bare server, then together, then what is extra.

Bare is not unguarded: limits of size and time, validation, prediction ids and metrics cannot be turned off.
"""

import datetime
import importlib.util
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from bench.rows import Row
from bench.serving.cells import Measured, say, side_by_side
from bench.serving.inside import microseconds
from bench.serving.load import Loader, generator
from bench.serving.models import Model, tabular
from bench.serving.ours import ID_HEADER, IDS, KEY, RATE, URGENCY, Ours
from bench.serving.processes import cores
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

BARE = "bare"
ALL = "all that a request is promised"
QUIET = {"log": False}


def variants(folder: Path, traces: str | None) -> list[Ours]:
    """The first is bare; what follows adds one thing to it; then all, and all with one thing more."""

    def bare(
        name: str, settings: dict[str, object] | None = None, headers: dict[str, str] | None = None, log: bool = False
    ) -> Ours:
        return Ours(name=name, settings=settings or {}, headers=headers or {}, release={} if log else QUIET)

    everything = Ours()

    def whole(name: str, **settings: object) -> Ours:
        return Ours(name=name, settings={**everything.settings, **settings})

    found = [
        bare(BARE),
        bare("key", {**KEY}),
        bare("key and rate limit", {**KEY, **RATE}),
        bare("request id", {**IDS}, ID_HEADER),
        bare("deadline and priority", None, URGENCY),
        bare("prediction log", log=True),
        bare("access log", {"access_log": str(folder / "access.log")}),
        whole(ALL),
        whole("all and access log", access_log=str(folder / "access-all.log")),
    ]
    if traces is not None:
        found += [
            whole("all and 1 % traced", trace=traces, trace_share=0.01),
            whole("all and each request traced", trace=traces),
        ]
    if generator() == "wrk":
        found.append(whole("all and TLS", tls=certificate(folder)))
    return found


def costs(folder: Path, *, quick: bool) -> tuple[list[Row], Measured]:
    model = tabular()
    with ExitStack() as stack:
        traced = importlib.util.find_spec("opentelemetry") and importlib.util.find_spec("opentelemetry.exporter")
        sink = stack.enter_context(Sink()) if traced else None
        made = variants(folder, sink and sink.address)
        shown = made if not quick else [each for each in made if each.name in (BARE, ALL)]
        measured = side_by_side(
            shown, model, folder, connections=[64], rounds=1 if quick else 3, seconds=1 if quick else 2, again=False
        )
    within = inside(made, model, folder, rounds=3 if quick else 20)
    rows = []
    for each in made:
        cell = measured.cell(each.name, 64)
        added = "" if each.name in (BARE, ALL) or each.name.startswith("all") else "bare and "
        if each.name in within:
            rows.append(Row(what=f"in-process: {added}{each.name}", ours=within[each.name], unit="µs", peer=within[BARE],
                            peer_name=BARE, rounds=3 if quick else 20))  # fmt: skip
        if cell is not None:
            rows.append(Row(what=f"on the wire, c=64: {added}{each.name}", ours=cell.cpu_us, unit="µs",
                            peer=measured.cells[BARE, 64].cpu_us, peer_name=BARE, rounds=len(cell.cpu)))  # fmt: skip
    return sorted(rows, key=lambda row: row.what.startswith("on the wire")), measured


def inside(made: list[Ours], model: Model, folder: Path, *, rounds: int) -> dict[str, float]:
    """µs a request without sockets. TLS is the transport's work, and spans are made by a thread: neither is in here."""
    say("safety: in-process")
    apart = [each for each in made if "tls" not in each.settings and "trace" not in each.settings]
    with ExitStack() as stack:
        homes = {}
        own = folder / "inside"
        own.mkdir()
        for each in apart:
            root = each.home(model, own).home.root
            homes[root] = stack.enter_context(Loader(each.messages(model))).file
        found = microseconds(homes, rounds=rounds, core=cores()[0])
    return dict(zip((each.name for each in apart), found, strict=True))


class Sink:
    """Takes spans and throws them away. Use with ``with``."""

    def __enter__(self) -> "Sink":
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}/v1/traces"
        Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def certificate(folder: Path) -> dict[str, str]:
    """One for a day, signed by itself; as the settings name it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bench")])
    now = datetime.datetime.now(datetime.UTC)
    made = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), now, now + datetime.timedelta(1)
    )
    (folder / "certificate.pem").write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return {"certificate": str(folder / "certificate.pem"), "key": str(folder / "key.pem")}
