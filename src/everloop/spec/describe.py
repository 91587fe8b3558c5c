"""What a loop will do, in plain words, defaults included. Does none of it."""

from __future__ import annotations

from datetime import timedelta

from everloop.spec.checks import Between, Check, Fresh, Holds, Matches, NotNull, OneOf, Unique
from everloop.spec.decision import Threshold
from everloop.spec.function import Function
from everloop.spec.gate import Better, NotWorse
from everloop.spec.guard import Errors, Guard
from everloop.spec.resolve import Resolved
from everloop.spec.retrain import AllOf, AnyOf, Degraded, Drift, Every, Manual, Rows, Trigger
from everloop.spec.rollout import Canary
from everloop.spec.train import Train
from everloop.spec.tree import describe as words_of
from everloop.spec.window import Last


def describe(resolved: Resolved) -> list[str]:
    """One sentence a fact, in the order of the loop."""
    loop = resolved.loop
    source, label = loop.source, loop.label
    lines = [
        f"Take in every new file of {source.path}; a row is known by {', '.join(source.key)} and happens at "
        f"{source.event_time_column}{f' ({source.time_zone})' if source.time_zone else ''}.",
        *_checks(resolved),
        f"Predict {label.column}, {_task(resolved)}; the label is known {_span(label.delay)} after the event."
        if label.delay
        else f"Predict {label.column}, {_task(resolved)}; the label is known at once.",
        _features(resolved),
        _window(resolved),
        *(_train(each) for each in (loop.train if isinstance(loop.train, tuple) else (loop.train,))),
    ]
    if isinstance(loop.train, tuple):
        lines.append(f"Keep the one of these {len(loop.train)} with the best {resolved.score.name}.")
    lines.append(_decision(resolved))
    lines.append(f"Score by {resolved.score.name}{'' if loop.score else ' (the default)'}.")
    lines.append(_gate(loop.gate))
    lines.append(_rollout(loop.rollout))
    lines.append(f"Make a new version {_trigger(loop.retrain)}{_cooldown(loop.cooldown)}.")
    p99 = f", 99 of 100 within {_span(loop.serve.p99)}" if loop.serve.p99 else ""
    log = "every prediction is kept in the log" if loop.serve.log else "predictions are NOT kept, so nothing can be watched"
    lines.append(f"Serve over HTTP{p99}; {log}.")
    return lines


def _task(resolved: Resolved) -> str:
    if resolved.task == "regression":
        scale = f" on the scale {resolved.loop.label.scale}" if resolved.loop.label.scale else ""
        return f"a number{scale}"
    inferred = "" if resolved.loop.label.task or resolved.loop.label.classes else " (inferred)"
    if resolved.positive is not None:
        other = resolved.classes[1 - resolved.positive]
        return f"one of two classes{inferred}: {resolved.classes[resolved.positive]!r} is the positive one, {other!r} the other"
    return f"one of {len(resolved.classes)} classes{inferred}"


def _checks(resolved: Resolved) -> list[str]:
    share = resolved.loop.quarantine_up_to
    rest = f"put aside with its reason; a batch with more than {share:.0%} of such rows is refused"
    if not resolved.loop.checks:
        return [f"Check types and keys only (no checks are declared); a row that fails is {rest}."]
    return [f"Check that {'; that '.join(_check(each) for each in resolved.loop.checks)}. A row that fails is {rest}."]


def _check(check: Check) -> str:
    match check:
        case NotNull():
            return f"{', '.join(check.columns)} is never missing"
        case Unique():
            return f"{', '.join(check.columns)} is unique in a batch"
        case Between():
            return f"{check.column} is between {check.low} and {check.high}"
        case OneOf():
            return f"{check.column} is one of {len(check.values)} values"
        case Matches():
            return f"{check.column} matches {check.pattern}"
        case Fresh():
            return f"a batch's newest row is at most {_span(check.within)} old"
        case Holds():
            return f"{check.name} holds"


def _features(resolved: Resolved) -> str:
    names = resolved.features.names
    which = "declared" if resolved.loop.features is not None else "all columns that may be used, the default"
    shown = ", ".join(words_of(node) if words_of(node) == name else f"{name} = {words_of(node)}" for name, node in resolved.features.columns[:8])
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    categories = sum(kind == "text" for kind in resolved.feature_types.values())
    return f"Use {len(names)} features ({which}), {categories} of them categories: {shown}{more}."


def _window(resolved: Resolved) -> str:
    window = resolved.loop.window
    reach = f"the newest {_amount(window.length)} of labelled rows" if isinstance(window, Last) else "all labelled rows"
    refit = " and fit it again on all of them before it ships" if window.refit else ""
    return f"Fit on {reach}; hold back the newest {_amount(window.test)} of them as test rows{refit}."


