"""A declaration's file becomes loops, or one sentence with the place of the mistake."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import everloop as el
from everloop.spec import codec
from everloop.spec.load import functions_of, load, module_of

HEAD = """import everloop as el
from datetime import timedelta as td

def fit(samples, params, context):
    return None

def regret(truth, prediction, rows):
    return 0.0

source = el.Parquet("x/*.parquet", key="id", event_time="at")
"""
SOUND = HEAD + 'loop = el.Loop(name="one", source=source, label="y", train=fit)\n'

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(text: str, name: str = "flights.py") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return written


def test_a_file_is_its_loops_its_bytes_and_their_digest(write: Write) -> None:
    path = write(SOUND)
    found = load(path)
    assert [each.name for each in found.loops] == ["one"]
    assert found.source == path.read_bytes()
    assert functions_of(found.loops[0])[0].module_file_digest == found.source_digest
    assert codec.digest(found.loops[0]) == codec.digest(load(path).loops[0])


def test_a_file_may_hold_several_loops_alone_or_together(write: Write) -> None:
    text = SOUND + (
        "from dataclasses import replace\n"
        "again = loop\n"
        'more = [replace(loop, name=f"two-{each}") for each in "ab"]\n'
        'named = {"c": replace(loop, name="three")}\n'
    )
    assert [each.name for each in load(write(text)).loops] == ["one", "two-a", "two-b", "three"]


MISTAKES = {
    "no loop": (HEAD, r"flights\.py declares no loop; write loop = el\.Loop"),
    "a mistake of shape": (
        HEAD + 'loop = el.Loop(name="one", source=source,\n    label=el.Label("y", delay=6), train=fit)\n',
        r"flights\.py:1[12]: Label\.delay is 6; write a timedelta",
    ),
    "a name that is nothing": (
        HEAD + "\nloop = el.Lop()\n",
        r"flights\.py:12: AttributeError: .*did you mean el\.Loop",
    ),
    "bad grammar": (HEAD + "loop = el.Loop(\n", r"flights\.py:11: .*never closed.*correct the line"),
    "null bytes": (HEAD + "loop = 1\x00", r"^flights\.py: .*null bytes.*write it anew as text"),
    "a library that is not there": (
        "import everloop\nimport no_such_library\n",
        r"flights\.py:2: ModuleNotFoundError: .*no_such_library.*install it",
    ),
    "a failing line": (HEAD + "print(1 / 0)\n", r"flights\.py:11: ZeroDivisionError: division by zero$"),
    "an end": ("import sys\nsys.exit(3)\n", r"flights\.py:2: the file ends Python \(SystemExit: 3\)"),
    "a feature that fails": (
        HEAD + "def features(row):\n    miles = row.miles\n    return {'a': miles.rolling(3)}\n"
        'loop = el.Loop(name="one", source=source, label="y", train=fit, features=features)\n',
        r"flights\.py:13: features: .*rolling cannot be served",
    ),
    "the same name twice": (SOUND + SOUND.replace("loop =", "other ="), r"declares one twice; give each loop a name"),
    "a function that was renamed": (
        SOUND + "def fit(samples, params, context):\n    return 1\n",
        r"fit of the loop one is no longer what fit names",
    ),
    "a lambda": (
        HEAD + "loop = el.Loop(name='one', source=source, label='y', train=lambda s, p, c: 1)\n",
        r"flights\.py:11: Train .*def",
    ),
    "an estimator declared here": (
        HEAD + "from sklearn.linear_model import Ridge\nclass Mine(Ridge):\n    pass\n"
        "loop = el.Loop(name='one', source=source, label='y', train=Mine())\n",
        r"flights\.py:14: .*Mine, whose class stands in a script.*function",
    ),
    "a byte of nothing": ("import everloop\n\0", r"flights\.py.*null"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_the_file_is_one_sentence_with_its_line(name: str, write: Write) -> None:
    text, words = MISTAKES[name]
    with pytest.raises(el.SpecError, match=words) as caught:
        load(write(text))
    assert "Traceback" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_a_file_that_is_none_says_so(tmp_path: Path) -> None:
    with pytest.raises(el.SpecError, match="There is no file"):
        load(tmp_path / "nothing.py")
    with pytest.raises(el.SpecError, match=r"no Python file.*flights\.py"):
        load(tmp_path)
    (tmp_path / "flights.toml").write_text("")
    with pytest.raises(el.SpecError, match="no Python file"):
        load(tmp_path / "flights.toml")


def test_a_file_that_failed_leaves_nothing_behind(write: Write) -> None:
    path, modules = list(sys.path), set(sys.modules)
    with pytest.raises(el.SpecError):
        load(write("raise ValueError('x')"))
    assert sys.path == path
    assert set(sys.modules) == modules


def test_an_edit_within_the_same_second_is_seen(write: Write) -> None:
    """A compiled file of the older content, of the same size, must not run in its place."""
    assert load(write(SOUND)).loops[0].name == "one"
    assert load(write(SOUND.replace('"one"', '"two"'))).loops[0].name == "two"


def test_helpers_of_the_same_name_in_two_folders_stay_apart(tmp_path: Path) -> None:
    for name in ("left", "right"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "everloop_test_helper.py").write_text(f'NAME = "{name}"\n')
        text = SOUND.replace('"one"', "NAME").replace(
            "import everloop", "from everloop_test_helper import NAME\nimport everloop"
        )
        (folder / "flights.py").write_text(text)
        assert load(folder / "flights.py").loops[0].name == name
    assert "everloop_test_helper" not in sys.modules


def test_a_function_of_another_file_must_move_into_the_declaration(tmp_path: Path, write: Write) -> None:
    (tmp_path / "everloop_test_helper.py").write_text("def fit(samples, params, context):\n    return None\n")
    text = SOUND.replace(
        "def fit(samples, params, context):\n    return None\n", "from everloop_test_helper import fit\n"
    )
    with pytest.raises(el.SpecError, match=r"fit of the loop one stands in another file; move it into flights\.py"):
        load(write(text))


def test_features_of_another_file_are_fine_because_only_their_tree_travels(tmp_path: Path, write: Write) -> None:
    (tmp_path / "everloop_test_helper.py").write_text("def features(row):\n    return {'a': row.miles + 1}\n")
    text = SOUND.replace("train=fit", "train=fit, features=features")
    loop = load(write("from everloop_test_helper import features\n" + text)).loops[0]
    assert loop.features is not None
    assert loop.features.inputs == ("miles",)


def test_an_estimator_of_a_file_beside_is_refused_because_it_is_not_kept(tmp_path: Path, write: Write) -> None:
    (tmp_path / "everloop_test_helper.py").write_text(
        "from sklearn.linear_model import Ridge\nclass Mine(Ridge):\n    pass\n"
    )
    text = "from everloop_test_helper import Mine\n" + SOUND.replace("train=fit", "train=Mine()")
    with pytest.raises(el.SpecError, match=r"everloop_test_helper\.Mine .*install it as a package"):
        load(write(text))


def test_a_kept_function_is_found_again_by_its_name(write: Write) -> None:
    path = write(SOUND.replace("train=fit", "train=fit, score=regret"))
    written = codec.to_bytes(load(path).loops[0])
    loop = codec.from_bytes(written, bind=lambda function: getattr(module_of(path), function.name))
    assert [function(1, 2, 3) for function in functions_of(loop)] == [None, 0.0]


def test_a_decorated_function_stands_in_the_file_that_it_is_written_in(write: Write) -> None:
    text = SOUND.replace(
        "def fit", "import functools\ndef same(f):\n    return functools.wraps(f)(lambda *a: f(*a))\n\n@same\ndef fit"
    )
    assert functions_of(load(write(text)).loops[0])[0].name == "fit"


@pytest.mark.parametrize("name", ["parcels", "hflights", "elec2", "bike"])
def test_the_examples_load_and_come_back_from_their_bytes(name: str) -> None:
    for loop in load(Path(__file__).parents[2] / "examples" / f"{name}.py").loops:
        assert codec.from_bytes(codec.to_bytes(loop)) == loop
