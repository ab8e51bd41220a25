"""Choose settings on a part of the training data: ``python -m benchmarks.quality.recommend.tune gowalla als``.

Prints recall, hit rate and NDCG of every combination of a grid on ``splits.validation``; the test part is never read
for it.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import product
from typing import Any

from benchmarks.quality.recommend import splits
from propend.recommend.catalog import create
from propend.recommend.evaluate import measure, per_user

GRIDS: dict[str, dict[str, list[Any]]] = {
    "als": {
        "factors": [128],
        "unmet": [0.01, 0.04, 0.16],
        "strength": [0.03, 0.1, 0.3],
        "scale": [0.5],
        "biases": [False],
    },
    "ease": {"support": [200], "strength": [30.0, 100.0, 300.0]},
}


def main() -> None:
    """Try a grid, best last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("model")
    parser.add_argument("--grid", help="JSON of setting → values, in place of the grid kept here")
    parser.add_argument("--k", type=int, default=20)
    chosen = parser.parse_args()
    cut = splits.validation(getattr(splits, chosen.data)())
    grid = json.loads(chosen.grid) if chosen.grid else GRIDS[chosen.model]
    tried = []
    for values in product(*grid.values()):
        settings = dict(zip(grid, values, strict=True))
        start = time.process_time()
        model = create(chosen.model, **settings).fit(cut.train, at=cut.at)
        fitted = time.process_time() - start
        figures = per_user(measure(model, cut, chosen.k), chosen.k)
        row = [float(figures[name].mean()) for name in ("recall", "hr", "ndcg")]
        tried.append((row, settings))
        told = "  ".join(f"{value:.4f}" for value in row)
        print(f"{told}  {settings}  fit {fitted:.1f} CPU-s", flush=True)
    tried.sort(key=lambda pair: pair[0][-1])
    print("best by NDCG:", tried[-1][1])


if __name__ == "__main__":
    main()
