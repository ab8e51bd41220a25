"""When the question is asked: forward folds with a purge of one horizon between what trains and what tests.

A row asked at cutoff c has a label that is only known at c + horizon. So what may train for a test at cutoff T is
c + horizon ≤ T: everything later is purged (López de Prado, *Advances in Financial Machine Learning*, 2018, ch. 7).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from propend.errors import ConfigError, NotEnoughDataError
from propend.expression.duration import Duration
from propend.names import DAY

__all__ = ["Fold", "Plan", "plan_cutoffs"]

MOST_TRAINING = 8
"""Most training cutoffs a fold uses (the latest ones)."""


@dataclass(frozen=True)
class Fold:
    """Train on the rows of ``train`` cutoffs, test on those of ``test``; all are UTC microseconds."""

    train: tuple[int, ...]
    test: int


@dataclass(frozen=True)
class Plan:
    """The folds, the cutoffs the final model trains on, and the moment users are scored at."""

    folds: tuple[Fold, ...]
    final: tuple[int, ...]
    now: int
    horizon: Duration
    censored: bool = False
    """Whether training rows may be younger than a horizon, their answer known as far as the test's cutoff (survival)."""

    @property
    def cutoffs(self) -> tuple[int, ...]:
        """Every cutoff with a label, ascending."""
        wanted = {c for fold in self.folds for c in (*fold.train, fold.test)} | set(self.final)
        return tuple(sorted(wanted))

    @property
    def held_out(self) -> int:
        """The first cutoff that any fold holds out of training: what knows nothing from it on neither chose a champion nor saw a test."""
        return self.folds[0].train[-1]

    @property
    def protocol(self) -> str:
        """The protocol in one line, to stand beside every figure."""
        purge = (
            "training labels censored at the test's cutoff"
            if self.censored
            else f"purge {self.horizon}"
        )
        return (
            f"{len(self.folds)} forward folds, {purge}, horizon {self.horizon}, up to {MOST_TRAINING} training cutoffs a fold, "
            f"metrics inside each fold and averaged (AUROC by pairs, others by rows; errors and calibration over all rows), intervals by bootstrap over users{self._overlap}"
        )

    @property
    def _overlap(self) -> str:
        """What a reader must know where tests lie closer together than a horizon."""
        tests = [fold.test for fold in self.folds]
        step = min((b - a for a, b in pairwise(tests)), default=self.horizon.microseconds)
        if step >= self.horizon.microseconds:
            return ""
        return f"; the tests lie {step / DAY:.3g} days apart and overlap, so the folds are not independent"


def plan_cutoffs(
    first: int,
    now: int,
    horizon: Duration,
    *,
    folds: int = 3,
    history: float | None = None,
    censored: bool = False,
) -> Plan:
    """Lay out cutoffs on a log that runs from ``first`` to ``now`` (UTC microseconds).

    The last test is asked one horizon before ``now``; earlier ones step back by up to a horizon. Training cutoffs
    lie half a horizon apart, and ``history`` days of log (default: the shorter of the horizon and 30 days) come before
    the first. With ``censored`` rows up to half a horizon before the test may train, known as far as the test.
    Raises ``NotEnoughDataError`` that says how many days are there and how many are needed.

    >>> plan = plan_cutoffs(0, 365 * DAY, Duration.parse("30d"))
    >>> [fold.test // DAY for fold in plan.folds], all(c + 30 * DAY <= f.test for f in plan.folds for c in f.train)
    ([275, 305, 335], True)
    """
    if folds < 1:
        raise ConfigError(f"at least 1 forward fold is needed, not {folds}")
    ahead = horizon.microseconds
    settle = int((history if history is not None else min(horizon.days, 30)) * DAY)
    latest = now - ahead
    room = latest - (first + settle + ahead)
    if room < 0:
        need = (settle + 2 * ahead) / DAY
        raise NotEnoughDataError(
            f"the log covers {(now - first) / DAY:.0f} days, but a horizon of {horizon} with one forward test needs {need:.0f}; "
            f"ask about a shorter time ahead, or bring an older log"
        )
    count = folds
    step = min(ahead, room // max(count - 1, 1)) if count > 1 else ahead
    while count > 1 and step < ahead // 4:
        count -= 1
        step = min(ahead, room // max(count - 1, 1)) if count > 1 else ahead
    tests = [latest - i * step for i in reversed(range(count))]
    stride = max(ahead // 2, DAY // 24)
    known = stride if censored else ahead
    made = tuple(Fold(_before(test - known, first + settle, stride), test) for test in tests)
    return Plan(made, _before(now - known, first + settle, stride), now, horizon, censored)


def _before(last: int, earliest: int, stride: int) -> tuple[int, ...]:
    """Return cutoffs from ``last`` back to ``earliest``, ``stride`` apart, ascending, at most ``MOST_TRAINING``."""
    count = min(MOST_TRAINING, (last - earliest) // stride + 1)
    return tuple(last - i * stride for i in reversed(range(count)))
