"""One meaning, one sequence of bytes; and back without anybody's module."""

import math
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lightgbm import LGBMClassifier
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder, StandardScaler
from xgboost import XGBClassifier

import everloop as el
from everloop.spec import codec
from everloop.spec.loop import Loop
from everloop.spec.train import Estimator
from everloop.train.sklearn import build

Make = Callable[..., Loop]


def fit(samples: Any, params: Any, context: Any) -> Any:
    return None


def regret(truth: Any, prediction: Any, rows: Any) -> float:
    return 0.0


names = st.text(st.characters(min_codepoint=32, exclude_categories=["Cs"]), min_size=1, max_size=8)
columns = st.lists(names, min_size=1, max_size=3, unique=True)
spans = st.timedeltas(timedelta(microseconds=1), timedelta(days=4000))
shares = st.floats(1e-6, 0.49)
numbers = st.floats(-1e300, 1e300)
values = st.booleans() | st.integers(-(2**60), 2**60) | numbers | names


@st.composite
def sources(draw: Any, late: str) -> Any:
    key, event_time = draw(columns), draw(names)
    if draw(st.booleans()):
        naive = draw(st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1)))
        zone = timezone(timedelta(minutes=draw(st.integers(-700, 700))))
        event_time = el.Fixed(event_time, naive.replace(tzinfo=zone), draw(spans))
    column = event_time if isinstance(event_time, str) else event_time.column
    after = [each for each in draw(columns) if each not in (*key, column, late)]
    fields: dict[str, Any] = {
        "key": [each for each in key if each != late] or ["key of none"],
        "event_time": event_time if column != late else "time of none",
        "time_zone": draw(st.sampled_from([None, "UTC", "America/Chicago"])),
        "after": [each for each in after if each not in ("key of none", "time of none")],
    }
    kind = draw(st.sampled_from([el.Parquet, el.Csv, el.JsonLines]))
    if kind is el.Csv:
        fields["separator"] = draw(st.sampled_from([",", ";", "\t"]))
    return kind(draw(names), **fields)


@st.composite
def betweens(draw: Any) -> Any:
    low, high = sorted([draw(numbers), draw(numbers)])
    return el.check.Between(draw(names), low, high)


checks = st.one_of(
    columns.map(lambda each: el.check.NotNull(*each)),
    columns.map(lambda each: el.check.Unique(*each)),
    betweens(),
    st.builds(el.check.OneOf, names, st.lists(numbers, min_size=1) | st.lists(names, min_size=1)),
    spans.map(el.check.Fresh),
    st.builds(lambda name, low: el.check.Holds(lambda row: row.miles > low, name), names, numbers),
)
triggers = st.one_of(
    st.builds(el.Every, spans, time_zone=st.sampled_from(["UTC", "Asia/Tokyo"])),
    st.builds(el.Drift, columns=st.none() | columns, false_alarm_every=spans),
    st.builds(el.Degraded, by=shares, over=st.none() | spans),
    st.integers(1, 10**9).map(el.Rows),
)
spaces = st.one_of(
    st.builds(lambda low, wide: el.Uniform(low, low + wide), st.floats(-1e6, 1e6), st.floats(0.1, 10)),
    st.builds(lambda low, wide: el.LogUniform(low, low * wide), st.floats(1e-6, 1e3), st.floats(2, 10)),
    st.builds(lambda low, wide: el.Integers(low, low + wide), st.integers(-99, 99), st.integers(1, 99)),
    st.lists(values, min_size=2, max_size=4, unique_by=lambda each: (type(each), each)).map(
        lambda each: el.Choice(*each)
    ),
)
parameters: Any = st.recursive(
    st.none() | values | st.sampled_from([math.nan, math.inf, -math.inf]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(names | st.integers(0, 9), inner, max_size=3)
        | st.builds(lambda each: Estimator(path="a.B", parameters=each), st.dictionaries(names, inner, max_size=2))
    ),
    max_leaves=8,
)
estimators = st.builds(
    lambda each: Estimator(path="lightgbm.sklearn.LGBMClassifier", parameters=each),
    st.dictionaries(names, parameters, max_size=3),
)
trains = st.builds(
    lambda estimator, space, weight, seed: el.Train(
        estimator,
        search=el.Search(space) if space and not isinstance(estimator, Estimator) else None,
        weight=weight,
        seed=seed,
    ),
    estimators | st.just(fit),
    st.dictionaries(names, spaces, max_size=3),
    st.none() | st.just("balanced") | st.dictionaries(values, st.floats(0.1, 9), min_size=1, max_size=3),
    st.integers(0, 2**31),
)


