"""The compiled pass of a program over one user's timeline; see :mod:`propend.features.program`."""

from __future__ import annotations

from typing import Any, Final

import numba as nb
import numpy as np

from propend.events.timelines import BLOCK
from propend.features import kernels as k
from propend.names import DAY, MICROSECONDS

__all__ = ["HOUR_OF", "ITEM_OF", "TYPE_OF", "WEEKDAY_OF", "run_block", "run_program"]

TYPE_OF, ITEM_OF, HOUR_OF, WEEKDAY_OF = -1, -2, -3, -4
"""Where a column of a block comes from, if from no row of numbers."""
_TIME: Final = BLOCK.index("time")
_ARRIVAL: Final = BLOCK.index("arrival")
_TYPE: Final = BLOCK.index("type")
_ITEM: Final = BLOCK.index("item")
_HOUR: Final = 3_600 * MICROSECONDS


@nb.njit(cache=True, nogil=True, error_model="numpy")
def run_program(
    masks: Any,
    tests: Any,
    constants: Any,
    selections: Any,
    aggregates: Any,
    operations: Any,
    kind: Any,
    time: Any,
    arrival: Any,
    day: Any,
    columns: Any,
    coded: Any,
    starts: Any,
    cutoff: int,
    slots: Any,
) -> None:
    """Fill the slots of a program for one user.

    ``masks`` rows: selection of types, first test, test after the last, column that must be there (−1: none).
    ``tests`` rows: column and comparison with the constant. ``aggregates`` rows: kind, which of the kind, window,
    mask, column (of ``coded``, for those that count different values), slot. ``operations`` rows: operator, left slot, right slot, slot.
    """
    n = len(time)
    others = selections.shape[1] - 1
    offsets = np.array([0, n], np.int64)
    user = np.zeros(1, np.int64)
    now = np.array([cutoff], np.int64)
    start = np.empty(1, np.int64)
    low = np.zeros(1, np.int32)
    high = np.empty(1, np.int32)
    first = np.zeros(1, np.int32)
    out = np.empty(1, np.float64)
    k.bounds(offsets, time, user, now, 0, high)
    chosen = np.empty((len(masks), n), np.bool_)
    for m in range(len(masks)):
        for i in range(n):
            yes = selections[masks[m, 0], min(kind[i], others)]
            present = masks[m, 3]
            if yes and present >= 0 and np.isnan(columns[present, i]):
                yes = False
            j = masks[m, 1]
            while yes and j < masks[m, 2]:
                value, op, wanted = columns[tests[j, 0], i], tests[j, 1], constants[j]
                if np.isnan(value):
                    yes = False
                elif op == 0:
                    yes = value == wanted
                elif op == 1:
                    yes = value != wanted
                elif op == 2:
                    yes = value < wanted
                elif op == 3:
                    yes = value <= wanted
                elif op == 4:
                    yes = value > wanted
                else:
                    yes = value >= wanted
                j += 1
            chosen[m, i] = yes
    ranks = np.empty((len(coded), n), np.int32)
    for c in range(len(coded)):
        values = columns[coded[c]]
        order = np.argsort(values)
        rank = 0
        for i in range(n):
            if i > 0 and values[order[i]] != values[order[i - 1]]:
                rank += 1
            ranks[c, order[i]] = rank
    counts = np.empty(n + 1, np.int32)
    prev = np.empty(n, np.int32)
    last = np.empty(n + 1, np.int32)
    nothing = np.zeros(0, np.float64)
    for a in range(len(aggregates)):
        form, what, window = aggregates[a, 0], aggregates[a, 1], aggregates[a, 2]
        mask, column = chosen[aggregates[a, 3]], aggregates[a, 4]
        start[0] = starts[window]
        if start[0] < -(1 << 61):
            low[0] = 0
        else:
            k.bounds(offsets, time, user, start, 0, low)
        if form == 0:
            k.counts_before(mask, counts)
            k.counts_within(what, low, high, counts, first, arrival, now, mask, out)
        elif form == 1:
            k.totals_of_large(what, low, high, arrival, now, mask, columns[column], out)
        elif form == 2:
            last[:] = -1
            k.previous(offsets, mask, ranks[column], last, prev)
            k.count_distinct(low, high, mask, prev, arrival, now, out)
        else:
            values = columns[column] if column >= 0 else nothing
            k.scan(what, low, high, start, now, time, arrival, mask, values, day, out)
        slots[aggregates[a, 5]] = out[0]
    for o in range(len(operations)):
        left, right = slots[operations[o, 1]], slots[operations[o, 2]]
        op = operations[o, 0]
        if op == 0:
            result = left + right
        elif op == 1:
            result = left - right
        elif op == 2:
            result = left * right
        else:
            result = np.nan if right == 0 else left / right
        slots[operations[o, 3]] = result


@nb.njit(cache=True, nogil=True, error_model="numpy")
def run_block(
    block: Any,
    local: Any,
    plan: Any,
    masks: Any,
    tests: Any,
    constants: Any,
    selections: Any,
    aggregates: Any,
    operations: Any,
    coded: Any,
    starts: Any,
    cutoff: int,
    slots: Any,
) -> None:
    """Fill the slots of a program from a block int64 [rows, events]: one call in place of one per column.

    ``plan`` says of each column which row of numbers it is, or ``TYPE_OF`` and the like; ``local`` are the times on the
    zone's wall clock.
    """
    n = block.shape[1]
    columns = np.empty((len(plan), n), np.float64)
    for c in range(len(plan)):
        if plan[c] >= 0:
            columns[c] = block[plan[c]].view(np.float64)
            continue
        for i in range(n):
            if plan[c] == TYPE_OF:
                columns[c, i] = block[_TYPE, i]
            elif plan[c] == ITEM_OF:
                columns[c, i] = block[_ITEM, i] if block[_ITEM, i] >= 0 else np.nan
            elif plan[c] == HOUR_OF:
                columns[c, i] = local[i] % DAY // _HOUR
            else:
                columns[c, i] = (local[i] // DAY + 3) % 7
    run_program(
        masks, tests, constants, selections, aggregates, operations, block[_TYPE], block[_TIME], block[_ARRIVAL], local // DAY,
        columns, coded, starts, cutoff, slots,
    )  # fmt: skip
