"""From the inbox into the store: read, give meaning, drop repeats, seal a segment, ingest it, remember the position.

Every step can be cut off and done again. A segment's name holds the positions it covers and stands in the store's
ledger once it is in; so the position is part of the same atomic commit as the events, and a crash neither loses nor
doubles any. Live events pass the same cleaning as every other source.
"""

from __future__ import annotations

import hashlib
import logging
import time as clock
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import pyarrow as pa

from propend.config import Config, EventSource
from propend.engine import Engine
from propend.errors import DataError
from propend.events.consent import MARKS
from propend.events.durable import exclusive, sync_folder, write_parquet
from propend.events.ingest import IngestReport, ingest, replay
from propend.events.store import Store
from propend.serve.dialects.port import Event, Fact, wrapper_of
from propend.serve.identity import Identity
from propend.serve.inbox import MOST_REFUSED, MOST_REFUSED_BYTES, Batch, Claim, Inbox, Rejected
from propend.serve.meaning import meaning

__all__ = ["Arrived", "Mover", "Taken", "live_source", "take"]

_ROLES: Final = (
    "user",
    "time",
    "type",
    "item",
    "value",
    "quantity",
    "price",
    "session",
    "text",
    "channel",
    "message_id",
    "arrival",
)
_log = logging.getLogger("propend.serve")
_MOMENT: Final = pa.timestamp("us", "UTC")


class Arrived(NamedTuple):
    """An event with its place in the order of acceptance."""

    position: int
    place: int
    received: int
    source: str
    event: Event
    imported: bool = False
    """Whether it is history that was brought in, not something that happens now."""


@dataclass
class Taken:
    """What lies in a stretch of the inbox, repeats left out."""

    events: list[Arrived] = field(default_factory=list)
    facts: list[tuple[str, Fact]] = field(default_factory=list)
    refused: list[Rejected] = field(default_factory=list)
    repeats: int = 0
    first: int = 0
    last: int = 0
    """Position of the last batch read; 0 where there was none."""


def take(
    inbox: Inbox,
    after: int,
    limit: int = 2_000,
    most_bytes: int = 16 << 20,
    upto: int | None = None,
) -> Taken:
    """Read a stretch of the inbox; an event is kept where it is the first of its name over the whole history."""
    taken = Taken()
    arrived: list[Arrived] = []
    for batch in inbox.read(after, limit, most_bytes):
        if upto is not None and batch.position > upto:
            break
        taken.first, taken.last = taken.first or batch.position, batch.position
        wrap: Callable[[bytes], bytes] | None = None
        for place, found in enumerate(meaning(batch)):
            if isinstance(found, Event):
                arrived.append(
                    Arrived(
                        batch.position,
                        place,
                        _known(batch, found),
                        batch.source,
                        found,
                        "import" in batch.marks,
                    )
                )
            elif isinstance(found, Fact):
                found.arrival = _known(batch, found)
                taken.facts.append((batch.source, found))
            else:
                wrap = wrap or wrapper_of(batch.body)
                taken.refused.append(
                    Rejected(
                        batch.received, "", batch.dialect, f"{batch.route}#{batch.position}.{place}", found.reason,
                        wrap(found.original), batch.source, batch.agent, batch.marks, taken=True,
                    )
                )  # fmt: skip
    claims = [Claim(_name(a), a.position, a.place) for a in arrived]
    kept = inbox.claim(claims)
    taken.events = [a for a, first in zip(arrived, kept, strict=True) if first]
    taken.repeats = len(arrived) - len(taken.events)
    return taken


def _known(batch: Batch, found: Event | Fact) -> int:
    """Return when an event or fact became known: imported history counts as known when it happened."""
    return found.time if "import" in batch.marks else batch.received


def _name(arrived: Arrived) -> bytes:
    text = f"{arrived.source}\0{arrived.event.message}"
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).digest()


def live_source(config: Config, files: tuple[str, ...] = ()) -> EventSource:
    """Return the declaration under which live events are ingested.

    Its name holds a hash of the rules: where the rules change, later events come under a new name, and those that
    are in the store stay as they were judged.
    """
    live = config.live
    source = EventSource(
        name="live",
        files=files,
        format="parquet",
        roles={role: f"e_{role}" for role in _ROLES},
        properties={**{n: _column("p", i) for i, n in enumerate(live.properties)}, MARKS: MARKS},
        of_user={name: _column("u", i) for i, name in enumerate(live.traits)},
    )
    declared = msgspec.json.encode(
        [msgspec.structs.replace(source, files=()), config.clean, config.workspace.zone]
    )
    return msgspec.structs.replace(source, name=f"live-{hashlib.sha256(declared).hexdigest()[:8]}")


