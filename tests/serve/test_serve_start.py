"""How a server comes to serve: packages read beside the imports, changes noticed without looking, memory given back."""

import select
import subprocess
import sys
from pathlib import Path

import pytest

from everloop.errors import PackageTampered
from everloop.serve.ahead import Ahead
from everloop.serve.model import load
from everloop.serve.notify import Notify
from everloop.store.files import write_atomically
from everloop.store.packages import trusted_keys
from everloop.testing.serving import Client, ServedHome, expected, signature_of

SIGNATURE = signature_of({"x": "number"})


def home(path: Path) -> ServedHome:
    served = ServedHome(path)
    served.seal(1, SIGNATURE)
    served.seal(2, SIGNATURE, bias=1.0)
    return served


def damage(served: ServedHome, version: int) -> None:
    place = served.home.packages / served.versions[version] / "model.onnx"
    data = bytearray(place.read_bytes())
    data[len(data) // 2] ^= 1
    place.write_bytes(data)


def test_what_is_read_ahead_is_given_once_and_only_if_it_is_sound(tmp_path: Path) -> None:
    served = home(tmp_path)
    served.release(1, 2)
    damage(served, 2)
    ahead = Ahead(served.home, ["made", "of a loop that is not there"])
    opened = ahead.take(served.versions[1])
    assert opened is not None
    assert load(opened.folder, {}, opened=opened).digest == served.versions[1], (
        "it was checked: no key is asked for again"
    )
    assert ahead.take(served.versions[1]) is None
    assert ahead.take(served.versions[2]) is None
    with pytest.raises(PackageTampered):
        load(served.home.packages / served.versions[2], trusted_keys(served.home.keys))


def test_a_server_that_starts_on_a_damaged_package_says_so_and_serves_it_when_it_is_restored(tmp_path: Path) -> None:
    served = home(tmp_path)
    sound = (served.home.packages / served.versions[1] / "model.onnx").read_bytes()
    served.release(1)
    damage(served, 1)
    with served.serve() as server, Client(server.port) as client:
        status, answer = client.post("/predict", {"x": 1})
        assert status == 503
        assert "model.onnx does not match the manifest" in answer["error"]
        (served.home.packages / served.versions[1] / "model.onnx").write_bytes(sound)
        server.wait_for(1)
        assert client.post("/predict", {"x": 1})[1]["probability"]["true"] == pytest.approx(expected(1))


def test_a_file_that_is_put_in_its_place_is_told_and_nothing_else(tmp_path: Path) -> None:
    notify = Notify()
    assert notify.watch([tmp_path])

    def told() -> bool:
        return bool(select.select([notify.descriptor], [], [], 0)[0])

    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inside").write_text("x")
    assert not told()
    write_atomically(tmp_path / "made.json", b"{}", sync=False)
    assert told()
    for _ in range(3000):  # more than is read at once
        write_atomically(tmp_path / "made.json", b"{}", sync=False)
    notify.clear()
    assert not told()
    (tmp_path / "made.json").unlink()
    assert told()
    notify.close()
    assert notify.descriptor < 0


def test_where_the_kernel_cannot_tell_a_release_is_followed_all_the_same(tmp_path: Path) -> None:
    silent = "import everloop.serve.notify as notify; notify.Notify.watch = lambda self, folders: False"
    served = home(tmp_path)
    served.release(1)
    with served.serve(before=silent) as server, Client(server.port) as client:
        server.wait_for(served.release(2))
        assert client.post("/predict", {"x": 1})[1]["version"] == 2


def test_a_folder_that_cannot_be_watched_is_no_error(tmp_path: Path) -> None:
    notify = Notify()
    assert not notify.watch([tmp_path, tmp_path / "not there"])
    assert notify.descriptor < 0


FREED = """
import os
from everloop.serve.memory import resident, trim
before = resident()
pieces = [os.urandom(4096) for _ in range(20_000)]  # pieces of the heap, which is not given back by itself
kept, held = pieces[-1], resident() - before
del pieces
trim()
print(held, resident() - before, len(kept))
"""


def test_what_was_freed_is_given_back_to_the_system() -> None:
    """In a process of its own: the heap of another may have room for them already."""
    found = subprocess.run([sys.executable, "-c", FREED], check=True, capture_output=True, text=True, timeout=60)
    held, left, kept = map(int, found.stdout.split())
    assert held > 70_000_000
    assert left < 40_000_000
    assert kept == 4096


def test_a_server_that_only_checks_signatures_reads_no_other_kind_of_key() -> None:
    code = "import everloop.serve.__main__, sys; print([name for name in sys.modules if 'serialization.ssh' in name or name.startswith(('numpy', 'onnxruntime'))])"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert found.stdout.strip() == "[]", "numpy and the runtime are loaded while the packages are read"
