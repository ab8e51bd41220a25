"""The contract every recommender keeps: interactions in, ranked items out, each with where it came from and why.

Public methods check and speak in sentences; a recommender implements ``_learn``, ``_score``,
``_state`` and ``_restore`` on clean arrays, and may say more in ``_alike`` and ``_because``.
``propend.testing.recommenders.check_recommender`` says whether it keeps the contract.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from propend.errors import ModelError, NotEnoughDataError
from propend.models import storage
from propend.models.parameters import read_parameters
from propend.models.storage import State
from propend.recommend.attributes import Attributes, attributes_of, check_attributes, state_of
from propend.recommend.audience import activity, appeal
from propend.recommend.fits import current
from propend.recommend.interactions import Histories, Interactions
from propend.recommend.ranking import NO_OPINION, forbid_seen, top_k

__all__ = ["Items", "NoParameters", "Recommendations", "Recommender", "State", "Who"]

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

Items: TypeAlias = Attributes
"""Item attributes: name → values by item code, float64 with NaN or coded text."""
Who: TypeAlias = npt.ArrayLike | Sequence[npt.ArrayLike]
"""User codes, or sessions: a list of lists of item codes."""

_BLOCK_CELLS: Final = 1 << 23
"""Most scores held at once: 32 MB of float32."""


@dataclass(frozen=True, slots=True)
class NoParameters:
    """A recommender with nothing to set."""


@dataclass(frozen=True)
class Recommendations:
    """Ranked items of each user: [n, k], best first.

    ``users`` are user codes (−1: a session). Where there are fewer than k items to show, ``items``
    is −1 and ``scores`` −∞. ``source`` indexes ``sources``: which recommender an item came from.
    """

    users: I64
    items: I32
    scores: F32
    source: npt.NDArray[np.int8]
    sources: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.users)

    def lists(self) -> list[list[int]]:
        """Return each row's items without the padding."""
        return [[int(i) for i in row if i >= 0] for row in self.items]


