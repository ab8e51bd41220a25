"""The live workspace: inbox, mover, state, models, triggers and log, kept going by a few threads."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import subprocess
import sys
import threading
import time as clock
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from propend.errors import DataError, PropendError
from propend.expression.duration import Duration
from propend.pipeline.workspace import Workspace
from propend.serve.forgotten import Forgotten
from propend.serve.identity import Identity
from propend.serve.inbox import Inbox, open_inbox
from propend.serve.log import AnswerLog
from propend.serve.models import Models
from propend.serve.move import Arrived, Mover, check_folder
from propend.serve.state import LiveState
from propend.serve.triggers import Triggers

if TYPE_CHECKING:
    from propend.serve.offers import Offers

__all__ = ["Live", "moving", "open_identity", "open_live_inbox", "where"]

_log = logging.getLogger("propend.serve")
_POLL = 0.01
_SWEEP = 30.0
_REFIT = 3_600.0


def open_live_inbox(workspace: Workspace) -> Inbox:
    """Open a workspace's inbox: the declared PostgreSQL URL, or SQLite in its folder ``live``."""
    folder = check_folder(workspace.folder)
    return open_inbox(workspace.config.live.inbox or folder / "inbox")


def where(error: BaseException) -> str:
    """Return what went wrong and where, without what it says: messages of unforeseen errors may quote a person's data.

    >>> where(KeyError("ada@x.org"))
    'KeyError'
    """
    steps = traceback.extract_tb(error.__traceback__)[-3:]
    places = " < ".join(f"{Path(s.filename).name}:{s.lineno}" for s in reversed(steps))
    return f"{type(error).__name__} at {places}" if places else type(error).__name__


def open_identity(workspace: Workspace) -> Identity:
    """Open the identity facts of a workspace; those that name an erased id are not taken in."""
    folder = check_folder(workspace.folder)
    return Identity(folder / "identity.db", Forgotten(workspace.store_folder))


@contextlib.contextmanager
def moving(workspace: Workspace) -> Iterator[Mover]:
    """Open a workspace's mover, with its inbox and identity facts, for one piece of work.

    Where triggers are declared it judges what waits before it moves it: what is in the store is not judged any more.
    """
    inbox, identity = open_live_inbox(workspace), open_identity(workspace)
    mover = _mover(workspace, inbox, identity)
    if workspace.config.live.triggers:
        mover.first = partial(_judge, workspace, inbox, identity)
    try:
        yield mover
    finally:
        identity.close()
        inbox.close()


def _judge(workspace: Workspace, inbox: Inbox, identity: Identity, upto: int | None) -> int:
    """Have the triggers judge what waits, as far as asked; returns the position up to which they have."""
    path = check_folder(workspace.folder) / "triggers.db"
    state = _state(workspace, inbox, identity)
    triggers = Triggers(workspace.config.live.triggers, path, state)
    try:
        last = inbox.last() if upto is None else upto
        while triggers.position < last:
            before = state.position
            events = state.refresh()
            if state.position == before:
                break
            triggers.judge(events, state.position)
        return min(last, triggers.position)
    finally:
        triggers.close()


def _state(workspace: Workspace, inbox: Inbox, identity: Identity) -> LiveState:
    live = workspace.config.live
    return LiveState(
        workspace.store_folder, inbox, identity, zone=workspace.zone,
        tasks=tuple(t.name for t in workspace.config.tasks), memory_mb=live.memory_mb, properties=live.properties,
        traits=live.traits,
    )  # fmt: skip


def _mover(workspace: Workspace, inbox: Inbox, identity: Identity) -> Mover:
    return Mover(
        workspace.config,
        workspace.folder,
        workspace.store_folder,
        workspace.engine,
        inbox,
        identity,
    )


