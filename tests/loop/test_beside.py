"""What lies beside a declaration is part of a candidate: another tokenizer, other weights, another digest."""

from pathlib import Path

import pytest

from everloop.clock import SimulatedClock
from everloop.errors import TrainError
from everloop.loop.beside import contents
from everloop.loop.events import Asked
from everloop.records import Snapshot
from small_loop import DAY, START, SmallLoop

HEAD = '''"""Parcels by the words of their carrier."""

from datetime import timedelta as td

import everloop as el


def features(row):
    return {"carrier": row.carrier.tokens(4, tokenizer="words")}


'''


def test_another_content_at_the_same_path_is_another_digest(tmp_path: Path) -> None:
    loop = SmallLoop(
        tmp_path / "parcels", head=HEAD, train='el.Train(el.Torch(el.pretrained("weights"), epochs=1))'
    )  # fmt: skip
    installation = loop.install()
    assert contents(installation) == {}, "the fit says what is not there"
    for folder, file in (("words", "tokenizer.json"), ("weights", "config.json")):
        (loop.folder / folder).mkdir()
        (loop.folder / folder / file).write_text("{}")
    first = contents(installation)
    assert sorted(first) == ["weights", "words"]
    (loop.folder / "words" / "tokenizer.json").write_text('{"version": "2"}')
    second = contents(installation)
    assert second["weights"] == first["weights"]
    assert second["words"] != first["words"]
    (loop.folder / "weights" / "model.safetensors").write_bytes(b"other weights")
    assert contents(installation)["weights"] != first["weights"]


def test_a_turn_after_it_fits_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fit itself fails, which is enough: the second turn does not take the first one's candidate, it begins its own."""
    loop = SmallLoop(tmp_path / "parcels", head=HEAD, train='el.Train(el.Torch(el.pretrained("weights"), epochs=1))')
    (loop.folder / "words").mkdir()
    file = loop.folder / "words" / "tokenizer.json"
    jobs: list[str] = []

    def made(snapshot: Snapshot, digest: str, *others: object) -> None:
        jobs.append(digest)
        raise TrainError("far enough")

    for content in ("{}", "{}", '{"version": "2"}'):
        file.write_text(content)
        with loop.controller(SimulatedClock(START + 40 * DAY)) as controller:
            controller.take_in()
            monkeypatch.setattr(controller._turn, "_made", made)
            controller.ask(Asked(action="run", by="a test"))
            controller.work()
    assert jobs[0] == jobs[1] != jobs[2]
