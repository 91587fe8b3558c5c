"""How a server is told to guard itself, and that it does not open itself to the world by accident."""

import subprocess
import sys
from pathlib import Path

import pytest

from everloop.errors import SpecError
from everloop.serve.rates import Rate, quota
from everloop.serve.settings import Changed, Limits, ServerSettings, encode, is_loopback, read
from everloop.store.home import Home
from everloop.testing.serving import Client, ServedHome, signature_of

SIGNATURE = signature_of({"x": "number"})


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    settings = ServerSettings(keys=True, limits=Limits(rate="100/s"), idle_seconds=2.5)
    path = tmp_path / "settings.json"
    path.write_bytes(encode(settings))
    assert read(path) == settings


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "cannot be read"), (b"{", "are not JSON"), (b'{"keys": 1}', ".keys is 1; write true or false")],
)
def test_a_settings_file_that_cannot_be_used_is_said(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "settings.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SpecError, match="settings") as caught:
        read(path)
    assert said in str(caught.value)


@pytest.mark.parametrize("text", ["", "100", "/s", "0/s", "-1/s", "1.5/s", "100/d", "100/ s", "٣/s", "9999999999999/s"])
def test_a_rate_that_is_none_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(SpecError, match="write"):
        Rate.parse(text)


def test_a_rate_says_itself_as_it_was_written() -> None:
    assert [str(Rate.parse(each)) for each in ("100/s", "5/m", "7/h")] == ["100/s", "5/m", "7/h"]
    assert str(quota("1000000/d")) == "1000000/d"


def test_what_changes_at_once_is_told_from_what_takes_a_restart() -> None:
    before = ServerSettings()
    after = ServerSettings(limits=Limits(rate="1/s"), body_bytes=5)
    assert Changed.between(before, after) == Changed(("limits",), ("body_bytes",))
    assert Changed.between(before, before) == Changed((), ())


def test_a_name_that_is_not_known_to_be_loopback_is_taken_as_open() -> None:
    assert [is_loopback(each) for each in ("127.0.0.1", "::1", "localhost")] == [True] * 3
    assert not any(is_loopback(each) for each in ("0.0.0.0", "::", "", "example.com", "2001:db8::1"))


def start(home: Home, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "everloop.serve", "--home", str(home.root), "--loop", "made", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])
def test_a_server_does_not_start_open_to_the_world_without_a_key(tmp_path: Path, host: str) -> None:
    ended = start(Home(tmp_path), "--host", host)
    assert ended.returncode == 3
    assert "Traceback" not in ended.stderr
    for remedy in ("keys = true", "everloop keys add NAME", "127.0.0.1", "--open-to-the-world", "yes, without a key"):
        assert remedy in ended.stderr


def test_settings_that_cannot_be_used_end_the_start_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text('{"kyes": true}')
    ended = start(Home(tmp_path), "--settings", str(tmp_path / "settings.json"))
    assert (ended.returncode, "Traceback" in ended.stderr) == (3, False)
    assert "has kyes; known are" in ended.stderr


@pytest.mark.parametrize("way", ["command", "settings"])
def test_told_twice_it_serves_the_world(tmp_path: Path, way: str) -> None:
    served = ServedHome(tmp_path)
    served.seal(1, SIGNATURE)
    served.release(1)
    twice = ["--open-to-the-world"]
    if way == "settings":
        served.home.settings.write_bytes(encode(ServerSettings(open_to_the_world="yes, without a key")))
        twice = ["--settings", str(served.home.settings)]
    with served.serve("--host", "0.0.0.0", *twice) as server, Client(server.port) as client:
        assert client.post("/predict", {"x": 1})[0] == 200
