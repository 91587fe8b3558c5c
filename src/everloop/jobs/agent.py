"""The process over the ranks of a job: ``python -m everloop.jobs.agent PROCESSES RESTARTS``. Knows nothing of the job.

Waits for one line on its standard input that names the job's folder, as a worker does, and lives as long as the input
stays open; its ranks live as long as it does. torchrun's own agent does the rest: it starts the ranks, tells them of
each other, and starts all of them again when one dies. Loaded only where several processes train together.
"""

import os
import signal
import sys
import threading
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from everloop.jobs.worker import ERROR, OUTPUT, RESULT, die_with_parent, is_final, ranks_ended_well, redirect

RANKS = "ranks"
"""Where the agent keeps what it knows of its ranks: its own choice is a folder that it leaves among the machine's."""
SAME_SECONDS = 5
"""Ends of ranks that lie so close together have one cause; the agent itself kills only after thirty."""


def main(arguments: list[str]) -> int:
    processes, restarts = (int(each) for each in arguments)
    line = sys.stdin.buffer.readline()
    if not line:
        return 0
    threading.Thread(target=die_with_parent, daemon=True).start()
    folder = Path(msgspec.json.decode(line))
    redirect(folder / OUTPUT)
    # Ranks of one machine speak over loopback; a machine's own name may lead nowhere.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    return launch(folder, processes, restarts)


def launch(folder: Path, processes: int, restarts: int) -> int:
    """0 when every rank has ended well, and the result is there."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=restarts,
        monitor_interval=0.1,
        logs_specs=DefaultLogsSpecs(log_dir=str(folder / RANKS)),
    )
    try:
        elastic_launch(config, sys.executable)("-m", "everloop.jobs.worker", str(folder))
        ranks_ended_well(folder)
    except ChildFailedError as error:
        print(error, file=sys.stderr)
        ended_by = _cause([(each.timestamp, each.exitcode) for each in error.failures.values()])
        if ended_by < 0 and not is_final(folder / ERROR):
            (folder / ERROR).unlink(missing_ok=True)  # of a rank that missed the one that was killed
            with suppress(OSError):
                signal.signal(-ended_by, signal.SIG_DFL)  # torchrun's agent handles some of its own
            os.kill(os.getpid(), -ended_by)  # Whoever waits is told what ended the rank.
    return 0 if (folder / RESULT).exists() and not (folder / ERROR).exists() else 1


def _cause(failures: Sequence[tuple[int, int]]) -> int:
    """The exit code that explains the others, of (second, exit code) in the order in which the agent saw them.

    The first, unless one was killed about then: its peers, who lose their connection to it, may be seen to end before
    it. Who is killed long after was ended by the agent, and so was whoever ended by SIGTERM after another.
    """
    (first, code), *_ = failures
    killed = [
        each for second, each in failures if each < 0 and each != -signal.SIGTERM and second - first <= SAME_SECONDS
    ]
    return killed[0] if killed else code


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
