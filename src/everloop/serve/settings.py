"""How a server guards itself: keys, limits, TLS, CORS, what it logs. Knows nothing of loops, packages or sockets.

The values come from the table ``[ENV.serve]`` of everloop.toml, or from a JSON file of the same form (``--settings``).
A new setting is a field here with a default and a description: reading, refusing and the words of the error follow.
"""

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import msgspec
from msgspec import Meta

from everloop.errors import SpecError
from everloop.serve.rates import Rate, quota

OPEN = "yes, without a key"
LOOPBACK = frozenset({"localhost", "ip6-localhost"})

Text = Annotated[str, Meta(min_length=1)]
Bytes = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0)]


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often. What a key brings itself goes before ``rate`` and ``quota``."""

    rate: Annotated[Text | None, Meta(description='how often one key may ask, such as "100/s"')] = None
    quota: Annotated[Text | None, Meta(description='how often one key may ask in a UTC day, such as "1000000/d"')] = (
        None
    )
    address_rate: Annotated[
        Text | None, Meta(description='how often one client address may ask when there are no keys, such as "20/s"')
    ] = None
    headers: Annotated[bool, Meta(description="true or false: tell each limited caller what is left")] = True


class Tls(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Both files are read again when they change."""

    certificate: Annotated[Text, Meta(description="the file with the certificate and its chain, PEM")]
    key: Annotated[Text, Meta(description="the file with the private key, PEM, not encrypted")]


