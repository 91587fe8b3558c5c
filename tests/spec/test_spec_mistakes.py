"""Every mistake of shape says the fact, the value and the remedy."""

import ast
import functools
import inspect
from collections.abc import Callable
from datetime import UTC, datetime
from datetime import timedelta as td
from pathlib import Path
from typing import Any

import pytest
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

import everloop as el
from everloop.spec import checks, gate, label, retrain, rollout, source, train
from everloop.spec import loop as loops
from everloop.spec.loop import Loop
from everloop.spec.taught import taught

Make = Callable[..., Loop]
KEY: dict[str, Any] = {"key": "id", "event_time": "at"}


def fit(samples: Any, params: Any, context: Any) -> Any:
    return None


def inner() -> Callable[..., Any]:
    def hidden(samples: Any, params: Any, context: Any) -> Any:
        return None

    return hidden


class Scripted(LogisticRegression):  # type: ignore[misc]
    pass


Scripted.__module__ = "__main__"

# What is written; what the message must hold: the value, and words of the remedy.
MISTAKES: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "a field that does not exist": (
        lambda: el.Parquet("x", kye="id", event_time="at"),  # type: ignore[call-arg]
        ("Parquet has no field kye", "did you mean key"),
    ),
    "a key that is missing": (lambda: el.Parquet("x", event_time="at"), ("Parquet has no key", "Parquet(key=…)")),  # type: ignore[call-arg]
    "everything missing": (lambda: el.Loop(name="x"), ("no source and no label and no train", "source=…")),  # type: ignore[call-arg]
    "a value without its name": (lambda: el.Label("late", td(1)), ("timedelta(days=1)", "delay=")),  # type: ignore[call-arg]
    "a field given twice": (lambda: el.Label("late", column="late"), ("column twice", "leave one out")),  # type: ignore[misc]
    "a field that comes later": (lambda: el.Loop(joins={}), ("joins=", "not built yet", "join them in your source")),  # type: ignore[call-arg]
    "a key of nothing": (lambda: el.Parquet("x", key=(), event_time="at"), ("()", "name the columns")),
    "a key named twice": (lambda: el.Csv("x", key=("a", "a"), event_time="at"), ("('a', 'a')", "each once")),
    "a key that is no text": (lambda: el.Csv("x", key=[1], event_time="at"), ("key[0] is 1", "write a text")),  # type: ignore[list-item]
    "an empty path": (lambda: el.JsonLines("", **KEY), ("path is empty", '"rows/*.parquet"')),
    "a zone that is none": (lambda: el.Parquet("x", time_zone="Mars/North", **KEY), ("'Mars/North'", "Europe/Berlin")),
    "a separator of two": (lambda: el.Csv("x", separator="||", **KEY), ("'||'", '";"')),
    "the key known only later": (lambda: el.Parquet("x", after="id", **KEY), ("after names id", "leave it out")),
    "after named twice": (lambda: el.Parquet("x", after=["a", "a"], **KEY), ("('a', 'a')", "each column once")),
    "a naive start": (
        lambda: el.Fixed("seq", datetime(2020, 1, 1), td(hours=1)),
        ("2020-01-01T00:00:00", "tzinfo=UTC"),
    ),
    "a step of nothing": (
        lambda: el.Fixed("seq", datetime(2020, 1, 1, tzinfo=UTC), td(0)),
        ("Fixed.every is 0:00:00", "timedelta(minutes=1)"),
    ),
    "a negative delay": (lambda: el.Label("late", delay=td(days=-1)), ("-1 day, 0:00:00", "write 0 or more")),
    "a bare number as time": (lambda: el.Label("late", delay=6), ("Label.delay is 6", "timedelta(days=1)")),  # type: ignore[arg-type]
    "a task that is none": (lambda: el.Label("late", task="binar"), ("'binar'", "'binary' or 'multiclass'")),  # type: ignore[arg-type]
    "one class": (lambda: el.Label("late", classes=(1,)), ("(1,)", "at least two")),
    "three classes of two": (lambda: el.Label("x", task="binary", classes=(0, 1, 2)), ("(0, 1, 2)", "'multiclass'")),
    "a positive class that is none": (lambda: el.Label("x", classes=("a", "b"), positive="c"), ("'c'", "('a', 'b')")),
    "a regression of classes": (lambda: el.Label("x", task="regression", classes=(0, 1)), ("classes", "leave one")),
    "a scale of classes": (lambda: el.Label("x", task="binary", scale="log1p"), ("'log1p'", "leave one")),
    "no news at once": (lambda: el.Label("x", absent=0, source=el.Outcomes()), ("is 0", "delay=timedelta(days=3)")),
    "a check of nothing": (lambda: el.check.NotNull(), ("names no column", 'NotNull("carrier")')),
    "a check of one column twice": (lambda: el.check.Unique("a", "a"), ("('a', 'a')", "leave one out")),
    "bounds that fall": (lambda: el.check.Between("miles", 9, 1), ("from 9 to 1", "the lower one first")),
    "a naive bound": (
        lambda: el.check.Between("at", datetime(2020, 1, 1), datetime(2021, 1, 1)),
        ("2020-01-01T00:00:00 without a zone", "tzinfo=UTC"),
    ),
    "bounds of two kinds": (
        lambda: el.check.Between("at", 1, datetime(2021, 1, 1, tzinfo=UTC)),
        ("1", "two of one kind"),
    ),
    "one of none": (lambda: el.check.OneOf("carrier", []), ("[]", "that are allowed")),
    "one of a mixture": (lambda: el.check.OneOf("carrier", ["a", 1]), ("('a', 1)", "one type")),
    "a broken pattern": (lambda: el.check.Matches("carrier", "(a"), ("'(a'", "correct it")),
    "fresh within nothing": (lambda: el.check.Fresh(td(0)), ("0:00:00", "timedelta(hours=6)")),
    "an expression without words": (lambda: el.check.Holds(lambda row: row.a > 1, ""), ("''", "a few words")),
    "an expression that is none": (lambda: el.check.Holds("a > 1", "x"), ("'a > 1'", "a function of the row")),  # type: ignore[arg-type]
    "a window of one row": (lambda: el.Last(1), ("1 rows", "timedelta")),
    "a window that is all test": (lambda: el.Last(td(days=7), test=td(days=7)), ("7 days", "leave rows to fit on")),
    "a share of one": (lambda: el.Everything(test=1.0), ("1;", "0.1")),
    "a test of no rows": (lambda: el.Last(td(7), test=0), ("is 0", "at least 1 row")),
    "a class instead of an estimator": (
        lambda: el.Train(LogisticRegression),
        ("LogisticRegression;", "LogisticRegression()"),
    ),
    "a lambda that trains": (lambda: el.Train(lambda s, p, c: None), ("<lambda>", "a def at the top level")),
    "an inner function that trains": (lambda: el.Train(inner()), ("hidden", "a def at the top level")),
    "a partial that trains": (
        lambda: el.Train(functools.partial(fit, 1)),
        ("functools.partial", "a def at the top level"),
    ),
    "a text that trains": (lambda: el.Train("lightgbm"), ("'lightgbm'", "LGBMClassifier()")),
    "an estimator of a script": (lambda: el.Train(Scripted()), ("Scripted", "install it as a module")),
    "a parameter without a form": (
        lambda: el.Train(Pipeline([("f", FunctionTransformer(func=fit)), ("m", LogisticRegression())])),
        ("FunctionTransformer", "(func)", "fit", "train with a function"),
    ),
    "a slice of columns": (
        lambda: el.Train(ColumnTransformer([("s", StandardScaler(), slice(0, 2))])),
        ("slice(0, 2, None)", "the list of positions"),
    ),
    "weights of class numbers": (
        lambda: el.Train(LogisticRegression(class_weight={0: 1.0, 1: 9.0})),
        ("{0: 1.0, 1: 9.0}", "weight={class: weight}"),
    ),
    "a weight below zero": (lambda: el.Train(fit, weight={"a": -1.0}), ("weight['a'] is -1", "more than 0")),
    "a search of nothing": (lambda: el.Search({}), ("is empty", "LogUniform(0.01, 0.3)")),
    "a space that is a pair": (lambda: el.Search({"a": (1, 2)}), ("(1, 2)", "Uniform")),  # type: ignore[dict-item]
    "no trials": (lambda: el.Search({"a": el.Uniform(0, 1)}, trials=0), ("trials is 0", "at least 1")),
    "a parameter that is not taken": (
        lambda: el.Train(LogisticRegression(), search=el.Search({"depth": el.Integers(1, 9)})),
        ("'depth'", "it takes C, class_weight"),
    ),
    "a parameter misspelt": (
        lambda: el.Train(LogisticRegression(), search=el.Search({"max_iters": el.Integers(1, 9)})),
        ("'max_iters'", "did you mean 'max_iter'"),
    ),
    "a step that is none": (
        lambda: el.Train(
            Pipeline([("s", StandardScaler()), ("m", LogisticRegression())]),
            search=el.Search({"l__C": el.Uniform(1, 9)}),
        ),
        ("'l__C'", "m__…"),
    ),
    "a range that falls": (lambda: el.Uniform(2, 1), ("from 2 to 1", "the lower one first")),
    "a logarithm of nothing": (lambda: el.LogUniform(0, 1), ("low is 0", "more than 0")),
    "no choice": (lambda: el.Choice(1), ("(1,)", "at least two")),
    "the same choice twice": (lambda: el.Choice(1, 1), ("(1, 1)", "leave one out")),
    "no mode of a threshold": (lambda: el.Threshold(), ("nothing", "precision=")),
    "two modes of a threshold": (lambda: el.Threshold(0.5, precision=0.9), ("value, precision", "write one of")),
    "a threshold of one": (lambda: el.Threshold(1.0), ("is 1;", "between 0 and 1")),
    "a metric that is a lambda": (
        lambda: el.metric.Custom(lambda t, p, r: 0.0),
        ("<lambda>", "a def at the top level"),
    ),
    "a margin of nothing": (lambda: el.NotWorse(margin=0), ("is 0;", "more than 0")),
    "a negative slice margin": (lambda: el.NotWorse(slice_margin=-1), ("is -1;", "0 or more")),
    "a slice twice": (lambda: el.Better(0, slices=["a", "a"]), ("('a', 'a')", "each column once")),
    "better by less": (lambda: el.Better(-0.1), ("-0.1", "NotWorse")),
    "an unsure that is none": (lambda: el.NotWorse(unsure="maybe"), ("'maybe'", "'shadow' or 'keep' or 'reject'")),  # type: ignore[arg-type]
    "a level of one half": (lambda: el.NotWorse(alpha=0.5), ("is 0.5", "between 0 and 0.5")),
    "shares that fall": (lambda: el.Canary(shares=(0.5, 0.1)), ("(0.5, 0.1)", "(0.1, 0.5)")),
    "shares in percent": (lambda: el.Canary(shares=(10, 50)), ("(10.0, 50.0)", "between 0 and 1")),
    "no shares": (lambda: el.Canary(shares=()), ("()", "(0.1, 0.5)")),
    "a share that is a text": (lambda: el.Canary(shares=["10%"]), ("shares[0] is '10%'", "a finite number")),  # type: ignore[list-item]
    "a share that is no number": (lambda: el.Canary(shares=[float("nan")]), ("nan", "a finite number")),
    "a guard twice": (
        lambda: el.Canary(guards=[el.guard.Errors(), el.guard.Errors()]),
        ("Errors(margin=0.01)", "leave one"),
    ),
    "a guard that is none": (lambda: el.Direct(guards=["errors"]), ("'errors'", "Errors(…) or Latency(…)")),  # type: ignore[list-item]
    "a minimum beyond the longest": (
        lambda: el.Canary(minimum=td(days=9), longest=td(days=7)),
        ("9 days", "7 days", "write between"),
    ),
    "no requests": (lambda: el.Canary(minimum_requests=0), ("is 0", "at least 1")),
    "a margin of all": (lambda: el.guard.Errors(margin=1), ("is 1;", "between 0 and 1")),
    "a quantile in percent": (lambda: el.guard.Latency(quantile=99), ("is 99", "between 0 and 1")),
    "every nothing": (lambda: el.Every(td(0)), ("0:00:00", "timedelta(days=7)")),
    "every in no zone": (lambda: el.Every(td(1), time_zone="CET+9"), ("'CET+9'", "IANA")),
    "a catch-up that is none": (lambda: el.Every(td(1), catch_up="some"), ("'some'", "'last' or 'all' or 'skip'")),  # type: ignore[arg-type]
    "drift of no column": (lambda: el.Drift(columns=[]), ("()", "leave it out")),
    "drift of a column twice": (lambda: el.Drift(columns=["a", "a"]), ("('a', 'a')", "each column once")),
    "an alarm budget of nothing": (lambda: el.Drift(false_alarm_every=td(0)), ("0:00:00", "timedelta(days=90)")),
    "degraded by nothing": (lambda: el.Degraded(by=0), ("is 0;", "more than 0")),
    "no rows": (lambda: el.Rows(0), ("is 0", "at least 1")),
    "any of one": (lambda: el.AnyOf(el.Rows(5)), ("1 trigger", "at least two")),
    "any of a number": (lambda: el.AnyOf(7, el.Rows(5)), ("is given 7", "Every(timedelta(days=7))")),  # type: ignore[arg-type]
    "a trigger twice": (lambda: el.AnyOf(el.Rows(5), el.Rows(5)), ("Rows(count=5) twice", "leave one out")),
    "all of what never fires": (lambda: el.AllOf(el.Manual(), el.Rows(5)), ("Manual()", "AnyOf")),
    "an answer in no time": (lambda: el.Serve(p99=td(0)), ("0:00:00", "timedelta(milliseconds=20)")),
    "a cache of a duration": (lambda: el.Serve(cache=td(minutes=5)), ("0:05:00", "el.Cache(time_to_live=")),  # type: ignore[arg-type]
    "a cache for no time": (lambda: el.Cache(time_to_live=td(0)), ("0:00:00", "timedelta(minutes=5)")),
    "a cache without room": (lambda: el.Cache(bytes=10), ("is 10,", "64_000_000")),
    "a guarded outcome beyond its values": (
        lambda: el.guard.Outcome("stars", margin=0.1, between=(1, 5)),
        ("guard.Outcome.absent is 0,", "not between (1.0, 5.0)", "None"),
    ),
    "a guard that nobody could break": (
        lambda: el.guard.Outcome("sold", margin=2),
        ("guard.Outcome.margin is 2;", "less than 1"),
    ),
    "an outcome that comes after the release": (
        lambda: el.Canary(guards=[el.guard.Outcome("sold", margin=0.1, delay=td(days=30))]),
        ("guard.Outcome('sold').delay is 30 days", "a longer Canary.longest"),
    ),
    "a reason that no server has": (
        lambda: el.alert.Refused("busy"),
        ("alert.Refused.reasons is ('busy',)", "queue_full, deadline"),
    ),
    "an alert of all": (lambda: el.alert.Errors(above=1), ("alert.Errors.above is 1;", "between 0 and 1")),
    "a limit on both sides": (
        lambda: el.alert.Outcome("revenue", below=1, above=2),
        ("below=1.0", "write one of them"),
    ),
    "a severity of one's own": (lambda: el.alert.RunFailed(severity="urgent"), ("'urgent'", "'critical' or 'warning'")),  # type: ignore[arg-type]
    "a secret in a declaration": (
        lambda: el.notify.Slack("https://hooks.example.com/T0/B0/x"),
        ("is a secret", "$ALERTS"),
    ),
    "a password in an address": (
        lambda: el.notify.Webhook("https://me:word@example.com/"),
        ("secrets stand", "$ALERTS_URL"),
    ),
    "an open password": (
        lambda: el.notify.Email("a@b", sender="c@d", server="mail:25", password="$WORD", security="none"),
        ("travel open", "starttls"),
    ),
    "a mail server without a port": (
        lambda: el.notify.Email("a@b", sender="c@d", server="mail"),
        ("'mail'", "host:port"),
    ),
    "history": (lambda: el.past(by="customer", within=td(30)), ("el.past", "compute the history in your source")),
    "a join": (lambda: el.Join, ("el.Join", "join them in your source")),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_says_its_value_and_the_remedy(name: str) -> None:
    write, words = MISTAKES[name]
    with pytest.raises(el.SpecError) as caught:
        write()
    message = str(caught.value)
    for each in words:
        assert each in message, message
    assert len(message) < 600
    assert "Traceback" not in message


