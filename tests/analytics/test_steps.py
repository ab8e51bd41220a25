"""What counts events one at a time refuses the words of funnel steps, rather than leave them out."""

from __future__ import annotations

import pytest

from propend.analytics.attribution import AttributionQuestion
from propend.analytics.funnel_plan import Exclusion, Funnel
from propend.analytics.lifecycle import LifecycleQuestion, StickinessQuestion
from propend.analytics.measure import Measure
from propend.analytics.nodes import nodes_of
from propend.analytics.retention import ElapsedQuestion, RetentionQuestion
from propend.analytics.steps import Step
from propend.analytics.survival import SurvivalQuestion
from propend.errors import ExpressionError
from propend.expression.parse import parse

COUNT_EVENTS = {
    "retention start": lambda log, e: RetentionQuestion(log.schema, start=e),
    "retention back": lambda log, e: RetentionQuestion(log.schema, back=e),
    "brackets": lambda log, e: ElapsedQuestion(log.schema, [(1, 2)], e),
    "survival": lambda log, e: SurvivalQuestion(log.schema, "view", e),
    "lifecycle": lambda log, e: LifecycleQuestion(log.schema, of=e),
    "stickiness": lambda log, e: StickinessQuestion(log.schema, e),
    "conversion": lambda log, e: AttributionQuestion(nodes_of(*log.asked), log.schema, e),
    "touch": lambda log, e: AttributionQuestion(nodes_of(*log.asked), log.schema, touch=e),
}
REFUSED = ["view x 2", "view?", "view [1h..]", "view [..2d]", "count(view) >= 2"]


@pytest.mark.parametrize("event", REFUSED)
@pytest.mark.parametrize("kind", COUNT_EVENTS)
def test_words_of_a_funnel_are_not_dropped(make_log, kind, event):
    with pytest.raises(ExpressionError, match="each event counts by itself; write view without"):
        COUNT_EVENTS[kind](make_log(0), event)
    if event.startswith("count"):
        with pytest.raises(ExpressionError, match="each event counts by itself"):
            COUNT_EVENTS[kind](make_log(0), parse(event))


@pytest.mark.parametrize("event", REFUSED)
def test_exclusions_and_measures_refuse_them(event):
    with pytest.raises(ExpressionError, match="each event counts by itself"):
        Exclusion.parse(f"2: {event}")
    with pytest.raises(ExpressionError, match="each event counts by itself"):
        Funnel.of(["view", "cart"], exclude=[event])
    with pytest.raises(ExpressionError, match="each event counts by itself"):
        Measure.parse(f"users({event})")


def test_one_event_is_read_as_it_is():
    assert Step.single("view | cart where value > 9") == Step.parse("view | cart where value > 9")
    assert Step.single(parse("any(view)")).label == "view"