def _column(prefix: str, index: int) -> str:
    return f"{prefix}_{index}"


def segment_table(events: list[Arrived], config: Config) -> pa.Table:
    """Return events as the columns of a segment, in the order of acceptance."""
    live = config.live

    def texts(name: str) -> pa.Array:
        return pa.array([getattr(a.event, name) for a in events], pa.string())

    columns: dict[str, Any] = {
        "e_user": texts("user"),
        "e_time": pa.array([a.event.time for a in events], pa.int64()).cast(_MOMENT),
        "e_type": texts("type"),
        "e_item": texts("item"),
        **{
            f"e_{n}": pa.array([getattr(a.event, n) for a in events], pa.float64())
            for n in ("value", "quantity", "price")
        },
        **{f"e_{n}": texts(n) for n in ("session", "text", "channel")},
        "e_message_id": pa.array([f"{a.source}/{a.event.message}" for a in events], pa.string()),
        "e_arrival": pa.array([a.received for a in events], pa.int64()).cast(_MOMENT),
        "position": pa.array([a.position for a in events], pa.int64()),
        "place": pa.array([a.place for a in events], pa.int32()),
        "source": pa.array([a.source for a in events], pa.string()),
        "name": texts("name"),
        "anonymous": texts("anonymous"),
        MARKS: texts("marks"),
    }
    for i, (name, kind) in enumerate(live.properties.items()):
        columns[_column("p", i)] = _values([a.event.properties.get(name) for a in events], kind)
    for i, name in enumerate(live.traits):
        columns[_column("u", i)] = _values([a.event.traits.get(name) for a in events], "text")
    return pa.table(columns)


def _values(values: list[Any], kind: str) -> pa.Array:
    if kind == "number":
        good = [float(v) if isinstance(v, int | float) and abs(v) < 1e300 else None for v in values]
        return pa.array(good, pa.float64())
    return pa.array(
        [None if v is None or isinstance(v, dict | list) else str(v)[:1_000] for v in values],
        pa.string(),
    )


