"""Results of a run as the report gets them: a realistic one, an empty one, and a nasty one."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from typing import Any

__all__ = ["NASTY_TEXT", "empty", "nasty", "realistic"]

NASTY_TEXT = "<script>alert('x')</script><img src=x onerror=alert(1)> & \"Söhne\""
FIRST, LAST = datetime(2010, 12, 1, 8, 26, tzinfo=UTC), datetime(2011, 12, 9, 12, 50, tzinfo=UTC)


def empty() -> dict[str, Any]:
    """Return results in which every part is there and holds nothing."""
    return {
        "workspace": {"name": "new shop", "currency": "EUR", "zone": "Europe/Berlin"},
        "made_at": "2026-07-27T10:00:00+02:00",
        "version": "0.1.0",
        "rows_in": 0,
        "rows_kept": 0,
        "rows_quarantined": 0,
        "quarantine": {},
        "findings": [],
        "users": 0,
        "items": 0,
        "events": 0,
        "event_types": {},
        "activity": {},
        "funnel": {"steps": []},
        "retention": {"cohorts": []},
        "tasks": [],
        "lifetimes": None,
        "segments": [],
        "recommendations": {},
        "decisions": {},
    }


def realistic() -> dict[str, Any]:
    """Return results that look like a year of a British gift wholesaler."""
    return {
        "workspace": {"name": "Online Retail", "currency": "GBP", "zone": "Europe/London"},
        "made_at": "2026-07-27T14:05:00+00:00",
        "version": "0.1.0",
        "seconds": 41.3,
        "span": [FIRST.isoformat(), LAST.isoformat()],
        **_quality(),
        "users": 4_372,
        "items": 3_684,
        "events": 401_604,
        "event_types": {"purchase": 392_732, "return": 8_872},
        "activity": _activity(),
        "funnel": _funnel(),
        "retention": _retention(),
        "tasks": [_buys(), _leaves(), _spends(), _skipped()],
        "lifetimes": {
            "model": "BG/NBD + Gamma-Gamma",
            "parameters": {"r": 0.243, "alpha": 4.414, "a": 0.793, "b": 2.426},
            "rmse": 1.603,
            "bias": -0.089,
            "ours": {"rmse": 1.571, "bias": -0.021},
        },
        "segments": _segments(),
        "recommendations": _recommendations(),
        "decisions": _decisions(),
    }


def _quality() -> dict[str, Any]:
    line = {
        "InvoiceNo": "536409",
        "StockCode": "21866",
        "Description": "UNION JACK FLAG LUGGAGE TAG",
        "Quantity": 1,
        "InvoiceDate": "2010-12-01 11:45:00",
        "UnitPrice": 1.25,
        "CustomerID": 17908,
        "Country": "United Kingdom",
    }
    nobody = {**line, "InvoiceNo": "536414", "CustomerID": None, "UnitPrice": 0.0, "Quantity": 56}
    back = {**line, "InvoiceNo": "C536379", "Description": "Discount", "Quantity": -1}
    reasons = {"missing user": 135_037, "exact duplicate": 5_268}
    reasons |= {"negative price": 2, "unreadable time": 41}
    aside = sum(reasons.values())
    examples = {"exact duplicate": line, "missing user": nobody}
    findings = [
        _finding(name, rows, "set aside", examples.get(name)) for name, rows in reasons.items()
    ]
    findings += [
        _finding("cancellation lines", 9_288, "kept as event type “return”", back),
        _finding("returns linked to their purchase", 7_214, "kept and linked", None),
        _finding("price outlier", 388, "kept and marked", {**line, "UnitPrice": 295.0}),
    ]
    return {
        "rows_in": 541_909,
        "rows_kept": 541_909 - aside,
        "rows_quarantined": aside,
        "quarantine": reasons,
        "findings": findings,
    }


def _finding(name: str, rows: int, done: str, example: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "source": "orders",
        "name": name,
        "rows": rows,
        "share": rows / 541_909,
        "done": done,
        "examples": [json.dumps(example)] * 2 if example else [],
    }


def _activity() -> dict[str, Any]:
    start = datetime(2010, 11, 29, tzinfo=UTC)
    weeks = range(54)
    wave = [1 + 0.013 * w + 0.12 * math.sin(w / 2.1) + 0.07 * math.cos(w * 1.7) for w in weeks]
    wave = [
        v * (1.35 if 40 <= w <= 51 else 0.35 if w in (4, 5) else 1)
        for w, v in zip(weeks, wave, strict=True)
    ]
    wave[-1] *= 0.55
    return {
        "unit": "week",
        "start": [(start + timedelta(weeks=w)).isoformat() for w in weeks],
        "users": [round(205 * v) for v in wave],
        "events": {
            "purchase": [round(5_300 * v) for v in wave],
            "return": [
                round(130 * v * (1 + 0.3 * math.sin(w))) for w, v in zip(weeks, wave, strict=True)
            ],
        },
        "value": [
            round(112_400 * v * (1 + 0.1 * math.sin(w * 1.3)), 2)
            for w, v in zip(weeks, wave, strict=True)
        ],
    }


def _funnel() -> dict[str, Any]:
    steps = [
        ("first order", 4_339, None),
        ("second order", 2_845, 11.4),
        ("third order", 2_008, 16.2),
    ]
    rows = []
    first = 0
    for name, users, days in steps:
        first = first or users
        rate = users / first
        spread = 1.96 * math.sqrt(rate * (1 - rate) / first)
        rows.append(
            {
                "event": name,
                "users": users,
                "conversion": rate,
                "low": rate - spread,
                "high": rate + spread,
                "median_seconds": None if days is None else days * 86_400,
            }
        )
    return {"steps": rows, "within": "90d", "order": "ordered"}


def _retention() -> dict[str, Any]:
    sizes = (885, 417, 380, 452, 300, 284, 242, 188, 169, 299, 358, 324, 41)
    cohorts = []
    for i, size in enumerate(sizes):
        level = 0.37 if i == 0 else 0.22
        later = [level * (1 + 0.16 * math.sin(k + i)) + 0.006 * k for k in range(1, len(sizes) - i)]
        start = datetime(2010 + (11 + i) // 12, (11 + i) % 12 + 1, 1, tzinfo=UTC)
        cohorts.append({"start": start.isoformat(), "size": size, "rates": [1.0, *later]})
    return {"unit": "month", "cohorts": cohorts}


def lift_table(rates: list[float], weight: float) -> dict[str, list[float]]:
    """Return a lift table as the metrics write it, from the rate in each tenth."""
    base = sum(rates) / 10
    sums = [sum(rates[: i + 1]) for i in range(10)]
    return {
        "weight": [weight] * 10,
        "total": [r * weight for r in rates],
        "rate": rates,
        "lift": [r / base for r in rates],
        "cumulative_lift": [s / (i + 1) / base for i, s in enumerate(sums)],
        "cumulative_share": [s / sums[-1] for s in sums],
    }


def _range(value: float, half: float) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half, "level": 0.95}


def _figures(auroc: float, precision: float, **more: float) -> dict[str, float]:
    known = {"auroc": auroc, "average_precision": precision, "accuracy": 0.781, "precision": 0.554}
    known |= {"recall": 0.602, "f1": 0.577, "log_loss": 0.471, "brier": 0.152, "ece": 0.017}
    return {**known, "top_decile_lift": 3.1, "threshold": 0.34, **more}


def _reliability(predicted: list[float], off: float) -> dict[str, list[float]]:
    observed = [min(0.99, p * (1 + off * math.sin(4 * p + i))) for i, p in enumerate(predicted)]
    spread = [1.96 * math.sqrt(o * (1 - o) / 350) for o in observed]
    return {
        "weight": [350.0] * len(predicted),
        "predicted": predicted,
        "observed": observed,
        "low": [max(0.0, o - s) for o, s in zip(observed, spread, strict=True)],
        "high": [min(1.0, o + s) for o, s in zip(observed, spread, strict=True)],
    }


def _folds(*figures: dict[str, float]) -> list[dict[str, Any]]:
    days = (
        datetime(2011, 9, 10, tzinfo=UTC),
        datetime(2011, 10, 10, tzinfo=UTC),
        datetime(2011, 11, 9, tzinfo=UTC),
    )
    return [
        {
            "cutoff": int(day.timestamp() * 1_000_000),
            "train_rows": 9_412 + 2_350 * i,
            "rows": 2_214 + 188 * i,
            "positives": 640 + 41 * i,
            **f,
        }
        for i, (day, f) in enumerate(zip(days, figures, strict=False))
    ]


def _card(name: str, ask: str, title: str, answer: str) -> dict[str, Any]:
    return {
        "task": name,
        "ask": ask,
        "title": title,
        "answer": answer,
        "rows": 21_874,
        "users": 3_912,
        "positives": 6_180,
        "folds": 3,
        "protocol": "3 forward folds, purge 30d, horizon 30d, up to 12 training cutoffs a fold, "
        "metrics over all test rows, intervals by bootstrap over users",
        "data_hash": "b3f1c0a97d42e6518c0f",
        "seed": 7,
        "sample": 1.0,
        "champion": "trees",
        "champions": ["logistic", "trees", "trees"],
        "calibration": "platt",
    }


def _driver(words: str, share: float, direction: float) -> dict[str, Any]:
    return {
        "feature": words.replace(" ", "_"),
        "words": words,
        "share": share,
        "direction": direction,
    }


def _drivers() -> list[dict[str, Any]]:
    return [
        _driver("days since the last purchase", 0.24, -0.93),
        _driver("number of purchases in the last 90 days", 0.17, 0.91),
        _driver("days since the last purchase, relative to the user's usual gap", 0.12, -0.71),
        _driver("total value of purchases in the last 30 days", 0.08, 0.66),
        _driver("days with purchases", 0.07, 0.88),
        _driver("number of different categories in purchases in the last 90 days", 0.05, 0.44),
        _driver("share of purchases at the weekend", 0.03, 0.05),
        _driver("number of returns in the last 90 days", 0.02, -0.38),
    ]


def _buys() -> dict[str, Any]:
    rates = [0.813, 0.594, 0.452, 0.348, 0.261, 0.203, 0.152, 0.111, 0.083, 0.049]
    baseline = {
        "base_rate": _figures(0.5, 0.307),
        "scorecard": _figures(0.703, 0.512),
        "rfm": _figures(0.741, 0.561),
    }
    return {
        **_card(
            "buys",
            "any(purchase) next 30d for any(*) last 180d",
            "Will buy in the next 30 days",
            "yes_no",
        ),
        "metrics": _figures(0.787, 0.634),
        "intervals": {"auroc": _range(0.787, 0.013), "average_precision": _range(0.634, 0.022)},
        "baseline": baseline,
        "margins": {
            "base_rate": {"auroc": _range(0.287, 0.013), "average_precision": _range(0.327, 0.02)},
            "scorecard": {"auroc": _range(0.084, 0.011), "average_precision": _range(0.122, 0.018)},
            "rfm": {"auroc": _range(0.046, 0.009), "average_precision": _range(0.073, 0.016)},
        },
        "models": {"logistic": _figures(0.779, 0.621), "trees": _figures(0.787, 0.634)},
        "by_fold": _folds(_figures(0.771, 0.61), _figures(0.789, 0.63), _figures(0.801, 0.66)),
        "lift": lift_table(rates, 720.0),
        "drivers": _drivers(),
        "reliability": _reliability(
            [0.03, 0.06, 0.09, 0.13, 0.18, 0.24, 0.32, 0.42, 0.55, 0.7, 0.84], 0.07
        ),
    }


def _leaves() -> dict[str, Any]:
    rates = [0.953, 0.911, 0.872, 0.801, 0.712, 0.641, 0.522, 0.418, 0.297, 0.131]
    return {
        **_card(
            "leaves",
            "none(purchase) next 60d for any(purchase) last 180d",
            "Silent for the next 60 days",
            "yes_no",
        ),
        "positives": 13_690,
        "metrics": _figures(0.796, 0.861),
        "intervals": {"auroc": _range(0.796, 0.014)},
        "baseline": {
            "base_rate": _figures(0.5, 0.626),
            "scorecard": _figures(0.781, 0.848),
            "rfm": _figures(0.789, 0.853),
        },
        "margins": {
            "base_rate": {"auroc": _range(0.296, 0.014)},
            "scorecard": {"auroc": _range(0.015, 0.009)},
            "rfm": {"auroc": _range(0.007, 0.011)},
        },
        "models": {},
        "by_fold": _folds(_figures(0.79, 0.85), _figures(0.8, 0.87)),
        "lift": lift_table(rates, 640.0),
        "drivers": [{**d, "direction": -d["direction"]} for d in _drivers()[:6]],
        "reliability": _reliability([0.12, 0.28, 0.41, 0.53, 0.63, 0.71, 0.8, 0.88, 0.95], 0.03),
    }


def _spends() -> dict[str, Any]:
    rates = [2_914.2, 812.6, 498.1, 341.7, 240.9, 171.0, 118.8, 74.2, 41.6, 17.3]
    figures = {
        "mae": 391.2,
        "rmse": 2_106.0,
        "bias": -0.031,
        "gini": 0.713,
        "top_decile_lift": 5.6,
        "r2": 0.41,
        "spearman": 0.52,
    }
    return {
        **_card(
            "spends",
            "sum(purchase.value) next 90d for any(purchase) last 180d",
            "Value of the next 90 days",
            "amount",
        ),
        "champion": "two_part",
        "metrics": figures,
        "intervals": {"rmse": _range(2_106, 390), "gini": _range(0.713, 0.03)},
        "baseline": {
            "mean": {**figures, "rmse": 2_744.0, "gini": 0.0},
            "always_zero": {**figures, "rmse": 2_803.0, "gini": None},
            "rfm": {**figures, "rmse": 2_330.0, "gini": 0.641},
        },
        "margins": {
            "mean": {"rmse": _range(-638, 210), "gini": _range(0.713, 0.03)},
            "rfm": {"rmse": _range(-224, 260), "gini": _range(0.072, 0.02)},
        },
        "models": {},
        "by_fold": _folds({"rmse": 2_011.0, "gini": 0.69}, {"rmse": 2_207.0, "gini": 0.73}),
        "lift": lift_table(rates, 640.0),
        "drivers": _drivers()[:5],
    }


def _skipped() -> dict[str, Any]:
    return {
        "task": "returns",
        "ask": "any(return) next 7d for any(purchase) last 7d",
        "skipped": "task 'returns': 19 of 1,204 rows are positive, too few before the first test; at least 30 are needed",
    }


def _segments() -> list[dict[str, Any]]:
    rows = [
        (
            "Champions",
            "bought in the last 30 days, 6 or more orders",
            612,
            4_720_000.0,
            0.06,
            11,
            13.4,
        ),
        ("Loyal", "4 or more orders, bought in the last 90 days", 803, 1_820_000.0, 0.02, 38, 6.1),
        ("New", "first order in the last 30 days", 324, 164_000.0, 0.31, 14, 1.0),
        ("Promising", "1 to 3 orders, bought in the last 90 days", 897, 592_000.0, -0.04, 49, 1.9),
        (
            "At risk",
            "used to buy often, silent for twice the usual gap",
            588,
            741_000.0,
            0.11,
            121,
            4.2,
        ),
        ("Asleep", "no order for 180 days", 1_148, 263_000.0, -0.02, 259, 1.3),
    ]
    total = sum(r[3] for r in rows)
    return [
        {
            "name": name,
            "rule": rule,
            "users": users,
            "share": users / 4_372,
            "value": value,
            "value_share": value / total,
            "trend": trend,
            "recency": recency,
            "frequency": frequency,
        }
        for name, rule, users, value, trend, recency, frequency in rows
    ]


def _recommendations() -> dict[str, Any]:
    models = [
        ("buy again", 0.412, 0.231, 0.318, 0.74),
        ("item to item", 0.287, 0.148, 0.241, 0.61),
        ("popular lately", 0.169, 0.083, 0.131, 0.02),
    ]
    offers = [
        (
            "RED HANGING HEART T-LIGHT HOLDER",
            "item_to_item",
            "Bought by many who bought WHITE HANGING HEART T-LIGHT HOLDER.",
        ),
        (
            "JUMBO BAG RED RETROSPOT",
            "buy_again",
            "Bought 4 times, about every 40 days; the last time was 38 days ago.",
        ),
        ("REGENCY CAKESTAND 3 TIER", "popular_lately", "Much bought in the last two weeks."),
    ]
    return {
        "evaluation": {
            "protocol": "one forward cutoff, 30 days ahead, 1,873 users with a purchase after it, all items ranked",
            "data_hash": "b3f1c0a97d42e6518c0f",
            "models": [
                {"name": n, "hr@10": h, "ndcg@10": d, "recall@20": r, "coverage": c}
                for n, h, d, r, c in models
            ],
        },
        "samples": [
            {
                "user": user,
                "history": history,
                "items": [
                    {"item": f"2{i}", "name": n, "score": 0.8 - i / 5, "source": s, "reason": w}
                    for i, (n, s, w) in enumerate(offers[: 2 + (user != "18283")])
                ],
            }
            for user, history in (
                (
                    "17850",
                    [
                        "WHITE HANGING HEART T-LIGHT HOLDER",
                        "WHITE METAL LANTERN",
                        "KNITTED UNION FLAG HOT WATER BOTTLE",
                    ],
                ),
                (
                    "13047",
                    [
                        "ASSORTED COLOUR BIRD ORNAMENT",
                        "POPPY'S PLAYHOUSE BEDROOM",
                        "IVORY KNITTED MUG COSY",
                        "BOX OF 6 ASSORTED COLOUR TEASPOONS",
                    ],
                ),
                ("18283", []),
            )
        ],
    }


def _decisions() -> dict[str, Any]:
    hours = {
        str(h): n
        for h, n in zip(
            range(7, 21),
            (9, 41, 118, 190, 204, 241, 226, 188, 171, 129, 66, 31, 22, 9),
            strict=True,
        )
    }
    samples = [
        (
            "17850",
            "push",
            "RED HANGING HEART T-LIGHT HOLDER",
            10,
            0.62,
            2.71,
            0.05,
            "Likely to buy (62 %); buys every 24 days and the last time was 22 days ago.",
        ),
        (
            "13047",
            "push",
            "JUMBO BAG RED RETROSPOT",
            12,
            0.41,
            1.64,
            0.05,
            "Opens offers about noon; this item runs out about now.",
        ),
        ("12346", "silent", None, None, 0.02, -0.03, 0.0, "A message would earn 2p and cost 5p."),
        ("14911", "holdout", None, None, 0.71, 0.0, 0.0, "Held back by lot to measure the effect."),
    ]
    return {
        "push": 1_645,
        "users": 4_372,
        "silent": 2_727,
        "holdout": 437,
        "explore": 81,
        "expected_profit": 3_184.2,
        "cost": 82.25,
        "budget": None,
        "lift_assumed": 0.1,
        "margin": 0.3,
        "excluded": 0,
        "notes": ["No budget was set: every message that pays is sent."],
        "by_hour": hours,
        "by_segment": [
            {
                "segment": "Champions",
                "push": 541,
                "silent": 10,
                "holdout": 61,
                "expected_profit": 2_011.4,
            },
            {
                "segment": "Loyal",
                "push": 690,
                "silent": 33,
                "holdout": 80,
                "expected_profit": 884.9,
            },
            {
                "segment": "At risk",
                "push": 214,
                "silent": 315,
                "holdout": 59,
                "expected_profit": 172.0,
            },
        ],
        "samples": [
            dict(
                zip(
                    (
                        "user",
                        "action",
                        "item",
                        "hour",
                        "probability",
                        "expected_profit",
                        "cost",
                        "reason",
                    ),
                    s,
                    strict=True,
                )
            )
            for s in samples
        ],
    }


def nasty() -> dict[str, Any]:
    """Return results with markup and Chinese in every name, and figures that are missing, NaN or infinite."""
    results: dict[str, Any] = _spoil(realistic())
    results["workspace"] = {"name": NASTY_TEXT, "currency": "CNY<b>", "zone": "Mars/Olympus"}
    results["users"] = 0
    results["activity"]["events"] = {
        "浏览商品": [float("nan"), *([3] * 53)],
        NASTY_TEXT: [1] * 54,
        "short": [1],
    }
    results["funnel"]["steps"][0]["users"] = 100
    results["funnel"]["steps"][0]["event"] = "浏览"
    results["quarantine"] = {NASTY_TEXT: 7, "缺少用户": float("nan"), "odd": "many"}
    results["segments"][0]["name"] = "高价值客户"
    results["decisions"]["by_hour"] = {"25": 3, "x": 1, "9": float("inf"), "10": 4}
    results["tasks"] += [
        {"task": "购买", "ask": "any(购买) next 30d"},
        {"task": "x", "skipped": None},
        7,
        {},
    ]
    results["made_at"] = "yesterday"
    results["span"] = [None, "soon"]
    results["rows_in"], results["seconds"] = 541_909, 10**400
    return results


def _spoil(x: Any, turn: int = 0) -> Any:
    """Return the same shape with bad figures and texts: every third number NaN, infinite or missing."""
    if isinstance(x, dict):
        return {k: _spoil(v, turn + i) for i, (k, v) in enumerate(x.items())}
    if isinstance(x, list):
        return [_spoil(v, turn + i) for i, v in enumerate(x)]
    if isinstance(x, str):
        return f"{x} {NASTY_TEXT}\x00\ud800" if "next" not in x and "-" not in x else x
    if isinstance(x, int | float):
        return (float("nan"), x, x, float("inf"), x, x, None, x, x)[turn % 9]
    return x
