"""The API's description in OpenAPI 3.1; the tests send what it allows and more (Schemathesis)."""

from __future__ import annotations

from typing import Any, Final

from propend.learn.registry import code_version

__all__ = ["ASKS", "describe"]

ASKS: Final = ("profile", "value", "member", "prediction", "recommendations", "identity")
"""What a batch may ask of each user."""
_NUMBER = {"type": ["number", "null"]}
_TEXT = {"type": "string"}
_WHOLE = {"type": "integer"}


def _object(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required or properties)}


def _closed(**properties: Any) -> dict[str, Any]:
    """Return an object with these properties and no other."""
    return {**_object(**properties), "additionalProperties": False}


def _map(values: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": values}


def _maybe(kind: str) -> dict[str, Any]:
    return {"type": [kind, "null"]}


def _array(items: Any) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _path(name: str, schema: Any) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": schema}


_USER = _path("user", {"type": "string", "minLength": 1})
_AT = {
    "name": "at", "in": "query", "schema": {"type": "string"},
    "description": "As of when: ISO 8601 or UTC microseconds; default now.",
}  # fmt: skip
_VALUE = {"type": ["number", "string", "null"]}
_REASON = _object(feature=_TEXT, words=_TEXT, value=_NUMBER, effect=_NUMBER)
_PREDICTION = _closed(
    user=_TEXT, task=_TEXT, at=_WHOLE, version=_WHOLE, score=_NUMBER, interval={"type": ["array", "null"], "items": {"type": "number"}},
    in_population={"type": "boolean"}, missing=_WHOLE, reasons=_array(_REASON),
)  # fmt: skip
_OFFER = {
    **_object(("rank", "item", "name", "score"), rank=_WHOLE, item=_TEXT, name=_TEXT, score=_NUMBER, reason=_TEXT),
    "additionalProperties": False,
}  # fmt: skip
_OFFERS = _closed(at=_WHOLE, items=_array(_OFFER))
_USER_OFFERS = _closed(user=_TEXT, at=_WHOLE, items=_array(_OFFER))
_ANSWER = _closed(user=_TEXT, at=_WHOLE, value=_VALUE)
_MEMBER = _closed(user=_TEXT, at=_WHOLE, member={"type": "boolean"})
_ERROR = _object(error=_TEXT)
_FAILED = _closed(user=_TEXT, error=_TEXT)
_PROFILE = _closed(
    user=_TEXT, at=_WHOLE, events=_WHOLE, first=_maybe("integer"), last=_maybe("integer"), types=_map(_WHOLE), last_items=_array(_TEXT),
    attributes=_map(_VALUE), ids=_array(_TEXT),
)  # fmt: skip
_FACT = _object(
    number=_WHOLE, time=_WHOLE, kind={"enum": ["identify", "alias", "merge"]}, one=_TEXT, other=_TEXT, source=_TEXT, message=_TEXT, undone=_maybe("integer"), redone=_WHOLE,
)  # fmt: skip
_IDENTITY = _closed(user=_TEXT, ids=_array(_TEXT), facts=_array(_FACT))
_DECISION = _closed(
    number=_WHOLE, user=_TEXT, at=_WHOLE, action={"enum": ["push", "silent"]}, propensity=_NUMBER, task=_TEXT, version=_WHOLE, item=_maybe("string"),
    channel=_maybe("string"), group=_TEXT, probability=_NUMBER, expected_profit=_NUMBER, push_propensity=_NUMBER, policy=_TEXT, reason=_TEXT,
)  # fmt: skip
_MODEL = _closed(
    task=_TEXT, ask=_TEXT, version=_WHOLE, model=_TEXT, shadow=_maybe("integer"), metrics=_maybe("object"), protocol={},
)  # fmt: skip
_FIRED = _closed(
    number=_WHOLE, trigger=_TEXT, user=_TEXT, at=_WHOLE, fired=_WHOLE, tries=_WHOLE, state={"enum": ["waiting", "sent", "dead", "withheld"]}, fault=_TEXT,
)  # fmt: skip
_LAG = _closed(
    inbox=_WHOLE, visible=_WHOLE, stored=_WHOLE, not_visible=_WHOLE, not_stored=_WHOLE, visible_seconds=_NUMBER, stored_seconds=_NUMBER,
    visible_p50=_NUMBER, visible_p99=_NUMBER, fired_p99=_NUMBER, faults=_map(_TEXT), rejected=_WHOLE, refused=_maybe("integer"),
    refused_not_kept=_WHOLE,
)  # fmt: skip
_HEALTH = _closed(status=_TEXT, position=_WHOLE, models=_array(_TEXT))
_IMPAIRED = _closed(status=_TEXT, faults=_map(_TEXT))
_EVENT = _object(
    ("type",), type=_TEXT, id=_TEXT, user=_TEXT, anonymous=_TEXT, time={"type": ["string", "number"]}, item=_TEXT, value=_NUMBER, quantity=_NUMBER,
    price=_NUMBER, session=_TEXT, text=_TEXT, channel=_TEXT, properties={"type": "object"}, traits={"type": "object"}, consent={"type": "boolean"},
)  # fmt: skip
_TAKEN = _object(("id", "result"), id={}, result={"enum": ["ok", "refused"]}, reason=_TEXT)


def _operation(
    summary: str, answer: Any, scope: str, *, parameters: tuple[Any, ...] = (), body: Any = None, statuses: tuple[int, ...] = (400, 404),
) -> dict[str, Any]:  # fmt: skip
    def json(schema: Any) -> dict[str, Any]:
        return {"application/json": {"schema": schema}}

    faults = {
        s: {"description": "One sentence.", "content": json(_ERROR)}
        for s in (*statuses, 401, 403, 429, 503)
    }
    found: dict[str, Any] = {
        "summary": summary,
        "security": [{"key": []}, {}],
        "x-scope": scope,
        "parameters": list(parameters),
        "responses": {
            "200": {"description": "The answer.", "content": json(answer)},
            **{str(k): v for k, v in faults.items()},
        },
    }
    if body is not None:
        found["requestBody"] = {"required": True, "content": json(body)}
    return found


def _query(name: str, schema: Any, description: str, *, required: bool = False) -> dict[str, Any]:
    return {
        "name": name,
        "in": "query",
        "schema": schema,
        "description": description,
        "required": required,
    }


def _events() -> dict[str, Any]:
    """Return the description of our own route for events, which the collector answers."""
    found = _operation(
        "Take events in; each has its result, and what is taken is on the disk.", _object(results=_array(_TAKEN)), "", body=_object(("events",), events=_array(_EVENT)),
        statuses=(400, 405, 413),
    )  # fmt: skip
    return {**found, "description": "The key is a write key (`[live.keys]`), not a key of the API."}


def describe(*, collects: bool = False) -> dict[str, Any]:
    """Return the description; with the route for events where the collector is on the same port.

    >>> sorted(describe()["paths"])[0]
    '/health'
    """
    task = _path("task", {"type": "string", "minLength": 1})
    number = _path("number", {"type": "integer", "minimum": 1, "maximum": 1 << 53})
    reasons = _query(
        "reasons", {"type": "integer", "minimum": 0, "maximum": 20}, "How many reasons."
    )
    k = _query("k", {"type": "integer", "minimum": 1, "maximum": 100}, "How many offers.")
    why = _query(
        "reasons", {"type": "integer", "minimum": 0, "maximum": 1}, "1: each offer with its reason."
    )
    expression = _query(
        "expression",
        {"type": "string", "minLength": 1, "maxLength": 2_000},
        "For example any(purchase) last 30d.",
        required=True,
    )
    session = _object(
        ("items",),
        items=_array(_TEXT),
        k={"type": "integer", "minimum": 1, "maximum": 100},
        reasons={"type": "integer", "minimum": 0, "maximum": 1},
    )
    users = {**_array({"type": "string", "minLength": 1, "maxLength": 1_000}), "maxItems": 1_000}
    batch = _object(
        ("users",), users=users, ask={"enum": list(ASKS)}, task=_TEXT, expression={"type": "string", "minLength": 1, "maxLength": 2_000},
        at={"type": ["string", "integer"]}, k={"type": "integer", "minimum": 1, "maximum": 100}, reasons={"type": "integer", "minimum": 0, "maximum": 20},
    )  # fmt: skip
    user = "/v1/users/{user}"
    health = _operation("Whether it works.", _HEALTH, "", statuses=())
    impaired = {"description": "What does not work.", "content": {"application/json": {"schema": {"anyOf": [_IMPAIRED, _ERROR]}}}}  # fmt: skip
    health["responses"]["503"] = impaired
    metrics = _operation("Counters and gauges in Prometheus' text format.", {}, "", statuses=())
    metrics["responses"]["200"]["content"] = {"text/plain": {"schema": _TEXT}}
    paths = {
        "/health": {"get": health},
        "/metrics": {"get": metrics},
        "/lag": {"get": _operation("How far each part is behind.", _LAG, "read")},
        f"{user}/profile": {
            "get": _operation("What is known of a user.", _PROFILE, "read", parameters=(_USER, _AT))
        },
        f"{user}/value": {
            "get": _operation(
                "An expression's value.", _ANSWER, "read", parameters=(_USER, expression, _AT)
            )
        },
        f"{user}/member": {
            "get": _operation(
                "Whether an expression holds: audience membership.",
                _MEMBER,
                "read",
                parameters=(_USER, expression, _AT),
            )
        },
        f"{user}/predictions/{{task}}": {
            "get": _operation(
                "A prediction with its interval, its reasons and the model's version.",
                _PREDICTION,
                "read",
                parameters=(_USER, task, reasons, _AT),
            )
        },
        f"{user}/recommendations": {
            "get": _operation(
                "What to offer a user.", _USER_OFFERS, "read", parameters=(_USER, k, why)
            )
        },
        f"{user}/decision": {
            "post": _operation(
                "Decide about a user; logged with its propensity.",
                _DECISION,
                "decide",
                parameters=(_USER,),
                statuses=(400, 404, 409),
            )
        },
        f"{user}/identity": {
            "get": _operation(
                "Who this user is, and since when.",
                _IDENTITY,
                "read",
                parameters=(_USER,),
            )
        },
        "/v1/identity/{number}/undo": {
            "post": _operation(
                "Undo an identity fact from now on.",
                _closed(number=_WHOLE, undone=_WHOLE),
                "operate",
                parameters=(number,),
            )
        },
        "/v1/identity/{number}/redo": {
            "post": _operation(
                "Let an undone identity fact hold again, from now on.",
                _closed(number=_WHOLE, redone=_WHOLE),
                "operate",
                parameters=(number,),
            )
        },
        "/v1/recommendations": {
            "post": _operation(
                "What to offer in a session of items.", _OFFERS, "read", body=session
            )
        },
        "/v1/answers": {
            "post": _operation(
                "One question about many users; where one cannot be answered, the error stands in its place.",
                _closed(
                    answers=_array(
                        {
                            "anyOf": [
                                _PROFILE,
                                _ANSWER,
                                _MEMBER,
                                _PREDICTION,
                                _USER_OFFERS,
                                _IDENTITY,
                                _FAILED,
                            ]
                        }
                    )
                ),
                "read",
                body=batch,
            )
        },
        "/v1/decisions": {
            "post": _operation(
                "Decide about many users, each as if alone.",
                _closed(decisions=_array({"anyOf": [_DECISION, _FAILED]})),
                "decide",
                body=_object(users=users),
                statuses=(400, 404, 409),
            )
        },
        "/v1/models": {
            "get": _operation("The models that answer.", _closed(models=_array(_MODEL)), "read")
        },
        "/v1/outbox": {
            "get": _operation("What triggers fired.", _closed(fired=_array(_FIRED)), "operate")
        },
    }
    if collects:
        paths["/v1/events"] = {"post": _events()}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Propend live",
            "version": code_version(),
            "description": "Answers about users, from the last event on.",
        },
        "paths": paths,
        "components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }
