"""Speed of the live side: load from a second process on 127.0.0.1, bounded; each figure beside its floor in the same run.

    python benchmarks/speed/live.py [--seconds 4] [--users 20000]

Prints one JSON document. The server runs as it is started by hand, in its own process; its CPU seconds are read from
``/proc``. Floors: a bare ASGI answer on the same server, and a bare ``fdatasync``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np

TICKS = os.sysconf("SC_CLK_TCK")
BARE = """
import sys, uvicorn
async def app(scope, receive, send):
    if scope["type"] != "http": return
    while (await receive()).get("more_body"): pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})
import socket
s = socket.socket(); s.bind(("127.0.0.1", 0)); s.listen(256); print("listening on http://127.0.0.1:%d" % s.getsockname()[1], file=sys.stderr, flush=True)
uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False, lifespan="off")).run(sockets=[s])
"""


def cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def memory(pid: int) -> float:
    line = next(
        x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if x.startswith("VmRSS")
    )
    return int(line.split()[1]) / 1024


def start(command: list[str]) -> tuple[subprocess.Popen[str], str]:
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    line = server.stderr.readline()
    while "listening on" not in line:
        if not line:
            raise SystemExit(f"the server did not start: {command}")
        line = server.stderr.readline()
    return server, line.split("listening on ")[1].split()[0]


def body(events: int) -> bytes:
    rng = np.random.default_rng(7)
    messages = [
        {"type": "track", "event": "Product Viewed", "userId": f"u{rng.integers(1_000_000)}", "messageId": "________-____-____-____-____________", "timestamp": "2026-11-20T10:00:00.000Z",
         "properties": {"product_id": f"p{i}", "price": 12.5, "category": "shoes", "url": "https://shop.example/products/long-name-of-a-product"},
         "context": {"library": {"name": "analytics-python", "version": "2.4.0"}, "page": {"path": "/products", "referrer": "https://search.example/"}}}
        for i in range(events)
    ]  # fmt: skip
    return json.dumps(
        {"batch": messages, "writeKey": "key", "sentAt": "2026-11-20T10:00:01.000Z"}
    ).encode()


async def load(
    url: str, requests: Any, connections: int, seconds: float, rate: float | None = None
) -> dict[str, float]:
    """Keep ``connections`` open and send; ``requests`` yields (method, path, body). ``rate``: at most so many a second."""
    host, port = url.removeprefix("http://").split(":")
    latencies: list[float] = []
    bad = 0
    end = time.perf_counter() + seconds
    began = time.perf_counter()
    sent = 0

    async def one() -> None:
        nonlocal bad, sent
        reader, writer = await asyncio.open_connection(host, int(port))
        while time.perf_counter() < end:
            if rate is not None:
                due = began + sent / rate
                sent += 1
                wait = due - time.perf_counter()
                if wait > 0:
                    await asyncio.sleep(wait)
            method, path, data = next(requests)
            head = f"{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
            started = time.perf_counter()
            writer.write(head.encode() + data)
            status = await reader.readline()
            length = 0
            while (line := await reader.readline()) != b"\r\n":
                if line[:15].lower() == b"content-length:":
                    length = int(line[15:])
            if length:
                await reader.readexactly(length)
            latencies.append(time.perf_counter() - started)
            bad += b" 200" not in status and b" 204" not in status
        writer.close()

    await asyncio.gather(*(one() for _ in range(connections)))
    took = time.perf_counter() - began
    q = np.quantile(latencies, [0.5, 0.99]) * 1e3
    return {
        "requests": len(latencies),
        "bad": bad,
        "per_second": len(latencies) / took,
        "p50_ms": float(q[0]),
        "p99_ms": float(q[1]),
    }


def posts(template: bytes, path: str) -> Any:
    mark = b"________-____-____-____-____________"
    parts = template.split(mark)
    while True:  # every event its own id: dedupe is exercised
        base = uuid.uuid4().hex[:24].encode()
        yield (
            "POST",
            path,
            b"".join(
                p + (base + b"%012d" % i if i < len(parts) - 1 else b"")
                for i, p in enumerate(parts)
            ),
        )


def measured(
    name: str,
    server: subprocess.Popen[str],
    url: str,
    requests: Any,
    connections: int,
    seconds: float,
    events: int = 1,
    rate: float | None = None,
) -> dict[str, Any]:
    asyncio.run(load(url, requests, connections, 0.5, rate))
    before = cpu(server.pid)
    result: dict[str, Any] = asyncio.run(load(url, requests, connections, seconds, rate))
    used = cpu(server.pid) - before
    result |= {
        "name": name,
        "cpu_seconds": used,
        "events_per_cpu_second": result["requests"] * events / max(used, 1e-9),
        "rss_mb": memory(server.pid),
    }
    print(
        f"{name}: {result['per_second']:.0f}/s, {result['events_per_cpu_second']:.0f} events per CPU-second, p50 {result['p50_ms']:.2f} ms, p99 {result['p99_ms']:.2f} ms",
        file=sys.stderr,
    )
    return result


def fsync_floor(folder: Path, n: int = 200) -> dict[str, float]:
    times = []
    with (folder / "floor").open("wb", buffering=0) as out:
        for _ in range(n):
            out.write(b"x" * 30_000)
            started = time.perf_counter()
            os.fdatasync(out.fileno())
            times.append(time.perf_counter() - started)
    q = np.quantile(times, [0.5, 0.99]) * 1e3
    return {"p50_ms": float(q[0]), "p99_ms": float(q[1])}


def shop(folder: Path, users: int, items: int) -> None:
    """A workspace with a store of ``users`` users and ``items`` items, and a fitted task."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from propend.pipeline.workspace import open_workspace

    rng = np.random.default_rng(7)
    n = users * 30
    user = rng.integers(0, users, n)
    base = np.datetime64("2026-06-01T00:00:00", "us").astype(np.int64)
    when = base + rng.integers(0, 150 * 86_400, n) * 1_000_000
    kind = rng.choice(["view", "cart", "purchase"], n, p=[0.7, 0.2, 0.1])
    value = np.where(kind == "purchase", np.round(rng.uniform(5, 80, n), 2), np.nan)
    item = np.minimum((rng.pareto(0.8, n) * 20).astype(int), items - 1)
    item[:items] = np.arange(items)[: len(item[:items])]
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        pa.table(
            {
                "who": [f"u{u}" for u in user],
                "at": pa.array(when, pa.timestamp("us", "UTC")),
                "what": kind,
                "thing": [f"p{i}" for i in item],
                "money": pa.array(value, from_pandas=True),
            }
        ),
        folder / "log.parquet",
    )
    (folder / "propend.toml").write_text(
        '[workspace]\nzone = "UTC"\n[live]\nmove = "1h"\n[live.keys]\nkey = "web"\n[[events]]\nname = "log"\nfiles = ["log.parquet"]\n'
        '[events.roles]\nuser = "who"\ntime = "at"\ntype = "what"\nitem = "thing"\nvalue = "money"\n'
        '[[tasks]]\nname = "buys"\nask = "any(purchase) next 14d for any(*) last 60d"\n'
    )
    workspace = open_workspace(folder)
    workspace.ingest()
    workspace.predict("buys", folds=1)


