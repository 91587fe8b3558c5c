"""Reads a declaration: executes the user's file and collects its loops. Knows nothing of what loops do."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from everloop.errors import EverloopError, SpecError
from everloop.records import digest_of
from everloop.spec.function import Function
from everloop.spec.loop import Loop
from everloop.spec.metric import Custom
from everloop.spec.train import Train


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    path: Path
    loops: tuple[Loop, ...]
    source: bytes
    source_digest: str


def load(path: Path) -> Declaration:
    """Raises SpecError for every mistake in the file, with its line, never a traceback."""
    path = Path(path).absolute()
    if path.is_dir() or path.suffix != ".py":
        raise SpecError(f"{path} is no Python file; name the file that declares the loop, for example flights.py.")
    try:
        source = path.read_bytes()
    except FileNotFoundError:
        raise SpecError(f"There is no file {path}; name the file that declares the loop.") from None
    except OSError as error:
        raise SpecError(f"{path} cannot be read: {error.strerror}.") from None
    digest = digest_of(source)
    module = _executed(path, f"everloop_declaration_{digest[:16]}")
    loops: list[Loop] = []
    for value in vars(module).values():
        if isinstance(value, Loop) and not any(value is each for each in loops):
            loops.append(value)
    if not loops:
        raise SpecError(f"{path.name} declares no loop; write loop = el.Loop(name=…, source=…, label=…, train=…).")
    names = [each.name for each in loops]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SpecError(f"{path.name} declares {', '.join(twice)} twice; give each loop a name of its own.")
    for each in loops:
        for function in functions_of(each):
            if function.module_file_digest != digest:
                raise SpecError(
                    f"The function {function.name} of the loop {each.name} stands in another file; "
                    f"move it into {path.name}, which is kept with every version."
                )
    return Declaration(path=path, loops=tuple(loops), source=source, source_digest=digest)


def functions_of(loop: Loop) -> tuple[Function, ...]:
    """The user's functions that must be found again."""
    trains: tuple[Train, ...] = loop.train if isinstance(loop.train, tuple) else (loop.train,)
    found = [each.estimator for each in trains if isinstance(each.estimator, Function)]
    if isinstance(loop.score, Custom):
        found.append(loop.score.function)
    return tuple(found)


def module_of(path: Path) -> ModuleType:
    """The module of a stored declaration, executed once per content: where a `Function` is found again by name."""
    name = f"everloop_declaration_{digest_of(path.read_bytes())[:16]}"
    return sys.modules[name] if name in sys.modules else _executed(path, name)


def _executed(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except EverloopError as error:
        sys.modules.pop(name, None)
        where = _line(error, path)
        raise SpecError(f"{path.name}{f':{where}' if where else ''}: {error}") from None
    except SyntaxError as error:
        sys.modules.pop(name, None)
        raise SpecError(f"{path.name}:{error.lineno}: {error.msg}: {(error.text or '').strip()}") from None
    except Exception as error:
        sys.modules.pop(name, None)
        where = _line(error, path)
        raise SpecError(f"{path.name}{f':{where}' if where else ''}: {type(error).__name__}: {error}") from None
    finally:
        sys.path.remove(str(path.parent))
    return module


def _line(error: BaseException, path: Path) -> int | None:
    """The line of the user's file that the mistake came through."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return lines[-1] if lines else None
