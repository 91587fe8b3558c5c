"""One self-contained HTML page of a backtest, for somebody who has never seen everloop. Reads a result and its answer."""

from __future__ import annotations

import html
from collections.abc import Iterator

from everloop.loop.backtest import plots, words
from everloop.loop.backtest.answer import Answer, Judged
from everloop.loop.backtest.result import BacktestResult
from everloop.loop.page import AMBER, BLUE, GOOD, MUTED, document, pictured, table, tiles

MOST_ROWS = 60
"""Policies in the table; a search may have tried hundreds."""

STYLE = """
.answer { background: #fff; border: 1px solid #cfe5da; border-left: 6px solid #1a7f5a; border-radius: 8px;
  padding: 14px 18px; margin: 16px 0; }
.answer h2 { margin: 0 0 6px; font-size: 20px; } .answer p { margin: 6px 0; }
pre { background: #1d2733; color: #e9eef3; border-radius: 6px; padding: 10px 12px; overflow-x: auto; font-size: 13px;
  white-space: pre-wrap; }
tr.chosen td { background: #eef8f3; } tr.far td { color: #6b7785; }
.bar { display: inline-block; height: 8px; border-radius: 2px; vertical-align: middle; }
.wide { overflow-x: auto; } dt { font-weight: 600; margin-top: 8px; } dd { margin: 0 0 4px; color: #44505c; }
.key { display: inline-block; width: 10px; height: 10px; border-radius: 5px; margin: 0 4px 0 10px; vertical-align: -1px; }
small { color: #6b7785; } summary { cursor: pointer; color: #2f6fde; margin: 10px 0; }
"""


def page(result: BacktestResult, answer: Answer) -> str:
    """The whole report as HTML that needs nothing from outside."""
    gain, caption = plots.gain_plot(result, answer)
    body = [
        f"<h1>{_text(result.loop)}: which retraining policy would have been best?</h1>",
        f'<p class="lead">{_lead(result, answer)}</p>',
        _recommendation(result, answer),
        _tiles(result, answer),
        "<h2>Quality and cost</h2>",
        pictured(plots.frontier_plot(result, answer), _frontier_caption(answer)),
        "<h2>Over time</h2>",
        pictured(
            plots.score_plot(result, answer),
            f"{answer.metric.replace('_', ' ')} of each window, predicted by whichever model would have been live; "
            "thick lines are means over neighbouring windows.",
        ),
        pictured(
            plots.retrain_plot(result, answer),
            "When each policy retrained. Green: over the windows it served, the new model was better than the one it "
            "replaced; amber: it was not; grey: unknown; a red cross: the gate turned it back.",
        ),
        pictured(gain, caption),
        "<h2>All policies</h2>",
        _policies(result, answer),
        *_prices(result, answer),
        *_what_if(answer),
        "<h2>What could have been won, and would you have known?</h2>",
        *(f"<p>{_text(each)}</p>" for each in (words.could_have(answer), words.half_time(answer, result)) if each),
        _worst(result, answer),
        "<h2>How to read this</h2>",
        _reading(result, answer),
    ]
    return document(f"everloop backtest: {result.loop}", body, style=STYLE)


def _text(value: object) -> str:
    return html.escape(str(value))


def _lead(result: BacktestResult, answer: Answer) -> str:
    first, last = result.windows[0].since, result.windows[-1].until
    fits = sum(1 for each in result.fits.values() if each.problem is None)
    seconds = result.seconds.get("total")
    took = f" in {seconds:,.0f} s" if seconds else ""
    return _text(
        f"{len(result.runs)} policies replayed over {len(result.windows)} windows, {first:%Y-%m-%d} to {last:%Y-%m-%d} "
        f"({answer.rows:,} labelled rows, labels {_delay(result)}), from {fits:,} fits{took}. Every window was predicted "
        "by the model that would have been live then, before any of its labels was known."
    )


def _delay(result: BacktestResult) -> str:
    days = result.delay.total_seconds() / 86_400
    return "at once" if not days else f"{days:g} days later" if days >= 1 else f"{days * 24:g} hours later"


def _recommendation(result: BacktestResult, answer: Answer) -> str:
    chosen = answer.of(answer.recommended)
    said = [" ".join(words.why(answer)), words.otherwise(answer), words.present(answer), words.floor(answer)]
    paragraphs = "".join(f"<p>{_text(each)}</p>" for each in said if each)
    return (
        f'<div class="answer"><h2>Recommended: {_text(chosen.name)}</h2>{paragraphs}'
        f"<p>To use it, put this between the parentheses of <code>el.Loop(…)</code>:</p><pre>{_text(chosen.line)}</pre></div>"
    )


