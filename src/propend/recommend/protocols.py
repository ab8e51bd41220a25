"""How a log is cut into what a recommender may learn from and what it is asked: the protocol of every figure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from propend.errors import DataError, NotEnoughDataError
from propend.names import DAY
from propend.recommend.interactions import Histories, Interactions
from propend.recommend.popularity import last_of_pair

__all__ = [
    "Seen",
    "Split",
    "data_hash",
    "forward",
    "given",
    "leave_one_out",
    "random_split",
    "seen_as",
]

I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]
Seen = Literal["hidden", "allowed"]

FLATTERS: Final = (
    "leave-one-out flatters: the model learns from other users' future; use forward for decisions"
)
_REPEATS: Final = 0.1
"""Share of repeats among the test pairs from which repeats are asked for, unless told otherwise."""


@dataclass(frozen=True)
class Split:
    """Learn from ``train``; ask for each of ``users`` the distinct items ``truth[offsets[i]:offsets[i+1]]``.

    ``seen``: whether items a user had met before are hidden (and no answer), or allowed.
    """

    protocol: str
    train: Interactions
    users: I64
    offsets: I64
    truth: I32
    at: int
    seen: Seen = "hidden"
    warning: str = ""
    cold_users: float = 0.0
    """Share of the test users without history."""
    cold_items: float = 0.0
    """Share of the right answers that nobody had met before the cut; they stay in and cannot be found by history."""

    cold: Split | None = None
    """The same question for the users without history, who are judged apart; none: there are none."""

    def __len__(self) -> int:
        return len(self.users)

    @property
    def histories(self) -> Histories:
        """What is known of the test users."""
        return self.train.histories(self.users)

    def sample(self, most: int, seed: int = 0) -> Split:
        """Return the split with at most so many of its users with a history, drawn at random.

        >>> log = Interactions.of([1, 2, 1, 2], [0, 1, 1, 0], np.array([0, 1, 9, 9]) * DAY)
        >>> len(forward(log, 2).sample(1))
        1
        """
        if len(self) <= most:
            return self
        kept = np.sort(np.random.default_rng(seed).permutation(len(self))[:most])
        rows = np.isin(np.repeat(np.arange(len(self)), np.diff(self.offsets)), kept)
        offsets = np.append(0, np.cumsum(np.diff(self.offsets)[kept])).astype(np.int64)
        return replace(self, users=self.users[kept], offsets=offsets, truth=self.truth[rows])

    @property
    def hash(self) -> str:
        """A short hash of what is learnt from and of what is asked, to stand beside each figure."""
        digest = hashlib.sha256(data_hash(self.train).encode())
        for part in (self, self.cold):
            for column in () if part is None else (part.users, part.offsets, part.truth):
                digest.update(np.ascontiguousarray(column).tobytes())
        digest.update(f"{self.at} {self.seen}".encode())
        return digest.hexdigest()[:16]


def seen_as(repeats: bool | None) -> Seen | None:
    """Return what is done with items met before where repeats are wanted or not; None leaves it to the data.

    >>> seen_as(True), seen_as(False), seen_as(None)
    ('allowed', 'hidden', None)
    """
    if repeats is None:
        return None
    return "allowed" if repeats else "hidden"


def forward(log: Interactions, horizon: float | None = None, *, seen: Seen | None = None) -> Split:
    """Learn from the past, ask about the last ``horizon`` days (default: a tenth of the time there is).

    Raises ``NotEnoughDataError`` for a log without a clock, or a horizon that leaves nothing on one side.

    >>> log = Interactions.of([1, 2, 1, 2], [0, 1, 1, 0], np.array([0, 1, 9, 9]) * DAY)
    >>> split = forward(log, 2)
    >>> len(split.train), split.users.tolist(), split.truth.tolist()
    (2, [1, 2], [1, 0])
    """
    if not log.clock:
        raise NotEnoughDataError(
            "a forward split needs times; bring a log with a clock, or use leave-one-out"
        )
    days = (log.last - log.first) / DAY / 10 if horizon is None else horizon
    cut = log.last + 1 - int(days * DAY)
    past = log.time < cut
    if past.all() or not past.any():
        raise NotEnoughDataError(
            f"the log covers {(log.last - log.first) / DAY:.1f} days, so a horizon of {days:g} days leaves "
            "nothing to learn from or to ask; choose a shorter one"
        )
    return _split(f"forward, last {days:g} days", log, past, cut, seen)


def leave_one_out(log: Interactions, *, seen: Seen | None = None) -> Split:
    """Ask for each user's last item, learn from all the rest (of everyone, also what came later)."""
    last = np.zeros(len(log), np.bool_)
    last[log.offsets[1:] - 1] = np.diff(log.offsets) > 1
    if not last.any():
        raise NotEnoughDataError("leave-one-out needs users with two interactions at least")
    return _split("leave-one-out", log, ~last, log.last + 1, seen, FLATTERS)


