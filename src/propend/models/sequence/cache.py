"""The serving form: each user's state is kept, so that one new event costs one step instead of a history."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch

from propend.errors import ModelError
from propend.models.sequence.network import Network, Tokens
from propend.models.sequence.targets import Events, amount_bin, days_bin, gap_bin
from propend.models.sequence.tokens import NONE, SequenceArrays, hour_of_week
from propend.names import DAY, MICROSECONDS

__all__ = ["Cache", "UserState"]

Tensor: TypeAlias = torch.Tensor


@dataclass(frozen=True)
class UserState:
    """What is kept of a user: the trunk's ``state`` after the settled events, and the newest one.

    A trunk that looks at the moment of the question settles an event only when the next one comes;
    for the others ``vector`` is the answer already. ``days``: on how many days the user had come by then.
    """

    state: dict[str, Tensor]
    token: Tensor
    time: int
    days: int
    vector: Tensor | None


class Cache:
    """States of the ``most`` latest users.

    Up to the model's ``length`` events the answers equal those from whole histories. Beyond it, a deep
    attention trunk remembers a little of events that have left its window, which ``warm`` forgets again.

    >>> from propend.models.sequence.settings import Settings
    >>> from propend.models.sequence.tokens import Vocabulary
    >>> cache = Cache(Network(Settings(trunk="gru", size="tiny"), Vocabulary(items=5, clock=False)))
    >>> cache.append(7, item=3, time=0)
    >>> cache.append(7, item=4, time=1)
    >>> cache.vector(7).shape, 8 in cache
    ((32,), False)
    """

    def __init__(self, network: Network, *, most: int = 100_000) -> None:
        self.network = network.eval()
        self.most = most
        self.users: OrderedDict[int, UserState] = OrderedDict()

    def __contains__(self, user: object) -> bool:
        return user in self.users

    def __len__(self) -> int:
        return len(self.users)

    def append(
        self,
        user: int,
        *,
        item: int = NONE,
        type: int = 0,
        channel: int = NONE,
        time: int,
        amount: float = float("nan"),
        days: int | None = None,
        hour: int | None = None,
    ) -> None:
        """Take in a user's next event; ``time`` in UTC microseconds, ``days`` and ``hour`` as in ``SequenceArrays``
        (None: counted on, and by UTC).

        Raises ``ModelError`` for a code outside the vocabulary, or an event before the user's last one.
        """
        known = self.network.vocabulary
        self._check("item", item, known.items, NONE)
        self._check("type", type, known.types, 0)
        self._check("channel", channel, known.channels, NONE)
        old = self.users.get(user)
        if old is not None and time < old.time:
            raise ModelError(
                f"user {user}'s event of {time} comes before the last one of {old.time}; warm the user with the whole history"
            )
        if days is None:
            days = 1 if old is None else old.days + (time // DAY != old.time // DAY)
        if hour is None:
            hour = int(hour_of_week(np.array([time]))[0])
        before = None if old is None else old.time
        with torch.inference_mode():
            token = self._token(item, type, channel, amount, time, before, days, hour)
            trunk = self.network.trunk
            state = trunk.start() if old is None else old.state
            vector = None
            if not trunk.asks:
                vector, state = trunk.step(token, time // MICROSECONDS, time // MICROSECONDS, state)
            elif old is not None:
                _, state = trunk.step(
                    old.token, old.time // MICROSECONDS, time // MICROSECONDS, old.state
                )
        self.users[user] = UserState(state, token, time, days, vector)
        self.users.move_to_end(user)
        while len(self.users) > self.most:
            self.users.popitem(last=False)

    def warm(self, user: int, data: SequenceArrays, index: int) -> None:
        """Set a user's state from a history: user ``index`` of ``data``, its last ``length`` events."""
        self.users.pop(user, None)
        columns = data.user(index)
        count = len(columns["item"])
        first = max(0, count - self.network.settings.length)
        for at in range(first, count):
            event = {name: column[at].item() for name, column in columns.items()}
            self.append(user, **event)

    def vector(self, user: int, now: int | None = None) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Return the vector [d] of a user, as it meets item vectors, asked at ``now`` (microseconds).

        Raises ``ModelError`` for a user without a state.
        """
        kept = self._kept(user)
        with torch.inference_mode():
            hidden = self._hidden(kept, kept.time if now is None else now)
            found: np.ndarray[Any, np.dtype[np.float32]] = (
                self.network.scored(hidden).float().cpu().numpy()
            )
        return found

    def readouts(self, user: int, now: int, days: float) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Return what the heads say of the ``days`` after ``now`` (microseconds), as ``Heads.readouts`` orders it.

        Raises ``ModelError`` for a user without a state, or a network without those heads.

        >>> from propend.models.sequence.settings import HEADS, Settings
        >>> from propend.models.sequence.tokens import Vocabulary
        >>> cache = Cache(Network(Settings(size="tiny", tasks=HEADS), Vocabulary(items=5, types=2)))
        >>> cache.append(7, item=3, type=1, time=0)
        >>> cache.readouts(7, 2 * DAY, days=30).shape  # two types, any, silence
        (4,)
        """
        lacking = [name for name in ("gap", "horizon") if name not in self.network.settings.tasks]
        if lacking:
            raise ModelError(
                f"the network has no head {' and '.join(lacking)}, so there is nothing to read out; train it with tasks=HEADS"
            )
        kept = self._kept(user)
        with torch.inference_mode():
            hidden = self._hidden(kept, now)[None]
            wait = torch.tensor([max(now - kept.time, 0) / DAY], device=hidden.device)
            said = self.network.heads.readouts(
                hidden, wait, torch.full_like(wait, days), amounts=self.network.vocabulary.amounts
            )
            found: np.ndarray[Any, np.dtype[np.float64]] = said[0].double().cpu().numpy()
        return found

    def _kept(self, user: int) -> UserState:
        kept = self.users.get(user)
        if kept is None:
            raise ModelError(
                f"there is no state of user {user}; warm it with the user's history first"
            )
        return kept

    def _hidden(self, kept: UserState, now: int) -> Tensor:
        """Return the trunk's vector [d] after a user's events, as asked at ``now``."""
        if kept.vector is not None:
            return kept.vector
        hidden, _ = self.network.trunk.step(
            kept.token, kept.time // MICROSECONDS, max(kept.time, now) // MICROSECONDS, kept.state
        )
        return hidden

    def _token(
        self,
        item: int,
        type: int,
        channel: int,
        amount: float,
        time: int,
        before: int | None,
        days: int,
        hour: int,
    ) -> Tensor:
        first = np.array([before is None])
        elapsed = np.array([0 if before is None else (time - before) // MICROSECONDS])
        events = Events(
            np.array([item]),
            np.array([type]),
            np.array([channel]),
            amount_bin(np.array([amount])),
            gap_bin(elapsed, first),
            np.array([hour % 24]),
            np.array([hour // 24]),
            days_bin(np.array([days])),
            np.array([time // MICROSECONDS]),
        )
        found: Tensor = self.network.embedding(Tokens.of(events, self.network.device))[0]
        return found

    @staticmethod
    def _check(what: str, code: int, count: int, least: int) -> None:
        if not least <= code < max(count, 1):
            raise ModelError(
                f"{what} {code} is not known to the model, whose {what}s are 0 to {count - 1}"
            )
