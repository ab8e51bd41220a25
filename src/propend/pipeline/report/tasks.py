"""Each task: what was asked, how good the answer is against simple rules, and what drives it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from propend.learn.metrics import AT_THRESHOLD
from propend.pipeline.report import charts
from propend.pipeline.report.formats import DASH, Formats, count, decimal, percent
from propend.pipeline.report.outcomes import Outcome, outcome
from propend.pipeline.report.values import View, number, numbers, part, records, text

__all__ = ["advantage", "average", "best_tenth", "view"]

NAMES: Final = {
    "always_zero": "Zero for everyone",
    "bg_nbd": "BG/NBD (the rhythm of purchases)",
    "blend": "straight lines and trees, blended",
    "base_rate": "The same chance for everyone",
    "fusion": "boosted trees that read the behaviour model too",
    "hazard": "hazard by logistic regression",
    "hazard_trees": "hazard by boosted trees",
    "kaplan_meier": "The same waiting time for everyone",
    "linear": "linear regression",
    "logistic": "logistic regression",
    "mean": "The average for everyone",
    "rfm": "RFM score (recency, frequency, money)",
    "scorecard": "Recency alone (days since the last time)",
    "trees": "boosted trees",
    "two_part": "two-part model",
}
MOST_DRIVERS: Final = 10
_AT_THRESHOLD: Final = ("threshold", *AT_THRESHOLD)


@dataclass(frozen=True)
class Measure:
    """A figure by which a task is judged."""

    key: str
    label: str
    higher: bool = True
    """Whether more is better."""
    floor: float = 0.0
    """What a guess gets."""
    better: str = "Ranks users better than"
    not_better: str = "Does not rank users better than"
    scale: str = "0 = by chance, 1 = perfect"


_ERROR: Final = Measure(
    "rmse",
    "Error (RMSE)",
    higher=False,
    better="Comes closer to the true amounts than",
    not_better="Does not come closer to the true amounts than",
)
_YES_NO: Final = (
    Measure("auroc", "Ranking (AUROC)", floor=0.5, scale="0.5 = a coin, 1 = perfect"),
    Measure("average_precision", "Average precision"),
)
_AMOUNT: Final = (Measure("gini", "Ranking (Gini)"), _ERROR)
_WHICH: Final = (
    Measure(
        "top_1", "Likeliest answer right", better="Names the right answer more often than",
        not_better="Does not name the right answer more often than", scale="1 = always",
    ),
    Measure("top_3", "Right answer among three", scale="1 = always"),
)  # fmt: skip
_TIME: Final = (
    Measure(
        "c_index", "Ranking in time (C-index)", floor=0.5, better="Ranks who comes sooner better than",
        not_better="Does not rank who comes sooner better than", scale="0.5 = a coin, 1 = perfect",
    ),
)  # fmt: skip
_MEASURES: Final[dict[str, tuple[Measure, ...]]] = {
    "amount": _AMOUNT,
    "count": _AMOUNT,
    "which": _WHICH,
    "time": _TIME,
}


def view(results: dict[str, Any], of: Formats) -> View:
    """Return every task's card in words, and the lifetimes model beside them."""
    cards = records(results.get("tasks"))
    lifetimes = _lifetimes(part(results, "lifetimes"))
    if not cards and not lifetimes:
        return {"missing": "No question about the future was asked in this run."}
    made = [_task(i, card, of) for i, card in enumerate(cards)]
    return {"tasks": made, "lifetimes": lifetimes}


def _task(i: int, card: dict[str, Any], of: Formats) -> View:
    words = outcome(card)
    if "skipped" in card:
        return {
            "words": words,
            "skipped": text(card["skipped"], 400) or "It was left out of this run.",
        }
    measures = _MEASURES.get(text(card.get("answer")), _YES_NO)
    write = _writer(card, of)
    return {
        "words": words,
        "ask": text(card.get("ask"), 240),
        "headline": best_tenth(card, words, of),
        "reach": _reach(card, words),
        "ranking": _ranking(card, words),
        "verdicts": _verdicts(card, measures, of),
        "rivals": _rivals(card, measures, of),
        "measures": measures,
        "lift": _lift(i, card, words, write),
        "reliability": _reliability(i, card),
        "drivers": _drivers(card, words),
        "folds": _folds(card, measures, of),
        "metrics": _metrics(card),
        "rules": [NAMES.get(name, text(name, 60)) for name in part(card, "baseline")],
        "small": _small(card),
    }


