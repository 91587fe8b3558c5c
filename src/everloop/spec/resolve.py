"""Holds a declaration against the columns and labels that there are. Pure: reads no files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from difflib import get_close_matches

from everloop.errors import SpecError
from everloop.forms import Image
from everloop.records import ColumnType, FeatureType, Task
from everloop.spec import target
from everloop.spec.alert import DriftFound
from everloop.spec.checks import Between, Check, Fresh, Holds, Matches, NotNull, OneOf, Unique
from everloop.spec.conform import shown
from everloop.spec.label import Outcomes, Value
from everloop.spec.loop import Loop
from everloop.spec.metric import Custom, LogLoss, Metric, RootMeanSquaredError
from everloop.spec.operations import infer
from everloop.spec.retrain import Drift, leaves
from everloop.spec.rollout import Canary
from everloop.spec.source import Fixed
from everloop.spec.target import LabelFacts
from everloop.spec.tree import FeatureTree, Input, Node, inputs_of
from everloop.spec.wholes import images_of

__all__ = ["LabelFacts", "Resolved", "resolve"]

PREDICTION = "(prediction)"
"""The name under which drift knows the model's own answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """A declaration with everything filled in that depends on the columns."""

    loop: Loop
    schema: Mapping[str, ColumnType]
    features: FeatureTree
    feature_types: Mapping[str, FeatureType]
    inputs: tuple[str, ...]
    """Raw columns that the features need, in the source's order."""
    task: Task
    classes: tuple[Value, ...]
    """Empty for regression."""
    positive: int | None
    """Binary: the index of the positive class."""
    score: Metric
    images: Mapping[str, Image] = field(default_factory=dict)
    """Of each raw column of bytes how its images are decoded."""


def resolve(loop: Loop, schema: Mapping[str, ColumnType], facts: LabelFacts | None = None) -> Resolved:
    """Raises SpecError for an unknown column, a type that cannot be taken, a label that is constant or absent."""
    _columns_exist(loop, schema)
    _event_time(loop, schema)
    for check in loop.checks:
        _check_fits(check, schema)
    features = loop.features if loop.features is not None else _all_columns(loop, schema)
    types = {name: _feature_type(name, node, schema) for name, node in features.columns}
    found = target.of(loop, schema, facts)
    score = loop.score or (RootMeanSquaredError() if found.task == "regression" else LogLoss())
    if found.task not in score.tasks:
        raise SpecError(
            f"Loop.score is {score.name}, which fits a {' or '.join(score.tasks)} label, and {loop.label.column!r} is "
            f"{found.task}{'' if loop.label.task else ' (inferred)'}; write another score, or Label(task=…)."
        )
    if isinstance(score, Custom):
        score = Custom(score.function, greater_is_better=score.greater_is_better, task=found.task)
    if loop.decision is not None and found.task != "binary":
        raise SpecError(
            f"Loop.decision is {shown(loop.decision)}, and the label is {found.task}; a threshold needs two classes: "
            "leave it out."
        )
    _weights(loop, schema, found.classes)
    used = set(features.inputs)
    _watchable(loop, schema, used)
    _askable(loop, schema, used)
    images = images_of(features)
    return Resolved(
        loop=loop,
        schema=dict(schema),
        features=features,
        feature_types=types,
        inputs=tuple(name for name in schema if name in used),
        task=found.task,
        classes=found.classes,
        positive=found.positive,
        score=score,
        images=images,
    )


def _columns_exist(loop: Loop, schema: Mapping[str, ColumnType]) -> None:
    source = loop.source
    wanted: list[tuple[str, str]] = [("source.key", name) for name in source.key]
    wanted.append(("source.event_time", source.event_time_column))
    wanted += [("source.after", name) for name in source.after]
    if not isinstance(loop.label.source, Outcomes):
        wanted.append(("label", loop.label.column))
    for check in loop.checks:
        wanted += [(f"el.check.{type(check).__name__}", name) for name in _columns_of(check)]
    if loop.features is not None:
        for name, node in loop.features.columns:
            wanted += [(f"the feature {name!r}", column) for column in sorted(inputs_of(node))]
    wanted += [("gate.slices", name) for name in (loop.gate.slices if loop.gate is not None else ())]
    if isinstance(loop.rollout, Canary) and loop.rollout.unit is not None:
        wanted.append(("rollout.unit", loop.rollout.unit))
    wanted += [(where, name) for where, names in asked_of(loop) for name in sorted(names)]
    for where, name in wanted:
        if name not in schema:
            raise SpecError(
                f"{where} names the column {name!r}, which the source does not have; {_instead(name, schema)}"
            )


