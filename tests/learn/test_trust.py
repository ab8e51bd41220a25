"""Trust in the number: Venn-Abers, conformal intervals, power, leaks, threshold, segments."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import isotonic_regression

from propend.errors import ConfigError, DataError, NotEnoughDataError
from propend.events.timelines import Timelines
from propend.expression.parse import parse
from propend.features.derive import derive_features
from propend.features.schema import Schema
from propend.learn.calibration import VennAbers, from_state
from propend.learn.future import check_future
from propend.learn.intervals import Conformal, bounds, forward_coverage, uncertainty
from propend.learn.leaks import LeakError, leak_report, refuse
from propend.learn.power import auroc_error, power_of, stated, verdict
from propend.learn.segments import by_segment, segments_of
from propend.learn.threshold import profit_curve


def drawn(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    p = rng.uniform(0.02, 0.98, n)
    return p, (rng.random(n) < p**2).astype(float)


# ---- Venn-Abers


def test_venn_abers_is_isotonic_with_the_new_row_among_the_old() -> None:
    rng = np.random.default_rng(1)
    p, y = rng.integers(0, 12, 60) / 12, (rng.random(60) < 0.4).astype(float)
    fitted = VennAbers().fit(p, y)
    for score in (0.0, 0.25, 0.3, 5 / 12, 0.99, 1.0):
        for label, got in zip((0.0, 1.0), fitted.bounds([score]), strict=True):
            x, z = np.r_[p, score], np.r_[y, label]
            knots, at, count = np.unique(x, return_inverse=True, return_counts=True)
            fit = isotonic_regression(np.bincount(at, z) / count, sample_weight=count.astype(float))
            assert got[0] == pytest.approx(fit[np.searchsorted(knots, score)], abs=1e-9)


def test_venn_abers_holds_the_truth_and_narrows() -> None:
    wide = VennAbers().fit(*drawn(200, 2)).bounds(np.linspace(0.1, 0.9, 50))
    narrow = VennAbers().fit(*drawn(20_000, 3)).bounds(np.linspace(0.1, 0.9, 50))
    assert (narrow[1] - narrow[0]).mean() < 0.5 * (wide[1] - wide[0]).mean()
    p, y = drawn(20_000, 4)
    fitted = VennAbers().fit(*drawn(2_000, 5))
    assert abs(fitted.apply(p).mean() - y.mean()) < 0.02
    again = from_state(json.loads(json.dumps(fitted.state())))
    assert np.array_equal(again.apply(p), fitted.apply(p))


# ---- conformal


def test_conformal_covers_forward() -> None:
    rng = np.random.default_rng(0)
    folds = []
    for _ in range(3):
        p = rng.gamma(2, 10, 4000)
        folds.append((np.where(rng.random(4000) < 0.4, 0.0, p * rng.lognormal(0, 0.5, 4000)), p))
    found = forward_coverage(folds, 0.9)
    assert found is not None
    assert found["coverage"] == pytest.approx(0.9, abs=0.015)
    kept = json.loads(json.dumps(uncertainty("amount", folds)))
    low, high = bounds(kept, folds[0][1])
    assert ((low >= 0) & (low <= high)).all()


def test_conformal_says_when_rows_are_too_few() -> None:
    with pytest.raises(NotEnoughDataError, match="needs 20 held-out rows, got 5"):
        Conformal.fit(np.ones(5), np.ones(5), 0.9)
    assert forward_coverage([(np.ones(5), np.ones(5))]) is None
    assert np.isnan(bounds(uncertainty("amount", [(np.ones(5), np.ones(5))]), [1.0])[0]).all()


# ---- power and verdict


def test_hanley_mcneil_is_the_simulated_error() -> None:
    from propend.learn.metrics import auroc

    rng = np.random.default_rng(0)
    y = np.repeat([1.0, 0.0], [40, 160])
    values = [auroc(y, np.r_[rng.normal(1.19, 1, 40), rng.normal(0, 1, 160)]) for _ in range(400)]
    assert np.std(values) == pytest.approx(auroc_error(0.8, 40, 160), rel=0.25)


def test_power_and_verdict_in_words() -> None:
    power = power_of("auroc", 1000, 50, {"low": 0.7, "high": 0.8}, {"low": -0.04, "high": 0.04})
    assert power.rows_needed == 16_000
    assert "16,000 test rows are needed" in power.sentence
    margin = {"low": -0.01, "value": 0.02, "high": 0.05}
    none = {"answer": "yes_no", "margins": {"base_rate": {"auroc": margin}}}
    assert verdict(none)["answer"] == "not enough data"
    rule = {"answer": "yes_no", "margins": {"scorecard": {"auroc": margin}}}
    assert verdict(rule)["answer"] == "use the rule"
    assert verdict(rule)["file"].endswith("not those of scorecard")
    better = {"low": -9.0, "value": -5.0, "high": -1.0}
    assert verdict({"answer": "amount", "margins": {"mean": {"rmse": better}}})["answer"] == "use"
    card = {**none, "rows": 100, "positives": 9, "intervals": {"auroc": margin}}
    assert "100 test rows, 9 positive, the auroc" in stated(card, "auroc")["sentence"]
    many = {**card, "answer": "which", "positives": None, "margins": {}}
    assert stated(many, "auroc")["sentence"].startswith("with 100 test rows the auroc")
    amount = {**card, "answer": "amount"}
    assert "9 above zero" in stated(amount, "auroc")["sentence"]
    worse = {"low": 1.0, "value": 5.0, "high": 9.0}
    lost = verdict({"answer": "amount", "margins": {"mean": {"rmse": worse}}})
    assert lost["answer"] == "use the rule"
    assert "worse than the simple rule" in lost["why"]
    assert "within noise" not in lost["why"]


# ---- leaks


def market(n: int = 2000) -> tuple[np.ndarray, np.ndarray, list[str]]:
    rng = np.random.default_rng(0)
    y = (rng.random(n) < 0.2).astype(float)
    X = np.column_stack([rng.normal(size=n) + 0.5 * y, rng.integers(0, 5, n), rng.normal(size=n)])
    return X, y, ["visits", "channel", "age"]


def kinds(X: np.ndarray, y: np.ndarray, columns: list[str], **more: object) -> list[tuple]:
    return [(k.column, k.kind, k.blocks) for k in leak_report(X, y, columns, {1: 5}, **more)]  # type: ignore[arg-type]


def test_an_honest_table_has_no_leak() -> None:
    assert kinds(*market()) == []


def test_each_leak_is_found() -> None:
    X, y, columns = market()
    rng = np.random.default_rng(1)
    assert kinds(np.column_stack([X, 3 * y - 1]), y, [*columns, "flag"])[0] == (
        "flag",
        "echo",
        True,
    )
    strong = y + rng.normal(0, 0.2, len(y))
    assert kinds(np.column_stack([X, strong]), y, [*columns, "s"])[0] == (
        "s",
        "too good alone",
        True,
    )
    late = y + rng.normal(0, 0.9, len(y))  # bank-marketing's call duration
    found = kinds(np.column_stack([X, late]), y, [*columns, "callDuration"])
    assert found == [("callDuration", "after the fact", True)]
    assert kinds(np.column_stack([X, late]), y, [*columns, "minutes"]) == []
    assert kinds(np.column_stack([X, late]), y, [*columns, "callDuration"], known_before=["callDuration"]) == []  # fmt: skip
    gaps = np.where((y > 0) | (rng.random(len(y)) < 0.02), rng.normal(size=len(y)), np.nan)
    assert ("paid", "missing tells", True) in kinds(np.column_stack([X, gaps]), y, [*columns, "paid"])  # fmt: skip
    some = y + rng.normal(0, 0.65, len(y))
    assert ("some", "too good alone", False) in kinds(np.column_stack([X, some]), y, [*columns, "some"])  # fmt: skip


def test_two_leaks_do_not_hide_each_other_and_an_ordinary_name_does_not_help() -> None:
    X, y, columns = market()
    rng = np.random.default_rng(4)
    pair = [y + rng.normal(0, 0.42, len(y)) for _ in range(2)]  # each about .95 alone
    found = kinds(np.column_stack([X, *pair]), y, [*columns, "balance", "minutes"])
    assert {(name, blocks) for name, _, blocks in found} == {("balance", True), ("minutes", True)}
    alone = kinds(np.column_stack([X, pair[0]]), y, [*columns, "balance"])
    assert alone == [("balance", "too good alone", True)]
    assert kinds(np.column_stack([X, pair[0]]), y, [*columns, "balance"], known_before=["balance"]) == []  # fmt: skip


def test_an_easy_table_is_no_leak() -> None:
    """Where every column tells much, one that tells .92 does not stand out."""
    rng = np.random.default_rng(5)
    y = (rng.random(2000) < 0.4).astype(float)
    X = np.column_stack([y + rng.normal(0, 0.55, 2000) for _ in range(6)])
    assert leak_report(X, y, list("abcdef")) == []


@pytest.mark.parametrize(
    "name",
    ["通话时长", "退款金额", "Gesprächsdauer", "Kündigungsgrund", "call_seconds", "talk_time", "unsubscribed_at",
     "callduration", "dateClosed"],
)  # fmt: skip
def test_words_for_afterwards_in_three_languages(name: str) -> None:
    X, y, columns = market()
    late = y + np.random.default_rng(1).normal(0, 0.9, len(y))
    assert kinds(np.column_stack([X, late]), y, [*columns, name]) == [
        (name, "after the fact", True)
    ]


@pytest.mark.parametrize("name", ["created_at", "purchases", "postcode", "residents", "afternoon"])
def test_honest_names_are_left_alone(name: str) -> None:
    X, y, columns = market()
    strong = y + np.random.default_rng(1).normal(0, 0.9, len(y))
    assert kinds(np.column_stack([X, strong]), y, [*columns, name]) == []


def test_a_column_that_knows_a_rare_answer_of_many_is_found() -> None:
    rng = np.random.default_rng(6)
    y = rng.choice(4, 3000, p=[0.5, 0.3, 0.15, 0.05]).astype(float)
    refund = (y == 3) + rng.normal(0, 0.1, 3000)
    found = leak_report(
        np.column_stack([refund, rng.normal(size=3000)]), y, ["ticket", "age"], classes=("a", "b", "c", "returned"),
    )  # fmt: skip
    assert [(leak.column, leak.blocks) for leak in found] == [("ticket", True)]
    assert "telling 'returned' from the rest" in found[0].sentence


def campaign(n: int = 3000) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Visits of 15 % and purchases of 1.2 % of the rows, all of them on a visit: X with conversion at last, visit, spend."""
    rng = np.random.default_rng(12)
    visit = (rng.random(n) < 0.15).astype(float)
    bought = visit * (rng.random(n) < 0.085)
    X = np.column_stack(
        [rng.integers(1, 13, n), rng.integers(0, 3, n), rng.gamma(2, 99, n), bought]
    )
    return X, visit, bought * rng.gamma(2, 50, n), ["recency", "channel", "history", "conversion"]


