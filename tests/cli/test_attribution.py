"""Contributions are in the user's columns, sum to the served answer, and come from what was sealed."""

import base64
import math
import runpy
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from everloop.clock import microseconds
from everloop.durable.engine import Engine
from everloop.errors import DataError, NotFound
from everloop.jobs.process import ProcessExecutor
from everloop.loop.attribution import Explaining, attribute
from everloop.loop.controller import Controller
from everloop.loop.importance import importance
from everloop.loop.installation import Installation, install, reopen
from everloop.loop.of_version import made_of
from everloop.loop.server import ServingProcess
from everloop.loop.traffic import Traffic
from everloop.measure.shapley import shapley
from everloop.store.home import Home
from everloop.store.ledger import versions
from small_loop import FIELDS, START, Ended, SmallLoop, made_rows

LIGHTGBM = "el.Train(__import__('lightgbm').LGBMClassifier(n_estimators=30))"
XGBOOST = "el.Train(__import__('xgboost').XGBClassifier(n_estimators=30))"
Everloop = Callable[..., Ended]


def asked(folder: Path, train: str = FIELDS["train"]) -> SmallLoop:
    """A loop that has turned once and answered ten rows, which are in the lake."""
    loop = SmallLoop(folder, train=train)
    ended = loop.command("run", str(loop.file))
    assert ended.code == 0, ended.err
    rows = made_rows(10, seed=7)
    times = rows["sent"].dt.epoch("us").to_list()
    given = rows.drop("late").with_columns(pl.col("sent").dt.epoch("us")).to_dicts()
    given[3]["carrier"] = None
    with ServingProcess.start(Home(loop.home), [loop.name], token="a token") as server:
        traffic = Traffic(server.port, loop.name, "a token")
        traffic.predict(given, times, rows["parcel"].to_list())
        traffic.close()
    with loop.controller() as controller:
        controller.look()
    return loop


IDS = made_rows(10, seed=7)["parcel"].to_list()


def opened(loop: SmallLoop) -> AbstractContextManager[Installation]:
    return opened_at(loop.home)


@contextmanager
def controlled(file: Path) -> Iterator[Controller]:
    installation = install(file)
    executor, engine = ProcessExecutor(), Engine(installation.ledger, installation.clock)
    try:
        yield Controller(installation, engine, executor)
    finally:
        engine.close()
        executor.close()
        installation.close()


@contextmanager
def opened_at(home: Path) -> Iterator[Installation]:
    installation = reopen(home)
    try:
        yield installation
    finally:
        installation.close()


@pytest.fixture(scope="module")
def boosted(tmp_path_factory: pytest.TempPathFactory) -> SmallLoop:
    return asked(tmp_path_factory.mktemp("boosted"), train=LIGHTGBM)


@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory) -> SmallLoop:
    return asked(tmp_path_factory.mktemp("linear"))


def test_a_boosted_models_own_contributions_sum_to_the_served_probability(boosted: SmallLoop) -> None:
    with opened(boosted) as installation:
        for id in IDS:
            told = attribute(installation, id)
            assert told.method == "the model's own"
            assert told.scale == "log odds"
            assert {each.name for each in told.contributions} == {"distance", "carrier", "hour"}
            total = told.base + sum(each.contribution for each in told.contributions)
            assert total == pytest.approx(told.total)
            assert 1 / (1 + math.exp(-total)) == pytest.approx(told.served, abs=1e-6)
        told = attribute(installation, IDS[3])
    (carrier,) = (each for each in told.contributions if each.name == "carrier")
    assert carrier.value is None


def test_contributions_that_are_not_of_what_was_served_are_not_shown_and_that_is_said(boosted: SmallLoop) -> None:
    with opened(boosted) as installation:
        with installation.ledger.read() as connection:
            made = made_of(installation, versions.get(connection, installation.name, 1))
        frame = made.test_rows(1)
        own = Explaining(made, 1).row(frame, served=None, seed=0)
        other = Explaining(made, 1).row(frame, served=own["answer"] + 0.01, seed=0)
    assert (own["method"], other["method"]) == ("the model's own", "its graph")
    assert other["note"].startswith("the served graph is asked: contributions by the model's own add up to 0.")


