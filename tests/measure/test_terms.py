import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from everloop.forms import Terms
from everloop.measure import letters, terms
from everloop.records import MISSING_TEXT

WORDS = ["the", "loop", "turns", "and", "turns", "again", "while", "a", "server", "answers", "whoever", "asks"]


def form(**changes: object) -> Terms:
    given: dict[str, object] = {
        "analyzer": "word", "ngram_range": (1, 1), "max_features": 1000, "min_df": 1, "lowercase": True,
        "sublinear_tf": True,
    }  # fmt: skip
    return Terms(**{**given, **changes})  # type: ignore[arg-type]


def made(count: int) -> list[str | None]:
    random = np.random.default_rng(3)
    return [" ".join(random.choice(WORDS, random.integers(0, 30))) for _ in range(count)]


def dense(table: object, texts: list[str | None]) -> np.ndarray:
    starts, columns, values = terms.rows(table, texts)  # type: ignore[arg-type]
    matrix = np.zeros((len(texts), len(table.values)))  # type: ignore[attr-defined]
    for row in range(len(texts)):
        matrix[row, columns[starts[row] : starts[row + 1]]] = values[starts[row] : starts[row + 1]]
    return matrix


@pytest.mark.parametrize("analyzer", ["word", "char"])
@pytest.mark.parametrize("sublinear", [True, False])
def test_weights_are_those_of_scikit_learn(analyzer: str, sublinear: bool) -> None:
    texts = made(200)
    table = terms.learn(
        form(analyzer=analyzer, ngram_range=(1, 3), min_df=3, max_features=10_000, sublinear_tf=sublinear), texts
    )
    theirs = TfidfVectorizer(
        analyzer=analyzer, token_pattern=r"\w+" if analyzer == "word" else None, ngram_range=(1, 3), min_df=3,
        sublinear_tf=sublinear,
    )  # fmt: skip
    wanted = theirs.fit_transform(texts).toarray()
    assert set(table.values) == set(theirs.vocabulary_)
    places = [theirs.vocabulary_[value] for value in table.values]
    np.testing.assert_allclose(dense(table, texts), wanted[:, places], atol=1e-7)


def test_the_bound_keeps_the_terms_of_most_rows() -> None:
    table = terms.learn(form(max_features=2, min_df=2), ["a b", "a b c", "a c", "a", "d d d d"])
    assert table.values[0] == "a"
    assert len(table.values) == 2
    assert "d" not in table.values


def test_words_are_found_in_every_script_and_nothing_is_a_word_in_nothing() -> None:
    texts = ["Don't STOP_me", "ÇA va", "日本語の テスト", "ΣΟΦΟΣ İI", None, MISSING_TEXT, "", " \t\r\n", "½ ☃ … —"]
    found = letters.find(texts, "word", lowercase=True)
    text = found.codes.tobytes().decode("utf-32-le")
    words = [text[a:b] for a, b in zip(found.first, found.last, strict=True)]
    assert words == ["don", "t", "stop_me", "ça", "va", "日本語の", "テスト", "σοφοσ", "ii"]
    assert found.rows.tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3]


def test_a_text_ends_at_its_first_nul() -> None:
    assert letters.find(["one\x00two"], "word", lowercase=False).rows.tolist() == [0]


def test_equal_words_have_equal_numbers_wherever_they_stand() -> None:
    found = letters.find(["tide and time", "time and tide and time"], "word", lowercase=True)
    tide, and_, time = found.hashes[:3]
    assert found.hashes[3:].tolist() == [time, and_, tide, and_, time]
    assert len({tide, and_, time}) == 3


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = made(60)
    whole = terms.learn(form(ngram_range=(1, 2)), texts)
    before = dense(whole, texts)
    monkeypatch.setattr(letters, "CHUNK", 100)
    again = terms.learn(form(ngram_range=(1, 2)), texts)
    assert again == whole
    np.testing.assert_array_equal(dense(again, texts), before)


def test_rows_without_a_known_term_are_empty() -> None:
    table = terms.learn(form(), ["a b", "b c"])
    starts, columns, values = terms.rows(table, ["zzz", None, ""])
    assert starts.tolist() == [0, 0, 0, 0]
    assert len(columns) == len(values) == 0