class Mover:
    """Drains an inbox into a workspace's store. One at a time; a second one is refused."""

    def __init__(
        self,
        config: Config,
        base: Path,
        store_folder: Path,
        engine: Engine,
        inbox: Inbox,
        identity: Identity,
    ) -> None:
        self.config, self.base, self.store_folder = config, base, store_folder
        self.engine, self.inbox, self.identity = engine, inbox, identity
        self.folder = base / "live" / "segments"
        self.moved = 0
        self.repeats = 0
        self.unkept = 0
        self.set_aside: Counter[str] = Counter()
        """How many of the moved events the cleaning set aside, by reason."""
        self.seconds = 0.0
        self.first: Callable[[int | None], int] | None = None
        """Done before everything is moved: takes how far to move, returns how far that may be."""

    def position(self) -> int:
        """Return the position up to which the inbox is in the store."""
        return 0 if not Store.exists(self.store_folder) else moved_to(Store(self.store_folder))

    def step(
        self, limit: int = 20_000, most_bytes: int = 64 << 20, upto: int | None = None
    ) -> IngestReport | None:
        """Move one stretch (no further than ``upto``); returns what became of it, ``None`` where nothing was waiting.

        Raises ``DataError`` where the store is being written by another process; nothing is lost then.
        """
        with exclusive(self.base / "live", "the live folder"):
            position = self._settle()
            started = clock.perf_counter()
            taken = take(self.inbox, position, limit, most_bytes, upto)
            if not taken.last:
                return None
            self.identity.add(taken.facts, durable=True)  # what they came from goes
            self._refuse(taken.refused)
            report = IngestReport("live")
            if taken.events:
                report = self._ingest(taken)
                # the report is about the whole source, the ledger's last entry about this segment
                self.set_aside.update(Store(self.store_folder).manifest.ledger[-1]["quarantine"])
            else:
                self._mark(taken.last)
            self.moved += len(taken.events)
            self.repeats += taken.repeats
            self.seconds += clock.perf_counter() - started
            self._settle()
            return report

    def drain(self, upto: int | None = None) -> int:
        """Move everything that is waiting (up to a position); returns the number of events moved."""
        before = self.moved
        if self.first is not None:
            upto = self.first(upto)
        while self.step(upto=upto) is not None:
            pass
        return self.moved - before

    def replay(self) -> list[IngestReport]:
        """Send live events that the cleaning set aside through the rules as they are now."""
        store = Store(self.store_folder)
        names = [n for n in store.manifest.sources if n.startswith("live-")]
        current = live_source(self.config)
        sources = tuple(msgspec.structs.replace(current, name=n) for n in names)
        config = msgspec.structs.replace(self.config, events=sources)
        return replay(config, self.base, self.store_folder, self.engine)

    def _ingest(self, taken: Taken) -> IngestReport:
        path = self.folder / f"{taken.first:015d}-{taken.last:015d}.parquet"
        write_parquet(segment_table(taken.events, self.config), path)
        sync_folder(self.folder)
        # absolute: a source's relative files are looked for in the workspace's folder
        source = live_source(self.config, (str(path.absolute()),))
        return ingest(self.config, self.base, self.store_folder, self.engine, only=source)[0]

    def _refuse(self, refused: list[Rejected]) -> None:
        """Keep what could not be understood, once, as long as there is room for it."""
        if not refused:
            return
        known = self.inbox.refused_routes([r.route for r in refused])
        fresh = [r for r in refused if r.route not in known]
        left, room = (
            MOST_REFUSED - self.inbox.refused(),
            MOST_REFUSED_BYTES - self.inbox.refused_bytes(),
        )
        kept: list[Rejected] = []
        for entry in fresh:
            room -= len(entry.body)
            if len(kept) < left and room >= 0:
                kept.append(entry)
        self.inbox.reject(kept)
        if len(kept) < len(fresh):
            self.unkept += len(fresh) - len(kept)
            _log.warning("no room for %d refused events; propend move --replay, or forget some", len(fresh) - len(kept))  # fmt: skip

    def _settle(self) -> int:
        """Fold the ledger's live entries into one without files, trim the inbox, remove segments; returns the position."""
        if not Store.exists(self.store_folder):
            return 0
        store = Store(self.store_folder)
        position = moved_to(store)
        if any(e["files"] for e in store.manifest.ledger if is_live(e)):
            self._mark(position)
        if position:
            self.inbox.trim(position)
        for path in self.folder.glob("*.parquet"):
            path.unlink(missing_ok=True)
        return position

    def _mark(self, position: int) -> None:
        """Write the position into the ledger, in one commit."""
        if not Store.exists(self.store_folder):
            Store.create(self.store_folder, self.config.workspace.buckets or 4)
        store = Store(self.store_folder)
        with store.writing() as writer:
            folded: dict[str, dict[str, Any]] = {}
            others = []
            for entry in writer.next.ledger:
                if is_live(entry):
                    folded[entry["source"]] = _fold(folded.get(entry["source"]), entry)
                else:
                    others.append(entry)
            current = live_source(self.config).name
            mine = folded.setdefault(current, {}) if not folded else folded[list(folded)[-1]]
            if not mine:
                mine.update(source="live-", rules="", files=[], rows_in=0, rows_kept=0, quarantine={}, findings=[], seconds=0.0, columns={}, at="", replayed=False)  # fmt: skip
            mine["position"] = max(position, mine.get("position", 0))
            writer.next.ledger = [*others, *folded.values()]
            writer.commit()


def is_live(entry: dict[str, Any]) -> bool:
    """Whether a ledger entry is about live events."""
    return str(entry.get("source", "")).startswith("live-")


def moved_to(store: Store) -> int:
    """Return the inbox position up to which a store holds everything."""
    position = 0
    for entry in store.manifest.ledger:
        if is_live(entry):
            named = [int(Path(file[0]).stem.partition("-")[2]) for file in entry["files"]]
            position = max([position, int(entry.get("position", 0)), *named])
    return position


def _fold(total: dict[str, Any] | None, entry: dict[str, Any]) -> dict[str, Any]:
    """Add an entry to the sum of a source's entries; what it says of files becomes a position."""
    named = [int(Path(file[0]).stem.partition("-")[2]) for file in entry["files"]]
    position = max([int(entry.get("position", 0)), *named], default=0)
    if total is None:
        return {**entry, "files": [], "position": position}
    quarantine = dict(total["quarantine"])
    for reason, n in entry["quarantine"].items():
        quarantine[reason] = quarantine.get(reason, 0) + n
    return {
        **entry,
        "files": [],
        "position": max(position, total.get("position", 0)),
        "rows_in": total["rows_in"] + entry["rows_in"],
        "rows_kept": total["rows_kept"] + entry["rows_kept"],
        "seconds": total["seconds"] + entry["seconds"],
        "quarantine": quarantine,
        "findings": [*total["findings"], *entry["findings"]][-50:],
    }


def check_folder(base: Path) -> Path:
    """Return the folder of the live parts of a workspace; raises ``DataError`` where it cannot be made."""
    folder = base / "live"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"the folder {folder} cannot be made ({error.strerror}); choose a workspace on a disk that can be written"
        ) from None
    return folder