class Live:
    """Everything that answers. ``start`` begins the threads, ``stop`` ends them; nothing acknowledged is lost either way."""

    def __init__(self, workspace: Workspace, inbox: Inbox | None = None) -> None:
        self.workspace = workspace
        live = workspace.config.live
        folder = check_folder(workspace.folder)
        self.inbox = inbox or open_live_inbox(workspace)
        self.identity = open_identity(workspace)
        self.state = _state(workspace, self.inbox, self.identity)
        self.mover = _mover(workspace, self.inbox, self.identity)
        self.models = Models(workspace.folder / "models", live.shadow)
        self.log = AnswerLog(folder / "log.db", self.state.forgotten)
        self.triggers = Triggers(live.triggers, folder / "triggers.db", self.state)
        self.every = Duration.parse(live.move).microseconds / 1e6
        self.recommender: Offers | None = None
        self.visible: list[float] = []
        self.faults: dict[str, str] = {}
        self.unkept = 0
        """What the mover refused and had no room for."""
        self._unjudged: list[Arrived] = []
        self._stop = threading.Event()
        self._children: set[subprocess.Popen[str]] = set()
        self._threads: list[threading.Thread] = []

    def start(self, *, move: bool = True) -> None:
        """Restore the state and begin tailing, moving, watching and refitting."""
        while self.tail():
            pass
        self.models.refresh()
        self.triggers.warm()
        loops: list[tuple[str, Callable[[], object], float]] = [
            ("tail", self.tail, _POLL), ("models", self.models.refresh, 1.0), ("recommender", self.refit, _REFIT),
            ("restore", self.restore, 1.0),
        ]  # fmt: skip
        if move:
            loops.append(("mover", self.move_apart, self.every))
        if self.triggers.declared:
            loops.append(("sweep", self._sweep, _SWEEP))
            for number, address in enumerate(self.triggers.outbox.addresses, 1):
                send = partial(self.triggers.outbox.deliver_soon, address)
                loops.append((f"webhooks {number}", send, 0.0))
        for name, work, pause in loops:
            thread = threading.Thread(
                target=self._loop, args=(name, work, pause), name=f"live-{name}", daemon=True
            )
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """End the threads and close the files."""
        self._stop.set()
        for child in list(self._children):  # may be cut off anywhere
            child.terminate()
        for thread in self._threads:
            thread.join(60)
        gc.unfreeze()
        self.log.close()
        self.triggers.close()
        self.identity.close()
        self.inbox.close()

    def _loop(self, name: str, work: Callable[[], object], pause: float) -> None:
        wait = pause if name == "mover" else 0.0
        while not self._stop.wait(wait):
            try:
                busy = work()
                self.faults.pop(name, None)
                wait = 0.0 if name == "tail" and busy else pause
            except Exception as error:  # a thread must outlive whatever it meets
                known = isinstance(error, PropendError | OSError)
                self.faults[name] = str(error) if known else where(error)
                _log.warning("%s: %s", name, self.faults[name])
                wait = max(pause, 1.0)

    # ---- the work of the threads

    def restore(self) -> None:
        """Fill an empty memory, and take what is in it out of the garbage collector's rounds, which would stop answers."""
        if self.state.emptied:
            if threading.current_thread().name == "live-restore":
                _yield_to_answers(threading.get_native_id())
            try:
                self.state.restore()
            except BaseException:  # a file that the store has let go of, say: once more
                self.state.emptied = True
                raise
            gc.freeze()

    def tail(self) -> int:
        """Take in what is new and judge the triggers on it; returns how many events were new."""
        before = self.state.position
        events = self.state.refresh()
        if self.state.position == before and not self._unjudged:
            return 0
        now = clock.time()
        self.visible += [now - a.received / 1e6 for a in events[-100:]]
        del self.visible[:-20_000]
        if self.triggers.declared:  # where it fails they are judged the next time
            self._unjudged += events
            self.triggers.judge(self._unjudged, self.state.position)
            self._unjudged = []
        return max(len(events), 1)

    def _seen(self) -> int:
        """Return the position up to which the state and the triggers have seen everything."""
        seen = self.state.position
        return min(seen, self.triggers.position) if self.triggers.declared else seen

    def move(self) -> None:
        """Move what is waiting into the store, no further than the state and the triggers have seen."""
        upto = self._seen()
        before = self.mover.unkept
        while not self._stop.is_set() and self.mover.step(upto=upto) is not None:
            pass
        self.unkept += self.mover.unkept - before

    def move_apart(self) -> None:
        """Have a process of its own do it, at low priority: it takes neither the interpreter's lock nor a core from answers."""
        upto = self._seen()
        if upto <= self.state.moved:
            return
        document = self._apart("propend", "move", str(self.workspace.folder), "--json", "--upto", str(upto))  # fmt: skip
        if document:
            self.unkept += int(msgspec.json.decode(document)["refused_not_kept"])

    def refit(self) -> None:
        """Have a process of its own fit the recommendations afresh on what the store knows, and take them in."""
        from propend.serve.offers import fit, read

        store = self.state.store
        if store is None or not store.rows or not self.state.schema.item_ids:
            return
        self._apart("propend.serve.offers", str(self.workspace.folder))
        if not self._stop.is_set():  # what could not be kept, for want of room say, is fitted here
            self.recommender = read(self.workspace) or fit(self.workspace) or self.recommender

    def _apart(self, module: str, *arguments: str) -> str:
        """Run a module in a process of its own, at low priority; returns what it printed, nothing where it was stopped."""
        if self._stop.is_set():
            return ""
        child = subprocess.Popen(
            [sys.executable, "-m", module, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )  # fmt: skip
        self._children.add(child)
        try:
            _yield_to_answers(child.pid)
            printed, said = child.communicate()
        finally:
            self._children.discard(child)
        if child.returncode == 0:
            return printed
        if self._stop.is_set():
            return ""
        lines = said.strip().splitlines()
        raise DataError(lines[-1] if lines else f"{module} {arguments[0]} was killed")

    def _sweep(self) -> None:
        self.triggers.sweep(clock.time_ns() // 1_000)

    # ---- how it is

    def impaired(self) -> dict[str, str]:
        """Return what does not work, and why: threads, models that could not be loaded, the answer log."""
        models = {f"model {task}": fault for task, fault in self.models.faults.items()}
        log = {"log": self.log.fault} if self.log.fault else {}
        return {**self.faults, **models, **log}

    def lag(self) -> dict[str, Any]:
        """Return how far everything is behind, in batches and seconds."""
        last = self.inbox.last()
        waiting = self.inbox.read(self.state.position, 1)
        age = max(0.0, clock.time() - waiting[0].received / 1e6) if waiting else 0.0
        oldest = self.inbox.read(self.state.moved, 1)
        store_age = max(0.0, clock.time() - oldest[0].received / 1e6) if oldest else 0.0
        visible = np.array(self.visible or [0.0])
        fired = np.array(self.triggers.latencies or [0.0])
        return {
            "inbox": last, "visible": self.state.position, "stored": self.state.moved,
            "not_visible": max(0, last - self.state.position), "not_stored": max(0, last - self.state.moved),
            "visible_seconds": age, "stored_seconds": store_age,
            "visible_p50": float(np.quantile(visible, 0.5)), "visible_p99": float(np.quantile(visible, 0.99)),
            "fired_p99": float(np.quantile(fired, 0.99)),
            "faults": {**self.impaired(), **{f"trigger {name}": fault for name, fault in self.triggers.faults.items()}},
            "rejected": self.inbox.refused(),
        }  # fmt: skip


def _yield_to_answers(task: int) -> None:
    """Give a process or, where the system can, a thread low priority; what it starts inherits it."""
    with contextlib.suppress(OSError, AttributeError):
        if sys.platform == "linux" or task != threading.get_native_id():
            os.setpriority(os.PRIO_PROCESS, task, 5)
