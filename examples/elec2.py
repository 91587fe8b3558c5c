"""Will the electricity price of New South Wales rise above its last day's mean? 45,312 half hours, 1996 to 1998.

The second loop is the plain policy that the published baseline follows (../shared/data/README.md): every week, the
last eight weeks, no gate, no canary. Beside it the first one shows what safety costs.
"""

from datetime import timedelta as td

from lightgbm import LGBMClassifier

import everloop as el


def features(row):
    return {
        "day_of_week": row.day_of_week,
        "period": row.period,
        "nswdemand": row.nswdemand,
        "vicprice": row.vicprice,
        "vicdemand": row.vicdemand,
        "transfer": row.transfer,
    }


source = el.Parquet(
    "../../shared/data/elec2.parquet",
    key="ts",
    event_time="ts",
    time_zone="UTC",  # the instants were rebuilt by counting half hours: no clock was ever changed
    after=["nswprice", "date_norm"],
)
train = el.Train(LGBMClassifier(n_jobs=1, verbose=-1))

loop = el.Loop(
    name="elec2",
    source=source,
    label=el.Label("price_up"),
    checks=[el.check.Between("period", 0, 1), el.check.NotNull("nswdemand")],
    features=features,
    # Two days are held out for the gate; what ships is fitted on them too.
    window=el.Last(td(weeks=8), test=td(days=2), refit=True),
    train=train,
    score=el.metric.Accuracy(),
    gate=el.NotWorse(margin=0.02),
    # Two days in shadow, a day at each share: with 48 rows a day nothing is proved sooner, harm shows at once.
    rollout=el.Canary(shares=(0.1, 0.5), longest=td(days=4), minimum=td(hours=12)),
    retrain=el.AnyOf(el.Every(td(days=7)), el.Degraded(by=0.03)),
)

plain = el.Loop(
    name="elec2-plain",
    source=source,
    label=el.Label("price_up"),
    features=features,
    window=el.Last(td(weeks=8), test=1, refit=True),
    train=train,
    score=el.metric.Accuracy(),
    gate=None,
    rollout=el.Direct(),
    retrain=el.Every(td(days=7)),
)
