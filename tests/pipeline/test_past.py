"""The report's look at lifecycle, paths and alarms."""

from __future__ import annotations

from propend.pipeline.report.formats import Formats
from propend.pipeline.report.page import as_html
from propend.pipeline.report.past import view

RESULTS = {
    "lifecycle": {
        "unit": "month", "start": ["2024-01-01", "2024-02-01", "2024-03-01"], "last_period_complete": False,
        "new": [5, 4, 1], "returning": [0, 3, 1], "resurrected": [0, 0, 0], "dormant": [0, 2, 6],
    },
    "paths": {"sessions": 9, "gap": "30min", "paths": [{"path": ["view", "<b>"], "sessions": 9, "share": 1.0}]},
    "trend": {
        "measure": "users(*)", "unit": "day", "false_alarm_rate": 0.05, "changes": [],
        "anomalies": [{"start": "2024-02-03", "value": 9.0, "expected": 3.0, "z": 5.0}],
    },
}  # fmt: skip


def test_section():
    page = as_html(RESULTS)
    assert "What people did, what changed" in page
    assert "<b>" not in page.split("What sessions look like")[1].split("</table>")[0]
    found = view(RESULTS, Formats("EUR", "UTC"))
    assert [r["users"] for r in found["lifecycle"]["rows"]] == [4, 3, 0, 2]  # the last whole month
    assert len(found["trend"]["odd"]) == 1


def test_nothing_to_show():
    assert "No look at lifecycle" in as_html({})


def test_saved_definitions_channels_and_stages():
    results = {
        **RESULTS,
        "attribution": {
            "conversion": "purchase", "note": "who was there",
            "channels": [{"channel": "<mail>", "touches": 7, "conversions": {"first": 1.0, "last": 2.0, "markov": 1.5, "shapley": 1.5}}],
        },
        "stages": {"memory": "90d", "stages": [{"stage": "action", "events": ["buy"], "users": 12}]},
        "saved": [
            {"kind": "funnel", "name": "check<out>", "answer": {"steps": [{"event": "view", "users": 3, "conversion": 1.0}]}},
            {"kind": "trend", "name": "odd one", "answer": {"missing": "no event type 'vew' in the log; did you mean 'view'?"}},
        ],
    }  # fmt: skip
    page = as_html(results)
    assert "check&lt;out&gt;" in page
    assert '<figure class="saved"><svg' in page
    assert "no event type &#39;vew&#39; in the log" in page
    assert "&lt;mail&gt;" in page
    assert "Where users stand now" in page
    assert "Move on in" not in page
    ahead = {
        "horizon": "30d",
        "stages": [{"stage": "action", "advance": 5.2, "advance_low": 3.0, "advance_high": 8.0, "likely_to_leave": 4}],
        "validation": {"tests": [{}], "cutoffs": 4, "brier": 0.168, "brier_same_rate": 0.188, "ece": 0.024, "coverage": 0.92},
    }  # fmt: skip
    page = as_html({**results, "forecast": ahead})
    assert "Move on in 30d" in page
    assert "3 to 8" in page
    assert "Brier 0.168 (same rate as last period 0.188)" in page
    page = as_html({**results, "forecast": {"missing": "the log is <too> short"}})
    assert "the log is &lt;too&gt; short" in page
