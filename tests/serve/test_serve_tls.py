"""TLS: what is spoken, how certificates come and go, and that clients without end harm nobody here either."""

import json
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from everloop.serve.settings import ServerSettings, Tls, encode
from everloop.testing.serving import ServedHome, ServerProcess, message, signature_of

SIGNATURE = signature_of({"x": "number"})
PATIENCE = 10.0


def make(folder: Path, name: str, *, password: bytes | None = None) -> None:
    """A certificate for loopback that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    sealed = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, sealed)
    )
    (folder / "chain.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def home(path: Path) -> ServedHome:
    served = ServedHome(path)
    served.seal(1, SIGNATURE)
    served.release(1)
    return served


def settings(folder: Path, **fields: Any) -> ServerSettings:
    return ServerSettings(tls=Tls(certificate=str(folder / "chain.pem"), key=str(folder / "key.pem")), **fields)


def secured(served: ServedHome, folder: Path, **fields: Any) -> ServerProcess:
    served.home.settings.write_bytes(encode(settings(folder, **fields)))
    return served.serve("--settings", str(served.home.settings))


def connected(port: int, trusted: Path | None, **bounds: ssl.TLSVersion) -> ssl.SSLSocket:
    context = (
        ssl.create_default_context(cafile=str(trusted))
        if trusted is not None
        else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    )
    if trusted is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    for name, version in bounds.items():
        setattr(context, name, version)
    plain = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    try:
        return context.wrap_socket(plain, server_hostname="127.0.0.1")
    except BaseException:
        plain.close()
        raise


def read(client: ssl.SSLSocket) -> bytes:
    """Everything until the server closes."""
    received = b""
    with suppress(ConnectionError, TimeoutError, ssl.SSLError):
        while part := client.recv(1 << 16):
            received += part
    return received


def eventually(said: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not said():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_client_that_trusts_the_certificate_is_answered(tmp_path: Path) -> None:
    make(tmp_path, "first")
    with secured(home(tmp_path / "home"), tmp_path) as server:
        with connected(server.port, tmp_path / "chain.pem") as client:
            assert client.version() == "TLSv1.3"
            for _ in range(3):
                client.sendall(message("POST", "/predict", {"x": 1}))
                assert client.recv(1 << 16).startswith(b"HTTP/1.1 200")
        with connected(server.port, tmp_path / "chain.pem", maximum_version=ssl.TLSVersion.TLSv1_2) as client:
            client.sendall(message("GET", "/v2/health/live"))
            assert client.recv(1 << 16).startswith(b"HTTP/1.1 200")


def test_what_is_older_than_tls_1_2_and_what_is_no_tls_gets_nothing(tmp_path: Path) -> None:
    make(tmp_path, "first")
    with secured(home(tmp_path / "home"), tmp_path) as server:
        answer = subprocess.run(
            [
                sys.executable, "-W", "ignore", "-c",
                "import socket, ssl, sys\n"
                "context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)\n"
                "context.check_hostname = False\n"
                "context.verify_mode = ssl.CERT_NONE\n"
                "context.minimum_version = ssl.TLSVersion.TLSv1\n"
                "context.maximum_version = ssl.TLSVersion.TLSv1_1\n"
                "context.set_ciphers('ALL:@SECLEVEL=0')\n"
                f"plain = socket.create_connection(('127.0.0.1', {server.port}), timeout=10)\n"
                "try:\n    context.wrap_socket(plain)\nexcept (ssl.SSLError, ConnectionError):\n    print('refused')",
            ],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert answer.stdout.strip() == "refused", answer.stderr
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as plain:
            plain.sendall(message("GET", "/v2/health/live"))
            received = b""
            with suppress(ConnectionError):
                received = plain.recv(100)
            assert b"HTTP" not in received
        with connected(server.port, tmp_path / "chain.pem") as client:
            client.sendall(message("GET", "/v2/health/live"))
            assert client.recv(1 << 16).startswith(b"HTTP/1.1 200")
        assert "Traceback" not in server.log.read_text()


def test_a_new_certificate_is_shown_without_a_restart(tmp_path: Path) -> None:
    make(tmp_path, "first")
    with secured(home(tmp_path / "home"), tmp_path) as server:
        with connected(server.port, tmp_path / "chain.pem") as old:
            make(tmp_path, "second")
            fresh = (tmp_path / "chain.pem").read_text()

            def shows() -> bool:
                return ssl.get_server_certificate(("127.0.0.1", server.port)).strip() == fresh.strip()

            eventually(shows)
            old.sendall(message("GET", "/v2/health/live"))  # a connection that stands is left alone
            assert old.recv(1 << 16).startswith(b"HTTP/1.1 200")
        with connected(server.port, tmp_path / "chain.pem") as client:
            client.sendall(message("GET", "/v2/health/live"))
            assert client.recv(1 << 16).startswith(b"HTTP/1.1 200")


def test_a_new_pair_that_does_not_fit_leaves_the_old_one(tmp_path: Path) -> None:
    make(tmp_path, "first")
    first = (tmp_path / "chain.pem").read_text()
    with secured(home(tmp_path / "home"), tmp_path) as server:
        other = tmp_path / "other"
        other.mkdir()
        make(other, "second")
        (tmp_path / "chain.pem").write_text((other / "chain.pem").read_text())
        eventually(lambda: "certificate refused, the old one stays" in server.log.read_text())
        assert ssl.get_server_certificate(("127.0.0.1", server.port)).strip() == first.strip()
        (tmp_path / "key.pem").write_text((other / "key.pem").read_text())  # the other half comes a moment later
        second = (other / "chain.pem").read_text()
        eventually(lambda: ssl.get_server_certificate(("127.0.0.1", server.port)).strip() == second.strip())


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("missing", "cannot be read: No such file"),
        ("mismatch", "does not belong to the certificate"),
        ("nonsense", "are not a certificate chain and its private key"),
        ("encrypted", "is encrypted, and nobody is there to type its password"),
    ],
)
@pytest.mark.parametrize("processes", ["1", "2"])
def test_files_that_cannot_be_used_end_the_start(tmp_path: Path, broken: str, said: str, processes: str) -> None:
    make(tmp_path, "first", password=b"secret" if broken == "encrypted" else None)
    if broken == "missing":
        (tmp_path / "key.pem").unlink()
    if broken == "nonsense":
        (tmp_path / "chain.pem").write_text("no certificate")
    if broken == "mismatch":
        chain = (tmp_path / "chain.pem").read_text()
        make(tmp_path, "second")
        (tmp_path / "chain.pem").write_text(chain)
    served = home(tmp_path / "home")
    served.home.settings.write_bytes(encode(settings(tmp_path)))
    command = [
        sys.executable, "-m", "everloop.serve", "--home", str(served.home.root), "--loop", "made",
        "--settings", str(served.home.settings), "--processes", processes,
    ]  # fmt: skip
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert (ended.returncode, said in ended.stderr) == (3, True), ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_refused_client_gets_to_read_why_and_is_let_go(tmp_path: Path) -> None:
    make(tmp_path, "first")
    with secured(home(tmp_path / "home"), tmp_path, body_bytes=1_000, linger_seconds=0.3) as server:
        with connected(server.port, tmp_path / "chain.pem") as client:
            client.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 5000\r\n\r\n" + b" " * 5_000)
            received = read(client)
        head, _, body = received.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 413")
        assert "at most 1000" in json.loads(body)["error"]
        with connected(server.port, tmp_path / "chain.pem") as client:
            client.sendall(b"nonsense\r\n\r\n")
            assert read(client).startswith(b"HTTP/1.1 400")


def test_who_shakes_no_hand_or_ends_in_the_middle_harms_nobody(tmp_path: Path) -> None:
    make(tmp_path, "first")
    with secured(home(tmp_path / "home"), tmp_path, request_seconds=0.3, idle_seconds=0.3) as server:
        silent = [socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) for _ in range(20)]
        for n in range(20):
            with connected(server.port, None) as client:
                client.sendall(message("POST", "/predict", [{"x": 1}] * 50) * 3)
                if n % 2:
                    client.sendall(b"POST /predict HTTP/1.1\r\nhost")
        with connected(server.port, tmp_path / "chain.pem") as resting:
            assert read(resting) == b""  # closed after its idle time
        with connected(server.port, tmp_path / "chain.pem") as client:
            client.sendall(message("GET", "/v2/health/live"))
            assert client.recv(1 << 16).startswith(b"HTTP/1.1 200")
        for each in silent:
            each.close()
        assert server.terminate() == 0
        assert "Traceback" not in server.log.read_text()