def _tiles(result: BacktestResult, answer: Answer) -> str:
    chosen = answer.of(answer.recommended)
    metric = _text(answer.metric.replace("_", " "))
    run = result.runs[chosen.place]
    told = [
        (words.figure(chosen.score), f"{metric} of the recommended one"),
        (
            f"{run.costs.retrains:,}",
            f"retrains in {len(result.windows)} windows, {run.costs.seconds:,.0f} s of training",
        ),
    ]
    if answer.unit == "money":
        told.append((f"{chosen.cost:,.2f}", "for retraining"))
    if chosen.total is not None:
        told.append((f"{chosen.total:,.2f}", "in all, errors and retraining"))
    if answer.present is not None and answer.present != answer.recommended and answer.present_loses is not None:
        side = "the declared one is worse by" if answer.present_loses > 0 else "the declared one is better by"
        told.append((words.amount(answer.present_loses, answer), side))
    if answer.windows >= 8 and len(answer.policies) > 1:
        told.append((f"{len(answer.indistinct)} of {len(answer.policies)}", "cannot be told apart from the best"))
    if answer.possible is not None and answer.adds_up:
        told.append((words.figure(answer.possible.best.score), "the best possible schedule"))
    if answer.floor is not None:
        told.append((words.figure(answer.floor), "the no-change rule"))
    return tiles(told)


def _frontier_caption(answer: Answer) -> str:
    words_ = "Right: dearer. Up: better. Filled points are on the frontier: no policy beats them in both. "
    words_ += "A green ring: cannot be told apart from the best. "
    if answer.unit == "retrains" and answer.adds_up and answer.possible is not None:
        words_ += "Dashed: the best that any schedule with so many retrains could have reached. "
    if answer.budget is not None:
        words_ += f"The upright line is the budget, {words.limit(answer.budget, answer)}. "
    return words_ + f"Compared by {answer.yardstick}."


def _policies(result: BacktestResult, answer: Answer) -> str:
    money = answer.unit == "money"
    prices = [*(["cost"] if money else []), *(["in all"] if answer.judged_by == "money" else [])]
    numbers = ("score", "at most behind", "retrains", *prices, "never paid", "training", "regret")
    rows = [_policy(result, answer, each) for each in answer.policies[:MOST_ROWS]]
    whole = table(("policy", *numbers, "worst window", ""), rows, numbers=numbers)
    more = len(answer.policies) - MOST_ROWS
    rest = f"<p><small>And {more} with lower scores; --json has them all.</small></p>" if more > 0 else ""
    left = "".join(f'<p class="note">Left out: {_text(each)}</p>' for each in answer.left_out)
    common = f"<p><small>All of them: {_text(', '.join(answer.common))}.</small></p>" if answer.common else ""
    lines = "\n\n".join(f"# {each.name}\n{each.line}" for each in answer.policies[:MOST_ROWS])
    paste = f"<details><summary>Each of them as a line to paste into the declaration</summary><pre>{_text(lines)}</pre></details>"
    return f'<div class="wide">{whole}</div>{common}{rest}{left}{paste}'


def _policy(result: BacktestResult, answer: Answer, each: Judged) -> str:
    run = result.runs[each.place]
    costs = run.costs
    rejected = f" <small>({costs.rejected} turned back)</small>" if costs.rejected else ""
    numbers = [
        words.figure(each.score),
        words.amount(each.behind_at_most, answer).removesuffix(" of money"),
        f"{costs.retrains:,}{rejected}",
        *([f"{each.cost:,.2f}"] if answer.unit == "money" else []),
        *([f"{each.total:,.2f}"] if each.total is not None else []),
        f"{costs.never_paid:,}" if costs.released else "–",
        f"{costs.seconds:,.1f} s",
        "–" if each.regret is None else words.gap(max(each.regret, 0.0)),
    ]
    kind = "chosen" if each.place == answer.recommended else "" if each.indistinct else "far"
    return (
        f'<tr class="{kind}"><td>{_text(each.name)}</td>'
        + "".join(f'<td class="number">{value}</td>' for value in numbers)
        + f"<td>{_text(words.worst(each, result))}</td><td>{_tags(answer, each)}</td></tr>"
    )


def _tags(answer: Answer, each: Judged) -> str:
    tags: list[tuple[str, str]] = []
    if each.place == answer.recommended:
        tags.append(("recommended", GOOD))
    if each.place == answer.present:
        tags.append(("declared", AMBER))
    if each.place == answer.at_any_cost and each.place != answer.recommended:
        tags.append(("at any cost", BLUE))
    if each.place == answer.best and each.place not in (answer.recommended, answer.at_any_cost):
        tags.append(("best score", BLUE))
    if each.place == answer.knee and each.place != answer.recommended:
        tags.append(("knee", MUTED))
    if (
        each.indistinct
        and len(answer.policies) > 1
        and each.place not in (answer.recommended, answer.best, answer.at_any_cost)
    ):
        tags.append(("not told apart", BLUE))
    if each.dominated_by is not None:
        tags.append(("beaten in both", MUTED))
    return " ".join(f'<span class="tag" style="background:{colour}">{name}</span>' for name, colour in tags)