@st.composite
def rollouts(draw: Any) -> Any:
    if draw(st.booleans()):
        return el.Direct()
    longest = draw(spans)
    return el.Canary(
        shares=sorted(draw(st.lists(shares, min_size=1, max_size=3, unique=True))),
        guards=draw(st.sampled_from([[], [el.guard.Latency(quantile=0.9)], [el.guard.Errors(), el.guard.Latency()]])),
        alpha=draw(shares),
        longest=longest,
        minimum=min(draw(spans), longest),
        then=draw(st.sampled_from(["wait", "promote", "rollback"])),
    )


@st.composite
def loops(draw: Any) -> Loop:
    label = el.Label(
        draw(names),
        delay=draw(spans),
        classes=draw(st.none() | st.lists(names, min_size=2, max_size=4, unique=True)),
        absent=draw(st.none() | values),
    )
    return el.Loop(
        name=draw(st.from_regex(r"[a-z0-9][a-z0-9_-]{0,9}", fullmatch=True)),
        source=draw(sources(label.column)),
        label=label,
        train=draw(trains),
        checks=draw(st.lists(checks, max_size=3, unique_by=repr)),
        features=draw(
            st.sampled_from([None, lambda row: {"a": row["no such label "] * 2.5, "b": row["no such label "] > 1}])
        ),
        window=draw(
            st.builds(el.Last, spans, test=shares, refit=st.booleans()) | st.builds(el.Everything, test=shares)
        ),
        decision=draw(st.none() | shares.map(el.Threshold) | st.just(el.Threshold(minimise=el.metric.Brier()))),
        score=draw(st.sampled_from([None, el.metric.LogLoss(), el.metric.RocAuc(), el.metric.F1(), regret])),
        gate=draw(st.none() | st.builds(el.NotWorse, margin=shares, slices=columns) | st.builds(el.Better, shares)),
        serve=draw(
            st.builds(
                el.Serve,
                p99=st.none() | spans,
                mode=st.sampled_from(["throughput", "latency"]),
                cache=st.none() | st.builds(el.Cache, time_to_live=spans),
            )
        ),
        rollout=draw(rollouts()),
        retrain=draw(
            triggers | st.lists(triggers, min_size=2, max_size=3, unique=True).map(lambda each: el.AnyOf(*each))
        ),
        quarantine_up_to=draw(shares),
        cooldown=draw(spans),
        warm=draw(st.booleans()),
    )


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(loop=loops())
def test_every_loop_comes_back_from_its_bytes(loop: Loop) -> None:
    written = codec.to_bytes(loop)
    read = codec.from_bytes(written)
    assert read == loop
    assert codec.to_bytes(read) == written
    assert codec.digest(read) == codec.digest(loop)
    assert hash(read.source) == hash(loop.source)


def digest(loop: Make, **changes: Any) -> str:
    return codec.digest(loop(**changes))


def test_one_and_one_point_nought_agree_where_a_number_is_meant(loop: Make) -> None:
    assert digest(loop, quarantine_up_to=1) == digest(loop, quarantine_up_to=1.0)
    assert digest(loop, gate=el.NotWorse(margin=2)) == digest(loop, gate=el.NotWorse(margin=2.0))
    one, other = el.check.Between("miles", 1, 12_000), el.check.Between("miles", 1.0, 12_000.0)
    assert digest(loop, checks=[one]) == digest(loop, checks=[other])
    assert digest(loop, quarantine_up_to=0.0) == digest(loop, quarantine_up_to=-0.0) == digest(loop, quarantine_up_to=0)
    assert digest(loop, label=el.Label("x", absent=0)) == digest(loop, label=el.Label("x", absent=0.0))


GUARDS: list[Any] = [el.guard.Errors(), el.guard.Latency(), el.guard.Outcome("revenue", margin=0.1, between=(0, 9))]


