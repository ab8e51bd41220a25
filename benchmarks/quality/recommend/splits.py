"""The public data sets as splits: what may be learnt from, what is asked, and a cut of the first to tune on.

Read from ``PROPEND_DATA`` (default ``../shared/data``).
"""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from propend.events.clock import moment
from propend.names import MICROSECONDS
from propend.recommend.interactions import Histories, Interactions
from propend.recommend.protocols import Split, forward, given, leave_one_out, random_split

ROOT = Path(__file__).resolve().parents[3]
DATA = Path(os.environ.get("PROPEND_DATA", ROOT.parent / "shared" / "data"))


def lists_of(path: Path, *, first_is_user: bool = True) -> tuple[list[int], list[list[int]]]:
    """Read lines of codes: users and their items, oldest first."""
    users, lists = [], []
    for number, line in enumerate(path.read_text().splitlines()):
        values = [int(v) for v in line.split()]
        users.append(values[0] if first_is_user else number)
        lists.append(values[1:] if first_is_user else values)
    return users, lists


def gowalla() -> Split:
    """LightGCN's split of check-ins."""
    users, lists = lists_of(DATA / "gowalla" / "train.txt")
    asked, answers = lists_of(DATA / "gowalla" / "test.txt")
    train = Interactions.from_lists(lists, users=users, n_items=40_981)
    return given(train, Interactions.from_lists(answers, users=asked, n_items=40_981))


@cache
def beauty_log() -> Interactions:
    """Amazon Beauty as published."""
    users, lists = lists_of(DATA / "amazon-beauty" / "Beauty.txt")
    return Interactions.from_lists(lists, users=users)


def beauty() -> Split:
    """Amazon Beauty, the last item of each user."""
    return leave_one_out(beauty_log(), seen="hidden")


def movielens_1m() -> Split:
    """MovieLens-1M, the last item of each user; the file has no clock.

    The published rows had each user's whole history. The files here hold it for the 512 validation users alone (their lines
    end three items before the last; what follows stands in the validation part, and is put back). For the others the
    last-but-one item is missing: what is asked is the item after next.
    """
    folder = DATA / "movielens-1m"
    _, lists = lists_of(folder / "train" / "input.txt", first_is_user=False)
    _, inputs = lists_of(folder / "val" / "input.txt", first_is_user=False)
    _, outputs = lists_of(folder / "val" / "output.txt", first_is_user=False)
    _, answers = lists_of(folder / "test" / "output.txt", first_is_user=False)
    whole = {tuple(known[:-1]): known + later for known, later in zip(inputs, outputs, strict=True)}
    lists = [whole.pop(tuple(known), known) for known in lists]
    if whole:
        raise ValueError(
            f"{len(whole)} validation users of MovieLens-1M are not in its training part"
        )
    size = 1 + max(max(max(part) for part in lists), max(a[-1] for a in answers))
    train = Interactions.from_lists(lists, n_items=size)
    split = given(train, Interactions.from_lists([a[-1:] for a in answers], n_items=size))
    return replace(
        split, protocol="leave-one-out, published file, the item after next for 5,528 users"
    )


def movielens_1m_next() -> Split:
    """MovieLens-1M, the next item of every user: the published question one item earlier, where all histories are whole."""
    split = leave_one_out(movielens_1m().train, seen="hidden")
    return replace(
        split, protocol="leave-one-out, published file, the next item, one or two earlier"
    )


@cache
def _movielens_100k() -> Interactions:
    rows = np.loadtxt(DATA / "movielens-100k" / "ml-100k.inter", skiprows=1)
    time = (rows[:, 3] * MICROSECONDS).astype(np.int64)
    return Interactions.of(rows[:, 0].astype(int), rows[:, 1].astype(int), time)


def movielens_100k() -> Split:
    """MovieLens-100k, the last item of each user."""
    return leave_one_out(_movielens_100k(), seen="hidden")


def movielens_100k_forward() -> Split:
    """MovieLens-100k, the last 30 days."""
    return forward(_movielens_100k(), 30, seen="hidden")


def diginetica() -> Split:
    """Diginetica, the next item of each test prefix."""
    _, lists = lists_of(DATA / "diginetica" / "train_sessions.txt", first_is_user=False)
    text = (DATA / "diginetica" / "test_prefix_target.txt").read_text()
    pairs = [line.split("\t") for line in text.splitlines()]
    prefixes = [[int(i) for i in prefix.split()] for prefix, _ in pairs]
    targets = np.array([int(target) for _, target in pairs], np.int32)
    size = 1 + max(max(max(p) for p in lists), int(targets.max()), max(max(p) for p in prefixes))
    return Prefixes.of(Interactions.from_lists(lists, n_items=size), prefixes, targets)


@dataclass(frozen=True)
class Prefixes(Split):
    """A split whose histories are anonymous prefixes of sessions."""

    prefixes: Histories | None = None

    @classmethod
    def of(cls, train: Interactions, prefixes: list[list[int]], targets: Any) -> Prefixes:
        """Ask for one target after each prefix; repeats are allowed."""
        histories = Histories.of(prefixes, train.last + 1)
        offsets = np.arange(len(targets) + 1)
        fixed = (train, histories.users, offsets, np.asarray(targets, np.int32), train.last + 1)
        return cls("session prefix → next item", *fixed, "allowed", prefixes=histories)

    @property
    def histories(self) -> Histories:
        """The prefixes."""
        assert self.prefixes is not None
        return self.prefixes


