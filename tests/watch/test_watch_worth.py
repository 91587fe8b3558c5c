from datetime import UTC, datetime
from datetime import timedelta as td
from typing import Any

import numpy as np
import pytest

from everloop.clock import microseconds
from everloop.loop.worth import Worth, never_pays, words
from everloop.records import Signature
from everloop.spec.metric import Brier
from everloop.store.lake import Lake
from everloop.watch.fold import fold
from everloop.watch.labels import Truth
from everloop.watch.worth import Gain, gain, read, realised

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
    rows = read(lake, TRUTH, since=None, now=now)
    found = gain(rows, TRUTH, Brier(), version=2, classes=CLASSES)
    assert found is not None
    assert found.rows == 300
    assert found.value == pytest.approx(np.mean(expected), abs=1e-6)
    assert found.shown
    assert found.standard_error >= np.std(expected) / np.sqrt(300) - 1e-9
    assert gain(rows, TRUTH, Brier(), version=1, classes=CLASSES) is None, "it never answered in shadow"
    early = read(lake, TRUTH, since=None, now=START + td(days=3))
    assert gain(early, TRUTH, Brier(), version=2, classes=CLASSES) is None, "too few so far"


def test_the_realised_gain_is_held_against_the_former_champion_in_shadow_since_the_release(
    log: Any, lake: Lake, signatures: dict[str, Signature]
) -> None:
    random = np.random.default_rng(4)
    expected = []
    since = START + td(days=4)
    for day in range(12):
        chance = random.beta(2, 2, 50)
        noisy = np.clip(chance + random.normal(0, 0.25, 50), 0.01, 0.99)
        label = (random.random(50) < chance).astype(int)
        ids = [f"{day}-{n}" for n in range(50)]
        at = [microseconds(START + td(days=day)) + n for n in range(50)]
        if day < 4:  # version 2 in shadow of version 1
            log.predictions(ids, at=at, chance=noisy, numbers=np.zeros(50))
            log.predictions(ids, at=at, chance=chance, arm="shadow", version=2, numbers=np.zeros(50))
        else:  # version 2 answers, version 1 stays in shadow on three rows of five
            log.predictions(ids, at=at, chance=chance, version=2, numbers=np.zeros(50))
            log.predictions(ids[:30], at=at[:30], chance=noisy[:30], arm="former", numbers=np.zeros(30))
            expected += [(noisy[n] - label[n]) ** 2 - (chance[n] - label[n]) ** 2 for n in range(30)]
        log.outcomes([(id, int(y), at[0] + 86_400_000_000) for id, y in zip(ids, label, strict=True)])
    fold(log.folder, lake, signatures)
    rows = read(lake, TRUTH, since=None, now=START + td(days=20))
    found = realised(rows, TRUTH, Brier(), version=2, former=1, since=since, classes=CLASSES)
    assert found is not None
    assert found.rows == 240
    assert found.value == pytest.approx(np.mean(expected), abs=1e-6)
    shadow = gain(rows, TRUTH, Brier(), version=2, classes=CLASSES)
    assert shadow is not None
    assert shadow.rows == 200, "rows of the former champion are none of its shadow"
    said = words(Worth(predicted=0.02, shadow=shadow, realised=found, former=1))
    assert said.startswith(f"brier {found.value:.4g} ± ")
    assert "better than version 1 since its release, 240 live rows; before it, in shadow," in said
    assert said.endswith("at its gate 0.02 better")
    later = realised(rows, TRUTH, Brier(), version=2, former=1, since=START + td(days=10), classes=CLASSES)
    assert later is None, "sixty rows are too few"


def test_a_policy_whose_retrains_never_pay_is_told_so_and_one_that_paid_once_is_not() -> None:
    nothing = Gain(loss="brier", value=0.001, standard_error=0.002, rows=500)
    much = Gain(loss="brier", value=0.01, standard_error=0.002, rows=500)
    none, one = Worth(predicted=None, shadow=nothing), Worth(predicted=None, shadow=nothing, realised=much, former=1)
    five = dict.fromkeys(range(2, 7), none)
    said = never_pays(range(1, 7), five)
    assert said is not None
    assert "none of the last 5 versions" in said
    assert "brier 0.001 better on average, 2,500 rows" in said
    assert never_pays(range(1, 7), {**five, 4: one}) is None
    assert never_pays(range(1, 5), {2: none, 3: none, 4: none}) is None, "three are no habit"
