"""What requests to the API say: read from path, query and body, checked, refused in a sentence."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request

from propend.serve.answers import Fault

__all__ = ["body_of", "number_of", "user_of", "users_of", "whole"]


def user_of(request: Request) -> str:
    """Return the user id of a path."""
    user: str = request.path_params["user"]
    if not user or len(user) > 1_000:
        raise Fault(400, "a user id has 1 to 1,000 letters")
    return user


def whole(request: Request, name: str, default: int, low: int, high: int) -> int:
    """Return a whole number of a query."""
    given = request.query_params.get(name)
    if given is None:
        return default
    if not (given.isascii() and given.isdigit() and len(given) < 6 and low <= int(given) <= high):
        raise Fault(400, f"{name} must be a whole number from {low} to {high}")
    return int(given)


def users_of(data: dict[str, Any]) -> list[str]:
    """Return the user ids of a JSON body, 1,000 at most."""
    users = data.get("users")
    if (
        not isinstance(users, list)
        or len(users) > 1_000
        or not all(isinstance(u, str) and 0 < len(u) <= 1_000 for u in users)
    ):
        raise Fault(400, "users must be a list of at most 1,000 ids of 1 to 1,000 letters")
    return users


def number_of(data: dict[str, Any], name: str, default: int, low: int, high: int) -> int:
    """Return a whole number of a JSON body."""
    given = data.get(name, default)
    if not isinstance(given, int) or isinstance(given, bool) or not low <= given <= high:
        raise Fault(400, f"{name} must be a whole number from {low} to {high}")
    return given


async def body_of(request: Request) -> dict[str, Any]:
    """Return a JSON object of at most 1 MB."""
    raw = b""
    async for part in request.stream():
        raw += part
        if len(raw) > 1 << 20:
            raise Fault(400, "the body is larger than 1 MB")
    try:
        data = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Fault(400, "the body is not JSON") from None
    if not isinstance(data, dict):
        raise Fault(400, "the body must be a JSON object")
    return data
