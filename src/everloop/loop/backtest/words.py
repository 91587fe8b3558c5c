"""An answer in sentences, for the terminal and the page alike. Calculates nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator

from everloop.loop.backtest.answer import Answer, Judged, Pays, WhatIf
from everloop.loop.backtest.budget import Budget
from everloop.loop.backtest.choosing import ERRORS
from everloop.loop.backtest.result import BacktestResult


def figure(value: float | None) -> str:
    """A score: four decimals, or five significant figures where it is large.

    >>> figure(0.81234567), figure(61.2345), figure(1234.5), figure(None)
    ('0.8123', '61.234', '1234.5', '–')
    """
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.5g}"


def gap(value: float | None) -> str:
    """A difference of scores, unsigned: two significant figures, plain.

    >>> gap(0.01239), gap(-0.4), gap(12.34), gap(0.0), gap(float("inf"))
    ('0.012', '0.4', '12', '0', 'unknown')
    """
    if value is None or not math.isfinite(value):
        return "unknown"
    size = abs(value)
    if size < 1e-12:
        return "0"
    places = max(0, 1 - math.floor(math.log10(size)))
    text = f"{size:.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def cost(value: float, answer: Answer) -> str:
    """What something costs, with its unit."""
    if answer.unit == "money":
        return f"{value:,.2f}"
    return f"{value:,.0f} retrain{'' if value == 1 else 's'}"


def amount(value: float | None, answer: Answer) -> str:
    """A difference between policies in the unit that they are judged by."""
    if answer.judged_by == "score" or value is None or not math.isfinite(value):
        return gap(value)
    return f"{abs(value):,.2f} of money"


def why(answer: Answer) -> Iterator[str]:
    """Why this one is recommended, and how sure that is: the first paragraph of the answer."""
    chosen = answer.of(answer.recommended)
    count, all_ = len(answer.indistinct), len(answer.policies)
    if chosen.total is not None:
        yield (
            f"It costs {chosen.total:,.2f} in all, {chosen.cost:,.2f} of it for retraining and the rest for errors: the least "
            f"of {all_}{'' if answer.budget is None else ' that the budget allows'}. It scores {figure(chosen.score)}."
        )
    elif all_ == 1:
        yield f"It is the only one that was tried. It scores {figure(chosen.score)} with {cost(chosen.cost, answer)}."
    elif answer.budget is not None:
        yield _within(answer.budget, chosen, answer)
    else:
        yield from _at_any_cost(chosen, answer)
    if all_ == 1:
        return
    if answer.windows < 8:
        yield f"{answer.windows} windows tell no two policies apart: take this as a guess."
        return
    sure = f"{1 - answer.alpha:.0%}"
    if count == 1:
        yield f"The {answer.windows} windows tell {_of_best(chosen, answer)} from all others ({sure})."
    else:
        yield (
            f"The {answer.windows} windows cannot tell {'two' if count == 2 else count} of {all_} apart from the best ({sure})"
            f"{'' if chosen.indistinct else '; the recommended one is not among them'}."
        )
    if chosen.place != answer.best or count > 1:
        yield (
            f"The recommended one is behind the truly best by at most {amount(chosen.behind_at_most, answer)} ({sure}, for all "
            "policies together)."
        )


def _of_best(chosen: Judged, answer: Answer) -> str:
    return "it" if chosen.place == answer.best else f"the best, {answer.of(answer.best).name},"


def _within(budget: Budget, chosen: Judged, answer: Answer) -> str:
    """The recommended one beside all that the budget allows."""
    allowed = sum(budget.holds(each.cost) for each in answer.policies)
    if not budget.holds(chosen.cost):
        return (
            f"It scores {figure(chosen.score)} with {cost(chosen.cost, answer)}. No policy costs as little as "
            f"{limit(budget, answer)}: this is the best of the cheapest."
        )
    said = f"It scores {figure(chosen.score)} with {cost(chosen.cost, answer)}"
    if allowed == 1:
        return f"{said}, and is the only one of {len(answer.policies)} that costs no more than {limit(budget, answer)}."
    return f"{said}, the best of the {allowed} that cost no more than {limit(budget, answer)}."


def limit(budget: Budget, answer: Answer) -> str:
    """What a budget allows, in words."""
    most = cost(budget.cost, answer)
    match budget.source:
        case "declared":
            return f"the declared policy ({most})"
        case "month":
            return f"a retrain every four weeks ({most})"
        case "asked":
            return f"the budget that was asked for ({most})"


def _at_any_cost(chosen: Judged, answer: Answer) -> Iterator[str]:
    best = answer.of(answer.best)
    if chosen.place == best.place:
        yield f"It scores {figure(chosen.score)}, the best of {len(answer.policies)}, with {cost(chosen.cost, answer)}."
        if any(each.cost < chosen.cost for each in answer.policies):
            yield "Every cheaper one looks worse by more than chance explains easily (one standard error)."
        return
    yield (
        f"It scores {figure(chosen.score)} with {cost(chosen.cost, answer)}. The best looking one, {best.name}, scores "
        f"{figure(best.score)} with {cost(best.cost, answer)}: better by {gap(chosen.behind)}, less than "
        f"{'one standard error' if ERRORS == 1 else f'{ERRORS:g} standard errors'} of the difference. Of all that are as near, "
        "the recommended one is the cheapest."
    )


def otherwise(answer: Answer) -> str | None:
    """What more money would bring, and what less would lose: the neighbours of the recommended one."""
    if answer.budget is None or len(answer.policies) == 1:
        return None
    chosen, dear, cheap = (answer.of(each) for each in (answer.recommended, answer.at_any_cost, answer.thrifty))
    said = []
    if dear.place != chosen.place:
        said.append(
            f"The best at any cost, {dear.name}, scores {figure(dear.score)}: {gain(chosen, dear, answer)} better for "
            f"{cost(dear.cost - chosen.cost, answer)} more."
        )
    else:
        said.append("No budget would bring more that chance does not explain easily.")
    if cheap.place != chosen.place:
        said.append(
            f"{cheap.name[:1].upper()}{cheap.name[1:]} saves {cost(chosen.cost - cheap.cost, answer)} and scores {figure(cheap.score)}: "
            f"{gain(cheap, chosen, answer)} worse, within one standard error."
        )
    return " ".join(said)


def gain(worse: Judged, better: Judged, answer: Answer) -> str:
    """By how much one is better than another, unsigned."""
    return amount(worse.behind - better.behind, answer)


def present(answer: Answer) -> str | None:
    """What the declared policy loses."""
    if answer.present is None or answer.present_loses is None:
        return None
    if answer.present == answer.recommended:
        return "The declared policy is the recommended one: keep it."
    now, chosen = answer.of(answer.present), answer.of(answer.recommended)
    loses, error = answer.present_loses, answer.present_error
    side = "worse" if loses > 0 else "better"
    doubt = "" if error is None or not math.isfinite(error) else f" (standard error {amount(error, answer)})"
    change = "equal in score" if abs(loses) < 1e-12 else f"{gap(loses)} {side} than the recommended one{doubt}"
    return (
        f"The declared policy, {now.name}, scores {figure(now.score)} with {cost(now.cost, answer)}: {change}, which needs "
        f"{cost(chosen.cost, answer)}."
    )


def floor(answer: Answer) -> str | None:
    """What no model at all would have scored."""
    if answer.floor is None:
        return None
    chosen = answer.of(answer.recommended)
    better = chosen.score > answer.floor if answer.greater_is_better else chosen.score < answer.floor
    rule = f"The no-change rule (of each row, the newest label that was known by then) scores {figure(answer.floor)}"
    if better:
        return f"{rule}."
    return (
        f"Beware: {rule[0].lower()}{rule[1:]}, no worse than the recommended policy. Do labels really come that soon? If "
        "not, say so (Label.delay) and ask again; if they do, the newest label is worth more than these features."
    )


def could_have(answer: Answer) -> str | None:
    """The best schedule known afterwards, beside the recommended policy."""
    if answer.possible is None:
        return None
    best, chosen = answer.possible.best, answer.of(answer.recommended)
    words = (
        f"The best schedule that could have been, known only afterwards, scores {figure(best.score)} with {best.retrains} "
        f"retrains{'' if answer.adds_up else ' (mean of the windows)'}; the recommended policy is {gap(chosen.regret)} behind it."
    )
    if chosen.regret_moments is not None and chosen.regret is not None and chosen.regret > 0:
        words += (
            f" Better moments alone, with its own training window and as many retrains, would have brought "
            f"{gap(max(chosen.regret_moments, 0.0))}."
        )
    return words


def half_time(answer: Answer, result: BacktestResult) -> str | None:
    """The same rule, asked halfway through, held against what came."""
    half = answer.half_time
    if half is None:
        return None
    names = {each.place: each.name for each in answer.policies}
    words = (
        f"Asked at half-time ({result.windows[half.window].since:%Y-%m-%d}), the same rule would have recommended "
        f"{names[half.chosen]}. In the second half that scored {figure(half.score)}, "
    )
    words += (
        "the best of all"
        if half.rank == 1
        else f"place {half.rank} of {len(answer.policies)}; the best there, {names[half.best]}, {figure(half.best_score)}"
    )
    others = [("never retraining", half.never), ("the declared policy", half.present)]
    told = [f"{name} {figure(score)}" for name, score in others if score is not None]
    return f"{words}; {' and '.join(told)}." if told else f"{words}."


def worst(judged: Judged, result: BacktestResult) -> str:
    """When a policy was at its worst, and how bad."""
    if judged.worst_score is None or not 0 <= judged.worst_window < len(result.windows):
        return "–"
    return f"{figure(judged.worst_score)} ({result.windows[judged.worst_window].since:%Y-%m-%d})"


def pays(each: Pays, answer: Answer) -> str:
    """Between which prices of a retrain this policy is the right one."""
    if each.errors_above is not None and each.errors_below is not None:
        low, high, unit = each.errors_above, each.errors_below, "wrong predictions"
    else:
        low, high, unit = each.above, each.below, f"of {answer.metric.replace('_', ' ')} over the whole history"
    thing = "a retrain" if answer.unit == "retrains" else "one unit of money"
    if low <= 0 and not math.isfinite(high):
        return f"whatever {thing} costs"
    if low <= 0:
        return f"{thing} costs less than {gap(high)} {unit}"
    if not math.isfinite(high):
        return f"{thing} costs more than {gap(low)} {unit}"
    return f"{thing} costs {gap(low)} to {gap(high)} {unit}"


def fits_of(each: WhatIf) -> str:
    """What a what-if needed."""
    if each.new_fits is None:
        return "–"
    return "none: the same fits" if each.new_fits == 0 else f"{each.new_fits:,} new fits"
