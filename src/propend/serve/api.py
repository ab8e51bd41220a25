"""The API: what is known, predicted, recommended and decided about a user, a moment after the last event."""

from __future__ import annotations

import asyncio
import logging
import time as clock
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from propend.errors import DataError, ModelError, PropendError
from propend.expression.nodes import Expression
from propend.learn.registry import plain
from propend.serve.access import Access
from propend.serve.answers import Answers, Fault, now
from propend.serve.collect import Collector
from propend.serve.dialects.port import moment_of
from propend.serve.inbox import InboxError
from propend.serve.live import Live, where
from propend.serve.log import LogError
from propend.serve.openapi import ASKS, describe
from propend.serve.parameters import (
    Question,
    body_of,
    number_of,
    query_of,
    user_of,
    users_of,
    who,
    whole,
)

__all__ = ["Api"]

_log = logging.getLogger("propend.serve")
Asked = Request | Question
_USERS: Final = "/v1/users/"
_JSON: Final = (b"content-type", b"application/json")
Handler = Callable[[Any], Awaitable[Any]]
_encode = msgspec.json.Encoder().encode


class Api:
    """A Starlette application over a :class:`Live`; ``app`` is the ASGI callable.

    Health and metrics tell of the collector too, where it shares the port.
    """

    def __init__(self, live: Live, collector: Collector | None = None) -> None:
        self.live, self.collector = live, collector
        self.answers = Answers(live)
        self.access = Access(live.workspace.config.live.api)
        self.counts: Counter[tuple[str, int]] = Counter()
        self.seconds: defaultdict[str, float] = defaultdict(float)
        user = f"{_USERS}{{user:path}}"
        routes = [
            ("GET", f"{user}/predictions/{{task}}", self.prediction, "read"),
            ("GET", f"{user}/profile", self.profile, "read"),
            ("GET", f"{user}/value", self.value, "read"),
            ("GET", f"{user}/member", self.member, "read"),
            ("GET", f"{user}/recommendations", self.recommendations, "read"),
            ("GET", f"{user}/identity", self.identity, "read"),
            ("POST", f"{user}/decision", self.decision, "decide"),
            ("POST", "/v1/recommendations", self.session, "read"),
            ("POST", "/v1/answers", self.many, "read"),
            ("POST", "/v1/decisions", self.decisions, "decide"),
            ("GET", "/v1/models", self.models, "read"),
            ("GET", "/v1/outbox", self.outbox, "operate"),
            ("POST", "/v1/identity/{number:int}/undo", self.undo, "operate"),
            ("POST", "/v1/identity/{number:int}/redo", self.redo, "operate"),
            ("GET", "/lag", self.lag, "read"),
            ("GET", "/health", self.health, ""),
            ("GET", "/metrics", self.metrics, ""),
            ("GET", "/openapi.json", self.openapi, ""),
        ]
        self._of_user = {
            path.rpartition("/")[2]: work for method, path, work, _ in routes if method == "GET" and path.startswith(user)
        }  # fmt: skip
        self._router = Starlette(
            routes=[
                Route(path, self._guard(work, scope), methods=[method])
                for method, path, work, scope in routes
            ],
            exception_handlers={HTTPException: _http_fault},
        )

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request. What is asked of one user goes past the router and its objects: they take 60 µs, an answer 150."""
        if scope["type"] == "http" and scope["method"] == "GET" and not scope.get("root_path"):
            path: str = scope["path"]
            user, _, last = path.removeprefix(_USERS).rpartition("/")
            asked, params = last, {"user": user}
            if user.endswith("/predictions") and last:
                asked, params = "{task}", {"user": user.removesuffix("/predictions"), "task": last}
            work = self._of_user.get(asked) if path.startswith(_USERS) else None
            if work is not None:
                asked_of = Question(params, query_of(scope["query_string"]))
                status, body, headers = await self._counted(asked_of, work, "read", who(scope))
                content = _encode(body)
                fields = [(b"content-length", b"%d" % len(content)), _JSON]
                for name, value in (headers or {}).items():
                    fields.append((name.encode(), value.encode()))
                await send({"type": "http.response.start", "status": status, "headers": fields})
                await send({"type": "http.response.body", "body": content})
                return
        await self._router(scope, receive, send)

    # ---- around every answer

    def _guard(self, work: Handler, scope: str) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            status, body, headers = await self._counted(request, work, scope, who(request.scope))
            if isinstance(body, Response):
                return body
            return Response(_encode(body), status, headers, media_type="application/json")

        return answer

    async def _counted(
        self, request: Any, work: Handler, scope: str, client: tuple[str, str]
    ) -> tuple[int, Any, dict[str, str] | None]:
        """Answer, and count the answer and the time it took."""
        started, name = clock.perf_counter(), work.__name__
        found = await self._answer(request, work, scope, client)
        self.counts[(name, found[0])] += 1
        self.seconds[name] += clock.perf_counter() - started
        return found

    async def _answer(
        self, request: Any, work: Handler, scope: str, client: tuple[str, str]
    ) -> tuple[int, Any, dict[str, str] | None]:
        """Check key and rate, answer, turn faults into one sentence."""
        if scope:
            key, address = client
            refusal = self.access.check(key, scope, address)
            if refusal is not None:
                headers = {"retry-after": str(refusal.retry)} if refusal.retry else None
                return refusal.status, {"error": refusal.reason}, headers
        try:
            return 200, await work(request), None
        except Fault as fault:
            return fault.status, {"error": str(fault)}, None
        except (InboxError, LogError) as error:
            return 503, {"error": str(error)}, {"retry-after": "5"}
        except ModelError as error:
            return 404, {"error": str(error)}, None
        except PropendError as error:
            return 400, {"error": str(error)}, None
        except Exception as error:  # further up it would be logged with its message
            _log.error("unexpected %s", where(error))
            return 500, {"error": "the server failed; the log says where"}, None

    def _moment(self, request: Asked) -> int:
        return self._parse_moment(request.query_params.get("at"))

    def _parse_moment(self, given: Any) -> int:
        if given is None or given == "":
            return now()
        when = moment_of(given)
        if when is None or not 0 <= when < 4_102_444_800_000_000:
            raise Fault(400, "at is neither ISO 8601 nor UTC microseconds between 1970 and 2100")
        return when

    # ---- answers

    async def profile(self, request: Asked) -> dict[str, Any]:
        """What is known of a user: attributes, counts by event type, first and last event, last items."""
        user, at = user_of(request), self._moment(request)
        return await self._near(user, lambda: self.answers.profile(user, at))

    async def value(self, request: Asked) -> dict[str, Any]:
        """An expression's value."""
        user, at = user_of(request), self._moment(request)
        asked = self._expression(request.query_params.get("expression"))
        return await self._near(user, lambda: self.answers.value(asked, user, at))

    async def member(self, request: Asked) -> dict[str, Any]:
        """Whether an expression holds."""
        user, at = user_of(request), self._moment(request)
        asked = self._expression(request.query_params.get("expression"))
        return await self._near(user, lambda: self.answers.member(asked, user, at))

    def _expression(self, text: Any) -> Expression:
        if not isinstance(text, str) or not text or len(text) > 2_000:
            raise Fault(
                400,
                "give an expression of at most 2,000 letters, for example expression=any(purchase) last 30d",
            )
        return self.answers.checked(text)

    async def prediction(self, request: Asked) -> dict[str, Any]:
        """A prediction with interval, reasons and model version; the shadow model answers silently beside it."""
        user, at = user_of(request), self._moment(request)
        reasons = whole(request, "reasons", 3, 0, 20)
        task = request.path_params["task"]
        return await self._near(user, lambda: self.answers.prediction(task, user, at, reasons))

    async def recommendations(self, request: Asked) -> dict[str, Any]:
        """What to offer a user, from the items of the timeline up to the last event."""
        user, at, k = user_of(request), now(), whole(request, "k", 10, 1, 100)
        why = whole(request, "reasons", 0, 0, 1) == 1

        def work() -> dict[str, Any]:
            return self.answers.recommendations(user, at, k, reasons=why)

        # reasons take ten times the time of the offers, so they are not told here
        return await (asyncio.to_thread(work) if why else self._near(user, work))

    async def session(self, request: Request) -> dict[str, Any]:
        """What to offer in an anonymous session of items, oldest first."""
        data = await body_of(request)
        items = data.get("items")
        if not isinstance(items, list) or not all(isinstance(i, str) for i in items):
            raise Fault(400, "items must be a list of item ids")
        k, why = number_of(data, "k", 10, 1, 100), number_of(data, "reasons", 0, 0, 1) == 1
        return self.answers.session(items, now(), k, reasons=why)

    async def identity(self, request: Asked) -> dict[str, Any]:
        """Who a user is, and by which facts."""
        return self.answers.identity(user_of(request), now())

    async def decision(self, request: Request) -> dict[str, Any]:
        """Decide about a user now; the decision is in the log, with its propensity, before it is answered."""
        user = user_of(request)
        made = await asyncio.to_thread(self.answers.decisions, [user], now())
        if "error" in made[0]:
            raise Fault(404, made[0]["error"])
        return made[0]

    async def decisions(self, request: Request) -> dict[str, Any]:
        """Decide about up to 1,000 users now, each as if alone."""
        users = users_of(await body_of(request))
        return {"decisions": await asyncio.to_thread(self.answers.decisions, users, now())}

    async def many(self, request: Request) -> dict[str, Any]:
        """One question about up to 1,000 users; what cannot be answered says why, in its place."""
        data = await body_of(request)
        users, at = users_of(data), self._parse_moment(data.get("at"))
        given = "prediction" if "task" in data else "value" if "expression" in data else None
        ask = data.get("ask", given)
        work = self._asked(ask, data, at)
        found = await asyncio.to_thread(self.answers.each, users, work)
        return {"answers": found}

    def _asked(self, ask: Any, data: dict[str, Any], at: int) -> Callable[[str], dict[str, Any]]:
        """Return what a batch asks of each user."""
        answers = self.answers
        if ("task" in data) + ("expression" in data) > 1:
            raise Fault(400, "give either a task or an expression")
        match ask:
            case "profile":
                return lambda user: answers.profile(user, at)
            case "identity":
                return lambda user: answers.identity(user, at)
            case "recommendations":
                k, why = number_of(data, "k", 10, 1, 100), number_of(data, "reasons", 0, 0, 20) > 0
                return lambda user: answers.recommendations(user, at, k, reasons=why)
            case "prediction":
                task, reasons = data.get("task"), number_of(data, "reasons", 0, 0, 20)
                if not isinstance(task, str):
                    raise Fault(400, "give the task to predict")
                self.live.models.of(task)
                return lambda user: answers.prediction(task, user, at, reasons)
            case "value" | "member":
                asked = self._expression(data.get("expression"))
                work = answers.value if ask == "value" else answers.member
                return lambda user: work(asked, user, at)
        raise Fault(
            400, f"ask must be one of {', '.join(ASKS)}; a task or an expression alone will do"
        )

    async def undo(self, request: Request) -> dict[str, Any]:
        """Let an identity fact hold no longer, from now on."""
        return self._of_fact(request, "undone", self.live.identity.undo)

    async def redo(self, request: Request) -> dict[str, Any]:
        """Let an undone identity fact hold again, from now on."""
        return self._of_fact(request, "redone", self.live.identity.redo)

    def _of_fact(
        self, request: Request, what: str, work: Callable[[int, int], None]
    ) -> dict[str, Any]:
        number = request.path_params["number"]
        if not 0 < number < 1 << 53:
            raise Fault(404, f"no identity fact {number}")
        at = now()
        try:
            work(number, at)
        except DataError as error:
            raise Fault(404, str(error)) from None
        return {"number": number, what: at}

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
        return {"fired": self.live.triggers.outbox.rows(most=1_000)}

    async def lag(self, request: Request) -> dict[str, Any]:
        """How far each part is behind, and what was refused."""
        del request
        counts = None if self.collector is None else self.collector.counts
        return plain({
            **self.live.lag(), "refused": None if counts is None else counts["refused"],
            "refused_not_kept": self.live.unkept + (0 if counts is None else counts["refused_not_kept"]),
        })  # fmt: skip

    async def health(self, request: Request) -> Any:
        """Whether everything works; 503 with what does not."""
        del request
        faults = self.live.impaired()
        if self.collector is not None and not await self.collector.mended():
            faults["inbox"] = "the inbox cannot be written"
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
        return describe(collects=self.collector is not None)

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
        lines += ["# TYPE propend_answers_dropped_total counter", f"propend_answers_dropped_total {self.live.log.dropped}"]  # fmt: skip
        text = "\n".join(lines) + "\n"
        if self.collector is not None:
            text += self.collector.metrics()
        return Response(text, media_type="text/plain; version=0.0.4")

    async def _near(self, user: str, work: Callable[[], Any]) -> Any:
        """Answer here where the user is in memory, in a thread where the store must be read."""
        if user in self.live.state._slices:
            return work()
        return await asyncio.to_thread(work)


async def _http_fault(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, HTTPException)
    return Response(
        _encode({"error": str(error.detail).lower()}),
        error.status_code,
        error.headers,
        media_type="application/json",
    )
