"""Quick SHAP values against LightGBM's own, on every kind of split."""

from __future__ import annotations

import numpy as np
import pytest

from propend.models import create
from propend.models.attribution import Attribution
from propend.testing.models import sample


@pytest.mark.parametrize("answer", ["yes_no", "count"])
def test_they_are_lightgbms_own(answer: str) -> None:
    rows = sample(answer, rows=1500)  # type: ignore[arg-type]
    model = create("trees", answer, trees=20, leaves=15, threads=1).fit(**rows)  # type: ignore[arg-type]
    ours = Attribution.of(model._text, 4).of_rows(rows["X"])
    theirs = model._booster.predict(rows["X"], pred_contrib=True, num_threads=1)
    assert np.abs(ours - theirs).max() < 1e-10
    odd = np.array([[np.nan] * 4, [0.0, 0.0, 0.0, 9.0]])
    theirs = model._booster.predict(odd, pred_contrib=True, num_threads=1)
    assert np.abs(Attribution.of(model._text, 4).of_rows(odd) - theirs).max() < 1e-10


def test_trees_of_several_classes_are_refused() -> None:
    rows = sample("which", rows=300)
    model = create("trees", "which", trees=3, threads=1).fit(**rows)
    with pytest.raises(ValueError, match="several classes"):
        Attribution.of(model._text, 4)