def asked_of(loop: Loop) -> list[tuple[str, frozenset[str]]]:
    """What is asked of a request before it waits, and of which of its columns."""
    found: list[tuple[str, frozenset[str]]] = []
    if loop.serve.first is not None:
        found.append(("serve.first", inputs_of(loop.serve.first)))
    meaning = loop.serve.meaning
    if meaning is not None:
        columns = frozenset({meaning.of}) if isinstance(meaning.of, str) else inputs_of(meaning.of)
        found.append(("serve.meaning", columns))
    return found


def _instead(name: str, schema: Mapping[str, ColumnType]) -> str:
    close = get_close_matches(name, schema, n=1)
    more = f", … ({len(schema)} in all)" if len(schema) > 30 else ""
    return f"did you mean {close[0]!r}?" if close else f"it has {', '.join(list(schema)[:30])}{more}."


def _columns_of(check: Check) -> tuple[str, ...]:
    match check:
        case NotNull() | Unique():
            return check.columns
        case Between() | OneOf() | Matches():
            return (check.column,)
        case Holds():
            return tuple(sorted(inputs_of(check.node)))
        case Fresh():
            return ()


def _event_time(loop: Loop, schema: Mapping[str, ColumnType]) -> None:
    declared = loop.source.event_time
    if isinstance(declared, Fixed):
        kind = schema[declared.column]
        if kind != "integer":
            raise SpecError(f"source.event_time counts by {declared.column!r}, a column of {kind}; it needs integers.")
    elif schema[declared] != "instant":
        raise SpecError(
            f"source.event_time is {declared!r}, a column of {schema[declared]}; it needs instants. "
            'For rows without a clock write el.Fixed("seq", start, every).'
        )


_LOOKING = re.compile(r"\(\?(=|!|<=|<!|P=)|(?<!\\)(\\\\)*\\[1-9]")
"""What Python's regular expressions can and those on columns cannot."""
_COMPARED = {"number": (int, float), "integer": (int, float), "instant": (datetime,)}
_MEMBERS = {"number": (int, float), "integer": (int, float), "text": (str,), "boolean": (bool,)}


def _check_fits(check: Check, schema: Mapping[str, ColumnType]) -> None:
    match check:
        case Between():
            _values_fit("Between", check.column, schema[check.column], (check.low, check.high), _COMPARED)
        case OneOf():
            _values_fit("OneOf", check.column, schema[check.column], check.values, _MEMBERS)
        case Matches() if schema[check.column] != "text":
            raise SpecError(
                f"el.check.Matches is on {check.column!r}, a column of {schema[check.column]}; a pattern is for text: "
                "write Between or OneOf."
            )
        case Matches() if _LOOKING.search(check.pattern):
            raise SpecError(
                f"el.check.Matches on {check.column!r} has the pattern {check.pattern!r}, which looks around or back; "
                "columns are matched in one pass: write it without, or use Holds(…)."
            )
        case Holds():
            try:
                kind = infer(check.node, schema)
            except SpecError as error:
                raise SpecError(f"el.check.Holds({check.name!r}): {error}") from None
            if kind != "boolean":
                raise SpecError(
                    f"el.check.Holds({check.name!r}) gives {kind}; write a comparison, which gives true or false."
                )


def _values_fit(
    name: str, column: str, kind: ColumnType, values: tuple[object, ...], allowed: Mapping[str, tuple[type, ...]]
) -> None:
    where = f"el.check.{name} is on {column!r}, a column of {kind}"
    if kind not in allowed:
        kinds = " or ".join(allowed)
        raise SpecError(f'{where}; it takes {kinds}: write another check, for example Holds(lambda row: …, "…").')
    for value in values:
        if not isinstance(value, allowed[kind]) or (isinstance(value, bool) and bool not in allowed[kind]):
            raise SpecError(f"{where}, and holds {value!r}, which is none; write values of the column's type.")


def _all_columns(loop: Loop, schema: Mapping[str, ColumnType]) -> FeatureTree:
    source = loop.source
    excluded = {*source.key, loop.label.column, source.event_time_column, *source.after}
    if isinstance(loop.rollout, Canary) and loop.rollout.unit:
        excluded.add(loop.rollout.unit)
    excluded.update(each.weight for each in loop.trains if isinstance(each.weight, str))
    chosen = [name for name, kind in schema.items() if name not in excluded and kind not in ("instant", "bytes")]
    if not chosen:
        raise SpecError(
            f"No column is left for features: {', '.join(schema)} are all key, time, label or after; "
            "write features=… with those that may be used."
        )
    return FeatureTree(columns=tuple((name, Input(name)) for name in chosen))


