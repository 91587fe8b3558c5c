"""Free text and arrays: what was never there and a changed mix are seen, what is usual is not."""

from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from everloop.measure import drift, profile, space
from everloop.measure.comparison import compare
from everloop.measure.profile import Profile
from everloop.records import MISSING_TEXT

TOPICS = 8
SHARES = np.array([0.3, 0.2, 0.15, 0.1, 0.1, 0.05, 0.05, 0.05])


def texts(random: np.random.Generator, rows: int, *, new: float = 0.0, shares: Any = SHARES) -> NDArray[Any]:
    """Sentences of made words: a topic has 60 of its own, all share 40; ``new`` is a topic nobody has heard of."""
    topic = np.where(random.random(rows) < new, TOPICS, random.choice(TOPICS, rows, p=shares))
    own, common = random.integers(0, 60, (rows, 10)), random.integers(0, 40, (rows, 8))
    return np.array(
        [
            " ".join([*(f"t{each}w{word}" for word in one), *(f"common{word}" for word in other)])
            for each, one, other in zip(topic.tolist(), own.tolist(), common.tolist(), strict=True)
        ],
        dtype=object,
    )


def images(random: np.random.Generator, rows: int, *, new: float = 0.0, light: float = 0.5) -> NDArray[np.float32]:
    """[rows, 3, 32, 32]: two kinds, bright above or bright below; ``new`` ones are stripes."""
    made = random.normal(light, 0.1, (rows, 3, 32, 32))
    made[: rows // 2, :, :16] += 0.4
    made[rows // 2 :, :, 16:] += 0.4
    made[random.random(rows) < new] += np.where(np.arange(32) % 2 == 0, 0.5, -0.5)
    return made[random.permutation(rows)].astype(np.float32)


def reference(columns: dict[str, NDArray[Any]], arrays: dict[str, NDArray[Any]]) -> Profile:
    spaces, later = space.learned(columns, dict.fromkeys(columns, "text"), arrays)
    return profile.with_spaces(profile.build(columns), spaces, later)


def seen(held: Profile, columns: dict[str, NDArray[Any]]) -> tuple[drift.Signal, ...]:
    now = profile.build(space.replaced(columns, held.spaces), like=held)
    return drift.signals(compare(held, now))


def alarms(held: Profile, before: dict[str, Any], now: dict[str, Any]) -> set[tuple[str, str]]:
    one, other = seen(held, before), seen(held, now)
    chance = drift.false_alarm_chance(timedelta(days=90), 1, len(one))
    return {(each.column, each.signal) for each in drift.in_both(one, other, chance, None)}


@pytest.fixture(scope="module")
def held() -> Profile:
    random = np.random.default_rng(1)
    return reference({"body": texts(random, 6_000)}, {"picture": images(random, 3_000)})


def test_usual_texts_and_pictures_raise_no_alarm(held: Profile) -> None:
    random = np.random.default_rng(2)
    for _ in range(10):
        both = [{"body": texts(random, 1_000), "picture": space.summary(images(random, 1_000))} for _ in range(2)]
        assert alarms(held, *both) == set()


def test_a_topic_that_was_never_there_is_novel_and_a_changed_mix_moves_the_clusters(held: Profile) -> None:
    random = np.random.default_rng(3)
    new = [{"body": texts(random, 1_000, new=0.06)} for _ in range(2)]
    assert ("body (distance)", "novel rows") in alarms(held, *new)
    turned = [{"body": texts(random, 1_000, shares=SHARES[::-1])} for _ in range(2)]
    found = alarms(held, *turned)
    assert ("body (cluster)", "distribution") in found
    assert ("body (distance)", "novel rows") not in found, "every topic of them was there"


def test_pictures_that_became_darker_and_a_few_of_another_kind_are_seen(held: Profile) -> None:
    random = np.random.default_rng(4)
    striped = [{"picture": space.summary(images(random, 1_000, new=0.06))} for _ in range(2)]
    assert ("picture (distance)", "novel rows") in alarms(held, *striped)
    dark = [{"picture": space.summary(images(random, 1_000, light=0.4))} for _ in range(2)]
    assert ("picture (distance)", "distribution") in alarms(held, *dark)


def test_names_of_things_are_categories_and_sentences_are_not() -> None:
    random = np.random.default_rng(5)
    assert space.is_free_text(texts(random, 500))
    assert not space.is_free_text(random.choice(["New York City", "Salt Lake City"], 500).astype(object))
    assert not space.is_free_text(np.array([f"id-{each}" for each in range(500)], dtype=object))
    assert not space.is_free_text(np.array([None] * 500, dtype=object))
    assert not space.is_free_text(np.array([], dtype=object))


def test_a_trigger_on_the_column_watches_what_follows_from_it(held: Profile) -> None:
    now = profile.build(space.replaced({"body": texts(np.random.default_rng(6), 500)}, held.spaces), like=held)
    found = drift.signals(compare(held, now), columns=["body"])
    assert {each.column for each in found} == {"body (cluster)", "body (distance)", "body (length)"}


def test_a_reference_with_texts_is_json_and_small(held: Profile) -> None:
    kept = profile.to_json(held)
    assert len(kept) < 64_000
    again = profile.from_json(kept)
    assert again == held
    rows = texts(np.random.default_rng(7), 50)
    for name, values in space.derived("body", again.spaces["body"], rows).items():
        assert values.tolist() == space.derived("body", held.spaces["body"], rows)[name].tolist()


def test_what_is_no_text_and_no_number_is_missing_and_breaks_nothing(held: Profile) -> None:
    odd = np.array(
        [None, MISSING_TEXT, "", "   ", "\ud800 lone", "x" * 1_000_000, "word " * 100_000, 5, float("nan")],
        dtype=object,
    )
    made = space.derived("body", held.spaces["body"], odd)
    absent = [0, 1, 7, 8]
    assert [place for place, each in enumerate(made["body (cluster)"].tolist()) if each is None] == absent
    assert np.flatnonzero(np.isnan(made["body (distance)"])).tolist() == absent
    summaries = space.summary(images(np.random.default_rng(8), 4))
    summaries[1] = np.nan
    summaries[2, 0] = np.inf
    made = space.derived("picture", held.spaces["picture"], summaries)
    assert [each is None for each in made["picture (cluster)"].tolist()] == [False, True, True, False]
    assert space.derived("picture", held.spaces["picture"], summaries[:, :3]) == {}, "another model's pictures"
    for nothing in (np.array([], dtype=object), np.array([""], dtype=object)):
        assert len(space.derived("body", held.spaces["body"], nothing)["body (distance)"]) == len(nothing)


def test_the_points_of_a_text_and_of_an_array_are_the_same_everywhere() -> None:
    """Packages are read by other machines and later versions: these numbers are part of their format."""
    weights = np.full(space.BUCKETS, 255, np.uint8)
    point = space._projected([space._buckets("One parcel, two parcels")], space._weighted(weights))[0]
    assert np.linalg.norm(point) == pytest.approx(1)
    assert point[:4].tolist() == pytest.approx(POINT, abs=1e-6)
    tokens = np.array([[5, 7, 7, 0, 0], [1, 2, 3, 4, 5]], dtype=np.int64)
    assert space.summary(tokens).shape == (2, space.WIDTH)
    assert space.summary(tokens)[0].tolist() == space.summary(np.array([[0, 5, 7]]))[0].tolist()


POINT = [0.0, -0.066227, 0.066227, 0.0]


def test_pictures_are_summed_up_alike_with_channels_first_or_last() -> None:
    first = images(np.random.default_rng(9), 5)
    assert np.allclose(space.summary(first), space.summary(np.moveaxis(first, 1, -1)), atol=1e-5)
    whole = space.summary(first)
    assert whole.shape == (5, 3 + 3 + 2 + 16)
    assert whole[:, :3] == pytest.approx(first.mean(axis=(2, 3)), abs=1e-5)
    assert whole[:, 8:].mean(axis=1) == pytest.approx(first.mean(axis=(1, 2, 3)), abs=1e-4)
    for shape in ((7,), (2_000,), (9, 5), (2, 3, 4, 5), (1, 1), (3, 2, 2)):
        made = space.summary(np.random.default_rng(0).random((3, *shape)).astype(np.float32))
        assert made.shape[0] == 3
        assert np.isfinite(made).all()


def test_embeddings_are_points_as_they_are() -> None:
    random = np.random.default_rng(10)
    usual, other = random.normal(0, 1, (2_000, 64)), random.normal(0, 1, (1_000, 64))
    other[:60, :8] += 6
    held = reference({}, {"embedding": usual.astype(np.float32)})
    now = {"embedding": space.summary(other.astype(np.float32))}
    assert ("embedding (distance)", "novel rows") in alarms(held, now, now)
