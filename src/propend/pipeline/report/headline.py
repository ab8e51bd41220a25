"""The first screen: the handful of things a marketing manager wants to know."""

from __future__ import annotations

from typing import Any

from propend.pipeline.report import decisions, tasks
from propend.pipeline.report.formats import Formats, count, decimal, many, percent
from propend.pipeline.report.outcomes import Outcome, outcome
from propend.pipeline.report.values import View, number, part, records, text

__all__ = ["view"]


def view(results: dict[str, Any], of: Formats) -> View:
    """Return the lead sentence and up to six cards: a question, a figure, a sentence, a section to read on."""
    answered = [(c, outcome(c)) for c in records(results.get("tasks")) if "skipped" not in c]
    cards = [
        _buyers(answered, of),
        _leavers(answered),
        _reach(results),
        _profit(results, of),
        _best(results),
        _data(results),
    ]
    return {"lead": _lead(results, of), "cards": [c for c in cards if c]}


def _lead(results: dict[str, Any], of: Formats) -> str:
    users, events = number(results.get("users")), number(results.get("events"))
    if not users:
        return "No users were found in the data of this run, so there is nothing to predict yet."
    parts = [many(users, "customer")]
    parts += [many(events, "event")] if events else []
    parts += [many(results.get("items"), "item")] if number(results.get("items")) else []
    said = ", ".join(parts[:-1]) + (" and " if parts[1:] else "") + parts[-1]
    span = results.get("span")
    if (
        isinstance(span, list | tuple)
        and len(span) == 2
        and of.local(span[0])
        and of.local(span[1])
    ):
        said += f", from {of.day(span[0])} to {of.day(span[1])}"
    return f"{said}."


def _card(label: str, figure: str, sentence: str, to: str, tone: str = "") -> View:
    return {"label": label, "figure": figure, "sentence": sentence, "to": to, "tone": tone}


def _buyers(answered: list[tuple[dict[str, Any], Outcome]], of: Formats) -> View | None:
    """Return who will buy: how much better the best tenth is than the average."""
    found = next(((c, w) for c, w in answered if w.kind in ("happens", "label")), None)
    if found is None:
        return None
    card, words = found
    top = tasks.best_tenth(card, words, of)
    if top is None or top["times"] is None:
        return None
    noisy = (tasks.advantage(card) or {"beats": True})["beats"] is False
    sentence = top["sentence"] + (" But a simple rule does as well." if noisy else "")
    label = "Who will buy?" if words.did == "bought" else words.title
    return _card(
        label, f"{decimal(top['times'], 1)}×", sentence, "tasks", "bad" if noisy else "good"
    )


def _leavers(answered: list[tuple[dict[str, Any], Outcome]]) -> View | None:
    """Return who is leaving: how many of those asked about do, and how well they can be told."""
    found = next(((c, w) for c, w in answered if w.kind == "silent"), None)
    if found is None:
        return None
    card, words = found
    lift = part(card, "lift")
    rate = tasks.average(lift)
    if rate is None:
        return None
    sentence = f"of those we asked about {words.did} {words.within}".rstrip() + "."
    rates = lift.get("rate")
    first = number(rates[0]) if isinstance(rates, list) and rates else None
    if first is not None:
        sentence += f" Of the 10\u202f% most at risk it is {percent(first)}."
    return _card("Who is leaving?", percent(rate), sentence, "tasks", "warm")


def _reach(results: dict[str, Any]) -> View | None:
    made = part(results, "decisions")
    if number(made.get("push")) is None:
        return None
    users = decisions.split(made)
    sentence = (
        f"people are worth a message now. Leave {count(users['silent'])} in peace; {count(users['holdout'])} are held back at "
        "random to measure the effect."
    )
    return _card("Whom to reach?", count(users["push"]), sentence, "decisions")


def _profit(results: dict[str, Any], of: Formats) -> View | None:
    made = part(results, "decisions")
    profit = number(made.get("expected_profit"))
    if profit is None:
        return None
    cost, lift = number(made.get("cost")), number(made.get("lift_assumed"))
    after = f" after {of.money(cost)} of cost" if cost is not None else ""
    if_ = f", if messages lift buying by {percent(lift)}" if lift is not None else ""
    sentence = (
        f"expected from these messages{after}{if_} – assumed until the holdout has measured it."
    )
    return _card("What does it earn?", of.money(profit), sentence, "decisions")


def _best(results: dict[str, Any]) -> View | None:
    """Return the segment that brings the most for its size."""
    rows = [
        s
        for s in records(results.get("segments"))
        if number(s.get("share")) and number(s.get("value_share")) is not None
    ]
    if not rows:
        return None
    best = max(rows, key=lambda s: number(s["value_share"]) or 0.0)
    sentence = f"of the money comes from “{text(best.get('name'), 60)}”, {percent(best['share'])} of users."
    return _card("Who matters most?", percent(best["value_share"]), sentence, "segments")


def _data(results: dict[str, Any]) -> View | None:
    rows, aside = number(results.get("rows_in")), number(results.get("rows_quarantined"))
    if not rows or aside is None:
        return None
    reasons = part(results, "quarantine")
    worst = max(reasons, key=lambda k: number(reasons[k]) or 0.0, default="")
    sentence = f"of {many(rows, 'row')} could not be used"
    n = number(reasons.get(worst))
    sentence += f", most often for one reason: {text(worst, 60)} ({count(n)})." if n else "."
    if aside == 0:
        sentence = f"of {many(rows, 'row')} had to be set aside: the data is clean."
    return _card("What was wrong with the data?", percent(aside / rows, 1), sentence, "quality")