def test_the_other_class_has_the_opposite_contributions(boosted: SmallLoop) -> None:
    with opened(boosted) as installation:
        late, other = (attribute(installation, IDS[0], subject=name) for name in ("true", "False"))
        assert [each.contribution for each in other.contributions] == [
            -each.contribution for each in late.contributions
        ]
        assert (late.served or 0) + (other.served or 0) == pytest.approx(1.0)
        assert (late.subject, other.subject) == ("true", "false"), "as answers name them"
        assert attribute(installation, IDS[0], subject="false") == other
        assert attribute(installation, IDS[0], subject="True") == late
        assert importance(installation, 1, subject="False").subject == "false"
        for asked_for in ("maybe", "TRUE", ""):
            with pytest.raises(DataError, match=rf"--class is '{asked_for}'; the classes are false, true"):
                attribute(installation, IDS[0], subject=asked_for)


def test_any_model_is_explained_by_its_served_graph_in_raw_columns(linear: SmallLoop) -> None:
    with opened(linear) as installation:
        for id in IDS[:4]:
            told = attribute(installation, id)
            assert told.method == "its graph"
            assert {each.name for each in told.contributions} == {"distance", "carrier", "sent"}
            assert all(each.error == 0.0 for each in told.contributions), "few columns: exact"
            assert told.total == pytest.approx(told.base + sum(each.contribution for each in told.contributions))
            assert told.answer == pytest.approx(told.served, abs=1e-9)
        # What the world is made of: distance moves answers most; `sent` only through its hour, hardly.
        weighed = importance(installation, 1)
    assert [each.name for each in weighed.weights] == ["distance", "carrier", "sent"]
    assert all(list(each.quantiles) == sorted(each.quantiles) for each in weighed.weights)


def test_the_graph_and_the_models_own_contributions_agree_on_what_matters(boosted: SmallLoop) -> None:
    with opened(boosted) as installation:
        own = importance(installation, 1)
        (path,) = installation.home.candidates.glob("*/lightgbm.txt")
        sealed = path.read_bytes()
        path.write_text("tampered with", "utf-8")
        asked_graph = importance(installation, 1)
        told = attribute(installation, IDS[0])
        path.unlink()
        gone = importance(installation, 1)
        path.write_bytes(sealed)
        assert importance(installation, 1) == own
    assert (own.method, asked_graph.method, told.method) == ("the model's own", "its graph", "its graph")
    assert own.weights[0].name == asked_graph.weights[0].name == "distance"
    assert told.answer == pytest.approx(told.served, abs=1e-6), "a file that is not the sealed one is not read"
    assert own.note is None
    for why, said in (
        (told.note, "not the one that was sealed"),
        (asked_graph.note, "not the one that was sealed"),
        (gone.note, "is gone"),
    ):
        assert why is not None
        assert why.startswith(
            "the served graph is asked: the model's own contributions need what was sealed: lightgbm.txt"
        )
        assert said in why


def test_xgboost_and_words_of_a_free_text(tmp_path: Path) -> None:
    loop = asked(tmp_path / "xgboost", train=XGBOOST)
    with opened(loop) as installation:
        told = attribute(installation, IDS[0])
        assert told.method == "the model's own"
        assert told.answer == pytest.approx(told.served, abs=1e-5)


def test_words_bring_what_their_text_brings(tmp_path: Path) -> None:
    rows = made_rows(600)
    letters = ["please hurry home" if far else "all the time in the world" for far in rows["distance"] > 500]
    folder = tmp_path / "texts"
    loop = SmallLoop(folder, rows=rows.with_columns(letter=pl.Series(letters)))
    text = loop.file.read_text("utf-8").replace('"carrier": row.carrier', '"letter": row.letter.text()')
    loop.file.write_text(text, "utf-8")
    assert loop.command("run", str(loop.file)).code == 0
    now = microseconds(START)
    given = [{"parcel": "one", "distance": 10.0, "sent": now, "letter": "please come hurry home"}]
    with ServingProcess.start(Home(loop.home), [loop.name], token="a token") as server:
        traffic = Traffic(server.port, loop.name, "a token")
        traffic.predict(given, [now], ["one"])
        traffic.close()
    with loop.controller() as controller:
        controller.look()
    with opened(loop) as installation:
        told = attribute(installation, "one")
    (letter,) = (each for each in told.contributions if each.name == "letter")
    brought = dict(letter.words)
    assert list(brought) == ["please", "come", "hurry", "home"]
    assert letter.contribution > 0
    assert abs(brought["come"]) < 1e-9 < min(brought[word] for word in ("please", "hurry", "home"))


