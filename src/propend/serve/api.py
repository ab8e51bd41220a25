"""The API: what is known, predicted, recommended and decided about a user, a moment after the last event."""

from __future__ import annotations

import asyncio
import logging
import time as clock
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from propend.errors import DataError, ExpressionError, ModelError, NotEnoughDataError, PropendError
from propend.expression.nodes import Expression, Probability
from propend.expression.parse import parse
from propend.features.schema import Schema
from propend.learn.registry import plain
from propend.serve.access import Access
from propend.serve.dialects.port import moment_of
from propend.serve.inbox import InboxError
from propend.serve.live import Live
from propend.serve.log import Predicted
from propend.serve.models import Answer
from propend.serve.openapi import describe
from propend.serve.state import plain_value

__all__ = ["Api"]

_log = logging.getLogger("propend.serve")
Handler = Callable[[Request], Awaitable[Any]]
_encode = msgspec.json.Encoder().encode


class _Fault(Exception):  # noqa: N818 - an answer
    def __init__(self, status: int, reason: str, retry: int = 0) -> None:
        super().__init__(reason)
        self.status, self.reason, self.retry = status, reason, retry


class Api:
    """A Starlette application over a :class:`Live`; ``app`` is the ASGI callable."""

    def __init__(self, live: Live) -> None:
        self.live = live
        self.access = Access(live.workspace.config.live.api)
        self.counts: Counter[tuple[str, int]] = Counter()
        self.seconds: Counter[str] = Counter()
        user = "/v1/users/{user:path}"
        routes = [
            ("GET", f"{user}/predictions/{{task}}", self.prediction, "read"),
            ("GET", f"{user}/profile", self.profile, "read"),
            ("GET", f"{user}/value", self.value, "read"),
            ("GET", f"{user}/member", self.member, "read"),
            ("GET", f"{user}/recommendations", self.recommendations, "read"),
            ("GET", f"{user}/identity", self.identity, "read"),
            ("POST", f"{user}/decision", self.decision, "decide"),
            ("POST", "/v1/recommendations", self.session, "read"),
            ("POST", "/v1/answers", self.answers, "read"),
            ("GET", "/v1/models", self.models, "read"),
            ("GET", "/v1/outbox", self.outbox, "operate"),
            ("POST", "/v1/identity/{number:int}/undo", self.undo, "operate"),
            ("GET", "/lag", self.lag, "read"),
            ("GET", "/health", self.health, ""),
            ("GET", "/metrics", self.metrics, ""),
            ("GET", "/openapi.json", self.openapi, ""),
        ]
        self.app = Starlette(
            routes=[
                Route(path, self._guard(work, scope, work.__name__), methods=[method])
                for method, path, work, scope in routes
            ],
            exception_handlers={HTTPException: _http_fault, Exception: _unexpected},
        )

    # ---- around every answer

    def _guard(
        self, work: Handler, scope: str, name: str
    ) -> Callable[[Request], Awaitable[Response]]:
        """Check key and rate, answer, turn faults into one sentence, count."""

        async def answer(request: Request) -> Response:
            started = clock.perf_counter()
            status, body, headers = await self._answer(request, work, scope)
            self.counts[(name, status)] += 1
            self.seconds[name] += clock.perf_counter() - started  # type: ignore[assignment]
            if isinstance(body, Response):
                return body
            return Response(_encode(body), status, headers, media_type="application/json")

        return answer

    async def _answer(
        self, request: Request, work: Handler, scope: str
    ) -> tuple[int, Any, dict[str, str] | None]:
        if scope:
            given = request.headers.get("authorization", "")
            key = given[7:].strip() if given[:7].lower() == "bearer " else ""
            refusal = self.access.check(key, scope, request.client.host if request.client else "")
            if refusal is not None:
                headers = {"retry-after": str(refusal.retry)} if refusal.retry else None
                return refusal.status, {"error": refusal.reason}, headers
        try:
            return 200, await work(request), None
        except _Fault as fault:
            return fault.status, {"error": fault.reason}, None
        except InboxError as error:
            return 503, {"error": str(error)}, {"retry-after": "5"}
        except ModelError as error:
            return 404, {"error": str(error)}, None
        except (ExpressionError, DataError, NotEnoughDataError, PropendError) as error:
            return 400, {"error": str(error)}, None

    def _moment(self, request: Request) -> int:
        return self._parse_moment(request.query_params.get("at"))

    def _parse_moment(self, given: Any) -> int:
        if given is None or given == "":
            return clock.time_ns() // 1_000
        when = moment_of(given)
        if when is None or not 0 <= when < 4_102_444_800_000_000:
            raise _Fault(400, "at is neither ISO 8601 nor UTC microseconds between 1970 and 2100")
        return when

    # ---- answers

    async def profile(self, request: Request) -> dict[str, Any]:
        """What is known of a user: attributes, counts by event type, first and last event, last items."""
        user, at = _user(request), self._moment(request)
        state = self.live.state
        t = await self._near(user, lambda: state.timelines(user, at).before(at))
        if not len(t) and not state.knows(user):
            raise _Fault(404, f"no user {user!r}; ids are matched letter by letter")
        counts = np.bincount(t.type, minlength=len(state.schema.types))
        traits = {}
        for name, values in state.profile(user).items():
            traits[name] = plain_value(values)
        items = [
            state.schema.item_ids[i] for i in dict.fromkeys(t.item[t.item >= 0][::-1][:50].tolist())
        ]
        return {
            "user": user, "at": at, "events": len(t), "first": int(t.time[0]) if len(t) else None, "last": int(t.time[-1]) if len(t) else None,
            "types": {state.schema.types[c]: int(n) for c, n in enumerate(counts) if n}, "last_items": items[:10],
            "attributes": traits, "ids": list(state.identity.ids(user, at)),
        }  # fmt: skip

    async def value(self, request: Request) -> dict[str, Any]:
        """An expression's value."""
        user, at = _user(request), self._moment(request)
        asked = self._expression(request)
        found = await self._near(user, lambda: self._value(asked, user, at))
        return {"user": user, "at": at, "value": found}

    async def member(self, request: Request) -> dict[str, Any]:
        """Whether an expression holds."""
        user, at = _user(request), self._moment(request)
        asked = self._expression(request)
        found = await self._near(user, lambda: self._value(asked, user, at))
        return {"user": user, "at": at, "member": found is not None and found != 0}

    def _expression(self, request: Request) -> Expression:
        text = request.query_params.get("expression", "")
        if not text or len(text) > 2_000:
            raise _Fault(
                400,
                "give an expression of at most 2,000 letters, for example expression=any(purchase) last 30d",
            )
        return self._checked(text)

    def _checked(self, text: str) -> Expression:
        try:
            asked = _parsed(text)
        except RecursionError:
            raise _Fault(400, "the expression is nested too deep") from None
        _check(asked, self.live.state.schema)
        return asked

    def _value(self, asked: Expression, user: str, at: int) -> float | str | None:
        tasks = {part.task for part in asked.parts() if isinstance(part, Probability)}
        scores = {
            task: self.live.models.of(task).answer(self.live.state, user, at, 0).score
            for task in tasks
        }
        found = self.live.state.value(asked, user, at, scores)
        return found if isinstance(found, str) else plain(found)

    async def prediction(self, request: Request) -> dict[str, Any]:
        """A prediction with reasons, from the current model; the shadow model answers silently beside it."""
        user, at = _user(request), self._moment(request)
        reasons = _whole(request, "reasons", 3, 0, 20)
        task = request.path_params["task"]
        served = self.live.models.of(task)
        answer: Answer = await self._near(
            user, lambda: served.answer(self.live.state, user, at, reasons)
        )
        self.live.log.predicted(
            Predicted(at, user, task, answer.version, answer.score, 0, answer.missing)
        )
        shadow = self.live.models.shadow(task)
        if shadow is not None:
            silent = shadow.answer(self.live.state, user, at, 0)
            self.live.log.predicted(
                Predicted(at, user, task, silent.version, silent.score, 1, silent.missing)
            )
        return _prediction(user, at, answer)

    async def recommendations(self, request: Request) -> dict[str, Any]:
        """What to offer a user, from the items of the timeline up to the last event."""
        user = _user(request)
        k = _whole(request, "k", 10, 1, 100)
        at = clock.time_ns() // 1_000
        t = await self._near(user, lambda: self.live.state.timelines(user, at))
        return {"at": at, "items": self._offers(t.item[t.item >= 0], k)}

    async def session(self, request: Request) -> dict[str, Any]:
        """What to offer in an anonymous session of items, oldest first."""
        data = await _body(request)
        items, k = data.get("items"), data.get("k", 10)
        if not isinstance(items, list) or not all(isinstance(i, str) for i in items):
            raise _Fault(400, "items must be a list of item ids")
        if not isinstance(k, int) or isinstance(k, bool) or not 1 <= k <= 100:
            raise _Fault(400, "k must be a whole number from 1 to 100")
        known = self.live.state._item_codes
        codes = np.array([known[i] for i in items[-500:] if i in known], np.int64)
        return {"at": clock.time_ns() // 1_000, "items": self._offers(codes, k)}

    def _offers(self, items: Any, k: int) -> list[dict[str, Any]]:
        if self.live.recommender is None:
            raise _Fault(404, "there is nothing to recommend yet: no stored event carries an item")
        fitted, within, ids = self.live.recommender
        session = np.asarray(items[items < len(ids)][-200:], np.int64)
        shown = fitted.recommend([session], min(k, len(ids)), within=within)
        pairs = zip(shown.items[0].tolist(), shown.scores[0].tolist(), strict=True)
        return [
            {"rank": r, "item": ids[i], "score": plain(s)}
            for r, (i, s) in enumerate(((i, s) for i, s in pairs if i >= 0), 1)
        ]

    async def decision(self, request: Request) -> dict[str, Any]:
        """Decide about a user now; the decision is in the log, with its propensity, before it is answered."""
        user = _user(request)
        return await asyncio.to_thread(self._decide, user)

    def _decide(self, user: str) -> dict[str, Any]:
        from propend.decide.policy import consent_of, decide
        from propend.names import USER

        live, config = self.live, self.live.workspace.config
        at = clock.time_ns() // 1_000
        yes_no = [t for t in live.models.tasks if live.models.of(t).fitted.task.answer == "yes_no"]
        task = config.decide.task or next(
            (t for t in yes_no if "purchase" in live.models.of(t).fitted.task.ask), ""
        )
        if not task:
            raise _Fault(409, "no yes/no model about purchases answers yet; run: propend run")
        answer = live.models.of(task).answer(live.state, user, at, 1)
        value = (
            live.state.value(_parsed("mean(purchase.value)"), user, at)
            if "purchase" in live.state.schema.types
            else None
        )
        if not isinstance(value, float) or value <= 0:
            value = self._typical_value()
        if value is None:
            raise _Fault(
                409,
                "no purchase in the log has a value, so no push can be weighed against its cost",
            )
        consent = (
            consent_of(live.state._user_table, USER, [user])
            if live.state._user_table is not None
            else None
        )
        settings = msgspec.structs.replace(config.decide, budget=None)
        made = decide(
            [user], [answer.score], [value], settings, now=at, zone=live.workspace.zone, consent=consent,
            salt=f"{config.workspace.name}-{config.workspace.seed}", currency=config.workspace.currency,
        )  # fmt: skip
        found = made.of(user)
        detail = {
            "task": task, "version": answer.version, "item": found.item, "channel": found.channel, "group": found.group,
            "probability": found.probability, "expected_profit": plain(found.expected_profit), "push_propensity": found.push_propensity,
            "policy": found.policy, "reason": found.reason,
        }  # fmt: skip
        number = live.log.decided(at, user, found.action, found.propensity, detail)
        return {
            "number": number,
            "user": user,
            "at": at,
            "action": found.action,
            "propensity": found.propensity,
            **detail,
        }

    def _typical_value(self) -> float | None:
        """Return the mean value of a purchase in the store, worked out once per store."""
        store = self.live.state.store
        schema = self.live.state.schema
        if store is None or "purchase" not in store.types or "value" not in store.manifest.columns:
            return None
        key = store.manifest.generation
        if getattr(self, "_typical", (None, None))[0] != key:
            purchase = store.types.index("purchase")
            total = n = 0.0
            for bucket in range(store.buckets):
                t = store.timelines(bucket, ["value"])
                values = t.numbers["value"][t.type == purchase]
                total, n = total + float(np.nansum(values)), n + float(np.isfinite(values).sum())
            self._typical = (key, total / n if n else None)
        del schema
        return self._typical[1]

    async def identity(self, request: Request) -> dict[str, Any]:
        """Who a user is, and by which facts."""
        user = _user(request)
        who = self.live.identity
        return {
            "user": user,
            "ids": list(who.ids(user, clock.time_ns() // 1_000)),
            "facts": who.facts(user),
        }

    async def undo(self, request: Request) -> dict[str, Any]:
        """Let an identity fact hold no longer, from now on."""
        number = request.path_params["number"]
        if not 0 < number < 1 << 53:
            raise _Fault(404, f"no identity fact {number}")
        at = clock.time_ns() // 1_000
        try:
            self.live.identity.undo(number, at)
        except DataError as error:
            raise _Fault(404, str(error)) from None
        return {"number": number, "undone": at}

    async def answers(self, request: Request) -> dict[str, Any]:
        """A task or an expression for up to 1,000 users."""
        data = await _body(request)
        users = data.get("users")
        if (
            not isinstance(users, list)
            or len(users) > 1_000
            or not all(isinstance(u, str) and u for u in users)
        ):
            raise _Fault(400, "users must be a list of at most 1,000 ids")
        at = self._parse_moment(data.get("at"))
        task, text = data.get("task"), data.get("expression")
        if (task is None) == (text is None) or not isinstance(task or text, str):
            raise _Fault(400, "give either a task or an expression")
        asked = None if text is None else self._checked(text)
        served = None if task is None else self.live.models.of(task)

        def work() -> list[dict[str, Any]]:
            if asked is not None:
                return [{"user": u, "at": at, "value": self._value(asked, u, at)} for u in users]
            assert served is not None
            answers = [served.answer(self.live.state, u, at, 0) for u in users]
            for u, a in zip(users, answers, strict=True):
                self.live.log.predicted(Predicted(at, u, a.task, a.version, a.score, 0, a.missing))
            return [_prediction(u, at, a) for u, a in zip(users, answers, strict=True)]

        return {"answers": await asyncio.to_thread(work)}

    async def models(self, request: Request) -> dict[str, Any]:
        """The models that answer, with their forward metrics."""
        del request
        found = []
        for task in self.live.models.tasks:
            served = self.live.models.of(task)
            shadow = self.live.models.shadow(task)
            card = served.fitted.card
            found.append({
                "task": task, "ask": served.fitted.task.ask, "version": served.version, "model": served.fitted.name,
                "shadow": None if shadow is None else shadow.version, "metrics": plain(card.get("metrics")), "protocol": plain(card.get("protocol")),
            })  # fmt: skip
        return {"models": found}

    async def outbox(self, request: Request) -> dict[str, Any]:
        """What triggers fired, the latest last."""
        del request
        return {"fired": self.live.triggers.outbox()[-1_000:]}

    async def lag(self, request: Request) -> dict[str, Any]:
        """How far each part is behind."""
        del request
        return plain(self.live.lag())

    async def health(self, request: Request) -> Any:
        """Whether everything works; 503 with what does not."""
        del request
        faults = dict(self.live.faults)
        if faults:
            return Response(
                _encode({"status": "impaired", "faults": faults}),
                503,
                media_type="application/json",
            )
        return {
            "status": "ok",
            "position": self.live.state.position,
            "models": list(self.live.models.tasks),
        }

    async def openapi(self, request: Request) -> dict[str, Any]:
        """The description of this API."""
        del request
        return describe()

    async def metrics(self, request: Request) -> Response:
        """Counters and gauges in Prometheus' text format."""
        del request
        lines = ["# TYPE propend_requests_total counter"]
        lines += [
            f'propend_requests_total{{route="{n}",status="{s}"}} {c}'
            for (n, s), c in sorted(self.counts.items())
        ]
        lines.append("# TYPE propend_request_seconds_total counter")
        lines += [
            f'propend_request_seconds_total{{route="{n}"}} {s:.6f}'
            for n, s in sorted(self.seconds.items())
        ]
        lag = self.live.lag()
        gauges = {
            **{f"state_{k}": v for k, v in self.live.state.counts().items()},
            **{k: v for k, v in lag.items() if isinstance(v, int | float)},
        }
        for name, number in gauges.items():
            lines += [f"# TYPE propend_{name} gauge", f"propend_{name} {number}"]
        return Response("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4")

    async def _near(self, user: str, work: Callable[[], Any]) -> Any:
        """Answer here where the user is in memory, in a thread where the store must be read."""
        if user in self.live.state._slices:
            return work()
        return await asyncio.to_thread(work)


@lru_cache(maxsize=2_048)
def _parsed(text: str) -> Expression:
    return parse(text)


def _check(asked: Expression, schema: Schema) -> None:
    schema.check(asked, forward=False)


def _user(request: Request) -> str:
    user: str = request.path_params["user"]
    if not user or len(user) > 1_000:
        raise _Fault(400, "a user id has 1 to 1,000 letters")
    return user


def _whole(request: Request, name: str, default: int, low: int, high: int) -> int:
    given = request.query_params.get(name)
    if given is None:
        return default
    if not (given.isascii() and given.isdigit() and len(given) < 6 and low <= int(given) <= high):
        raise _Fault(400, f"{name} must be a whole number from {low} to {high}")
    return int(given)


async def _body(request: Request) -> dict[str, Any]:
    """Return a JSON object of at most 1 MB."""
    raw = b""
    async for part in request.stream():
        raw += part
        if len(raw) > 1 << 20:
            raise _Fault(400, "the body is larger than 1 MB")
    try:
        data = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _Fault(400, "the body is not JSON") from None
    if not isinstance(data, dict):
        raise _Fault(400, "the body must be a JSON object")
    return data


def _prediction(user: str, at: int, answer: Answer) -> dict[str, Any]:
    return {
        "user": user, "task": answer.task, "at": at, "version": answer.version, "score": plain(answer.score), "interval": answer.interval,
        "in_population": answer.asked, "missing": answer.missing,
        "reasons": [{"feature": r.feature, "words": r.words, "value": plain(r.value), "effect": plain(r.effect)} for r in answer.reasons],
    }  # fmt: skip


async def _http_fault(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, HTTPException)
    return Response(
        _encode({"error": str(error.detail).lower()}),
        error.status_code,
        error.headers,
        media_type="application/json",
    )


async def _unexpected(request: Request, error: Exception) -> Response:
    del request
    _log.error("unexpected %s", type(error).__name__)
    return Response(
        b'{"error":"the server failed; the log says more"}', 500, media_type="application/json"
    )
