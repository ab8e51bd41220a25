"""People: a store in which all ids of a person are one user, made from the store and the dated facts that link ids.

The store itself keeps every event under the id it came with, so that a fact can be undone. What is asked of many users is
asked of this one beside it, made again where the store or the facts have changed. An event of another id becomes known to the
person when that id was linked to them (arrival), so that nothing sees a link before it was there; live answers, which
join ids as of the moment asked, agree with it.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from propend.events.durable import replace_text
from propend.events.store import Manifest, Store, Writer, sort_order
from propend.names import ARRIVAL, TIME, USER

__all__ = ["Link", "People", "join", "links_of", "resolve"]

MOST: Final = 500
"""Ids of one person; a cluster beyond it is an accident (a shared device, a test id) and is not joined."""
I64 = npt.NDArray[np.int64]


class Link(NamedTuple):
    """Two ids are known to be one person from a moment on (UTC microseconds); ``other`` is who ``one`` turned out to be."""

    time: int
    one: str
    other: str


def links_of(path: Path) -> list[Link]:
    """Return the facts that hold in a file of identity facts, oldest first; none where there is no file.

    A fact holds from when it happened or became known, whichever is later.
    """
    if not path.exists():
        return []
    db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", timeout=30, uri=True)
    try:
        # a file that no server has opened since may lack a column
        there = {row[1] for row in db.execute("pragma table_info(facts)")}
        dates = [c for c in ("arrival", "redone") if c in there]
        known = f"max({', '.join(['time', *dates])})" if dates else "time"
        query = f"select {known} as known, one, other from facts where undone is null order by known, number"
        return [Link(*row) for row in db.execute(query)]
    finally:
        db.close()


def resolve(links: Sequence[Link]) -> dict[str, tuple[str, int]]:
    """Return id → (person, since when) for every id that is not itself the name of its person.

    A person goes by an id that others turned out to be, the first in order where there are several.

    >>> resolve([Link(5, "anon", "u1"), Link(9, "phone", "anon")])
    {'anon': ('u1', 5), 'phone': ('u1', 9)}
    """
    group: dict[str, list[str]] = {}
    for _, one, other in links:
        _unite(group, one, other)
    replaced = {link.one for link in links}
    name: dict[int, str] = {}
    for members in group.values():
        if id(members) not in name and len(members) <= MOST:
            name[id(members)] = min(members, key=lambda i: (i in replaced, i))
    person = {i: name[id(members)] for i, members in group.items() if id(members) in name}
    found: dict[str, tuple[str, int]] = {}
    known: dict[str, list[str]] = {}
    for time, one, other in sorted(links):
        if one not in person:
            continue
        named = person[one]
        sides = [known.get(one, [one]), known.get(other, [other])]
        if sides[0] is not sides[1] and any(named in side for side in sides):
            for i in next(side for side in sides if named not in side):
                found[i] = (named, time)
        _unite(known, one, other)
    return found


def _unite(group: dict[str, list[str]], one: str, other: str) -> None:
    a, b = (group.setdefault(i, [i]) for i in (one, other))
    if a is b:
        return
    a, b = (a, b) if len(a) >= len(b) else (b, a)
    a.extend(b)
    for i in b:
        group[i] = a


class People(Store):
    """A store of people. ``code_of`` knows a person under every id of theirs."""

    @cached_property
    def _person(self) -> dict[str, str]:
        table = self.table("ids")
        if table is None:
            return {}
        return dict(zip(table["id"].to_pylist(), table["person"].to_pylist(), strict=True))

    def code_of(self, user: str) -> int:
        """Return the code of the person behind an id; raises ``DataError`` for one that is not there."""
        return super().code_of(self._person.get(user, user))


def join(base: Store, links: Sequence[Link], folder: Path) -> Store:
    """Return a store of people: the base itself where no id has to be joined, else the one in ``folder``, made up to date.

    Takes a pass over the base where it or the links have changed; the events that change their user are held in memory.
    """
    moving = resolve(links)
    if not moving:
        return base
    stamp = hashlib.sha256(repr((base.manifest.generation, sorted(moving.items()))).encode())
    made = folder / "made-from"
    if Store.exists(folder) and made.exists() and made.read_text() == stamp.hexdigest():
        return People(folder)
    if not Store.exists(folder):
        Store.create(folder, base.buckets)
    store = Store(folder)
    with store.writing() as writer:
        made.unlink(missing_ok=True)
        writer.next = Manifest(
            base.buckets,
            generation=store.manifest.generation + 1,
            next_seq=base.manifest.next_seq,
            items=list(store.manifest.items),
            types=list(base.manifest.types),
            sources=list(base.manifest.sources),
            properties=dict(base.manifest.properties),
            ledger=list(base.manifest.ledger),
            erased=list(base.manifest.erased),
        )
        items = store.item_ids()
        fresh = base.item_ids()
        if fresh[: len(items)] != items:  # the store was made anew
            writer.next.items, items = [], ()
            store.manifest.items, store._items = [], ((), ())
        writer.add_items(fresh[len(items) :])
        _write_events(writer, base, moving)
        _write_tables(writer, base, moving)
        writer.commit()
        replace_text(made, stamp.hexdigest())
    return People(folder)


def _write_events(writer: Writer, base: Store, moving: dict[str, tuple[str, int]]) -> None:
    ids = [base.user_ids(bucket).to_pylist() for bucket in range(base.buckets)]
    names: list[dict[str, int]] = [
        {i: n for n, i in enumerate(u for u in bucket if u is not None and u not in moving)}
        for bucket in ids
    ]
    for person, _ in moving.values():
        home = names[base.bucket_of(person)]
        home.setdefault(person, len(home))
    code: dict[str, int] = {}
    for bucket, home in enumerate(names):
        code |= {i: n * base.buckets + bucket for i, n in home.items()}
    new: list[I64] = []
    since: list[I64] = []
    for bucket in ids:
        person_of = [moving.get(u, (u, -1)) if u is not None else ("", -1) for u in bucket]
        new.append(np.array([code.get(p, -1) for p, _ in person_of], np.int64))
        since.append(np.array([s for _, s in person_of], np.int64))
    columns = base.schema().names
    moved: dict[int, list[pa.Table]] = defaultdict(list)
    for bucket in range(base.buckets):
        there = np.flatnonzero(since[bucket] >= 0)
        if len(there):
            users = pa.array((there * base.buckets + bucket).astype(np.int32))
            part = _renamed(base, bucket, base.read_bucket(bucket, columns, users), new, since)
            home_of = np.asarray(part[USER]) % base.buckets
            for home in np.unique(home_of):
                moved[int(home)].append(part.filter(pa.array(home_of == home)))
    for bucket in range(base.buckets):
        whole = base.read_bucket(bucket, columns)
        stays = since[bucket][np.asarray(whole[USER]) // base.buckets] < 0
        kept = _renamed(base, bucket, whole.filter(pa.array(stays)), new, since)
        table = pa.concat_tables([kept, *moved.pop(bucket, [])]).unify_dictionaries()
        writer.add_users(bucket, pa.array(list(names[bucket]), pa.string()))
        writer.add_run(bucket, table.combine_chunks().take(pa.array(sort_order(table))))


def _renamed(
    base: Store, bucket: int, table: pa.Table, new: list[I64], since: list[I64]
) -> pa.Table:
    """Return events under their new users; those that changed the user are known since the link at the earliest."""
    place = np.asarray(table[USER]).astype(np.int64) // base.buckets
    linked = since[bucket][place]
    at = table.column_names.index(USER)
    table = table.set_column(at, table.schema.field(USER), pa.array(new[bucket][place].astype(np.int32)))  # fmt: skip
    if not (linked >= 0).any():
        return table
    kind = table.schema.field(ARRIVAL).type
    known = pc.coalesce(table[ARRIVAL], table[TIME]).cast(pa.int64())
    later = np.maximum(np.asarray(known), linked)
    at = table.column_names.index(ARRIVAL)
    return table.set_column(at, table.schema.field(ARRIVAL), pa.array(later).cast(kind))


def _write_tables(writer: Writer, base: Store, moving: dict[str, tuple[str, int]]) -> None:
    for name in base.manifest.tables:
        table = base.table(name)
        if table is not None:
            writer.put_table(name, _one_row_each(table, moving) if name == "users" else table)
    ids = sorted(moving)
    writer.put_table("ids", pa.table({"id": ids, "person": [moving[i][0] for i in ids]}))


def _one_row_each(table: pa.Table, moving: dict[str, tuple[str, int]]) -> pa.Table:
    """Return user attributes with one row per person: their own values first, then those of the ids linked earliest."""
    ids = table[USER].to_pylist()
    people = {person for person, _ in moving.values()}
    concerned = [u in moving or u in people for u in ids]
    rows: dict[str, dict[str, object]] = {}
    part = table.filter(pa.array(concerned, pa.bool_())).to_pylist()
    for row in sorted(part, key=lambda r: moving.get(r[USER], ("", -1))[1]):
        person = moving.get(row[USER], (row[USER], -1))[0]
        found = rows.setdefault(person, {**dict.fromkeys(row), USER: person})
        found |= {k: v for k, v in row.items() if found[k] is None}
    others = table.filter(pa.array([not c for c in concerned], pa.bool_()))
    return pa.concat_tables([others, pa.Table.from_pylist(list(rows.values()), table.schema)])