def _feature_type(name: str, node: Node, schema: Mapping[str, ColumnType]) -> FeatureType:
    try:
        kind = infer(node, schema)
    except SpecError as error:
        raise SpecError(f"The feature {name!r}: {error}") from None
    if kind == "instant":
        raise SpecError(
            f"The feature {name!r} is an instant, which no estimator takes; use .dt.hour(), .dt.weekday() or a difference."
        )
    if kind == "bytes":
        raise SpecError(
            f"The feature {name!r} is bytes, which no estimator takes; for images write .image(height, width)."
        )
    return kind


def _weights(loop: Loop, schema: Mapping[str, ColumnType], classes: tuple[Value, ...]) -> None:
    for each in loop.trains:
        if (
            isinstance(each.weight, str)
            and each.weight != "balanced"
            and schema.get(each.weight) not in ("number", "integer")
        ):
            raise SpecError(
                f'Train.weight is {each.weight!r}, which is no column of numbers; write "balanced", a dict of classes, '
                f"or one of {', '.join(name for name, kind in schema.items() if kind in ('number', 'integer')) or 'none'}."
            )
        if each.weight is not None and not classes and (each.weight == "balanced" or isinstance(each.weight, Mapping)):
            raise SpecError(f"Train.weight is {each.weight!r}, and the label is a number; write a column of weights.")
        if isinstance(each.weight, Mapping):
            strange = [key for key in each.weight if key not in classes]
            if strange:
                raise SpecError(f"Train.weight names the class {strange[0]!r}; write those of {classes}.")


def _askable(loop: Loop, schema: Mapping[str, ColumnType], used: set[str]) -> None:
    """Who goes first, and what a query is about, is asked of what requests bring."""
    for where, names in asked_of(loop):
        late = sorted(names & {loop.label.column, *loop.source.after})
        if late:
            raise SpecError(
                f"{where} reads {', '.join(late)}, which is known only after the event; name what requests bring."
            )
    first, meaning = loop.serve.first, loop.serve.meaning
    if first is not None and (kind := _typed("serve.first", first, schema)) != "boolean":
        raise SpecError(f"serve.first gives {kind}; write a comparison, which gives true or false.")
    if meaning is None:
        return
    if isinstance(meaning.of, str):
        if meaning.of not in used:
            raise SpecError(
                f"serve.meaning names {meaning.of!r}, which no feature reads, so that no clusters are learned of it; "
                f"name one of {', '.join(sorted(used))}, or write a function of the row."
            )
    elif (kind := _typed("serve.meaning", meaning.of, schema)) not in ("text", "boolean", "integer"):
        raise SpecError(f"serve.meaning gives {kind}, which names no classes; give text, true or false, or integers.")


def _typed(where: str, node: Node, schema: Mapping[str, ColumnType]) -> FeatureType:
    try:
        return infer(node, schema)
    except SpecError as error:
        raise SpecError(f"{where}: {error}") from None


def _watchable(loop: Loop, schema: Mapping[str, ColumnType], used: set[str]) -> None:
    """Drift is seen in what requests bring; a slice and a unit are groups."""
    watched = [("Drift", each.columns) for each in leaves(loop.retrain) if isinstance(each, Drift)]
    watched += [("alert.DriftFound", each.columns) for each in loop.alerts if isinstance(each, DriftFound)]
    for what, columns in watched:
        for name in columns or ():
            if name not in used and name != PREDICTION:
                raise SpecError(
                    f"{what}.columns names {name!r}, which no feature reads, so that requests need not bring it; "
                    f"write columns of {', '.join(sorted(used))}, or {PREDICTION!r} for the answers."
                )
    for name in loop.gate.slices if loop.gate is not None else ():
        if schema[name] == "instant":
            raise SpecError(f"gate.slices names {name!r}, a column of instants; name a column whose values are groups.")
        if name in (loop.label.column, *loop.source.after):
            raise SpecError(
                f"gate.slices names {name!r}, which is known only later, so that no fit sees it and no gate can; "
                "name a column that requests bring."
            )
    unit = loop.rollout.unit if isinstance(loop.rollout, Canary) else None
    if unit is not None and schema[unit] not in ("text", "integer"):
        raise SpecError(f"Canary.unit is {unit!r}, a column of {schema[unit]}; name a column of text or integers.")
