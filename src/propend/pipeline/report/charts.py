"""The charts that are drawn as inline SVG; their colours are the page's CSS variables, so they follow its theme."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Sequence
from html import escape
from typing import Any, Final

__all__ = ["lift", "reliability", "trend"]

INK: Final = "#0a0b01"
SOFT: Final = "#0a0b02"
LINE: Final = "#0a0b03"
ACCENT: Final = "#0a0b04"
MUTE: Final = "#0a0b05"
CARD: Final = "#0a0b06"
_THEME: Final = {
    INK: "var(--ink)",
    SOFT: "var(--soft)",
    LINE: "var(--line)",
    ACCENT: "var(--accent)",
    MUTE: "var(--mute)",
    CARD: "var(--card)",
}
"""Stand-in colours that matplotlib draws with, and the theme's colours that take their place."""

_STYLE: Final = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 8.5,
    "text.color": SOFT,
    "axes.edgecolor": LINE,
    "axes.labelcolor": SOFT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.major.pad": 5,
    "ytick.major.pad": 5,
    "axes.grid": False,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "lines.solid_capstyle": "round",
}

Write = Callable[[Any], str]


def trend(
    dates: Sequence[str],
    values: Sequence[float | None],
    *,
    key: str,
    alt: str,
    write: Write,
    unfinished: bool = False,
) -> str:
    """Return a line over time with its peak written on it; an unfinished last period is dashed.

    ``dates`` are the labels of the periods; ``write`` formats a value; ``key`` keeps ids apart on the page.
    """

    def draw(axes: Any) -> None:
        y = [float("nan") if v is None else v for v in values]
        x = list(range(len(y)))
        full = x[:-1] if unfinished and len(x) > 1 else x
        axes.fill_between(full, [y[i] for i in full], color=ACCENT, alpha=0.13, linewidth=0)
        axes.plot(full, [y[i] for i in full], color=ACCENT, linewidth=1.7)
        if len(full) < len(x):
            axes.plot(x[-2:], y[-2:], color=ACCENT, linewidth=1.3, linestyle=(0, (1.5, 2)))
        known = [i for i in full if values[i] is not None]
        if known:
            _peak(axes, max(known, key=lambda i: y[i]), y, len(x), write)
        top = max((v for v in values if v is not None), default=1.0)
        low = min(0.0, min((v for v in values if v is not None), default=0.0))
        axes.set_ylim(low * 1.1, max(top, 1e-9) * 1.3)
        axes.set_xlim(-0.2, max(len(x) - 0.8, 1))
        axes.set_yticks([])
        _ends(axes, dates)

    return _drawn(draw, 3.9, 1.35, key, alt)


def _peak(axes: Any, at: int, y: Sequence[float], n: int, write: Write) -> None:
    place = at / max(n - 1, 1)
    side = "left" if place < 0.15 else "right" if place > 0.85 else "center"
    axes.plot([at], [y[at]], "o", color=ACCENT, markersize=3.4)
    axes.annotate(
        write(y[at]),
        (at, y[at]),
        xytext=(0, 5),
        textcoords="offset points",
        ha=side,
        color=INK,
        fontsize=8.5,
        fontweight="bold",
    )


def _ends(axes: Any, dates: Sequence[str]) -> None:
    last = len(dates) - 1
    axes.set_xticks([0, last], [dates[0], dates[last]])
    labels = axes.get_xticklabels()
    labels[0].set_ha("left")
    labels[-1].set_ha("right")