def test_parts_of_an_image_are_told_apart(tmp_path: Path, everloop: Everloop, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copyfile(Path(__file__).parents[2] / "examples" / "digits.py", tmp_path / "digits.py")
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(tmp_path / "digits.py"))["write"](tmp_path / "digits")
    assert everloop("run", tmp_path / "digits.py").code == 0
    home = tmp_path / ".everloop"
    with opened_at(home) as installation:
        row = installation.lake.read("raw").head(1)
    given = [{"png": base64.b64encode(row["png"][0]).decode()}]
    with ServingProcess.start(Home(home), ["digits"], token="a token") as server:
        traffic = Traffic(server.port, "digits", "a token")
        traffic.predict(given, [0], [row["_key"][0]])
        traffic.close()
    with controlled(tmp_path / "digits.py") as controller:
        controller.look()
    out = tmp_path / "why.png"
    told = everloop("why", row["_key"][0], "--explain", "--out", out, "--home", home, "--json")
    assert told.code == 0, told.err
    (picture,) = told.value["contributions"]
    assert len(picture["parts"]) == len(picture["parts"][0]) == 8
    assert max(map(max, picture["parts"])) > 0
    assert out.exists()
    assert (tmp_path / "why-png.png").exists()


def test_what_is_not_in_the_log_is_said(boosted: SmallLoop, everloop: Everloop) -> None:
    ended = everloop("why", "nobody", "--explain", "--home", boosted.home)
    assert ended.code == 11
    assert "has no 'nobody'" in ended.err
    with opened(boosted) as installation, pytest.raises(NotFound):
        importance(installation, 9)


def test_a_picture_and_json_are_written(boosted: SmallLoop, everloop: Everloop, tmp_path: Path) -> None:
    at = ("--home", boosted.home)
    for name in ("one.svg", "one.png"):
        ended = everloop("why", IDS[0], "--explain", "--out", tmp_path / name, *at)
        assert ended.code == 0, ended.err
        assert "distance" in ended.out
        assert (tmp_path / name).stat().st_size > 2_000
    assert "distance" in (tmp_path / "one.svg").read_text("utf-8")
    told = everloop("why", IDS[0], "--explain", "--json", *at).value
    total = told["base"] + sum(each["contribution"] for each in told["contributions"])
    assert total == pytest.approx(told["total"])
    version = everloop("why", "v1", "--explain", "--out", tmp_path / "v1.svg", *at)
    assert version.code == 0, version.err
    assert everloop("why", IDS[0], "--explain", "--out", tmp_path / "a.jpg", *at).code == 2
    assert everloop("why", IDS[0], "--out", tmp_path / "a.svg", *at).code == 2


# The arithmetic


def test_shares_sum_to_the_whole_and_sampled_ones_come_near_exact_ones() -> None:
    random = np.random.default_rng(3)
    players = 9
    weights, pairs = random.normal(size=players), random.normal(size=(players, players)) * 0.3

    def value(present: Any) -> Any:
        own = present @ weights
        return own + np.einsum("mi,ij,mj->m", present, pairs, present)

    exact = shapley(value, players, seed=0)
    from everloop.measure import shapley as module

    sampled = module._sampled(value, players, 5, 2_000)
    assert exact.shares.sum() == pytest.approx(exact.total - exact.base)
    assert sampled.shares.sum() == pytest.approx(exact.total - exact.base)
    assert np.all(np.abs(sampled.shares - exact.shares) < 5 * sampled.errors + 1e-9)
    expected = weights + (pairs + pairs.T).sum(axis=0) / 2
    assert exact.shares == pytest.approx(expected)
    assert np.array_equal(module._sampled(value, players, 5, 2_000).shares, sampled.shares)
