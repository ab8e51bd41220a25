"""Speed and memory of sequence models: ``python -m benchmarks.speed.behaviour [PART…] [--threads 2] [--json FILE]``.

Parts: ``packing`` (packed against padded batches: the same network, users and loss; medians of CPU seconds), ``loss`` (chunked
against plain cross-entropy: seconds and peak memory, each in its own process), ``tokens`` (events a second in training, by
size), ``append`` (one event to a cached user, and its vector), ``top`` (top-10 for 10,000 users over 50,000 items). Data is made
up with a seed: lengths as Amazon Beauty has them (geometric, mean 8.9, at least 5), Zipf items. Ratios count; the machine is shared.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch  # noqa: TID253 - this file is about torch

from propend.models.sequence import losses
from propend.models.sequence.cache import Cache
from propend.models.sequence.network import Network, Sampler
from propend.models.sequence.packing import batches
from propend.models.sequence.settings import Settings
from propend.models.sequence.tokens import SequenceArrays, Vocabulary
from propend.recommend.ranking import top_k

ITEMS = 12_101
LENGTH = 50
REPEATS = 3
LOSS = (4_096, 50_000, 64)
"""Tokens, items and width of the comparison of losses."""


def made_log(users: int, items: int = ITEMS, seed: int = 0) -> SequenceArrays:
    """Return histories of Beauty's lengths over Zipf items, with times."""
    rng = np.random.default_rng(seed)
    lengths = np.minimum(4 + rng.geometric(1 / 4.9, users), 200)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    n = int(offsets[-1])
    item = np.minimum((rng.pareto(1.0, n) * 20).astype(np.int64), items - 1)
    start = np.repeat(rng.integers(0, 10**13, users), lengths)
    return SequenceArrays.of(offsets, item, time=start + np.arange(n) * 3_600_000_000)


def padded(data: SequenceArrays) -> SequenceArrays:
    """Return the same histories filled up to ``LENGTH`` with events that say nothing and are not predicted."""
    users = data.users
    kept = np.minimum(np.diff(data.offsets), LENGTH)
    item = np.full((users, LENGTH), -1, np.int64)
    for user in range(users):
        item[user, : kept[user]] = data.user(user)["item"][-LENGTH:]
    return SequenceArrays.of(np.arange(users + 1) * LENGTH, item.ravel())


def epoch(network: Network, data: SequenceArrays, tokens: int, sampler: Sampler | None) -> float:
    """Return the CPU seconds of a pass forward and backward."""
    begun = time.process_time()
    for number, batch in enumerate(batches(data, LENGTH, tokens, seed=1)):
        found = network.loss(data, batch, np.random.default_rng(number), sampler)
        if found:
            found["item"].backward()
    return time.process_time() - begun


def packing(threads: int) -> dict[str, Any]:
    """Packed against padded: one network, sampled softmax of 256."""
    torch.set_num_threads(threads)
    data = made_log(1_500)
    settings = Settings(loss="sampled", negatives=256, length=LENGTH)
    network = Network(settings, Vocabulary(items=ITEMS, clock=False))
    sampler = Sampler(np.ones(ITEMS, np.int64), settings)
    wide = padded(data)
    epoch(network, data, 2_048, sampler)
    ratios, seconds = [], []
    for _ in range(REPEATS):
        packed = epoch(network, data, 2_048, sampler)
        full = epoch(network, wide, 2_048, sampler)
        ratios.append(full / packed)
        seconds.append(packed)
    fill = np.mean([b.layout.fill for b in batches(data, LENGTH, 2_048, seed=1)])
    return {
        "padded / packed CPU seconds": round(median(ratios), 2),
        "events": len(data),
        "places when padded": len(wide),
        "fill of packed rows": round(float(fill), 3),
        "packed CPU seconds": round(median(seconds), 2),
    }


