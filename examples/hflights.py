"""Will this flight leave Houston more than fifteen minutes late? 227,496 flights of 2011.

The second loop is the plain policy that the published baseline follows (../shared/data/README.md): every week, the
last four weeks, no gate, no canary.
"""

from datetime import timedelta as td

from lightgbm import LGBMClassifier

import everloop as el


def features(row):
    # Neither the month nor the hour: in four weeks a month is a date, and the minute holds the hour. Both were fitted
    # as noise and cost a point of AUC.
    return {
        "day_of_week": row.day_of_week,
        "minute_of_day": row.sched_dep_ts.dt.hour() * 60 + row.sched_dep_ts.dt.minute(),
        "carrier": row.carrier,
        "origin": row.origin,
        "dest": row.dest,
        "distance": row.distance_mi,
    }


source = el.Parquet(
    "../../shared/data/hflights.parquet",
    key=("sched_dep_ts", "carrier", "flight_num"),
    event_time="sched_dep_ts",
    time_zone="America/Chicago",
    after=[
        "cancelled",
        "cancellation_code",
        "diverted",
        "dep_delay_min",
        "arr_delay_min",
        "taxi_out_min",
        "taxi_in_min",
        "air_time_min",
        "actual_elapsed_min",
    ],
)
train = el.Train(LGBMClassifier(n_jobs=1, verbose=-1))

loop = el.Loop(
    name="hflights",
    source=source,
    # A cancelled flight never has a label: it is left out of fits and scores.
    label=el.Label("dep_delayed_15", delay=td(hours=6)),
    checks=[el.check.NotNull("carrier", "dest"), el.check.Between("distance_mi", 1, 5_000)],
    features=features,
    window=el.Last(td(weeks=4), test=td(days=3), refit=True),
    train=train,
    score=el.metric.RocAuc(),
    gate=el.NotWorse(margin=0.02),
    rollout=el.Canary(shares=(0.1, 0.5), longest=td(days=4)),
    retrain=el.AnyOf(el.Every(td(days=7), time_zone="America/Chicago"), el.Degraded(by=0.05)),
)

plain = el.Loop(
    name="hflights-plain",
    source=source,
    label=el.Label("dep_delayed_15", delay=td(hours=6)),
    features=features,
    # What ships is fitted on the day held out too: it only gives each version a score of its own.
    window=el.Last(td(weeks=4), test=td(days=1), refit=True),
    train=train,
    score=el.metric.RocAuc(),
    gate=None,
    rollout=el.Direct(),
    retrain=el.Every(td(days=7), time_zone="America/Chicago"),
)
