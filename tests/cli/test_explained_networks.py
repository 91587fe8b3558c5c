"""A network's answer is explained by its gradients: columns, pixels and tokens, from what was sealed, beside its graph."""

import base64
import io
import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

import everloop.train
from everloop.clock import microseconds
from everloop.loop.attribution import Attribution, attribute
from everloop.loop.importance import importance
from everloop.loop.installation import reopen
from everloop.loop.server import ServingProcess
from everloop.loop.traffic import Traffic
from everloop.store.home import Home
from small_loop import START, Ended, SmallLoop, made_rows
from tiny_nets import HEAD

pytestmark = pytest.mark.xdist_group("torch")
Command = Callable[..., Ended]
MIXED = '''"""Will a made parcel come late? Its picture, its letter and its distance say it."""

from datetime import timedelta as td

import torch

import everloop as el


class Net(torch.nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.words = torch.nn.Embedding(52, 4, padding_idx=0)
        self.seen = torch.nn.Conv2d(1, 4, 3, padding=1)
        self.says = torch.nn.Linear(inputs + 8, outputs)

    def forward(self, columns, photo, letter):
        there = (letter != 0).float().unsqueeze(2)
        read = (self.words(letter) * there).sum(1) / there.sum(1).clamp(min=1)
        seen = torch.relu(self.seen(photo)).amax(dim=(2, 3))
        return self.says(torch.cat([columns, seen, read], dim=1))


def features(row):
    return {
        "distance": row.distance / 1000,
        "photo": row.photo.image(6, 6, channels=1),
        "letter": row.letter.tokens(5, vocabulary=50),
    }


'''


@pytest.fixture
def called(request: pytest.FixtureRequest) -> Command:
    """The command, under another name than the package's."""
    command: Command = request.getfixturevalue("everloop")
    return command


def adds_up(told: Attribution) -> bool:
    whole = told.base + sum(each.contribution for each in told.contributions) + told.gap
    return math.isclose(whole, told.total, abs_tol=1e-4) and abs(told.gap) <= max(
        0.001, 0.005 * abs(told.total - told.base)
    )


def answered(loop: SmallLoop, given: list[dict[str, object]], ids: list[str]) -> None:
    with ServingProcess.start(Home(loop.home), [loop.name], token="a token") as server:
        traffic = Traffic(server.port, loop.name, "a token")
        traffic.predict(given, [microseconds(START)] * len(given), ids)
        traffic.close()
    with loop.controller() as controller:
        controller.look()


