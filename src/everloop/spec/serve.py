"""How it is served. Serves nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from everloop.errors import SpecError
from everloop.spec.conform import conform, positive, shown, within
from everloop.spec.expression import Column, Columns
from everloop.spec.taught import taught
from everloop.spec.trace import trace
from everloop.spec.tree import Call, Constant, Input, Node, walk

SMALLEST_CACHE = 100_000
ASKED = frozenset({
    "add", "multiply", "divide", "negate", "absolute", "at_least", "at_most", "equal", "not_equal", "less", "less_equal",
    "greater", "greater_equal", "and", "or", "xor", "not", "choose", "is_missing", "fill_missing", "to_text", "is_in",
    "str_contains", "str_starts_with", "str_ends_with", "str_length",
})  # fmt: skip
"""Operations that can be asked of a request before it waits."""
LATER = {"omitted": "default"}


def _expression(given: Any, where: str) -> Node:
    """The tree of a function of the row. Raises SpecError, also for what takes longer than a request may wait for it."""
    node: Node = given
    if not isinstance(given, Input | Constant | Call):
        if not callable(given):
            raise SpecError(f"{where} is {shown(given)}; write a function of the row.")
        ((_, node),) = trace(lambda row: {"value": given(row)})
    for each in walk(node):
        if isinstance(each, Call) and each.operation not in ASKED:
            raise SpecError(
                f"{where} uses {each.operation}, which is not asked of a request before it waits; comparisons, arithmetic, "
                "is_in, when and .str.contains are: write it with those, or bring the value as a column."
            )
    return node


@taught
@dataclass(frozen=True, init=False)
class Meaning:
    """What a query is about: ``of`` is a function of the row that gives its class, or a column of free text or of an
    embedding, whose clusters in the training rows are the classes. The mix of classes is kept with every prediction.

    ``first``: classes whose requests go before others. A route by meaning (`everloop route start --meaning`) gives each
    version a weight in each class, between ``least`` and ``most``, and moves it to the version that matured labels show
    to be better there; to the first one named where none is better by more than ``margin`` in the paired loss.
    """

    of: Node | str
    first: tuple[str, ...] = ()
    least: float = 0.05
    most: float = 0.95
    margin: float = 0.01

    def __init__(
        self,
        of: Callable[[Columns], Column] | Node | str,
        *,
        first: Sequence[str] = (),
        least: float = 0.05,
        most: float = 0.95,
        margin: float = 0.01,
    ) -> None:
        object.__setattr__(self, "of", of if isinstance(of, str) else _expression(of, "Meaning.of"))
        object.__setattr__(self, "first", (first,) if isinstance(first, str) else tuple(first))
        object.__setattr__(self, "least", least)
        object.__setattr__(self, "most", most)
        object.__setattr__(self, "margin", margin)
        conform(self)
        within(self.least, 0, 0.5, "Meaning.least")
        within(self.margin, 0, 1, "Meaning.margin")
        if not self.least < self.most < 1:
            raise SpecError(
                f"Meaning.most is {self.most:g}; write more than least, which is {self.least:g}, and less than 1."
            )


@taught
@dataclass(frozen=True, kw_only=True)
class Cache:
    """Predictions are kept in up to ``bytes`` of memory for ``time_to_live``: the same columns get the same answer."""

    bytes: int = 64_000_000
    time_to_live: timedelta = timedelta(minutes=5)

    def __post_init__(self) -> None:
        conform(self)
        positive(self.time_to_live, "Cache.time_to_live", example="timedelta(minutes=5)")
        if self.bytes < SMALLEST_CACHE:
            raise SpecError(
                f"Cache.bytes is {self.bytes}, which holds next to nothing; "
                f"write at least {SMALLEST_CACHE}, for example 64_000_000."
            )


@taught
@dataclass(frozen=True, kw_only=True)
class Serve:
    """``p99``: the time within which 99 of 100 answers must leave: a request that would be later is refused.

    ``log``: keep predictions; without them drift is watched in sketches, and nothing else is. ``mode``: "throughput" runs the model on one core for each process
    of the server; "latency" on all cores that a process has to itself, which answers sooner where they would rest.

    ``cache``: answer what was answered before without running the model; None: every request runs it.

    ``first``: a function of the row; requests for which it is true go before others, within ``p99`` of all. ``meaning``:
    what a query is about.
    """

    p99: timedelta | None = None
    mode: Literal["throughput", "latency"] = field(default="throughput", metadata={"omitted": "default"})
    log: bool = True
    cache: Cache | None = None
    first: Node | None = field(default=None, metadata=LATER)
    meaning: Meaning | None = field(default=None, metadata=LATER)

    if TYPE_CHECKING:  # the short forms that people write

        def __init__(
            self,
            *,
            p99: timedelta | None = None,
            mode: Literal["throughput", "latency"] = "throughput",
            log: bool = True,
            cache: Cache | None = None,
            first: Callable[[Columns], Column] | Node | None = None,
            meaning: Meaning | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        if self.first is not None:
            object.__setattr__(self, "first", _expression(self.first, "Serve.first"))
        if isinstance(self.cache, timedelta):
            raise SpecError(f"Serve.cache is {self.cache}; write el.Cache(time_to_live={self.cache!r}) or None.")
        conform(self)
        positive(self.p99, "Serve.p99", example="timedelta(milliseconds=20)")