def test_a_rare_value_known_only_afterwards_is_named() -> None:
    X, visit, spend, columns = campaign()
    n = int(X[:, 3].sum())
    (leak,) = leak_report(X, visit, columns, {1: "abc"}, label="visit", positive="1")
    assert (leak.column, leak.kind, leak.blocks) == ("conversion", "settled", False)
    assert leak.sentence.startswith(f"{n} of {n} rows with conversion = 1 have visit = 1, of all ")
    # no one amount is frequent, but what is not 0 is
    amounts = np.column_stack([X[:, :3], spend])
    (leak,) = leak_report(amounts, visit, [*columns[:3], "spend"], label="visit", positive="1")
    assert f"{n} of {n} rows with spend other than 0 have visit = 1" in leak.sentence
    assert leak_report(X, visit, columns, {1: "abc"}, known_before=["conversion"]) == []
    texts = np.column_stack([X[:, :3], X[:, 3]])
    (leak,) = leak_report(texts, visit, columns, {1: "abc", 3: ("no", "bought")}, label="visit")
    assert "with conversion = bought have visit = yes" in leak.sentence
    # the same user over and over is one user
    of_few = np.where(X[:, 3] > 0, np.arange(len(X)) % 5, np.arange(len(X)) + 9)
    assert leak_report(X, visit, columns, {1: "abc"}, groups=of_few) == []