def _writer(card: dict[str, Any], of: Formats) -> charts.Write:
    """Return how this task's answers are written: money, a count or a chance."""
    answer = card.get("answer")
    return of.money if answer == "amount" else _plain if answer == "count" else percent


def _plain(x: Any) -> str:
    return decimal(x, 2)


# ---- the sentences


def best_tenth(card: dict[str, Any], words: Outcome, of: Formats) -> View | None:
    """Return the first thing to say: what the best tenth did, against the average."""
    lift = part(card, "lift")
    write = _writer(card, of)
    rates, lifts = numbers(lift.get("rate")), numbers(lift.get("lift"))
    if not rates or rates[0] is None:
        return None
    times = lifts[0] if lifts else None
    overall = average(lift)
    rest = (
        f", {decimal(times, 1)} times the average ({write(overall)})" if times and overall else ""
    )
    if words.kind == "amount":
        said = f"The 10\u202f% of users we rank highest were each worth {write(rates[0])} {words.within}".rstrip()
    else:
        said = f"{_top(words)} {write(rates[0])} {words.did} {words.within}".rstrip()
    return {"times": times, "rate": rates[0], "average": overall, "sentence": f"{said}{rest}."}


def _top(words: Outcome) -> str:
    if words.kind == "silent":
        return "Of the 10\u202f% of users we see most at risk,"
    return "Of the 10\u202f% of users we rank highest,"


def average(lift: dict[str, Any]) -> float | None:
    """Return the overall rate of a lift table."""
    pairs = zip(numbers(lift.get("total")), numbers(lift.get("weight")), strict=False)
    known = [(t, w) for t, w in pairs if t is not None and w is not None]
    mass = sum(w for _, w in known)
    return sum(t for t, _ in known) / mass if mass > 0 else None


def _reach(card: dict[str, Any], words: Outcome) -> str:
    shares = numbers(part(card, "lift").get("cumulative_share"))
    if len(shares) < 3 or shares[2] is None:
        return ""
    what = "of all the money" if words.kind == "amount" else f"of all {words.who}"
    return f"The top 30\u202f% hold {percent(shares[2])} {what}."


def _ranking(card: dict[str, Any], words: Outcome) -> str:
    value = number(part(card, "metrics").get("auroc"))
    if words.kind == "amount" or value is None:
        return ""
    return (
        f"Shown one user who {words.did} and one who {words.others}, the model tells them apart "
        f"{100 * value:.0f} times in 100; a coin gets 50."
    )


def advantage(card: dict[str, Any]) -> View | None:
    """Return the smallest advantage over any simple rule: rule, value, interval, and whether it is beyond noise."""
    return _advantage(card, _MEASURES.get(text(card.get("answer")), _YES_NO)[0])


def _advantage(card: dict[str, Any], measure: Measure) -> View | None:
    sign = 1.0 if measure.higher else -1.0
    found: list[View] = []
    for name, figures in part(card, "margins").items():
        got = part(figures, measure.key)
        value, low, high = (number(got.get(k)) for k in ("value", "low", "high"))
        if value is None or low is None or high is None:
            continue
        edges = sorted((sign * low, sign * high))
        found.append({"rule": name, "value": sign * value, "low": edges[0], "high": edges[1]})
    if not found:
        return None
    worst = min(found, key=lambda f: f["value"])
    return {**worst, "beats": worst["low"] > 0, "loses": worst["high"] < 0}


def _verdicts(card: dict[str, Any], measures: tuple[Measure, ...], of: Formats) -> list[View]:
    """Return the judgement on the ranking, and for amounts on the size of the error too."""
    return [_verdict(card, m, of) for m in (measures if measures is _AMOUNT else measures[:1])]


def _verdict(card: dict[str, Any], measure: Measure, of: Formats) -> View:
    """Return the honest judgement against the best simple rule."""
    got = _advantage(card, measure)
    if got is None:
        return {
            "tone": "plain",
            "sentence": "It could not be compared with a simple rule, so treat it with care.",
        }
    rule = _rule(got["rule"])
    interval = _interval(got, measure, _figures(card, measure, of))
    if got["beats"]:
        return {
            "tone": "good",
            "sentence": f"{measure.better} the best simple rule ({rule}), beyond noise. {interval}.",
        }
    if got["loses"]:
        return {
            "tone": "bad",
            "sentence": f"{measure.not_better} a simple rule ({rule}): it is worse. {interval}. Use the rule.",
        }
    return {
        "tone": "bad",
        "sentence": f"{measure.not_better} a simple rule ({rule}) beyond noise. {interval}. The rule may serve as well.",
    }


