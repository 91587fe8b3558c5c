"""What a loop will do, in plain words that follow on "It will", defaults included. Does none of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import timedelta

from everloop.spec.alert import name_of
from everloop.spec.checks import Between, Check, Fresh, Holds, Matches, NotNull, OneOf, Unique
from everloop.spec.decision import Threshold
from everloop.spec.function import Function
from everloop.spec.gate import Better
from everloop.spec.guard import Errors, Guard, Outcome
from everloop.spec.label import Outcomes, Value
from everloop.spec.loop import Loop
from everloop.spec.metric import Metric
from everloop.spec.policy import span
from everloop.spec.resolve import Resolved
from everloop.spec.retrain import AllOf, AnyOf, Degraded, Drift, Every, Manual, Rows, Trigger, leaves
from everloop.spec.rollout import Canary, Direct
from everloop.spec.serve import Cache
from everloop.spec.source import Fixed
from everloop.spec.torch import Torch
from everloop.spec.train import Choice, Space, Train
from everloop.spec.tree import describe as written
from everloop.spec.window import Last

SHOWN = 12
"""So many features are spelt out."""
ALL = "every column but the key, the time, the label and those known later (the default)"


def describe(declared: Resolved | Loop) -> list[str]:
    """One sentence or two a fact, in the order of the loop.

    A `Loop` that has not met its columns yet says what it will infer.
    """
    resolved = declared if isinstance(declared, Resolved) else None
    loop = resolved.loop if resolved is not None else declared
    assert isinstance(loop, Loop)
    return [
        _source(loop),
        _checks(loop),
        _label(loop, resolved),
        _features(loop, resolved),
        _window(loop),
        *_training(loop),
        _score(loop, resolved),
        _decision(loop, resolved),
        _gate(loop),
        _rollout(loop),
        f"Retrain {_trigger(loop.retrain)}{_default(loop, 'retrain')}; one at a time{_cooldown(loop)}.{_warm(loop)}",
        _serve(loop),
        _alerts(loop),
    ]


def _alerts(loop: Loop) -> str:
    if not loop.watched_alerts:
        return "Tell nobody of anything; `everloop status` says what happened."
    rules = _and(tuple(name_of(each) for each in loop.watched_alerts))
    told = _and(tuple(type(each).__name__ for each in loop.receivers)) if loop.receivers else ""
    where = f"tell {told}" if told else "say it where `everloop up` runs, and tell nobody else (the default)"
    return f"Watch for {rules}{_default(loop, 'alerts')}; {where}."


def _default(loop: Loop, field: str) -> str:
    declared = next(each for each in dataclasses.fields(loop) if each.name == field)
    return " (the default)" if getattr(loop, field) == declared.default else ""


def _source(loop: Loop) -> str:
    source = loop.source
    time = source.event_time
    if isinstance(time, Fixed):
        when = f"{time.start:%Y-%m-%d %H:%M} UTC plus {_span(time.every)} for each step of {time.column}"
    else:
        when = f"the time in {time}" + (
            f", read in {source.time_zone} where it has no zone" if source.time_zone else ""
        )
    after = f" Known only later, so never a feature: {', '.join(source.after)}." if source.after else ""
    return (
        f"Take in every new file of {source.path}. Same {' + '.join(source.key)}, same row; "
        f"a row happens at {when}.{after}"
    )


def _checks(loop: Loop) -> str:
    share = f"{loop.quarantine_up_to * 100:.3g} %"
    aside = (
        "A row that fails is put aside with its reason; "
        f"a file with more than {share} of such rows is refused as a whole{_default(loop, 'quarantine_up_to')}."
    )
    if not loop.checks:
        return f"Check only types and keys (the default). {aside}"
    return f"Check that {'; that '.join(_check(each) for each in loop.checks)}. {aside}"


def _check(check: Check) -> str:
    match check:
        case NotNull():
            return f"{_and(check.columns)} {'is' if len(check.columns) == 1 else 'are'} never missing"
        case Unique():
            return f"no two rows of a file share {_and(check.columns)}"
        case Between():
            return f"{check.column} is between {check.low} and {check.high}"
        case OneOf():
            values = ", ".join(map(repr, check.values[:8])) + (", …" if len(check.values) > 8 else "")
            return f"{check.column} is one of {values}"
        case Matches():
            return f"{check.column} matches {check.pattern}"
        case Fresh():
            return f"the newest row of a file is at most {_span(check.within)} old"
        case Holds():
            return f"{check.name} ({written(check.node)})"


def _label(loop: Loop, resolved: Resolved | None) -> str:
    label = loop.label
    known = f"{_span(label.delay)} after the event" if label.delay else "at once"
    where = "as an outcome that you report" if isinstance(label.source, Outcomes) else "as a column of the source"
    absent = f" Where none has come by then, it is {label.absent!r}." if label.absent is not None else ""
    default = "" if label.delay else " (the default)"
    return f"Predict {label.column}: {_task(loop, resolved)}. It comes {where} and counts as known {known}{default}.{absent}"


def _task(loop: Loop, resolved: Resolved | None) -> str:
    label = loop.label
    inferred = "" if label.task or label.classes else ", inferred"
    if resolved is None:
        return f"{label.task or 'what kind of value, `everloop check` infers'}"
    if resolved.task == "regression":
        scale = ", learned on the scale log(1 + value)" if label.scale else ""
        return f"a number (regression{inferred}){scale}"
    if resolved.positive is not None:
        other = resolved.classes[1 - resolved.positive]
        return f"yes or no ({resolved.classes[resolved.positive]!r} is yes, {other!r} is no{inferred})"
    values = ", ".join(map(repr, resolved.classes[:8])) + (", …" if len(resolved.classes) > 8 else "")
    return f"one of {len(resolved.classes)} classes ({values}{inferred})"


def _features(loop: Loop, resolved: Resolved | None) -> str:
    tree = resolved.features if resolved is not None else loop.features
    if tree is None:
        return f"Learn from {ALL}."
    spelt = [
        name if written(node) == f"row.{name}" else f"{name} = {written(node)}" for name, node in tree.columns[:SHOWN]
    ]
    more = f" and {len(tree.columns) - SHOWN} more" if len(tree.columns) > SHOWN else ""
    which = "" if loop.features is not None else f", {ALL}"
    texts = sum(kind == "text" for kind in resolved.feature_types.values()) if resolved is not None else 0
    categories = f", {texts} of them categories" if texts else ""
    return f"Learn from {_count(len(tree.columns), 'feature')}{categories}{which}: {'; '.join(spelt)}{more}."


def _window(loop: Loop) -> str:
    window = loop.window
    if isinstance(window, Last):
        length = window.length
        reach = (
            f"the labelled rows of the last {_span(length)}"
            if isinstance(length, timedelta)
            else f"the newest {length:,} labelled rows"
        )
    else:
        reach = "all labelled rows"
    test = f"the newest {_amount(window.test)}" + (" of them" if isinstance(window.test, float) else "")
    ships = "What ships is fitted once more with them." if window.refit else "What was tested on them is what ships."
    return f"Fit on {reach}{_default(loop, 'window')}, without {test}: these stay unseen as test rows. {ships}"


def _training(loop: Loop) -> list[str]:
    lines = [_train(each) for each in loop.trains]
    if len(lines) > 1:
        lines.append(f"Go on with the one of these {len(lines)} that has the best score.")
    return lines


def _train(train: Train) -> str:
    made = train.estimator
    name = f"your function {made.name}" if isinstance(made, Function) else made.name
    if isinstance(made, Torch):
        name = _network(made)
    weight = f", {_weight(train.weight)}" if train.weight is not None else ""
    limit = f", at most {_span(train.timeout)}" if train.timeout else ""
    seed = f"seed {train.seed}{' (the default)' if train.seed == 0 else ''}"
    if train.search is None:
        return f"Fit {name} with its parameters as they are, without a search (the default){weight}; {seed}{limit}."
    search = train.search
    spaces = ", ".join(f"{each} {_space(space)}" for each, space in sorted(search.space.items()))
    stop = f" or {_span(search.timeout)}" if search.timeout else ""
    drawn = {"tpe": "", "random": ", drawn at random", "grid": ", every combination"}[search.sampler]
    given_up = f"; hopeless trials are given up ({search.pruner})" if search.pruner else ""
    at_once = "" if search.workers is None else f"; {search.workers} at once"
    trials = search.trials if search.grid is None else search.grid
    return (
        f"Search {_count(trials, 'trial')}{stop} for the best parameters of {name} ({spaces}){drawn}, judged on the newest "
        f"part of the training rows, never on the test rows{given_up}{at_once}{weight}; {seed}{limit}."
    )


def _network(torch: Torch) -> str:
    """How a network is trained, in the middle of a sentence."""
    loss = torch.loss.name if isinstance(torch.loss, Function) else torch.loss
    schedule = type(torch.schedule).__name__.lower() if torch.schedule is not None else "constant"
    parts = [
        f"at most {_count(torch.epochs, 'epoch')}" if torch.early_stopping else _count(torch.epochs, "epoch"),
        f"batches of {torch.batch_size:,}",
        f"{torch.optimiser} with a {schedule} learning rate of {torch.learning_rate:g}",
    ]
    if loss is not None:
        parts.append(f"the loss {loss}")
    if torch.adapt is not None:
        parts.append(f"only LoRA matrices of rank {torch.adapt.rank}")
    if torch.early_stopping is not None:
        parts.append(
            f"until {_count(torch.early_stopping.patience, 'epoch')} bring nothing on the newest {torch.early_stopping.share:.0%}"
        )
    return f"the network {torch.model.name} ({', '.join(parts)})"


def _weight(weight: str | Mapping[Value, float]) -> str:
    if isinstance(weight, str):
        return "each class weighted alike" if weight == "balanced" else f"rows weighted by the column {weight}"
    return "weighted " + ", ".join(f"{key!r}: {each:g}" for key, each in weight.items())


def _space(space: Space) -> str:
    if isinstance(space, Choice):
        return f"one of {', '.join(map(repr, space.values))}"
    return f"from {space.low:g} to {space.high:g}"


def _score(loop: Loop, resolved: Resolved | None) -> str:
    score = resolved.score if resolved is not None else loop.score
    if score is None:
        return "Score by log loss for classes, or by the root mean squared error for numbers (the default); smaller is better."
    default = "" if loop.score is not None else " (the default)"
    beside = score.companion.name
    stand_in = (
        f" Where a mean over rows is needed (shadow), {_words(score.companion)} stands in."
        if beside != score.name
        else ""
    )
    return (
        f"Score by {_words(score)}{default}; {'greater' if score.greater_is_better else 'smaller'} is better.{stand_in}"
    )


def _words(score: Metric) -> str:
    return score.name.replace("_", " ")


def _decision(loop: Loop, resolved: Resolved | None) -> str:
    decision = loop.decision
    if resolved is not None and resolved.task == "regression":
        return "Answer with the number."
    if decision is None:
        return "Answer with the probabilities, and decide for the most probable class (the default)."
    return f"Answer with the probabilities, and decide for yes {_threshold(decision)}."


def _threshold(decision: Threshold) -> str:
    if decision.value is not None:
        return f"from a probability of {decision.value:g} on"
    if decision.precision is not None:
        return f"as often as it can with a precision of {decision.precision:g} on the test rows"
    if decision.false_positive_rate is not None:
        return f"as often as it can with a false positive rate of {decision.false_positive_rate:g} on the test rows"
    assert decision.minimise is not None
    return f"where {_words(decision.minimise)} is best on the test rows"


def _gate(loop: Loop) -> str:
    gate = loop.gate
    if gate is None:
        return "Let every new version go on, however bad it is: there is no gate."
    if isinstance(gate, Better):
        margin = f" by more than {gate.by:g}" if gate.by else ""
        line = (
            f"Let a new version pass when its test rows show it to be better than the champion{margin} "
            f"({1 - gate.alpha:.0%} sure)."
        )
        if gate.slices:
            limit = gate.slice_margin if gate.slice_margin is not None else 0.0
            line += f" A value of {_and(gate.slices)} on which it is shown worse by more than {limit:g} stops it."
        return line
    unsure = {
        "shadow": "goes on to shadow, where more labels decide",
        "keep": "is kept aside and the champion stays",
        "reject": "is rejected",
    }[gate.unsure]
    line = (
        f"Let a new version pass when the test rows show it not to be worse than the champion by {gate.margin:g} or more "
        f"({1 - gate.alpha:.0%} sure){_default(loop, 'gate')}; when they cannot tell, it {unsure}."
    )
    if gate.slices:
        limit = gate.slice_margin if gate.slice_margin is not None else 2 * gate.margin
        line += f" A value of {_and(gate.slices)} on which it is shown worse by more than {limit:g} stops it."
    return line


def _rollout(loop: Loop) -> str:
    rollout = loop.rollout
    if isinstance(rollout, Direct):
        return "Give a version that passed all traffic at once."
    shares = ", then ".join(f"{share * 100:.3g} %" for share in rollout.shares)
    shadow = "first answer beside the champion, unseen (shadow), then give it " if rollout.shadow else "have "
    ends = (
        "it becomes champion, with the record \u201cno sign of harm\u201d"
        if rollout.then == "promote"
        else "it is turned back"
        if rollout.then == "rollback"
        else (
            f"it becomes champion where {rollout.minimum_requests:,} requests at {rollout.shares[-1]:.0%} showed no sign of "
            "harm, and waits where they did not"
        )
    )
    unit = ""
    if rollout.unit is not None:
        unit = f" Requests with the same {rollout.unit} stay on one side, {'always' if rollout.sticky == 'always' else 'for an hour'}."
    former = ""
    if rollout.shadow and rollout.former > timedelta(0):
        former = (
            f" For {_span(rollout.former)} after it the champion of before answers unseen, so that the gain is seen."
        )
    return (
        f"Let a version that passed {shadow}{shares} of the traffic, then all of it{_default(loop, 'rollout')}. "
        f"Guards: {_guards(rollout.guards)}. It is turned back as soon as harm is shown (by mistake in at most "
        f"{rollout.alpha * 100:.3g} % of releases), goes on after {_span(rollout.minimum)} and {rollout.minimum_requests:,} "
        f"requests at the earliest, and if nothing is settled after {_span(rollout.longest)}, {ends}.{unit}{former}{_overrun(loop)}"
    )


def _overrun(loop: Loop) -> str:
    """A release that may outlast the schedule keeps turns waiting: said before it happens."""
    periods = [each.period for each in leaves(loop.retrain) if isinstance(each, Every)]
    if not isinstance(loop.rollout, Canary) or not periods or min(periods) >= loop.rollout.longest:
        return ""
    return (
        f" Mind: a release may take {_span(loop.rollout.longest)} and a turn is due every {_span(min(periods))}; what "
        f"is due meanwhile waits. With little traffic write Canary(longest=…) of at most that."
    )


def _guards(guards: tuple[Guard, ...]) -> str:
    return "; ".join(_guard(each) for each in guards) or "none"


def _guard(guard: Guard) -> str:
    if isinstance(guard, Errors):
        return f"failing requests at most {_points(guard.margin)} above the champion's"
    if isinstance(guard, Outcome):
        share = guard.between == (0.0, 1.0)
        margin = _points(guard.margin) if share else f"{guard.margin:g}"
        side = "below" if guard.better == "higher" else "above"
        without = "is left out" if guard.absent is None else f"counts as {guard.absent:g}"
        return (
            f"the {'share' if share else 'mean'} of the outcome {guard.name} at most {margin} {side} the champion's, each "
            f"request {_span(guard.delay)} old; one without an outcome {without}"
        )
    slow = f"answers slower than the slowest {(1 - guard.quantile) * 100:.3g} % of the champion's"
    return f"{slow} at most {_points(guard.margin)} more"


def _points(margin: float) -> str:
    count = f"{margin * 100:.3g}"
    return f"{count} point{'' if count == '1' else 's'} in a hundred"


def _trigger(trigger: Trigger) -> str:
    match trigger:
        case AnyOf():
            return ", or ".join(_inner(each) for each in trigger.triggers)
        case AllOf():
            return " and at the same time ".join(_inner(each) for each in trigger.triggers)
        case Every():
            zone = f" (days of {trigger.time_zone})" if trigger.time_zone != "UTC" else ""
            missed = {
                "last": "",
                "all": ", once for each time that was missed",
                "skip": ", without making up for times that were missed",
            }[trigger.catch_up]
            return f"every {_span(trigger.period)}{zone}{missed}"
        case Drift():
            which = " or ".join(trigger.columns) if trigger.columns else "any column that the features read"
            rows = isinstance(trigger.window, int)
            window = f"{trigger.window:,} requests" if rows else _span(trigger.window)  # type: ignore[arg-type]
            looked = "" if trigger.window == timedelta(days=7) else f", {window} at a time"
            habits = {
                "detect": "",
                "day": " of the same hours",
                "week": " of the same hours and weekdays",
                "none": " of all hours",
            }[trigger.season]
            return (
                f"when {which} drifts from the training rows{habits}{looked} "
                f"(about one false alarm in {_span(trigger.false_alarm_every)})"
            )
        case Degraded():
            over = f" over {_span(trigger.over)}" if trigger.over else ""
            said = f"when the score on matured labels{over} is {trigger.by:g} worse than what the champion once reached"
            if trigger.detector is None:
                return said
            return f"{said}, or {type(trigger.detector).__name__} finds that it has become so much worse"
        case Rows():
            return f"when {trigger.count:,} new labelled rows have come"
        case Manual():
            return "when you ask for it (everloop run)"


def _inner(trigger: Trigger) -> str:
    return f"({_trigger(trigger)})" if isinstance(trigger, AnyOf | AllOf) else _trigger(trigger)


def _cooldown(loop: Loop) -> str:
    if loop.cooldown:
        return f", and not within {_span(loop.cooldown)} of the last"
    return ", with no pause between them (the default)"


def _warm(loop: Loop) -> str:
    return " Each fit goes on from the champion's model instead of from nothing." if loop.warm else ""


def _serve(loop: Loop) -> str:
    limit = loop.serve.p99
    p99 = f"99 of 100 answers within {_span(limit)}" if limit else "no limit on the time of an answer (the default)"
    log = "every prediction is kept in the log (the default)" if loop.serve.log else "predictions are NOT kept"
    log += ", only sketches of their columns for the drift watch" if loop.sketched else ""
    mode = ", each run on all cores of its process" if loop.serve.mode == "latency" else ""
    return f"Serve over HTTP: {p99}{mode}; {log}; {_cache(loop.serve.cache)}."


def _cache(cache: Cache | None) -> str:
    if cache is None:
        return "no cache (the default)"
    return (
        f"the same columns get the same answer for {_span(cache.time_to_live)}, from a cache of {cache.bytes:,} bytes"
    )


def _and(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _count(count: int, name: str) -> str:
    return f"{count:,} {name}{'' if count == 1 else 's'}"


def _amount(amount: timedelta | int | float) -> str:
    if isinstance(amount, timedelta):
        return _span(amount)
    return _count(amount, "row") if isinstance(amount, int) else f"{amount * 100:.3g} %"


def _span(duration: timedelta) -> str:
    return span(duration, weeks=False)
