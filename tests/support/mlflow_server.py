"""A real MLflow server on loopback, from an environment of its own, in a process group of its own."""

import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / ".venv-bench" / "mlflow" / "bin" / "mlflow"
PATIENCE = 180.0


def program() -> Path:
    """Skips, saying why, where MLflow is not installed; fails there in CI."""
    if not PROGRAM.exists():
        told = "MLflow is not installed: `make .venv-bench/mlflow/ready` (about a minute) makes its environment"
        if os.environ.get("CI") == "true":
            pytest.fail(told)
        pytest.skip(told)
    return PROGRAM


@contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """Its address. Its group is ended whole: MLflow leaves helpers behind when only its parent is told to end."""
    chosen = program()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        str(chosen), "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder / 'store.sqlite'}", "--artifacts-destination", str(folder / "kept"),
    ]  # fmt: skip
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    with (folder / "said.log").open("wb") as said:
        process = subprocess.Popen(
            command, stdout=said, stderr=said, start_new_session=True, cwd=folder, env={**os.environ, **quiet}
        )
    try:
        address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + PATIENCE
        while not _well(address):
            assert process.poll() is None, (folder / "said.log").read_text()[-2_000:]
            assert time.monotonic() < deadline, (folder / "said.log").read_text()[-2_000:]
            time.sleep(0.2)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _well(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
