"""`everloop experiment report` over a home that served an experiment: real server, real log, outcomes that came by id."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from everloop.loop.server import ServingProcess
from everloop.store.home import Home
from everloop.store.lake import Lake
from everloop.testing.serving import Client
from small_loop import Ended, SmallLoop, made_rows

Everloop = Callable[..., Ended]
CUSTOMERS = 700
REQUESTS = 1_400


def asked() -> list[dict[str, Any]]:
    rows = made_rows(REQUESTS, seed=21).drop("late").to_dicts()
    return [{**row, "sent": row["sent"].isoformat(), "customer": f"c{n % CUSTOMERS}"} for n, row in enumerate(rows)]


@pytest.fixture(scope="module")
def served_once(lived_once: SmallLoop, tmp_path_factory: pytest.TempPathFactory) -> SmallLoop:
    """An experiment by customer has answered 1,400 requests, all in the lake. For reading only."""
    loop = lived_once.copy(tmp_path_factory.mktemp("served"))
    at = ("--home", str(loop.home))
    assert loop.command("rollback", *at).code == 0
    arms = ("--arm", "control=v1", "--arm", "treatment=v2")
    assert loop.command("experiment", "start", "price", *arms, "--unit", "customer", *at).code == 0
    with ServingProcess.start(Home(loop.home), [loop.name]) as server, Client(server.port) as client:
        for start in range(0, REQUESTS, 200):
            assert client.post("/predict", asked()[start : start + 200])[0] == 200
    with loop.controller() as controller:
        controller.look()
    return loop


@pytest.fixture
def served(served_once: SmallLoop, tmp_path: Path) -> SmallLoop:
    return served_once.copy(tmp_path / "served")


def arms_of(loop: SmallLoop) -> pl.DataFrame:
    rows = Lake(Home(loop.home).lake(loop.name)).read("predictions", where=pl.col("experiment") == "price")
    return rows.select("id", "unit", "variant").sort("id")


def report_outcomes(loop: SmallLoop, name: str, values: dict[str, Any], *, at: str = "2024-03-01") -> None:
    file = loop.folder / f"{name}.csv"
    pl.DataFrame({"id": list(values), "value": [str(v) for v in values.values()]}).with_columns(
        name=pl.lit(name), at=pl.lit(at)
    ).write_csv(file)
    assert loop.command("outcomes", str(file), "--home", str(loop.home)).code == 0
    with loop.controller() as controller:
        controller.look()


def bought(loop: SmallLoop, control: float, treatment: float, seed: int = 3) -> dict[str, bool]:
    """One of so many requests of each arm leads to a sale."""
    random = np.random.default_rng(seed)
    rate = {"control": control, "treatment": treatment}
    rows = arms_of(loop).iter_rows(named=True)
    return {row["id"]: bool(random.random() < rate[row["variant"]]) for row in rows}


def test_a_better_arm_is_called_better_in_points_with_an_interval(served: SmallLoop, everloop: Everloop) -> None:
    sales = bought(served, 0.1, 0.4)
    report_outcomes(served, "sale", sales)
    page = served.folder / "price.html"
    ended = everloop("experiment", "report", "price", "--metric", "sale", "--html", page, "--home", served.home)
    assert ended.code == 0, ended.err
    assert "treatment is better than control by" in ended.out
    assert "points (" in ended.out
    assert "valid at every look" in ended.out
    assert page.read_text("utf-8").count("<svg") == 1
    value = everloop("experiment", "report", "price", "--metric", "sale", "--home", served.home, "--json").value
    (measure,) = value["measures"]
    (against,) = measure["against"]
    assert against["verdict"] == "better"
    assert 0 < against["lower"] < against["estimate"] < against["upper"] < 0.5
    of = arms_of(served)
    shares = {
        arm: np.mean([sales[id] for id in of.filter(pl.col("variant") == arm)["id"]])
        for arm in ("control", "treatment")
    }
    assert [arm["value"] for arm in measure["arms"]] == [pytest.approx(shares[arm]) for arm in ("control", "treatment")]
    assert sum(arm["units"] for arm in measure["arms"]) == CUSTOMERS, "the unit is the customer"
    assert sum(arm["rows"] for arm in measure["arms"]) == REQUESTS
    worse = everloop(
        "experiment", "report", "price", "--metric", "sale", "--lower-is-better", "--home", served.home, "--json"
    ).value
    assert worse["measures"][0]["against"][0]["verdict"] == "worse"


def test_equal_arms_wait_and_say_for_how_many(served: SmallLoop, everloop: Everloop) -> None:
    # Each fifth customer of either arm buys, whoever was drawn: by chance the arms would now and then differ by more
    # than the effect that is asked for.
    sales: dict[str, bool] = {}
    for _, arm in arms_of(served).sort("id").group_by("variant"):
        turn = {unit: place % 5 == 0 for place, unit in enumerate(arm["unit"].unique(maintain_order=True))}
        sales.update(zip(arm["id"], (turn[unit] for unit in arm["unit"]), strict=True))
    report_outcomes(served, "sale", sales)
    at = ("--home", served.home)
    said = everloop("experiment", "report", "price", "--metric", "sale", "--effect", 0.02, *at).out
    assert "waiting: treatment less control is" in said
    assert "more units to show 2" in said
    (against,) = everloop("experiment", "report", "price", "--metric", "sale", "--effect", 0.5, *at, "--json").value[
        "measures"
    ][0]["against"]
    assert against["verdict"] == "equal", "less than fifty points apart"


def test_late_and_corrected_outcomes_count_and_what_never_came_is_missing_or_nothing(
    served: SmallLoop, everloop: Everloop
) -> None:
    ids = arms_of(served)["id"].to_list()
    report_outcomes(served, "spent", dict.fromkeys(ids[:700], 10.0))
    report_outcomes(served, "spent", dict.fromkeys(ids[:700], 30.0), at="2024-03-09")
    report_outcomes(served, "spent", dict.fromkeys(ids[:100], 99.0), at="2024-02-01")
    at = ("--home", served.home, "--json")
    ended = everloop(
        "experiment", "report", "price", "--metric", "spent", "--ratio", "spent/requests", "--ratio", "spent/units", *at
    )
    mean, a_request, a_unit = ended.value["measures"]
    assert {arm["value"] for arm in mean["arms"]} == {30.0}, "the newest value counts, whatever came last"
    assert "50% of the rows have a value" in " ".join(mean["notes"])
    total = 30.0 * 700
    assert sum(arm["value"] * arm["rows"] for arm in a_request["arms"]) == pytest.approx(total)
    assert sum(arm["value"] * arm["units"] for arm in a_unit["arms"]) == pytest.approx(total)


def test_a_request_s_column_takes_noise_away_and_says_how_much(served: SmallLoop, everloop: Everloop) -> None:
    distance = {row["parcel"]: row["distance"] for row in made_rows(REQUESTS, seed=21).to_dicts()}
    random = np.random.default_rng(1)
    report_outcomes(served, "cost", {id: distance[id] + random.normal(0, 100) for id in arms_of(served)["id"]})
    at = ("--home", served.home, "--json")
    (measure,) = everloop("experiment", "report", "price", "--metric", "cost", *at).value["measures"]
    plain = measure["against"][0]
    (measure,) = everloop("experiment", "report", "price", "--metric", "cost", "--covariate", "distance", *at).value[
        "measures"
    ]
    adjusted = measure["against"][0]
    assert 0.2 < adjusted["gain"] < 0.9
    assert adjusted["upper"] - adjusted["lower"] < plain["upper"] - plain["lower"]
    assert "as covariate takes away" in measure["notes"][0]
    wrong = everloop(
        "experiment", "report", "price", "--metric", "cost", "--covariate", "carrier", "--home", served.home
    )
    assert (wrong.code, "a covariate is a number" in wrong.err) == (11, True)


def test_without_a_metric_it_is_the_loop_s_own_score(served: SmallLoop, everloop: Everloop) -> None:
    truth = made_rows(REQUESTS, seed=21)
    report_outcomes(served, "late", dict(zip(truth["parcel"], truth["late"], strict=True)))
    (measure,) = everloop("experiment", "report", "price", "--home", served.home, "--json").value["measures"]
    assert (measure["name"], measure["lower_is_better"]) == ("score", True)
    assert all(0.3 < arm["value"] < 0.7 for arm in measure["arms"]), "log loss of a model that has learnt something"
    said = everloop("experiment", "report", "price", "--metric", "errors", "--metric", "latency", "--home", served.home)
    assert (said.code, said.out.count("lower is better")) == (0, 2)


def test_lost_answers_and_moved_units_are_said_before_any_figure(served: SmallLoop, everloop: Everloop) -> None:
    rows = arms_of(served)
    kept = rows.filter((pl.col("variant") == "control") | (pl.int_range(pl.len()) % 10 < 3))
    report_outcomes(served, "sale", dict.fromkeys(kept["id"], True))
    at = ("--home", served.home)
    said = everloop("experiment", "report", "price", "--metric", "sale", *at).out
    assert "assignment is broken: do not read the result (treatment has" in said
    assert "units with sale where" in said
    # Whoever gets less than they were to in a ratio may do so for good reason: that is the result.
    (measure,) = everloop("experiment", "report", "price", "--ratio", "sale/requests", *at, "--json").value["measures"]
    assert measure["against"][0]["verdict"] == "worse"
    lake = Lake(Home(served.home).lake(served.name))
    some = lake.read("predictions", where=pl.col("experiment") == "price").head(3)
    other = pl.when(pl.col("variant") == "control").then(pl.lit("treatment")).otherwise(pl.lit("control"))
    lake.append("predictions", some.with_columns(variant=other, id=pl.col("id") + "-moved"))
    said = everloop("experiment", "report", "price", "--ratio", "sale/requests", *at).out
    assert "3 of the newest 1,403 rows were answered by another arm than their unit's" in said


def test_what_cannot_be_asked_is_refused_with_what_can(served: SmallLoop, everloop: Everloop) -> None:
    at = ("--home", served.home)
    unknown = everloop("experiment", "report", "price", "--metric", "profit", *at)
    assert (unknown.code, "late, score, errors, latency" in unknown.err) == (11, True)
    assert everloop("experiment", "report", "price", "--ratio", "profit", *at).code == 2
    assert everloop("experiment", "report", "price", "--effect", 0, *at).code == 2
    assert everloop("experiment", "report", "nobody", *at).code == 11
    assert everloop("experiment", "report", "price", "--html", "/nowhere/x.html", "--metric", "errors", *at).code == 2
    young = everloop("experiment", "report", "price", "--age", "9000d", *at)
    assert (young.code, "No row of the experiment price" in young.err) == (8, True)
    assert json.dumps(everloop("experiment", "list", *at, "--json").value)
