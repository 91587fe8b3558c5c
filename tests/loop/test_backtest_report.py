"""The report and the terminal's table of a backtest: whole, self-contained, and the same sentences in both."""

from __future__ import annotations

import dataclasses
import io
import re
from html.parser import HTMLParser

import pytest
from rich.console import Console

from everloop.loop.backtest import words
from everloop.loop.backtest.answer import Answer, answer
from everloop.loop.backtest.report import page
from everloop.loop.backtest.result import BacktestResult, Prices
from everloop.loop.backtest.table import show
from made_backtest import made_result


class Seen(HTMLParser):
    """Tags that are open at the end, and what a page would fetch from outside."""

    VOID = {"meta", "br", "img", "path", "use", "rect", "line", "circle"}

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.outside: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        if tag not in self.VOID:
            self.open.append(tag)
        self.outside += [
            value for name, value in attrs if name in ("src", "href") and value and not value.startswith("#")
        ]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def result() -> BacktestResult:
    return made_result(windows=40)


@pytest.fixture(scope="module")
def found(result: BacktestResult) -> Answer:
    return answer(result, changed={"labels two weeks later": (made_result(windows=40, seed=3), 0)})


@pytest.fixture(scope="module")
def written(result: BacktestResult, found: Answer) -> str:
    return page(result, found)


def printed(result: BacktestResult, found: Answer, *, width: int = 120) -> str:
    out = io.StringIO()
    show(Console(file=out, width=width, highlight=False), result, found)
    return out.getvalue()


def test_the_page_needs_nothing_from_outside_and_closes_what_it_opens(written: str) -> None:
    seen = Seen()
    seen.feed(written)
    assert not seen.open
    assert not seen.outside
    assert not seen.scripts
    assert written.count("<svg") == 4
    assert "made &lt;up&gt;" in written
    assert "made <up>" not in written


def test_page_and_terminal_say_the_same(result: BacktestResult, found: Answer, written: str) -> None:
    text = re.sub(r"<[^>]+>", "", written).replace("&lt;", "<")
    terminal = printed(result, found)
    chosen = found.of(found.recommended)
    for sentence in (" ".join(words.why(found)), words.present(found), words.floor(found), words.could_have(found)):
        assert sentence is not None
        assert sentence in text
        assert sentence in terminal.replace("\n", " ") or sentence in terminal
    for said in (chosen.line, chosen.name, "labels two weeks later"):
        assert said in text
        assert said in terminal


def test_every_policy_is_in_both_with_its_score(result: BacktestResult, found: Answer, written: str) -> None:
    terminal = printed(result, found)
    for each in found.policies:
        for text in (written, terminal):
            assert each.name in text
            assert words.figure(each.score) in text


def test_the_same_result_makes_the_same_page(result: BacktestResult, found: Answer, written: str) -> None:
    assert page(result, found) == written


def test_a_search_with_hundreds_shows_the_best_and_says_how_many_there_are(result: BacktestResult) -> None:
    many = dataclasses.replace(result, runs=result.runs * 8)
    found = answer(many)
    assert "the best 20 of 80" in printed(many, found)
    assert "And 20 with lower scores" in page(many, found)


def test_a_few_windows_and_one_policy_still_make_a_page() -> None:
    for made in (
        made_result(windows=1),
        made_result(windows=5),
        made_result(windows=30, chosen=[made_result().runs[0].policy]),
    ):
        found = answer(made)
        seen = Seen()
        seen.feed(page(made, found))
        assert not seen.open
        assert found.of(found.recommended).line in printed(made, found)


def test_money_and_turned_back_candidates_are_shown() -> None:
    made = made_result(windows=30, prices=Prices(retrain=12.5))
    run = made.runs[1]
    refused = dataclasses.replace(run, costs=dataclasses.replace(run.costs, rejected=3))
    made = dataclasses.replace(made, runs=(made.runs[0], refused, *made.runs[2:]))
    found = answer(made)
    assert "(3 turned back)" in page(made, found)
    assert "(−3)" in printed(made, found)
    assert f"{12.5 * 29:,.2f}" in printed(made, found)
    priced = made_result(windows=30, prices=Prices(retrain=12.5, errors={"wrong": 2.0}))
    found = answer(priced)
    total = found.of(found.recommended).total
    for text in (page(priced, found), printed(priced, found)):
        assert f"It costs {total:,.2f} in all" in text
        assert "of money" in text


def test_a_floor_that_nobody_beats_is_a_warning(result: BacktestResult) -> None:
    high = dataclasses.replace(result, floor=dataclasses.replace(result.floor, score=0.99))
    said = words.floor(answer(high))
    assert said is not None
    assert said.startswith("Beware: the no-change rule")
    assert "Beware" in page(high, answer(high))


def test_the_declared_policy_may_be_the_right_one(result: BacktestResult, found: Answer) -> None:
    right = dataclasses.replace(result, present=found.recommended)
    assert words.present(answer(right)) == "The declared policy is the recommended one: keep it."


def test_a_result_that_was_kept_as_json_has_the_same_answer(result: BacktestResult) -> None:
    again = BacktestResult.from_json(result.to_json())
    assert answer(again) == answer(result)
