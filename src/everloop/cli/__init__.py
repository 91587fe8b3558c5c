"""The command line. ``main`` is what ``everloop`` runs."""

import sys


def main() -> None:
    try:
        from everloop.cli.app import run_and_exit  # keeps `import everloop.cli` free of typer
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        sys.exit(
            "The everloop command needs the loop's own libraries; install them with pip install 'everloop[core]'. "
            "A machine that only serves starts with python -m everloop.serve."
        )
    run_and_exit()