def test_a_value_is_not_named_by_chance() -> None:
    """500 columns that say nothing, of 150 values with about 20 rows each."""
    rng = np.random.default_rng(13)
    y = (rng.random(3000) < 0.5).astype(float)
    X = rng.integers(0, 150, (3000, 500)).astype(float)
    found = leak_report(X, y, [f"c{j}" for j in range(500)])
    assert [leak for leak in found if leak.kind == "settled"] == []


def test_what_says_whether_an_amount_is_above_zero_blocks() -> None:
    X, visit, spend, columns = campaign()
    found = leak_report(X, spend, columns, {1: "abc"}, label="spend")
    assert [(k.column, k.kind, k.blocks) for k in found] == [("conversion", "echo", True)]
    assert "says row by row whether spend is above 0 (only one" in found[0].sentence
    found = leak_report(np.column_stack([X[:, :3], spend]), X[:, 3], [*columns[:3], "spend"])
    assert ("spend", "echo", True) in [(k.column, k.kind, k.blocks) for k in found]
    X[:, 3] = visit  # before some of the visits nothing was spent
    assert not any(k.blocks for k in leak_report(X, spend, columns, {1: "abc"}))
    gaps = np.column_stack([X[:, :3], np.where(spend > 0, spend % 7, np.nan)])
    assert ("paid", True) in [(k.column, k.blocks) for k in leak_report(gaps, spend, [*columns[:3], "paid"])]  # fmt: skip


