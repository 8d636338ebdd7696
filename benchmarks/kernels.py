"""How fast weights are encoded on the processor, against comfy-kitchen's eager kernels in the same run.

    .venv/bin/python benchmarks/kernels.py [--rows 4096] [--columns 5120] [--repeats 3]

Both use all cores: comfy-kitchen PyTorch's threads, ours one worker per core with a part of the rows, as
the engine does. mxfp8 and nvfp4 have to be the same bytes. It needs a ComfyUI (COMFYUI_PATH), in whose Python
it runs. GB/s are of bf16 weights read.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys

from common import ROOT, claim, load_checkout

# At least this many times as fast, for the formats of blocks.
FASTER = 5.0
CLAIMED = ("nvfp4", "mxfp8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--columns", type=int, default=5120)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--inside", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        print("RESULT " + json.dumps(measure(options.inside, options.rows, options.columns, options.repeats)))
        return 0
    sys.path.append(str(ROOT / "scripts"))
    from comfyui_server import find_comfyui

    comfyui = find_comfyui()
    if comfyui is None:
        print("No ComfyUI was found: set COMFYUI_PATH (and COMFYUI_PYTHON).")
        return 1
    sizes = ("--rows", str(options.rows), "--columns", str(options.columns))
    command = [str(comfyui.python), __file__, "--inside", str(comfyui.path), *sizes]
    command += ["--repeats", str(options.repeats)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        print(done.stderr)
        return 1
    found = json.loads(lines[-1].removeprefix("RESULT "))
    print(f"[{options.rows}, {options.columns}] bf16, {os.cpu_count()} cores, ComfyUI {comfyui.version}")
    print(f"{'format':<20}{'comfy-kitchen':>14}{'ours':>8}{'times':>7}{'best':>8}  error fast, best   bytes")
    for name, facts in found.items():
        times = f"{facts['ours'] / facts['theirs']:.1f}"
        errors = f"{facts['error']:.4f}, {facts['best error']:.4f}"
        print(
            f"{name:<20}{facts['theirs']:>14.3f}{facts['ours']:>8.3f}{times:>7}{facts['best']:>8.3f}  "
            f"{errors:<17}  {'the same' if facts['same'] else 'differ'}"
        )
    good = [
        claim(f"{name}: time over comfy-kitchen's", facts["theirs"] / facts["ours"], 1 / FASTER, "x")
        and facts["same"]
        for name, facts in found.items()
        if name in CLAIMED
    ]
    return 0 if all(good) else 1


def measure(comfyui: str, rows: int, columns: int, repeats: int) -> dict[str, dict[str, float]]:
    """Time both on one weight, by turns; runs in ComfyUI's Python."""
    sys.path.insert(0, comfyui)
    sys.argv = ["benchmark", "--cpu"]
    import comfy.options  # noqa: TID251

    comfy.options.enable_args_parsing()
    import logging

    logging.disable(logging.CRITICAL)
    load_checkout()
    import time
    from concurrent.futures import ThreadPoolExecutor

    import torch
    from comfy.quant_ops import QUANT_ALGOS, get_layout_class  # noqa: TID251
    from managed_models.manager.quantize.encoding import Encoded, make_encoder
    from managed_models.manager.quantize.formats import FORMATS, TargetFormat
    from managed_models.manager.quantize.kernels import DTYPES

    weights = (torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)) * 0.02).bfloat16()
    cores, threads = os.cpu_count() or 1, torch.get_num_threads()
    pool = ThreadPoolExecutor(cores, initializer=lambda: torch.set_num_threads(1))
    gigabytes = weights.numel() * 2 / 1e9

    def encode(target: TargetFormat, quality: str, part: torch.Tensor) -> tuple[torch.Tensor, Encoded]:
        """Encode in blocks of the engine's size, after a look at the whole where the format asks for one."""
        encoder = make_encoder(target, tuple(weights.shape), quality)
        step = max(128, (8 << 20) // columns // 128 * 128)
        blocks = part.split(step)
        for _ in range(encoder.passes):
            for block in blocks:
                encoder.look(block)
        spec = target.outputs("", tuple(part.shape))[0]
        out = torch.empty(spec.shape, dtype=DTYPES[spec.dtype])
        for i, block in enumerate(blocks):
            encoded = encoder.encode(block, out[i * step : i * step + len(block)], lambda: None)
        return out, encoded

    def ours(target: TargetFormat, quality: str) -> None:
        size = -(-rows // cores // 128) * 128
        list(pool.map(lambda part: encode(target, quality, part), weights.split(size)))

    def error(target: TargetFormat, quality: str) -> float:
        encoder = make_encoder(target, tuple(weights.shape), quality)
        for _ in range(encoder.passes):
            encoder.look(weights)
        spec = target.outputs("", tuple(weights.shape))[0]
        found = encoder.encode(weights, torch.empty(spec.shape, dtype=DTYPES[spec.dtype]), lambda: None).error
        return float((found.noise / found.signal) ** 0.5)

    def seconds(work: object) -> float:
        start = time.perf_counter()
        work()  # type: ignore[operator]
        return time.perf_counter() - start

    found: dict[str, dict[str, float]] = {}
    for name, target in FORMATS.items():
        if target.kind == "cast":
            continue
        layout = get_layout_class(QUANT_ALGOS[target.comfy_format]["comfy_tensor_layout"])
        kinds = {
            "tensor": {"scale": "recalculate"},
            "row": {"is_weight": True, "per_channel": True},
            "rotated_row": {"is_weight": True, "per_channel": True, "convrot": True},
        }.get(target.kind, {})
        times: dict[str, list[float]] = {"theirs": [], "ours": [], "best": []}
        for _ in range(repeats + 1):
            torch.set_num_threads(threads)
            times["theirs"].append(seconds(lambda: layout.quantize(weights, **kinds)))  # noqa: B023
            times["ours"].append(seconds(lambda: ours(target, "fast")))  # noqa: B023
        times["best"] = [seconds(lambda: ours(target, "best"))]  # noqa: B023
        rates = {who: gigabytes / min(taken) for who, taken in times.items()}
        codes, _ = layout.quantize(weights[:256], **kinds)
        own, _ = encode(target, "fast", weights[:256])
        same = torch.equal(codes.contiguous().view(torch.uint8), own.view(torch.uint8))
        both = {"error": error(target, "fast"), "best error": error(target, "best")}
        found[name] = {**rates, **both, "same": same}
    return found


if __name__ == "__main__":
    sys.exit(main())