async def freshness(url: str, n: int) -> dict[str, float]:
    """Send an event, then ask until it is seen: what a page would wait."""
    import urllib.request

    times = []
    for i in range(n):
        user, key = f"fresh{i}", uuid.uuid4().hex
        data = json.dumps(
            {"events": [{"id": key, "type": "cart", "user": user, "item": "p1"}]}
        ).encode()
        started = time.perf_counter()
        urllib.request.urlopen(
            urllib.request.Request(url + "/v1/events", data, {"Authorization": "Bearer key"})
        ).read()
        while True:
            answer = json.load(
                urllib.request.urlopen(f"{url}/v1/users/{user}/value?expression=count(cart)")
            )
            if answer["value"]:
                break
        times.append(time.perf_counter() - started)
    q = np.quantile(times, [0.5, 0.99]) * 1e3
    return {"p50_ms": float(q[0]), "p99_ms": float(q[1]), "events": n}


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--seconds", type=float, default=4)
    arguments.add_argument("--users", type=int, default=20_000)
    arguments.add_argument("--items", type=int, default=50_000)
    arguments.add_argument("--only", choices=["collect", "api"])
    asked = arguments.parse_args()
    results: dict[str, Any] = {"cores": os.cpu_count(), "load": os.getloadavg()[0], "runs": []}
    fifty, single = body(50), body(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        results["fdatasync"] = fsync_floor(folder)
        server, url = start([sys.executable, "-c", BARE])
        results["runs"].append(
            measured(
                "floor: bare ASGI, 50 events",
                server,
                url,
                posts(fifty, "/v1/batch"),
                32,
                asked.seconds,
                50,
            )
        )
        results["runs"].append(
            measured(
                "floor: bare ASGI, 1 event",
                server,
                url,
                posts(single, "/v1/batch"),
                32,
                asked.seconds,
            )
        )
        server.kill()
        server.wait()
        if asked.only != "api":
            (folder / "c").mkdir()
            (folder / "c" / "propend.toml").write_text(
                '[workspace]\nzone = "UTC"\n[live.keys]\nkey = "web"\n'
            )
            server, url = start(
                [
                    sys.executable,
                    "-m",
                    "propend",
                    "serve",
                    str(folder / "c"),
                    "--only",
                    "collect",
                    "--port",
                    "0",
                ]
            )
            results["runs"].append(
                measured(
                    "collector, 50 events",
                    server,
                    url,
                    posts(fifty, "/v1/batch"),
                    32,
                    asked.seconds,
                    50,
                )
            )
            results["runs"].append(
                measured(
                    "collector, 1 event", server, url, posts(single, "/v1/batch"), 32, asked.seconds
                )
            )
            server.terminate()
            server.wait()
        if asked.only != "collect":
            shop(folder / "s", asked.users, asked.items)
            server, url = start(
                [sys.executable, "-m", "propend", "serve", str(folder / "s"), "--port", "0"]
            )
            time.sleep(12)
            rng = np.random.default_rng(3)
            names = [f"u{u}" for u in rng.integers(0, asked.users, 50_000)]

            def gets(path: str) -> Any:
                while True:
                    for name in names:
                        yield "GET", path.format(name), b""

            results["runs"].append(
                measured("floor: /health", server, url, gets("/health"), 1, asked.seconds, rate=500)
            )
            results["runs"].append(
                measured(
                    "prediction, no reasons, 500/s",
                    server,
                    url,
                    gets("/v1/users/{}/predictions/buys?reasons=0"),
                    4,
                    asked.seconds,
                    rate=500,
                )
            )
            results["runs"].append(
                measured(
                    "prediction, no reasons, 1 connection",
                    server,
                    url,
                    gets("/v1/users/{}/predictions/buys?reasons=0"),
                    1,
                    asked.seconds,
                )
            )
            results["runs"].append(
                measured(
                    "prediction, 3 reasons, 200/s",
                    server,
                    url,
                    gets("/v1/users/{}/predictions/buys"),
                    4,
                    asked.seconds,
                    rate=200,
                )
            )
            results["runs"].append(
                measured(
                    "recommendations, 100/s",
                    server,
                    url,
                    gets("/v1/users/{}/recommendations"),
                    4,
                    asked.seconds,
                    rate=100,
                )
            )
            results["freshness"] = asyncio.run(freshness(url, 200))
            results["api_rss_mb"] = memory(server.pid)
            server.terminate()
            server.wait()
    json.dump(results, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