def loss(threads: int) -> dict[str, Any]:
    """Chunked against plain cross-entropy over 4,096 tokens × 50,000 items."""
    found: dict[str, Any] = {"tokens, items, width": LOSS}
    for kind in ("plain", "chunked", "none"):
        told = subprocess.run(
            [sys.executable, "-m", "benchmarks.speed.behaviour", "--one-loss", kind, "--threads", str(threads)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        found[kind] = json.loads(told.stdout.splitlines()[-1])
    ground = found.pop("none")["peak MB"]
    for kind in ("plain", "chunked"):
        found[kind]["peak MB over the inputs"] = round(found[kind]["peak MB"] - ground)
    found["plain / chunked seconds"] = round(
        found["plain"]["CPU seconds"] / found["chunked"]["CPU seconds"], 2
    )
    return found


def one_loss(kind: str, threads: int) -> None:
    """Print the seconds and peak memory of one loss (``none``: of the inputs alone)."""
    torch.set_num_threads(threads)
    tokens, items, width = LOSS
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, width, generator=generator, requires_grad=True)
    table = torch.randn(items, width, generator=generator, requires_grad=True)
    target = torch.randint(0, items, (tokens,), generator=generator)
    chosen = {"plain": losses.cross_entropy, "chunked": losses.chunked_cross_entropy}.get(kind)
    spent = []
    for _ in range(3 if chosen else 0):
        begun = time.process_time()
        chosen(hidden, table, target).backward()  # type: ignore[misc]
        spent.append(time.process_time() - begun)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"CPU seconds": round(median(spent or [0.0]), 2), "peak MB": round(peak)}))


def tokens(threads: int) -> dict[str, Any]:
    """Events a second through a training step, forward and backward, length 50."""
    torch.set_num_threads(threads)
    found: dict[str, Any] = {"threads": threads}
    for size, users in (("tiny", 1_500), ("small", 1_500), ("base", 120)):
        data = made_log(users)
        settings = Settings(size=size, loss="sampled", negatives=256, length=LENGTH).resolved()
        network = Network(settings, Vocabulary(items=ITEMS, clock=False))
        sampler = Sampler(np.ones(ITEMS, np.int64), settings)
        epoch(network, made_log(50), 512, sampler)
        rates, cpu = [], []
        for _ in range(3):
            begun = time.perf_counter()
            cpu.append(len(data) / epoch(network, data, settings.tokens or 2_048, sampler))
            rates.append(len(data) / (time.perf_counter() - begun))
        found[size] = {
            "events a CPU second": round(median(cpu)),
            "events a second": round(median(rates)),
            "weights of the trunk": network.count()["trunk"],
        }
    return found


def append(threads: int) -> dict[str, Any]:
    """One event appended to a cached user with 50 events, and then the vector asked; CPU milliseconds, medians."""
    torch.set_num_threads(threads)
    found: dict[str, Any] = {}
    for trunk, bias in (("gru", "none"), ("cnn", "none"), ("transformer", "none"), ("transformer", "query"), ("hstu", "query")):  # fmt: skip
        settings = Settings(trunk=trunk, length=LENGTH, time_bias=bias)
        cache = Cache(Network(settings, Vocabulary(items=ITEMS)))
        appended, asked = [], []
        for at in range(250):
            moment = at * 3_600_000_000
            begun = time.process_time()
            cache.append(1, item=at % ITEMS, time=moment)
            appended.append(1000 * (time.process_time() - begun))
            cache.vector(1, moment + 1)
            asked.append(1000 * (time.process_time() - begun) - appended[-1])
        spent = {"append": median(appended[LENGTH:]), "vector": median(asked[LENGTH:])}
        found[f"{trunk}, time bias {bias}"] = {name: round(ms, 2) for name, ms in spent.items()}
    return {"milliseconds": found}


def top(threads: int) -> dict[str, Any]:
    """Exact top-10 of 10,000 user vectors over 50,000 item vectors of width 64, seen items not hidden."""
    torch.set_num_threads(threads)
    rng = np.random.default_rng(0)
    users = rng.standard_normal((10_000, 64)).astype(np.float32)
    items = rng.standard_normal((50_000, 64)).astype(np.float32)
    top_k(users[:10] @ items.T, 10)
    wall, cpu = time.perf_counter(), time.process_time()
    for start in range(0, len(users), 160):
        top_k(users[start : start + 160] @ items.T, 10)
    return {
        "seconds": round(time.perf_counter() - wall, 2),
        "CPU seconds": round(time.process_time() - cpu, 2),
    }


PARTS: dict[str, Callable[[int], dict[str, Any]]] = {
    "packing": packing,
    "loss": loss,
    "tokens": tokens,
    "append": append,
    "top": top,
}


def main() -> None:
    """Run the named parts, default all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=list(PARTS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one-loss", choices=["plain", "chunked", "none"])
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    if chosen.one_loss:
        one_loss(chosen.one_loss, chosen.threads)
        return
    found = {}
    for name in chosen.parts:
        found[name] = PARTS[name](chosen.threads)
        print(name, json.dumps(found[name]), flush=True)
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
