"""What the label is: its task, its classes and the positive one, declared or inferred. Pure: reads no files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from everloop.errors import SpecError
from everloop.records import ColumnType, Task
from everloop.spec.conform import exact, shown
from everloop.spec.label import Outcomes, Value
from everloop.spec.loop import Loop
from everloop.spec.train import Estimator

MOST_CLASSES = 100
FEW = 20
"""Whole numbers with at most so many different values are classes, unless the declaration says otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelFacts:
    """What the label column holds: different values as met (at most about 1,000), rows looked at, missing ones."""

    distinct: tuple[Value, ...]
    rows: int
    missing: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    task: Task
    classes: tuple[Value, ...] = ()
    """In the order of the graph's probabilities; empty for regression."""
    positive: int | None = None
    """Binary: the index of the positive class."""


def of(loop: Loop, schema: Mapping[str, ColumnType], facts: LabelFacts | None) -> Target:
    """Raises SpecError for a label that is constant, absent, or not what the declaration says."""
    label, column = loop.label, loop.label.column
    kind = None if isinstance(label.source, Outcomes) else schema.get(column)
    if kind == "instant":
        raise SpecError(f"label is {column!r}, a column of instants; predict a number or a class.")
    values = _values(loop, kind, facts)
    task = _agreed(loop, label.task or _inferred(loop, kind, values), values)
    if task == "regression":
        _sound_numbers(loop, kind, values, facts)
        return Target(task=task)
    classes = label.classes or _ordered(values)
    if len(classes) < 2:
        if not values:
            raise SpecError(f"The values of label {column!r} are not known yet; write Label({column!r}, classes=(…)).")
        raise SpecError(_constant(column, values[0], facts))
    unknown = [each for each in values if each not in classes]
    if unknown:
        raise SpecError(f"label {column!r} holds {unknown[0]!r}, which Label.classes {classes} lacks; add it there.")
    if task == "binary" and len(classes) != 2:
        raise SpecError(
            f"label {column!r} has {len(classes)} classes, and the task is binary; write task='multiclass'."
        )
    if len(classes) > MOST_CLASSES:
        raise SpecError(
            f"label {column!r} has {len(classes)} different values, and more than {MOST_CLASSES} classes are not learned; "
            "group them, or write task='regression' if they are amounts."
        )
    if label.scale is not None:
        raise SpecError(
            f"Label.scale is {label.scale!r}, and the task is {task}; only a regression has a scale: leave it out."
        )
    return Target(task=task, classes=classes, positive=_positive(loop, classes) if task == "binary" else None)


def _values(loop: Loop, kind: ColumnType | None, facts: LabelFacts | None) -> tuple[Value, ...]:
    """The different values, with what no news means among them."""
    label = loop.label
    met = tuple(exact(each) for each in facts.distinct if each is not None) if facts is not None else ()
    if facts is not None and not met and label.absent is None and label.classes is None:
        raise SpecError(
            f"label {label.column!r} is missing in all {facts.rows:,} rows looked at; name a column that is known."
        )
    if label.absent is not None and kind is not None and not _is(label.absent, kind):
        raise SpecError(
            f"Label.absent is {label.absent!r}, and {label.column!r} is a column of {kind}; write a value of that type."
        )
    if (kind == "boolean" or (kind is None and isinstance(label.absent, bool))) and facts is None:
        met = (False, True)
    absent = [] if label.absent is None else [bool(label.absent) if kind == "boolean" else label.absent]
    return tuple(dict.fromkeys([*met, *absent]))


def _is(value: Value, kind: ColumnType) -> bool:
    if kind == "text":
        return isinstance(value, str)
    if kind == "boolean":
        return isinstance(value, bool) or value in (0, 1)
    return isinstance(value, int | float)


def _inferred(loop: Loop, kind: ColumnType | None, values: tuple[Value, ...]) -> Task:
    """From what the declaration says beside, then from the values."""
    label = loop.label
    if label.classes is not None:
        return "binary" if len(label.classes) == 2 else "multiclass"
    if label.scale is not None or (loop.score is not None and loop.score.tasks == ("regression",)):
        return "regression"
    if kind is None and len(values) < 2:
        raise SpecError(
            f"label {label.column!r} comes as outcomes, so its task is not known; write Label({label.column!r}, classes=(…)), "
            "or task='regression'."
        )
    if kind == "boolean" or label.positive is not None or loop.decision is not None:
        return "binary" if len(values) <= 2 else "multiclass"
    if _says(loop) == "regression" and kind != "text":
        return "regression"
    whole = all(not isinstance(each, float) for each in values)
    if whole and len(values) == 2:
        return "binary"
    if kind == "number":
        return "regression"
    return "multiclass" if kind == "text" or len(values) <= FEW else "regression"


def _says(loop: Loop) -> str | None:
    """What the names of the estimators say, if they all say the same."""
    said = set()
    for each in loop.trains:
        name = each.estimator.last.name if isinstance(each.estimator, Estimator) else ""
        said.add("regression" if name.endswith("Regressor") else "classes" if name.endswith("Classifier") else None)
    return said.pop() if len(said) == 1 else None


def _agreed(loop: Loop, task: Task, values: tuple[Value, ...]) -> Task:
    """The estimator must be of the task's kind."""
    says, label = _says(loop), loop.label
    if says is None or (says == "regression") == (task == "regression"):
        return task
    made = next(each.estimator for each in loop.trains if isinstance(each.estimator, Estimator)).last.name
    how = "" if label.task else f" (inferred from {len(values):,} different values)"
    other = made.replace("Classifier", "Regressor") if says == "classes" else made.replace("Regressor", "Classifier")
    remedy = "task='regression'" if says == "regression" else "classes=(…)"
    raise SpecError(
        f"Train is given {made}, and the label {label.column!r} is {task}{how}; write {other}, "
        f"or Label({label.column!r}, {remedy})."
    )


def _sound_numbers(loop: Loop, kind: ColumnType | None, values: tuple[Value, ...], facts: LabelFacts | None) -> None:
    label = loop.label
    wrong = [each for each in values if isinstance(each, str | bool)]
    if kind in ("text", "boolean") or wrong:
        raise SpecError(
            f"label {label.column!r} is {f'a column of {kind}' if kind else shown(wrong[0])}, and the task is regression; "
            "it needs numbers: name another column, or leave the task out."
        )
    if facts is not None and len(values) == 1:
        raise SpecError(_constant(label.column, values[0], facts))
    low = [each for each in values if isinstance(each, int | float) and each <= -1]
    if label.scale == "log1p" and low:
        raise SpecError(
            f"label {label.column!r} holds {low[0]!r}, and Label.scale is 'log1p', which needs more than -1; leave it out."
        )


def _ordered(values: tuple[Value, ...]) -> tuple[Value, ...]:
    """The smallest first."""
    try:
        return tuple(sorted(set(values)))
    except TypeError:
        return tuple(sorted(set(values), key=lambda value: (type(value).__name__, repr(value))))


def _positive(loop: Loop, classes: tuple[Value, ...]) -> int:
    """Declared, or True, 1, the larger one."""
    declared = loop.label.positive
    if declared is None:
        return classes.index(_ordered(classes)[-1])
    if declared not in classes:
        raise SpecError(
            f"Label.positive is {declared!r}, which is not one of the classes {classes}; write one of them."
        )
    return classes.index(declared)


def _constant(column: str, value: Value, facts: LabelFacts | None) -> str:
    rows = f" in all {facts.rows:,} rows looked at" if facts is not None else ""
    return f"label {column!r} is {value!r}{rows}; nothing can be learned from a constant: name another column, or add files."
