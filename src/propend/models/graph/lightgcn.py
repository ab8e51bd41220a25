"""Embeddings of users and items, smoothed over the graph between them and learnt from its edges."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from propend.models.graph.propagation import Edges, normalised, pairs_of, part_edges, torch_module

__all__ = ["LightGCNSettings", "Smoothed", "fit_lightgcn", "smooth", "tempered"]

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]
Positive = Annotated[int, msgspec.Meta(ge=1)]

_EVALUATED: Final = 2_000
"""Most users whose held-back items are ranked after each epoch."""
_AT_THE_END: Final = 20_000
"""Most users whose held-back items choose the power, once: with an edge or so each, 2,000 choose it badly."""
_AT: Final = 20
_POWERS: Final = (1.0, 0.75, 0.5, 0.25, 0.0)
"""How much of an item's length counts in a score: 1 the inner product, 0 the cosine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LightGCNSettings:
    """Settings of :func:`fit_lightgcn`.

    ``loss``: ``softmax`` over ``negatives`` items drawn for the whole batch, cosine at ``temperature``
    (Wu et al., "On the effectiveness of sampled softmax loss for item recommendation", TOIS 2024); ``bpr`` against one item each
    (Rendle et al., UAI 2009); ``contrast``: the cosine contrastive loss of SimpleX with ``margin`` (Mao et al., CIKM 2021).
    ``start``: ``spectral`` begins at the singular vectors of the graph, ``random`` at small noise.
    ``learning_rate`` falls in a straight line and is 0 after ``epochs``.
    """

    width: Positive = 64
    depth: Annotated[int, msgspec.Meta(ge=0)] = 3
    loss: Literal["softmax", "bpr", "contrast"] = "softmax"
    temperature: Annotated[float, msgspec.Meta(gt=0)] = 0.12
    margin: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.4
    negatives: Positive = 1024
    batch: Positive = 8192
    epochs: Positive = 40
    patience: Positive = 4
    """Epochs without gain on the held-back edges before it stops."""
    learning_rate: Annotated[float, msgspec.Meta(gt=0)] = 5e-3
    weight_decay: Annotated[float, msgspec.Meta(ge=0)] = 1e-6
    start: Literal["spectral", "random"] = "spectral"
    held_back: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.1
    """Share of each user's edges that only choose the epoch; all of them are in the graph of the answer."""
    threads: Positive = 2


@dataclass(frozen=True)
class Smoothed:
    """What was learnt: own vectors before smoothing, and how the held-back Recall@20 went per epoch.

    ``power``: how much of an item's length counts in a score, chosen on the held-back edges (:func:`tempered`).
    """

    user: F32
    item: F32
    epochs: int
    power: float = 1.0
    curve: list[float] = field(default_factory=list)


def smooth(table: Any, user: F32, item: F32, depth: int) -> tuple[F32, F32, F32]:
    """Return users, items and the items' part that makes a newcomer's vector: the mean over 0 to ``depth`` steps.

    With Â the normalised graph and E the own vectors, E* = Σ_k Â^k E / (depth + 1) (LightGCN: He et al.,
    SIGIR 2020). A user without an own vector gets Σ over met items of part_i / √n_u, exactly what the
    graph would say with that user in it and the items' other neighbours left as they are.
    """
    edges = normalised(table)
    met = np.maximum(np.asarray(table.sum(axis=0)).ravel(), 1e-12)
    users, items = user.astype(np.float32), item.astype(np.float32)
    all_users, all_items, before_last = users.copy(), items.copy(), np.zeros_like(items)
    for _ in range(depth):
        before_last += items
        users, items = edges @ items, edges.T @ users
        all_users += users
        all_items += items
    n = np.float32(depth + 1)
    part = before_last / n / np.sqrt(met)[:, None]
    return all_users / n, all_items / n, part.astype(np.float32)


def tempered(item: F32, power: float) -> F32:
    """Return item vectors whose lengths are raised to a power; vectors of no length stay.

    Trained by cosines, a smoothed item's length still tells how popular it is. The inner product lets popular items
    through too often, the cosine too seldom; what lies between is chosen on held-back edges.

    >>> tempered(np.array([[0.0, 4.0], [0.0, 0.0]], np.float32), 0.5).tolist()
    [[0.0, 2.0], [0.0, 0.0]]
    """
    size = np.maximum(np.linalg.norm(item, axis=1, keepdims=True), np.float32(1e-12))
    return (item * size ** np.float32(power - 1)).astype(np.float32)


def fit_lightgcn(
    table: Any,
    settings: LightGCNSettings,
    *,
    seed: int = 0,
    progress: Callable[[int, float, float], None] | None = None,
) -> Smoothed:
    """Learn own vectors of users and items from a users × items matrix of edges (SciPy, non-negative).

    Parameters
    ----------
    progress
        told after each epoch: its number, mean loss, Recall@20 on the held-back edges (NaN without).

    Raises
    ------
    MissingExtraError
        torch is not installed.
    """
    torch = torch_module()
    rng = np.random.default_rng(seed)
    known, held = part_edges(table.tocsr(), settings.held_back, rng)
    before = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return _train(torch, known, held, settings, rng, progress)
    finally:
        torch.set_num_threads(before)


