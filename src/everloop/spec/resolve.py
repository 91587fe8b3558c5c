"""Holds a declaration against the columns and labels that there are. Pure: reads no files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from everloop.errors import SpecError
from everloop.records import ColumnType, Task
from everloop.spec.checks import Between, Fresh, Holds, Matches, NotNull, OneOf, Unique
from everloop.spec.label import Outcomes, Value
from everloop.spec.loop import Loop
from everloop.spec.metric import LogLoss, Metric, RootMeanSquaredError
from everloop.spec.operations import infer
from everloop.spec.rollout import Canary
from everloop.spec.source import Fixed
from everloop.spec.train import Train
from everloop.spec.tree import FeatureTree, Input, Node, inputs_of

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
class Resolved:
    """A declaration with everything filled in that depends on the columns."""

    loop: Loop
    schema: Mapping[str, ColumnType]
    features: FeatureTree
    feature_types: Mapping[str, ColumnType]
    inputs: tuple[str, ...]
    """Raw columns that the features need, in the source's order."""
    task: Task
    classes: tuple[Value, ...]
    """Empty for regression."""
    positive: int | None
    """Binary: the index of the positive class."""
    score: Metric


def resolve(loop: Loop, schema: Mapping[str, ColumnType], facts: LabelFacts | None = None) -> Resolved:
    """Raises SpecError for an unknown column, a type that cannot be taken, a label that is constant or absent."""
    _columns_exist(loop, schema)
    features = loop.features if loop.features is not None else _all_columns(loop, schema)
    types = {name: _feature_type(name, node, schema) for name, node in features.columns}
    task, classes, positive = _label(loop, schema, facts)
    score = loop.score or (RootMeanSquaredError() if task == "regression" else LogLoss())
    if task not in score.tasks:
        raise SpecError(f"Loop.score is {score.name}, which does not fit a {task} label; it fits {' and '.join(score.tasks)}.")
    if loop.decision is not None and task != "binary":
        raise SpecError(f"Loop.decision is {loop.decision!r}, and the label is {task}; a threshold needs two classes.")
    _weights(loop, schema, classes)
    used = set(features.inputs)
    return Resolved(
        loop=loop,
        schema=dict(schema),
        features=features,
        feature_types=types,
        inputs=tuple(name for name in schema if name in used),
        task=task,
        classes=classes,
        positive=positive,
        score=score,
    )


def _columns_exist(loop: Loop, schema: Mapping[str, ColumnType]) -> None:
    source = loop.source
    wanted: list[tuple[str, str]] = [("source.key", name) for name in source.key]
    wanted.append(("source.event_time", source.event_time_column))
    wanted += [("source.after", name) for name in source.after]
    if not isinstance(loop.label.source, Outcomes):
        wanted.append(("label", loop.label.column))
    for check in loop.checks:
        where = f"el.check.{type(check).__name__}"
        match check:
            case NotNull() | Unique():
                wanted += [(where, name) for name in check.columns]
            case Between() | OneOf() | Matches():
                wanted.append((where, check.column))
            case Holds():
                wanted += [(where, name) for name in sorted(inputs_of(check.node))]
            case Fresh():
                pass
    if loop.features is not None:
        for name, node in loop.features.columns:
            wanted += [(f"the feature {name!r}", column) for column in sorted(inputs_of(node))]
    wanted += [("gate.slices", name) for name in getattr(loop.gate, "slices", ())]
    if isinstance(loop.rollout, Canary) and loop.rollout.unit is not None:
        wanted.append(("rollout.unit", loop.rollout.unit))
    for where, name in wanted:
        if name not in schema:
            raise SpecError(
                f"{where} names the column {name!r}, which the source does not have; it has {', '.join(schema)}."
            )
    if isinstance(source.event_time, Fixed):
        if schema[source.event_time.column] != "integer":
            kind = schema[source.event_time.column]
            raise SpecError(f"source.event_time counts by {source.event_time.column!r}, a column of {kind}; it needs integers.")
    elif schema[source.event_time] != "instant":
        raise SpecError(
            f"source.event_time is {source.event_time!r}, a column of {schema[source.event_time]}; it needs instants. "
            'For rows without a clock write el.Fixed("seq", start, every).'
        )


def _all_columns(loop: Loop, schema: Mapping[str, ColumnType]) -> FeatureTree:
    source = loop.source
    excluded = {*source.key, loop.label.column, source.event_time_column, *source.after}
    if isinstance(loop.rollout, Canary) and loop.rollout.unit:
        excluded.add(loop.rollout.unit)
    for each in loop.train if isinstance(loop.train, tuple) else (loop.train,):
        if isinstance(each.weight, str):
            excluded.add(each.weight)
    chosen = [name for name, kind in schema.items() if name not in excluded and kind != "instant"]
    if not chosen:
        raise SpecError(f"No column is left for features: {', '.join(schema)} are all key, time, label or after.")
    return FeatureTree(columns=tuple((name, Input(name)) for name in chosen))


