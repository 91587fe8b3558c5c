"""How a network is fitted: what it is told, what it learns, what it refuses."""

import os
import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import everloop as el
from everloop.errors import TrainError
from everloop.measure import encode
from everloop.measure.tensors import Tensors
from everloop.spec.torch import Torch
from everloop.spec.train import Train
from everloop.train import function, torch_batches, torch_compiled
from everloop.train.fit import fit as fit_any
from everloop.train.function import Machine, TrainContext
from tiny_nets import Net, declared, fitted, rows

pytestmark = pytest.mark.xdist_group("torch")


def accuracy(model: Any, inputs: Tensors, target: Any) -> float:
    return float((model.predict_proba(inputs).argmax(axis=1) == target).mean())


def test_a_network_learns_and_the_same_declaration_gives_the_same_weights() -> None:
    inputs, target = rows()
    one, two = (fitted(declared(epochs=8), inputs, target) for _ in range(2))
    assert accuracy(one, inputs, target) > 0.9
    assert [record["epoch"] for record in one.history] == list(range(1, 9))
    for name, weight in one.module.state_dict().items():
        assert torch.equal(weight, two.module.state_dict()[name])


def test_a_step_in_parts_has_the_gradients_of_the_whole_step() -> None:
    inputs, target = rows()
    whole = fitted(declared(parameters={"dropout": 0.0}), inputs, target)
    parts = fitted(declared(parameters={"dropout": 0.0}, accumulate=4), inputs, target)
    for name, weight in whole.module.state_dict().items():
        assert torch.allclose(weight, parts.module.state_dict()[name], atol=1e-5)


class Heavy(Net):
    """Memory holds ten rows of it."""

    def forward(self, columns: torch.Tensor) -> Any:
        if len(columns) > 10 and self.training:
            raise torch.OutOfMemoryError("made")
        return super().forward(columns)


def test_where_memory_runs_out_the_step_goes_on_in_parts_and_says_so() -> None:
    inputs, target = rows()
    said: list[dict[str, Any]] = []
    context = TrainContext(seed=1, progress=said.append)
    model = fitted(declared(Heavy, parameters={"dropout": 0.0}), inputs, target, context=context)
    whole = fitted(declared(parameters={"dropout": 0.0}), inputs, target)
    assert "steps of 32 rows go on in parts of 8" in model.told[-1]
    assert [each["rows_at_once"] for each in said if "memory" in each] == [15, 8]
    for name, weight in whole.module.state_dict().items():
        assert torch.allclose(weight, model.module.state_dict()[name], atol=1e-5)


