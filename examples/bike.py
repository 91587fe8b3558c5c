"""How many bicycles will be rented in this hour? 17,379 hours of Washington, 2011 and 2012, and a growing demand."""

from datetime import timedelta as td

from lightgbm import LGBMRegressor

import everloop as el


def features(row):
    return {
        "season": row.season,
        "month": row.mnth,
        "hour": row.hr,
        "holiday": row.holiday,
        "weekday": row.weekday,
        "working_day": row.workingday,
        "weather": row.weathersit,
        "temperature": row.temp,
        "felt": row.atemp,
        "humidity": row.hum,
        "wind": row.windspeed,
        "rush": el.when((row.workingday == 1) & row.hr.is_in([7, 8, 17, 18])).then(1).otherwise(0),
    }


loop = el.Loop(
    name="bike",
    source=el.Parquet(
        "../../shared/data/bike_hourly.parquet",
        key="ts",
        event_time="ts",
        time_zone="UTC",  # local hours, and no clock change among them; `hr` is what the model looks at
        after=["casual", "registered"],  # their sum is the label
    ),
    label=el.Label("cnt", delay=td(hours=1), scale="log1p"),
    checks=[el.check.Between("hum", 0, 1), el.check.OneOf("weathersit", [1, 2, 3, 4])],
    features=features,
    window=el.Last(td(days=180), test=td(days=14), refit=True),
    train=el.Train(LGBMRegressor(n_jobs=1, verbose=-1)),
    score=el.metric.RootMeanSquaredError(),
    gate=el.NotWorse(margin=5.0),
    # The season alone moves temperature every month: drift of the inputs would cry wolf here.
    retrain=el.AnyOf(el.Every(td(days=28)), el.Degraded(by=15.0)),
    rollout=el.Canary(longest=td(days=7)),
)
