"""The promises on public data, by the verbs themselves and with no editing of what init wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from propend.cli import main

pytestmark = [pytest.mark.data, pytest.mark.slow]


def journey(folder: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    main(["init", str(folder), "--from", str(source), "--json"])
    capsys.readouterr()
    main(["run", str(folder), "--json"])
    return json.loads(capsys.readouterr().out)


def test_online_retail(
    data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = journey(tmp_path / "shop", data_folder / "online-retail", capsys)
    assert results["rows_in"] == 541_909 == results["rows_kept"] + results["rows_quarantined"]
    found = {f["name"]: f["rows"] for f in results["findings"]}
    assert found["exact duplicate"] == 5_268
    assert found["cancellation lines"] == 9_288
    assert found["missing user"] / results["rows_in"] == pytest.approx(0.249, abs=0.001)
    cards = {card["task"]: card for card in results["tasks"]}
    for name in ("buys_30d", "silent_60d"):
        assert cards[name]["folds"] >= 3
        assert cards[name]["margins"]["scorecard"]["auroc"]["low"] > 0
    for metric in ("auroc", "average_precision"):
        assert cards["buys_30d"]["margins"]["rfm"][metric]["low"] > 0
        # who falls silent is told by RFM as well, within noise: missed, and the README says so
        assert cards["silent_60d"]["margins"]["rfm"][metric]["high"] > 0


def test_cdnow(data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample = tmp_path / "CDNOW_sample.txt"
    sample.write_bytes((data_folder / "cdnow" / "CDNOW_sample.txt").read_bytes())
    lifetimes = journey(tmp_path / "shop", sample, capsys)["lifetimes"]
    known = lifetimes["parameters"]
    assert [round(known[k], 3) for k in ("r", "alpha", "a", "b")] == [0.243, 4.414, 0.793, 2.426]
    assert lifetimes["rmse"] <= 1.61
    assert lifetimes["ours"]["rmse"] <= 1.61
