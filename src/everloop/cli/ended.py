"""How a command ended: its exit code, and a mistake told in one line. Knows no commands."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import typer

from everloop.cli.extras import EXTRAS
from everloop.errors import EverloopError


def code_of(command: Callable[[], Any], *, as_json: bool) -> int:
    """Run the command. What is nobody's mistake but ours is raised."""
    try:
        ended = command()
        if ended == 130:  # the command line takes an interrupt for itself and gives back what to end with
            raise KeyboardInterrupt
        return ended if isinstance(ended, int) else 0
    except EverloopError as error:
        _tell(f"{type(error).__name__}: {error}", error.exit_code, as_json)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        _tell("interrupted", 130, as_json)
        return 130
    except BrokenPipeError:  # whoever read this has seen enough; the last flush must not fail as well
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        _tell(f"{error.filename or 'A file'} cannot be used: {error.strerror or error}.", 10, as_json)
        return 10
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        _tell(f"This command needs {error.name}; install it with pip install 'everloop[{extra}]'.", 1, as_json)
        return 1
    except Exception as error:
        show = getattr(error, "show", None)  # the command line's own mistakes know how to show themselves
        if show is None:
            raise
        show()
        return int(getattr(error, "exit_code", 2))


def _tell(message: str, code: int, as_json: bool) -> None:
    if as_json:
        value: dict[str, Any] = {"error": message, "exit_code": code}
        print(json.dumps(value))
    else:
        print(message, file=sys.stderr)