LOOP_MISTAKES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "a name that is no folder": ({"name": "Flight delay/1"}, ("'Flight delay/1'", '"flight-delay"')),
    "a name that is none": ({"name": ""}, ("''", '"flight-delay"')),
    "a name that climbs": ({"name": "../up"}, ("'../up'", '"flight-delay"')),
    "a name too long": ({"name": "a" * 64}, ("at most 63",)),
    "a source that is a text": ({"source": "flights"}, ("'flights'", "Parquet(…) or Csv(…)")),
    "a label in the key": ({"label": "id"}, ("'id'", "name another column")),
    "several labels": ({"label": ["a", "b"]}, ("['a', 'b']", "a loop for each")),
    "checks that are one": ({"checks": el.check.NotNull("a")}, ("NotNull", "write a list")),
    "a check that is a text": ({"checks": ["carrier"]}, ("checks[0] is 'carrier'", "NotNull(…)")),
    "a check twice": ({"checks": [el.check.NotNull("a"), el.check.NotNull("a")]}, ("NotNull", "twice; leave one out")),
    "a trigger twice, nested": (
        {"retrain": el.AnyOf(el.Rows(5), el.AllOf(el.Rows(5), el.Degraded()))},
        ("Rows(count=5)", "twice; leave one out"),
    ),
    "a rule twice": (
        {"alerts": [el.alert.Errors(), el.alert.Errors(above=0.1)]},
        ("two rules for errors", "two severities"),
    ),
    "two paces": ({"notify": [el.notify.Pace(), el.notify.Pace(most_per_hour=3)]}, ("two paces",)),
    "an alert that is none": ({"alerts": ["errors"]}, ("'errors'",)),
    "triggers in a list": ({"retrain": [el.Rows(5)]}, ("[Rows(count=5)]", "AnyOf(…)")),
    "features that are names": ({"features": ["miles"]}, ("['miles']", "a function of the row")),
    "a feature known later": ({"features": lambda row: {"a": row.arrived}}, ("'a' uses arrived", "known before it")),
    "the label as a feature": ({"features": lambda row: {"a": row.late}}, ("'late'", "leave it out")),
    "history as a feature": ({"features": lambda row: {"a": el.past(by="x")}}, ("el.past", "compute the history")),
    "a unit known later": ({"rollout": el.Canary(unit="arrived")}, ("'arrived'", "a column of the request")),
    "a share of more than all": ({"quarantine_up_to": 5}, ("is 5;", "from 0 to 1")),
    "a negative cooldown": ({"cooldown": td(days=-1)}, ("-1 day", "0 or more")),
    "compression": ({"compress": 0.1}, ("is 0.1", "leave it out")),
    "no way to train": ({"train": ()}, ("()", "Train(LGBMClassifier())")),
    "the same training twice": ({"train": [el.Train(fit), el.Train(fit)]}, ("Train(", "leave one out")),
    "watching without a log": ({"serve": el.Serve(log=False)}, ("log is False", "Degraded", "Direct()")),
    "a gate that is a number": ({"gate": 0.01}, ("0.01", "NotWorse(…) or Better(…) or None")),
    "a score that is a lambda": ({"score": lambda t, p, r: 0.0}, ("<lambda>", "a def at the top level")),
    "a score that is a class": ({"score": el.metric.RocAuc}, ("RocAuc", "RocAuc(…)")),
}


