"""How much anonymous memory quantizing takes, against its bound and against loading the file whole.

    .venv/bin/python benchmarks/quantize_memory.py [--size-gb 3]

The bound: the largest tensor in three precisions plus 300 MB. Linux only (/proc).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from common import claim, load_checkout

load_checkout()

from managed_models.manager.demo import layouts  # noqa: E402
from managed_models.manager.demo.tiny import write_random_model  # noqa: E402
from managed_models.manager.formats.safetensors import read_header  # noqa: E402

MB = 1024**2
# One run in a process of its own; anonymous + shared memory is sampled in a thread.
INSIDE = r"""
import json, sys, threading, time
sys.path.insert(0, sys.argv[1])
from common import load_checkout
load_checkout()
how, source, target = sys.argv[2:5]
import torch
from safetensors import safe_open
from managed_models.manager.quantize import Quantizer, QuantizeRequest, engine
from managed_models.manager.formats.safetensors import read_header
from managed_models.manager.identify import identify
from pathlib import Path

def held():
    fields = {}
    for line in open("/proc/self/status"):
        name, _, rest = line.partition(":")
        if name in ("RssAnon", "RssShmem"):
            fields[name] = int(rest.split()[0]) * 1024
    return sum(fields.values())

before, peak, running = held(), 0, True
def watch():
    global peak
    while running:
        peak = max(peak, held())
        time.sleep(0.002)
thread = threading.Thread(target=watch)
thread.start()
start = time.perf_counter()
if how == "plain":  # load everything, convert, save
    from safetensors.torch import load_file, save_file
    tensors = load_file(source)
    out = {}
    for name, tensor in tensors.items():
        if name.endswith(".weight") and tensor.ndim == 2:
            scale = tensor.float().abs().max() / 448
            out[name] = (tensor.float() / scale).to(torch.float8_e4m3fn)
            out[name.removesuffix("weight") + "weight_scale"] = scale
        else:
            out[name] = tensor
    save_file(out, target)
else:
    quantizer = Quantizer(lambda path: identify(read_header(path)))
    quantizer.quantize(Path(source), Path(target), QuantizeRequest(format=how))
seconds = time.perf_counter() - start
running = False
thread.join()
print(json.dumps({"growth": peak - before, "seconds": seconds}))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size-gb", type=float, default=2.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "wan_bf16.safetensors"
        block = sum(_elements(s) for s in layouts.wan21_t2v(5120, 13824, 1).values())
        layers = max(1, round(options.size_gb * 1024**3 / 2 / block))
        write_random_model(source, layouts.wan21_t2v(5120, 13824, layers))
        largest = max(info.elements for info in read_header(source).tensors.values())
        print(f"{source.stat().st_size / 1024**3:.1f} GB bf16, widths of Wan 14B, {layers} blocks")
        found = {}
        for how in ("plain", "fp8_e4m3fn_scaled", "int8"):
            target = Path(folder) / f"{how}.safetensors"
            command = [
                sys.executable,
                "-c",
                INSIDE,
                str(Path(__file__).parent),
                how,
                str(source),
                str(target),
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[how] = json.loads(done.stdout.splitlines()[-1])
            target.unlink()
            rate = source.stat().st_size / 1024**3 / found[how]["seconds"]
            grown = found[how]["growth"] / MB
            print(f"{how}: {grown:.0f} MB more, {found[how]['seconds']:.1f} s, {rate:.2f} GB/s")
        good = []
        for how, width in (("fp8_e4m3fn_scaled", 1), ("int8", 1)):
            bound = largest * (2 + 4 + width) + 300 * MB  # stored, computed in float32, written
            good.append(claim(f"{how}: growth / bound", found[how]["growth"] / bound, 1.0, "x"))
            ratio = found[how]["growth"] / found["plain"]["growth"]
            good.append(claim(f"{how}: growth / loading it whole", ratio, 1.0, "x"))
    return 0 if all(good) else 1


def _elements(shape: tuple[int, ...]) -> int:
    count = 1
    for dimension in shape:
        count *= dimension
    return count


if __name__ == "__main__":
    sys.exit(main())