def test_what_memory_holds_is_remembered_for_the_next_turn(tmp_path: Path) -> None:
    inputs, target = rows()
    for turn in range(2):
        context = TrainContext(seed=1, machine=Machine(remembered=tmp_path))
        model = fitted(declared(Heavy, epochs=1), inputs, target, context=context)
        assert bool(model.told) == (turn == 0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of torch, in what its own compiler imports
def test_auto_compiles_where_that_pays_and_remembers_what_it_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiled for real, and the network is the same either way."""
    monkeypatch.setattr(torch_compiled, "WORTH_SECONDS", 0.0)
    monkeypatch.setattr(torch_compiled, "LOOK", 2)
    inputs, target = rows()
    plain = fitted(declared(parameters={"dropout": 0.0}), inputs, target)
    compiled = declared(parameters={"dropout": 0.0}, compile="auto")
    for turn in range(2):
        context = TrainContext(seed=1, threads=1, machine=Machine(remembered=tmp_path))
        model = fitted(compiled, inputs, target, context=context)
        assert len(model.told) == (turn == 0)
        for name, weight in plain.module.state_dict().items():
            assert torch.allclose(weight, model.module.state_dict()[name], atol=1e-5)
        if turn == 0:
            assert re.match(
                r"compiled steps take \d+\.\d\d of what plain|the network cannot be compiled", model.told[0]
            )
            (kept,) = tmp_path.glob("*.json")
            assert b'"compile":' in kept.read_bytes()


class Hopeless(Net):
    def forward(self, columns: torch.Tensor) -> Any:
        raise torch.OutOfMemoryError("made")


def test_a_network_that_no_memory_holds_says_so() -> None:
    with pytest.raises(TrainError, match="does not hold the network with a single row"):
        fitted(declared(Hopeless), *rows())


def test_every_row_is_in_an_epoch_once_whoever_takes_it() -> None:
    places = torch_batches.order(103, seed=3, epoch=2)
    count = torch_batches.steps(103, 16)
    seen = [
        part
        for step in range(count)
        for rank in range(3)
        for part in torch_batches.parts(
            torch_batches.of_rank(torch_batches.step_places(places, step, count), rank, 3), 2
        )
    ]
    assert sorted(np.concatenate(seen).tolist()) == list(range(103))
    assert not np.array_equal(places, torch_batches.order(103, seed=3, epoch=3))


def test_early_stopping_keeps_the_best_epoch() -> None:
    inputs, target = rows(400)
    stopping = el.EarlyStopping(patience=2, share=0.25)
    model = fitted(declared(epochs=40, learning_rate=0.3, early_stopping=stopping), inputs, target)
    assert len(model.history) < 40
    scores = [record["score"] for record in model.history]
    assert scores[-3] == min(scores)


def test_a_frozen_part_stays_and_thaws_when_it_is_said_to() -> None:
    inputs, target = rows()
    begun = fitted(declared(epochs=1, learning_rate=1e-12), inputs, target).module.state_dict()
    for_ever = fitted(declared(freeze={"first.*": None}), inputs, target).module.state_dict()
    thawed = fitted(declared(freeze={"first.*": 1}), inputs, target).module.state_dict()
    assert torch.allclose(begun["first.weight"], for_ever["first.weight"], atol=1e-6)
    assert not torch.allclose(begun["first.weight"], thawed["first.weight"], atol=1e-3)
    with pytest.raises(TrainError, match=r"names 'middle\.\*', and no parameter is called so; there are first\.weight"):
        fitted(declared(freeze={"middle.*": 1}), inputs, target)


def own_loss(outputs: torch.Tensor, targets: torch.Tensor) -> Any:
    return torch.nn.functional.cross_entropy(outputs, targets, reduction="none")


@pytest.mark.parametrize(
    "changes",
    [
        {"optimiser": "sgd"}, {"optimiser": "rmsprop"}, {"optimiser": "adagrad"}, {"optimiser": "adam"},
        {"schedule": None}, {"schedule": el.Plateau()}, {"loss": own_loss}, {"precision": "bf16"},
        {"label_smoothing": 0.1}, {"deterministic": True}, {"clip_gradient": None},
        {"adapt": el.LoRA(rank=2)},
    ],
    ids=lambda changes: next(iter(changes)) + "=" + str(next(iter(changes.values())))[:12],
)  # fmt: skip
def test_every_way_of_training_learns(changes: dict[str, Any]) -> None:
    inputs, target = rows()
    model = fitted(declared(epochs=12, **changes), inputs, target)
    assert accuracy(model, inputs, target) > 0.8
    assert not any("lora" in name for name, _ in model.module.named_parameters())


def test_a_regression_answers_in_the_labels_units() -> None:
    inputs, _ = rows()
    target = 1_000.0 + 50.0 * np.asarray(inputs["columns"])[:, 0].astype(np.float64)
    model = fitted(declared(epochs=20), inputs, target, task="regression", classes=1)
    assert np.abs(model.predict(inputs) - target).mean() < 15


def test_weights_of_rows_move_the_answers() -> None:
    inputs, target = rows()
    plain = fitted(declared(), inputs, target).predict_proba(inputs)[:, 1].mean()
    heavier = fitted(declared(), inputs, target, weights=np.where(target == 1, 5.0, 1.0))
    assert heavier.predict_proba(inputs)[:, 1].mean() > plain + 0.05


class Lazy(torch.nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.only = torch.nn.LazyLinear(1)

    def forward(self, columns: torch.Tensor) -> Any:
        return self.only(columns)


def test_layers_may_learn_their_width_and_one_logit_is_enough_for_two_classes() -> None:
    inputs, target = rows()
    model = fitted(declared(Lazy, epochs=25), inputs, target)
    assert model.width == 1
    assert accuracy(model, inputs, target) > 0.9


class Wrong(torch.nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.only = torch.nn.Linear(4, 7)

    def forward(self, columns: torch.Tensor) -> Any:
        return self.only(columns)


class Broken(Wrong):
    def forward(self, columns: torch.Tensor) -> Any:
        return self.only(columns[:, :3])


def test_what_does_not_fit_is_said_with_its_line() -> None:
    with pytest.raises(TrainError, match=r"answers \(7,\) a row, and there are 2 classes; let it answer 2 logits"):
        fitted(declared(Wrong), *rows())
    with pytest.raises(
        TrainError, match=r"a step of the network fails: RuntimeError: mat1 .*line \d+ of test_torch\.py"
    ):
        fitted(declared(Broken), *rows())
    with pytest.raises(TrainError, match=r"the network Net could not be built: TypeError: .*colour"):
        fitted(declared(parameters={"colour": 1}), *rows())
    with pytest.raises(TrainError, match=r"the network diverged; lower Torch\.learning_rate"):
        fitted(declared(learning_rate=1e30, optimiser="sgd", clip_gradient=None), *rows())
    with pytest.raises(TrainError, match=r"torch_nothing\.Net cannot be imported"):
        fitted(declared("torch_nothing.Net"), *rows())


def test_a_fit_that_was_stopped_goes_on_to_the_very_same_weights(tmp_path: Path) -> None:
    inputs, target = rows()
    undisturbed = fitted(declared(epochs=4), inputs, target).module.state_dict()
    steps = 4 * torch_batches.steps(240, 32)

    class Stopped(Exception):
        pass

    every = declared(epochs=4, checkpoint_every=timedelta(0))
    for at in (1, steps // 2, steps - 1):
        folder = tmp_path / str(at)
        seen: list[int] = []

        def stop(detail: dict[str, Any], at: int = at, seen: list[int] = seen) -> None:
            if "checkpoint" in detail:
                seen.append(1)
                if len(seen) == at:
                    raise Stopped

        with pytest.raises(Stopped):
            fitted(every, inputs, target, context=TrainContext(seed=1, checkpoints=folder, progress=stop))
        said: list[dict[str, Any]] = []
        again = TrainContext(seed=1, checkpoints=folder, progress=said.append)
        resumed = fitted(every, inputs, target, context=again)
        assert "resumed" in said[0]
        assert len(resumed.history) == 4
        for name, weight in undisturbed.items():
            assert torch.equal(weight, resumed.module.state_dict()[name])
        assert not list(folder.iterdir())


def test_another_fit_does_not_take_the_checkpoint(tmp_path: Path) -> None:
    inputs, target = rows()

    def stop(detail: dict[str, Any]) -> None:
        if "epoch" in detail:
            raise KeyboardInterrupt

    context = TrainContext(seed=1, checkpoints=tmp_path, progress=stop)
    with pytest.raises(KeyboardInterrupt):
        fitted(declared(), inputs, target, context=context)
    said: list[dict[str, Any]] = []
    fitted(declared(), inputs, 1 - target, context=TrainContext(seed=1, checkpoints=tmp_path, progress=said.append))
    assert not any("resumed" in each for each in said)


def test_numbers_are_scaled_and_missing_ones_have_a_column_of_their_own() -> None:
    features = {
        "far": np.array([1e6, 1e6 + 2, np.nan, 1e6 - 2]), "kind": np.array(["a", "b", None, "a"], dtype=object),
        "sure": np.array([1.0, 2.0, 3.0, 4.0]),
    }  # fmt: skip
    types: Any = {"far": "number", "kind": "text", "sure": "number"}
    table = encode.learn(features, types, native_categories=False, accepts_missing=False, network=True)
    assert table.columns == ("far", "kind=a", "kind=b", "kind missing", "kind unseen", "sure", "far missing")
    found = encode.inputs(table, features)
    assert isinstance(found, Tensors)
    columns = np.asarray(found["columns"])
    assert columns.dtype == np.float32
    assert columns[:, 0] == pytest.approx([0, 1.2247449, 0, -1.2247449], abs=1e-6)
    assert columns[:, -1].tolist() == [0, 0, 1, 0]
    assert np.abs(encode.apply(table, {**features, "sure": np.array([1e30] * 4)})[:, 5]).max() == 10


def test_the_declaration_fits_through_the_same_door_as_an_estimator() -> None:
    random = np.random.default_rng(0)
    features = {"x": random.normal(size=200), "kind": random.choice(["a", "b"], 200).astype(object)}
    types: Any = {"x": "number", "kind": "text"}
    target = (features["x"] > 0).astype(np.int64) + (features["kind"] == "b")
    table = encode.learn(features, types, native_categories=False, accepts_missing=False, network=True)
    made = fit_any(
        Train(declared(epochs=20)), table, encode.inputs(table, features), target, task="multiclass", classes=4,
        parameters={"hidden": 12, "learning_rate": 0.05},
    )  # fmt: skip
    assert made.kind == "torch"
    assert made.predict(encode.inputs(table, features)).shape == (200, 4)
    assert made.model.module.first.out_features == 12
    with pytest.raises(el.SpecError, match=r"Search\.space names 'colour', which .* does not take"):
        el.Train(Torch(Net), search=el.Search({"colour": el.Uniform(0, 1)}))


SHORT = """
import resource
import sys

from tiny_nets import declared, fitted, rows

inputs, target = rows(2048)
fitted(declared(epochs=1), inputs, target)  # what torch takes for itself
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + (300 << 20), resource.RLIM_INFINITY))
model = fitted(declared(epochs=1, batch_size=2048, parameters={"hidden": 20_000}), inputs, target)
print(model.told)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux says how much a process holds")
def test_a_process_whose_memory_really_runs_out_goes_on_in_parts() -> None:
    support = str(Path(__file__).parents[1] / "support")
    done = subprocess.run(
        [sys.executable, "-c", SHORT], env={**os.environ, "PYTHONPATH": support}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "steps of 2048 rows go on in parts of" in done.stdout


def test_a_loop_of_ones_own_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    context = TrainContext(checkpoints=tmp_path / "checkpoints")
    assert context.resumed() is None
    context.checkpoint(b"epoch 3")
    seen: list[bytes | None] = []

    def own(samples: Any, params: Any, context: TrainContext) -> Any:
        seen.append(context.resumed())
        return torch.nn.Linear(4, 2)

    inputs, target = rows()
    rows_of_it = function.rows_of(inputs, y=target, weights=None, columns=("a", "b", "c", "d"))
    for _ in range(2):
        function.call(own, rows_of_it, {}, context)
    assert seen == [b"epoch 3", None]
