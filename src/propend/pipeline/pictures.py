"""An answer as one HTML file: its picture as inline SVG, its table, and the JSON it was made from."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from html import escape
from typing import Any, Final

__all__ = ["as_page", "picture", "table_of"]

WIDE: Final = 860
_STYLE: Final = """
:root{color-scheme:light dark;--ink:#1d2733;--soft:#6b7785;--line:#d8dee6;--bar:#2f6fb3;--warm:#c2571a;--paper:#fff}
@media(prefers-color-scheme:dark){:root{--ink:#e6ebf0;--soft:#9aa7b4;--line:#36414d;--bar:#6aa5e3;--warm:#f0955a;--paper:#12171d}}
body{font:15px/1.5 system-ui,sans-serif;max-width:56rem;margin:2rem auto;padding:0 1rem;color:var(--ink);background:var(--paper)}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;margin:1rem 0}td,th{padding:.25rem .6rem;border-bottom:1px solid var(--line);text-align:right}
td{white-space:nowrap}td:first-child,th:first-child{text-align:left;white-space:normal}svg{width:100%;height:auto}svg text{font:12px system-ui,sans-serif;fill:var(--ink)}.soft{color:var(--soft)}
"""

Row = list[Any]
_EMPTY: Final = {
    "why": ("feature", "words", "value", "effect", "low", "high", "measure", "converters", "others", "p_value", "q_value"),
    "paths": ("path", "sessions", "share", "low", "high"),
    "sankey": ("step", "source", "target", "sessions"),
}  # fmt: skip
"""The header of a table in which nothing was found."""


def table_of(kind: str, d: dict[str, Any]) -> tuple[list[str], list[Row]]:
    """Return the answer as a flat table, header and rows: what ``--csv`` writes.

    >>> table_of("funnel", {"steps": [{"event": "view", "users": 3, "histogram": [1]}]})
    (['event', 'users'], [['view', 3]])
    """
    makers: dict[str, Callable[[dict[str, Any]], list[dict[str, Any]]]] = {
        "funnel": _funnel_rows,
        "compared": lambda d: [
            {**s, **dict(zip(d["sides"], s["conversion"], strict=True))} for s in d["steps"]
        ],
        "retention": _retention_rows,
        "survival": lambda d: _zip(d, ("time", "share", "low", "high", "at_risk")),
        "paths": lambda d: [{**p, "path": " > ".join(p["path"])} for p in d["paths"]],
        "sankey": lambda d: d["links"],
        "trend": _trend_rows,
        "lifecycle": lambda d: _zip(
            d, ("start", "new", "returning", "resurrected", "dormant", "active")
        ),
        "attribution": lambda d: [
            {"channel": c["channel"], "touches": c["touches"], **c["conversions"]}
            for c in d["channels"]
        ],
        "why": lambda d: d["differences"],
        "aida": lambda d: d["stages"],
    }
    records = [
        {k: v for k, v in r.items() if not isinstance(v, list | dict)} for r in makers[kind](d)
    ]
    header = list(dict.fromkeys(k for r in records for k in r)) or list(_EMPTY.get(kind, ()))
    return header, [[r.get(k) for k in header] for r in records]


def _funnel_rows(d: dict[str, Any]) -> list[dict[str, Any]]:
    """Return steps with their quartiles, group by group with the test against the rest, and the histogram on the last step."""
    groups = [{"group": "(all)", "steps": d["steps"]}, *d.get("groups", [])]
    found = []
    for g in groups:
        tested = {f"{k}_against_rest": v for k, v in g.get("against_rest", {}).items()}
        for s in g["steps"]:
            quartiles = dict(
                zip(
                    ("first_quartile_seconds", "third_quartile_seconds"),
                    s.get("quartile_seconds", ()),
                    strict=False,
                )
            )
            found.append(
                {**({"group": g["group"]} if "groups" in d else {}), **s, **quartiles, **tested}
            )
    took = d.get("time_to_convert")
    if took is not None:
        edges = took["edges"]
        for i, n in enumerate(took["counts"]):
            found[len(d["steps"]) - 1][f"took_{edges[i]:.6g}_to_{edges[i + 1]:.6g}_seconds"] = n
    return found


def _retention_rows(d: dict[str, Any]) -> list[dict[str, Any]]:
    names = [f"{a}-{b}d" for a, b in d["brackets"]] if "brackets" in d else None
    rows = []
    for c in d["cohorts"]:
        labels = names or [str(k) for k in range(len(c["rates"]))]
        rows.append(
            {"start": c["start"], "size": c["size"], **dict(zip(labels, c["rates"], strict=True))}
        )
    return rows


def _trend_rows(d: dict[str, Any]) -> list[dict[str, Any]]:
    first, last = d["whole"]
    rows = []
    for i, start in enumerate(d["start"]):
        whole = first <= i < last
        row = {"start": start, "value": d["values"][i], "whole": whole}
        row["adjusted"] = d["adjusted"][i - first] if whole else None
        rows.append({**row, **{g: v[i] for g, v in d.get("groups", {}).items()}})
    return rows


def _zip(d: dict[str, Any], names: Sequence[str]) -> list[dict[str, Any]]:
    return [dict(zip(names, row, strict=True)) for row in zip(*(d[n] for n in names), strict=True)]


def as_page(kind: str, title: str, d: dict[str, Any]) -> str:
    """Return the answer as HTML that opens offline and needs nothing else.

    >>> "<svg" in as_page("funnel", "Funnel", {"steps": [{"event": "view", "users": 3, "conversion": 1.0}]})
    True
    """
    header, rows = table_of(kind, d)
    cells = "".join(
        "<tr>"
        + "".join(f"<td>{escape(_cell(v, h))}</td>" for v, h in zip(row, header, strict=True))
        + "</tr>"
        for row in rows[:400]
    )
    if len(rows) > 400:
        cells += f'<tr><td colspan="{len(header)}">… and {len(rows) - 400:,} more rows; --csv writes them all</td></tr>'
    heads = "".join(f"<th>{escape(h.replace('_', ' '))}</th>" for h in header)
    note = f'<p class="soft">{escape(str(d["note"]))}</p>' if "note" in d else ""
    data = json.dumps(d, ensure_ascii=False).replace("<", "\\u003c")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style><h1>{escape(title)}</h1>{picture(kind, d)}{note}"
        f"<table><thead><tr>{heads}</tr></thead><tbody>{cells}</tbody></table>"
        f'<script type="application/json" id="data">{data}</script></html>'
    )


_SHARES: Final = (
    "conversion",
    "low",
    "high",
    "share",
    "rate",
    "from_previous",
    "difference",
    "mean_probability",
)


def _cell(value: Any, column: str = "") -> str:
    """Return a cell for a person: shares in per cent, times in words.

    >>> _cell(0.25, "from_previous_low"), _cell(5400.0, "median_seconds"), _cell(1234.5), _cell(True)
    ('25.0 %', '1.5 h', '1,234', 'yes')
    """
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float) and column.endswith("_seconds"):
        units = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))
        unit, size = next((u for u in units if value >= u[1]), units[-1])
        return f"{value / size:.1f} {unit}"
    if isinstance(value, float):
        if column.removesuffix("_low").removesuffix("_high") in _SHARES or column.isdigit():
            return f"{100 * value:.1f} %"
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def picture(kind: str, d: dict[str, Any]) -> str:
    """Return the answer's picture as inline SVG; colours are the page's variables (``--ink``, ``--bar``, ``--warm``, ``--line``).

    >>> picture("funnel", {"steps": [{"event": "view", "users": 3, "conversion": 1.0}]})[:4]
    '<svg'
    """
    if kind == "funnel":
        return _bars([(s["event"], s["users"], s["conversion"]) for s in d["steps"]])
    if kind == "compared":
        sides = [(s["event"], s["conversion"]) for s in d["steps"]]
        return _bars(
            [(f"{e}, {n}", c[i], None) for e, c in sides for i, n in enumerate(("after", "before"))]
        )
    if kind == "attribution":
        rows = [(c["channel"], max(c["conversions"]["shapley"], 0.0), None) for c in d["channels"]]
        return _bars(rows)
    if kind == "paths":
        return _bars([(" → ".join(p["path"]), p["sessions"], p["share"]) for p in d["paths"][:12]])
    if kind == "aida":
        return _bars([(s["stage"], s["users"], None) for s in d["stages"]])
    if kind == "why":
        return _bars([(r["words"], abs(r["effect"]), None) for r in d["differences"][:12]])
    if kind == "retention":
        return _heat(d)
    if kind == "sankey":
        return _sankey(d)
    if kind == "survival":
        return _lines([("share still waiting", d["share"])], d["time"])
    if kind == "lifecycle":  # a period that the log covers in part would look like a fall
        upto = len(d["start"]) - (not d.get("last_period_complete", True))
        names = ("new", "returning", "resurrected", "dormant")
        return _lines([(k, d[k][:upto]) for k in names], d["start"][:upto])
    marked = {a["start"] for a in d.get("anomalies", ())}
    first, last = d["whole"]
    series = [(d["measure"], d["values"]), *list(d.get("groups", {}).items())[:5]]
    return _lines([(n, v[first:last]) for n, v in series], d["start"][first:last], marked)


def _svg(height: float, body: str, label: str) -> str:
    return f'<svg viewBox="0 0 {WIDE} {height:.0f}" role="img" aria-label="{escape(label)}">{body}</svg>'


def _bars(rows: Sequence[tuple[str, float, float | None]]) -> str:
    most = max((r[1] for r in rows), default=0) or 1
    body = []
    for i, (name, size, share) in enumerate(rows):
        y, width = i * 34, 430 * size / most
        said = f"{size:,.0f}" if size >= 10 else f"{size:.3g}"
        said += f" · {100 * share:.1f} %" if share is not None else ""
        short = name if len(name) <= 44 else name[:43] + "…"
        body.append(
            f'<text x="270" y="{y + 20}" text-anchor="end">{escape(short)}</text>'
            f'<rect x="280" y="{y + 5}" width="{max(width, 1):.1f}" height="22" rx="2" fill="var(--bar)"/>'
            f'<text x="{288 + width:.1f}" y="{y + 20}">{said}</text>'
        )
    return _svg(max(34 * len(rows), 34), "".join(body), "bars")


def _lines(
    series: Sequence[tuple[str, Sequence[float | None]]], x: Sequence[Any], marked: Any = ()
) -> str:
    values = [v for _, ys in series for v in ys if v is not None]
    low, high = min(0.0, *values, 0.0), max(values, default=1.0) or 1.0
    n = max(len(x) - 1, 1)

    def at(i: int, v: float) -> tuple[float, float]:
        return 60 + 780 * i / n, 230 - 200 * (v - low) / max(high - low, 1e-12)

    colours = ("var(--bar)", "var(--warm)", "#4a9a6a", "#8a8f98", "#8d63b5", "#b08d1e")
    step = 780 / max(len(series), 1)
    room = int(step / 7)
    body = [
        f'<text x="54" y="34" text-anchor="end">{high:,.4g}</text><text x="54" y="234" text-anchor="end">{low:,.4g}</text>'
    ]
    body.append('<line x1="60" x2="840" y1="230" y2="230" stroke="var(--line)"/>')
    for s, (name, ys) in enumerate(series):
        points = [at(i, v) for i, v in enumerate(ys) if v is not None]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        body.append(
            f'<polyline points="{path}" fill="none" stroke="{colours[s % 6]}" stroke-width="2"/>'
        )
        body.append(
            f'<text x="{60 + step * s:.0f}" y="14" style="fill:{colours[s % 6]}">{escape(name if len(name) <= room else name[: room - 1] + "…")}</text>'
        )
    for i, start in enumerate(x):
        v = series[0][1][i]
        if start in marked and v is not None:
            a, b = at(i, v)
            body.append(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="5" fill="var(--warm)"/>')
    if len(x):
        first, last = (v if isinstance(v, str) else f"{v:.4g}" for v in (x[0], x[-1]))
        body.append(
            f'<text x="60" y="250">{escape(first)}</text><text x="840" y="250" text-anchor="end">{escape(last)}</text>'
        )
    return _svg(258, "".join(body), "lines over time")


def _heat(d: dict[str, Any]) -> str:
    cohorts = [c for c in d["cohorts"] if c["size"]][-24:]
    begun = 0 if "brackets" in d else 1  # everyone is there in their own period
    later = [r for c in cohorts for r in c["rates"][begun:] if r is not None]
    most = max(later, default=1.0) or 1.0
    columns = max((len(c["rates"]) for c in cohorts), default=1)
    wide = min(60.0, 720 / max(columns, 1))
    body = []
    for i, c in enumerate(cohorts):
        body.append(f'<text x="0" y="{i * 24 + 38}">{c["start"]} ({c["size"]:,})</text>')
        for k, rate in enumerate(c["rates"]):
            if rate is None:
                continue
            x, depth = 135 + k * wide, 0.08 + 0.72 * min(rate / most, 1.0) * (k >= begun)
            body.append(
                f'<rect x="{x:.1f}" y="{i * 24 + 22}" width="{wide - 1:.1f}" height="22" fill="var(--bar)" opacity="{depth:.3f}"/>'
            )
            if wide >= 30:
                light = ' style="fill:var(--paper)"' if depth > 0.5 else ""
                body.append(
                    f'<text x="{x + wide / 2:.1f}" y="{i * 24 + 38}" text-anchor="middle"{light}>{100 * rate:.0f}</text>'
                )
    names = (
        [f"{a}–{b}" for a, b in d["brackets"]]
        if "brackets" in d
        else [str(k) for k in range(columns)]
    )
    if wide >= 30:
        body += [
            f'<text x="{135 + k * wide + wide / 2:.1f}" y="14" text-anchor="middle">{n}</text>'
            for k, n in enumerate(names)
        ]
    return _svg(24 * len(cohorts) + 28, "".join(body), "retention in per cent by cohort")


def _sankey(d: dict[str, Any]) -> str:
    """Draw links as ribbons between columns of nodes; a node's height is its traffic."""
    depth = max((link["step"] for link in d["links"]), default=0)
    if not depth:
        return ""
    total = max(d["sessions"], 1)
    wide, scale = 700 / depth, 300 / total
    tops: dict[tuple[int, str], float] = {}
    left: dict[tuple[int, str], float] = {}
    body, low = [], 0.0
    for step in range(depth + 1):
        size: dict[str, int] = {d["anchor"]: total} if step == 0 else {}
        for link in d["links"]:
            if step and link["step"] == step:
                size[link["target"]] = size.get(link["target"], 0) + link["sessions"]
        y = 10.0
        for name, n in sorted(size.items(), key=lambda kv: (-kv[1], kv[0])):
            tops[step, name] = left[step, name] = y
            high = max(n * scale, 1.0)
            body.append(
                f'<rect x="{step * wide:.1f}" y="{y:.1f}" width="10" height="{high:.1f}" fill="var(--ink)"/>'
            )
            if high > 9:
                body.append(
                    f'<text x="{step * wide + 14:.1f}" y="{y + high / 2 + 4:.1f}">{escape(name)} {n:,}</text>'
                )
            y += high + 6
        low = max(low, y)
    for link in d["links"]:
        a, b = (link["step"] - 1, link["source"]), (link["step"], link["target"])
        if a not in left:
            continue
        high = link["sessions"] * scale
        x0, x1, y0, y1 = a[0] * wide + 10, b[0] * wide, left[a] + high / 2, tops[b] + high / 2
        left[a] += high
        tops[b] += high
        half = (x0 + x1) / 2
        body.append(
            f'<path d="M{x0:.1f},{y0:.1f} C{half:.1f},{y0:.1f} {half:.1f},{y1:.1f} {x1:.1f},{y1:.1f}" fill="none" stroke="var(--bar)" stroke-opacity=".35" stroke-width="{max(high, 0.5):.1f}"/>'
        )
    return _svg(low + 8, "".join(body), f"what happens {d['direction']} {d['anchor']}")
