"""The command line. ``main`` is what ``everloop`` runs."""


def main() -> None:
    from everloop.cli.app import run_and_exit  # keeps `import everloop.cli` free of typer

    run_and_exit()
