"""What it costs to begin: importing everloop, and a command's first word.

``python -m bench.imports [--json] [--quick]``

Each round is a fresh interpreter, with compiled files in a folder of their own, made once before: what an installed
package costs at its second start. CPU seconds are user and system time of that process; the peer is the same interpreter
that imports nothing.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from bench.rows import Row, parser, show

HEAVY = ("torch", "pandas", "sklearn", "polars", "sqlalchemy", "onnxruntime", "mlflow", "ray", "scipy", "optuna")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    cpu: float
    """Seconds."""
    wall: float
    """Seconds."""


def run(command: Sequence[str], environment: dict[str, str]) -> Cost:
    """One process from start to end. Raises CalledProcessError when it fails."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Cost(cpu=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall=wall)


def loaded(environment: dict[str, str]) -> list[str]:
    """Which of the heavy libraries ``import everloop`` brings in: none should be."""
    script = f"import sys, everloop; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", script], check=True, env=environment, capture_output=True, text=True)
    return found.stdout.split()


def measured(rounds: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as compiled:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = compiled
        bare = [sys.executable, "-c", "pass"]
        importing = [sys.executable, "-c", "import everloop"]
        helping = [sys.executable, "-c", "from everloop.cli import main; main()", "--help"]
        commands = (bare, importing, helping)
        for command in commands:  # the first start compiles
            run(command, environment)
        costs: list[list[Cost]] = [[], [], []]
        for _ in range(rounds):  # in turn, so that a slow minute of the machine meets all alike
            for command, found in zip(commands, costs, strict=True):
                found.append(run(command, environment))
        nothing, imported, helped = costs
        heavy = loaded(environment)

    def middle(found: list[Cost], of: Callable[[Cost], float]) -> float:
        return median(of(each) for each in found)

    start = middle(nothing, lambda each: each.cpu), middle(nothing, lambda each: each.wall)
    own = middle(imported, lambda each: each.cpu) - start[0]
    return [
        Row(
            what="import everloop, CPU",
            ours=middle(imported, lambda each: each.cpu),
            unit="s",
            peer=start[0],
            peer_name="bare interpreter",
            limit=start[0],
            target=0.3,
            rounds=rounds,
        ),
        Row(what="import everloop without the interpreter, CPU", ours=own, unit="s", rounds=rounds),
        Row(
            what="everloop --help, wall",
            ours=middle(helped, lambda each: each.wall),
            unit="s",
            peer=start[1],
            peer_name="bare interpreter",
            limit=start[1],
            target=0.5,
            rounds=rounds,
        ),
        Row(what=f"heavy libraries loaded{f': {heavy}' if heavy else ''}", ours=len(heavy), unit="modules", target=0),
    ]


def main() -> None:
    arguments = parser(__doc__ or "").parse_args()
    show(measured(5 if arguments.quick else 21), as_json=arguments.json)


if __name__ == "__main__":
    main()
