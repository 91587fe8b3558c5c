from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser

from everloop.loop.account import Account, Period
from everloop.loop.importance import Importance, Weight
from everloop.loop.report import page
from everloop.records import Decision, Verdict, Version

START = datetime(2024, 1, 1, tzinfo=UTC)


def account(periods: int = 30) -> Account:
    made = Account(loop="a<b", metric="log loss", greater_is_better=False, task="binary", started=START)
    made.ended = START + timedelta(days=periods)
    for day in range(periods):
        made.periods.append(
            Period(
                start=START + timedelta(days=day),
                end=START + timedelta(days=day + 1),
                rows=100,
                score=0.4 + day / 100 if day % 5 else None,
                champion=1 if day < 20 else 2,
                challenger=2 if 10 <= day < 20 else None,
                share=0.0 if day < 14 else 0.1,
                drift=day / 100,
            )
        )
    made.decisions.append(
        Decision(loop="a<b", at=START + timedelta(days=20), action="promoted", because="x < y & z", version=2)
    )
    made.marks.append((START + timedelta(days=9), "the world changes"))
    verdict = Verdict(outcome="first", promote=True, because="the first version")
    made.versions.append(
        Version(
            loop="a<b",
            number=1,
            package="f" * 64,
            snapshot="s",
            created_at=START,
            score=0.4,
            verdict=verdict,
            trigger="t",
        )
    )
    made.predictions = 3_000
    made.seconds = {"traffic": 1.0, "total": 2.0}
    return made


class Seen(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.outside += [
            value for name, value in attrs if name in ("src", "href") and value and not value.startswith("#")
        ]


def test_the_report_needs_nothing_from_outside_and_escapes_what_users_wrote() -> None:
    quantiles = (-1.0, -0.5, 0.0, 0.5, 1.0)
    weight = Weight(name="<b>miles</b>", mean=0.5, quantiles=quantiles)
    photo = Weight(name="<b>photo</b>", mean=0.4, quantiles=quantiles, parts=((0.1, 0.2), (0.0, 0.1)))
    letter = Weight(name="letter", mean=0.3, quantiles=quantiles, words=(("<s>", 0.2, 9), ("$5", -0.1, 2)))
    moved = Importance(
        loop="a<b", version=1, rows=9, method="its gradients", scale="log odds", subject="late",
        weights=(weight, photo, letter),
    )  # fmt: skip
    html = page(account(), moved)
    seen = Seen()
    seen.feed(html)
    assert seen.tags.count("svg") == 6
    assert seen.outside == []
    assert "a&lt;b" in html
    assert "&lt;b&gt;miles" in html
    assert "x &lt; y &amp; z" in html


def test_a_replay_of_nothing_has_a_report_too() -> None:
    assert "<h1>" in page(account(0))
