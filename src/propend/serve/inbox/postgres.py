"""The inbox in PostgreSQL, for collectors on several machines."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from propend.errors import ConfigError, MissingExtraError
from propend.serve.inbox.port import REFUSED, Batch, Claim, InboxError, Rejected, firsts

__all__ = ["PostgresInbox"]


class PostgresInbox:
    """An inbox in a PostgreSQL schema, for collectors on several machines; needs the extra ``postgres``.

    Positions are given under a lock, so that a reader never sees a later position before an earlier one.
    """

    def __init__(self, url: str, schema: str = "propend") -> None:
        try:
            import psycopg
        except ImportError:
            raise MissingExtraError("an inbox in PostgreSQL", "postgres") from None
        if not schema.isidentifier():
            raise ConfigError(
                f"the PostgreSQL schema {schema!r} is no plain name; use letters, digits and _"
            )
        self._errors = psycopg.Error
        self._connect: Callable[[], Any] = lambda: psycopg.connect(
            url, connect_timeout=10, options=f"-c search_path={schema}"
        )
        self._lock = threading.Lock()
        self._connection: Any = None
        self.schema = schema
        self._run(self._create)

    def _create(self, c: Any) -> None:
        c.execute(f"create schema if not exists {self.schema}")
        c.execute(
            "create table if not exists batches (position bigint primary key, received bigint not null, source text not null,"
            " dialect text not null, route text not null, agent text not null, ip text not null, marks text not null, body bytea not null)"
        )
        c.execute("create table if not exists tip (position bigint not null)")
        c.execute("insert into tip select 0 where not exists (select 1 from tip)")
        c.execute(
            "create table if not exists rejected (number bigserial primary key, received bigint not null, key text not null,"
            " dialect text not null, route text not null, reason text not null, body bytea not null)"
        )
        for column in ("source", "agent", "marks", "asked"):
            c.execute(
                f"alter table rejected add column if not exists {column} text not null default ''"
            )
        c.execute(
            "alter table rejected add column if not exists taken boolean not null default false"
        )
        c.execute("create index if not exists rejected_route on rejected (route)")
        c.execute(
            "create table if not exists names (name bytea primary key, position bigint not null, place int not null)"
        )

    def _run(self, work: Callable[[Any], Any]) -> Any:
        """Run ``work`` in one transaction, on a fresh connection where the old one was lost."""
        with self._lock:
            for attempt in (0, 1):
                try:
                    if self._connection is None or self._connection.closed:
                        self._connection = self._connect()
                    with self._connection.transaction(), self._connection.cursor() as cursor:
                        return work(cursor)
                except self._errors as error:
                    held, self._connection = self._connection, None
                    if attempt == 0 and (held is None or held.closed or held.broken):
                        continue
                    if held is not None:
                        held.close()
                    raise InboxError(
                        f"the PostgreSQL inbox cannot be used ({str(error).strip()})"
                    ) from None
        raise AssertionError("unreachable")

    def append(self, batches: Sequence[Batch]) -> list[int]:
        """Store batches in one transaction; see :class:`Inbox`."""

        def work(c: Any) -> list[int]:
            c.execute("update tip set position = position + %s returning position", (len(batches),))
            first = c.fetchone()[0] - len(batches) + 1
            c.executemany(
                "insert into batches values (%s,%s,%s,%s,%s,%s,%s,%s,%s)",
                [(first + i, *b[:8]) for i, b in enumerate(batches)],
            )
            return list(range(first, first + len(batches)))

        return self._run(work) if batches else []

    def read(self, after: int, limit: int = 1_000, most_bytes: int = 16 << 20) -> list[Batch]:
        """Return the batches after a position; see :class:`Inbox`."""

        def work(c: Any) -> list[Batch]:
            c.execute(
                "select received, source, dialect, route, agent, ip, marks, body, position from"
                " (select *, sum(length(body)) over (order by position) - length(body) as before from batches where position > %s"
                " order by position limit %s) b where before < %s order by position",
                (after, limit, most_bytes),
            )
            return [Batch(*row) for row in c.fetchall()]

        return self._run(work)

    def last(self) -> int:
        """Return the position of the latest batch."""
        return int(self._run(lambda c: c.execute("select position from tip").fetchone()[0]))

    def claim(self, claims: Sequence[Claim]) -> list[bool]:
        """Return which events are the first of their name; see :class:`Inbox`."""

        def work(c: Any) -> list[bool]:
            best = firsts(claims, sorted(range(len(claims)), key=lambda i: claims[i].name))
            c.executemany("insert into names values (%s,%s,%s) on conflict do nothing", best)
            c.execute(
                "select name, position, place from names where name = any(%s)",
                ([f.name for f in best],),
            )
            found = {bytes(name): (position, place) for name, position, place in c.fetchall()}
            return [found[claim.name] == (claim.position, claim.place) for claim in claims]

        return self._run(work) if claims else []

    def trim(self, upto: int) -> int:
        """Remove the batches up to a position; see :class:`Inbox`."""
        return int(
            self._run(
                lambda c: c.execute("delete from batches where position <= %s", (upto,)).rowcount
            )
        )

    def reject(self, rejected: Sequence[Rejected]) -> None:
        """Keep what could not be taken; see :class:`Inbox`."""
        self._run(
            lambda c: c.executemany(
                f"insert into rejected ({REFUSED}) values (%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s)",
                [
                    [v.replace("\0", "") if isinstance(v, str) else v for v in r[:11]]
                    for r in rejected
                ],
            )
        )

    def rejected(
        self, limit: int = 1_000, after: int = 0, most_bytes: int = 64 << 20
    ) -> list[Rejected]:
        """Return what could not be taken; see :class:`Inbox`."""
        query = (
            f"select {REFUSED}, number from (select *, sum(octet_length(body)) over (order by number) - octet_length(body)"
            " as before from rejected where number > %s order by number limit %s) r where before < %s order by number"
        )
        found = self._run(lambda c: c.execute(query, (after, limit, most_bytes)).fetchall())
        return [Rejected(*row) for row in found]

    def refused_routes(self, routes: Sequence[str]) -> set[str]:
        """Return which routes a rejected entry has; see :class:`Inbox`."""
        query = "select route from rejected where route = any(%s)"
        return {row[0] for row in self._run(lambda c: c.execute(query, (list(routes),)).fetchall())}

    def refused_bytes(self) -> int:
        """Return the bytes of all rejected bodies; see :class:`Inbox`."""
        query = "select coalesce(sum(octet_length(body)), 0) from rejected"
        return int(self._run(lambda c: c.execute(query).fetchone()[0]))

    def refused(self) -> int:
        """Return how many rejected entries are kept; see :class:`Inbox`."""
        return int(self._run(lambda c: c.execute("select count(*) from rejected").fetchone()[0]))

    def release(self, numbers: Sequence[int]) -> None:
        """Forget rejected entries; see :class:`Inbox`."""
        self._run(
            lambda c: c.execute("delete from rejected where number = any(%s)", (list(numbers),))
        )

    def check(self) -> None:
        """Write something that changes nothing; see :class:`Inbox`."""
        self._run(lambda c: c.execute("update tip set position = position"))

    def counts(self) -> dict[str, int]:
        """Return what is there; see :class:`Inbox`."""
        query = "select (select count(*) from batches), (select count(*) from rejected), (select count(*) from names), (select position from tip)"
        row = self._run(lambda c: c.execute(query).fetchone())
        return dict(zip(("batches", "rejected", "names", "last"), map(int, row), strict=True))

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