def _interval(got: View, measure: Measure, write: charts.Write) -> str:
    """Return an advantage with its range; for an error, less is the advantage."""
    if measure.higher:
        value, low, high = got["value"], got["low"], got["high"]
    else:
        value, low, high = -got["value"], -got["high"], -got["low"]
    shown = partial(_signed, write=write)
    return f"{measure.label} {shown(value)}, 95\u202f% range {shown(low)} to {shown(high)}"


def _rule(name: str) -> str:
    found = NAMES.get(name, text(name, 60)).split(" (")[0]
    return found if found.startswith("RFM") else found[:1].lower() + found[1:]


def _signed(x: float, write: charts.Write) -> str:
    return ("+\u2060" if x >= 0 else "") + write(x)


def _figures(card: dict[str, Any], measure: Measure, of: Formats) -> charts.Write:
    """Return how a measure's figures are written: an error of money is money."""
    money = measure.key == "rmse" and card.get("answer") == "amount"
    return of.money if money else decimal


# ---- figures side by side


def _rivals(card: dict[str, Any], measures: tuple[Measure, ...], of: Formats) -> list[View]:
    """Return the model and each simple rule on the same measures, best first within the rules."""
    first = measures[0]
    champion = text(card.get("champion"), 60)
    ours: View = {
        "name": f"Propend ({NAMES.get(champion, champion)})" if champion else "Propend",
        "ours": True,
        "interval": part(part(card, "intervals"), first.key),
        "figures": [number(part(card, "metrics").get(m.key)) for m in measures],
    }
    figured = part(card, "baseline")
    rules: list[View] = [
        {
            "name": NAMES.get(name, text(name, 60)),
            "ours": False,
            "interval": {},
            "figures": [number(part(figured, name).get(m.key)) for m in measures],
        }
        for name in figured
    ]
    rules.sort(key=lambda r: -(r["figures"][0] if r["figures"][0] is not None else -9.0))
    rows = [ours, *rules]
    for row in rows:
        row["shown"] = [
            _figures(card, m, of)(x) for m, x in zip(measures, row["figures"], strict=True)
        ]
        row["width"] = _width(row["figures"][0], first.floor)
        row["low"] = _width(number(row["interval"].get("low")), first.floor)
        row["high"] = _width(number(row["interval"].get("high")), first.floor)
    return rows


def _width(x: float | None, floor: float) -> float | None:
    return None if x is None else max(0.0, min(1.0, (x - floor) / (1 - floor)))


def _lift(i: int, card: dict[str, Any], words: Outcome, write: charts.Write) -> View | None:
    lift = part(card, "lift")
    rates = numbers(lift.get("rate"))
    if not any(r is not None for r in rates):
        return None
    overall = average(lift)
    last = rates[-1]
    what = "worth" if words.kind == "amount" else words.did
    caption = (
        f"Users ranked by the model and cut into tenths: in the best tenth {write(rates[0])} {what}"
    )
    if words.kind == "amount":
        caption = f"Users ranked by the model and cut into tenths: the best tenth were worth {write(rates[0])} each"
    caption += (
        f", in the last {write(last)}." if words.kind != "amount" else f", the last {write(last)}."
    )
    svg = charts.lift(rates, overall, key=f"lift{i}", alt=caption, write=write)
    return {"svg": svg, "caption": f"{caption} The steeper the steps, the better the ranking."}


def _reliability(i: int, card: dict[str, Any]) -> View | None:
    table = part(card, "reliability")
    columns = [numbers(table.get(k)) for k in ("predicted", "observed", "low", "high")]
    rows = [
        (p, o, o if low is None else low, o if high is None else high)
        for p, o, low, high in zip(*columns, strict=False)
        if p is not None and o is not None
    ]
    if not rows:
        return None
    predicted, observed, low_, high_ = (list(c) for c in zip(*rows, strict=True))
    error = number(part(card, "metrics").get("ece"))
    at = max(range(len(predicted)), key=lambda j: predicted[j])
    caption = (
        f"Chances given against what happened: in the group given {percent(predicted[at])}, "
        f"{percent(observed[at])} came true."
    )
    if error is not None:
        caption += (
            f" On average the chances are off by {decimal(100 * error, 1)} percentage points."
        )
    svg = charts.reliability(
        predicted, observed, low_, high_, key=f"reliability{i}", alt=caption, write=percent
    )
    return {"svg": svg, "caption": f"{caption} Dots on the dashed line mean a promise kept."}