def online_retail() -> Split:
    """Online Retail, the last 30 days, repeats allowed."""
    users: dict[str, int] = {}
    items: dict[str, int] = {}
    rows: list[tuple[int, int, int]] = []
    for path in sorted((DATA / "online-retail").glob("*.csv")):
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                if not row["CustomerID"] or row["InvoiceNo"].startswith("C"):
                    continue
                when = datetime.fromisoformat(row["InvoiceDate"]).replace(tzinfo=UTC)
                user = users.setdefault(row["CustomerID"], len(users))
                rows.append((user, items.setdefault(row["StockCode"], len(items)), moment(when)))
    user_, item, time = np.array(rows).T
    return forward(Interactions.of(user_, item, time), 30, seen="allowed")


def lastfm() -> Split:
    """LastFM, the published split of user–artist pairs; plays are left out as in the published rows."""
    folder = DATA / "lastfm-social"
    train = np.loadtxt(folder / "data1.txt", np.int64, usecols=(0, 1))
    test = np.loadtxt(folder / "test1.txt", np.int64, usecols=(0, 1))
    size = 1 + int(max(train[:, 1].max(), test[:, 1].max()))
    return given(
        Interactions.of(train[:, 0], train[:, 1], n_items=size),
        Interactions.of(test[:, 0], test[:, 1], n_items=size),
    )


def lastfm_friends(loudness: float = 0.5) -> tuple[Split, npt.NDArray[np.bool_]]:
    """LastFM with its friendships as further interactions, and which items are artists.

    A friend is an item beyond the artists that the user has "met": what a log says with an event whose
    item is the friend. Both directions stand in the file.
    """
    plain = lastfm()
    links = np.loadtxt(DATA / "lastfm-social" / "trustnetwork.txt", dtype=np.int64)
    log, size = plain.train, plain.train.n_items
    users = 1 + int(max(log.users.max(), links.max()))
    weight = np.concatenate([log.weight, np.full(len(links), loudness, np.float32)])
    train = Interactions.of(
        np.concatenate([log.user, links[:, 0]]),
        np.concatenate([log.item, size + links[:, 1]]),
        weight=weight,
        n_items=size + users,
    )
    artists = np.arange(train.n_items) < size
    return _with_train(plain, train), artists


def strangers(split: Split, items: npt.NDArray[np.bool_], share: float = 0.2) -> Split:
    """Take all ``items`` from a random share of the users asked and ask only them: their friends remain."""
    log = split.train
    friends = np.unique(log.user[~items[log.item]])
    able = np.flatnonzero(np.isin(split.users, friends))
    rows = np.sort(np.random.default_rng(0).permutation(able)[: int(share * len(split))])
    asked = _rows_of(split, rows)
    kept = log.select(~(np.isin(log.user, asked.users) & items[log.item]))
    return _with_train(asked, kept)


def _rows_of(split: Split, rows: npt.NDArray[np.int64]) -> Split:
    """Return the split for some of its users."""
    lengths = np.diff(split.offsets)[rows]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    places = np.arange(offsets[-1]) + np.repeat(split.offsets[rows] - offsets[:-1], lengths)
    return replace(split, users=split.users[rows], offsets=offsets, truth=split.truth[places])


def _with_train(split: Split, train: Interactions) -> Split:
    asked = (split.users, split.offsets, split.truth)
    return Split(split.protocol, train, *asked, train.last + 1, split.seen)


def groceries() -> list[list[str]]:
    """Return the baskets of a grocery."""
    with (DATA / "groceries" / "groceries.csv").open(newline="") as file:
        return [row for row in csv.reader(file) if row]


def validation(split: Split, seed: int = 1, most: int = 5_000) -> Split:
    """Cut the training part once more by the same protocol; settings are chosen on this and never on the test.

    A published split is random, so a random tenth is held out; ``most`` users are asked.
    """
    log = split.train
    if isinstance(split, Prefixes):
        return _last_sessions(log, most)
    if split.protocol.startswith("forward"):
        cut = forward(log, 30, seen=split.seen)
    elif split.protocol.startswith("leave-one-out"):
        cut = leave_one_out(log, seen=split.seen)
    else:
        cut = random_split(log, 0.1, seed=seed, seen=split.seen)
    if len(cut) <= most:
        return cut
    rows = np.sort(np.random.default_rng(seed).permutation(len(cut))[:most])
    return _rows_of(cut, rows)


def _last_sessions(log: Interactions, most: int) -> Split:
    """Hold out the last sessions of a training part that stands in order, each prefix asked."""
    first = log.n_users - most
    kept = log.select(log.user < log.users[first])
    prefixes, targets = [], []
    for row in range(first, log.n_users):
        session = log.item[log.offsets[row] : log.offsets[row + 1]].tolist()
        for place in range(1, len(session)):
            prefixes.append(session[:place])
            targets.append(session[place])
    return Prefixes.of(kept, prefixes, targets)
