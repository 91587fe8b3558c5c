"""The gate: what it says, when it says it, and how often it is wrong."""

import numpy as np
import pytest
from numpy.typing import NDArray

from everloop.gate.compare import compare
from everloop.records import Verdict, decode, encode
from everloop.spec.gate import Better, NotWorse
from everloop.spec.metric import Accuracy, Custom, LogLoss, RocAuc, RootMeanSquaredError

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


def answers(seed: int, n: int, *, disagreement: float = 0.1, worse: float = 0.0) -> tuple[Integers, Integers, Integers]:
    """Truth, champion and challenger decisions: the challenger is wrong in ``worse`` more of all rows."""
    drawn = np.random.default_rng(seed).random(n)
    truth = np.zeros(n, np.int64)
    only_challenger = drawn < (disagreement + worse) / 2
    only_champion = drawn > 1 - (disagreement - worse) / 2
    return truth, only_champion.astype(np.int64), only_challenger.astype(np.int64)


def probabilities(seed: int, n: int, noise: float) -> tuple[Integers, Floats]:
    random = np.random.default_rng(seed)
    signal = random.normal(0, 1, n)
    truth = (random.random(n) < 1 / (1 + np.exp(-2 * signal))).astype(np.int64)
    chance = 1 / (1 + np.exp(-2 * (signal + np.random.default_rng(seed + 1).normal(0, noise, n))))
    return truth, np.stack([1 - chance, chance], axis=1)


def verdict(seed: int, n: int, gate: NotWorse | Better, *, worse: float, disagreement: float = 0.1) -> Verdict:
    truth, champion, challenger = answers(seed, n, worse=worse, disagreement=disagreement)
    return compare(gate, Accuracy(), truth=truth, champion=champion, challenger=challenger, champion_name="version 3")


def promoted(gate: NotWorse, n: int, *, worse: float, disagreement: float = 0.1, runs: int = 400) -> float:
    found = [verdict(seed, n, gate, worse=worse, disagreement=disagreement).promote for seed in range(runs)]
    return float(np.mean(found))


def test_one_exactly_at_the_margin_passes_one_time_in_twenty() -> None:
    assert promoted(NotWorse(margin=0.01), 1_000, worse=0.01) == pytest.approx(0.05, abs=0.03)
    assert promoted(NotWorse(margin=0.02), 1_000, worse=0.02, disagreement=0.2) == pytest.approx(0.05, abs=0.03)


def test_an_equal_one_passes_four_times_in_five_with_the_rows_that_were_named() -> None:
    """6.18·D/margin² rows: 1,546 for ten percent disagreement and two points."""
    assert promoted(NotWorse(margin=0.02), 1_546, worse=0.0) == pytest.approx(0.8, abs=0.06)


def test_a_better_one_passes_and_is_called_better() -> None:
    found = verdict(1, 3_000, NotWorse(margin=0.01), worse=-0.05)
    assert (found.outcome, found.promote) == ("better", True)


def test_a_worse_one_is_shown_worse() -> None:
    found = verdict(1, 3_000, NotWorse(margin=0.01), worse=0.05)
    assert (found.outcome, found.promote) == ("worse", False)
    assert "shown worse" in found.because


def test_shown_worse_but_inside_the_margin_is_not_worse() -> None:
    found = verdict(1, 60_000, NotWorse(margin=0.02), worse=0.006)
    assert found.evidence[0].detail["worse_by_at_least"] > 0
    assert (found.outcome, found.promote) == ("not_worse", True)


def test_unsure_says_in_one_sentence_how_many_more_labels_it_takes() -> None:
    found = verdict(6, 1_000, NotWorse(margin=0.01), worse=0.0)
    assert (found.outcome, found.promote) == ("unsure", False)
    assert found.because.startswith("accuracy 0.")
    assert "of version 3 on 1,000 rows" in found.because
    assert "(limit 0.010), not shown worse: unsure, about" in found.because
    assert found.more_labels == pytest.approx(5_183, rel=0.25)  # 6,183 in all
    assert decode(encode(found), Verdict) == found