@pytest.mark.parametrize("size", [50.0, 1e6])
def test_two_columns_whose_difference_is_the_label(size: float) -> None:
    X, y, columns = market()
    due = np.random.default_rng(7).normal(0, size, len(y))
    found = kinds(np.column_stack([X, due, due + y]), y, [*columns, "due", "paid"])
    assert found == [("due", "echo", True)]
    value = np.random.default_rng(8).gamma(2, 10, len(y))
    found = kinds(np.column_stack([X, due, due + value]), value, [*columns, "due", "paid"])
    assert ("due", "echo", True) in found


def test_amounts_leak_too() -> None:
    X, _, columns = market()
    value = np.random.default_rng(2).gamma(2, 10, len(X))
    noisy = value + np.random.default_rng(3).normal(0, 0.1, len(X))
    assert kinds(np.column_stack([X, noisy]), value, [*columns, "next_value"])[0][2]


def test_twins_across_folds_block() -> None:
    X, y, columns = market(400)
    twice, labels = np.vstack([X, X]), np.r_[y, y]
    fold = np.r_[np.zeros(400, int), np.ones(400, int)]
    assert ("", "twins", True) in kinds(twice, labels, columns, fold_of=fold)
    same = kinds(twice, labels, columns, fold_of=np.arange(800) % 400 % 2)
    assert same == []
    leaks = leak_report(twice, labels, columns, {1: 5}, fold_of=fold)
    with pytest.raises(LeakError, match="identical twin"):
        refuse(leaks, "confirm it")


def test_the_derived_features_do_not_read_the_future() -> None:
    rng = np.random.default_rng(0)
    n, users, day = 600, 20, 86_400_000_000
    user = np.sort(rng.integers(0, users, n))
    time = rng.integers(0, 200 * day, n)
    order = np.lexsort((time, user))
    offsets = np.searchsorted(user, np.arange(users + 1))
    t = Timelines(
        np.arange(users), offsets, time[order], rng.integers(0, 2, n).astype(np.int16),
        rng.integers(0, 5, n).astype(np.int32), np.arange(n), {"value": rng.gamma(2, 5, n)},
    )  # fmt: skip
    schema = Schema(
        types=("view", "purchase"), numbers=("value",), item_ids=tuple("abcde"), last=200 * day
    )
    features = derive_features(schema)
    assert check_future(features, t, [90 * day, 150 * day], schema) == []
    peek = parse("sum(purchase.value) next 30d")
    assert [leak.kind for leak in check_future([*features, peek], t, [90 * day], schema)] == [
        "future"
    ]