def _prices(result: BacktestResult, answer: Answer) -> Iterator[str]:
    if len(answer.pays) < 2:
        return
    yield "<h2>Which policy, if a retrain costs so much?</h2>"
    rows = [
        f"<tr{_chosen(each.place, answer)}><td>{_text(words.pays(each, answer))}</td><td>{_text(answer.of(each.place).name)}</td>"
        f'<td class="number">{words.figure(answer.of(each.place).score)}</td>'
        f'<td class="number">{_text(words.cost(answer.of(each.place).cost, answer))}</td></tr>'
        for each in answer.pays
    ]
    yield table(("if", "then", "score", "at"), rows, numbers=("score", "at"))
    yield (
        "<p><small>No new fit is needed to ask this: the price only moves the choice along the frontier. Policies that are not "
        "named here are best at no price.</small></p>"
    )


def _chosen(place: int, answer: Answer) -> str:
    return ' class="chosen"' if place == answer.recommended else ""


def _what_if(answer: Answer) -> Iterator[str]:
    if not answer.what_if:
        return
    yield "<h2>What if?</h2>"
    rows = [
        f"<tr><td>{_text(each.what)}</td><td>{_text(each.name)}{' <small>(another one)</small>' if each.changes else ''}</td>"
        f'<td class="number">{words.figure(each.score)}</td><td class="number">{_text(words.cost(each.cost, answer))}</td>'
        f'<td class="number">{words.figure(each.asked)}</td><td>{_text(words.fits_of(each))}</td></tr>'
        for each in answer.what_if
    ]
    numbers = ("score", "at", "today's would score")
    yield table(("what if", "recommended then", *numbers, "needed"), rows, numbers=numbers)


def _worst(result: BacktestResult, answer: Answer) -> str:
    """The recommended policy's worst window, and how the others fared in it."""
    chosen = answer.of(answer.recommended)
    if chosen.worst_score is None:
        return ""
    window = result.windows[chosen.worst_window]
    here = {
        each.place: next((one.score for one in result.runs[each.place].windows if one.window == window.index), None)
        for each in answer.policies
    }
    told = [score for score in here.values() if score is not None]
    if not told:
        return ""
    best = max(told) if answer.greater_is_better else min(told)
    sign = 1 if answer.greater_is_better else -1
    everybody = sign * best <= sign * chosen.score
    return (
        f"<p>The recommended policy's worst window began on {window.since:%Y-%m-%d}: {words.figure(chosen.worst_score)} over "
        f"{window.rows:,} rows. The best of all policies had {words.figure(best)} there"
        + (": a hard window for everybody, which no policy of these mends." if everybody else ".")
        + "</p>"
    )


def _rule(answer: Answer) -> str:
    if answer.judged_by == "money":
        return "The least money in all: retraining and errors together."
    free = "the cheapest policy of that set whose score is within one standard error of the best one's"
    if answer.budget is None:
        return f"{free[0].upper()}{free[1:]}."
    return (
        f"The best score that costs no more than {words.limit(answer.budget, answer)}. At any cost it would be {free}."
    )


def _reading(result: BacktestResult, answer: Answer) -> str:
    sure, metric = f"{1 - answer.alpha:.0%}", answer.metric.replace("_", " ")
    terms = {
        "policy": "When a model is made anew (the trigger), from which rows (the window), and what it must show before it serves "
        "(the gate).",
        "score": f"{answer.yardstick}. A window is predicted whole before any of its labels is known; scoring row by row with "
        "each label known at once would flatter every policy.",
        "at most behind": f"With {sure} for all policies together, no policy is further behind the truly best one than this. "
        f"From {answer.windows} windows drawn anew in blocks of about {answer.block:.0f}, the same draws for every policy, so that "
        "weeks that were hard for everybody do not count.",
        "cannot be told apart": f"The set that holds the truly best policy with {sure} (a model confidence set). A policy outside "
        "it is worse, not only unlucky. Strong dependence over a short history makes the set too small.",
        "recommended": _rule(answer),
        "never paid": "Retrains after which the old model would have done as well or better over the same windows.",
        "regret": "How far behind the best possible schedule, found afterwards by trying all of them over the fits that the "
        "policies share. Nobody could have known it."
        + ("" if answer.adds_up else f" By the mean of the windows' own {metric}, weighted by rows, for that adds up."),
        "no-change rule": "Says of each row whatever the newest label was that was known when the row came. What does not beat it "
        "has learned nothing but that neighbours are alike.",
    }
    listed = "".join(f"<dt>{name}</dt><dd>{_text(meaning)}</dd>" for name, meaning in terms.items())
    notes = "".join(f"<li>{_text(each)}</li>" for each in result.notes)
    seconds = [f"{name} {value:,.1f} s" for name, value in result.seconds.items() if name != "total"]
    took = f"<p><small>Where the time went: {_text(', '.join(seconds))}.</small></p>" if seconds else ""
    return f"<dl>{listed}</dl>{f'<ul>{notes}</ul>' if notes else ''}{took}"