def test_alerts_come_back_from_their_bytes_and_are_not_taken_for_guards(loop: Make) -> None:
    told: list[Any] = [
        el.notify.Webhook("https://example.com/a", token="$TOKEN"),
        el.notify.Slack("$SLACK"),
        el.notify.Email("a@example.com", sender="b@example.com", server="mail:587", user="me", password="$WORD"),
        el.notify.Alertmanager("http://am:9093"),
        el.notify.Pace(most_per_hour=3),
    ]
    rules: list[Any] = [*el.alert.DEFAULT, el.alert.Outcome("revenue", below=3), el.alert.Stale()]
    rules += [el.alert.Latency(above=timedelta(milliseconds=50)), el.alert.Refused(("quota", "deadline"))]
    made = loop(alerts=rules, notify=told, rollout=el.Canary(guards=GUARDS))
    assert codec.from_bytes(codec.to_bytes(made)) == made
    assert codec.digest(made) != codec.digest(loop())


def test_a_declaration_that_says_nothing_of_alerts_keeps_the_digest_it_had_before_there_were_any(loop: Make) -> None:
    assert digest(loop, alerts=el.alert.DEFAULT, notify=()) == digest(loop)
    assert b"alerts" not in codec.to_bytes(loop())
    assert codec.from_bytes(codec.to_bytes(loop())).alerts == el.alert.DEFAULT


def test_a_set_of_allowed_values_has_no_order(loop: Make) -> None:
    one, other = el.check.OneOf("carrier", ["b", "a", "a"]), el.check.OneOf("carrier", {"a", "b"})
    assert one == other
    assert digest(loop, checks=[one]) == digest(loop, checks=[other])


def test_numbers_that_numpy_made_are_numbers(loop: Make) -> None:
    ours = loop(gate=el.NotWorse(margin=np.float64(0.02)), train=el.Train(fit, seed=np.int64(3)))  # type: ignore[arg-type]
    assert codec.digest(ours) == digest(loop, gate=el.NotWorse(margin=0.02), train=el.Train(fit, seed=3))


def test_one_instant_in_two_zones_is_one_declaration(loop: Make) -> None:
    utc = datetime(2024, 1, 1, 12, tzinfo=UTC)
    there = utc.astimezone(timezone(timedelta(hours=5)))
    one, other = (
        loop(source=el.Parquet("x", key="id", event_time=el.Fixed("seq", each, timedelta(hours=1))))
        for each in (utc, there)
    )
    assert codec.digest(one) == codec.digest(other)


def test_two_equal_estimators_that_python_calls_different_have_one_digest(loop: Make) -> None:
    def made() -> Pipeline:
        columns = ColumnTransformer([("codes", OneHotEncoder(), [0]), ("scale", MinMaxScaler((0, 2)), [1, 2])])
        return Pipeline([("columns", columns), ("model", RandomForestClassifier(n_estimators=np.int64(7)))])

    assert made() != made()
    assert digest(loop, train=made()) == digest(loop, train=made())
    assert digest(loop, train=made()) != digest(loop, train=made().set_params(model__n_estimators=8))


@pytest.mark.parametrize("live", [LGBMClassifier(n_jobs=1), XGBClassifier(n_estimators=3), LogisticRegression(C=0.5)])
def test_a_canonical_estimator_is_enough_to_build_it_again(live: Any, loop: Make) -> None:
    read = codec.from_bytes(codec.to_bytes(loop(train=live)))
    assert read == loop(train=live)
    (trained,) = read.trains
    again = build(trained.estimator)
    assert type(again) is type(live)
    assert repr(sorted(again.get_params().items())) == repr(sorted(live.get_params().items()))


def test_a_nested_pipeline_is_built_again_and_fits(loop: Make) -> None:
    rows = np.array([[0.0, 1.0, 5.0], [1.0, 2.0, 6.0], [0.0, 3.0, 7.0], [1.0, 4.0, 9.0]])
    columns = ColumnTransformer(
        [
            ("codes", OneHotEncoder(handle_unknown="ignore"), [0]),
            ("rest", Pipeline([("s", MinMaxScaler((0, 2)))]), [1, 2]),
        ]
    )
    live = Pipeline([("columns", columns), ("skip", "passthrough"), ("model", LogisticRegression())])
    (trained,) = codec.from_bytes(codec.to_bytes(loop(train=live))).trains
    again = build(trained.estimator)
    target = [0, 0, 1, 1]
    assert np.allclose(again.fit(rows, target).predict_proba(rows), live.fit(rows, target).predict_proba(rows))


def test_a_parameter_that_is_one_is_not_one_point_nought(loop: Make) -> None:
    """One feature at a split, or all of them."""
    one, all_of_them = RandomForestClassifier(max_features=1), RandomForestClassifier(max_features=1.0)
    assert digest(loop, train=one) != digest(loop, train=all_of_them)