def test_a_gap_over_the_margin_says_that_labels_will_not_help() -> None:
    seeds = (s for s in range(100) if verdict(s, 300, NotWorse(margin=0.01), worse=0.02).outcome == "unsure")
    found = [verdict(seed, 300, NotWorse(margin=0.01), worse=0.02) for seed in seeds]
    hopeless = [each for each in found if each.more_labels is None]
    assert hopeless
    assert "more labels are unlikely to help" in hopeless[0].because


def test_the_same_answers_are_not_worse_however_few_the_differences() -> None:
    truth, p = probabilities(1, 500, 0.3)
    for metric in (LogLoss(), RocAuc(), Accuracy()):
        found = compare(NotWorse(), metric, truth=truth, champion=p, challenger=p.copy())
        assert (found.outcome, found.promote) == ("not_worse", True)
    nearly = p.copy()
    nearly[:2] = nearly[:2, ::-1]
    assert compare(NotWorse(margin=0.02), Accuracy(), truth=truth, champion=p, challenger=nearly).promote


def test_too_few_rows_are_unsure_and_never_worse() -> None:
    truth, p = probabilities(2, 20, 0.3)
    found = compare(NotWorse(margin=0.5), LogLoss(), truth=truth, champion=p, challenger=p[:, ::-1])
    assert (found.outcome, found.promote) == ("unsure", False)
    assert found.more_labels == 10
    assert compare(NotWorse(), LogLoss(), truth=truth[:0], champion=p[:0], challenger=p[:0]).outcome == "unsure"


def test_the_first_version_and_an_ungated_one_go_on() -> None:
    truth, p = probabilities(3, 200, 0.3)
    assert compare(NotWorse(), LogLoss(), truth=truth, champion=None, challenger=p).outcome == "first"
    found = compare(None, LogLoss(), truth=truth, champion=p, challenger=p)
    assert (found.outcome, found.promote) == ("ungated", True)


def test_small_losses_do_not_add_up_against_the_best_of_the_last_year() -> None:
    truth, champion, challenger = answers(5, 20_000, worse=0.004)
    anchor = np.where(np.random.default_rng(6).random(20_000) < 0.97, truth, champion)
    alone = compare(NotWorse(margin=0.01), Accuracy(), truth=truth, champion=champion, challenger=challenger)
    assert alone.promote
    beside = compare(
        NotWorse(margin=0.01),
        Accuracy(),
        truth=truth,
        champion=champion,
        challenger=challenger,
        anchors={"the best": anchor},
    )
    assert (beside.outcome, beside.promote) == ("worse", False)
    assert "the best" in beside.because
    assert len(beside.evidence) == 2


def test_a_year_of_small_losses_stays_near_the_anchor() -> None:
    """52 gates, each challenger .8 points below the champion of the day, a thousand rows each."""
    random = np.random.default_rng(7)

    def year(with_anchor: bool) -> float:
        loss = best = 0.0
        for _ in range(52):
            offered = loss + 0.008
            drawn = random.random(1_000)
            base = 0.1
            truth = np.zeros(1_000, np.int64)
            models = [
                (((drawn + shift) % 1) < base + level).astype(np.int64)
                for level, shift in ((loss, 0.0), (offered, 0.05), (best, 0.08))
            ]
            found = compare(
                NotWorse(margin=0.01),
                Accuracy(),
                truth=truth,
                champion=models[0],
                challenger=models[1],
                anchors={"the best": models[2]} if with_anchor else None,
            )
            loss = offered if found.promote else loss
        return loss

    assert np.mean([year(True) for _ in range(12)]) <= 0.015
    assert np.mean([year(True) for _ in range(12)]) < np.mean([year(False) for _ in range(12)])


