"""The processes: one port for both sides, or the collector and the API each alone."""

from __future__ import annotations

import contextlib
import gc
import logging
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any, Final

from propend.config import load
from propend.errors import ConfigError, MissingExtraError
from propend.serve.collect import Collector
from propend.serve.dialects import PATHS
from propend.serve.inbox import open_inbox

__all__ = ["Both", "serve"]

_COLLECTED = {*PATHS, "/propend.js", "/batch", "/track", "/engage", "/flags", "/decide"}


_SWITCH: Final = 5e-4
"""Seconds a thread may keep the interpreter's lock while another waits; Python's 5 ms would be every answer's tail."""


class Both:
    """One ASGI application: vendors' paths go to the collector, the others to the API."""

    def __init__(self, collector: Collector, api: Any) -> None:
        self.collector, self.api = collector, api

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[Any], Awaitable[None]],
    ) -> None:
        """Answer a request by its path."""
        if scope["type"] == "lifespan":
            await self.collector(scope, receive, send)
            return
        path = scope["path"].rstrip("/")
        if (
            path in _COLLECTED
            or path.startswith(("/v1/projects/", "/array/"))
            or scope["method"] == "OPTIONS"
        ):
            await self.collector(scope, receive, send)
        else:
            await self.api(scope, receive, send)


@contextlib.contextmanager
def _asked_to_end(server: Any) -> Iterator[None]:
    """Let a signal end the server only: uvicorn raises it again when it is done, before the rest is stopped and written.

    One that comes before uvicorn listens to signals itself must not be lost.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: Any) -> None:
        server.should_exit = True

    before = {s: signal.signal(s, end) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)


def serve(
    folder: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8710,
    only: str | None = None,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Serve until a signal comes; ``only`` is ``collect`` or ``api``.

    Raises ``MissingExtraError`` without the extra, ``ConfigError`` where the address cannot be had.
    """
    try:
        import uvicorn
    except ImportError:
        raise MissingExtraError("propend serve", "serve") from None
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2_048)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}:{port} ({error.strerror}); choose another --port"
        ) from None
    declared = load(folder)
    live: Any = None
    app: Any
    if only == "collect":  # a small process: nothing of models, store or numerics is loaded
        inbox = open_inbox(declared.live.inbox or folder / "live" / "inbox")
        app = Collector(inbox, declared.live.keys)
    else:
        from propend.pipeline.workspace import open_workspace
        from propend.serve.api import Api
        from propend.serve.live import Live

        live = Live(open_workspace(folder))
        live.start()
        inbox = live.inbox
        collector = None if only == "api" else Collector(inbox, declared.live.keys)
        api = Api(live, collector).app
        app = api if collector is None else Both(collector, api)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="on" if only != "api" else "off", timeout_graceful_shutdown=10,
        limit_concurrency=2_000, backlog=2_048, server_header=False,
    )  # fmt: skip
    server = uvicorn.Server(config)
    sys.setswitchinterval(_SWITCH)
    gc.freeze()  # what is loaded by now stays; the collector need not look at it again
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    try:
        with _asked_to_end(server):
            if ready is not None:
                bound = listener.getsockname()
                ready(f"http://{bound[0]}:{bound[1]}")
            server.run(sockets=[listener])
    finally:
        listener.close()
        gc.unfreeze()
        if live is not None:
            live.stop()
        else:
            inbox.close()
