"""The words every table speaks: column names, roles and fixed values."""

from __future__ import annotations

from typing import Final

USER: Final = "user"
TIME: Final = "time"
SEQUENCE: Final = "seq"
TYPE: Final = "type"
ITEM: Final = "item"
VALUE: Final = "value"
QUANTITY: Final = "quantity"
PRICE: Final = "price"
SESSION: Final = "session"
TEXT: Final = "text"
CHANNEL: Final = "channel"
MESSAGE: Final = "message_id"
ARRIVAL: Final = "arrival"

ROLES: Final = {
    USER: "who did it",
    TIME: "when it happened",
    TYPE: "what kind of event it was (view, cart, purchase, …)",
    ITEM: "the product, page or article it was about",
    VALUE: "money: what the event was worth in the workspace's currency",
    QUANTITY: "how many pieces",
    PRICE: "money for one piece",
    SESSION: "the visit, basket or order it belonged to",
    TEXT: "free text: a search, a review, a message",
    CHANNEL: "where it came from or went through (email, ads, app, …)",
    MESSAGE: "a unique id the sender gave the event; repeats are the same event",
    ARRIVAL: "when it became known, if later than when it happened",
}
"""Every role a source column can have, with its meaning in one phrase."""

MICROSECONDS: Final = 1_000_000
DAY: Final = 86_400 * MICROSECONDS
