"""The contract of an inbox: every implementation passes :func:`check_inbox`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

__all__ = ["check_inbox"]


def check_inbox(
    make: Callable[[], Any], batch: type[Any], claim: type[Any], rejected: type[Any]
) -> None:
    """Put an implementation through the whole contract.

    ``make`` opens the same inbox again each time (it begins empty); ``batch``, ``claim`` and ``rejected`` are the
    value classes of ``propend.serve.inbox``, handed in because that floor lies beside this one. Raises
    ``AssertionError`` naming the rule that is broken.
    """
    inbox = make()
    _order_and_durability(inbox, make, batch)
    _limits(inbox, batch)
    _names(inbox, make, claim)
    _trim(inbox, batch, claim)
    _rejects(inbox, make, rejected)
    _threads(inbox, batch)
    inbox.close()


def _one(batch: type[Any], body: bytes = b"{}", source: str = "shop") -> Any:
    return batch(
        1_700_000_000_000_000, source, "segment", "/v1/batch", "agent", "10.0.0.0", "bot", body
    )


def _order_and_durability(inbox: Any, make: Callable[[], Any], batch: type[Any]) -> None:
    assert inbox.last() == 0, "an empty inbox ends at 0"
    assert inbox.append([]) == [], "nothing appended, nothing returned"
    inbox.check()
    assert inbox.last() == 0, "a check takes no position"
    first = inbox.append([_one(batch, b"a"), _one(batch, b"b")])
    second = inbox.append([_one(batch, b"c")])
    assert [*first, *second] == sorted({*first, *second}), "positions grow"
    other = make()
    found = other.read(0)
    assert [b.body for b in found] == [b"a", b"b", b"c"], (
        "another process sees what was acknowledged, in order"
    )
    assert [b.position for b in found] == [*first, *second], "a batch knows its position"
    assert found[0][:8] == _one(batch, b"a")[:8], "a batch comes back as it was"
    assert other.last() == second[-1], "last() is the latest position"
    other.close()


def _limits(inbox: Any, batch: type[Any]) -> None:
    after = inbox.last()
    inbox.append([_one(batch, b"x" * 1_000) for _ in range(5)])
    assert len(inbox.read(after, limit=2)) == 2, "limit bounds the number of batches"
    assert len(inbox.read(after, most_bytes=1)) == 1, (
        "a batch larger than the bound still comes, alone"
    )
    assert len(inbox.read(after, most_bytes=2_500)) == 3, "reading stops once the bound is passed"
    assert inbox.read(inbox.last()) == [], "nothing lies after the end"


def _names(inbox: Any, make: Callable[[], Any], claim: type[Any]) -> None:
    a, b, c = (bytes([i]) * 16 for i in (1, 2, 3))
    asked = [claim(a, 10, 0), claim(b, 10, 1), claim(a, 10, 2)]
    assert inbox.claim(asked) == [True, True, False], "the first event of a name keeps it"
    assert inbox.claim(asked) == [True, True, False], "asking again answers the same"
    other = make()
    assert other.claim([claim(a, 11, 0), claim(c, 11, 1)]) == [False, True], (
        "names hold over the whole history"
    )
    other.close()
    many = [claim(i.to_bytes(16, "big"), 12, i) for i in range(1_000, 3_500)]
    assert all(inbox.claim(many)), "thousands of claims at once"
    assert not any(inbox.claim([m._replace(position=13) for m in many])), "and all of them are kept"


def _trim(inbox: Any, batch: type[Any], claim: type[Any]) -> None:
    before = inbox.last()
    inbox.append([_one(batch, b"kept")])
    assert inbox.trim(before) > 0, "trim says how many went"
    assert [b.body for b in inbox.read(0)] == [b"kept"], (
        "trim removes what is in the store and nothing else"
    )
    inbox.trim(inbox.last())
    last = inbox.last()
    assert inbox.append([_one(batch)])[0] > last, (
        "a position is never given twice, even after everything was trimmed"
    )
    assert inbox.claim([claim(bytes([1]) * 16, 99, 0)]) == [False], "names outlive their batches"


def _rejects(inbox: Any, make: Callable[[], Any], rejected: type[Any]) -> None:
    inbox.reject(
        [
            rejected(5, "key", "segment", "/v1/track", "unknown key", b"body"),
            rejected(6, "", "own", "/", "deep", b""),
        ]
    )
    other = make()
    kept = other.rejected()
    assert [r.reason for r in kept] == ["unknown key", "deep"], (
        "what was refused is kept with its reason"
    )
    assert kept[0].body == b"body", "what was refused is kept as it came"
    whole = rejected(7, "k", "own", "/v1/e#3.1", "no time", b"x" * 1_000, "shop", "agent", "bot", '{"query":{}}', True)  # fmt: skip
    inbox.reject([whole, whole._replace(route="/v1/e#3.2")])
    found = other.rejected(after=kept[-1].number)
    assert found[0][:-1] == whole[:-1], "and with all that was said with it"
    assert len(other.rejected(after=kept[-1].number, most_bytes=500)) == 1, "bytes bound a page"
    assert other.refused_routes(["/v1/e#3.1", "/v1/e#3.9"]) == {"/v1/e#3.1"}, "routes are known"
    assert other.refused_bytes() == 2_004, "and the bytes of all bodies"
    other.release([r.number for r in found])
    other.release([kept[0].number])
    assert [r.reason for r in inbox.rejected()] == ["deep"], "what was taken after all is released"
    assert inbox.counts()["rejected"] == 1, "counts() counts what is kept"
    assert inbox.refused() == other.refused() == 1, "and refused() says the same"
    other.close()


def _threads(inbox: Any, batch: type[Any]) -> None:
    start = inbox.last()
    given: list[int] = []
    lock = threading.Lock()

    def work() -> None:
        for _ in range(20):
            got = inbox.append([_one(batch), _one(batch)])
            with lock:
                given.extend(got)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(given)) == 160, "threads never share a position"
    assert [b.position for b in inbox.read(start, limit=1_000)] == sorted(given), "and none is lost"
