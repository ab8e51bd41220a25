"""What is bought together: baskets, frequent sets, rules with how sure one can be, bundles and cross-selling."""

from __future__ import annotations

from propend.recommend.rules.baskets import Baskets
from propend.recommend.rules.itemsets import ItemSets, frequent_sets
from propend.recommend.rules.measures import Rules, find_rules
from propend.recommend.rules.offers import bundles, cross_sales

__all__ = [
    "Baskets",
    "ItemSets",
    "Rules",
    "bundles",
    "cross_sales",
    "find_rules",
    "frequent_sets",
]
