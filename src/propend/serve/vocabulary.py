"""What e-commerce vocabularies call things, mapped to the workspace's event types and roles."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from propend.events.vocabulary import event_type

__all__ = ["BLOCKED_IDS", "is_bot", "of_role", "type_of"]

_TYPES: Final = {
    # Segment e-commerce specification v2 (segment-docs, connections/spec/ecommerce/v2)
    "products searched": "search",
    "product list viewed": "list_view",
    "product list filtered": "list_view",
    "promotion viewed": "promotion_view",
    "promotion clicked": "promotion_click",
    "product clicked": "click",
    "product viewed": "view",
    "product added": "cart",
    "product removed": "remove_from_cart",
    "cart viewed": "cart_view",
    "checkout started": "checkout",
    "checkout step viewed": "checkout_step",
    "checkout step completed": "checkout_step",
    "payment info entered": "payment_info",
    "order updated": "order_updated",
    "order completed": "purchase",
    "order refunded": "return",
    "order cancelled": "return",
    "product added to wishlist": "favourite",
    "product removed from wishlist": "unfavourite",
    "wishlist product added to cart": "cart",
    "product reviewed": "review",
    # GA4 recommended events
    "view_item": "view",
    "view_item_list": "list_view",
    "select_item": "click",
    "add_to_cart": "cart",
    "remove_from_cart": "remove_from_cart",
    "view_cart": "cart_view",
    "begin_checkout": "checkout",
    "add_payment_info": "payment_info",
    "add_to_wishlist": "favourite",
    "view_search_results": "search",
    "refund": "return",
    "page_view": "page",
    "screen_view": "screen",
    "$pageview": "page",
    "$screen": "screen",
    "$pageleave": "page_leave",
    "email opened": "open",
    "email link clicked": "click",
    "push notification tapped": "open",
}
_ROLES: Final = {
    "item": (
        "product_id",
        "item_id",
        "sku",
        "productid",
        "itemid",
        "product",
        "item",
        "content_id",
    ),
    "price": ("price", "unit_price", "item_price", "$price"),
    "quantity": ("quantity", "qty", "item_quantity"),
    "value": ("value", "revenue", "total", "amount", "$revenue", "order_value", "$amount"),
    "session": (
        "session_id",
        "$session_id",
        "sessionid",
        "ga_session_id",
        "order_id",
        "transaction_id",
        "checkout_id",
    ),
    "text": ("query", "search_term", "search_query", "review_body", "text"),
    "channel": ("channel", "utm_source", "utm_medium", "$utm_source", "affiliation"),
}
BLOCKED_IDS: Final = frozenset(
    [
        "anonymous",
        "guest",
        "undefined",
        "null",
        "none",
        "nil",
        "nan",
        "n/a",
        "unknown",
        "distinct_id",
        "anon_id",
        "id",
        "user_id",
        "true",
        "false",
        "0",
        "-1",
        "[]",
        "{}",
        "00000000-0000-0000-0000-000000000000",
        "[object",
        "object]",
        "lmy47d",
        "not_authenticated",
        "email",
    ]
) | {"[object object]"}
"""Ids that clients send by mistake (Mixpanel's and Segment's lists); they name nobody."""
_BOT: Final = re.compile(
    r"bot\b|crawl|spider|slurp|headlesschrome|lighthouse|pingdom|uptimerobot|facebookexternalhit|bingpreview|phantomjs|scrapy",
    re.IGNORECASE,
)


@lru_cache(maxsize=4_096)
def type_of(name: str) -> str:
    """Return the event type that a vendor's event name stands for; an unknown name becomes a plain word.

    >>> type_of("Order Completed"), type_of("add_to_cart"), type_of("Signed Up!"), type_of("安装")
    ('purchase', 'cart', 'signed_up', '安装')
    """
    folded = " ".join(name.split()).casefold()
    known = _TYPES.get(folded) or _TYPES.get(folded.replace(" ", "_")) or event_type(name)
    if known:
        return known
    word = re.sub(r"\W+", "_", folded).strip("_")[:100]
    return f"_{word}" if word[:1].isdigit() else word or "event"


def of_role(properties: dict[str, object], role: str) -> object:
    """Return the first property that plays a role, or ``None``.

    >>> of_role({"sku": "a1", "price": 3}, "item")
    'a1'
    """
    for name in _ROLES[role]:
        value = properties.get(name)
        if value is not None and value != "" and not isinstance(value, dict | list):
            return value
    return None


@lru_cache(maxsize=4_096)
def is_bot(agent: str) -> bool:
    """Whether a user agent names itself a program (server SDKs are none).

    >>> is_bot("Mozilla/5.0 (compatible; Googlebot/2.1)"), is_bot("analytics-python/2.4.0")
    (True, False)
    """
    return bool(_BOT.search(agent))
