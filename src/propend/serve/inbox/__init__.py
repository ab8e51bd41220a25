"""The inbox: what was acknowledged and is not yet in the store. A request is answered after its batch is on the disk.

Two implementations pass the same suite (``propend.testing.inboxes``): SQLite in WAL mode with ``synchronous=FULL``,
and PostgreSQL.
"""

from __future__ import annotations

from pathlib import Path

from propend.serve.inbox.port import (
    MOST_REFUSED,
    MOST_REFUSED_BYTES,
    Batch,
    Claim,
    Inbox,
    InboxError,
    Rejected,
)
from propend.serve.inbox.postgres import PostgresInbox
from propend.serve.inbox.sqlite import SqliteInbox

__all__ = [
    "MOST_REFUSED",
    "MOST_REFUSED_BYTES",
    "Batch",
    "Claim",
    "Inbox",
    "InboxError",
    "PostgresInbox",
    "Rejected",
    "SqliteInbox",
    "open_inbox",
]


def open_inbox(where: str | Path) -> Inbox:
    """Open an inbox: a folder, or a PostgreSQL URL (``postgresql://…``).

    Raises ``MissingExtraError`` where the driver is missing, :class:`InboxError` where the storage cannot be opened.
    """
    text = str(where)
    if text.startswith(("postgresql://", "postgres://")):
        return PostgresInbox(text)
    return SqliteInbox(Path(where))
