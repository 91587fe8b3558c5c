"""A retraining policy: when a model is made anew, from which rows, and what it must show (users see ``el.Policy``).

Its fields are the loop's own of the same names, so that one that did well can be pasted into the declaration. Fits and
compares nothing: that is ``loop.backtest``.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from everloop.errors import SpecError
from everloop.records import digest_of, encode
from everloop.spec import codec, detector
from everloop.spec.conform import conform
from everloop.spec.gate import Better, NotWorse
from everloop.spec.loop import DEFAULT_GATE, DEFAULT_WINDOW, Loop
from everloop.spec.retrain import AllOf, AnyOf, Degraded, Drift, Every, Manual, Rows, Trigger
from everloop.spec.taught import taught
from everloop.spec.window import Everything, Last

DAY = timedelta(days=1)
UNITS = (
    (timedelta(days=7), "week"),
    (DAY, "day"),
    (timedelta(hours=1), "hour"),
    (timedelta(minutes=1), "minute"),
    (timedelta(seconds=1), "second"),
    (timedelta(milliseconds=1), "millisecond"),
)


@taught
@dataclass(frozen=True, kw_only=True)
class Policy:
    """When a model is made anew (``Manual()``: never), from which rows, behind which gate.

    ``warm``: each fit goes on from the champion's model instead of from nothing, where the estimator can.
    """

    retrain: Trigger = field(kw_only=False)
    window: Last | Everything = DEFAULT_WINDOW
    gate: NotWorse | Better | None = DEFAULT_GATE
    cooldown: timedelta = timedelta(0)
    warm: bool = False

    def __post_init__(self) -> None:
        conform(self)
        if self.cooldown < timedelta(0):
            raise SpecError(f"Policy.cooldown is {self.cooldown}; write 0 or more.")

    @classmethod
    def of(cls, loop: Loop) -> Policy:
        """The one that a loop declares."""
        return cls(retrain=loop.retrain, window=loop.window, gate=loop.gate, cooldown=loop.cooldown, warm=loop.warm)

    @property
    def digest(self) -> str:
        """The identity of what it means: SHA-256 of its canonical JSON."""
        return digest_of(encode(self.to_json()))

    @property
    def name(self) -> str:
        """A few words for tables and plots: ``every 4 weeks · last 8 weeks``."""
        parts = [words(self.retrain), rows_words(self.window)]
        if self.gate is None:
            parts.append("no gate")
        elif self.gate != DEFAULT_GATE:
            parts.append(gate_words(self.gate))
        if self.cooldown:
            parts.append(f"at most every {span(self.cooldown)}")
        if self.warm:
            parts.append("warm")
        return " · ".join(parts)

    @property
    def line(self) -> str:
        """What to paste between the parentheses of ``el.Loop(…)``."""
        parts = [f"{name}={spelled(getattr(self, name))}" for name in ("retrain", "window", "gate")]
        if self.cooldown:
            parts.append(f"cooldown={spelled(self.cooldown)}")
        if self.warm:
            parts.append("warm=True")
        return ", ".join(parts)

    def applied(self, loop: Loop) -> Loop:
        """The loop, as if it had been declared with this policy."""
        return dataclasses.replace(
            loop, retrain=self.retrain, window=self.window, gate=self.gate, cooldown=self.cooldown, warm=self.warm
        )

    def to_json(self) -> dict[str, Any]:
        return {each.name: codec.to_json(getattr(self, each.name)) for each in dataclasses.fields(self)}

    @classmethod
    def from_json(cls, form: Mapping[str, Any]) -> Policy:
        """Raises SpecError for what is no policy."""
        return cls(**{name: codec.from_json(value) for name, value in form.items()})


# As it is typed


def spelled(value: Any) -> str:
    """A value of a declaration as a person types it, with ``el.`` and ``td``; what has its default is left out.

    >>> spelled(Last(timedelta(days=56), test=timedelta(days=7)))
    'el.Last(td(days=56), test=td(days=7))'
    """
    if isinstance(value, timedelta):
        return _duration(value)
    if isinstance(value, datetime):
        return f"datetime.fromisoformat({value.isoformat()!r})"
    if isinstance(value, AnyOf | AllOf):
        return f"el.{type(value).__name__}({', '.join(map(spelled, value.triggers))})"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, tuple):
        return f"[{', '.join(map(spelled, value))}]"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        family = "el.detector" if type(value).__module__ == detector.__name__ else "el"
        return f"{family}.{type(value).__name__}({', '.join(_fields(value))})"
    return repr(value)


def _fields(value: Any) -> Iterator[str]:
    for each in dataclasses.fields(value):
        given = getattr(value, each.name)
        if each.default is not dataclasses.MISSING and given == each.default:
            continue
        written = spelled(given)
        yield written if not each.kw_only else f"{each.name}={written}"


def _duration(value: timedelta) -> str:
    for unit, name in ((DAY, "days"), (timedelta(hours=1), "hours"), (timedelta(minutes=1), "minutes")):
        if value % unit == timedelta(0):
            return f"td({name}={value // unit})"
    return f"td(seconds={value.total_seconds():g})"


# In words


def words(trigger: Trigger) -> str:
    """A trigger in a few words: ``every 4 weeks``, ``drift (1 false alarm in 90 days)``."""
    match trigger:
        case Manual():
            return "never"
        case Every():
            return f"every {span(trigger.period)}".replace("every 1 ", "every ")
        case Rows():
            return f"every {trigger.count:,} labels"
        case Drift():
            columns = f" of {', '.join(trigger.columns)}" if trigger.columns else ""
            window = span(trigger.window) if isinstance(trigger.window, timedelta) else f"{trigger.window:,} rows"
            return f"drift{columns} over {window}, budget {span(trigger.false_alarm_every)}"
        case Degraded():
            over = f" over {span(trigger.over)}" if trigger.over else ""
            found = f" or {type(trigger.detector).__name__}" if trigger.detector is not None else ""
            return f"degraded by {trigger.by:g}{over}{found}"
        case AnyOf():
            return " or ".join(map(words, trigger.triggers))
        case AllOf():
            return " and ".join(
                words(each) if not isinstance(each, AnyOf) else f"({words(each)})" for each in trigger.triggers
            )


def rows_words(window: Last | Everything) -> str:
    """The training rows in a few words: ``last 8 weeks``."""
    if isinstance(window, Everything):
        whole = "all rows"
    else:
        whole = (
            f"last {span(window.length)}" if isinstance(window.length, timedelta) else f"last {window.length:,} rows"
        )
    return f"{whole}, refit" if window.refit else whole


def gate_words(gate: NotWorse | Better) -> str:
    if isinstance(gate, Better):
        return f"better by {gate.by:g}"
    unsure = "" if gate.unsure == "shadow" else f", unsure: {gate.unsure}"
    return f"not worse by {gate.margin:g}{unsure}"


def span(duration: timedelta, *, weeks: bool = True) -> str:
    """A duration in the largest unit that is whole.

    >>> span(timedelta(days=28)), span(timedelta(hours=36)), span(timedelta(milliseconds=20))
    ('4 weeks', '36 hours', '20 milliseconds')
    >>> span(timedelta(days=28), weeks=False)
    '28 days'
    """
    for unit, name in UNITS if weeks else UNITS[1:]:
        if duration >= unit and duration % unit == timedelta(0):
            count = duration // unit
            return f"{count:,} {name}{'' if count == 1 else 's'}"
    return f"{duration.total_seconds():g} seconds"
