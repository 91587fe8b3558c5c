import shutil
from pathlib import Path

import pytest

from everloop.cli.app import run_app
from everloop.data import sources
from everloop.loop.simulate import simulate
from everloop.spec.codec import digest, from_bytes, to_bytes
from everloop.spec.load import load
from everloop.spec.resolve import LabelFacts, resolve

EXAMPLES = Path(__file__).parents[2] / "examples"
DATA = EXAMPLES.parents[1] / "shared" / "data"
TASKS = {"parcels": "binary", "elec2": "binary", "hflights": "binary", "bike": "regression"}


@pytest.mark.parametrize("name", TASKS)
def test_an_example_means_the_same_after_it_was_stored(name: str) -> None:
    for loop in load(EXAMPLES / f"{name}.py").loops:
        assert digest(from_bytes(to_bytes(loop))) == digest(loop)


@pytest.mark.parametrize("name", TASKS)
def test_an_example_fits_its_data(name: str, tmp_path: Path) -> None:
    path = EXAMPLES / f"{name}.py"
    if name == "parcels":
        simulate(tmp_path, days=60, rows_per_day=20)
        path = Path(shutil.copy(path, tmp_path))
    elif not DATA.is_dir():
        pytest.skip("the real sets are not here")
    for loop in load(path).loops:
        schema = sources.schema_of(loop.source, path.parent)
        (first, *_) = sources.files(loop.source, path.parent)
        label = sources.read(loop.source, first, schema)[loop.label.column]
        values = label.drop_nulls().unique().sort().to_list()
        facts = LabelFacts(distinct=tuple(values[:1_000]), rows=len(label), missing=label.null_count())
        resolved = resolve(loop, schema, facts)
        assert resolved.task == TASKS[name]
        assert loop.label.column not in resolved.inputs
        assert not set(resolved.inputs) & set(loop.source.after)


@pytest.mark.skipif(not DATA.is_dir(), reason="the real sets are not here")
@pytest.mark.parametrize("name", [name for name in TASKS if name != "parcels"])
def test_check_finds_a_real_example_sound(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = EXAMPLES / f"{name}.py"
    assert run_app(["check", str(path), "--loop", load(path).loops[0].name]) == 0
    assert "is sound" in capsys.readouterr().out


def test_each_real_example_has_the_plain_policy_beside_it() -> None:
    for name in ("elec2", "hflights"):
        whole, plain = load(EXAMPLES / f"{name}.py").loops
        assert plain.gate is None
        assert plain.source == whole.source
        assert plain.features == whole.features
