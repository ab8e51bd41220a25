"""Speed of the live side: load from a second process on 127.0.0.1, bounded; each figure beside its floor in the same round.

    python benchmarks/speed/live.py [--seconds 4] [--rounds 3] [--only collect|api]

Prints one JSON document: every run, and the median of each figure over the rounds with its ratio to the floor. The
server runs as it is started by hand, in its own process; its CPU seconds are read from ``/proc``. Floors: a bare ASGI
answer on the same server, and a bare ``fdatasync``. Rates come from wrk where it is installed (its own CPU is printed:
below one core it was not the bottleneck), else from asyncio streams; latencies at a fixed rate from blocking sockets,
with the server on one core and the load on another.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import itertools
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

TICKS = os.sysconf("SC_CLK_TCK")
MARK = "________-____-____-____-____________"
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


WRK = r"""
wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
local parts, n, seed = {}, 0, ""
function init(args)
  local file = io.open(args[1], "r")
  local text = file:read("*a")
  file:close()
  seed = args[2]
  local from = 1
  while true do
    local a, b = text:find(args[3], from, true)
    parts[#parts + 1] = text:sub(from, (a or 0) - 1)
    if not a then break end
    from = b + 1
  end
end
function request()
  n = n + 1
  local out = {}
  for i = 1, #parts - 1 do
    out[2 * i - 1] = parts[i]
    out[2 * i] = string.format("%s-%08d-%03d", seed, n, i)
  end
  out[#out + 1] = parts[#parts]
  return wrk.format(nil, nil, nil, table.concat(out))
end
function done(summary, latency)
  local e = summary.errors
  io.write(string.format('\nJSON{"requests":%d,"seconds":%f,"p50_ms":%f,"p99_ms":%f,"bad":%d}\n', summary.requests,
    summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, e.status + e.connect + e.read + e.write + e.timeout))
end
"""


def cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def memory(pid: int) -> float:
    line = next(
        x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if x.startswith("VmRSS")
    )
    return int(line.split()[1]) / 1024


def start(command: list[str], core: int | None = None) -> tuple[subprocess.Popen[str], str]:
    """Start a server, on one core if asked; returns it and its address."""
    if core is not None and shutil.which("taskset"):
        command = ["taskset", "-c", str(core), *command]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    line = server.stderr.readline()
    while "listening on" not in line:
        if not line:
            raise SystemExit(f"the server did not start: {command}")
        line = server.stderr.readline()
    return server, line.split("listening on ")[1].split()[0]


def stop(server: subprocess.Popen[str]) -> None:
    server.terminate()
    server.wait()


def body(events: int) -> bytes:
    rng = np.random.default_rng(7)
    messages = [
        {"type": "track", "event": "Product Viewed", "userId": f"u{rng.integers(1_000_000)}", "messageId": MARK, "timestamp": "2026-11-20T10:00:00.000Z",
         "properties": {"product_id": f"p{i}", "price": 12.5, "category": "shoes", "url": "https://shop.example/products/long-name-of-a-product"},
         "context": {"library": {"name": "analytics-python", "version": "2.4.0"}, "page": {"path": "/products", "referrer": "https://search.example/"}}}
        for i in range(events)
    ]  # fmt: skip
    return json.dumps(
        {"batch": messages, "writeKey": "key", "sentAt": "2026-11-20T10:00:01.000Z"}
    ).encode()


def with_wrk(
    url: str, template: bytes, connections: int, seconds: float, scratch: Path
) -> dict[str, float]:
    """Post as fast as answers come, every event with an id of its own, from wrk."""
    script, file = scratch / "wrk.lua", scratch / "body.json"
    script.write_text(WRK)
    file.write_bytes(template)
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "-s", str(script), f"{url}/v1/batch"]  # fmt: skip
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    asked = [*command, "--", str(file), uuid.uuid4().hex[:20], MARK]
    out = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    result: dict[str, float] = json.loads(out.split("JSON")[1])
    took = result.pop("seconds")
    return {
        **result,
        "per_second": result["requests"] / took,
        "generator_cores": used / took,
    }


async def with_asyncio(
    url: str, template: bytes, connections: int, seconds: float
) -> dict[str, float]:
    """The same where wrk is missing; the generator is then slower than the server."""
    host, port = url.removeprefix("http://").split(":")
    parts = template.split(MARK.encode())
    latencies: list[float] = []
    bad = 0
    began, cpu_before = time.perf_counter(), time.process_time()

    async def one() -> None:
        nonlocal bad
        reader, writer = await asyncio.open_connection(host, int(port))
        while time.perf_counter() < began + seconds:
            base = uuid.uuid4().hex[:24].encode()
            ids = (base + b"%012d" % i for i in range(len(parts) - 1))
            pairs = itertools.zip_longest(parts, ids, fillvalue=b"")
            data = b"".join(itertools.chain.from_iterable(pairs))
            head = f"POST /v1/batch HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
            started = time.perf_counter()
            writer.write(head.encode() + data)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = answer.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
            await reader.readexactly(int(length or 0))
            latencies.append(time.perf_counter() - started)
            bad += b" 200" not in answer[:15]
        writer.close()

    await asyncio.gather(*(one() for _ in range(connections)))
    took = time.perf_counter() - began
    q = np.quantile(latencies, [0.5, 0.99]) * 1e3
    return {
        "requests": len(latencies), "bad": bad, "per_second": len(latencies) / took, "p50_ms": float(q[0]), "p99_ms": float(q[1]),
        "generator_cores": (time.process_time() - cpu_before) / took,
    }  # fmt: skip


def paced(
    url: str, paths: Iterator[str], connections: int, seconds: float, rate: float | None
) -> dict[str, float]:
    """Get from so many connections at a fixed rate (or as fast as answers come), over blocking sockets."""
    host, port = url.removeprefix("http://").split(":")
    latencies: list[float] = []
    bad: list[bytes] = []
    turn = itertools.count()
    began = time.perf_counter()

    def one() -> None:
        wire = socket.create_connection((host, int(port)))
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            due = began + next(turn) / rate if rate else time.perf_counter()
            if due > began + seconds:
                break
            time.sleep(max(0.0, due - time.perf_counter()))
            asked = f"GET {next(paths)} HTTP/1.1\r\nhost: x\r\n\r\n".encode()
            started = time.perf_counter()
            wire.sendall(asked)
            answer = wire.recv(65_536)
            while b"\r\n\r\n" not in answer or len(answer.partition(b"\r\n\r\n")[2]) < int(
                answer.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
            ):
                answer += wire.recv(65_536)
            latencies.append(time.perf_counter() - started)
            if b" 200" not in answer[:15]:
                bad.append(answer[:15])
        wire.close()

    threads = [threading.Thread(target=one) for _ in range(connections)]
    before = time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - began
    q = np.quantile(latencies, [0.5, 0.99]) * 1e3
    return {
        "requests": len(latencies), "bad": len(bad), "per_second": len(latencies) / took, "p50_ms": float(q[0]), "p99_ms": float(q[1]),
        "generator_cores": (time.process_time() - before) / took,
    }  # fmt: skip


class Runs:
    """What was measured, and its medians."""

    def __init__(self, seconds: float, scratch: Path) -> None:
        self.seconds, self.scratch = seconds, scratch
        self.all: list[dict[str, Any]] = []

    def _one(self, name: str, server: subprocess.Popen[str], work: Any, events: int) -> None:
        work(0.5)
        before = cpu(server.pid)
        result: dict[str, Any] = work(self.seconds)
        used = cpu(server.pid) - before
        result |= {
            "name": name, "cpu_seconds": used, "events_per_second": result["per_second"] * events,
            "events_per_cpu_second": result["requests"] * events / max(used, 1e-9), "rss_mb": memory(server.pid),
        }  # fmt: skip
        self.all.append(result)
        print(
            f"{name}: {result['events_per_second']:.0f} events/s, {result['events_per_cpu_second']:.0f} per CPU-second, "
            f"p50 {result['p50_ms']:.2f} ms, p99 {result['p99_ms']:.2f} ms, load {os.getloadavg()[0]:.1f}",
            file=sys.stderr,
        )

    def post(
        self, name: str, server: subprocess.Popen[str], url: str, events: int, connections: int
    ) -> None:
        template = body(events)

        def work(seconds: float) -> dict[str, float]:
            if shutil.which("wrk"):
                return with_wrk(url, template, connections, max(seconds, 1), self.scratch)
            return asyncio.run(with_asyncio(url, template, connections, seconds))

        self._one(name, server, work, events)

    def get(
        self, name: str, server: subprocess.Popen[str], url: str, paths: Iterator[str], connections: int, rate: float | None,
    ) -> None:  # fmt: skip
        self._one(name, server, lambda seconds: paced(url, paths, connections, seconds, rate), 1)

    def medians(self) -> dict[str, dict[str, float]]:
        """The median of each figure by name, and its ratio to that of the floor the name says it is beside."""
        figures = ("events_per_second", "events_per_cpu_second", "p50_ms", "p99_ms", "rss_mb", "generator_cores")  # fmt: skip
        names = dict.fromkeys(r["name"] for r in self.all)
        found = {
            name: {f: float(np.median([r[f] for r in self.all if r["name"] == name])) for f in figures}
            for name in names
        }  # fmt: skip
        for name, values in found.items():
            floor = found.get("floor: /health" if "/s" in name else f"floor: bare ASGI, {name.partition(', ')[2]}")  # fmt: skip
            if floor is not None and floor is not values:
                values["p50_of_floor"] = values["p50_ms"] / floor["p50_ms"]
                values["p99_of_floor"] = values["p99_ms"] / floor["p99_ms"]
                values["rate_of_floor"] = values["events_per_cpu_second"] / floor["events_per_cpu_second"]  # fmt: skip
        return found


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
        '[workspace]\nzone = "UTC"\n[live]\nmove = "5s"\n[live.keys]\nkey = "web"\n[[events]]\nname = "log"\nfiles = ["log.parquet"]\n'
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


def collect(runs: Runs, folder: Path) -> None:
    """One round: bare answers, then the collector on a fresh inbox."""
    shapes = ((50, 32), (1, 32), (1, 64))
    server, url = start([sys.executable, "-c", BARE])
    for events, connections in shapes:
        runs.post(f"floor: bare ASGI, {events} a request, {connections} connections", server, url, events, connections)  # fmt: skip
    stop(server)
    folder.mkdir()
    (folder / "propend.toml").write_text('[workspace]\nzone = "UTC"\n[live.keys]\nkey = "web"\n')
    command = [sys.executable, "-m", "propend", "serve", str(folder), "--only", "collect", "--port", "0"]  # fmt: skip
    server, url = start(command)
    for events, connections in shapes:
        runs.post(f"collector, {events} a request, {connections} connections", server, url, events, connections)  # fmt: skip
    stop(server)


class Visitors:
    """A hundred events a second from a process of its own while it is entered, so that the mover has something to move."""

    CODE = """
import json, sys, time, urllib.request, uuid
url, users = sys.argv[1], int(sys.argv[2])
turn = 0
began = time.monotonic()
while True:
    events = [{"id": uuid.uuid4().hex, "type": "view", "user": f"u{(turn * 7919 + i * 104729) % users}", "item": f"p{(turn + i) % 1000}"} for i in range(5)]
    request = urllib.request.Request(url + "/v1/events", json.dumps({"events": events}).encode(), {"Authorization": "Bearer key"})
    urllib.request.urlopen(request).read()
    turn += 1
    time.sleep(max(0.0, began + turn / 20 - time.monotonic()))
"""

    def __init__(self, url: str, users: int) -> None:
        self.command = [sys.executable, "-c", self.CODE, url, str(users)]

    def __enter__(self) -> Visitors:
        self.process = subprocess.Popen(self.command, stderr=subprocess.DEVNULL)
        time.sleep(6)  # the mover has begun
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is not None:
            raise SystemExit("the visitors ended before the measurement did")
        self.process.kill()
        self.process.wait()


def stored(url: str) -> int:
    """How far the mover is: the position of the last batch that is in the store."""
    import urllib.request

    with urllib.request.urlopen(f"{url}/lag") as answer:
        return int(json.load(answer)["stored"])


def settled(url: str) -> None:
    """Wait until the recommendations are fitted: what is fitted in the background is no part of an answer."""
    import urllib.request

    for _ in range(600):
        try:
            with urllib.request.urlopen(f"{url}/v1/users/u1/recommendations"):
                return
        except OSError:
            time.sleep(0.5)


def answer(runs: Runs, folder: Path, users: int, rounds: int) -> dict[str, Any]:
    """The API: every round on the same server, which is on one core while the load is on another."""
    both = os.sched_getaffinity(0)
    server, url = start(
        [sys.executable, "-m", "propend", "serve", str(folder), "--port", "0"], min(both)
    )
    settled(url)
    if len(both) > 1:
        os.sched_setaffinity(0, both - {min(both)})
    rng = np.random.default_rng(3)
    names = [f"u{u}" for u in rng.integers(0, users, 50_000)]

    def asked(path: str) -> Iterator[str]:
        return (path.format(name) for name in itertools.cycle(names))

    plain = "/v1/users/{}/predictions/buys"
    for _ in range(rounds):
        runs.get("floor: /health", server, url, asked("/health"), 4, 500)
        runs.get("prediction, no reasons, 500/s", server, url, asked(f"{plain}?reasons=0"), 4, 500)
        runs.get("prediction, 3 reasons, 500/s", server, url, asked(plain), 4, 500)
        runs.get("recommendations, 100/s", server, url, asked("/v1/users/{}/recommendations"), 4, 100)  # fmt: skip
    before = stored(url)
    with Visitors(url, users):
        for _ in range(rounds):
            runs.get("prediction, no reasons, 500/s, mover at work", server, url, asked(f"{plain}?reasons=0"), 4, 500)  # fmt: skip
            runs.get("prediction, 3 reasons, 500/s, mover at work", server, url, asked(plain), 4, 500)  # fmt: skip
    moved = stored(url) - before
    seen = asyncio.run(freshness(url, 200))
    rss = memory(server.pid)
    stop(server)
    os.sched_setaffinity(0, both)
    return {"freshness": seen, "api_rss_mb": rss, "requests_moved_meanwhile": moved}


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--seconds", type=float, default=4)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--users", type=int, default=20_000)
    arguments.add_argument("--items", type=int, default=50_000)
    arguments.add_argument("--only", choices=["collect", "api"])
    asked = arguments.parse_args()
    results: dict[str, Any] = {
        "cores": os.cpu_count(), "load": os.getloadavg()[0], "generator": "wrk" if shutil.which("wrk") else "asyncio",
        "protocol": f"{asked.rounds} rounds of {asked.seconds:g} s a cell, medians; floors in the same round",
        "data": hashlib.sha256(body(50) + body(1)).hexdigest()[:16],
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        runs = Runs(asked.seconds, folder)
        if asked.only != "api":
            floors = []
            for n in range(asked.rounds):
                floors.append(fsync_floor(folder))
                collect(runs, folder / f"c{n}")
            results["fdatasync"] = {
                f: float(np.median([one[f] for one in floors])) for f in floors[0]
            }
        if asked.only != "collect":
            shop(folder / "s", asked.users, asked.items)
            log = hashlib.sha256((folder / "s" / "log.parquet").read_bytes())
            results["log"] = log.hexdigest()[:16]
            results |= answer(runs, folder / "s", asked.users, asked.rounds)
    results |= {"medians": runs.medians(), "runs": runs.all, "load_after": os.getloadavg()[0]}
    json.dump(results, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
