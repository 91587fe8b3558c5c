"""A server that speaks gRPC beside HTTP: who may come in, encryption, how it starts, shares a port and ends."""

import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tritonclient.utils import InferenceServerException

from everloop.serve import grpc_messages, keys
from everloop.serve.settings import ServerSettings, Tls, encode
from everloop.testing.serving import Client, ServedHome, expected, signature_of

LIVE = "/inference.GRPCInferenceService/ServerLive"
INFER = "/inference.GRPCInferenceService/ModelInfer"
Array = np.ndarray[Any, Any]


def tensor(name: str, values: Array, datatype: str) -> Any:
    sent = triton.InferInput(name, list(values.shape), datatype)
    sent.set_data_from_numpy(values)
    return sent


def positive(result: Any) -> list[float]:
    found: list[float] = result.as_numpy("probability")[:, 1].tolist()
    return found


# Who may come in


def test_keys_limits_and_request_ids_hold_for_calls(tmp_path: Path) -> None:
    home = ServedHome(tmp_path)
    home.seal(1, signature_of({"x": "number"}))
    home.release(1)
    secret = keys.add(home.home, "client", now=time.time(), rate="2/h")
    home.home.settings.write_bytes(encode(ServerSettings(keys=True, request_ids=True)))
    with home.serve("--grpc-port", "0", "--settings", str(home.home.settings)) as server:
        with triton.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as asked:
            sent = [tensor("x", np.array([1.0]), "FP64")]
            assert asked.is_server_live()  # probes have no key
            for headers in ({}, {"x-api-key": "wrong"}, {"authorization": "Bearer wrong"}):
                with pytest.raises(InferenceServerException) as refused:
                    asked.infer("made", sent, headers=headers)
                assert refused.value.status() == "StatusCode.UNAUTHENTICATED"
            for headers in ({"x-api-key": secret}, {"authorization": f"Bearer {secret}"}):
                assert positive(asked.infer("made", sent, headers=headers)) == pytest.approx([expected(1)])
            with pytest.raises(InferenceServerException) as refused:
                asked.infer("made", sent, headers={"x-api-key": secret})
            assert refused.value.status() == "StatusCode.RESOURCE_EXHAUSTED"
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as opened:
            for strange in (b"\xff" * 100_000, b"\xff" * 10):  # a long message of a stranger is not taken apart
                with pytest.raises(grpc.RpcError) as told:
                    opened.unary_unary(INFER)(strange, timeout=30)
                wanted = "UNAUTHENTICATED" if len(strange) > 1_000 else "INVALID_ARGUMENT"
                assert told.value.code().name == wanted
            request = grpc_messages.message("ModelInferRequest")().SerializeToString()
            metadata = [("x-api-key", secret), ("x-request-id", "my-1")]
            with pytest.raises(grpc.RpcError) as told:
                opened.unary_unary(INFER)(request, timeout=30, metadata=metadata)
            trailers = dict(told.value.trailing_metadata())
            assert trailers["x-request-id"] == "my-1"
            assert int(trailers["retry-after"]) > 0


def certificate(folder: Path, name: str) -> bytes:
    """A key and a certificate for this machine, written as tls settings name them. Returns the certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(key.private_bytes(*form))
    (folder / "certificate.pem").write_bytes(made)
    return made


def test_calls_are_encrypted_where_tls_is_declared_and_a_new_certificate_is_shown(tmp_path: Path) -> None:
    home = ServedHome(tmp_path / "home")
    home.seal(1, signature_of({"x": "number"}))
    home.release(1)
    tls = Tls(certificate=str(tmp_path / "certificate.pem"), key=str(tmp_path / "key.pem"))
    home.home.settings.write_bytes(encode(ServerSettings(tls=tls)))
    first = certificate(tmp_path, "first")
    with home.serve("--grpc-port", "0", "--settings", str(home.home.settings)) as server:
        address = f"localhost:{server.grpc_port}"

        def code(root: bytes | None) -> Any:
            trusted = grpc.ssl_channel_credentials(root)
            with grpc.insecure_channel(address) if root is None else grpc.secure_channel(address, trusted) as opened:
                return opened.unary_unary(LIVE).future(b"", timeout=10).code()

        assert code(first) == grpc.StatusCode.OK
        assert code(None) == grpc.StatusCode.UNAVAILABLE
        second = certificate(tmp_path, "second")
        assert code(second) == grpc.StatusCode.OK
        assert code(first) == grpc.StatusCode.UNAVAILABLE


# The process


def test_grpc_is_not_loaded_unless_its_port_is_given() -> None:
    code = "import sys, everloop.serve.__main__; print(sorted({'grpc', 'google.protobuf'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_without_the_library_the_server_says_which_extra_to_install(tmp_path: Path) -> None:
    home = ServedHome(tmp_path)
    with (
        pytest.raises(TimeoutError) as ended,
        home.serve("--grpc-port", "0", before="import sys; sys.modules['grpc'] = None"),
    ):
        pass
    assert "pip install 'everloop[grpc]'" in str(ended.value)
    assert "Traceback" not in str(ended.value)


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    home = ServedHome(tmp_path)
    with home.serve() as server:
        taken = str(server.port)
        with pytest.raises(TimeoutError, match="--grpc-port"), home.serve("--grpc-port", taken):
            pass


def test_two_processes_share_the_port_and_end_well(tmp_path: Path) -> None:
    home = ServedHome(tmp_path)
    home.seal(1, signature_of({"x": "number"}))
    home.release(1)
    sent = [tensor("x", np.array([1.0]), "FP64")]
    with home.serve("--grpc-port", "0", "--processes", "2") as server:
        assert server.grpc_port
        for _ in range(6):
            with triton.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as asked:
                assert positive(asked.infer("made", sent)) == pytest.approx([expected(1)])
        assert server.terminate() == 0
    assert sum(len(frame.ids) for frame in home.predictions()) == 6


def test_a_call_in_flight_is_answered_before_the_server_ends(tmp_path: Path) -> None:
    home = ServedHome(tmp_path)
    home.seal(1, signature_of({"x": "number"}))
    home.release(1)
    slow = "import time\nfrom everloop.serve.model import Model\nrun = Model.run\n"
    slow += "def late(self, *taken):\n    end = time.thread_time() + 0.2\n    while time.thread_time() < end:\n        pass\n"
    slow += "    return run(self, *taken)\nModel.run = late"
    found: list[Any] = []
    sent = 0
    with (
        home.serve("--grpc-port", "0", before=slow) as server,
        triton.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as asked,
        Client(server.port) as client,
    ):
        waiting = 0
        while not waiting and sent < 200:  # until some wait while others run
            inputs = [tensor("x", np.array([1.0]), "FP64")]
            asked.async_infer("made", inputs, lambda result, error: found.append(error or positive(result)[0]))
            sent += 1
            waiting = client.get("/status")[1]["loops"]["made"]["waiting_rows"]
        assert waiting
        assert asked.is_server_live()  # on the same connection: the server has taken all calls before it
        assert server.terminate() == 0
    assert found == [pytest.approx(expected(1))] * sent
