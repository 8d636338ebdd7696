"""What the benchmarks share: this checkout as a package, medians, and one line per claim."""

from __future__ import annotations

import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def load_checkout() -> None:
    """Make ``managed_models`` mean this checkout, whatever is installed."""
    spec = importlib.util.spec_from_file_location("managed_models", ROOT / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["managed_models"] = module
    spec.loader.exec_module(module)


def median_seconds(work: Callable[[], object], repeats: int) -> float:
    """Return the median time of ``work``, after one call that warms the caches."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def claim(name: str, found: float, limit: float, unit: str) -> bool:
    """Print what was found beside its limit, and return whether it holds."""
    good = found <= limit
    print(f"{'ok  ' if good else 'MISS'}  {name}: {found:.3g} {unit} (at most {limit:.3g})")
    return good
