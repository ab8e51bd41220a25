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
_PREDICTION = _object(
    user=_TEXT, task=_TEXT, at=_WHOLE, version=_WHOLE, score=_NUMBER, interval={"type": ["array", "null"], "items": {"type": "number"}},
    in_population={"type": "boolean"}, missing=_WHOLE, reasons=_array(_REASON),
)  # fmt: skip
_OFFER = _object(rank=_WHOLE, item=_TEXT, score=_NUMBER)
_OFFERS = _object(at=_WHOLE, items=_array(_OFFER))
_ANSWER = _object(user=_TEXT, at=_WHOLE, value=_VALUE)
_ERROR = _object(error=_TEXT)


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


def describe() -> dict[str, Any]:
    """Return the description.

    >>> sorted(describe()["paths"])[0]
    '/health'
    """
    task = _path("task", {"type": "string", "minLength": 1})
    number = _path("number", {"type": "integer", "minimum": 1, "maximum": 1 << 53})
    reasons = _query(
        "reasons", {"type": "integer", "minimum": 0, "maximum": 20}, "How many reasons."
    )
    k = _query("k", {"type": "integer", "minimum": 1, "maximum": 100}, "How many offers.")
    expression = _query(
        "expression",
        {"type": "string", "minLength": 1, "maxLength": 2_000},
        "For example any(purchase) last 30d.",
        required=True,
    )
    session = _object(
        ("items",), items=_array(_TEXT), k={"type": "integer", "minimum": 1, "maximum": 100}
    )
    users = {**_array({"type": "string", "minLength": 1, "maxLength": 1_000}), "maxItems": 1_000}
    batch = _object(
        ("users",), users=users, ask={"enum": list(ASKS)}, task=_TEXT, expression={"type": "string", "minLength": 1, "maxLength": 2_000},
        at={"type": ["string", "integer"]}, k={"type": "integer", "minimum": 1, "maximum": 100}, reasons={"type": "integer", "minimum": 0, "maximum": 20},
    )  # fmt: skip
    user = "/v1/users/{user}"
    anything = {"type": "object"}
    paths = {
        "/health": {"get": _operation("Whether it works.", anything, "")},
        "/lag": {"get": _operation("How far each part is behind.", anything, "read")},
        f"{user}/profile": {
            "get": _operation("What is known of a user.", anything, "read", parameters=(_USER, _AT))
        },
        f"{user}/value": {
            "get": _operation(
                "An expression's value.", _ANSWER, "read", parameters=(_USER, expression, _AT)
            )
        },
        f"{user}/member": {
            "get": _operation(
                "Whether an expression holds: audience membership.",
                _object(user=_TEXT, at=_WHOLE, member={"type": "boolean"}),
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
            "get": _operation("What to offer a user.", _OFFERS, "read", parameters=(_USER, k))
        },
        f"{user}/decision": {
            "post": _operation(
                "Decide about a user; logged with its propensity.",
                anything,
                "decide",
                parameters=(_USER,),
                statuses=(400, 404, 409),
            )
        },
        f"{user}/identity": {
            "get": _operation(
                "Who this user is, and since when.",
                _object(user=_TEXT, ids=_array(_TEXT), facts=_array(anything)),
                "read",
                parameters=(_USER,),
            )
        },
        "/v1/identity/{number}/undo": {
            "post": _operation(
                "Undo an identity fact from now on.", anything, "operate", parameters=(number,)
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
                _object(answers=_array(anything)),
                "read",
                body=batch,
            )
        },
        "/v1/decisions": {
            "post": _operation(
                "Decide about many users, each as if alone.",
                _object(decisions=_array(anything)),
                "decide",
                body=_object(users=users),
                statuses=(400, 404, 409),
            )
        },
        "/v1/models": {
            "get": _operation("The models that answer.", _object(models=_array(anything)), "read")
        },
        "/v1/outbox": {
            "get": _operation("What triggers fired.", _object(fired=_array(anything)), "operate")
        },
    }
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