def _feature_type(name: str, node: Node, schema: Mapping[str, ColumnType]) -> ColumnType:
    try:
        kind = infer(node, schema)
    except SpecError as error:
        raise SpecError(f"The feature {name!r}: {error}") from None
    if kind == "instant":
        raise SpecError(
            f"The feature {name!r} is an instant, which no estimator takes; use .dt.hour(), .dt.weekday() or a difference."
        )
    return kind


def _label(
    loop: Loop, schema: Mapping[str, ColumnType], facts: LabelFacts | None
) -> tuple[Task, tuple[Value, ...], int | None]:
    label = loop.label
    kind = schema.get(label.column)
    if kind == "instant":
        raise SpecError(f"label is {label.column!r}, a column of instants; predict a number or a class.")
    values = tuple(each for each in facts.distinct if each is not None) if facts is not None else ()
    if facts is not None and not values and label.absent is None and label.classes is None:
        raise SpecError(f"label {label.column!r} is missing in all {facts.rows:,} rows looked at; name a column that is known.")
    if label.absent is not None:
        values = tuple(dict.fromkeys([*values, label.absent]))
    task = label.task or _inferred(label.column, label.classes, kind, values)
    if task == "regression":
        if kind in ("text", "boolean"):
            raise SpecError(f"label {label.column!r} is a column of {kind}, and the task is regression; it needs numbers.")
        if facts is not None and len(set(values)) == 1:
            raise SpecError(_constant(label.column, values[0], facts.rows))
        return task, (), None
    classes = label.classes or _ordered(values)
    if len(classes) < 2:
        if facts is None or not values:
            raise SpecError(f"label {label.column!r} comes as outcomes, so its values are not known; write Label(classes=(…)).")
        raise SpecError(_constant(label.column, values[0], facts.rows))
    unknown = [each for each in values if each not in classes]
    if unknown:
        raise SpecError(f"label {label.column!r} holds {unknown[0]!r}, which is not one of Label.classes {classes}.")
    if task == "binary" and len(classes) != 2:
        raise SpecError(f"label {label.column!r} has {len(classes)} classes, and the task is binary; write task='multiclass'.")
    if len(classes) > MOST_CLASSES:
        raise SpecError(f"label {label.column!r} has {len(classes)} classes, more than {MOST_CLASSES}; write task='regression'?")
    if label.scale is not None:
        raise SpecError(f"Label.scale is {label.scale!r}, and the label is {task}; only a regression has a scale.")
    return task, classes, _positive(label.positive, classes) if task == "binary" else None


def _inferred(column: str, classes: tuple[Value, ...] | None, kind: ColumnType | None, values: tuple[Value, ...]) -> Task:
    if classes is not None:
        return "binary" if len(classes) == 2 else "multiclass"
    if kind is None and not values:
        raise SpecError(f"label {column!r} comes as outcomes, so its task is not known; write Label(task=…, classes=…).")
    if len(set(values)) <= 2 and kind != "number":
        return "binary"
    if kind == "number":
        return "binary" if set(values) == {0.0, 1.0} else "regression"
    if kind == "text" or len(values) <= FEW:
        return "multiclass"
    return "regression"


def _ordered(values: tuple[Value, ...]) -> tuple[Value, ...]:
    try:
        return tuple(sorted(set(values)))
    except TypeError:
        return tuple(sorted(set(values), key=repr))


def _positive(declared: Value | None, classes: tuple[Value, ...]) -> int:
    if declared is None:
        return 1
    if declared not in classes:
        raise SpecError(f"Label.positive is {declared!r}, which is not one of the classes {classes}.")
    return classes.index(declared)


def _constant(column: str, value: Value, rows: int) -> str:
    return f"label {column!r} is {value!r} in all {rows:,} rows looked at; nothing can be learned from a constant."


def _weights(loop: Loop, schema: Mapping[str, ColumnType], classes: tuple[Value, ...]) -> None:
    trains: tuple[Train, ...] = loop.train if isinstance(loop.train, tuple) else (loop.train,)
    for each in trains:
        if isinstance(each.weight, str) and each.weight != "balanced" and schema.get(each.weight) not in ("number", "integer"):
            raise SpecError(f'Train.weight is {each.weight!r}; write "balanced", a dict of classes, or a column of numbers.')
        if isinstance(each.weight, Mapping):
            strange = [key for key in each.weight if key not in classes]
            if strange:
                raise SpecError(f"Train.weight names the class {strange[0]!r}; the classes are {classes}.")
