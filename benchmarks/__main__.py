"""``make bench``: the speed benchmarks, one after the other, small enough for two cores and some minutes."""

from __future__ import annotations

import importlib
import pkgutil
import sys

import benchmarks.speed

for module in sorted(m.name for m in pkgutil.iter_modules(benchmarks.speed.__path__)):
    loaded = importlib.import_module(f"benchmarks.speed.{module}")
    if not hasattr(loaded, "main"):
        continue
    print(f"\n## {module}: {(loaded.__doc__ or '').strip().splitlines()[0]}", flush=True)
    sys.argv = [f"benchmarks.speed.{module}"]
    loaded.main()
