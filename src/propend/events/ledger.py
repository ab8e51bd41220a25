"""The store's ledger: what was ingested from which files under which rules, so that nothing is read twice."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from propend.config import Config, EventSource, Source
from propend.events.clean import Finding

__all__ = ["IngestReport", "file_prints", "report_of", "rules_print"]


@dataclass
class IngestReport:
    """What came in, what was kept, what was set aside and why, and what was found on the way."""

    source: str
    rows_in: int = 0
    rows_kept: int = 0
    quarantine: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    files: int = 0
    seconds: float = 0.0
    table: bool = False
    """Whether these are rows of the items or users table, not events."""

    @property
    def rows_quarantined(self) -> int:
        """Rows set aside; together with ``rows_kept`` they are ``rows_in``."""
        return sum(self.quarantine.values())


def rules_print(config: Config, source: EventSource) -> str:
    """Return a fingerprint of everything that decides how this source's rows are read and cleaned."""
    declared = msgspec.json.encode(
        [msgspec.structs.replace(source, files=()), config.clean, config.workspace.zone]
    )
    return hashlib.sha256(declared).hexdigest()[:16]


def file_prints(files: Sequence[Path], source: Source, base: Path) -> list[list[Any]]:
    """Return a fingerprint per file (path, size, moment of change); a database file stands for its tables."""
    paths = list(files)
    if source.database is not None and (base / source.database).is_file():
        paths = [base / source.database]
    return [[str(f), f.stat().st_size, f.stat().st_mtime_ns] for f in paths]


def report_of(source: str, entries: Sequence[dict[str, Any]]) -> IngestReport:
    """Return one report over everything the ledger has of a source."""
    total = IngestReport(source)
    quarantine: Counter[str] = Counter()
    findings: dict[tuple[str, str], Finding] = {}
    for entry in entries:
        total.rows_in += entry["rows_in"]
        total.rows_kept += entry["rows_kept"]
        total.files += len(entry["files"])
        total.seconds += entry["seconds"]
        quarantine.update(entry["quarantine"])
        for found in entry["findings"]:
            name, done = found["name"], found["done"]
            before = findings.get((name, done))
            rows = found["rows"] + (before.rows if before else 0)
            examples = before.examples if before else tuple(found["examples"])
            findings[(name, done)] = Finding(name, rows, 0.0, done, examples)
    total.quarantine = dict(quarantine)
    total.findings = [
        Finding(f.name, f.rows, f.rows / max(total.rows_in, 1), f.done, f.examples)
        for f in findings.values()
    ]
    return total