class Recommender(ABC):
    """A recommender: ``fit``, ``recommend``, ``similar``, ``scores``, ``update``, ``reason``, ``save``, ``load``.

    Settings are the fields of ``cls.Parameters``; a name or a type that does not fit raises
    ``ModelError``.

    Examples
    --------
    >>> from propend.recommend.popularity import Popularity
    >>> log = Interactions.from_lists([[0, 1], [1, 2], [1]])
    >>> shelf = Popularity().fit(log)
    >>> shelf.recommend([0, 2], k=2).lists()
    [[2], [0, 2]]
    >>> shelf.recommend([[2], []], k=2).lists()   # sessions
    [[1, 0], [1, 0]]
    >>> shelf.reason(0, 2)
    'popular: chosen by 1 of 3 users'
    """

    name: ClassVar[str]
    """The recommender's word in the catalogue."""
    Parameters: ClassVar[type[Any]] = NoParameters
    repeats: bool = False
    """Whether it offers what the user has had already unless told otherwise; some learn it."""
    personal: ClassVar[bool] = True
    """Whether it needs a history to say anything."""
    listwise: ClassVar[bool] = False
    """Whether it builds lists as a whole, so that their order is more than that of the scores."""
    appends: ClassVar[bool] = False
    """Whether ``update`` appends to the histories and leaves what was learnt, instead of learning anew."""
    likeness: ClassVar[str] = "goes with"
    """How the reason of a similar item begins."""
    ordered: ClassVar[bool] = False
    """Whether the order of a history says what comes next: the model of choice for sessions."""
    spreads: ClassVar[bool] = False
    """Whether what ``update`` appends reaches the items too (over a graph), not only its users."""

    shares: ClassVar[bool] = False
    """Whether what it learnt is told by its ``repr`` and its history, and never changed in place (see ``fits``)."""

    parameters: Any
    remark: str = ""
    """What people should know of what it learnt, such as that something simpler answers instead."""

    def __init__(self, **settings: Any) -> None:
        self.parameters = self.check(settings)
        self._log: Interactions | None = None
        self._items: Items = {}
        self._people: Attributes = {}
        self._at = 0
        self._seed = 0

    def __repr__(self) -> str:
        defaults = asdict(self.Parameters())
        changed = {k: v for k, v in asdict(self.parameters).items() if v != defaults[k]}
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in changed.items())})"

    @property
    def label(self) -> str:
        """What people read where an item comes from: the name, or more where that is not enough."""
        return self.name

    @property
    def members(self) -> tuple[str, ...]:
        """The labels of those an item may come from; ``Recommendations.source`` counts through them."""
        return (self.label,)

    @classmethod
    def check(cls, settings: dict[str, Any]) -> Any:
        """Return settings as ``Parameters``; raises ``ModelError`` for a name or a value that does not fit."""
        return read_parameters(cls.name, cls.Parameters, settings)

    def ready(self) -> None:  # noqa: B027 - most need nothing more
        """Raise ``MissingExtraError`` where a library that learning needs is not installed."""

    # ---------------------------------------------------------------- public: checks, then work

    def fit(
        self,
        interactions: Interactions,
        *,
        items: Items | None = None,
        users: Attributes | None = None,
        at: int | None = None,
        seed: int = 0,
    ) -> Self:
        """Learn from what happened before ``at`` (UTC microseconds, default: everything); afresh each time.

        Parameters
        ----------
        items
            item attributes by name, each with one value per item code.
        users
            user attributes by name, each with one value per user code, also those of users who met
            nothing yet; a code past the end has no known value.

        Raises
        ------
        NotEnoughDataError
            no interaction before ``at``.
        ModelError
            an attribute without one value per item.
        """
        log = interactions if at is None else interactions.until(at)
        if not len(log):
            raise NotEnoughDataError(
                f"'{self.name}' needs at least one interaction, and there is none before the cutoff"
            )
        check_attributes(items or {}, "item", log.n_items)
        check_attributes(users or {}, "user")
        self._log, self._items, self._people = log, dict(items or {}), dict(users or {})
        self._seed = seed
        self._at = log.last + 1 if at is None else at
        fits = current() if self.shares else None
        if fits is not None and fits.take(self):
            return self
        try:
            self._learn(log)
        except BaseException:
            self._log = None
            raise
        if fits is not None:
            fits.keep(self)
        return self

    def update(
        self,
        later: Interactions,
        *,
        items: Items | None = None,
        users: Attributes | None = None,
        at: int | None = None,
    ) -> Self:
        """Take in further interactions; the outcome equals ``fit`` on the joined history.

        A recommender that ``appends`` keeps what it learnt and reads the longer histories.
        ``items`` and ``users`` replace the attributes (needed where the catalogue grew).
        """
        log = self._fitted().join(later)
        moment = max(self._at, log.last + 1) if at is None else at
        known = self._items if items is None else items
        people = self._people if users is None else users
        return self.fit(log, items=known, users=people, at=moment, seed=self._seed)

    def recommend(
        self,
        who: Who | None = None,
        k: int = 10,
        *,
        exclude_seen: bool | None = None,
        exclude: npt.ArrayLike | None = None,
        within: npt.ArrayLike | None = None,
        at: int | None = None,
    ) -> Recommendations:
        """Return the k best items of each user or session, best first (ties: smaller item code first).

        Parameters
        ----------
        who
            user codes, or sessions (a list of lists of item codes, oldest first); default every user
            of the fit. A user without history is served as an empty session.
        k
            items per user; past the catalogue, rows are filled up with −1.
        exclude_seen
            leave out what the user has met; default yes, unless the recommender offers repeats.
        exclude, within
            item codes never to show; item codes (or a mask [n_items]) of the catalogue to choose from.
        at
            the moment of the question, default that of the fit; not before it.

        Raises
        ------
        ModelError
            before ``fit``, k below 1, an unknown item code, a moment before the fit's.
        """
        if k < 1:
            raise ModelError(f"k must be 1 or more, got {k}")
        histories = self._histories(who)
        allowed = self._allowed(within, exclude)
        return self._recommend(histories, k, exclude_seen, allowed, self._moment(at))

    def scores(self, who: Who, items: npt.ArrayLike | None = None) -> F32:
        """Return the score of every given user or session for the items (default all): float32 [n, m].

        −∞ where the recommender has no opinion. Nothing is hidden; memory is n × m.
        """
        histories = self._histories(who)
        n_items = self._fitted().n_items
        chosen = np.arange(n_items) if items is None else self._checked_items(items)
        out = np.empty((len(histories), len(chosen)), np.float32)
        for start, block in self._blocks(histories):
            out[start : start + len(block)] = self._score(block, self._at)[:, chosen]
        return out

    def similar(
        self, items: npt.ArrayLike, k: int = 10, *, within: npt.ArrayLike | None = None
    ) -> Recommendations:
        """Return the k items most like each given one, itself left out.

        Raises ``ModelError`` where the recommender knows no likeness of items.
        """
        codes = self._checked_items(items)
        likeness = self._alike(codes)
        likeness[np.arange(len(codes)), codes] = NO_OPINION
        found, best = top_k(likeness, k, self._allowed(within, None))
        source = np.zeros(found.shape, np.int8)
        nobody = np.full(len(codes), -1, np.int64)
        return Recommendations(nobody, found, best, source, (self.label,))

    def audience(self, item: int, k: int = 100) -> tuple[I64, F32]:
        """Return the k users (codes) who would like an item best, of those who have not met it, and how much.

        For campaigns: "who would like this?". Scores of different users are not comparable as they are;
        see ``audience.appeal``.
        """
        code = int(self._checked_items([item])[0])
        speaker = self._speaker(code)
        histories = self._fitted().histories()
        value = np.empty(len(histories), np.float64)
        for start, block in speaker._blocks(histories):
            part = speaker._appeal(block, np.array([code]), self._at)
            value[start : start + len(block)] = part[:, 0]
        value[histories.row[histories.items == code]] = NO_OPINION
        rows, best = top_k(value[None, :].astype(np.float32), min(k, len(value)))
        keep = rows[0] >= 0
        return histories.users[rows[0][keep]], best[0][keep]

    def speaker(self, item: int) -> Recommender:
        """Return the recommender that says who would like an item: itself, or one it is made of."""
        return self._speaker(int(self._checked_items([item])[0]))

    def reason(
        self, who: int | Sequence[int], item: int, *, names: Sequence[str] | None = None
    ) -> str:
        """Return in one sentence why an item is offered to a user (or to a session); ``names`` by item code."""
        asked: Who = [np.asarray(who)] if isinstance(who, Sequence) else [int(who)]
        histories = self._histories(asked)
        code = self._checked_items([item])
        return self._because(histories, code[None, :].astype(np.int32), names)[0][0]

    def reasons(
        self, shown: Recommendations, *, names: Sequence[str] | None = None
    ) -> list[list[str]]:
        """Return a reason for each item of recommendations to users; empty text for padding."""
        out: list[list[str]] = []
        histories = self._histories(shown.users)
        for start, block in self._blocks(histories):
            part = slice(start, start + len(block))
            out += self._told(block, shown.items[part], shown.source[part], shown.sources, names)
        return out

    def state(self) -> State:
        """Everything needed to recommend, as JSON values, plain arrays and texts."""
        log = self._fitted()
        own = self._state()
        header = {
            "recommender": self.name,
            "parameters": asdict(self.parameters),
            "at": self._at,
            "seed": self._seed,
            "n_items": log.n_items,
            "clock": log.clock,
        }
        state = State(header)
        log_arrays: dict[str, npt.NDArray[Any]] = {
            "user": log.user,
            "item": log.item,
            "time": log.time,
            "weight": log.weight,
        }
        state.nest("log", State({}, log_arrays))
        state.nest("items", state_of(self._items))
        state.nest("users", state_of(self._people))
        state.nest("own", own)
        return state

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return the recommender of a state; raises ``ModelError`` for another one's or an incomplete one."""
        try:
            header = state.header
            if header["recommender"] != cls.name:
                raise ModelError(
                    f"this is a '{header['recommender']}' recommender, not '{cls.name}'; use recommend.load"
                )
            made = cls(**header["parameters"])
            made._at, made._seed = header["at"], header["seed"]
            kept = state.part("log").arrays
            made._log = Interactions(**kept, n_items=header["n_items"], clock=header["clock"])
            made._items = dict(attributes_of(state.part("items")))
            made._people = dict(attributes_of(state.part("users")))
            made._restore(state.part("own"))
        except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
            raise ModelError(
                f"the saved '{cls.name}' recommender lacks what this version needs ({error}); fit it anew"
            ) from error
        return made

    def _part(self) -> State:
        """Return the state inside another recommender's, which keeps the history for both."""
        header = {"recommender": self.name, "parameters": asdict(self.parameters)}
        state = State(header)
        state.nest("own", self._state())
        return state

    @classmethod
    def _of_part(cls, state: State, owner: Recommender) -> Self:
        """Undo ``_part``."""
        made = cls(**state.header["parameters"])
        made._log, made._items, made._people = owner._log, owner._items, owner._people
        made._at, made._seed = owner._at, owner._seed
        made._restore(state.part("own"))
        return made

    def save(self, folder: str | Path) -> None:
        """Write the recommender to a new folder: JSON and arrays, no pickle."""
        storage.write(self.state(), Path(folder))

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a recommender that ``save`` wrote; raises ``ModelError`` if it is another's or damaged."""
        return cls.from_state(storage.read(Path(folder)))

    @property
    def history(self) -> Interactions:
        """The interactions it was fitted on."""
        return self._fitted()

    @property
    def at(self) -> int:
        """The moment it was fitted for: nothing at or after it was seen."""
        return self._at

    # ---------------------------------------------------------------- private: the mathematics

    @abstractmethod
    def _learn(self, log: Interactions) -> None:
        """Learn from clean interactions (at least one)."""

    @abstractmethod
    def _score(self, histories: Histories, at: int) -> F32:
        """Score every item for a block of histories: new float32 [b, n_items], −∞ for no opinion."""

    def _propose(self, histories: Histories, at: int) -> tuple[F32, npt.NDArray[np.int8] | None]:
        """Return the scores and which member gave each item [b, n_items]; none: the only one did."""
        return self._score(histories, at), None

    @abstractmethod
    def _state(self) -> State:
        """What ``_learn`` learnt."""

    @abstractmethod
    def _restore(self, state: State) -> None:
        """Undo ``_state``."""

    def _alike(self, items: I64) -> F32:  # noqa: ARG002
        """Score the likeness of every item to each given one: new float32 [m, n_items]."""
        raise ModelError(
            f"'{self.name}' knows no likeness of items; ask an item-to-item recommender"
        )

    def _speaker(self, item: int) -> Recommender:  # noqa: ARG002
        """Return who says how much users want an item; those made of others ask the one that knows it."""
        return self

    def _knows(self, item: int) -> bool:
        """Whether something can be said of an item to users who have not met it."""
        return bool((self._fitted().item == item).any())

    def _appeal(self, histories: Histories, items: I64, at: int) -> npt.NDArray[np.float64]:
        """Say how much a block's users want the items, comparable between users: [b, m], −∞ for no opinion."""
        busy = activity(histories, at, self._fitted().clock)
        return appeal(self._score(histories, at), items, busy)

    def _because(
        self, histories: Histories, items: I32, names: Sequence[str] | None
    ) -> list[list[str]]:
        """Return one sentence for each item [b, k] shown to a block of histories."""
        del names
        return [[self.name if item >= 0 else "" for item in row] for row in items[: len(histories)]]

    # ---------------------------------------------------------------- shared steps

    def _recommend(
        self, histories: Histories, k: int, hide_seen: bool | None, allowed: Bool, at: int
    ) -> Recommendations:
        """Rank block by block, so that users × items never stands in memory as a whole."""
        hide = not self.repeats if hide_seen is None else hide_seen
        items = np.full((len(histories), k), -1, np.int32)
        scores = np.full((len(histories), k), NO_OPINION, np.float32)
        source = np.zeros(items.shape, np.int8)
        for start, block in self._blocks(histories):
            part = slice(start, start + len(block))
            values, member = self._propose(block, at)
            if hide:
                forbid_seen(values, block.offsets, block.items)
            items[part], scores[part] = top_k(values, k, allowed)
            if member is not None:
                source[part] = np.take_along_axis(member, np.maximum(items[part], 0), axis=1)
        return Recommendations(histories.users, items, scores, source, self.members)

    def _answer(self, users: I64, items: I32, scores: F32) -> Recommendations:
        """Return lists that all come from the first member."""
        return Recommendations(users, items, scores, np.zeros(items.shape, np.int8), self.members)

    def _told(
        self,
        histories: Histories,
        items: I32,
        source: npt.NDArray[np.int8],
        sources: tuple[str, ...],
        names: Sequence[str] | None,
    ) -> list[list[str]]:
        """Return the reasons of one block; hybrids ask the source of each item."""
        del source, sources
        return self._because(histories, items, names)

    def _blocks(self, histories: Histories) -> Iterator[tuple[int, Histories]]:
        rows = max(1, _BLOCK_CELLS // max(self._fitted().n_items, 1))
        for start in range(0, len(histories), rows):
            yield start, histories.block(start, min(start + rows, len(histories)))

    def _fitted(self) -> Interactions:
        if self._log is None:
            raise ModelError(f"'{self.name}' has learnt nothing yet; call fit first")
        return self._log

    def _moment(self, at: int | None) -> int:
        if at is None:
            return self._at
        if at < self._at:
            raise ModelError(
                f"'{self.name}' was fitted with what was known at {self._at} and cannot answer as of {at}, "
                "which is earlier; fit it again with at="
            )
        return at

    def _histories(self, who: Who | None) -> Histories:
        log = self._fitted()
        if who is None:
            return log.histories()
        rows = list(who) if not isinstance(who, np.ndarray) else who  # type: ignore[arg-type]
        if len(rows) and np.ndim(rows[0]) == 0:
            codes = np.asarray(rows)
            if codes.dtype.kind not in "iu":
                raise ModelError(
                    "users are given by code (whole numbers), sessions as lists of item codes"
                )
            return log.histories(codes)
        made = Histories.of([np.asarray(row) for row in rows], self._at)
        self._checked_items(made.items)
        return made

    def _checked_items(self, items: npt.ArrayLike) -> I64:
        n_items = self._fitted().n_items
        codes = np.atleast_1d(np.asarray(items))
        if codes.size == 0:
            return np.zeros(0, np.int64)
        if codes.dtype.kind not in "iu":
            raise ModelError("items are given by code (whole numbers); look codes up first")
        wrong = (codes < 0) | (codes >= n_items)
        if wrong.any():
            raise ModelError(
                f"no item with code {int(codes[wrong][0])}: '{self.name}' knows codes 0 to {n_items - 1}"
            )
        return codes.astype(np.int64)

    def _allowed(self, within: npt.ArrayLike | None, exclude: npt.ArrayLike | None) -> Bool:
        n_items = self._fitted().n_items
        allowed = np.ones(n_items, np.bool_)
        if within is not None:
            chosen = np.asarray(within)
            if chosen.dtype == np.bool_:
                if len(chosen) != n_items:
                    raise ModelError(f"'within' masks {len(chosen)} items, there are {n_items}")
                allowed = chosen.copy()
            else:
                allowed[:] = False
                allowed[self._checked_items(chosen)] = True
        if exclude is not None:
            allowed[self._checked_items(exclude)] = False
        return allowed
