"""The options that many commands share, with their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

LoopName = Annotated[str | None, typer.Option("--loop", help="Which loop, when there are several.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON value for machines.")]
Env = Annotated[str | None, typer.Option("--env", help="The table of everloop.toml to use.")]
HomeFolder = Annotated[
    Path, typer.Option("--home", help="Where everything is kept: the `.everloop` folder beside the declaration.")
]
DEFAULT_HOME = Path(".everloop")
