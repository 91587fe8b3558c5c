"""How the server is handed its settings: what it is started with, what it follows, what is not started at all."""

import stat
import time
from pathlib import Path

import pytest

from everloop.errors import SpecError
from everloop.loop.server import ServingProcess, hand_over
from everloop.serve import keys
from everloop.serve.settings import Limits, ServerSettings, read
from everloop.testing.serving import Client, ServedHome, signature_of
from small_loop import SmallLoop


@pytest.fixture
def served(tmp_path: Path) -> ServedHome:
    made = ServedHome(tmp_path / ".everloop")
    made.seal(1, signature_of({"x": "number"}))
    made.release(1)
    return made


def test_the_server_is_given_its_settings_in_a_file_for_its_owner_alone(served: ServedHome) -> None:
    settings = ServerSettings(keys=True, limits=Limits(rate="2/h"))
    key = keys.add(served.home, "partner", now=time.time())
    with ServingProcess.start(served.home, ["made"], settings=settings) as server, Client(server.port) as client:
        assert stat.S_IMODE(served.home.settings.stat().st_mode) == 0o600
        assert read(served.home.settings) == settings
        assert client.post("/predict", {"x": 1})[0] == 401
        assert [client.post("/predict", {"x": 1}, x_api_key=key)[0] for _ in range(3)] == [200, 200, 429]
        hand_over(ServerSettings(keys=False), served.home)
        end = time.monotonic() + 10
        while client.post("/predict", {"x": 1})[0] != 200:
            assert time.monotonic() < end
            time.sleep(0.01)


def test_settings_that_did_not_change_are_not_written_again(served: ServedHome) -> None:
    hand_over(ServerSettings(), served.home)
    before = served.home.settings.stat()
    hand_over(ServerSettings(), served.home)
    assert served.home.settings.stat().st_ino == before.st_ino
    hand_over(ServerSettings(keys=True), served.home)
    assert served.home.settings.stat().st_ino != before.st_ino


def test_nothing_is_started_that_would_be_open_to_the_world(served: ServedHome) -> None:
    with pytest.raises(SpecError, match="keys = true"):
        ServingProcess.start(served.home, ["made"], host="0.0.0.0")
    with pytest.raises(SpecError, match="yes, without a key"):
        ServingProcess.start(served.home, ["made"], host="0.0.0.0", settings=ServerSettings())
    assert not list(served.home.servers.iterdir())
    assert not served.home.settings.exists()


def test_up_refuses_to_open_itself_before_it_begins(turned: SmallLoop) -> None:
    ended = turned.command("up", str(turned.file), "--host", "0.0.0.0", "--port", "0")
    assert (ended.code, "Traceback" in ended.err) == (3, False)
    assert "everloop keys add NAME" in ended.err