def _drivers(card: dict[str, Any], words: Outcome) -> list[View]:
    rows = [d for d in records(card.get("drivers")) if number(d.get("share"))][:MOST_DRIVERS]
    most = max((number(d["share"]) or 0.0 for d in rows), default=1.0) or 1.0
    return [
        {
            "words": text(d.get("words")) or text(d.get("feature")),
            "feature": text(d.get("feature"), 240),
            "share": number(d["share"]),
            "width": max(0.0, (number(d["share"]) or 0.0) / most),
            **_direction(number(d.get("direction")) or 0.0, words),
        }
        for d in rows
    ]


def _direction(direction: float, words: Outcome) -> View:
    effect = {
        "silent": "likelier to leave",
        "amount": "more",
        "happens": "likelier",
        "label": "likelier",
    }[words.kind]
    if direction > 0.3:
        return {"way": "up", "means": f"the higher, the {effect}"}
    if direction < -0.3:
        return {"way": "down", "means": f"the lower, the {effect}"}
    return {"way": "mixed", "means": "in both directions"}


# ---- small print


def _folds(card: dict[str, Any], measures: tuple[Measure, ...], of: Formats) -> list[View]:
    return [
        {
            "day": of.day(fold.get("cutoff")),
            "train_rows": number(fold.get("train_rows")),
            "rows": number(fold.get("rows")),
            "positives": number(fold.get("positives")),
            "figures": [_figures(card, m, of)(fold.get(m.key)) for m in measures],
        }
        for fold in records(card.get("by_fold"))
    ]


def _metrics(card: dict[str, Any]) -> list[View]:
    """Return every metric of the champion, with its interval and each rule's figure; a threshold before what is taken at it."""
    rules = part(card, "baseline")
    rows = []
    figures = part(card, "metrics")
    order = [key for key in figures if key not in _AT_THRESHOLD]
    order += [key for key in _AT_THRESHOLD if key in figures]
    for key in order:
        value = figures[key]
        got = part(part(card, "intervals"), key)
        low, high = number(got.get("low")), number(got.get("high"))
        rows.append(
            {
                "name": text(key, 40).replace("_", " ")
                + (" at its threshold" if key in AT_THRESHOLD else ""),
                "value": number(value),
                "interval": f"{decimal(low)} … {decimal(high)}" if low is not None else DASH,
                "rules": [number(part(rules, name).get(key)) for name in rules],
            }
        )
    return rows


def _small(card: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [
        ("Question", text(card.get("ask"), 240)),
        (
            "Rows, users, positives",
            ", ".join(count(card.get(k)) for k in ("rows", "users", "positives")),
        ),
        ("Protocol", text(card.get("protocol"), 400)),
        ("Model", NAMES.get(text(card.get("champion")), text(card.get("champion")))),
        ("Model chosen per fold", ", ".join(text(c, 40) for c in card.get("champions") or [])),
        ("Behaviour model", text(part(card, "behaviour").get("sentence"), 400)),
        ("Calibration", text(card.get("calibration"), 40)),
        ("Data hash", text(card.get("data_hash"), 80)),
        ("Seed", text(card.get("seed"), 20)),
        ("Sample of users", percent(card.get("sample"))),
    ]
    return [(name, value) for name, value in rows if value and value != DASH]


def _lifetimes(lifetimes: dict[str, Any]) -> View | None:
    if not lifetimes:
        return None
    ours = part(lifetimes, "ours")
    classic, mine = number(lifetimes.get("rmse")), number(ours.get("rmse"))
    off, own = number(lifetimes.get("bias")), number(ours.get("bias"))
    verdict = ""
    if classic is not None and mine is not None:
        close = abs(mine / classic - 1) < 0.02 if classic else False
        way = (
            "about as close per customer as"
            if close
            else "closer per customer than"
            if mine < classic
            else "further off per customer than"
        )
        verdict = f"Propend's own forecast is {way} this classic model"
        if off is not None and own is not None:
            verdict += f"; its total is off by {percent(own)}, the classic's by {percent(off)}"
        verdict += "."
    return {
        "model": NAMES.get(text(lifetimes.get("model")), text(lifetimes.get("model"), 80)).split(
            " ("
        )[0],
        "verdict": verdict,
        "rows": [
            ("The classic model", classic, number(lifetimes.get("bias"))),
            ("Propend", mine, number(ours.get("bias"))),
        ],
        "parameters": [
            (text(k, 30), number(v))
            for k, v in part(lifetimes, "parameters").items()
            if number(v) is not None
        ],
    }
