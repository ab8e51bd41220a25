"""A client for the live server: events in, answers out. Only the standard library; safe to use from any thread.

Events wait in memory and go out in batches from one thread; what the server did not take is sent again, under the
same id, so that nothing is counted twice.
"""

from __future__ import annotations

import atexit
import http.client
import json
import queue
import random
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from propend.errors import ConfigError, DataError

__all__ = ["Client"]

Send = Callable[[str, bytes, Mapping[str, str]], tuple[int, Mapping[str, str], bytes]]
_AWAY: Final = "the server could not be reached"


class _Waiting(NamedTuple):
    """An event as it will be sent."""

    id: str
    text: bytes


class Client:
    """Send events and ask about users.

    >>> sent = []
    >>> def pretend(url, body, headers):
    ...     sent.append(json.loads(body)["events"])
    ...     return 200, {}, json.dumps({"results": [{"id": e["id"], "result": "ok"} for e in sent[-1]]}).encode()
    >>> client = Client("http://localhost:8710", "key", send=pretend)
    >>> client.track("u1", "purchase", item="p1", value=9.5)
    >>> client.flush()
    True
    >>> sent[0][0]["type"], client.close()
    ('purchase', None)
    """

    def __init__(
        self,
        url: str,
        key: str = "",
        *,
        batch: int = 100,
        every: float = 0.5,
        room: int = 10_000,
        timeout: float = 10.0,
        tries: int = 10,
        send: Send | None = None,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"the server's address {url!r} must begin with http:// or https://")
        self.url, self.key, self.timeout, self.tries = url.rstrip("/"), key, timeout, tries
        self._batch, self._every = batch, every
        self._send = send or self._post
        self._queue: queue.Queue[_Waiting] = queue.Queue(room)
        self._sending: list[_Waiting] = []
        self._stop = threading.Event()
        self._idle = threading.Condition()
        self._open = 0
        self.dropped: list[dict[str, Any]] = []
        """Events that the server refused or never took, with the reason; nothing is dropped in silence."""
        self._thread = threading.Thread(target=self._run, name="propend-client", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    # ---- events in

    def track(
        self,
        user: str | None,
        type: str,
        *,
        anonymous: str | None = None,
        id: str | None = None,
        time: datetime | str | None = None,
        **fields: Any,
    ) -> None:
        """Note an event. ``item``, ``value``, ``quantity``, ``price``, ``session``, ``text``, ``channel`` and ``properties`` are fields.

        Raises ``DataError`` without a user or an anonymous id, for what JSON cannot say, where the queue is full, and
        once the client is closed.
        """
        if not user and not anonymous:
            raise DataError("an event needs a user or an anonymous id")
        when = time or datetime.now(UTC)
        if isinstance(when, datetime) and when.tzinfo is None:
            raise DataError("a time needs a zone; use datetime.now(UTC)")
        name = str(id or uuid.uuid4())
        event = {
            "id": name, "type": type, "user": user, "anonymous": anonymous,
            "time": when.isoformat() if isinstance(when, datetime) else when, **fields,
        }  # fmt: skip
        filled = {k: v for k, v in event.items() if v is not None}
        try:
            text = json.dumps(filled, allow_nan=False, ensure_ascii=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise DataError(
                f"the event {type!r} cannot be sent as JSON ({error}); give texts, finite numbers, lists and dictionaries"
            ) from None
        with self._idle:
            if self._stop.is_set():
                raise DataError("the client is closed; make a new one to send events")
            try:
                self._queue.put_nowait(_Waiting(name, text))
            except queue.Full:
                raise DataError(
                    f"{self._queue.maxsize:,} events are waiting already; the server is away or too slow"
                ) from None
            self._open += 1

    def identify(self, user: str, anonymous: str | None = None, **traits: Any) -> None:
        """Say what is known of a user, and which anonymous visitor this was."""
        self.track(user, "identify", anonymous=anonymous, traits=traits)

    def flush(self, timeout: float = 30.0) -> bool:
        """Wait until everything is sent or refused; returns whether it is."""
        with self._idle:
            return self._idle.wait_for(lambda: self._open == 0, timeout)

    def close(self) -> None:
        """Send what is waiting and end the thread; what could not be sent is in ``dropped``."""
        if not self._stop.is_set():
            self.flush()
            with self._idle:
                self._stop.set()
            self._thread.join(self.timeout)
            if self._thread.is_alive():  # it is in the middle of a request
                self._drop(self._sending, "it was still being sent when the client was closed")
            self._drop(self._rest(), _AWAY)
            atexit.unregister(self.close)

    def _rest(self) -> list[_Waiting]:
        """Take everything out of the queue."""
        rest = []
        while True:
            try:
                rest.append(self._queue.get_nowait())
            except queue.Empty:
                self._settle(len(rest))
                return rest

    def _settle(self, n: int) -> None:
        with self._idle:
            self._open -= n
            self._idle.notify_all()

    def _drop(self, events: Sequence[_Waiting], reason: str) -> None:
        self.dropped += [{**json.loads(e.text), "reason": reason} for e in events]

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                events = [self._queue.get(timeout=0.1)]
            except queue.Empty:
                continue
            until = time.monotonic() + self._every
            while (
                len(events) < self._batch
                and (left := until - time.monotonic()) > 0
                and self._open > len(events)
            ):
                try:
                    events.append(self._queue.get(timeout=left))
                except queue.Empty:
                    break
            self._sending = events
            try:
                self._deliver()
            except Exception as error:  # the thread must outlive whatever it meets
                self._drop(self._sending, f"it could not be sent ({type(error).__name__}: {error})")
            finally:
                self._sending = []
                self._settle(len(events))

    def _deliver(self) -> None:
        """Send a batch until every event is taken or refused, or patience ends."""
        fault = _AWAY
        for attempt in range(self.tries):
            waiting = self._sending
            sent = json.dumps(datetime.now(UTC).isoformat()).encode()
            body = b'{"events":[' + b",".join(e.text for e in waiting) + b'],"sent":' + sent + b"}"
            headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.key}"}
            try:
                status, answer_headers, answer = self._send(f"{self.url}/v1/events", body, headers)
            except (OSError, http.client.HTTPException):  # away, or killed while it answered
                status, answer_headers, answer = 0, {}, b""
            results = _results(answer) if status == 200 else None
            if results is not None:
                for e in waiting:
                    result = results.get(e.id, {})
                    if result.get("result") == "refused":
                        self._drop([e], str(result.get("reason", "the server refused it")))
                self._sending = [
                    e for e in waiting if results.get(e.id, {}).get("result") == "retry"
                ]
                if not self._sending:
                    return
            elif status in (400, 401, 403, 413):
                self._drop(waiting, f"the server answered {status}")
                return
            fault = f"the server answered {status}" if status not in (0, 200) else _AWAY
            if status == 200 and results is None:
                fault = "what answered is no Propend server"
            asked = str(answer_headers.get("retry-after", ""))
            pause = (
                float(asked)
                if asked.isdigit()
                else min(60.0, 0.5 * 2**attempt) * (0.5 + random.random() / 2)
            )
            if self._stop.wait(min(pause, 300.0)):
                break
        self._drop(self._sending, fault)

    def _post(
        self, url: str, body: bytes, headers: Mapping[str, str]
    ) -> tuple[int, Mapping[str, str], bytes]:
        request = urllib.request.Request(url, body, dict(headers), method="POST")
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                return (
                    answer.status,
                    {k.lower(): v for k, v in answer.headers.items()},
                    answer.read(),
                )
        except urllib.error.HTTPError as error:
            with error:
                return error.code, {k.lower(): v for k, v in error.headers.items()}, error.read()

    # ---- answers out

    def profile(self, user: str) -> dict[str, Any]:
        """Return what is known of a user."""
        return self._ask(f"/v1/users/{_quoted(user)}/profile")

    def value(self, user: str, expression: str) -> Any:
        """Return an expression's value for a user, now."""
        return self._ask(f"/v1/users/{_quoted(user)}/value", expression=expression)["value"]

    def member(self, user: str, expression: str) -> bool:
        """Return whether an expression holds for a user, now."""
        return bool(self._ask(f"/v1/users/{_quoted(user)}/member", expression=expression)["member"])

    def predict(self, user: str, task: str, reasons: int = 3) -> dict[str, Any]:
        """Return a prediction with its reasons and the model's version."""
        return self._ask(f"/v1/users/{_quoted(user)}/predictions/{_quoted(task)}", reasons=reasons)

    def recommend(self, user: str, k: int = 10) -> list[str]:
        """Return the items to offer a user."""
        return [
            o["item"] for o in self._ask(f"/v1/users/{_quoted(user)}/recommendations", k=k)["items"]
        ]

    def decide(self, user: str) -> dict[str, Any]:
        """Decide about a user; the server logs the decision with its propensity."""
        return self._ask(f"/v1/users/{_quoted(user)}/decision", body=b"")

    def many(self, users: Sequence[str], **question: Any) -> list[dict[str, Any]]:
        """Return one answer per user to ``task="…"``, ``expression="…"``, or ``ask="profile"`` and the like (see the API)."""
        asked = json.dumps({"users": list(users), **question}).encode()
        return list(self._ask("/v1/answers", body=asked)["answers"])

    def decide_many(self, users: Sequence[str]) -> list[dict[str, Any]]:
        """Decide about each of many users as if alone; the server logs each decision."""
        asked = json.dumps({"users": list(users)}).encode()
        return list(self._ask("/v1/decisions", body=asked)["decisions"])

    def _ask(self, path: str, *, body: bytes | None = None, **query: Any) -> dict[str, Any]:
        """Return an answer; raises ``DataError`` with the server's sentence."""
        url = f"{self.url}{path}" + (f"?{urllib.parse.urlencode(query)}" if query else "")
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        request = urllib.request.Request(url, body, headers)
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                return dict(json.load(answer))
        except urllib.error.HTTPError as error:
            with error:
                try:
                    reason = json.load(error)["error"]
                except (ValueError, KeyError):
                    reason = f"status {error.code}"
            raise DataError(f"the server refused: {reason}") from None
        except OSError as error:
            raise DataError(f"the server {self.url} cannot be reached ({error})") from None


def _results(answer: bytes) -> dict[str, dict[str, Any]] | None:
    """Return the result per event id; ``None`` for an answer that is not the server's."""
    try:
        return {str(r["id"]): dict(r) for r in json.loads(answer)["results"]}
    except (ValueError, TypeError, KeyError):
        return None


def _quoted(text: str) -> str:
    return urllib.parse.quote(text, safe="")
