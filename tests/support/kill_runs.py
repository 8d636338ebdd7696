"""Quantizing in processes that are killed at random moments, again and again.

A program of its own, since its processes fork: it imports PyTorch once, and each run is a child of it.

    kill_runs.py ROOT SOURCE OUTPUT FORMAT COUNT SEED WORKERS

Prints one JSON object: per trial how often a run was killed, whether the file that came of it is the
same as that of a run without trouble, how much the last run computed, and what was left in the folder.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any


def load_package(root: Path) -> None:
    spec = importlib.util.spec_from_file_location("managed_models", root / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["managed_models"] = module
    spec.loader.exec_module(module)


def quantize(source: Path, output: Path, format: str, workers: int, watch: Any) -> Any:
    from managed_models.manager.identify import identify
    from managed_models.manager.quantize import engine
    from managed_models.manager.quantize.formats import FORMATS
    from managed_models.manager.quantize.policy import plan_tensors
    from managed_models.manager.quantize.source import read_source

    model = read_source(source)
    plans = plan_tensors(model.header, identify(model.header), FORMATS[format])
    options = engine.EngineOptions(workers=workers)
    return engine.run(model, plans, output, {"format": "pt"}, watch, options)


def in_child(source: Path, output: Path, format: str, workers: int, results: Path) -> int:
    """Fork a child that quantizes and writes down what it computed; return its process."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        from managed_models.manager.watch import Nobody

        result = quantize(source, output, format, workers, Nobody())
        results.write_text(json.dumps({"computed": result.computed_bytes, "resumed": result.resumed_bytes}))
        code = 0
    finally:
        os._exit(code)


def trial(
    source: Path, output: Path, format: str, workers: int, seconds: float, pick: random.Random
) -> dict[str, Any]:
    """Kill one to three runs at random moments of their time, and let the next one end."""
    from managed_models.manager.quantize.place import remove_unfinished

    results = output.with_suffix(".json")
    kills = 0
    for _ in range(pick.choice((1, 1, 2, 3))):
        child = in_child(source, output, format, workers, results)
        time.sleep(pick.uniform(0, seconds))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        kills += os.WIFSIGNALED(status)
        if output.exists():
            break
    if not output.exists():
        child = in_child(source, output, format, workers, results)
        _, status = os.waitpid(child, 0)
        assert status == 0, status
    found: dict[str, Any] = {"kills": kills}
    if results.exists():
        found |= json.loads(results.read_text())
        results.unlink()
    else:  # killed after the file had its name
        remove_unfinished(output)
    return found


def main() -> None:
    root, source, output = (Path(text) for text in sys.argv[1:4])
    format, count, seed, workers = sys.argv[4], int(sys.argv[5]), int(sys.argv[6]), int(sys.argv[7])
    load_package(root)
    import torch
    from managed_models.manager.quantize import buffers
    from managed_models.manager.watch import Nobody

    torch.set_num_threads(1)  # so that no thread is there when it forks
    buffers.BYTES_PER_WORKER = 1
    pick = random.Random(seed)
    started = time.monotonic()
    output.unlink(missing_ok=True)
    quantize(source, output, format, workers, Nobody())
    seconds = time.monotonic() - started
    expected = output.read_bytes()
    trials = []
    for _ in range(count):
        output.unlink()
        found = trial(source, output, format, workers, seconds, pick)
        found["same"] = output.read_bytes() == expected
        found["left"] = sorted(p.name for p in output.parent.iterdir() if p not in (source, output))
        trials.append(found)
    total = source.stat().st_size
    print(json.dumps({"seconds": seconds, "source_bytes": total, "trials": trials}))


if __name__ == "__main__":
    main()