def _train(train: Train) -> str:
    made = f"the function {train.estimator.name}" if isinstance(train.estimator, Function) else train.estimator.name
    if train.search is None:
        return f"Fit {made} with its parameters as they are, seed {train.seed}."
    limit = f", for {_span(train.search.timeout)} at most" if train.search.timeout else ""
    names = ", ".join(sorted(train.search.space))
    return f"Fit {made}: {train.search.trials} trials over {names}{limit}, judged on the newest part of the training rows."


def _decision(resolved: Resolved) -> str:
    decision = resolved.loop.decision
    if resolved.task == "regression":
        return "Answer with the number."
    if decision is None:
        return "Decide for the most probable class (the default)."
    return f"Decide for the positive class {_threshold(decision)}."


def _threshold(decision: Threshold) -> str:
    if decision.value is not None:
        return f"from a probability of {decision.value:g} on"
    if decision.precision is not None:
        return f"at the lowest threshold with a precision of {decision.precision:g} on the test rows"
    if decision.false_positive_rate is not None:
        return f"at the threshold with a false positive rate of {decision.false_positive_rate:g} on the test rows"
    return f"at the threshold that is best by {decision.minimise.name} on the test rows" if decision.minimise else ""


def _gate(gate: NotWorse | Better | None) -> str:
    if gate is None:
        return "No gate: every version goes on, however bad it is."
    slices = f"; a slice of {', '.join(gate.slices)} vetoes when it is shown worse" if gate.slices else ""
    if isinstance(gate, Better):
        return f"Let a version through when it is shown better than the champion by more than {gate.by:g}{slices}."
    unsure = {
        "shadow": "goes on to shadow, where more labels decide",
        "keep": "is kept aside and the champion stays",
        "reject": "is rejected",
    }[gate.unsure]
    return (
        f"Let a version through when it is shown not worse than the champion by {gate.margin:g}{slices}; "
        f"one that the rows cannot tell apart {unsure}."
    )


def _rollout(rollout: object) -> str:
    if not isinstance(rollout, Canary):
        return "Release a version that passed to all traffic at once."
    shares = ", ".join(f"{share:.0%}" for share in rollout.shares)
    shadow = "in shadow of all traffic, then " if rollout.shadow else ""
    guards = ", ".join(_guard(each) for each in rollout.guards) or "nothing (no guards)"
    unit = f" Callers with the same {rollout.unit} stay on one side." if rollout.unit else ""
    return (
        f"Release a version {shadow}at {shares} of the traffic, guarding {guards}; turn it back as soon as harm is shown "
        f"(an equal one in at most {rollout.alpha:.0%} of releases), and after {_span(rollout.longest)} without a sign of "
        f"harm {'promote it' if rollout.then == 'promote' else 'turn it back'}.{unit}"
    )


def _guard(guard: Guard) -> str:
    if isinstance(guard, Errors):
        return f"errors (+{guard.margin:.1%} at most)"
    return f"answers slower than the champion's p{guard.quantile * 100:g} (+{guard.margin:.1%} at most)"


def _trigger(trigger: Trigger) -> str:
    match trigger:
        case AnyOf():
            return " or ".join(_trigger(each) for each in trigger.triggers)
        case AllOf():
            return " and at the same time ".join(_trigger(each) for each in trigger.triggers)
        case Every():
            zone = f" ({trigger.time_zone})" if trigger.time_zone != "UTC" else ""
            return f"every {_span(trigger.period)}{zone}"
        case Drift():
            which = ", ".join(trigger.columns) if trigger.columns else "any input"
            return f"when {which} drifts (a false alarm every {_span(trigger.false_alarm_every)} at most)"
        case Degraded():
            over = f" over {_span(trigger.over)}" if trigger.over else ""
            return f"when the score on matured labels{over} is worse by {trigger.by:g}"
        case Rows():
            return f"when {trigger.count:,} new labelled rows have come"
        case Manual():
            return "when asked to (everloop run)"


def _cooldown(cooldown: timedelta) -> str:
    return f", but not within {_span(cooldown)} of the last time" if cooldown else ""


def _amount(amount: timedelta | int | float) -> str:
    if isinstance(amount, timedelta):
        return _span(amount)
    return f"{amount:,} rows" if isinstance(amount, int) else f"{amount:.0%}"


def _span(duration: timedelta | None) -> str:
    """
    >>> _span(timedelta(days=7)), _span(timedelta(minutes=90)), _span(timedelta(milliseconds=20))
    ('7 days', '90 minutes', '20 milliseconds')
    """
    if duration is None:
        return "ever"
    for unit, name in (
        (timedelta(days=1), "day"),
        (timedelta(hours=1), "hour"),
        (timedelta(minutes=1), "minute"),
        (timedelta(seconds=1), "second"),
        (timedelta(milliseconds=1), "millisecond"),
    ):
        if duration >= unit and duration % unit == timedelta(0):
            count = duration // unit
            return f"{count} {name}{'' if count == 1 else 's'}"
    return f"{duration.total_seconds():g} seconds"
