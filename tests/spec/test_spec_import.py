"""What ``import everloop`` costs and gives."""

import doctest
import importlib
import json
import subprocess
import sys

import pytest

import everloop as el

HEAVY = ("torch", "pandas", "sklearn", "polars", "sqlalchemy", "onnxruntime", "numpy", "lightgbm", "scipy", "deltalake")


def test_importing_everloop_loads_no_heavy_library() -> None:
    script = f"import sys, json, everloop; print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)
    assert json.loads(found.stdout) == []


def test_every_public_name_is_there_and_says_what_it_is() -> None:
    for name in el.__all__:
        value = getattr(el, name)
        if not (isinstance(value, type) and issubclass(value, Exception)):  # errors are explained by their tree
            assert value.__doc__, name


def test_a_name_that_is_not_there_says_what_is() -> None:
    with pytest.raises(AttributeError, match=r"no 'Parket'; did you mean el\.Parquet\?"):
        el.Parket  # noqa: B018
    with pytest.raises(AttributeError, match="it has AllOf, AnyOf"):
        el.qqq  # noqa: B018


def test_what_comes_later_says_so() -> None:
    with pytest.raises(el.SpecError, match=r"el\.Join: .*not built yet"):
        el.Join  # noqa: B018


@pytest.mark.parametrize("name", ["conform", "policy", "source", "tree", "patterns", "zones"])
def test_the_doctests_of_the_spec_hold(name: str) -> None:
    found = doctest.testmod(importlib.import_module(f"everloop.spec.{name}"))
    assert found.attempted
    assert not found.failed
