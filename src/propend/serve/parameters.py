"""What requests to the API say: read from path, query and body, checked, refused in a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import msgspec
from starlette.requests import Request

from propend.serve.answers import Fault

__all__ = ["Question", "body_of", "number_of", "query_of", "user_of", "users_of", "who", "whole"]


class Question(NamedTuple):
    """What is asked of one user: the parts of a Starlette request that an answer reads, without what making one takes."""

    path_params: Mapping[str, str]
    query_params: Mapping[str, str]


def query_of(raw: bytes) -> Mapping[str, str]:
    """Return a query string as names and values, of a name given twice the last; not to be changed.

    >>> query_of(b"reasons=0&at=&at=1%202")
    {'reasons': '0', 'at': '1 2'}
    """
    return _parsed(raw) if len(raw) < 200 else _parsed.__wrapped__(raw)


@lru_cache(maxsize=1_024)
def _parsed(raw: bytes) -> dict[str, str]:
    return dict(parse_qsl(raw.decode("latin-1"), keep_blank_values=True))


def who(scope: Mapping[str, Any]) -> tuple[str, str]:
    """Return the key that a request carries, and the address it comes from; empty where there is none.

    >>> who({"headers": [(b"host", b"x"), (b"authorization", b"Bearer k")], "client": ("10.0.0.1", 5)})
    ('k', '10.0.0.1')
    """
    given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
    key = given[7:].strip().decode("latin-1") if given[:7].lower() == b"bearer " else ""
    client = scope.get("client")
    return key, str(client[0]) if client else ""


def user_of(request: Request | Question) -> str:
    """Return the user id of a path."""
    user: str = request.path_params["user"]
    if not user or len(user) > 1_000:
        raise Fault(400, "a user id has 1 to 1,000 letters")
    return user


def whole(request: Request | Question, name: str, default: int, low: int, high: int) -> int:
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
