"""Every published number, one script after another: `make bench`, or `python -m bench.all --quick`.

Each script runs in a process of its own, so that none inherits what another has imported.
"""

import subprocess
import sys
import time

SCRIPTS = (
    "imports",
    "durable",
    "data",
    "watch",
    "looks",
    "statistics",
    "release",
    "serving",
    "serving_costs",
    "offline",
    "turn",
    "search",
    "explain",
    "loader",
    "columns",
    "replay",
    "traps",
    "backtest",
)


def main(arguments: list[str]) -> int:
    failed = []
    for name in SCRIPTS:
        print(f"\n=== bench.{name}", flush=True)
        started = time.perf_counter()
        code = subprocess.run([sys.executable, "-m", f"bench.{name}", *arguments], check=False).returncode
        print(f"({time.perf_counter() - started:.0f} s)", flush=True)
        if code:
            failed.append(name)
    if failed:
        print(f"these did not come to their end: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
