"""``python -m everloop.serve``: reads the command line. Knows nothing of serving itself."""

import argparse
import os
import sys
from pathlib import Path

import msgspec

from everloop.errors import SpecError
from everloop.serve import releases, settings
from everloop.serve.ahead import Ahead
from everloop.serve.cores import cores, keep_on
from everloop.serve.memory import one_arena
from everloop.store.home import Home

UNITS = {"": 1, "B": 1}
for _power, _letter in enumerate("KMGT", start=1):
    UNITS |= {f"{_letter}B": 1000**_power, f"{_letter}IB": 1024**_power}
AUTO = 0
"""As many processes as there are cores."""


def _processes(text: str) -> int:
    if text == "auto":
        return AUTO
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"it is {text!r}; write a whole number from 1 up, or auto")
    return int(text)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 6 and int(text) <= 65_535):
        raise argparse.ArgumentTypeError(f"it is {text!r}; write a number from 0 (a free one) to 65535")
    return int(text)


def _bytes(text: str) -> int:
    """Bytes, with or without a unit.

    >>> _bytes("2GB"), _bytes("1.5 MiB"), _bytes("4096")
    (2000000000, 1572864, 4096)
    """
    number, unit = text.rstrip("BbKkMmGgTtIi "), text.strip().lstrip("0123456789. ").upper()
    if unit not in UNITS or not number.replace(".", "", 1).isdigit() or float(number) * UNITS[unit] < 1:
        raise argparse.ArgumentTypeError(f"it is {text!r}; write a size such as 2GB, 512MB or 1.5GiB")
    return int(float(number) * UNITS[unit])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m everloop.serve", description="Serve what the release files name.")
    parser.add_argument("--home", type=Path, required=True, help="the installation's folder, usually .everloop")
    parser.add_argument(
        "--loop", action="append", default=[], help="the name of a loop, several times for several; none: every one"
    )
    parser.add_argument(
        "--memory", type=_bytes, help="what all models may take together, such as 2GB; others are loaded when asked for"
    )
    parser.add_argument("--pin", action="append", default=[], help="a loop that stays in memory; may be repeated")
    parser.add_argument("--host", default="127.0.0.1", help="where to listen; loopback unless you say otherwise")
    parser.add_argument("--port", type=_port, default=0, help="0: a free one, told in servers/<pid>.json")
    parser.add_argument(
        "--grpc-port", type=_port, help="also listen for gRPC there (0: a free one); needs everloop[grpc]"
    )
    parser.add_argument(
        "--processes", type=_processes, default=1, help='processes that share the port; "auto": one for each core'
    )
    parser.add_argument("--replay-token-env", help="the environment variable with the token of the replay channel")
    parser.add_argument("--seed", type=int, help="makes the draw of arms repeatable")
    parser.add_argument("--parent", type=int, help="end when the process with this number does")
    # What a supervisor gives to each of its processes: its number, how many they are, where to listen, which core.
    for name in ("--leader", "--of", "--listen-on", "--channel", "--core"):
        parser.add_argument(name, type=int, help=argparse.SUPPRESS)
    parser.add_argument("--settings", type=Path, help="keys, limits, TLS and the rest, as JSON; `up` writes it")
    parser.add_argument(
        "--open-to-the-world", action="store_true", help="serve a host that others reach without asking for a key"
    )
    given = parser.parse_args(arguments)
    if given.home.exists() and not given.home.is_dir():
        parser.error(f"argument --home: it is {str(given.home)!r}, which is no folder; name the installation's")
    processes = len(cores()) if given.processes == AUTO else given.processes
    if given.core is not None:
        keep_on(given.core)
    try:
        server = settings.read(given.settings) if given.settings is not None else settings.ServerSettings()
        if given.open_to_the_world:
            server = msgspec.structs.replace(server, open_to_the_world=settings.OPEN)
        server.check_open(given.host)
        if server.tls is not None and processes > 1:
            from everloop.serve.tls import Certificate

            Certificate(server.tls)  # here it is said once, not by each process that would end of it
    except SpecError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    if given.grpc_port is None:
        given.grpc_port = server.grpc_port
    if processes > 1:
        # Loaded only here: one process needs none of it.
        from everloop.serve.supervisor import supervise

        return supervise(given, sys.argv[1:] if arguments is None else arguments, processes)
    home, loops = Home(given.home), tuple(dict.fromkeys(given.loop))
    one_arena()
    ahead = Ahead(home, loops or releases.names(home.releases))
    memory = given.memory if given.memory is not None else server.memory_bytes
    # Loaded only now, half of the time that a start takes: meanwhile the packages are read.
    from everloop.serve.process import Settings, serve, token_from

    return serve(
        Settings(
            home=home,
            loops=loops,
            host=given.host,
            port=given.port,
            replay_token=token_from(given.replay_token_env, list(os.environ.items())),
            seed=given.seed,
            grpc_port=given.grpc_port,
            listen_on=given.listen_on,
            channel=given.channel,
            leader=given.leader,
            processes=given.of or 1,
            parent=given.parent if given.leader is None else given.leader,
            memory=memory // (given.of or 1) if memory is not None else None,
            pinned=frozenset((*given.pin, *server.pinned)),
            server=server,
            server_file=given.settings,
            open_to_the_world=given.open_to_the_world,
            ahead=ahead,
        )
    )


if __name__ == "__main__":
    sys.exit(main())
