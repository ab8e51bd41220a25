"""Who is asked: user attributes in the order of a bucket's users, and the users for whom an expression holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from propend.errors import ExpressionError
from propend.events.store import Store
from propend.events.timelines import Column, Timelines
from propend.expression.nodes import Expression, Field
from propend.expression.parse import parse
from propend.features.evaluate import Rows, Values, evaluate
from propend.features.schema import Schema, attribute_columns
from propend.names import USER

__all__ = ["profiles", "who_filter"]

Bool = npt.NDArray[np.bool_]


def profiles(store: Store, schema: Schema) -> Callable[[Timelines], Mapping[str, Values]]:
    """Return a function from a bucket's timelines to its users' attributes (missing where a user has no row)."""
    table = store.table("users") if schema.users else None
    ids = None if table is None else table[USER].combine_chunks()
    attributes = {} if ids is None else attribute_columns(table, USER, tuple(ids.to_pylist()))

    def of(timelines: Timelines) -> Mapping[str, Values]:
        if ids is None or not len(timelines.users):
            return {}
        bucket = int(timelines.users[0] % store.buckets)
        names = store.user_ids(bucket).take(pa.array(timelines.users // store.buckets))
        at = np.asarray(pc.fill_null(pc.index_in(names, value_set=ids), -1))
        return {
            name: Column(np.append(v.codes, -1)[at].astype(np.int32), v.values)
            if isinstance(v, Column)
            else np.append(v, np.nan)[at]
            for name, v in attributes.items()
        }

    return of


def who_filter(
    store: Store, schema: Schema, who: str | Expression | None, moment: int
) -> tuple[list[str], Callable[[Timelines], Bool] | None]:
    """Return the columns and a function that says for each user whether ``who`` holds at ``moment``.

    ``profile.country = 'DE'``, ``count(purchase) >= 2`` and the like; it may not look past the moment.
    """
    if who is None:
        return [], None
    asked = parse(who) if isinstance(who, str) else who
    schema.check(asked, forward=False)
    columns = schema.columns_for([asked])
    inner = [p for p in asked.parts() if isinstance(p, Field) and p.path[0] != "profile"]
    fields = [a.field for a in asked.aggregates() if a.field is not None]
    if any(f.split(".")[0] == "item" for f in fields) or any(
        p.path[0] == "item" or p.path[0] in schema.items for p in inner
    ):
        columns.append("item")
    profile = profiles(store, schema)

    def holds(timelines: Timelines) -> Bool:
        rows = Rows.every(len(timelines.users), [moment])
        value = evaluate([asked], timelines, rows, schema, profile=profile(timelines))[0]
        if isinstance(value, Column):
            raise ExpressionError(
                f"{asked} is a text, not a condition; compare it, for example with = 'x'"
            )
        return (value != 0) & ~np.isnan(value)

    return columns, holds
