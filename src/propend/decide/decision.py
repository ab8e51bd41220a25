"""A decision: what to do about one user, what it is expected to bring, why, and how likely it was to be chosen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from propend.errors import DataError

__all__ = ["EXCLUDED", "GROUPS", "SCHEMA", "Decision", "Decisions"]

Action = Literal["push", "silent"]
Group = Literal["policy", "explore", "holdout", "excluded"]
GROUPS: Final = ("policy", "explore", "holdout", "excluded")
"""policy: the best action within budget; explore: drawn at random; holdout: silent at random, to measure;
excluded: may not be reached at all (no consent), so that it belongs to no comparison."""
POLICY, EXPLORE, HOLDOUT, EXCLUDED = range(4)

_TEXT: Final = pa.dictionary(pa.int32(), pa.string())
SCHEMA: Final = pa.schema(
    [
        ("user", pa.string()),
        ("action", _TEXT),
        ("item", pa.string()),
        ("channel", _TEXT),
        ("hour", pa.int8()),
        ("at", pa.timestamp("us", "UTC")),
        ("probability", pa.float64()),
        ("expected_value", pa.float64()),
        ("cost", pa.float64()),
        ("expected_profit", pa.float64()),
        ("propensity", pa.float64()),
        ("push_propensity", pa.float64()),
        ("reason", pa.string()),
        ("group", _TEXT),
        ("policy", _TEXT),
    ]
)
"""Columns of a table of decisions; those of :class:`Decision` say what they mean."""


@dataclass(frozen=True)
class Decision:
    """What was decided about one user."""

    user: str
    action: Action
    item: str | None
    """What to show; ``None`` where there is no recommendation, or silence."""
    channel: str | None
    hour: int
    """Hour of the workspace's clock at which the user is reached; −1 for silence."""
    at: datetime | None
    """The next time it is that hour, UTC."""
    probability: float
    """Of a purchase within the horizon without a push."""
    expected_value: float
    """Revenue that a push adds, by the lift it was decided with."""
    cost: float
    """Of the action taken; 0 for silence."""
    expected_profit: float
    """Of a push: ``expected_value · margin − cost of a push``, whatever was chosen."""
    propensity: float
    """Probability with which this action was chosen, over holdout, exploration and budget."""
    push_propensity: float
    """Probability with which a push was chosen: ``propensity`` of a push, 1 − ``propensity`` of silence."""
    reason: str
    group: Group
    policy: str
    """Name and version of the policy."""


@dataclass(frozen=True)
class Decisions:
    """Decisions of one run: a table in ``SCHEMA``, one row per user in the order given, and their summary."""

    table: pa.Table
    budget: float | None = None
    notes: tuple[str, ...] = ()
    """What a reader must know: assumptions, fallbacks, what the budget did to exploration."""
    segments: pa.Array | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return self.table.num_rows

    def __iter__(self) -> Iterator[Decision]:
        for batch in self.table.to_batches(max_chunksize=65_536):
            for row in batch.to_pylist():
                yield Decision(**row)

    def of(self, user: str) -> Decision:
        """Return the decision about a user id; raises ``DataError`` where there is none."""
        position = pc.index(self.table["user"], user).as_py()
        if position < 0:
            raise DataError(f"no decision about user {user!r}; ids are matched letter by letter")
        return Decision(**self.table.slice(position, 1).to_pylist()[0])

    def column(self, name: str) -> npt.NDArray[Any]:
        """Return a column as an array, object for texts."""
        values = self.table[name].combine_chunks()
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        return np.asarray(values.to_numpy(zero_copy_only=False))

    @property
    def pushed(self) -> npt.NDArray[np.bool_]:
        """Who is pushed, bool [n]."""
        return self.column("action") == "push"

    def summary(self) -> dict[str, Any]:
        """Return counts and money as plain data; profit and cost are of the pushes."""
        pushed, group = self.pushed, self.column("group")
        hours, counts = np.unique(self.column("hour")[pushed], return_counts=True)
        return {
            "users": len(self),
            "push": int(pushed.sum()),
            "silent": int((~pushed).sum()),
            "holdout": int((group == "holdout").sum()),
            "explore": int((group == "explore").sum()),
            "excluded": int((group == "excluded").sum()),
            "expected_profit": float(self.column("expected_profit")[pushed].sum()),
            "expected_value": float(self.column("expected_value")[pushed].sum()),
            "cost": float(self.column("cost").sum()),
            "budget": self.budget,
            "by_hour": {str(h): int(n) for h, n in zip(hours, counts, strict=True)},
            "by_segment": self._by_segment(pushed),
            "notes": list(self.notes),
        }

    def _by_segment(self, pushed: npt.NDArray[np.bool_]) -> dict[str, dict[str, float]]:
        if self.segments is None:
            return {}
        coded = self.segments.dictionary_encode()
        codes = np.asarray(pc.fill_null(coded.indices, -1))
        profit = self.column("expected_profit")
        return {
            str(name): {
                "users": int((codes == i).sum()),
                "push": int((pushed & (codes == i)).sum()),
                "expected_profit": float(profit[pushed & (codes == i)].sum()),
            }
            for i, name in enumerate(coded.dictionary.to_pylist())
        }