def test_a_network_of_columns(tmp_path: Path, called: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    gaps = pl.when(pl.int_range(pl.len()) % 7 == 0).then(None).otherwise(pl.col("distance"))
    train = "el.Torch(Net, parameters={'hidden': 8}, epochs=8, learning_rate=0.02)"
    loop = SmallLoop(tmp_path, rows=made_rows(600).with_columns(gaps.alias("distance")), train=train, head=HEAD)
    assert loop.command("run", str(loop.file)).code == 0
    now = microseconds(START)
    given = [{"parcel": "far", "distance": 990.0, "carrier": "north", "sent": now}]
    given.append({"parcel": "unknown", "distance": None, "carrier": "south", "sent": now})
    answered(loop, given, ["far", "unknown"])
    installation = reopen(loop.home)
    try:
        far, unknown = (attribute(installation, id) for id in ("far", "unknown"))
        graph = attribute(installation, "far", by_graph=True)
        weighed = importance(installation, 1)
        for told in (far, unknown):
            assert told.method == "its gradients"
            assert {each.name for each in told.contributions} == {"distance", "carrier", "hour"}
            assert told.answer == pytest.approx(told.served, abs=1e-5)
            assert adds_up(told)
        # Both are beside the same rows, and say of the whole the same.
        assert graph.method == "its graph"
        assert (far.base, far.total) == pytest.approx((graph.base, graph.total), abs=1e-3)
        assert far.contributions[0].name == graph.contributions[0].name == "distance"
        assert far.contributions[0].contribution == pytest.approx(graph.contributions[0].contribution, rel=0.25)
        assert weighed.method == "its gradients"
        assert weighed.weights[0].name == "distance"
        # Without captum, or with other weights than the sealed ones, the graph is asked, and the reason said.
        with monkeypatch.context() as without:
            without.delattr(everloop.train, "gradients")
            without.setitem(sys.modules, "everloop.train.gradients", None)
            told = attribute(installation, "far")
            assert told.method == "its graph"
            assert told.note is not None
            assert "everloop[explain]" in told.note
        (weights,) = installation.home.candidates.glob("*/network.pt")
        sealed = weights.read_bytes()
    finally:
        installation.close()
    for spoil, said in (
        (lambda: weights.write_bytes(b"other weights"), "not the one that was sealed"),
        (weights.unlink, "is gone"),
    ):
        spoil()
        for subject in ("far", "v1"):
            told_in_json = called("why", subject, "--explain", "--home", loop.home, "--json").value
            assert told_in_json["method"] == "its graph"
            for reason in (told_in_json["note"], called("why", subject, "--explain", "--home", loop.home).out):
                assert "the served graph is asked: gradients need the network itself: network.pt" in reason
                assert said in reason
    weights.write_bytes(sealed)
    assert called("why", "v1", "--explain", "--home", loop.home, "--json").value["note"] is None
    shown = called("why", "far", "--explain", "--by-graph", "--home", loop.home)
    assert shown.code == 0, shown.err
    assert "by its graph" in shown.out
    assert called("why", "far", "--by-graph", "--home", loop.home).code == 2


def photo(bright: bool, random: np.random.Generator) -> bytes:
    pixels = random.integers(0, 60, (6, 6)).astype(np.uint8)
    if bright:
        pixels[2:4, 2:4] = 255
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_a_network_of_a_picture_a_text_and_columns(tmp_path: Path, called: Command) -> None:
    random = np.random.default_rng(2)
    rows = made_rows(600)
    late = rows["late"].to_list()
    rows = rows.with_columns(
        photo=pl.Series([photo(each, random) for each in late]),
        letter=pl.Series(["please hurry home" if each else "all the time in the world" for each in late]),
    )
    train = "el.Torch(Net, epochs=4, learning_rate=0.02)"
    loop = SmallLoop(tmp_path, rows=rows, train=train, head=MIXED)
    ended = loop.command("run", str(loop.file))
    assert ended.code == 0, ended.err
    id, bytes_of = rows["parcel"][0], rows["photo"][0]
    given = {
        "parcel": id, "distance": 500.0, "sent": microseconds(START), "photo": base64.b64encode(bytes_of).decode(),
        "letter": "Please hurry, nobody else",
    }  # fmt: skip
    answered(loop, [given], [id])
    out = tmp_path / "why.png"
    told = called("why", id, "--explain", "--out", out, "--home", loop.home, "--json")
    assert told.code == 0, told.err
    assert told.value["method"] == "its gradients"
    found = {each["name"]: each for each in told.value["contributions"]}
    assert set(found) == {"distance", "photo", "letter"}
    whole = told.value["base"] + sum(each["contribution"] for each in found.values()) + told.value["gap"]
    assert whole == pytest.approx(told.value["total"], abs=1e-4)
    pixels = np.array(found["photo"]["parts"])
    assert pixels.shape == (6, 6)
    assert pixels.sum() == pytest.approx(found["photo"]["contribution"], abs=1e-6)
    words = found["letter"]["words"]
    assert [word for word, _ in words] == ["please", "hurry", "nobody", "else"]
    assert sum(share for _, share in words) == pytest.approx(found["letter"]["contribution"], abs=1e-6)
    assert words[0][1] != 0.0 == words[2][1], "an unknown token is beside itself"
    for name in ("why.png", "why-photo.png", "why-letter.png"):
        assert (tmp_path / name).stat().st_size > 5_000
    shown = called("why", "v1", "--explain", "--out", tmp_path / "v1.svg", "--home", loop.home)
    assert shown.code == 0, shown.err
    assert (tmp_path / "v1-photo.svg").exists()
    assert (tmp_path / "v1-letter.svg").exists()
    installation = reopen(loop.home)
    try:
        weighed = importance(installation, 1)
    finally:
        installation.close()
    (within,) = (each for each in weighed.weights if each.name == "letter")
    assert {"please", "time"} & {word for word, *_ in within.words}
    (seen,) = (each for each in weighed.weights if each.name == "photo")
    middle = np.array(seen.parts)[1:5, 1:5]
    assert middle.sum() > 0.6 * np.sum(seen.parts), "what tells is in the middle"


def test_a_network_that_a_function_has_built_is_asked_by_its_graph_and_says_so(tmp_path: Path, called: Command) -> None:
    loop = SmallLoop(tmp_path, train="el.Train(own)", head=HEAD)
    ended = loop.command("run", str(loop.file))
    assert ended.code == 0, ended.err
    told = called("why", "v1", "--explain", "--home", loop.home, "--json").value
    assert told["method"] == "its graph"
    assert "a function of yours has built it" in told["note"]
