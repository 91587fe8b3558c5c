from datetime import UTC, datetime
from datetime import timedelta as td
from typing import Any

import numpy as np
import pytest

from everloop.clock import microseconds
from everloop.loop.worth import never_pays
from everloop.records import Signature
from everloop.spec.metric import Brier
from everloop.store.lake import Lake
from everloop.watch.fold import fold
from everloop.watch.labels import Truth
from everloop.watch.worth import Gain, gain

START = datetime(2024, 1, 1, tzinfo=UTC)
TRUTH = Truth(column="late", delay=td(days=1), task="binary", classes=(0, 1))
CLASSES = {1: (0, 1), 2: (0, 1)}


def test_the_gain_is_the_mean_difference_of_the_losses_on_labelled_rows_that_both_answered(
    log: Any, lake: Lake, signatures: dict[str, Signature]
) -> None:
    random = np.random.default_rng(3)
    expected = []
    for day in range(10):
        chance = random.beta(2, 2, 60)
        noisy = np.clip(chance + random.normal(0, 0.25, 60), 0.01, 0.99)
        label = (random.random(60) < chance).astype(int)
        ids = [f"{day}-{n}" for n in range(60)]
        at = [microseconds(START + td(days=day)) + n for n in range(60)]
        log.predictions(ids, at=at, chance=noisy, numbers=np.zeros(60))
        log.predictions(ids[:40], at=at[:40], chance=chance[:40], arm="shadow", version=2, numbers=np.zeros(40))
        log.outcomes([(id, int(y), at[0] + 86_400_000_000) for id, y in zip(ids[:30], label, strict=False)])
        expected += [(noisy[n] - label[n]) ** 2 - (chance[n] - label[n]) ** 2 for n in range(30)]
    fold(log.folder, lake, signatures)
    now = START + td(days=20)
    found = gain(lake, TRUTH, Brier(), version=2, now=now, classes=CLASSES)
    assert found is not None
    assert found.rows == 300
    assert found.value == pytest.approx(np.mean(expected), abs=1e-6)
    assert found.shown
    assert found.standard_error >= np.std(expected) / np.sqrt(300) - 1e-9
    assert gain(lake, TRUTH, Brier(), version=1, now=now, classes=CLASSES) is None, "it never answered in shadow"
    assert gain(lake, TRUTH, Brier(), version=2, now=START + td(days=3), classes=CLASSES) is None, "too few so far"


def test_a_policy_whose_retrains_never_pay_is_told_so_and_one_that_paid_once_is_not() -> None:
    nothing = Gain(loss="brier", value=0.001, standard_error=0.002, rows=500)
    much = Gain(loss="brier", value=0.01, standard_error=0.002, rows=500)
    five = dict.fromkeys(range(2, 7), nothing)
    said = never_pays(range(1, 7), five)
    assert said is not None
    assert "none of the last 5 versions" in said
    assert "brier 0.001 better on average, 2,500 rows" in said
    assert never_pays(range(1, 7), {**five, 4: much}) is None
    assert never_pays(range(1, 5), {2: nothing, 3: nothing, 4: nothing}) is None, "three are no habit"
