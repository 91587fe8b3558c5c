"""Reads a declaration: executes the user's file and collects its loops. Knows nothing of what loops do."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from everloop.errors import EverloopError, SpecError
from everloop.records import digest_of
from everloop.spec.function import DECLARATION, Function
from everloop.spec.loop import Loop
from everloop.spec.metric import Custom
from everloop.spec.torch import Imported, Torch
from everloop.spec.train import Estimator


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    path: Path
    loops: tuple[Loop, ...]
    """In the order of the file: every Loop that stands at its top level, alone or in a list, a tuple or a dict."""
    source: bytes
    source_digest: str


def load(path: Path | str) -> Declaration:
    """Raises SpecError for every mistake in the file, with its line, never a traceback."""
    path = Path(path).absolute()
    if path.is_dir() or path.suffix != ".py":
        raise SpecError(f"{path} is no Python file; name the file that declares the loop, for example flights.py.")
    try:
        source = path.read_bytes()
    except FileNotFoundError:
        raise SpecError(f"There is no file {path}; name the file that declares the loop.") from None
    except OSError as error:
        raise SpecError(f"{path} cannot be read: {error.strerror}; make it readable.") from None
    digest = digest_of(source)
    module = _executed(path, source, digest)
    loops: list[Loop] = []
    for value in vars(module).values():
        for each in _loops_in(value):
            if not any(each is known for known in loops):
                loops.append(each)
    if not loops:
        raise SpecError(f"{path.name} declares no loop; write loop = el.Loop(name=…, source=…, label=…, train=…).")
    names = [each.name for each in loops]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SpecError(f"{path.name} declares {', '.join(twice)} twice; give each loop a name of its own.")
    for loop in loops:
        _functions_found_again(loop, module, path, digest)
        _estimators_found_again(loop, path)
    return Declaration(path=path, loops=tuple(loops), source=source, source_digest=digest)


def functions_of(loop: Loop) -> tuple[Function, ...]:
    """The user's functions that must be found again."""
    found: list[Function] = []
    for each in loop.trains:
        parts = (each.estimator.model, each.estimator.loss) if isinstance(each.estimator, Torch) else (each.estimator,)
        found += [part for part in parts if isinstance(part, Function)]
    if isinstance(loop.score, Custom):
        found.append(loop.score.function)
    if loop.decision is not None and isinstance(loop.decision.minimise, Custom):
        found.append(loop.decision.minimise.function)
    return tuple(found)


def module_of(path: Path) -> ModuleType:
    """The module of a stored declaration, executed once per content: where a `Function` is found again by name."""
    source = path.read_bytes()
    digest = digest_of(source)
    known = sys.modules.get(_name(digest))
    return known if known is not None else _executed(path, source, digest)


def _loops_in(value: Any) -> Iterator[Loop]:
    if isinstance(value, Loop):
        yield value
    elif isinstance(value, list | tuple):
        yield from (each for each in value if isinstance(each, Loop))
    elif isinstance(value, Mapping):
        yield from (each for each in value.values() if isinstance(each, Loop))


def _name(digest: str) -> str:
    return f"{DECLARATION}{digest[:16]}"


def _executed(path: Path, source: bytes, digest: str) -> ModuleType:
    """The bytes that were read are the bytes that run: no compiled file of an older content beside it is used."""
    module = ModuleType(_name(digest))
    module.__file__ = str(path)
    sys.modules[module.__name__] = module
    try:
        code = compile(source, str(path), "exec", dont_inherit=True)
        with _beside(path.parent):
            exec(code, vars(module))
    except (Exception, SystemExit) as error:
        sys.modules.pop(module.__name__, None)
        raise SpecError(_told(error, path)) from None
    return module


@contextmanager
def _beside(folder: Path) -> Iterator[None]:
    """Modules beside the declaration can be imported while it loads; another folder's of the same name stay apart."""
    if str(folder) in sys.path:
        yield
        return
    known = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - known:
            if not name.startswith(DECLARATION) and _is_beside(sys.modules[name], folder):
                del sys.modules[name]


def _is_beside(module: ModuleType | None, folder: Path) -> bool:
    file, name = getattr(module, "__file__", None), getattr(module, "__name__", "")
    top = name.partition(".")[0]
    return file is not None and (Path(file) == folder / f"{top}.py" or Path(file).is_relative_to(folder / top))


def _told(error: BaseException, path: Path) -> str:
    """The place in the user's file and the last line of the error: what a person needs of a traceback."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        text = f": {error.text.strip()}" if error.text else ""
        return f"{path.name}{f':{error.lineno}' if error.lineno else ''}: {error.msg}{text}; correct the line."
    if isinstance(error, SyntaxError):  # of the whole file: null bytes stand in no line
        return f"{path.name}: {error.msg}; it is no Python file: write it anew as text."
    line = _line(error, path)
    where = f"{path.name}:{line}" if line else path.name
    if isinstance(error, EverloopError):
        return f"{where}: {error}"
    if isinstance(error, SystemExit):
        return f"{where}: the file ends Python (SystemExit: {error.code}); a declaration only declares: leave that out."
    said = f"{where}: {type(error).__name__}: {(str(error) or 'no message').splitlines()[0]}"
    return f"{said}; install it, or correct its name." if isinstance(error, ModuleNotFoundError) else said


def _line(error: BaseException, path: Path) -> int | None:
    """The line of the user's file that the mistake came through: the innermost that the chain of errors knows."""
    chain = [error]
    while (before := chain[-1].__cause__ or chain[-1].__context__) is not None and before not in chain:
        chain.append(before)
    for each in reversed(chain):
        lines = [frame.lineno for frame in traceback.extract_tb(each.__traceback__) if frame.filename == str(path)]
        if lines:
            return lines[-1]
    return None


def _functions_found_again(loop: Loop, module: ModuleType, path: Path, digest: str) -> None:
    for function in functions_of(loop):
        if function.module_file_digest != digest:
            raise SpecError(
                f"The function {function.name} of the loop {loop.name} stands in another file; "
                f"move it into {path.name}, which is kept with every version."
            )
        if getattr(module, function.name, None) is not function.call:
            raise SpecError(
                f"The function {function.name} of the loop {loop.name} is no longer what {function.name} names at the end "
                f"of {path.name}; give it a name of its own, so that it can be found again."
            )


def _estimators_found_again(loop: Loop, path: Path) -> None:
    """A class in a file beside the declaration is not there where the fit runs."""
    for each in loop.trains:
        for estimator in _estimators_in(each.estimator):
            top = estimator.path.partition(".")[0]
            if top not in sys.modules and any(
                place.exists() for place in (path.parent / f"{top}.py", path.parent / top / "__init__.py")
            ):
                raise SpecError(
                    f"{'The network' if isinstance(estimator, Imported) else 'The estimator'} {estimator.path} of the loop {loop.name} stands in a file beside {path.name}, which is "
                    "not kept with the version; install it as a package, or write it in the declaration."
                )


def _estimators_in(value: Any) -> Iterator[Estimator | Imported]:
    if isinstance(value, Imported):
        yield value
    elif isinstance(value, Torch):
        yield from _estimators_in(value.model)
    elif isinstance(value, Estimator):
        yield value
        yield from _estimators_in(value.parameters)
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _estimators_in(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _estimators_in(each)
