"""Where a loop runs: everloop.toml, a table per environment. Knows nothing of what the loop is."""

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from everloop.errors import SpecError
from everloop.serve.settings import ServerSettings

KNOWN = {
    "home",
    "ledger",
    "host",
    "port",
    "processes",
    "metrics",
    "mlflow",
    "executor",
    "ray",
    "nproc",
    "sharded",
    "serve",
}
EXECUTORS = ("process", "torchrun", "ray")


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Without everloop.toml everything lives in `.everloop/` beside the declaration and serves on loopback."""

    name: str
    home: Path
    ledger: str | None = None
    """A database address such as postgresql+psycopg://…; None: SQLite in the home."""
    host: str = "127.0.0.1"
    port: int = 8700
    processes: int | Literal["auto"] = 1
    """That share the port; "auto": one for each core."""
    metrics: str = "127.0.0.1:8701"
    """Where the controller shows its metrics, host:port; "" for nowhere."""
    mlflow: str | None = None
    """Where versions are mirrored to, http://host:port; "" for nowhere; None: where ``MLFLOW_TRACKING_URI`` says."""
    executor: str = "process"
    """Where a fit runs: ``process``, one of its own; ``torchrun``: networks are trained by ``nproc`` together; ``ray``:
    on a cluster, networks by ``nproc`` together."""
    ray: str = "auto"
    """The cluster's address, ``host:port``; ``auto``: the one that this machine belongs to."""
    nproc: int = 1
    sharded: bool = False
    """Each of them holds a part of the network (FSDP2), for one that no process can hold; else all of it (DDP)."""
    serve: ServerSettings = field(default_factory=ServerSettings)
    """How the server guards itself; files in it are whole paths."""

    @classmethod
    def read(cls, folder: Path, name: str | None) -> "Environment":
        path = folder / "everloop.toml"
        if not path.exists():
            if name is not None:
                raise SpecError(
                    f"--env is {name!r}, but there is no everloop.toml in {folder}; write one with [{name}]."
                )
            return cls(name="local", home=folder / ".everloop")
        try:
            tables = tomllib.loads(path.read_text("utf-8"))
        except tomllib.TOMLDecodeError as error:
            raise SpecError(f"{path.name} is not TOML: {error}.") from None
        chosen = name or "local"
        if chosen not in tables:
            if name is None:
                return cls(name="local", home=folder / ".everloop")
            raise SpecError(f"{path.name} has no table [{chosen}]; it has: {', '.join(sorted(tables)) or 'none'}.")
        return cls._of(chosen, tables[chosen], folder, path)

    @classmethod
    def _of(cls, name: str, table: Any, folder: Path, path: Path) -> "Environment":
        if not isinstance(table, dict):
            raise SpecError(f"{path.name}: {name} is {table!r}; write a table, [{name}].")
        unknown = sorted(set(table) - KNOWN)
        if unknown:
            raise SpecError(f"{path.name}: [{name}] has {', '.join(unknown)}; known are {', '.join(sorted(KNOWN))}.")
        processes = table.get("processes", 1)
        if processes != "auto" and (not isinstance(processes, int) or isinstance(processes, bool) or processes < 1):
            raise SpecError(
                f'{path.name}: {name}.processes is {processes!r}; write a whole number from 1 up, or "auto".'
            )
        for key, kind in (
            ("port", int),
            ("home", str),
            ("ledger", str),
            ("host", str),
            ("metrics", str),
            ("mlflow", str),
        ):
            if key in table and not isinstance(table[key], kind):
                raise SpecError(f"{path.name}: {name}.{key} is {table[key]!r}; write a {kind.__name__}.")
        _checked_executor(name, table, path)
        plain = ("ledger", "host", "port", "processes", "metrics", "mlflow", "executor", "ray", "nproc", "sharded")
        settings = {key: table[key] for key in plain if key in table}
        if not is_address(settings.get("metrics", "")):
            raise SpecError(
                f'{path.name}: {name}.metrics is {table["metrics"]!r}; write host:port such as "127.0.0.1:8701", or "".'
            )
        if settings.get("mlflow") and not str(settings["mlflow"]).startswith(("http://", "https://")):
            raise SpecError(
                f'{path.name}: {name}.mlflow is {table["mlflow"]!r}; write the address of a server, http://host:port, or "".'
            )
        guarded = ServerSettings.of(table.get("serve", {}), f"{path.name}: {name}.serve").inside(folder.resolve())
        return cls(name=name, home=folder / table.get("home", ".everloop"), serve=guarded, **settings)


def _checked_executor(name: str, table: dict[str, Any], path: Path) -> None:
    executor, nproc = table.get("executor", "process"), table.get("nproc", 1)
    if executor not in EXECUTORS:
        raise SpecError(f"{path.name}: {name}.executor is {executor!r}; write one of {', '.join(EXECUTORS)}.")
    if not isinstance(nproc, int) or isinstance(nproc, bool) or nproc < 1:
        raise SpecError(f"{path.name}: {name}.nproc is {nproc!r}; write a whole number from 1 up.")
    if not isinstance(table.get("ray", ""), str):
        raise SpecError(f'{path.name}: {name}.ray is {table["ray"]!r}; write "host:port", or "auto".')
    if "ray" in table and executor != "ray":
        raise SpecError(f'{path.name}: {name}.ray is {table["ray"]!r}, and its executor is {executor!r}; write "ray".')
    if nproc > 1 and executor == "process":
        raise SpecError(f'{path.name}: {name}.nproc is {nproc}, and {name}.executor is {executor!r}; write "torchrun".')
    if not isinstance(table.get("sharded", False), bool):
        raise SpecError(f"{path.name}: {name}.sharded is {table['sharded']!r}; write true or false.")


def is_address(text: str) -> bool:
    """``host:port``, or nothing.

    >>> is_address("127.0.0.1:8701"), is_address(""), is_address("8701")
    (True, True, False)
    """
    host, _, port = text.rpartition(":")
    return not text or (bool(host) and port.isdigit() and int(port) < 65_536)