@pytest.mark.parametrize("name", LOOP_MISTAKES)
def test_a_mistake_of_the_loop_says_its_value_and_the_remedy(name: str, loop: Make) -> None:
    changes, words = LOOP_MISTAKES[name]
    with pytest.raises(el.SpecError) as caught:
        loop(**changes)
    for each in words:
        assert each in str(caught.value), str(caught.value)


def test_short_forms_mean_what_the_long_ones_mean(loop: Make) -> None:
    assert loop(label="late") == loop(label=el.Label("late"))
    assert loop(train=fit) == loop(train=el.Train(fit)) == loop(train=[fit])
    assert loop(gate=el.NotWorse(slices="carrier")) == loop(gate=el.NotWorse(slices=["carrier"]))
    assert el.Parquet("x", key="id", event_time="at") == el.Parquet(Path("x"), key=["id"], event_time="at")
    assert loop(serve=el.Serve(log=False), rollout=el.Direct(), retrain=el.Manual()).serve.log is False


def test_drift_is_watched_without_a_log_and_the_score_is_not(loop: Make) -> None:
    unlogged = {"serve": el.Serve(log=False), "rollout": el.Direct()}
    daily, rows = el.Drift(window=td(days=1)), el.Drift(columns="carrier", window=500)
    assert loop(retrain=el.AnyOf(el.Every(td(days=7)), daily)).sketched == (), "rows are read where there are rows"
    told = el.Drift(false_alarm_every=td(days=30))
    alerts = [el.alert.DriftFound(false_alarm_every=td(days=30))]
    assert loop(**unlogged, retrain=el.AnyOf(daily, rows), alerts=alerts).sketched == (daily, rows, told)
    assert loop(**unlogged, retrain=el.Manual()).sketched == (el.Drift(),), "the default alerts ask for it"
    assert loop(**unlogged, retrain=el.Manual(), alerts=[]).sketched == ()
    for alert in (el.alert.Score(), el.alert.Errors(), el.alert.LabelCoverage()):
        with pytest.raises(el.SpecError, match="only predictions that are kept"):
            loop(**unlogged, retrain=daily, alerts=[alert])


