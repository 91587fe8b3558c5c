"""A whole turn on a sample in three lines of a test. Knows nothing of what a turn does."""

import ast
import sys
from pathlib import Path

from everloop.errors import SpecError
from everloop.loop.trial import Tried
from everloop.loop.trial import turn as trial
from everloop.spec.loop import Loop


def turn(loop: Loop, *, rows: int = 2_000, declaration: Path | None = None) -> Tried:
    """One turn on the ``rows`` newest rows of the loop's source, in a home that is thrown away, released to nobody.

    ``declaration`` is the file that declares the loop; by default the file of the module that holds it. The answer
    has ``verdict``, ``version`` and ``package``, whose ``predict`` takes a row. Raises what a real turn would.
    """
    path = declaration or _file_of(loop)
    return trial(loop, folder=path.parent.absolute(), source=path.read_bytes(), rows=rows)


def _file_of(loop: Loop) -> Path:
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        names = [name for name, value in list(vars(module).items()) if value is loop]
        if file is not None and names and _declares(Path(file), names):
            return Path(file)
    raise SpecError(
        f"No module that is imported declares the loop {loop.name!r}, so its source's folder is not known; "
        "give the declaration's file: turn(loop, declaration=Path(…))."
    )


def _declares(path: Path, names: list[str]) -> bool:
    """True where one of the names is assigned a ``Loop(…)``: a module that only imports the loop does not."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return False
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Call):
            made_by = ast.unparse(statement.value.func).rpartition(".")[2]
            targets = {target.id for target in statement.targets if isinstance(target, ast.Name)}
            if made_by in ("Loop", "replace") and targets & set(names):
                return True
    return False