def test_a_tuple_among_parameters_stays_a_tuple(loop: Make) -> None:
    (trained,) = codec.from_bytes(codec.to_bytes(loop(train=MinMaxScaler(feature_range=(0, 2))))).trains
    assert isinstance(trained.estimator, Estimator)
    assert trained.estimator.parameters["feature_range"] == (0, 2)


def test_a_function_is_its_name_and_the_digest_of_its_file(loop: Make) -> None:
    form = msgspec.json.decode(codec.to_bytes(loop(train=fit)))["loop"]["train"]["estimator"]
    assert form["name"] == "fit"
    assert len(form["module_file_digest"]) == 64
    assert set(form) == {"kind", "name", "module_file_digest"}


def test_a_decoded_function_is_called_only_when_it_is_bound(loop: Make) -> None:
    written = codec.to_bytes(loop(score=regret))
    unbound = codec.from_bytes(written).score
    assert isinstance(unbound, el.metric.Custom)
    with pytest.raises(el.SpecError, match="regret was decoded without its source"):
        unbound.function(1, 2, 3)
    bound = codec.from_bytes(written, bind=lambda function: regret).score
    assert isinstance(bound, el.metric.Custom)
    assert bound.function(1, 2, 3) == 0.0
    assert bound == unbound


def test_decoding_imports_neither_the_users_module_nor_its_libraries(loop: Make) -> None:
    pipeline = Pipeline([("scale", StandardScaler()), ("model", LGBMClassifier())])
    written = codec.to_bytes(loop(train=pipeline, score=regret, features=lambda row: {"a": row.miles + 1}))
    script = (
        "import sys\n"
        "from everloop.spec import codec\n"
        "loop = codec.from_bytes(sys.stdin.buffer.read())\n"
        "bad = {'sklearn', 'lightgbm', 'numpy', 'polars', 'test_spec_codec'} & set(sys.modules)\n"
        "print(codec.digest(loop), *sorted(bad))"
    )
    found = subprocess.run([sys.executable, "-c", script], input=written, capture_output=True, check=True)
    assert found.stdout.decode().split() == [codec.digest(codec.from_bytes(written))]


def changed(written: bytes, **fields: Any) -> bytes:
    form = msgspec.json.decode(written)
    return msgspec.json.encode({**form, **fields})


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda each: b"{", "no loop"),
        (lambda each: b"[]", "no loop"),
        (lambda each: b"{}", "no loop"),
        (lambda each: changed(each, format=99), "form 99"),
        (lambda each: changed(each, loop=[]), "no loop"),
        (lambda each: changed(each, loop={"kind": "Bomb"}), "Bomb"),
        (lambda each: changed(each, loop={"kind": "datetime", "instant": "soon"}), "soon"),
        (lambda each: changed(each, loop={"kind": "timedelta", "microseconds": 10**30}), "no loop"),
        (lambda each: each.replace(b'"cooldown"', b'"cooldawn"'), "cooldawn"),
        (lambda each: each.replace(b'"late"', b"17"), "Label.column is 17"),
    ],
)
def test_bytes_that_are_no_loop_are_refused(break_it: Callable[[bytes], bytes], words: str, loop: Make) -> None:
    with pytest.raises(el.SpecError, match=words):
        codec.from_bytes(break_it(codec.to_bytes(loop())))


def test_a_text_that_is_no_sound_unicode_is_refused_with_its_value(loop: Make) -> None:
    with pytest.raises(el.SpecError, match="no sound text"):
        codec.to_bytes(loop(checks=[el.check.NotNull("\ud800")]))


def test_the_bytes_of_a_declaration_do_not_change_by_themselves() -> None:
    """Kept homes are read by these bytes: a change here needs a new format and a way from the old one."""
    fixed = el.Loop(
        name="kept",
        source=el.Parquet("rows/*.parquet", key="id", event_time="at"),
        label=el.Label("y", delay=timedelta(hours=1)),
        train=Estimator(path="a.B", parameters={"size": (1, 2.0), "missing": math.nan}),
        features=lambda row: {"a": row.x + 1},
    )
    assert codec.digest(fixed) == codec.digest(codec.from_bytes(codec.to_bytes(fixed)))
    assert codec.digest(fixed) == "fee66bfc936d62115c19d26f8c6476e17a1daa45ad907b69cb0f03d82422f82e"
