"""A network that two processes train together is the one that one process trains."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from everloop.measure.tensors import Tensors
from everloop.spec.torch import Torch
from everloop.train.function import Machine, TrainContext
from everloop.train.torch import fit
from tiny_nets import declared, fitted, rows

pytestmark = pytest.mark.xdist_group("torch")
SUPPORT = Path(__file__).parents[1] / "support"


def by_two(
    network: Torch, inputs: Tensors, target: Any, folder: Path, said: list[dict[str, Any]], *, sharded: bool = False
) -> Any:
    context = TrainContext(
        seed=1, threads=2, folder=folder, progress=said.append, machine=Machine(processes=2, sharded=sharded)
    )
    return fit(network, inputs, target, task="binary", classes=2, weights=None, context=context)


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{SUPPORT}:{':'.join(sys.path)}")


def same(one: Any, other: Any) -> None:
    for name, weight in one.module.state_dict().items():
        assert torch.allclose(weight, other.module.state_dict()[name], atol=1e-5), name


def test_where_one_process_runs_out_of_memory_both_go_on_in_parts_of_the_same_steps(tmp_path: Path) -> None:
    inputs, target = rows()
    said: list[dict[str, Any]] = []
    network = declared("rank_nets.Starved", parameters={"dropout": 0.0})
    model = by_two(network, inputs, target, tmp_path, said)
    same(fitted(declared(parameters={"dropout": 0.0}), inputs, target), model)
    assert [each["rows_at_once"] for each in said if "memory" in each][-1:] in ([], [4])
    (kept,) = (tmp_path).rglob("remembered/*.json")
    assert b'"rows_at_once":4' in kept.read_bytes()
    assert len(model.history) == 3


def test_a_divided_network_is_the_whole_one(tmp_path: Path) -> None:
    inputs, target = rows()
    network = declared(parameters={"dropout": 0.0}, weight_decay=0.01, clip_gradient=1.0)
    said: list[dict[str, Any]] = []
    named = declared("tiny_nets.Net", parameters={"dropout": 0.0}, weight_decay=0.01, clip_gradient=1.0)
    same(fitted(network, inputs, target), by_two(named, inputs, target, tmp_path, said, sharded=True))
    assert [each["epoch"] for each in said if "learning_rate" in each] == [1, 2, 3]
