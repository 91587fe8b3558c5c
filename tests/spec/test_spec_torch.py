"""A network as frozen values: canonical, found again, and its mistakes said. Nothing here imports torch."""

import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import everloop as el
from everloop.spec import codec
from everloop.spec.load import load
from everloop.spec.loop import Loop
from everloop.spec.torch import Imported

PATH = "somewhere.nets.Net"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"learning_rate": 0}, "Torch.learning_rate is 0; write more than 0, for example 1e-3."),
        ({"batch_size": 0}, "Torch.batch_size is 0; write at least 1."),
        ({"batch_size": 4, "accumulate": 5}, "Torch.accumulate is 5, and a batch has 4 rows; write at most that."),
        ({"optimiser": "adamx"}, "Torch.optimiser is 'adamx'; write 'adamw' or 'adam' or"),
        ({"precision": 16}, "Torch.precision is 16; write 'auto' or '32' or 'bf16' or 'fp16'."),
        (
            {"label_smoothing": 0.1, "loss": "mse"},
            "Torch.label_smoothing is 0.1, and Torch.loss is mse; only the cross",
        ),
        ({"freeze": {"body.*": 0}}, "Torch.freeze['body.*'] is 0; write at least 1."),
        ({"replay": -1}, "Torch.replay is -1; write 0 or more, for example 0.5."),
        ({"parameters": {"net": object()}}, "Torch.parameters['net'] is <object object"),
        ({"epoch": 3}, "Torch has no field epoch; did you mean epochs=?"),
        ({"checkpoint_every": timedelta(-1)}, "write 0 (after each step) or more."),
        ({"schedule": "cosine"}, "Torch.schedule is 'cosine'; write Cosine(…) or Plateau(…) or None."),
        ({"adapt": 8}, "Torch.adapt is 8; write LoRA(…) or None."),
    ],
    ids=lambda each: next(iter(each)) if isinstance(each, dict) else "",
)
def test_a_mistake_says_its_value_and_the_remedy(given: dict[str, Any], said: str) -> None:
    with pytest.raises(el.SpecError) as mistake:
        el.Torch(PATH, **given)
    assert said in str(mistake.value)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (3, "Torch.model is 3; write the class of a module, or a function that builds one."),
        ("Net", "Torch.model is 'Net', which is no path of a class"),
        (lambda: None, "write a def or a class at the top level of the declaration"),
    ],
)
def test_a_model_that_could_not_be_found_again_is_refused(model: Any, said: str) -> None:
    with pytest.raises(el.SpecError) as mistake:
        el.Torch(model)
    assert said in str(mistake.value)


def test_every_part_is_written_down_and_read_again(loop: Callable[..., Loop]) -> None:
    torch = el.Torch(
        PATH, parameters={"widths": (8, 8), "bias": True}, schedule=el.Plateau(), early_stopping=el.EarlyStopping(),
        adapt=el.LoRA(4), freeze={"a.*": None, "b.*": 2}, batch_size=32,
    )  # fmt: skip
    one = loop(train=torch)
    assert codec.from_bytes(codec.to_bytes(one)) == one
    same = loop(train=el.Torch(Imported(path=PATH), **{
        name: getattr(torch, name) for name in ("schedule", "early_stopping", "adapt", "freeze", "batch_size")
    }, parameters={"bias": True, "widths": [8, 8]}))  # fmt: skip
    assert codec.digest(same) == codec.digest(one)
    weights = loop(train=el.Torch(el.pretrained("weights/bert")))
    assert codec.from_bytes(codec.to_bytes(weights)) == weights


def test_a_class_of_the_declaration_is_known_by_its_content(tmp_path: Path) -> None:
    text = """
import everloop as el


class Net:
    pass


def half(outputs, targets):
    return outputs


loop = el.Loop(
    name="a", source=el.Parquet("*.parquet", key="id", event_time="at"), label="late", train=el.Torch(Net, loss=half)
)
"""
    path = tmp_path / "a.py"
    path.write_text(text)
    digests = [codec.digest(load(path).loops[0])]
    path.write_text(text + "# another thought\n")
    digests.append(codec.digest(load(path).loops[0]))
    assert len(set(digests)) == 2
    (tmp_path / "nets.py").write_text("class Net:\n    pass\n")
    path.write_text(text.replace("import everloop as el", "import everloop as el\nfrom nets import Net").replace(
        "class Net:\n    pass\n", ""))  # fmt: skip
    with pytest.raises(el.SpecError, match=r"The (network|function) .*Net of the loop a stands in .*file"):
        load(path)


def test_the_declaration_imports_no_torch() -> None:
    code = "import everloop as el, sys; el.Torch('a.b'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
