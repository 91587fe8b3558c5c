from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from everloop.errors import SpecError
from everloop.loop.inject import Span, drift, poison

START = datetime(2024, 1, 1, tzinfo=UTC)


def history(label: Any) -> pl.DataFrame:
    times = [START + timedelta(hours=hour) for hour in range(10)]
    return pl.DataFrame({"_event_time": times, "speed": [float(i) for i in range(10)], "late": label})


def test_poison_flips_every_label_of_its_span_and_no_other() -> None:
    before = history([True, False] * 5)
    after = poison(before, Span(START + timedelta(hours=2), timedelta(hours=3)), label="late")
    changed = [i for i in range(10) if before["late"][i] != after["late"][i]]
    assert changed == [2, 3, 4]


def test_drift_turns_the_relation_around_for_the_rest_of_the_history() -> None:
    before = history(["no", "yes"] * 5)
    after = drift(before, Span(0.5), label="late", inputs=["speed"])
    changed = [i for i in range(10) if before["late"][i] != after["late"][i]]
    assert changed == [5, 6, 7, 8, 9]
    assert set(after["late"]) == {"no", "yes"}


def test_a_number_is_scaled() -> None:
    after = poison(history([float(i) for i in range(10)]), Span(0.9), label="late")
    assert after["late"].to_list()[-1] == 13.5


def test_a_label_with_many_words_cannot_be_turned_around() -> None:
    with pytest.raises(SpecError, match="two values or a number"):
        poison(history([str(i) for i in range(10)]), Span(0.5), label="late")


def test_drift_needs_a_numeric_input() -> None:
    with pytest.raises(SpecError, match="numeric input"):
        drift(history([True] * 10), Span(0.5), label="late", inputs=["late"])
