"""Will this parcel arrive late? The declaration behind `make demo`; its data are simulated (everloop.loop.simulate)."""

from datetime import timedelta as td

from lightgbm import LGBMClassifier

import everloop as el


def features(row):
    return {
        "carrier": row.carrier,
        "service": row.service,
        "region": row.region,
        "log_distance": row.distance_km.log(),
        "weight": row.weight_kg,
        "items": row.items,
        "rain": row.rain_mm.fill_missing(0.0),
        "backlog": row.backlog,
        "hour": row.posted.dt.hour(),
        "weekday": row.posted.dt.weekday(),
        "far_and_cheap": el.when((row.service == "economy") & (row.distance_km > 250)).then(1).otherwise(0),
    }


loop = el.Loop(
    name="parcels",
    source=el.Parquet("parcels/*.parquet", key="parcel", event_time="posted", after="hours_taken"),
    label=el.Label("late", delay=td(days=3)),
    checks=[el.check.NotNull("carrier"), el.check.Between("distance_km", 0, 5_000)],
    features=features,
    window=el.Last(td(days=35), test=td(days=7)),
    train=el.Train(
        LGBMClassifier(n_estimators=60, num_leaves=15, learning_rate=0.1, min_child_samples=20, n_jobs=1, verbose=-1)
    ),
    score=el.metric.LogLoss(),
    gate=el.NotWorse(margin=0.02),
    # Ninety parcels a day: half of them for two days is all that a release of eight days can meet at its last share.
    rollout=el.Canary(
        shares=(0.1, 0.5), guards=[el.guard.Errors(), el.guard.Latency()], longest=td(days=8), minimum_requests=80
    ),
    # The backlog breathes with the season: watching it for drift would cry wolf.
    retrain=el.AnyOf(
        el.Every(td(days=28)),
        el.Drift(columns=["carrier", "region", "distance_km"], false_alarm_every=td(days=90)),
        el.Degraded(by=0.03),
    ),
    cooldown=td(days=10),
)