def random_split(
    log: Interactions, share: float = 0.2, *, seed: int = 0, seen: Seen | None = None
) -> Split:
    """Ask for a random ``share`` of each user's interactions; flatters as leave-one-out does."""
    if not 0 < share < 1:
        raise DataError(f"the share to ask about must lie between 0 and 1, got {share}")
    kept = np.random.default_rng(seed).random(len(log)) >= share
    if kept.all() or not kept.any():
        raise NotEnoughDataError("a random split left one side empty; bring more interactions")
    name = f"random {share:.0%}, seed {seed}"
    return _split(name, log, kept, log.last + 1, seen, FLATTERS.replace("leave-one-out", "random"))


def given(train: Interactions, test: Interactions, *, seen: Seen = "hidden") -> Split:
    """Take a published split as it is."""
    size = max(train.n_items, test.n_items)
    train = Interactions(train.user, train.item, train.time, train.weight, size, train.clock)
    return _asked("given split", train, test, train.last + 1, seen, "")


def data_hash(log: Interactions) -> str:
    """Return a short hash of everything in the log, to stand beside each figure."""
    digest = hashlib.sha256()
    for column in (log.user, log.item, log.time, log.weight):
        digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()[:16]


def _split(
    protocol: str,
    log: Interactions,
    past: npt.NDArray[np.bool_],
    at: int,
    seen: Seen | None,
    warning: str = "",
) -> Split:
    return _asked(protocol, log.select(past), log.select(~past), at, seen, warning)


def _asked(
    protocol: str, train: Interactions, test: Interactions, at: int, seen: Seen | None, warning: str
) -> Split:
    pairs = np.sort(last_of_pair(test))
    user, item = test.user[pairs], test.item[pairs]
    warm = train.rows_of(user) >= 0
    cold_users = 1 - len(np.unique(user[warm])) / max(len(np.unique(user)), 1)
    cold = None
    if not warm.all():
        cold = Split(
            f"{protocol}, cold users",
            train,
            *_by_user(user[~warm], item[~warm]),
            at,
            warning=warning,
        )
    user, item = user[warm], item[warm]
    width = np.int64(train.n_items)
    met = np.isin(user * width + item, np.unique(train.user * width + train.item))
    if seen is None:
        seen = "allowed" if met.mean() > _REPEATS else "hidden"
    if seen == "hidden":
        user, item = user[~met], item[~met]
    if not len(user):
        raise NotEnoughDataError(
            f"no user with a history meets a new item in the test part ({protocol}); nothing can be asked"
        )
    known = np.bincount(train.item, minlength=train.n_items) > 0
    users, offsets, item = _by_user(user, item)
    cold_items = float(1 - known[item].mean())
    return Split(
        protocol,
        train,
        users,
        offsets,
        item,
        at,
        seen,
        warning,
        float(cold_users),
        cold_items,
        cold,
    )


def _by_user(user: I64, item: I32) -> tuple[I64, I64, I32]:
    """Return the users, and where each one's items stand among all."""
    order = np.lexsort((item, user))
    user, item = user[order], item[order]
    users, starts = np.unique(user, return_index=True)
    return users, np.append(starts, len(user)).astype(np.int64), item
