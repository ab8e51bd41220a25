"""Light graph convolution on Gowalla beside published rows: ``python -m benchmarks.quality.graph [--seeds N] [--threads N]``.

LightGCN's split, full ranking, train items hidden, conservative ties. Depth, temperature and learning rate were chosen by
Recall@20 on *training* edges held back (``docs/log.md``), the epoch and the power of the items' lengths in each run in the same way; the
test edges were looked at once per seed. Published rows mostly stopped on the test part.
"""

from __future__ import annotations

import argparse

from benchmarks.quality.recommend import splits
from propend.recommend.catalog import create
from propend.recommend.evaluate import compare

SETTINGS = {
    "depth": 2,
    "temperature": 0.1,
    "learning_rate": 0.001,
    "batch": 2_048,
    "epochs": 10,
    "patience": 3,
    "held_back": 0.03,
}
PUBLISHED = {
    "NGCF": (0.1570, 0.1327),
    "LightGCN": (0.1820, 0.1547),
    "UltraGCN": (0.1862, 0.1580),
    "SimpleX": (0.1872, 0.1557),
}


def main() -> None:
    """Print one row a seed, popularity and the published rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()
    split = splits.gowalla()
    for seed in range(chosen.seeds):
        shelf = create("lightgcn", threads=chosen.threads, **SETTINGS)
        table = compare(split, {"lightgcn": shelf}, ks=(20,), seed=seed)
        if not seed:
            print(
                f"gowalla: {table['protocol']}, {table['users']:,} asked, hash {table['data_hash']}"
            )
        for row in table["models"]:
            if row["name"] == "lightgcn" or not seed:
                low, high = row["intervals"]["ndcg@20"]
                print(
                    f"{row['name']:24}seed {seed}  recall@20 {row['recall@20']:.4f}  ndcg@20 {row['ndcg@20']:.4f} "
                    f"({low:.4f}–{high:.4f})  fit {row['fit_seconds']:.0f} s"
                )
    for name, (recall, ndcg) in PUBLISHED.items():
        print(f"{name + ' (published)':24}        recall@20 {recall:.4f}  ndcg@20 {ndcg:.4f}")


if __name__ == "__main__":
    main()
