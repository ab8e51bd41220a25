"""The benchmark of speed runs to its end where a peer is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from benchmarks.speed import recommend

from propend.recommend.interactions import Interactions


def test_a_missing_peer_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def tiny() -> tuple[dict[str, Any], Any]:
        """Two numbers."""
        return {"propend": lambda: 1, "nobody": lambda: 1}, len

    monkeypatch.setattr(recommend, "CONTESTS", {"tiny": tiny})
    monkeypatch.setattr(recommend, "MODULES", {"nobody": "no_such_module_anywhere"})
    monkeypatch.setattr(recommend, "interactions", lambda: Interactions.from_lists([[0]]))
    file = tmp_path / "rows.json"
    words = ["recommend", "--only", "tiny", "--repeats", "1", "--json", str(file)]
    monkeypatch.setattr("sys.argv", words)
    recommend.main()
    said = capsys.readouterr().out
    assert "not here: pip install nobody" in said
    assert "CPU-s" in said
    (rows,) = json.loads(file.read_text())
    assert [row["name"] for row in rows[1:]] == ["propend", "nobody"]