class Cors(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which pages of other origins a browser lets ask. Never with cookies: a key is sent in a header."""

    origins: Annotated[tuple[Text, ...], Meta(min_length=1, description='such as ["https://example.com"], or ["*"]')]
    methods: Annotated[tuple[Text, ...], Meta(min_length=1, description='such as ["GET", "POST"]')] = ("GET", "POST")
    headers: Annotated[tuple[Text, ...], Meta(description='what a page may send, such as ["x-api-key"]')] = (
        "authorization", "content-type", "x-api-key", "x-everloop-deadline-ms", "x-everloop-priority",
        "x-prediction-id", "x-request-id", "traceparent",
    )  # fmt: skip
    seconds: Annotated[int, Meta(ge=0, description="how long a browser may remember the answer")] = 600


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything has a default that is safe on loopback. Sizes are in bytes, times in seconds."""

    # Who may come in
    keys: Annotated[bool, Meta(description="true or false: every request needs a key")] = False
    open_to_the_world: Annotated[
        Literal["no", "yes, without a key"],
        Meta(description=f'"no", or "{OPEN}" to serve the world without keys'),
    ] = "no"
    operate: Annotated[
        Literal["loopback", "key", "open"],
        Meta(description='who sees /metrics and /status: "loopback" (or a key that may operate), "key" or "open"'),
    ] = "loopback"
    override: Annotated[
        Literal["loopback", "key", "no"],
        Meta(
            description="who may name the version that answers (x-everloop-version): "
            '"loopback" (or a key that may operate), "key" or "no"'
        ),
    ] = "loopback"
    limits: Annotated[Limits, Meta(description="a table of rate, quota, address_rate, headers")] = Limits()
    tls: Annotated[Tls | None, Meta(description="a table of certificate and key")] = None
    cors: Annotated[Cors | None, Meta(description="a table of origins, methods, headers, seconds")] = None

    # What one client may take
    body_bytes: Annotated[Bytes, Meta(description="the longest body, a whole number of bytes")] = 16 * 2**20
    header_bytes: Annotated[Bytes, Meta(description="the longest header, a whole number of bytes")] = 32 * 2**10
    connections: Annotated[
        Annotated[int, Meta(ge=1)], Meta(description="the most open connections of one process, a whole number")
    ] = 10_000
    request_seconds: Annotated[Seconds, Meta(description="how long a request may take to arrive whole, in seconds")] = (
        30.0
    )
    idle_seconds: Annotated[
        Seconds, Meta(description="how long a connection may rest, or an answer wait to be read, in seconds")
    ] = 75.0
    linger_seconds: Annotated[
        Seconds, Meta(description="how long a refused client may take to read why, in seconds")
    ] = 3.0

    # What one package may take
    package_bytes: Annotated[Bytes, Meta(description="the largest package, all files together, in bytes")] = 4 * 2**30
    model_bytes: Annotated[
        Bytes, Meta(description="the memory that the runs of one model may take beside its weights, in bytes")
    ] = 4 * 2**30
    load_seconds: Annotated[
        Seconds, Meta(description="how long a package may take to be loaded and tried, in seconds")
    ] = 120.0

    # What all models may take together
    memory_bytes: Annotated[
        Bytes | None,
        Meta(description="the memory that all models of the server may take together, in bytes, or leave it out"),
    ] = None
    pinned: Annotated[tuple[Text, ...], Meta(description='loops that stay in memory, such as ["parcels"]')] = ()

    # Where else it listens
    grpc_port: Annotated[
        Annotated[int, Meta(ge=1, le=65_535)] | None,
        Meta(description="the port for gRPC beside HTTP, a number up to 65535"),
    ] = None

    # What is told
    request_ids: Annotated[
        bool, Meta(description="true or false: each answer carries x-request-id, the client's or a new one")
    ] = False
    access_log: Annotated[Text | None, Meta(description='a file, or "stderr"')] = None
    access_log_bytes: Annotated[Bytes, Meta(description="the size at which the access log is put aside, in bytes")] = (
        256 * 2**20
    )
    access_log_files: Annotated[
        Annotated[int, Meta(ge=1)], Meta(description="how many access logs are kept that were put aside")
    ] = 4
    trace: Annotated[
        Text | None, Meta(description='where spans go by OTLP over HTTP, such as "http://localhost:4318/v1/traces"')
    ] = None
    trace_share: Annotated[
        Annotated[float, Meta(ge=0, le=1)],
        Meta(description="the share of requests traced when the caller does not say, from 0 to 1"),
    ] = 1.0

    @classmethod
    def of(cls, table: Any, where: str) -> "ServerSettings":
        """Read and held against itself. ``where`` names the table in an error. Raises SpecError."""
        try:
            found = msgspec.convert(table, cls)
        except msgspec.ValidationError as error:
            raise SpecError(f"{where}{_mistake(str(error), table)}") from None
        found._check(where)
        return found

    def _check(self, where: str) -> None:
        limits = self.limits
        if limits.rate is not None:
            Rate.parse(limits.rate, what=f"{where}.limits.rate")
        if limits.quota is not None:
            quota(limits.quota, what=f"{where}.limits.quota")
        if limits.address_rate is not None:
            Rate.parse(limits.address_rate, what=f"{where}.limits.address_rate")
        if self.trace is not None and not re.fullmatch(r"https?://[^\s/]+(/\S*)?", self.trace):
            raise SpecError(
                f"{where}.trace is {self.trace!r}; write an http or https address, "
                "such as http://localhost:4318/v1/traces."
            )
        if self.operate == "key" and not self.keys:
            raise SpecError(f'{where}.operate is "key", but keys is false, so that nobody has one; write keys = true.')
        for origin in self.cors.origins if self.cors is not None else ():
            if origin != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^\s/*]+", origin):
                raise SpecError(
                    f"{where}.cors.origins has {origin!r}; write scheme, host and port without a path, "
                    'such as https://example.com, or "*" alone.'
                )

    def inside(self, folder: Path) -> "ServerSettings":
        """The same, its files taken as lying in ``folder`` where they are relative."""
        tls = self.tls
        if tls is not None:
            tls = Tls(certificate=str(folder / tls.certificate), key=str(folder / tls.key))
        log = self.access_log
        if log is not None and log != "stderr":
            log = str(folder / log)
        return msgspec.structs.replace(self, tls=tls, access_log=log)

    def check_open(self, host: str) -> None:
        """Raises SpecError when ``host`` can be reached from elsewhere and nobody is asked for a key."""
        if is_loopback(host) or self.keys or self.open_to_the_world == OPEN:
            return
        raise SpecError(
            f"The host is {host!r}, which others can reach, and no key is asked for: everybody could use the models "
            "and write outcomes. Write keys = true in [ENV.serve] of everloop.toml and make keys with "
            "`everloop keys add NAME`; or serve on 127.0.0.1. To serve everybody all the same write "
            f'open_to_the_world = "{OPEN}" (or start the server with --open-to-the-world).'
        )


Overriding = Callable[[Any], bool]
"""Whether a caller may name the version that answers. None: nobody was asked for a key."""


def overriding(settings: ServerSettings, host: str) -> Overriding:
    """Testers: on loopback everybody who needs no key, elsewhere and with keys those whose key may operate."""
    unasked = settings.override == "loopback" and is_loopback(host)

    def may(caller: Any) -> bool:
        if caller is None or getattr(caller, "key", None) is None:
            return unasked
        return settings.override != "no" and bool(getattr(caller, "operates", False))

    return may


RELOADED = frozenset({"keys", "limits", "operate", "cors", "request_ids"})
"""What takes effect when the settings file changes; the rest takes a restart."""


@dataclass(frozen=True, slots=True)
class Changed:
    """Which fields differ between two settings: what takes effect now, and what waits for a restart."""

    now: tuple[str, ...]
    restart: tuple[str, ...]

    @classmethod
    def between(cls, old: ServerSettings, new: ServerSettings) -> "Changed":
        names = [name for name in old.__struct_fields__ if getattr(old, name) != getattr(new, name)]
        return cls(
            tuple(name for name in names if name in RELOADED), tuple(name for name in names if name not in RELOADED)
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address. A name that is not known to be loopback is taken as not so.

    >>> [is_loopback(each) for each in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "", "::")]
    [True, True, True, False, False, False]
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in LOOPBACK


def read(path: Path) -> ServerSettings:
    """The settings that a JSON file holds. Raises SpecError."""
    try:
        table = msgspec.json.decode(path.read_bytes())
    except OSError as error:
        raise SpecError(
            f"The settings {path} cannot be read: {error.strerror}. `everloop up` writes them from everloop.toml."
        ) from None
    except ValueError as error:
        raise SpecError(
            f"The settings {path} are not JSON: {error}. `everloop up` writes them from everloop.toml."
        ) from None
    return ServerSettings.of(table, str(path))


def encode(settings: ServerSettings) -> bytes:
    """What `read` reads."""
    return msgspec.json.format(msgspec.json.encode(settings))


# Words for what is wrong


def _mistake(error: str, table: Any) -> str:
    """``.body_bytes is 'x'; write …`` from the words of msgspec and what was given."""
    words, _, place = error.partition(" - at `$")
    names = [each for each in re.split(r"[.\[\]`]+", place) if each and each != "..."]
    unknown = re.search(r"unknown field `([^`]*)`", words)
    shape = _shape(names)
    if unknown:
        known = ", ".join(sorted(getattr(shape, "__struct_fields__", ())))
        return f"{_dotted(names)} has {unknown[1]}; known are {known}."
    missing = re.search(r"missing required field `([^`]*)`", words)
    if missing:
        names = [*names, missing[1]]
        return f"{_dotted(names)} is missing; write {_description(names)}."
    value = table
    for name in names:
        if isinstance(value, Mapping):
            value = value.get(name)
        elif isinstance(value, list | tuple) and name.isdigit():
            value = value[int(name)]
    return f"{_dotted(names)} is {value!r}; write {_description(names)}."


def _dotted(names: list[str]) -> str:
    return "".join(f".{name}" for name in names)


def _hint(names: list[str]) -> Any:
    """The annotated type of the field that ``names`` lead to; None when they lead nowhere."""
    hint: Any = None
    shape: Any = ServerSettings
    for name in names:
        if not hasattr(shape, "__struct_fields__"):
            break
        hint = get_type_hints(shape, include_extras=True).get(name)
        shape = next((each for each in _flat(hint) if hasattr(each, "__struct_fields__")), None)
    return hint


def _shape(names: list[str]) -> Any:
    if not names:
        return ServerSettings
    return next((each for each in _flat(_hint(names)) if hasattr(each, "__struct_fields__")), None)


def _flat(hint: Any) -> list[Any]:
    """A type and everything it is made of."""
    return [hint, *(inner for each in get_args(hint) for inner in _flat(each))] if hint is not None else []


def _description(names: list[str]) -> str:
    hint = _hint(names)
    for each in getattr(hint, "__metadata__", ()):
        if isinstance(each, Meta) and each.description:
            return each.description
    return "a table" if not names else "what the reference says"
