"""Sessions, paths, lifecycle and stickiness against plain loops."""

from __future__ import annotations

from collections import Counter
from itertools import groupby, pairwise

import pytest

from propend.analytics.lifecycle import lifecycle, stickiness
from propend.analytics.paths import paths
from propend.analytics.sankey import sankey
from propend.errors import ConfigError
from propend.names import DAY

HOUR = DAY // 24
START = 1_704_067_200_000_000  # the generated logs begin on 2024-01-01


def sessions(log, gap):
    for events in log.users.values():
        current, before = [], None
        for e in events:
            if before is not None and e.time - before > gap:
                yield current
                current = []
            current.append(e)
            before = e.time
        yield current


def node(e, of):
    return e.type if of == "type" else e.channel


@pytest.mark.parametrize("collapse", [True, False])
@pytest.mark.parametrize("of", ["type", "channel"])
@pytest.mark.parametrize("gap", ["3h", "6h"])
def test_paths(make_log, collapse, of, gap):
    log = make_log(10, step=DAY // 48, most=60)
    found = paths(*log.asked, gap=gap, of=of, collapse=collapse, length=4, top=1000)
    expected, moves, entry, leave = Counter(), Counter(), Counter(), Counter()
    for events in sessions(log, int(gap[:-1]) * HOUR):
        names = [node(e, of) for e in events if node(e, of) is not None]
        names = [k for k, _ in groupby(names)] if collapse else names
        if not names:
            continue
        expected[tuple(names[:4])] += 1
        entry[names[0]] += 1
        leave[names[-1]] += 1
        moves.update(pairwise(names))
    assert {tuple(p["path"]): p["sessions"] for p in found["paths"]} == expected
    assert found["sessions"] == sum(expected.values())
    assert {k: v for k, v in found["entry"].items() if v} == entry
    assert {k: v for k, v in found["exit"].items() if v} == leave
    shown = {
        (a, b): n
        for a, row in found["moves"].items()
        for b, n in row.items()
        if n and b != "(exit)"
    }
    assert shown == moves
    for row in found["transitions"].values():
        assert sum(row.values()) == pytest.approx(1)


@pytest.mark.parametrize("direction", ["after", "before"])
@pytest.mark.parametrize("collapse", [True, False])
def test_sankey(make_log, direction, collapse):
    log = make_log(10, step=DAY // 48, most=60)
    found = sankey(*log.asked, "cart", direction=direction, depth=3, gap="4h", collapse=collapse)
    expected, count = Counter(), 0
    for events in sessions(log, 4 * HOUR):
        names = [e.type for e in events]
        names = names if direction == "after" else names[::-1]
        if "cart" not in names:
            continue
        count += 1
        names = names[names.index("cart") :]
        names = [k for k, _ in groupby(names)] if collapse else names
        names.append("(end)")
        for step, (a, b) in enumerate(list(pairwise(names))[:3]):
            expected[step + 1, a, b] += 1
    assert found["sessions"] == count
    assert {
        (r["step"], r["source"], r["target"]): r["sessions"] for r in found["links"]
    } == expected


def test_lifecycle_and_stickiness(make_log):
    log = make_log(11, days=60, most=40)
    found = lifecycle(*log.asked, "week")
    weeks = len(found["start"])
    active = {u: {(e.time - START) // (7 * DAY) for e in ev} for u, ev in log.users.items()}
    for p in range(weeks):
        new = sum(min(a) == p for a in active.values())
        returning = sum(p in a and p - 1 in a for a in active.values())
        resurrected = sum(p in a and p - 1 not in a and min(a) < p for a in active.values())
        dormant = sum(p not in a and p - 1 in a for a in active.values())
        row = [found[k][p] for k in ("new", "returning", "resurrected", "dormant")]
        assert row == [new, returning, resurrected, dormant]
    sticky = stickiness(*log.asked, "view | cart", window=14)
    days = len(sticky["start"])
    active = {
        u: {(e.time - START) // DAY for e in ev if e.type in ("view", "cart")}
        for u, ev in log.users.items()
    }
    for d in range(days):
        for name, span in (("daily", 1), ("weekly", 7), ("monthly", 30)):
            expected = sum(any(d - span < x <= d for x in a) for a in active.values())
            assert sticky[name][d] == expected
    power = Counter(sum(x >= days - 14 for x in a) for a in active.values())
    assert sticky["power"][1:] == [power[k] for k in range(1, 15)]


def test_bad_paths(make_log):
    log = make_log(0)
    with pytest.raises(ConfigError, match="did you mean 'cart'"):
        sankey(*log.asked, "cartt")
    with pytest.raises(ConfigError, match="has 1 to"):
        paths(*log.asked, length=99)
    with pytest.raises(ConfigError, match="no session column"):
        paths(*log.asked, declared=True)
