"""Files brought later, by hand: they add, they stay, they are judged with the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

import propend as pp
from propend.errors import DataError

HEAD = "customer_id,order_date,sku,quantity,unit_price"


def orders(path: Path, user: str, rows: int = 40, price: float = 5.0) -> Path:
    lines = [
        f"{user}{i % 5},2024-{1 + i % 12:02d}-{1 + i % 28:02d} 10:00:00,s{i % 3},1,{price + i / 100:.2f}"
        for i in range(rows)
    ]
    path.write_text("\n".join([HEAD, *lines]) + "\n", encoding="utf-8")
    return path


def users(shop: Path) -> set[str]:
    return {u[0] for u in pp.open(shop).sql("select distinct user from events")["user"].to_pylist()}


def test_files_brought_one_after_the_other_all_stay(tmp_path: Path) -> None:
    shop = tmp_path / "shop"
    pp.init(shop, [orders(tmp_path / "a.csv", "a")])
    pp.open(shop).ingest()
    for name in "bc":
        report = pp.open(shop).ingest([orders(tmp_path / f"{name}.csv", name)])[0]
    assert users(shop) == {"a", "b", "c"}
    assert report.rows_in == report.rows_kept == 120
    again = pp.open(shop).ingest()[0]
    assert (again.rows_in, again.rows_kept) == (120, 120)
    assert pp.open(shop).store.rows == 120


def test_a_changed_rule_judges_them_again_and_asks_for_what_is_gone(tmp_path: Path) -> None:
    shop = tmp_path / "shop"
    pp.init(shop, [orders(tmp_path / "a.csv", "a")])
    pp.open(shop).ingest()
    pp.open(shop).ingest([orders(tmp_path / "b.csv", "b", price=-9.0)])
    assert pp.open(shop).store.rows == 40, "negative prices are set aside"
    toml = shop / "propend.toml"
    toml.write_text(
        toml.read_text(encoding="utf-8") + '\n[clean]\nnegative_price = "keep"\n', encoding="utf-8"
    )
    assert pp.open(shop).ingest()[0].rows_kept == 80
    (tmp_path / "b.csv").unlink()
    toml.write_text(toml.read_text(encoding="utf-8").replace('"keep"', '"flag"'), encoding="utf-8")
    with pytest.raises(DataError, match=r"b\.csv is gone; bring it back"):
        pp.open(shop).ingest()
    assert pp.open(shop).store.rows == 80
