"""Recommenders on public data beside published rows: ``python -m benchmarks.quality.recommend [DATA…]``.

Prints one table per data set with its protocol and data hash, and writes JSON with ``--json FILE``. Full ranking,
conservative ties, seed 0; intervals by bootstrap over users. Settings were chosen by ``tune`` on a part of the training data.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.quality.recommend.tables import CHOSEN, SETS, Table

WANTED = ("hr@10", "ndcg@10", "recall@10", "recall@20", "ndcg@20", "mrr@20", "coverage")


def show(table: Table) -> None:
    """Print one table."""
    told = f"seen {table['seen']}, " if "seen" in table else ""
    print(
        f"\n{table['data']}: {table['protocol']}, {told}{table['users']:,} asked, hash {table['data_hash']}"
    )
    for warning in table.get("warnings", []):
        print(f"  ! {warning}")
    if table["models"]:
        wanted = [key for key in WANTED if any(key in row for row in table["models"])]
        print(f"{'':28}" + "".join(f"{key:>11}" for key in [*wanted, "fit s", "users/s"]))
    for row in table["models"]:
        figures = [row.get(key, float("nan")) for key in wanted]
        main = next(key for key in ("ndcg@10", "ndcg@20") if key in row)
        low, high = row["intervals"][main]
        print(
            f"{row['name']:28}"
            + "".join(f"{value:11.4f}" for value in figures)
            + f"{row['fit_seconds']:11.1f}{row['users_per_second']:11.0f}"
            + f"   {main} {low:.4f}–{high:.4f}"
        )
    for name, pair in table.get("published", {}).items():
        print(f"{name + ' (published)':28}" + "".join(f"{value:11.4f}" for value in pair))
    for name, (gain, low, high) in table.get("lead", {}).items():
        print(f"{name}: {gain:+.4f} [{low:+.4f}, {high:+.4f}]")
    for name, pairs in table.get("gap", {}).items():
        cells = "   ".join(f"{key} {one:.4f} → {ahead:.4f}" for key, (one, ahead) in pairs.items())
        print(f"  leave-one-out → forward, {name:20} {cells}")
    for row in table.get("sets", []):
        same = {True: "counts equal", False: "COUNTS DIFFER", None: ""}[row.get("equal")]
        told = (
            row.get("missing")
            or f"{row['sets']:,} sets {row['by_size']} {same}, {row['cpu_seconds']} CPU-s"
        )
        print(f"  {row['name']:20} {told}")


def main() -> None:
    """Run the named data sets, default all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="*", default=list(SETS))
    parser.add_argument("--models", nargs="*", default=[], help="beginnings of their names")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    CHOSEN.extend(chosen.models)
    tables: list[Table] = []
    for name in chosen.data:
        for made in SETS[name]():
            table = {"data": name, **made}
            show(table)
            tables.append(table)
    if chosen.json:
        chosen.json.write_text(json.dumps(tables, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
