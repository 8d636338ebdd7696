"""One quantization in a process of its own, for the benchmarks: prints one JSON object.

    quantize_run.py HOW FORMAT SOURCE TARGET [MEMORY_GB]

HOW is ``engine``, ``copy`` (the engine whose kernel only copies bytes), ``kitchen`` (a plain script:
load everything, comfy-kitchen, save_file), ``hash`` (the source's SHA-256 alone) or ``service`` (all that
the command does). Run it with a Python
that has PyTorch, comfy-kitchen and what Managed Models needs: ComfyUI's own. Memory is the growth of
anonymous + shared memory since PyTorch was imported, sampled every 2 ms (Linux only).
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common import load_checkout

load_checkout()

import torch  # noqa: E402

KEPT = ("patch_embedding", "text_embedding", "time_", "head", "norm")


def held() -> int:
    """Return the bytes of anonymous and shared memory that this process holds."""
    sizes = {}
    with open("/proc/self/status") as file:
        for line in file:
            name, _, rest = line.partition(":")
            if name in ("RssAnon", "RssShmem"):
                sizes[name] = int(rest.split()[0]) * 1024
    return sum(sizes.values())


@contextmanager
def watched_memory() -> Iterator[Callable[[], int]]:
    """Give a function that says how much more was held at most."""
    before = peak = held()
    running = True

    def sample() -> None:
        nonlocal peak
        while running:
            peak = max(peak, held())
            time.sleep(0.002)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield lambda: max(peak, held()) - before
    finally:
        running = False
        thread.join()


def plain_script(format: str, source: Path, target: Path) -> dict[str, Any]:
    """Do what a short script does."""
    import comfy_kitchen
    from safetensors.torch import load_file, save_file

    start = time.perf_counter()
    tensors = load_file(source)
    out: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        out[name] = tensor
        if not name.endswith(".weight") or tensor.ndim != 2 or any(part in name for part in KEPT):
            continue
        layer = name.removesuffix(".weight")
        if format == "int8":
            out[name], scale = comfy_kitchen.quantize_int8_rowwise(tensor)
            marker = '{"format": "int8_tensorwise"}'
        else:
            scale = (tensor.abs().max().float() / 448).clamp(min=1e-12)
            out[name] = comfy_kitchen.quantize_per_tensor_fp8(tensor, scale, torch.float8_e4m3fn)
            marker = '{"format": "float8_e4m3fn"}'
        out[f"{layer}.weight_scale"] = scale
        out[f"{layer}.comfy_quant"] = torch.tensor(list(marker.encode()), dtype=torch.uint8)
    save_file(out, target, {"format": "pt"})
    total = time.perf_counter() - start
    with open(target, "r+b") as file:
        os.fsync(file.fileno())
    return {"total": total, "flushed": time.perf_counter() - start}


class CopyEncoder:
    """In the place of a kernel: as many bytes as the format takes, copied from the source."""

    passes = 0
    largest = 0.0

    def __init__(self, target: Any, shape: tuple[int, ...], quality: str) -> None:
        self._sides = [
            (spec.name, torch.zeros(spec.nbytes, dtype=torch.uint8)) for spec in target.outputs("", shape)[1:]
        ]

    def look(self, rows: torch.Tensor) -> None:
        """Never called."""

    def encode(self, rows: torch.Tensor, out: torch.Tensor, tick: Callable[[], None]) -> Any:
        from managed_models.manager.quantize.encoding import Encoded
        from managed_models.manager.quantize.kernels import Error

        flat = out.reshape(-1).view(torch.uint8)
        flat.copy_(rows.reshape(-1).view(torch.uint8)[: flat.numel()])
        return Encoded(out, dict(self._sides), Error(0.0, 1.0))


def engine_run(how: str, format: str, source: Path, target: Path, memory_gb: float) -> dict[str, Any]:
    """Run the engine alone: the source's hash is taken as known, and hashed by another call."""
    from managed_models.manager.identify import identify
    from managed_models.manager.quantize import engine
    from managed_models.manager.quantize.encoding import make_encoder
    from managed_models.manager.quantize.formats import FORMATS
    from managed_models.manager.quantize.policy import plan_tensors
    from managed_models.manager.quantize.source import read_source
    from managed_models.manager.watch import Nobody

    model = read_source(source)
    plans = plan_tensors(model.header, identify(model.header), FORMATS[format])
    options = engine.EngineOptions(
        max_memory_bytes=round(memory_gb * 1024**3),
        source_sha256="0" * 64,
        make_encoder=CopyEncoder if how == "copy" else make_encoder,
    )
    result = engine.run(model, plans, target, {"format": "pt"}, Nobody(), options)
    return {
        **result.seconds,
        "engine": result.seconds["convert"] + result.seconds["flush"],
        "workers": result.workers,
        "relative_error": result.relative_error,
    }


def hash_source(source: Path) -> dict[str, Any]:
    from managed_models.manager.quantize.source import read_source, source_sha256

    start = time.perf_counter()
    source_sha256(read_source(source), lambda position: None)
    return {"total": time.perf_counter() - start}


def service_run(format: str, source: Path, target: Path, memory_gb: float) -> dict[str, Any]:
    """Quantize as the node and the command do: with hash, checks, and reading back."""
    from managed_models.manager.identify.reading import read_identity
    from managed_models.manager.quantize.request import QuantizeRequest
    from managed_models.manager.quantize.service import Quantizer

    start = time.perf_counter()
    request = QuantizeRequest(format=format, max_memory_gb=memory_gb)
    details = Quantizer(read_identity).quantize(source, target, request)
    return {"total": time.perf_counter() - start, "details": details}


def main() -> None:
    how, format = sys.argv[1:3]
    source, target = Path(sys.argv[3]), Path(sys.argv[4])
    memory_gb = float(sys.argv[5]) if len(sys.argv) > 5 else 0.0
    used = time.process_time()
    with watched_memory() as grown:
        if how == "kitchen":
            found = plain_script(format, source, target)
        elif how == "service":
            found = service_run(format, source, target, memory_gb)
        elif how == "hash":
            found = hash_source(source)
        else:
            found = engine_run(how, format, source, target, memory_gb)
        found["growth"] = grown()
        found["cpu"] = time.process_time() - used  # less shaken by what else runs than seconds are
    print(json.dumps(found))


if __name__ == "__main__":
    main()
