"""Who would like an item: scores made comparable between users, and how well they rank the users who come."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from propend.names import DAY
from propend.recommend.interactions import Histories
from propend.recommend.ranking import NO_OPINION

if TYPE_CHECKING:
    from propend.recommend.protocols import Split
    from propend.recommend.recommender import Recommender

__all__ = ["activity", "appeal", "audience_auc"]

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

_HALF_LIFE: Final = 30.0
_FLOOR: Final = 1e-3
"""Activity of a user who has been silent for very long: the logarithm must stay finite."""
_ITEMS: Final = 200
_USERS: Final = 5_000
_FEWEST: Final = 5
"""Fewest users who came, and who did not, for an item's figure to say something."""


def activity(histories: Histories, at: int, clock: bool) -> F64:
    """Return each history's interactions, those of 30 days ago counting half; without a clock their number.

    >>> one = Histories.of([[0, 1], []], now=0)
    >>> activity(one, 0, False).tolist()
    [2.0, 0.0]
    """
    loud = np.ones(len(histories.items))
    if clock:
        loud = np.exp2(-np.maximum(at - histories.time, 0) / (_HALF_LIFE * DAY))
    return np.bincount(histories.row, loud, len(histories)).astype(np.float64)


def appeal(scores: F32, items: I64, busy: F64) -> F64:
    """Return how much users want some items, comparable between users: float64 [b, m], −∞ for no opinion.

    An item's score counts in standard deviations above the user's mean score of all items (an item without opinion has the
    lowest), since raw scores grow with the history; the logarithm of the user's recent activity is added:
    who comes at all decides as much as who likes it. ``scores`` [b, n_items], ``busy`` [b] of ``activity``.

    >>> scores = np.array([[2.0, 0.0, 0.0], [20.0, 0.0, 20.0]], np.float32)
    >>> appeal(scores, np.array([0]), np.ones(2)).round(1).tolist()
    [[1.4], [0.7]]
    """
    known = np.isfinite(scores)
    low = np.where(known, scores, np.inf).min(axis=1, initial=np.inf)
    filled = np.where(known, scores, np.where(np.isfinite(low), low, 0.0)[:, None]).astype(float)
    spread = filled.std(axis=1, keepdims=True) + 1e-9
    level = (filled[:, items] - filled.mean(axis=1, keepdims=True)) / spread
    out: F64 = level + np.log(_FLOOR + busy)[:, None]
    out[~known[:, items]] = NO_OPINION
    return out


def audience_auc(recommender: Recommender, split: Split, *, seed: int = 0) -> dict[str, Any] | None:
    """Return how well a recommender ranks all users of the past by who then meets an item for the first time.

    The mean over items of the AUC (.5: no better than chance); the items are the up to 200 with the most
    newcomers, at least five; users who met the item already are left out, at most 5,000 are asked, all who
    came among them. None where no item has newcomers enough.
    """
    train = split.train
    width = np.int64(train.n_items)
    owner = np.repeat(split.users, np.diff(split.offsets))
    met = np.unique(train.user * width + train.item)
    fresh = ~np.isin(owner * width + split.truth, met)
    owner, truth = owner[fresh], split.truth[fresh]
    count = np.bincount(truth, minlength=train.n_items)
    items = np.argsort(-count, kind="stable")[:_ITEMS]
    items = items[count[items] >= _FEWEST]
    if not len(items):
        return None
    came = np.unique(owner[np.isin(truth, items)])[:_USERS]
    rest = np.setdiff1d(train.users, came)
    drawn = np.random.default_rng(seed).permutation(len(rest))[: max(_USERS - len(came), 0)]
    users = np.sort(np.concatenate([came, rest[drawn]]))
    histories = train.histories(users)
    speakers = [recommender._speaker(int(item)) for item in items]
    value = np.empty((len(users), len(items)))
    for speaker in {id(s): s for s in speakers}.values():
        mine = np.array([n for n, s in enumerate(speakers) if s is speaker])
        for start, block in speaker._blocks(histories):
            rows = slice(start, start + len(block))
            value[rows, mine] = speaker._appeal(block, items[mine], split.at)
    pairs = users[:, None] * width + items[None, :]
    newcomer, before = _among(pairs, np.unique(owner * width + truth)), _among(pairs, met)
    figures = []
    for column in range(len(items)):
        open_to = ~before[:, column]
        y = newcomer[open_to, column]
        if y.sum() >= _FEWEST and (~y).sum() >= _FEWEST:
            figures.append(_auc(value[open_to, column], y))
    if not figures:
        return None
    return {"auc": round(float(np.mean(figures)), 4), "items": len(figures), "users": len(users)}


def _among(keys: npt.NDArray[np.int64], known: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return which keys are among known ones, which are sorted."""
    place = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.asarray(known[place] == keys)


def _auc(value: F64, y: npt.NDArray[np.bool_]) -> float:
    """Return the chance that one who came stands above one who did not; ties count half."""
    ordered = np.sort(value[~y])
    below = np.searchsorted(ordered, value[y], side="left")
    upto = np.searchsorted(ordered, value[y], side="right")
    return float((below + upto).mean() / (2 * len(ordered)))