def test_more_parameters_than_an_estimator_lists_may_be_searched_where_it_takes_them() -> None:
    from lightgbm import LGBMClassifier

    searched = el.Train(LGBMClassifier(), search=el.Search({"bagging_fraction": el.Uniform(0.5, 1)}))
    assert searched.search is not None
    with pytest.raises(el.SpecError, match="did you mean 'learning_rate'"):
        el.Train(LGBMClassifier(), search=el.Search({"learnin_rate": el.Uniform(0.5, 1)}))


def test_nested_parameters_are_known_by_the_names_of_their_steps() -> None:
    pipeline = Pipeline([("p", ColumnTransformer([("s", StandardScaler(), [0])])), ("m", LogisticRegression())])
    el.Train(pipeline, search=el.Search({"m__C": el.LogUniform(0.1, 10), "p__s__with_mean": el.Choice(True, False)}))


def test_what_an_editor_is_told_is_what_a_declaration_takes() -> None:
    """The signatures for editors name the fields in their order, with their defaults."""
    for module in (source, label, checks, gate, rollout, retrain, train, loops):
        tree = ast.parse(inspect.getsource(module))
        for definition in (each for each in tree.body if isinstance(each, ast.ClassDef)):
            told = [
                function
                for block in definition.body
                if isinstance(block, ast.If)
                for function in block.body
                if isinstance(function, ast.FunctionDef)
            ]
            if not told:
                continue
            real = list(inspect.signature(getattr(module, definition.name)).parameters.values())
            arguments = told[0].args
            names = [each.arg for each in (*arguments.args[1:], *arguments.kwonlyargs)]
            assert names == [each.name for each in real], definition.name
            written = [*arguments.defaults, *(each for each in arguments.kw_defaults if each is not None)]
            needed = [each for each in real if each.default is each.empty]
            assert len(written) == len(real) - len(needed), definition.name
            for node, parameter in zip(written, [each for each in real if each.default is not each.empty], strict=True):
                assert eval(ast.unparse(node), vars(module)) == parameter.default, f"{definition.name}.{parameter.name}"


def test_a_call_that_fits_is_left_alone() -> None:
    @taught
    class Plain:
        def __init__(self, left: int, *, right: int = 2) -> None:
            self.sum = left + right

    assert Plain(1).sum == 3
    assert Plain(left=1, right=1).sum == 2
