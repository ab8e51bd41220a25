"""Metrics agree with scikit-learn on anything Hypothesis thinks of, ties and weights included."""

from __future__ import annotations

import time
from functools import partial

import numpy as np
import pytest
import sklearn.metrics as peer
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from propend.errors import DataError
from propend.learn import metrics
from propend.learn.bootstrap import bootstrap_difference, bootstrap_interval
from propend.learn.lift import lift_by_decile
from propend.learn.ranking import equal_mass_bins
from propend.learn.strata import within, yes_no_metrics

score = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.floats(0, 1))
row = st.tuples(st.sampled_from([0.0, 1.0]), score, st.sampled_from([0.0, 0.5, 1.0, 3.0]))
amount = st.sampled_from([0.0, 1.0, 2.5, 100.0])
thorough = settings(max_examples=150, deadline=None)


def columns(rows: list[tuple[float, float, float]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    y, p, w = np.array(rows, dtype=float).reshape(-1, 3).T
    return y, p, w


@thorough
@given(st.lists(row, min_size=2, max_size=30))
def test_yes_no_agrees(rows: list[tuple[float, float, float]]) -> None:
    y, p, w = columns(rows)
    for weight in (None, w):
        used = np.ones_like(y) if weight is None else w
        one_class = not (used * y).sum() or not (used * (1 - y)).sum()
        assert np.isnan(metrics.auroc(y, p, weight)) == one_class
        if one_class:
            continue
        keep = used > 0
        y_, p_, w_ = y[keep], p[keep], used[keep]
        close(metrics.auroc(y, p, weight), peer.roc_auc_score(y_, p_, sample_weight=w_))
        close(
            metrics.average_precision(y, p, weight),
            peer.average_precision_score(y_, p_, sample_weight=w_),
        )
        close(metrics.log_loss(y, p, weight), peer.log_loss(y_, p_, sample_weight=w_))
        close(metrics.brier(y, p, weight), peer.brier_score_loss(y_, p_, sample_weight=w_))
        close(metrics.gini(y, p, weight), 2 * metrics.auroc(y, p, weight) - 1)


@thorough
@given(st.lists(row, min_size=2, max_size=30), st.sampled_from([0.0, 0.25, 0.6, 1.0]))
def test_thresholded_agrees(rows: list[tuple[float, float, float]], cut: float) -> None:
    y, p, w = columns(rows)
    if not w.sum():
        return
    hard, given_ = p >= cut, {"sample_weight": w, "zero_division": np.nan}
    close(metrics.accuracy(y, p, cut, w), peer.accuracy_score(y, hard, sample_weight=w))
    close(metrics.precision(y, p, cut, w), peer.precision_score(y, hard, **given_))
    close(metrics.recall(y, p, cut, w), peer.recall_score(y, hard, **given_))
    close(metrics.f1(y, p, cut, w), peer.f1_score(y, hard, **given_))


@thorough
@given(st.lists(row, min_size=1, max_size=30))
def test_the_best_threshold_is_the_best(rows: list[tuple[float, float, float]]) -> None:
    y, p, w = columns(rows)
    cut = metrics.best_f1_threshold(y, p, w)
    if not (w * y).sum():
        assert np.isnan(cut)
        return
    best = max(metrics.f1(y, p, t, w) for t in p[w > 0])
    close(metrics.f1(y, p, cut, w), best)


@thorough
@given(st.lists(st.tuples(amount, amount, st.sampled_from([0.5, 1.0, 3.0])), min_size=2))
def test_amounts_agree(rows: list[tuple[float, float, float]]) -> None:
    y, p, w = columns(rows)
    close(metrics.mae(y, p, w), peer.mean_absolute_error(y, p, sample_weight=w))
    close(metrics.rmse(y, p, w), peer.root_mean_squared_error(y, p, sample_weight=w))
    if np.ptp(y):
        close(metrics.r2(y, p, w), peer.r2_score(y, p, sample_weight=w))
    if np.ptp(y) and np.ptp(p):
        close(metrics.spearman(y, p), spearmanr(y, p).statistic)
        close(metrics.gini(y, y, w), 1.0)
    if y.sum():
        close(metrics.bias(y, p), p.sum() / y.sum() - 1)


@thorough
@given(st.lists(row, min_size=1, max_size=30), st.randoms())
def test_weights_are_repetitions_and_order_does_not_matter(
    rows: list[tuple[float, float, float]], random: object
) -> None:
    y, p, w = columns(rows)
    times = (2 * w).astype(int)
    order = list(range(len(y)))
    random.shuffle(order)  # type: ignore[attr-defined]
    known = (
        metrics.auroc,
        metrics.average_precision,
        metrics.ece,
        metrics.gini,
        metrics.spearman,
        metrics.top_decile_lift,
        metrics.rate_threshold,
    )
    for metric in known:
        if not times.any():
            assert np.isnan(metric([], []))
            continue
        value = metric(y[times > 0], p[times > 0], times[times > 0])
        close(metric(np.repeat(y, times), np.repeat(p, times)), value, 1e-7)
        close(metric(y[order], p[order], times[order]), metric(y, p, times), 1e-7)


def close(ours: float, theirs: float, tolerance: float = 1e-9) -> None:
    assert ours == pytest.approx(theirs, abs=tolerance, nan_ok=True)


def test_one_class_and_no_rows_give_nan_not_a_crash() -> None:
    for y in ([], [1, 1], [0, 0]):
        found = yes_no_metrics(y, [0.5] * len(y))
        assert np.isnan(found["auroc"])
        assert np.isnan(found["threshold"]) == (not y)
        lift_by_decile(y, [0.5] * len(y))
    assert np.isnan(metrics.bias([0, 0], [1, 2]))
    amounts = (metrics.mae, metrics.rmse, metrics.gini, metrics.top_decile_lift)
    for metric in (*amounts, metrics.bias, metrics.r2, metrics.spearman):
        assert np.isnan(within(metric, [], []))
    for metric in (metrics.r2, metrics.gini, metrics.spearman):
        assert np.isnan(metric([0.1] * 3, [1, 2, 3], [0.3, 0.7, 0.9]))


def test_lengths_and_gaps_are_checked() -> None:
    with pytest.raises(DataError, match=r"must not be missing \(NaN\)"):
        metrics.auroc([0, 1], [0.5, np.nan])
    with pytest.raises(DataError, match="one length"):
        metrics.auroc([0, 1], [0.5])
    with pytest.raises(DataError, match="one group per row"):
        bootstrap_interval(metrics.auroc, [0, 1], [0.5, 0.6], groups=[1])


def test_ece_of_true_probabilities_is_small_and_of_wrong_ones_is_the_gap() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(50_000)
    y = (rng.random(50_000) < p).astype(float)
    assert metrics.ece(y, p) < 0.01
    assert metrics.ece(y, np.full(50_000, 0.9)) == pytest.approx(0.9 - y.mean())
    bins = equal_mass_bins(p, np.ones(50_000), 15)
    assert np.ptp(np.bincount(bins)) <= 1


def test_lift_table_adds_up() -> None:
    rng = np.random.default_rng(1)
    p = rng.random(1003).round(1)
    y = (rng.random(1003) < p).astype(float)
    table = lift_by_decile(y, p)
    assert table.total.sum() == pytest.approx(y.sum())
    assert table.weight.sum() == pytest.approx(1003)
    assert table.cumulative_share[-1] == pytest.approx(1)
    assert table.cumulative_lift[-1] == pytest.approx(1)
    assert (np.diff(table.rate) < 0.05).all()


def test_intervals_cover_and_draw_users_whole() -> None:
    rng = np.random.default_rng(2)
    users = np.repeat(np.arange(200), 10)
    shift = np.repeat(rng.normal(size=200), 10)
    y = (rng.random(2000) < 1 / (1 + np.exp(-2 * shift))).astype(float)
    p = 1 / (1 + np.exp(-shift - rng.normal(size=2000)))
    rows = bootstrap_interval(metrics.auroc, y, p, seed=1)
    whole = bootstrap_interval(metrics.auroc, y, p, groups=users, seed=1)
    assert rows.value == whole.value == metrics.auroc(y, p)
    assert whole.low < whole.value < whole.high
    assert whole.high - whole.low > 1.2 * (rows.high - rows.low)
    assert (whole.groups, whole.draws) == (200, 200)
    assert whole == bootstrap_interval(metrics.auroc, y, p, groups=users, seed=1)


def test_interval_matches_the_slow_bootstrap() -> None:
    rng = np.random.default_rng(3)
    y = rng.integers(0, 2, 60).astype(float)
    p = (y + rng.normal(size=60)).round(1)
    fast = bootstrap_interval(metrics.auroc, y, p, n=50, seed=4)
    draw = np.random.default_rng(4)
    slow = []
    for _ in range(50):
        rows = draw.integers(0, 60, 60)
        slow.append(peer.roc_auc_score(y[rows], p[rows]))
    assert (fast.low, fast.high) == pytest.approx(tuple(np.quantile(slow, (0.025, 0.975))))


def test_paired_difference_is_narrower_than_the_two_apart() -> None:
    rng = np.random.default_rng(5)
    y = rng.integers(0, 2, 1000).astype(float)
    base = y + rng.normal(size=1000)
    better = base + 0.3 * y
    gain = bootstrap_difference(metrics.auroc, y, better, base, n=100)
    alone = bootstrap_interval(metrics.auroc, y, base, n=100)
    assert 0 < gain.low < gain.value < gain.high
    assert gain.high - gain.low < 0.5 * (alone.high - alone.low)
    assert bootstrap_difference(metrics.auroc, y, base, base, n=20).high == 0


def test_single_class_draws_are_left_out() -> None:
    found = bootstrap_interval(metrics.auroc, [0, 0, 1], [0.1, 0.2, 0.3], n=100)
    assert 0 < found.draws < 100
    assert (found.low, found.high) == (1.0, 1.0)
    assert np.isnan(bootstrap_interval(metrics.auroc, [1, 1], [0.1, 0.2], n=5).low)


def test_a_fixed_threshold_goes_through_partial() -> None:
    y, p = [0, 1, 1, 0] * 20, [0.1, 0.9, 0.4, 0.3] * 20

    def f1_at(y: np.ndarray, p: np.ndarray, weight: np.ndarray | None, cut: float) -> float:
        return metrics.f1(y, p, cut, weight)

    found = bootstrap_interval(partial(f1_at, cut=0.35), y, p, n=20)
    assert found.value == 1.0


def test_two_hundred_draws_of_many_rows_are_quick() -> None:
    rng = np.random.default_rng(6)
    y, p = rng.integers(0, 2, 50_000).astype(float), rng.random(50_000)
    start = time.process_time()
    bootstrap_interval(metrics.auroc, y, p, n=200)
    assert time.process_time() - start < 6


# -------------------------------------------------------------------------------- inside folds


def test_a_constant_has_no_skill_however_the_level_moves() -> None:
    """Each fold's base rate, learnt before it, ranks nobody: AUROC is .5 inside folds, though not over all rows."""
    rng = np.random.default_rng(0)
    fold = np.repeat([0, 1, 2], 400)
    level = np.array([0.2, 0.4, 0.6])[fold]
    y = (rng.random(1200) < level).astype(float)
    assert metrics.auroc(y, level) > 0.6
    found = yes_no_metrics(y, level, strata=fold)
    assert found["auroc"] == 0.5
    close(found["average_precision"], y.mean())
    close(found["top_decile_lift"], 1.0)
    interval = bootstrap_interval(metrics.auroc, y, level, strata=fold, n=20)
    assert (interval.low, interval.value, interval.high) == (0.5, 0.5, 0.5)
    close(within(metrics.gini, y, level, strata=fold), 0.0)


@thorough
@given(st.lists(row, min_size=6, max_size=30), st.integers(1, 3))
def test_inside_folds_is_the_average_one_would_write_down(
    rows: list[tuple[float, float, float]], folds: int
) -> None:
    y, p, w = columns(rows)
    fold = np.arange(len(y)) % folds
    total = pairs = 0.0
    for k in range(folds):
        here = fold == k
        positive, everyone = (w * y)[here].sum(), w[here].sum()
        if positive * (everyone - positive) > 0:
            size = positive * (everyone - positive)
            total += size * metrics.auroc(y[here], p[here], w[here])
            pairs += size
    close(
        within(metrics.auroc, y, p, w, strata=fold),
        total / pairs if pairs else float("nan"),
    )
    close(within(metrics.brier, y, p, w, strata=fold), metrics.brier(y, p, w))
    if w.sum():
        table = lift_by_decile(y, p, w, strata=fold)
        close(table.weight.sum(), w.sum())
        close(table.total.sum(), (w * y).sum())


def test_folds_are_one_per_row() -> None:
    with pytest.raises(DataError, match="one fold per row"):
        within(metrics.auroc, [0, 1], [0.1, 0.2], strata=[0])


# -------------------------------------------------------------------------------- times, counts, quantiles


@thorough
@given(
    st.lists(
        st.tuples(
            st.sampled_from([-4.0, -2.0, -1.0, 1.0, 2.0, 3.0, 4.0]),
            st.sampled_from([0.0, 1.0, 2.5, 4.0]),
            st.sampled_from([0.0, 1.0, 2.0]),
        ),
        max_size=25,
    )
)
def test_concordance_agrees_with_every_pair_written_out(
    rows: list[tuple[float, float, float]],
) -> None:
    y, p, w = columns(rows)
    right = everyone = 0.0
    for i in range(len(y)):
        for j in range(len(y)):
            if y[i] > 0 and (y[i] < abs(y[j]) or (y[i] == -y[j])):
                everyone += w[i] * w[j]
                right += w[i] * w[j] * (1.0 if p[i] < p[j] else 0.5 if p[i] == p[j] else 0.0)
    close(metrics.c_index(y, p, w), right / everyone if everyone else float("nan"))


@thorough
@given(st.lists(st.tuples(amount, amount, st.sampled_from([0.5, 1.0])), min_size=1, max_size=20))
def test_counts_and_quantiles_agree(rows: list[tuple[float, float, float]]) -> None:
    y, p, w = columns(rows)
    close(
        metrics.pinball(y, p, w, quantile=0.8),
        peer.mean_pinball_loss(y, p, sample_weight=w, alpha=0.8),
    )
    close(
        metrics.poisson_deviance(y, p + 0.1, w),
        peer.mean_poisson_deviance(y, p + 0.1, sample_weight=w),
    )
    close(metrics.share_below(y, p, w), np.average(y <= p, weights=w))
