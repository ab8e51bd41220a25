"""What each column adds to an expected time: an exact sum, and the path integral a slow rule gives."""

from __future__ import annotations

import numpy as np
import pytest

from propend.models.hazard import Hazard, TreesHazard


def waiting(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Times that one column shortens and one lengthens; the third tells nothing; censored at 20."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, 3))
    time = rng.exponential(np.exp(2 - X[:, 0] + 0.5 * X[:, 1]))
    return X, np.where(time < 20, np.maximum(time, 1e-9), -20.0)


def expected(model: Hazard, margin: np.ndarray) -> float:
    """The area under one row's survival curve, from its logits [periods], period by period."""
    left, area, edges = 1.0, 0.0, model._edges
    for k, m in enumerate(margin):
        after = left * (1 - 1 / (1 + np.exp(-m)))
        area += (edges[k + 1] - edges[k]) * (left + after) / 2
        left = after
    return area


@pytest.mark.parametrize("kind", [Hazard, TreesHazard])
def test_contributions_are_the_path_integral(kind: type[Hazard]) -> None:
    X, y = waiting(1_500, 1)
    model = (Hazard(periods=4) if kind is Hazard else TreesHazard(periods=4, trees=30, threads=1)).fit(X, y)  # fmt: skip
    parts = model.contributions(X[:200])
    assert np.allclose(parts.sum(axis=1), model.predict(X[:200]), atol=1e-9)
    assert np.corrcoef(parts[:, 0], X[:200, 0])[0, 1] < -0.8
    assert np.corrcoef(parts[:, 1], X[:200, 1])[0, 1] > 0.6
    assert np.abs(parts[:, 2]).mean() < 0.3 * np.abs(parts[:, :2]).mean()
    for row in range(3):
        each = np.array(
            [model.chance.contributions(np.append(X[row], float(k))[None])[0] for k in range(len(model.ends))]
        )  # fmt: skip
        start, added = each[:, -2:].sum(axis=1), each[:, :-2]
        slow = np.zeros(3)
        steps = 400
        for step in range(steps):
            at = start + (step + 0.5) / steps * added.sum(axis=1)
            for k in range(len(at)):
                up, down = at.copy(), at.copy()
                up[k] += 1e-4
                down[k] -= 1e-4
                slope = (expected(model, up) - expected(model, down)) / 2e-4
                slow += slope * added[k] / steps
        assert np.allclose(parts[row, :3], slow, rtol=1e-3, atol=1e-4)
        assert parts[row, -1] == pytest.approx(expected(model, start), abs=1e-3)
