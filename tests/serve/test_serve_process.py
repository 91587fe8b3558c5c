"""The process around the server: what it loads, how it starts and ends, what it says, what a full disk does."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from everloop.serve.__main__ import main
from everloop.testing.serving import Client, ServedHome, expected, message, signature_of

SIGNATURE = signature_of({"x": "number"}, key=("k",))
SERVED = [
    "http", "application", "process", "service", "predictor", "model", "rows", "v2", "supervisor", "exposition", "__main__"
]  # fmt: skip
FORBIDDEN = [
    "polars",
    "sqlalchemy",
    "sklearn",
    "pyarrow",
    "onnx",
    "scipy",
    "pandas",
    "deltalake",
    "onnxruntime_extensions",
]


def home(path: Path) -> ServedHome:
    served = ServedHome(path)
    served.seal(1, SIGNATURE)
    served.seal(2, SIGNATURE, bias=1.0)
    return served


def test_the_server_loads_nothing_that_it_does_not_serve_with() -> None:
    imports = "; ".join(f"import everloop.serve.{name}" for name in SERVED)
    code = f"{imports}; import sys; print([name for name in {FORBIDDEN!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert found.stdout.strip() == "[]"


def test_a_server_without_a_release_waits_for_one(tmp_path: Path) -> None:
    served = home(tmp_path)
    with served.serve() as server, Client(server.port) as client:
        assert client.get("/v2/health/live")[0] == 200
        assert client.get("/v2/health/ready")[0] == 503
        status, answer = client.post("/predict", {"x": 1})
        assert status == 503
        assert "no version" in answer["error"]
        server.wait_for(served.release(1))
        assert client.post("/predict", {"x": 1})[0] == 200
        assert client.get("/v2/health/ready")[0] == 200
        server.wait_for(served.release(None))
        assert client.post("/predict", {"x": 1})[0] == 503


def test_a_signal_lets_it_finish_flush_and_end_with_0(tmp_path: Path) -> None:
    served = home(tmp_path)
    served.release(1)
    with served.serve() as server, Client(server.port) as client, Client(server.port) as resting:
        assert resting.get("/status")[0] == 200
        client.send(b"".join(message("POST", "/predict", [{"x": n, "k": n}] * 50) for n in range(60)))
        assert server.terminate() == 0
        answers = client.answers(60)
        assert server.told() == {}
        assert resting.socket.recv(10) == b""
    assert [status for status, _ in answers] == [200] * len(answers)
    logged = sum(len(frame.ids) for frame in served.predictions())
    assert logged >= 50 * len(answers)


def test_it_says_where_it_listens_and_what_it_serves(tmp_path: Path) -> None:
    served = home(tmp_path)
    served.release(1)
    with served.serve() as server:
        told = server.told()
        assert told["pid"] == server.process.pid
        assert told["loops"] == {"made": 1}
        assert told["ready"] is True
        server.wait_for(served.release(2))
        assert server.told()["loops"] == {"made": 2}


def test_an_occupied_port_is_said_plainly(tmp_path: Path) -> None:
    served = home(tmp_path)
    served.release(1)
    with served.serve() as server:
        command = [sys.executable, "-m", "everloop.serve", "--home", str(tmp_path), "--loop", "made"]
        found = subprocess.run([*command, "--port", str(server.port)], capture_output=True, text=True, timeout=60)
    assert found.returncode == 7
    assert "Choose another --port" in found.stderr
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize(
    ("option", "value", "word"),
    [("--grpc-port", "99999", "65535"), ("--port", "-1", "65535"), ("--home", __file__, "no folder")],
)
def test_a_command_line_that_cannot_be_is_refused_with_what_to_write(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str, word: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--home", str(tmp_path), "--loop", "made", f"{option}={value}"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert option in said
    assert value in said
    assert word in said


def test_two_processes_share_a_port_and_a_killed_one_is_replaced(tmp_path: Path) -> None:
    served = home(tmp_path)
    served.release(1)
    with served.serve("--processes", "2") as server:
        first = server.told()["processes"]
        assert len(first) == 2
        os.kill(first[0], signal.SIGKILL)
        server.wait(lambda told: bool(told.get("ready")) and first[0] not in told["processes"])
        for _ in range(20):
            with Client(server.port) as client:
                assert client.post("/predict", {"x": 1})[0] == 200
        server.wait_for(served.release(2))
        with Client(server.port) as client:
            assert client.post("/predict", {"x": 1})[1]["version"] == 2
        pids = server.told()["processes"]
        assert server.terminate() == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


LIMITED = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (6000, resource.RLIM_INFINITY))"
"""A file of the log may grow to 6000 bytes: what a full disk looks like, without filling one."""


def test_on_a_full_disk_predictions_go_on_and_outcomes_are_refused_whole(tmp_path: Path) -> None:
    served = home(tmp_path)
    served.release(1)
    with served.serve(before=LIMITED) as server, Client(server.port) as client:
        taken = refused = 0
        for n in range(60):
            status, answer = client.post("/outcomes", [{"id": f"{n}-{m}", "value": True} for m in range(10)])
            if status == 200:
                taken += 10
            else:
                assert status == 507, answer
                assert "No space" in answer["error"]
                refused += 10
        assert refused > 0
        for n in range(200):
            status, answer = client.post("/predict", {"x": 1, "k": n})
            assert status == 200
            assert answer["probability"]["true"] == pytest.approx(expected(1))
        end = time.monotonic() + 10
        while client.get("/status")[1]["loops"]["made"]["log"]["trouble"] is None and time.monotonic() < end:
            time.sleep(0.02)
        status = client.get("/status")[1]["loops"]["made"]
        assert "No space" in status["log"]["trouble"]
        assert "No space" in status["outcomes"]["trouble"]
        text = client.get("/metrics")[1].decode()
        assert 'everloop_log_trouble{model_name="made"} 1' in text
        assert f'everloop_outcomes_refused_total{{model_name="made"}} {refused}' in text
        server.terminate()
    assert len(served.outcomes()) == taken
    ids = [id for id, _, _, _ in served.outcomes()]
    assert len(ids) == len(set(ids))


def test_acknowledged_outcomes_are_on_disk_with_name_value_and_time(tmp_path: Path) -> None:
    served = home(tmp_path)
    served.release(1, label="late")
    with served.serve() as server, Client(server.port) as client:
        sent = [
            {"id": "a", "value": True},
            {"id": "b", "value": 1.5, "name": "delay", "at": "2026-01-01T00:00:00Z"},
            {"id": "c", "value": None, "at": 5},
            {"id": "d", "name": "said", "value": "ü"},
        ]
        assert client.post("/outcomes/made", sent) == (200, {"outcomes": 4})
        server.kill()
    (a, b, c, d) = served.outcomes()
    assert a[:3] == ("a", "late", True)
    assert abs(a[3] / 1e6 - time.time()) < 60
    assert b == ("b", "delay", 1.5, 1_767_225_600_000_000)
    assert c == ("c", "late", None, 5)
    assert d[2] == "ü"
