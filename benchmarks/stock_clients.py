"""Stock clients under load, with their own queues, batches and retries; run by ``reliability.py``, one process per kind.

    python benchmarks/stock_clients.py segment|rudder|posthog|plain URL FIRST

Sends numbered events until its standard input closes, then lets the client finish. Prints what the client took on
(``given``: first number and the one after the last), and what it gave up and said so (``given_up``): every other event
the client counts as delivered.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from typing import Any

CLIENTS = {"segment": "segment.analytics", "rudder": "rudderstack.analytics", "posthog": "posthog"}
EACH = 3
"""Clients of one process; each has its own queue and thread."""
RATE = 60.0
"""Events a second and client."""


def available() -> list[str]:
    """Return the kinds that can be driven here; ``plain`` (our own sender) always."""

    def there(module: str) -> bool:
        try:
            return importlib.util.find_spec(module) is not None
        except ModuleNotFoundError:
            return False

    return [*(kind for kind, module in CLIENTS.items() if there(module)), "plain"]


class Plain:
    """No stock client: batches of ten over urllib, repeated under the same ids until they are acknowledged."""

    def __init__(self, url: str) -> None:
        self.url, self.waiting = url, list[int]()

    def send(self, number: int) -> None:
        self.waiting.append(number)
        if len(self.waiting) == 10:
            self.flush()

    def flush(self) -> None:
        batch = [
            {"type": "track", "event": "Product Viewed", "userId": f"u{n % 97}", "messageId": f"m{n}", "properties": {"number": n}}
            for n in self.waiting
        ]  # fmt: skip
        body = json.dumps({"batch": batch, "writeKey": "key"}).encode()
        while batch:
            try:
                with urllib.request.urlopen(
                    urllib.request.Request(self.url + "/v1/batch", body), timeout=2
                ):
                    break
            except OSError:
                time.sleep(0.02)
        self.waiting.clear()


def make(
    kind: str, url: str, failed: Callable[..., None]
) -> tuple[Callable[[int], Any], Callable[[], None]]:
    """Return how a client takes a numbered event and how it is brought to an end."""
    if kind == "plain":
        plain = Plain(url)
        return plain.send, plain.flush
    if kind == "posthog":
        from posthog import Posthog

        hog = Posthog("key", host=url, gzip=True, on_error=failed, max_queue_size=1_000_000)

        def capture(n: int) -> object:
            return hog.capture("Product Viewed", distinct_id=f"u{n % 97}", properties={"number": n})

        return capture, hog.shutdown
    if kind == "segment":
        from segment import analytics
    else:
        from rudderstack import analytics
    client = analytics.Client("key", host=url, on_error=failed, max_queue_size=1_000_000)

    def track(n: int) -> object:
        return client.track(f"u{n % 97}", "Product Viewed", {"number": n})

    def end() -> None:
        client.flush()
        client.join()

    return track, end


def main() -> None:
    kind, url, first = sys.argv[1], sys.argv[2], int(sys.argv[3])
    logging.disable(logging.CRITICAL)
    given_up: list[int] = []

    def failed(_error: object, batch: list[dict[str, Any]]) -> None:
        given_up.extend(int(event["properties"]["number"]) for event in batch)

    clients = [make(kind, url, failed) for _ in range(EACH)]
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    number, began = first, time.monotonic()
    while not stop.is_set():
        for send, _ in clients:
            send(number)
            number += 1
        time.sleep(max(0.0, began + (number - first) / (RATE * EACH) - time.monotonic()))
    for _, end in clients:
        end()
    print(json.dumps({"kind": kind, "given": [first, number], "given_up": given_up}), flush=True)


if __name__ == "__main__":
    main()
