"""Group commit: requests that wait at the same time share one transaction and one flush to the disk."""

from __future__ import annotations

import asyncio
import threading
import time as clock
from queue import SimpleQueue
from typing import Final

from propend.serve.inbox import Batch, Inbox

__all__ = ["GroupWriter", "Overload"]

Waiting = tuple[Batch, "asyncio.Future[int]"]
_MOST_AT_ONCE: Final = 8 << 20
"""Bytes of one transaction, so that nobody waits behind more than this."""


class Overload(Exception):  # noqa: N818 - a state, not a fault
    """More is waiting than may wait."""


class GroupWriter:
    """One thread that appends whatever waits, in one transaction; the loop collects the next group meanwhile.

    Everything but the append itself happens in the event loop, so there is no lock, and the thread is woken once per
    group and not once per request. A group is as large as the time of one flush makes it: alone a request waits for
    nobody, under load many share a flush.
    """

    def __init__(self, inbox: Inbox, most: int = 64 << 20) -> None:
        self._inbox, self._most = inbox, most
        self._waiting: list[Waiting] = []
        self._bytes = 0
        self._busy = False
        self._groups: SimpleQueue[list[Waiting] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="inbox-writer", daemon=True)
        self.commits = 0
        self.slowest = 0.0

    def start(self) -> None:
        """Begin; must be called inside the running loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def put(self, batch: Batch) -> int:
        """Return the batch's position once it is on the disk. Raises :class:`Overload` or ``InboxError``."""
        if self._bytes > self._most:
            raise Overload
        future: asyncio.Future[int] = self._loop.create_future()
        self._bytes += len(batch.body)
        self._waiting.append((batch, future))
        if not self._busy:  # what else this turn of the loop brings comes along
            self._busy = True
            self._loop.call_soon(self._hand)
        return await future

    def _hand(self) -> None:
        """Give the thread what waits."""
        group = self._waiting
        size = 0
        for place, (batch, _) in enumerate(group):
            size += len(batch.body)
            if size > _MOST_AT_ONCE and place:
                group, self._waiting = group[:place], group[place:]
                break
        else:
            self._waiting = []
        self._groups.put(group)

    def _run(self) -> None:
        while (group := self._groups.get()) is not None:
            started = clock.perf_counter()
            outcome: list[int] | Exception
            try:
                outcome = self._inbox.append([batch for batch, _ in group])
            except Exception as error:  # every waiter must hear of it, whatever it was
                outcome = error
            self.commits += 1
            self.slowest = max(self.slowest, clock.perf_counter() - started)
            self._loop.call_soon_threadsafe(self._settle, group, outcome)

    def _settle(self, group: list[Waiting], outcome: list[int] | Exception) -> None:
        """Hand over the next group, so that the disk is busy while this one is answered; then answer this one."""
        self._bytes -= sum(len(batch.body) for batch, _ in group)
        if self._waiting:
            self._hand()
        else:
            self._busy = False
        for place, (_, future) in enumerate(group):
            if future.done():  # the client has gone
                continue
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome[place])

    async def stop(self) -> None:
        """Write what is waiting and end the thread."""
        while self._busy:
            await asyncio.sleep(0.005)
        self._groups.put(None)
        await asyncio.to_thread(self._thread.join, 30)
