"""What a training step takes with and without checkpointing, in ComfyUI's own Python."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from comfy_extras.nodes_train import find_modules_at_depth, patch, unpatch
from managed_models.manager.comfy_host import ComfyHost
from managed_models.manager.host import LoadRequest
from managed_models.manager.model import ModelType
from support.gradients import gradients, step

from .training import MODELS, difference

_ROUNDS = 4


class _Step(NamedTuple):
    seconds: float
    peak_bytes: int


def main(base: str) -> dict[str, Any]:
    """Return for each model and way what was kept, the peak, the time, and the error of the gradients."""
    size = int(os.environ["TRAINING_SIZE"])
    host = ComfyHost()
    found: dict[str, Any] = {}
    for kind, name in MODELS.items():
        path = Path(base) / "models" / "diffusion_models" / name
        model = host.load(LoadRequest(path, ModelType.DIFFUSION)).model
        network = model.model.diffusion_model
        reference = gradients(kind, network, size)
        ways: dict[str, Callable[[], AbstractContextManager[None]]] = {
            "without": nullcontext,
            "ours": lambda model=model: _ours(host, model),
            "ComfyUI's at depth 1": lambda network=network: _stock(network, 1),
            "ComfyUI's at depth 2": lambda network=network: _stock(network, 2),
        }
        runs: dict[str, list[_Step]] = {way: [] for way in ways}
        for _ in range(_ROUNDS):  # one after the other, so that another program's work hits them all
            for way, turn_on in ways.items():
                with turn_on():
                    runs[way].append(_measure(lambda kind=kind, network=network: step(kind, network, size)))
        for way, turn_on in ways.items():
            with turn_on():
                here = gradients(kind, network, size)
            found.setdefault(kind, {})[way] = {
                "kept_bytes": here.kept_bytes,
                "peak_bytes": max(run.peak_bytes for run in runs[way]),
                "seconds": min(run.seconds for run in runs[way]),
                "error": difference(reference, here),
            }
    return found


@contextmanager
def _ours(host: ComfyHost, model: Any) -> Iterator[None]:
    host.checkpoint_gradients(model, True)
    yield
    host.checkpoint_gradients(model, False)


@contextmanager
def _stock(network: Any, depth: int) -> Iterator[None]:
    blocks = find_modules_at_depth(network, depth=depth)
    for block in blocks:
        patch(block)
    yield
    for block in blocks:
        unpatch(block)


def _measure(work: Callable[[], None]) -> _Step:
    """Return the seconds, and how far the process grew meanwhile."""
    process = psutil.Process()
    start, peak, running = process.memory_info().rss, 0, True

    def watch() -> None:
        nonlocal peak
        while running:
            peak = max(peak, process.memory_info().rss)
            time.sleep(0.001)

    thread = threading.Thread(target=watch)
    thread.start()
    began = time.perf_counter()
    work()
    took = time.perf_counter() - began
    running = False
    thread.join()
    return _Step(took, peak - start)