def test_coarse_columns_make_honest_twins() -> None:
    rng = np.random.default_rng(9)
    X = np.column_stack([rng.integers(0, k, 2000) for k in (3, 4, 5)]).astype(float)
    y = (rng.random(2000) < 0.1 + 0.1 * X[:, 0]).astype(float)
    fold = rng.integers(0, 5, 2000)
    assert leak_report(X, y, list("abc"), {0: 3, 1: 4, 2: 5}, fold_of=fold) == []
    alike = np.column_stack(
        [X, X[:, 0] * 5 + X[:, 2]]
    )  # tied to the others, so chance is underrated
    found = leak_report(alike, y, list("abcd"), {0: 3, 1: 4, 2: 5, 3: 25}, fold_of=fold)
    assert not any(leak.blocks for leak in found)


# ---- intervals around scores


@given(st.integers(0, 10_000), st.sampled_from(["yes_no", "amount"]), st.booleans())
@settings(max_examples=30, deadline=None)
def test_an_interval_holds_its_own_score(seed: int, answer: str, through_json: bool) -> None:
    rng = np.random.default_rng(seed)
    p = rng.beta(1, 3, 150) if answer == "yes_no" else rng.gamma(2, 10, 150)
    y = (
        (rng.random(150) < p).astype(float)
        if answer == "yes_no"
        else p * rng.lognormal(0.5, 1, 150)
    )
    kept = uncertainty(answer, [(y[:80], p[:80]), (y[80:], p[80:])])
    kept = json.loads(json.dumps(kept)) if through_json else kept
    asked = np.r_[p, rng.random(50) * p.max() * 1.2, 0.0, 1.0]
    low, high = bounds(kept, asked)
    assert ((low <= asked) & (asked <= high)).all()


def test_the_interval_around_a_score_holds_venn_abers() -> None:
    p, y = drawn(500, 11)
    low, high = bounds(uncertainty("yes_no", [(y, p)]), p)
    inner = VennAbers().fit(p, y).bounds(p)
    assert (low <= inner[0]).all()
    assert (high >= inner[1]).all()
    assert (high - low).mean() == pytest.approx(uncertainty("yes_no", [(y, p)])["width"])


# ---- threshold and segments


