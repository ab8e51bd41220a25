"""The classic lifetime protocol from a file to its figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from propend.engine import connect
from propend.events.declare import declare
from propend.events.guess import guess
from propend.learn.lifetimes import lifetime_holdout
from propend.pipeline.workspace import Workspace, open_workspace


def workspace(folder: Path, file: Path) -> Workspace:
    declare(folder, guess([file], connect(), folder))
    opened = open_workspace(folder)
    opened.ingest()
    return opened


@pytest.mark.data
def test_cdnow(tmp_path: Path, data_folder: Path) -> None:
    shop = workspace(tmp_path, data_folder / "cdnow" / "CDNOW_sample.txt")
    found = lifetime_holdout(shop.store, shop.schema, shop.engine)
    assert found is not None
    wanted = {"r": 0.243, "alpha": 4.414, "a": 0.793, "b": 2.426}
    for name, value in wanted.items():
        assert found["parameters"][name] == pytest.approx(value, abs=1.5e-3)
    assert found["rmse"] == pytest.approx(1.608, abs=6e-4)
    assert found["bias"] == pytest.approx(-0.122, abs=1e-3)
    assert found["always_zero"]["rmse"] == pytest.approx(2.206, abs=1e-3)
    assert found["ours"]["rmse"] <= 1.60 < found["rmse"]
    assert abs(found["ours"]["bias"]) < 0.10
    again = lifetime_holdout(shop.store, shop.schema, shop.engine)
    assert again == found


def test_too_little_is_none(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lines = [
        f"u{rng.integers(30)},2024-{1 + i % 6:02d}-{1 + i % 28:02d},{i}.50" for i in range(120)
    ]
    file = tmp_path / "orders.csv"
    file.write_text("\n".join(["customer_id,date,amount", *lines]))
    shop = workspace(tmp_path / "shop", file)
    assert lifetime_holdout(shop.store, shop.schema, shop.engine) is None
