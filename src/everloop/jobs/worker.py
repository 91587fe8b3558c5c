"""The process that does a job: ``python -m everloop.jobs.worker``. Knows nothing of what started it.

With a folder as its argument it does that job. Without, it imports ``--preload`` modules, then waits for one line on
its standard input that names the folder. The input stays open as a life line: when it ends, whoever wanted the job is
gone, and the worker ends itself and its children.
"""

import contextlib
import importlib
import os
import signal
import sys
import sysconfig
import threading
import time
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from everloop.errors import EverloopError
from everloop.jobs.context import Context
from everloop.records import encode

RESULT, ERROR, SPEC, OUTPUT = "result.json", "error.json", "job.json", "output.log"
RESULT_OF_RANKS = "result-of-ranks.json"
"""What rank 0 leaves; it is the job's result once every rank has ended well (`ranks_ended_well`)."""


def main(arguments: list[str]) -> int:
    if arguments and not arguments[0].startswith("--"):
        return perform(Path(arguments[0]))
    for name in arguments[1].split(",") if arguments[:1] == ["--preload"] else []:
        with contextlib.suppress(Exception):  # Whoever needs it will import it again, and be told why it fails.
            importlib.import_module(name)
    line = sys.stdin.buffer.readline()
    if not line:
        return 0  # Never needed.
    threading.Thread(target=die_with_parent, daemon=True).start()
    return perform(Path(msgspec.json.decode(line)))


def perform(folder: Path) -> int:
    """Do the job of the folder; 0 when it leaves a result, 1 when it leaves an error."""
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1:
        threading.Thread(target=_die_with_agent, daemon=True).start()
        if is_final(folder / ERROR):
            return 1  # A mistake of the user's is not to be repeated; the agent tries again whatever it was.
    spec = msgspec.json.decode((folder / SPEC).read_bytes())
    redirect(folder / OUTPUT)
    os.environ.update(spec["environment"])
    sys.path[:0] = spec["path"]
    attempt = int(os.environ.get("TORCHELASTIC_RESTART_COUNT") or os.environ.get("EVERLOOP_ATTEMPT") or "0")
    try:
        module, _, name = spec["entry"].partition(":")
        function = getattr(importlib.import_module(module), name)
        result = encode(function(Context(folder=folder, attempt=attempt, rank=rank, world=world), spec["arguments"]))
    except BaseException as error:
        traceback.print_exc()
        if not is_final(folder / ERROR):
            _leave(folder, ERROR, encode(_described(error)))
        return 1
    if rank == 0:
        (folder / ERROR).unlink(missing_ok=True)  # of ranks that were started again since
        _leave(folder, RESULT if world == 1 else RESULT_OF_RANKS, result)
    return 0


def ranks_ended_well(folder: Path) -> None:
    """For the process over the ranks: what rank 0 left is the result, for no other rank has died after it."""
    with contextlib.suppress(FileNotFoundError):
        (folder / RESULT_OF_RANKS).replace(folder / RESULT)


def is_final(path: Path) -> bool:
    """Whether the error is one of everloop's own."""
    try:
        return bool(msgspec.json.decode(path.read_bytes())["everloop"])
    except FileNotFoundError:
        return False


def _described(error: BaseException) -> dict[str, Any]:
    return {
        "type": type(error).__name__,
        "message": str(error),
        "everloop": isinstance(error, EverloopError),
        "where": users_line(error.__traceback__),
        "traceback": traceback.format_exception(error)[-12:],
    }


def users_line(tb: TracebackType | None) -> str | None:
    """``file:line`` of the deepest frame that is neither a library's nor ours; else of the deepest one."""
    frames = traceback.extract_tb(tb)
    foreign = [sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    foreign += [str(Path(__file__).parents[1]), "<frozen"]
    own = [frame for frame in frames if not frame.filename.startswith(tuple(foreign))]
    for frame in reversed(own or frames):
        return f"{frame.filename}:{frame.lineno}"
    return None


def redirect(output: Path) -> None:
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def _leave(folder: Path, name: str, data: bytes) -> None:
    beside = folder / f".{name}.{os.getpid()}"
    with beside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(folder / name)


def _die_with_agent() -> None:
    """The agent gives each rank a session of its own, so that its end does not reach them."""
    agent = os.getppid()
    while os.getppid() == agent:
        time.sleep(0.2)
    os.killpg(0, signal.SIGKILL)


def die_with_parent() -> None:
    """Wait until nobody holds the other end of the standard input any more, then end this process and its children."""
    while os.read(0, 4096):
        pass
    if os.getpgid(0) == os.getpid():
        os.killpg(0, signal.SIGKILL)  # All that this job started.
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # Big libraries take long to be torn down, and there is nothing left to be saved.
    os._exit(code)