def reliability(
    predicted: Sequence[float],
    observed: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
    *,
    key: str,
    alt: str,
    write: Write,
) -> str:
    """Return promised against observed rates with their intervals; on the diagonal, promises were kept."""

    def draw(axes: Any) -> None:
        top = min(1.0, 1.08 * max([*predicted, *observed, *high, 1e-3]))
        axes.plot([0, top], [0, top], color=MUTE, linewidth=1.1, linestyle=(0, (4, 3)))
        axes.text(
            top,
            top * 0.7,
            "on the line:\npromise kept",
            ha="right",
            va="top",
            color=SOFT,
            fontsize=8,
            bbox={"facecolor": CARD, "edgecolor": "none", "pad": 1.5},
        )
        axes.vlines(predicted, low, high, color=ACCENT, alpha=0.4, linewidth=2.2)
        axes.plot(predicted, observed, "o", color=ACCENT, markersize=4.6, markeredgewidth=0)
        axes.set_xlim(-0.02 * top, top * 1.02)
        axes.set_ylim(-0.02 * top, top * 1.02)
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        ticks = _ticks(top)
        axes.set_xticks(ticks, [write(t) for t in ticks])
        axes.set_yticks(ticks, [write(t) for t in ticks])
        axes.set_xlabel("chance we gave")
        axes.set_title("how often it happened", loc="left", fontsize=8.5, color=SOFT, x=-0.1)

    return _drawn(draw, 4.2, 2.9, key, alt)


def _ticks(top: float) -> list[float]:
    """Return a handful of round ticks from 0 to ``top``."""
    for step in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.25):
        if top / step <= 5:
            return [i * step for i in range(int(top / step + 1e-9) + 1)]
    return [0.0, 0.5, 1.0]


def lift(
    rates: Sequence[float | None], average: float | None, *, key: str, alt: str, write: Write
) -> str:
    """Return the rate in each tenth of the ranking, best first, with the average across."""

    def draw(axes: Any) -> None:
        heights = [0.0 if r is None else r for r in rates]
        shades = [max(0.28, 1 - 0.09 * i) for i in range(len(heights))]
        for i, (height, shade) in enumerate(zip(heights, shades, strict=True)):
            axes.bar(i, height, width=0.78, color=ACCENT, alpha=shade, linewidth=0)
        top = max([*heights, average or 0.0, 1e-9])
        shown = range(len(heights)) if len({write(h) for h in heights}) < 3 else (0, 1, 2)
        for i in shown:
            axes.text(
                i, heights[i] + top * 0.025, write(heights[i]), ha="center", color=INK, fontsize=8
            )
        if average is not None:
            axes.axhline(average, color=INK, linewidth=1, linestyle=(0, (4, 3)))
            axes.text(
                len(heights) - 0.5,
                average + top * 0.025,
                f"average {write(average)}",
                ha="right",
                color=INK,
                fontsize=8,
            )
        axes.set_ylim(0, top * 1.13)
        axes.set_xlim(-0.55, len(heights) - 0.45)
        axes.set_yticks([])
        axes.set_xticks(range(len(heights)), [str(i + 1) for i in range(len(heights))])
        axes.set_xlabel("tenth of the users, ranked: 1 = best")

    return _drawn(draw, 4.2, 2.9, key, alt)


def _drawn(draw: Callable[[Any], None], width: float, height: float, key: str, alt: str) -> str:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({**_STYLE, "svg.hashsalt": key}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a glyph the layout font lacks; the browser has it
        figure = Figure(figsize=(width, height), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        draw(axes)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    return _inline(out.getvalue(), key, alt)


def _inline(svg: str, key: str, alt: str) -> str:
    """Return SVG text as part of an HTML page: no prolog or metadata, own ids, themed colours, a spoken name."""
    body = svg[svg.index("<svg") :]
    box = re.search(r'viewBox="([^"]+)"', body)
    inner = body[body.index(">") + 1 : body.rindex("</svg>")]
    inner = re.sub(r"<metadata>.*?</metadata>", "", inner, flags=re.DOTALL)
    inner = re.sub(r"<!--.*?-->", "", inner, flags=re.DOTALL)
    inner = re.sub(r'\bid="([^"]+)"', rf'id="{key}-\1"', inner)
    inner = re.sub(r'href="#([^"]+)"', rf'href="#{key}-\1"', inner)
    inner = re.sub(r"url\(#([^)]+)\)", rf"url(#{key}-\1)", inner)
    for stand_in, colour in _THEME.items():
        inner = inner.replace(stand_in, colour)
    inner = re.sub(r"\n\s*", "\n", inner)
    view = box.group(1) if box else "0 0 100 100"
    return f'<svg viewBox="{view}" role="img" aria-label="{escape(alt)}">{inner}</svg>'
