"""Where a loop that somebody holds in Python was declared. Opens nothing."""

import ast
import sys
from pathlib import Path

from everloop.errors import SpecError
from everloop.spec.loop import Loop


def file_of(loop: Loop) -> Path:
    """The file of the imported module that declares the loop. Raises SpecError where there is none."""
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        names = [name for name, value in list(vars(module).items()) if value is loop]
        if file is not None and names and _declares(Path(file), names):
            return Path(file)
    raise SpecError(
        f"No module that is imported declares the loop {loop.name!r}, so its source's folder is not known; "
        "give the declaration's file: declaration=Path(…)."
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
