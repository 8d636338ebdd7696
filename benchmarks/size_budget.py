"""What the policy size_budget is worth: against one format for all layers of the same size, and whether
measuring a sample of each layer chooses as well as measuring all of it.

    .venv/bin/python benchmarks/size_budget.py [--size-gb 0.5]

A Wan with the widths of its 1.3B whose layers differ in how heavy their weights' tails are. Errors are exact:
they are those that the runs recorded.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import claim, load_checkout

load_checkout()

import numpy as np  # noqa: E402
from managed_models.manager.demo import layouts  # noqa: E402
from managed_models.manager.demo.tiny import encode  # noqa: E402
from managed_models.manager.formats.safetensors import read_header  # noqa: E402
from managed_models.manager.formats.writer import SafetensorsWriter, TensorSpec  # noqa: E402
from managed_models.manager.identify import identify  # noqa: E402
from managed_models.manager.quantize import measure as measuring  # noqa: E402
from managed_models.manager.quantize.request import QuantizeRequest  # noqa: E402
from managed_models.manager.quantize.service import Quantizer  # noqa: E402
from managed_models.manager.units import GB, format_bytes  # noqa: E402


def write_uneven_wan(path: Path, size_gb: float) -> None:
    """Write bf16 weights: Gaussian, Student's t, or rows of their own sizes, from layer to layer."""
    block = sum(int(np.prod(s)) for s in layouts.wan21_t2v(1536, 8960, 1).values())
    layout = layouts.wan21_t2v(1536, 8960, max(1, round(size_gb * GB / 2 / block)))
    chance = np.random.default_rng(7)
    with SafetensorsWriter(path, [TensorSpec(n, "BF16", s) for n, s in layout.items()], {}) as writer:
        for number, (name, shape) in enumerate(layout.items()):
            values = chance.standard_normal(shape, np.float32) * 0.02
            if number % 3 == 1:
                values *= np.sqrt(4 / chance.chisquare(4, shape)).astype(np.float32)
            if number % 4 == 2 and len(shape) > 1:
                values *= chance.lognormal(0, 1, (shape[0],) + (1,) * (len(shape) - 1)).astype(np.float32)
            writer.write(name, encode(values, "BF16"))
        writer.finish({}, overwrite=True)


def noise(details: dict[str, Any], signals: dict[str, float]) -> float:
    """Return the sum of squares that the recorded relative errors stand for."""
    return sum(layer["error"] ** 2 * signals[layer["name"]] for layer in details["layers"])


def signals_of(path: Path) -> dict[str, float]:
    """Return the sum of squares of every linear layer's weights."""
    from safetensors import safe_open

    found = {}
    with safe_open(path, "pt") as file:
        names = list(file.keys())
        for name in names:
            if name.endswith(".weight"):
                found[name.removesuffix(".weight")] = float(file.get_tensor(name).double().square().sum())
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size-gb", type=float, default=0.7)
    options = parser.parse_args()
    quantizer = Quantizer(lambda path: identify(read_header(path)))
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "wan.safetensors"
        write_uneven_wan(source, options.size_gb)
        signals = signals_of(source)
        good = []
        print(f"{format_bytes(source.stat().st_size)} bf16, widths of Wan 1.3B")
        output = Path(folder) / "out.safetensors"
        for single, more in (("w4a8", 1.001), ("w4a8", 1.2), ("w4a8", 1.5), ("int8", 1.001)):
            start = time.perf_counter()
            one = quantizer.quantize(source, output, QuantizeRequest(format=single))
            plain = time.perf_counter() - start
            limit = round(output.stat().st_size * more)  # the header of a mixture is a little longer
            output.unlink()
            print(f"  {more:g} x the size of {single} ({plain:.1f} s): {format_bytes(limit)}")
            found = {}
            for how, sampled in (("sampled", measuring.SAMPLED), ("whole", 1 << 62)):
                kept, measuring.SAMPLED = measuring.SAMPLED, sampled
                start = time.perf_counter()
                budget = QuantizeRequest(policy="size_budget", target_size_gb=limit / GB)
                details = quantizer.quantize(source, output, budget)
                seconds = time.perf_counter() - start
                measuring.SAMPLED = kept
                output.unlink()
                found[how] = noise(details, signals)
                formats = ", ".join(f"{e['layers']} {e['format']}" for e in details["formats"])
                print(f"    {how}: {formats}; {seconds:.1f} s")
                good.append(claim("bytes / budget", details["output_bytes"] / limit, 1.0, "x"))
            ratio = found["sampled"] / noise(one, signals)
            good.append(claim(f"noise / that of {single} for all", ratio, 1.0, "x"))
            good.append(
                claim("noise, sampled / measured whole", found["sampled"] / found["whole"], 1.02, "x")
            )
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
