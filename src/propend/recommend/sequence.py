"""Sequence models as recommenders: what comes next after a history, by GRU, LSTM, CNN, Caser, Transformer or HSTU.

They need the extra ``deep``. The networks are in ``propend.models.sequence``; here they meet interactions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Literal, Self

import numpy as np
import numpy.typing as npt
from msgspec import Meta

from propend.errors import MissingExtraError, ModelError
from propend.events.timelines import Column
from propend.learn.item_features import features_of
from propend.models.sequence.encoder import encode_texts
from propend.models.sequence.settings import Settings
from propend.models.sequence.tokens import ItemFeatures, SequenceArrays, Vocabulary
from propend.names import MICROSECONDS
from propend.recommend.attributes import Attributes, check_attributes, since
from propend.recommend.interactions import Histories, Interactions
from propend.recommend.popularity import Popularity
from propend.recommend.ranking import NO_OPINION, forbid_seen
from propend.recommend.recommender import Items, Recommender, State

__all__ = [
    "Caser",
    "Cnn",
    "Gru",
    "Hstu",
    "Lstm",
    "SequenceParameters",
    "SequenceRecommender",
    "Transformer",
]

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]

LEAST_STEPS: Final = 50
"""Fewest steps from one item to the next that a network is trained on; with fewer, popularity answers."""
_STRENGTHS: Final = 64
_REPEATS: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceParameters:
    """Settings of a sequence recommender; those not named here are the dial's (``models.sequence.size``).

    ``length``: events of a history that are read, the last ones. ``loss``: ``full`` cross-entropy in bounded
    memory, or ``sampled`` softmax and ``gbce`` with ``negatives``; ``auto``: full up to 30,000 items.
    ``temperature`` above 0 scores by cosine. ``time_bias`` lets attention see elapsed time (``query``: up to the
    moment of the question). ``features``: items also have vectors of their attributes, names and descriptions (and of
    attributes that are vectors already, such as pictures'), so that new items can be scored. ``encoder``: a local folder with a Hugging Face text encoder for the item attribute ``text``.
    ``validation``: users whose last item decides when to stop; ``patience`` epochs without a gain. They are drawn at
    ``random``, or those whose last event is ``latest``: for a log whose taste drifts, as anonymous sessions' does.
    """

    size: str = "small"
    width: Annotated[int, Meta(ge=1)] | None = None
    depth: Annotated[int, Meta(ge=1)] | None = None
    length: Annotated[int, Meta(ge=2)] = 50
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.3
    time_bias: Literal["none", "event", "query"] = "none"
    loss: Literal["auto", "full", "sampled", "gbce"] = "auto"
    negatives: Annotated[int, Meta(ge=1)] = 512
    negative_power: Annotated[float, Meta(ge=0, le=1)] = 0.0
    temperature: Annotated[float, Meta(ge=0)] = 0.0
    learning_rate: Annotated[float, Meta(gt=0)] | None = None
    weight_decay: Annotated[float, Meta(ge=0)] = 0.01
    tokens: Annotated[int, Meta(ge=1)] | None = None
    epochs: Annotated[int, Meta(ge=1)] = 40
    patience: Annotated[int, Meta(ge=1)] = 4
    average: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    validation: Annotated[int, Meta(ge=0)] = 1_024
    held_out: Literal["random", "latest"] = "random"
    features: bool = False
    encoder: str | None = None
    text: str = "name"
    threads: Annotated[int, Meta(ge=1)] | None = None
    device: str = "auto"


class SequenceRecommender(Recommender):
    """What comes next after a history: the product of a network's vector of it and each item's vector.

    ``update`` appends events to the histories and leaves the network as it is; ``fit`` learns anew. An item that
    is new since has no vector: in a history it is read as an event without an item, and it is not offered, which
    ``remark`` says. With ``features`` its attributes (``update(items=…)``) give it a vector, by what was learnt of
    their values; those of the items learnt from stay as they were. A log of fewer than 50 steps from item to item is
    answered by popularity, and ``remark`` says so.

    Examples
    --------
    >>> log = Interactions.from_lists([[0, 1, 2, 0, 1]] * 20)
    >>> shelf = Gru(size="tiny", epochs=2, threads=1).fit(log)  # doctest: +SKIP
    >>> shelf.update(Interactions.from_lists([[0, 3]], users=[99])).remark  # doctest: +SKIP
    "1 item is new since 'gru' learnt and has no vector: read in histories, offered from the next fit on"
    """

    Parameters = SequenceParameters
    parameters: SequenceParameters
    appends: ClassVar[bool] = True
    shares = True
    trunk: ClassVar[str]

    _network: Any = None
    _vectors: F32
    _strengths: F32
    _known: npt.NDArray[np.bool_]
    _learnt: int
    """Items the network was trained on; those past it came later."""
    _noted: str
    """What the training said; ``remark`` adds what has changed since."""
    _simple: Popularity | None = None

    # ---------------------------------------------------------------- learning

    def ready(self) -> None:
        """Ask for torch."""
        _library()

    def _learn(self, log: Interactions) -> None:
        training = _library()
        self._simple, self.remark, self._network = None, "", None
        steps = int(np.maximum(np.diff(log.offsets) - 1, 0).sum())
        if steps < LEAST_STEPS:
            self.remark = (
                f"{steps} steps from one item to the next are too few for '{self.name}', "
                f"which needs {LEAST_STEPS}: popularity answers instead"
            )
            self._simple = Popularity().fit(log, items=self._items, at=self._at, seed=self._seed)
            return
        self._strengths = np.unique(log.weight)[:_STRENGTHS].astype(np.float32)
        self._known = np.bincount(log.item, minlength=log.n_items) > 0
        self._learnt = log.n_items
        features = self._features(self._items, log.n_items)
        if features is not None:
            self._known = np.ones(log.n_items, np.bool_)
        vocabulary = Vocabulary(
            items=log.n_items,
            types=len(self._strengths),
            clock=log.clock,
            features=() if features is None else features.described,
            dense=0 if features is None else features.width,
        )
        data = self._arrays(log.histories())
        shown, judge = self._held_out(data, log)
        run = training.train(
            shown, vocabulary, self._settings(log.n_items), features=features, judge=judge
        )
        self.remark = self._noted = "; ".join(run.notes)
        self.run = run.summary()
        self._settle(run.network)

    def _settings(self, n_items: int) -> Settings:
        p = self.parameters
        loss = p.loss
        if loss == "auto":
            loss = "full" if n_items <= 30_000 else "sampled"
        return Settings(
            trunk=self.trunk,
            size=p.size,
            width=p.width,
            depth=p.depth,
            length=p.length,
            dropout=p.dropout,
            time_bias=p.time_bias,
            loss=loss,
            negatives=p.negatives,
            negative_power=p.negative_power,
            temperature=p.temperature,
            learning_rate=p.learning_rate,
            weight_decay=p.weight_decay,
            tokens=p.tokens,
            epochs=p.epochs,
            patience=p.patience,
            average=p.average,
            threads=p.threads,
            device=p.device,
            seed=self._seed,
        )

    def _settle(self, network: Any) -> None:
        """Keep a network ready to answer, on the CPU, where lists are made."""
        import torch

        self._network = network.cpu().eval()
        with torch.no_grad():
            self._vectors = network.item_vectors().detach().numpy().copy()

    def _features(
        self, items: Items, count: int, learnt: Items | None = None
    ) -> ItemFeatures | None:
        """Return what is known of ``count`` items, in the codes of those ``learnt`` from."""
        p = self.parameters
        if not p.features and p.encoder is None:
            return None
        vectors = None if p.encoder is None else encode_texts(self._texts(items), p.encoder)
        if not p.features:
            items, learnt = {}, None
        return features_of(items, count, vectors, learnt=learnt)

    def _texts(self, items: Items) -> list[str]:
        column = items.get(self.parameters.text)
        if not isinstance(column, Column):
            raise ModelError(
                f"'{self.name}' is to encode the item attribute '{self.parameters.text}', and the items have no "
                "such text; name another one with text="
            )
        return [column.values[c] if c >= 0 else "" for c in column.codes]

    def _arrays(self, histories: Histories) -> SequenceArrays:
        """Return histories as sequences; how strongly an item was met is the event's type.

        Interactions hold no more: channel and amount are for the behaviour model, which reads the log.
        """
        at = np.searchsorted(self._strengths, histories.weight)
        kind = np.minimum(at, len(self._strengths) - 1)
        return SequenceArrays.of(
            histories.offsets, histories.items, type=kind, time=histories.time, end=self._at
        )

    def _held_out(self, data: SequenceArrays, log: Interactions) -> tuple[SequenceArrays, Any]:
        """Hide the last event of some users from training; return the rest, and a judge by those events."""
        size = np.diff(data.offsets)
        able = np.flatnonzero(size >= 3)
        count = min(self.parameters.validation, len(able) // 5)
        if count < 10:
            return data, None
        stops = data.offsets[1:].copy()
        if self.parameters.held_out == "latest":
            order = np.argsort(-np.asarray(data.time[stops[able] - 1]), kind="stable")
        else:
            order = np.random.default_rng(self._seed).permutation(len(able))
        users = np.sort(able[order[:count]])
        target = np.asarray(data.item[stops[users] - 1])
        moments = np.asarray(data.time[stops[users] - 1]) // MICROSECONDS
        stops[users] -= 1
        shown = data.cut(stops)
        asked = shown.take(users)
        repeated = [
            bool((data.user(u)["item"][:-1] == t).any())
            for u, t in zip(users.tolist(), target, strict=True)
        ]
        hide = float(np.mean(repeated)) <= _REPEATS
        rows = max(1, (1 << 23) // log.n_items)

        def judge(network: Any) -> float:
            import torch

            gain = 0.0
            items = network.item_vectors()
            vectors = network.scored(network.last(asked, moments))
            for start in range(0, len(users), rows):
                part = slice(start, start + rows)
                scores = torch.matmul(vectors[part], items.T).float().cpu().numpy()
                if hide:
                    offsets = asked.offsets[start : start + len(scores) + 1]
                    forbid_seen(scores, offsets - offsets[0], asked.item[offsets[0] : offsets[-1]])
                mine = scores[np.arange(len(scores)), target[part]][:, None]
                rank = (scores >= mine).sum(axis=1)
                gain += float((1 / np.log2(rank + 1))[(rank <= 10) & np.isfinite(mine[:, 0])].sum())
            return gain / len(users)

        return shown, judge

    # ---------------------------------------------------------------- answering

    def _score(self, histories: Histories, at: int) -> F32:
        if self._simple is not None:
            return self._simple._score(histories, at)
        scores = np.full((len(histories), len(self._vectors)), NO_OPINION, np.float32)
        there = np.flatnonzero(np.diff(histories.offsets) > 0)
        if len(there):
            vectors = self.vectors(histories.block(0, len(histories)), at)[there]
            scores[there] = vectors @ self._vectors.T
            scores[:, ~self._known] = NO_OPINION
        return scores

    def vectors(self, histories: Histories, at: int) -> F32:
        """Return the network's vectors [n, d] of histories at a moment; zeros for an empty one."""
        import torch

        data = self._arrays(histories)
        moments = np.full(len(histories), at // MICROSECONDS, np.int64)
        with torch.no_grad():
            found: F32 = self._network.scored(self._network.last(data, moments)).numpy()
        return found

    def item_vectors(self) -> F32:
        """Return the item vectors [n_items, d] that scores are products with, for export; 0 for a new item without one."""
        self._fitted()
        if self._simple is not None:
            raise ModelError(f"{self.remark}; popularity has no item vectors")
        return self._vectors.copy()

    def update(
        self,
        later: Interactions,
        *,
        items: Items | None = None,
        users: Attributes | None = None,
        at: int | None = None,
    ) -> Self:
        """Append further interactions to the histories; what was learnt stays, until ``fit``.

        ``items`` are the attributes of the catalogue as it is now, of which those of new items are read. Only a log
        that was too short to learn from is learnt anew.
        """
        if self._simple is not None:
            return super().update(later, items=items, users=users, at=at)
        log = self._fitted().join(later)
        check_attributes(items or {}, "item", log.n_items)
        self._grow(log.n_items, items)
        self._log = log
        self._at = max(self._at, log.last + 1) if at is None else at
        return self

    def _grow(self, n_items: int, items: Items | None) -> None:
        """Make room for a catalogue of ``n_items``; ``items`` tells the new ones' attributes, or tells them anew."""
        import torch

        start = len(self._vectors) if items is None else self._learnt
        if start == n_items:
            return
        features = None
        if items is not None:
            features = self._features(since(items, start), n_items - start, self._items)
        self._network = self._network.grown(start, n_items, features)
        known = np.zeros(n_items - start, np.bool_) if features is None else features.known
        self._known = np.concatenate([self._known[:start], known])
        with torch.no_grad():
            later = self._network.item_vectors(torch.arange(start, n_items)).numpy()
        self._vectors = np.concatenate([self._vectors[:start], later])
        self._tell()

    def _tell(self) -> None:
        """Say in ``remark`` what training said, and which items are not offered."""
        silent = int((~self._known[self._learnt :]).sum())
        are = "1 item is" if silent == 1 else f"{silent:,} items are"
        have = "has" if silent == 1 else "have"
        new = (
            f"{are} new since '{self.name}' learnt and {have} no vector: "
            "read in histories, offered from the next fit on"
        )
        self.remark = "; ".join(filter(None, [self._noted, new if silent else ""]))

    def _knows(self, item: int) -> bool:
        return self._simple._knows(item) if self._simple is not None else bool(self._known[item])

    def _alike(self, items: I64) -> F32:
        if self._simple is not None:
            raise ModelError(f"{self.remark}; it knows no likeness of items")
        size = np.maximum(np.linalg.norm(self._vectors, axis=1), 1e-12)
        unit = self._vectors / size[:, None]
        likeness: F32 = unit[items] @ unit.T
        likeness[:, ~self._known] = NO_OPINION
        likeness[~self._known[items]] = NO_OPINION
        return likeness

    def _because(
        self, histories: Histories, items: I32, names: Sequence[str] | None
    ) -> list[list[str]]:
        if self._simple is not None:
            return self._simple._because(histories, items, names)
        out = []
        for row, shown in enumerate(items.tolist()):
            had = histories.items[histories.offsets[row] : histories.offsets[row + 1]]
            last = "nothing yet"
            if len(had):
                last = names[int(had[-1])] if names is not None else f"item {had[-1]}"
            out.append(
                [f"histories like this went on so after {last}" if i >= 0 else "" for i in shown]
            )
        return out

    # ---------------------------------------------------------------- saving

    def _state(self) -> State:
        if self._simple is not None:
            state = State({"remark": self.remark})
            state.nest("simple", self._simple._part())
            return state
        from propend.models.sequence.checkpoint import described

        arrays = {f"weights.{n}": t.numpy() for n, t in self._network.state_dict().items()}
        arrays |= {"strengths": self._strengths, "known": self._known}
        header = {"remark": self._noted, "learnt": self._learnt}
        return State({**header, "network": described(self._network)}, arrays)

    def _restore(self, state: State) -> None:
        self.remark = state.header["remark"]
        if "simple" in state.header:
            self._simple = Popularity._of_part(state.part("simple"), self)
            return
        _library()
        import torch

        from propend.models.sequence.checkpoint import restored

        self._strengths, self._known = state.arrays["strengths"], state.arrays["known"]
        start = "weights."
        tensors = {
            n.removeprefix(start): torch.from_numpy(a.copy())
            for n, a in state.arrays.items()
            if n.startswith(start)
        }
        self._settle(restored(state.header["network"], tensors, f"the saved '{self.name}'"))
        self._noted, self._learnt = self.remark, state.header.get("learnt", len(self._known))
        self._tell()


class Gru(SequenceRecommender):
    """GRU4Rec with full cross-entropy (Hidasi & Karatzoglou, CIKM 2018).

    >>> Gru(size="tiny")
    Gru(size='tiny')
    """

    name = "gru"
    trunk = "gru"


class Lstm(SequenceRecommender):
    """An LSTM over the history."""

    name = "lstm"
    trunk = "lstm"


class Cnn(SequenceRecommender):
    """Causal dilated convolutions (Yuan et al., NextItNet, WSDM 2019)."""

    name = "cnn"
    trunk = "cnn"


class Caser(SequenceRecommender):
    """Filters over the last five events (Tang & Wang, WSDM 2018), the baseline."""

    name = "caser"
    trunk = "caser"


class Transformer(SequenceRecommender):
    """SASRec's task with gated pre-norm layers and cross-entropy (Kang & McAuley 2018; eSASRec 2025)."""

    name = "transformer"
    trunk = "transformer"


class Hstu(SequenceRecommender):
    """HSTU's pointwise attention (Zhai et al., ICML 2024)."""

    name = "hstu"
    trunk = "hstu"


def _library() -> Any:
    """Return the training module, which needs torch."""
    try:
        from propend.models.sequence import training
    except ImportError as error:
        if error.name != "torch":
            raise
        raise MissingExtraError("a sequence model", "deep") from None
    return training