def sliced(seed: int, n: int, bad: float) -> Verdict:
    """Ten carriers; one of them, of about nine percent of the rows, is ``bad`` worse."""
    random = np.random.default_rng(10_000 + seed)
    share = 1 / np.arange(1, 11)
    carrier = random.choice(10, n, p=share / share.sum())
    truth, champion, challenger = answers(seed, n)
    hurt = (carrier == 3) & (random.random(n) < bad)
    challenger = np.where(hurt, 1, challenger)
    champion = np.where(hurt, 0, champion)
    return compare(
        NotWorse(margin=0.01, slices=("carrier",)),
        Accuracy(),
        truth=truth,
        champion=champion,
        challenger=challenger,
        rows={"carrier": carrier.astype(str)},
        champion_name="version 3",
    )


def test_a_slice_vetoes_only_when_it_is_shown_worse() -> None:
    equal = [sliced(seed, 10_000, 0.0) for seed in range(60)]
    assert np.mean([each.promote for each in equal]) >= 0.8  # proving every slice would promote one in a thousand
    hurt = [sliced(seed, 10_000, 0.10) for seed in range(20)]
    assert not any(each.promote for each in hurt)
    assert sum("on carrier=3" in each.because for each in hurt) >= 18
    assert "shown worse by" in hurt[0].because


def test_slices_with_too_few_rows_are_reported_as_not_judged() -> None:
    truth, champion, challenger = answers(9, 500)
    carrier = np.array(["big"] * 480 + ["small"] * 20)
    found = compare(
        NotWorse(slices=("carrier",)),
        Accuracy(),
        truth=truth,
        champion=champion,
        challenger=challenger,
        rows={"carrier": carrier},
    )
    assert found.evidence[-1].name == "slices"
    assert found.evidence[-1].detail["not_judged"] == ["carrier=small"]


def test_better_asks_for_more_than_not_worse() -> None:
    assert verdict(1, 5_000, Better(0.01), worse=-0.05).outcome == "better"
    equal = verdict(1, 40_000, Better(0.01), worse=0.0)
    assert (equal.outcome, equal.promote) == ("not_worse", False)
    assert "shown not to be better" in equal.because
    assert verdict(1, 5_000, Better(0.01), worse=0.05).outcome == "worse"
    hopeful = verdict(3, 400, Better(0.01), worse=-0.03)
    assert hopeful.outcome == "unsure"
    assert hopeful.more_labels is None or hopeful.more_labels > 0


def test_days_are_blocks_for_the_gate_too() -> None:
    truth, champion, challenger = answers(11, 1_400)
    days = np.repeat(np.arange(14), 100)
    found = compare(NotWorse(), Accuracy(), truth=truth, champion=champion, challenger=challenger, days=days)
    assert found.evidence[0].detail["unit"] == "day"
    assert found.evidence[0].detail["blocks"] == 14


def within_ten_percent(truth: Floats, prediction: Floats, rows: object) -> float:
    return float(np.mean(np.abs(prediction - truth) <= 0.1 * np.abs(truth)))


def test_numbers_and_a_users_own_metric_pass_the_same_gate() -> None:
    random = np.random.default_rng(12)
    truth = random.normal(100, 10, 1_000)
    good, bad = truth + random.normal(0, 3, 1_000), truth + random.normal(0, 12, 1_000)
    worse = compare(NotWorse(margin=0.5), RootMeanSquaredError(), truth=truth, champion=good, challenger=bad)
    assert worse.outcome == "worse"
    own = Custom(within_ten_percent)
    assert compare(NotWorse(margin=0.02), own, truth=truth, champion=good, challenger=bad).outcome == "worse"
    assert compare(NotWorse(margin=0.02), own, truth=truth, champion=bad, challenger=good).outcome == "better"


def test_a_planned_look_replaces_the_level() -> None:
    truth, champion, challenger = answers(13, 1_000)
    wide = compare(NotWorse(), Accuracy(), truth=truth, champion=champion, challenger=challenger, alpha=0.001).evidence[
        0
    ]
    usual = compare(NotWorse(), Accuracy(), truth=truth, champion=champion, challenger=challenger).evidence[0]
    assert wide.detail["worse_by_at_most"] > usual.detail["worse_by_at_most"]
