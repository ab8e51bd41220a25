"""Who redeems a coupon of a campaign, forward in time, and CDNOW's lifetimes: python -m benchmarks.quality.coupons

A row is a household that received a campaign; the label is whether it redeemed any of its coupons. Everything known is
from before the campaign's first day. Folds go forward by that day. (Transactions are a sample of lines: they only say
roughly how much a household buys.)
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import duckdb

from benchmarks.quality.prediction import DATA, kept, options, show
from propend.engine import connect
from propend.events.declare import declare
from propend.events.guess import guess
from propend.learn.lifetimes import lifetime_holdout
from propend.learn.table import read_table
from propend.pipeline.workspace import open_workspace

ROWS = """
WITH d AS (SELECT campaign_id, campaign_type, CAST(start_date AS DATE) AS start, date_diff('day', CAST(start_date AS DATE), CAST(end_date AS DATE)) AS days
           FROM read_csv('{f}/campaign_descriptions.csv')),
c AS (SELECT * FROM read_csv('{f}/campaigns.csv') JOIN d USING (campaign_id)),
r AS (SELECT household_id, campaign_id, CAST(redemption_date AS DATE) AS day FROM read_csv('{f}/coupon_redemptions.csv')),
t AS (SELECT household_id, CAST(transaction_timestamp AS DATE) AS day, sales_value, retail_disc, coupon_disc, department
      FROM read_csv('{f}/transactions_sample.csv') JOIN read_csv('{f}/products.csv') USING (product_id)),
k AS (SELECT campaign_id, count(DISTINCT coupon_upc) AS coupons, count(DISTINCT product_id) AS products FROM read_csv('{f}/coupons.csv') GROUP BY 1),
s AS (SELECT cp.campaign_id, p.department, count(*) AS n FROM read_csv('{f}/coupons.csv') cp JOIN read_csv('{f}/products.csv') p USING (product_id) GROUP BY 1, 2),
past AS (SELECT c.household_id, c.campaign_id,
    count(DISTINCT o.campaign_id) AS campaigns_before,
    count(DISTINCT CASE WHEN r.day IS NOT NULL THEN o.campaign_id END) AS campaigns_redeemed_before,
    count(r.day) AS redemptions_before,
    date_diff('day', max(r.day), any_value(c.start)) AS days_since_redemption,
    date_diff('day', max(o.start), any_value(c.start)) AS days_since_campaign
  FROM c LEFT JOIN c o ON o.household_id = c.household_id AND o.start < c.start
         LEFT JOIN r ON r.household_id = c.household_id AND r.campaign_id = o.campaign_id AND r.day < c.start
  GROUP BY 1, 2),
spend AS (SELECT c.household_id, c.campaign_id, count(t.day) AS lines_before, sum(t.sales_value) AS value_before,
    count(DISTINCT t.day) AS days_before, sum(t.retail_disc) AS discount_before, sum((t.coupon_disc > 0)::INT) AS coupon_lines_before,
    date_diff('day', max(t.day), any_value(c.start)) AS days_since_line,
    sum((t.day >= c.start - 60)::INT) AS lines_60d, avg(t.sales_value) AS mean_line,
    sum(coalesce(s.n, 0)) / nullif(count(t.day), 0) AS fit_of_offer
  FROM c LEFT JOIN t ON t.household_id = c.household_id AND t.day < c.start
         LEFT JOIN s ON s.campaign_id = c.campaign_id AND s.department = t.department
  GROUP BY 1, 2)
SELECT c.start, c.household_id, c.campaign_type, c.days, k.coupons, k.products, past.* EXCLUDE (household_id, campaign_id),
  spend.* EXCLUDE (household_id, campaign_id), g.* EXCLUDE (household_id),
  CASE WHEN EXISTS (SELECT 1 FROM r WHERE r.household_id = c.household_id AND r.campaign_id = c.campaign_id) THEN 'yes' ELSE 'no' END AS redeemed
FROM c JOIN k USING (campaign_id) JOIN past USING (household_id, campaign_id) JOIN spend USING (household_id, campaign_id)
LEFT JOIN read_csv('{f}/demographics.csv') g USING (household_id)
ORDER BY c.start, c.campaign_id, c.household_id
"""


def coupons(only: Sequence[str] = (), out: Path | None = None) -> str:
    """Return the coupon table as Markdown."""
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "rows.csv"
        query = ROWS.replace("{f}", str(DATA / "complete-journey"))
        duckdb.sql(query).write_csv(str(file))
        table = read_table(
            [str(file)], "redeemed", connect(), Path(place), ignore=["household_id"], order="start"
        )
    return show("coupons", kept("coupons", table, "reported", 4, only, out))


def lifetimes() -> str:
    """Return CDNOW's figures as Markdown."""
    lines = ["### cdnow", "", "| forecast | RMSE | MAE | bias |", "|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "shop"
        declare(folder, guess([DATA / "cdnow" / "CDNOW_sample.txt"], connect(), folder))
        shop = open_workspace(folder)
        shop.ingest()
        found = lifetime_holdout(shop.store, shop.schema, shop.engine)
    assert found is not None
    for name, figures in (
        ("BG/NBD", found),
        ("ours", found["ours"]),
        ("always zero", found["always_zero"]),
    ):
        lines.append(
            f"| {name} | {figures['rmse']:.4f} | {figures['mae']:.4f} | {figures['bias']:+.1%} |"
        )
    return "\n".join(
        [*lines, "", f"{found['protocol']}; parameters {json.dumps(found['parameters'])}.", ""]
    )


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    given = options(__doc__).parse_args()
    if not given.only:
        print(lifetimes(), flush=True)
    print(coupons(given.only, given.out), flush=True)