def _train(
    torch: Any,
    known: Any,
    held: Any,
    settings: LightGCNSettings,
    rng: np.random.Generator,
    progress: Callable[[int, float, float], None] | None,
) -> Smoothed:
    user, item = (torch.nn.Parameter(torch.from_numpy(v)) for v in _start(known, settings, rng))
    edges = Edges(normalised(known))
    optimiser = torch.optim.Adam([user, item], lr=settings.learning_rate)
    pairs = pairs_of(known)
    best, kept, waited, curve = -1.0, (user, item), 0, list[float]()
    epoch, power, steps = 0, 1.0, settings.epochs * pairs.shape[1]

    def told(user: Any, item: Any, most: int) -> dict[float, float]:
        with torch.no_grad():
            users, items = _spread(edges, user, item, settings.depth)
        return _recalls(users.numpy(), items.numpy(), known, held, most)

    for epoch in range(1, settings.epochs + 1):
        order = rng.permutation(pairs.shape[1])
        losses = []
        for start in range(0, len(order), settings.batch):
            u, i = torch.from_numpy(pairs[:, order[start : start + settings.batch]])
            done = ((epoch - 1) * len(order) + start) / steps
            optimiser.param_groups[0]["lr"] = settings.learning_rate * (1 - done)
            optimiser.zero_grad()
            users, items = _spread(edges, user, item, settings.depth)
            loss = _loss(torch, users, items, u, i, settings, rng)
            own = (user[u].square().sum() + item[i].square().sum()) / len(u)
            (loss + settings.weight_decay * own).backward()
            optimiser.step()
            losses.append(loss.item())
        recall = float("nan")
        if held.nnz:
            recall = max(told(user, item, _EVALUATED).values())
            curve.append(recall)
        if progress is not None:
            progress(epoch, float(np.mean(losses)), recall)
        waited += 1
        if not recall <= best:
            best = recall if recall == recall else best
            kept, waited = (copy.deepcopy(user), copy.deepcopy(item)), 0
        if waited >= settings.patience:
            break
    if held.nnz:
        by_power = told(*kept, _AT_THE_END)
        power = max(by_power, key=lambda p: by_power[p])
    arrays = [v.detach().numpy().astype(np.float32) for v in kept]
    return Smoothed(arrays[0], arrays[1], epoch - waited, power, curve)


def _start(known: Any, settings: LightGCNSettings, rng: np.random.Generator) -> tuple[F32, F32]:
    shape = known.shape
    user, item = (
        (0.1 / np.sqrt(settings.width) * rng.standard_normal((n, settings.width))).astype(
            np.float32
        )
        for n in shape
    )
    most = min(settings.width, min(shape) - 1)
    if settings.start == "spectral" and most > 0:
        from sklearn.utils.extmath import randomized_svd

        state = int(rng.integers(2**31))
        left, values, right = randomized_svd(normalised(known), most, n_iter=4, random_state=state)
        weight = np.sqrt(values / max(values.max(), 1e-12))
        for vectors, found in ((user, left * weight), (item, right.T * weight)):
            scale = np.sqrt(len(found) / settings.width) / np.sqrt(settings.width)
            vectors[:, :most] += (0.1 * scale * found).astype(np.float32)
    return user, item


def _spread(edges: Edges, user: Any, item: Any, depth: int) -> tuple[Any, Any]:
    users, items = user, item
    all_users, all_items = user, item
    for _ in range(depth):
        users, items = edges(items), edges.back(users)
        all_users, all_items = all_users + users, all_items + items
    return all_users / (depth + 1), all_items / (depth + 1)


def _loss(
    torch: Any,
    users: Any,
    items: Any,
    u: Any,
    i: Any,
    settings: LightGCNSettings,
    rng: np.random.Generator,
) -> Any:
    functional = torch.nn.functional
    if settings.loss == "bpr":
        other = torch.from_numpy(rng.integers(0, len(items), len(u)))
        gap = (users[u] * (items[i] - items[other])).sum(1)
        return functional.softplus(-gap).mean()
    drawn = torch.from_numpy(rng.integers(0, len(items), settings.negatives))
    left = functional.normalize(users[u], dim=1)
    right = functional.normalize(items[i], dim=1)
    others = left @ functional.normalize(items[drawn], dim=1).T
    same = (left * right).sum(1, keepdim=True)
    if settings.loss == "contrast":
        near = functional.relu(others - settings.margin).mean(1)
        return (1 - same[:, 0] + settings.negatives**0.5 * near).mean()
    others = others.masked_fill(drawn[None, :] == i[:, None], -torch.inf)
    logits = torch.cat([same, others], 1) / settings.temperature
    return functional.cross_entropy(logits, torch.zeros(len(u), dtype=torch.long))


def _recalls(users: F32, items: F32, known: Any, held: Any, most: int) -> dict[float, float]:
    """Mean Recall@20 per power of the items' lengths over (a fixed sample of) users with held-back edges, what they have left out."""
    asked = np.flatnonzero(np.diff(held.indptr))
    if len(asked) > most:
        asked = asked[:: len(asked) // most][:most]
    total = dict.fromkeys(_POWERS, 0.0)
    for power in _POWERS:
        vectors = tempered(items, power)
        for start in range(0, len(asked), 256):
            rows = asked[start : start + 256]
            scores = users[rows] @ vectors.T
            had = known[rows]
            scores[np.repeat(np.arange(len(rows)), np.diff(had.indptr)), had.indices] = -np.inf
            k = min(_AT, scores.shape[1])
            top = np.argpartition(-scores, k - 1, axis=1)[:, :k]
            for at, row in enumerate(rows.tolist()):
                wanted = held.indices[held.indptr[row] : held.indptr[row + 1]]
                total[power] += float(np.isin(wanted, top[at]).mean())
    return {power: found / max(len(asked), 1) for power, found in total.items()}