def calibrated(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores that are the very chances of the answers."""
    rng = np.random.default_rng(seed)
    p = rng.beta(1, 4, n)
    return p, (rng.random(n) < p).astype(float)


def test_the_cut_is_the_brute_force_one() -> None:
    p, y = calibrated(500, 6)
    curve = profit_curve(y, p, value=5.0, cost=1.0)
    assert curve.cut == curve.break_even == pytest.approx(0.2)
    every = [float(((5 * p - 1) * (p >= cut)).sum()) for cut in np.r_[np.inf, p]]
    assert curve.expected == pytest.approx(max(every))
    value, low, high = curve.tested
    assert value == pytest.approx(((5 * y - 1) * (p >= 0.2)).sum())
    assert low < value < high
    tight = profit_curve(y, p, value=5.0, cost=1.0, budget=50.0)
    assert (p >= tight.cut).sum() == tight.contacts == 50
    assert tight.expected == pytest.approx(np.sort(5 * p - 1)[-50:].sum())
    assert "contact the best 50 of 500" in tight.sentence
    assert "the other" in curve.sentence
    for worth, cost in ((0.5, 1.0), (0.0, 0.0)):
        none = profit_curve(y, p, value=worth, cost=cost)
        assert (none.contacts, none.cut >= p.max()) == (0, True)
        assert "do not send" in none.sentence
    tied = profit_curve(y, np.round(p, 1), value=5.0, cost=1.0, budget=50.0)
    assert 0 < tied.contacts < 50
    assert "the next ones share one score" in tied.sentence
    assert "the budget pays for nobody" in profit_curve(y, p, value=5.0, cost=1.0, budget=0.5).sentence  # fmt: skip


def test_the_maximum_of_a_noisy_curve_earns_less_than_the_expected_profit() -> None:
    """The truth is known: what contacting earns on average, for 400 people at a budget for 100 of them."""
    by_curve, by_score, fewer = [], [], 0
    for seed in range(100):
        p, y = calibrated(200, seed)
        people = np.random.default_rng([seed, 1]).beta(1, 4, 400)
        curve = profit_curve(y, p, value=6.0, cost=1.0, budget=100.0, people=people, draws=2)
        allowed = curve.share <= 100 / 400
        old = max(curve.threshold[np.argmax(np.where(allowed, curve.profit, -np.inf))], np.sort(people)[-100])  # fmt: skip
        true = 6.0 * people - 1.0
        by_curve.append(true[people >= old].sum())
        by_score.append(true[people >= curve.cut].sum())
        fewer += (people >= old).sum() < 95
        assert curve.contacts == 100
        assert curve.expected == pytest.approx(by_score[-1])
    assert (np.array(by_score) >= np.array(by_curve) - 1e-9).all()
    assert fewer > 30
    assert np.mean(by_curve) < 0.97 * np.mean(by_score)


def test_a_budget_is_spent_on_people_and_not_on_test_rows() -> None:
    p, y = drawn(500, 6)
    rng = np.random.default_rng(3)
    for size, budget in ((20, 5.0), (20_000, 130.0), (20_000, 1e9)):
        people = np.round(rng.choice(p, size), 3)
        curve = profit_curve(y, p, value=5.0, cost=1.0, budget=budget, people=people)
        assert curve.people == size
        assert curve.contacts == (people >= curve.cut).sum() <= budget
        if budget < 1e9:  # more people pay than the budget: all of it is spent but for ties
            lower = people[people < curve.cut].max()
            assert (people >= lower).sum() > budget
        assert ("the budget pays for" in curve.sentence) == (budget < size)
        assert curve.profit[-1] == pytest.approx((5 * y - 1).mean() * size)
        above = p >= curve.cut
        assert curve.tested[0] == pytest.approx((5 * y - 1)[above].mean() * curve.contacts)
    assert f"of {size:,}" in curve.sentence
    none = profit_curve(y, p, value=50.0, cost=10.0, budget=5.0, people=people)
    assert none.contacts == 0
    assert none.cut == np.inf
    beyond = profit_curve(y, np.minimum(p, 0.1), value=5.0, cost=1.0, people=people)
    assert "no tested row has such a score" in beyond.sentence


def test_values_may_differ_by_row_and_bad_ones_are_refused() -> None:
    p, y = drawn(200, 7)
    value = np.arange(200.0)
    curve = profit_curve(y, p, value=value, cost=40.0)
    assert np.isnan(curve.break_even)
    every = [float(((value * p - 40) * (p >= cut)).sum()) for cut in np.r_[np.inf, p]]
    assert curve.expected == pytest.approx(max(every))
    with pytest.raises(ConfigError, match="0 or more"):
        profit_curve(y, p, cost=-1.0)
    with pytest.raises(DataError, match="one length"):
        profit_curve(y, p[:3])


def test_segments_of_numbers_stand_in_order_of_value_and_share_no_ends() -> None:
    visits = np.repeat([0.0, 1, 2, 3, 4, 5, 8], [100, 30, 40, 60, 70, 50, 50])
    codes, names = segments_of(visits)
    assert names == ["up to 0", "1 to 2", "3 to 4", "5", "above 5"]
    for name, within in (("up to 0", visits == 0), ("1 to 2", (visits == 1) | (visits == 2))):
        assert np.array_equal(codes == names.index(name), within)
    p = np.full(len(visits), 0.4)
    y = (np.arange(len(visits)) % 5 < np.where(visits == 0, 4, 2)).astype(float)
    found = by_segment(y, p, codes, names, draws=50)
    assert [e["segment"] for e in found] == names
    assert 0.4 < found[0]["rate_low"] < found[0]["rate"] < found[0]["rate_high"]
    assert found[0]["remark"].startswith("predictions are too low: the rate lies in 0.")
    assert sum("remark" in e for e in found) == 1
    assert segments_of([np.nan, np.nan])[1] == ["all"]
    assert segments_of([1e6, 1e6, 2e6, 3e6, 1_234_567])[1][0] == "up to 1,000,000"


def test_segments_of_amounts() -> None:
    y = np.arange(100.0)
    rows = by_segment(y, y + 1, np.arange(100) % 2, ["a", "b"], yes_no=False, draws=20)
    assert [r["rmse"] for r in rows] == pytest.approx([1.0, 1.0])
