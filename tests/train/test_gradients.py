"""Gradients along the way from where nothing is said: what they tell of a network is known where it is linear."""

from typing import Any

import numpy as np
import pytest
import torch

from everloop.errors import TrainError
from everloop.forms import Special
from everloop.measure.tensors import Tensors
from everloop.train.gradients import Brought, brought
from tiny_nets import Net

pytestmark = pytest.mark.xdist_group("torch")
RANDOM = np.random.default_rng(8)
ROWS = Tensors({"columns": RANDOM.normal(size=(60, 4)).astype(np.float32)})
PICTURES = Tensors({"picture": RANDOM.normal(size=(3, 3, 6, 5)).astype(np.float32)})
IDS = np.array([[2, 3, 4, 1, 0, 0], [5, 2, 0, 0, 0, 0]], np.int64)


def one(table: Tensors, place: int = 0) -> Tensors:
    return table.taken(np.array([place]))


def adds_up(found: Brought) -> bool:
    whole = found.base + sum(each.sum() for each in found.shares.values()) + found.gap
    return bool(np.isclose(whole, found.total, atol=1e-5)) and abs(found.gap) <= max(
        0.001, 0.005 * abs(found.total - found.base)
    )


def test_columns_bring_what_sets_them_apart_from_other_rows() -> None:
    module = torch.nn.Linear(4, 1)
    found = brought(module, one(ROWS), ROWS, place=None)
    usual = ROWS["columns"][np.unique(np.linspace(0, 59, 40).astype(np.int64))].mean(axis=0)
    weights = module.weight.detach().numpy()[0]
    assert found.shares["columns"] == pytest.approx(weights * (ROWS["columns"][np.array([0])][0] - usual), abs=1e-5)
    assert adds_up(found)


@pytest.mark.parametrize("outputs", [1, 2, 3])
def test_a_network_of_any_number_of_outputs_is_told_in_log_odds(outputs: int) -> None:
    module = Net(4, outputs)
    with torch.no_grad():
        for each in module.parameters():
            each.mul_(3.0)
        said = module.eval()(torch.from_numpy(ROWS["columns"][np.array([7])])).double().numpy()[0]
    shown = np.array([0.0, said[0]]) if outputs == 1 else said
    chances = np.exp(shown) / np.exp(shown).sum()
    for place, chance in enumerate(chances):
        found = brought(module, one(ROWS, 7), ROWS, place=place)
        assert found.total == pytest.approx(np.log(chance / (1 - chance)), abs=1e-5)
        assert adds_up(found)


class Seen(torch.nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.way = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(240, 3)
        )

    def forward(self, picture: torch.Tensor) -> Any:
        return self.way(picture)


def test_pixels_bring_what_sets_them_apart_from_the_mean_colour() -> None:
    found = brought(Seen(), one(PICTURES, 1), PICTURES, place=2)
    assert found.shares["picture"].shape == (6, 5)
    assert adds_up(found)
    straight = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(90, 1))
    told = brought(straight, one(PICTURES), PICTURES, place=None).shares["picture"]
    pixels = PICTURES["picture"][np.array([0])][0]
    weights = straight[1].weight.detach().numpy().reshape(3, 6, 5)
    expected = (weights * (pixels - pixels.mean(axis=(1, 2), keepdims=True))).sum(axis=0)
    assert told == pytest.approx(expected, abs=1e-5)


class Read(torch.nn.Module):  # type: ignore[misc]
    """The mean over what is no padding: a mask that is made of the ids."""

    def __init__(self, twice: bool = False) -> None:
        super().__init__()
        self.words, self.places, self.twice = torch.nn.Embedding(8, 4), torch.nn.Embedding(6, 4), twice
        self.says = torch.nn.Linear(4, 2)

    def forward(self, tokens: torch.Tensor) -> Any:
        there = (tokens != 0).float().unsqueeze(2)
        seen = self.words(tokens) + self.places(torch.arange(tokens.shape[1]))
        if self.twice:
            seen = seen + self.words(tokens)
        return self.says((torch.tanh(seen) * there).sum(1) / there.sum(1))


@pytest.mark.parametrize("special", [Special(), Special(padding=0, unknown=0, marks=(5,))])
def test_tokens_bring_what_sets_them_apart_from_an_unknown_one(special: Special) -> None:
    table = Tensors({"tokens": IDS}, {"tokens": special})
    for place in (0, 1):
        found = brought(Read(), one(table, place), table, place=1)
        shares = found.shares["tokens"]
        assert shares.shape == (6,)
        assert adds_up(found)
        assert np.all(shares[IDS[place] == 0] == 0.0), "padding says nothing"
        kept = [*special.marks, special.unknown]
        assert np.all(shares[np.isin(IDS[place], kept)] == 0.0), "what stays as it is brings nothing"
        assert np.all(shares[~np.isin(IDS[place], [0, *kept])] != 0.0)


class All(torch.nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.read, self.seen, self.counted = Read(), Seen(), Net(4, 2)

    def forward(self, tokens: torch.Tensor, columns: torch.Tensor, picture: torch.Tensor) -> Any:
        return self.read(tokens) * self.counted(columns) + self.seen(picture)[:, :2]


def test_columns_pixels_and_tokens_of_one_network_add_up_together() -> None:
    table = Tensors(
        {"tokens": IDS, "columns": ROWS["columns"][np.arange(2)], "picture": PICTURES["picture"][np.arange(2)]}
    )
    found = brought(All(), one(table), table, place=0)
    assert {name: each.shape for name, each in found.shares.items()} == {
        "tokens": (6,), "columns": (4,), "picture": (6, 5),
    }  # fmt: skip
    assert adds_up(found)


def test_a_network_without_one_place_where_tokens_are_looked_up_says_so() -> None:
    table = Tensors({"tokens": IDS})
    with pytest.raises(TrainError, match=r"looked up 2 times in a torch\.nn\.Embedding"):
        brought(Read(twice=True), one(table), table, place=1)
