"""Reading and fully checking a header against struct + json alone, and what identity adds.

.venv/bin/python benchmarks/header.py
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

from common import ROOT, claim, load_checkout, median_seconds

load_checkout()

from managed_models.manager.demo import layouts  # noqa: E402
from managed_models.manager.formats.safetensors import read_header  # noqa: E402
from managed_models.manager.identify import identify  # noqa: E402
from managed_models.manager.library import Library  # noqa: E402
from managed_models.manager.local_host import LocalHost  # noqa: E402
from managed_models.manager.registry import Registry  # noqa: E402

sys.path.append(str(ROOT / "scripts"))
from comfyui_server import find_comfyui  # noqa: E402

# Runs in ComfyUI's Python: identity by ComfyUI's own detection.
INSIDE = r"""
import logging, sys
path, benchmarks, file = sys.argv[1:4]
sys.path[:0] = [path, benchmarks]
sys.argv = ["main.py", "--cpu"]
import comfy.options
comfy.options.enable_args_parsing()
logging.disable(logging.CRITICAL)
import nodes
from common import load_checkout, median_seconds
load_checkout()
from managed_models.manager.comfy_host.detect import detect
from managed_models.manager.formats.safetensors import read_header
from managed_models.manager.identify import identify
header = read_header(file)
assert identify(header, lambda h: detect(h, "ComfyUI")).detected_by == "ComfyUI"
print("RESULT", median_seconds(lambda: identify(header, lambda h: detect(h, "ComfyUI")), 20))
"""


def wan_14b(path: Path) -> int:
    """Write the header of a Wan 14B layout (1,095 tensors) over a sparse 28 GB file; return the tensors."""
    header: dict[str, object] = {}
    position = 0
    for name, shape in layouts.wan21_t2v(width=5120, ffn=13824, layers=40).items():
        size = 2
        for dimension in shape:
            size *= dimension
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [position, position + size]}
        position += size
    raw = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        file.truncate(8 + len(raw) + position)
    return len(header)


def plain(path: Path) -> object:
    """The floor: struct and json alone, nothing checked."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return json.loads(file.read(length))


def identity_by_comfyui(path: Path) -> float | None:
    """Return the median seconds of an identity inside ComfyUI, None without one."""
    comfyui = find_comfyui()
    if comfyui is None:
        return None
    command = [str(comfyui.python), "-c", INSIDE, str(comfyui.path), str(ROOT / "benchmarks"), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(next(x for x in done.stdout.splitlines() if x.startswith("RESULT")).split()[1])


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "wan_14b.safetensors"
        tensors = wan_14b(path)
        floor = median_seconds(lambda: plain(path), 200)
        checked = median_seconds(lambda: read_header(path), 200)
        header = read_header(path)
        identity = median_seconds(lambda: identify(header), 50)
        library = Library(LocalHost(), Registry())
        library.identity(path)
        again = median_seconds(lambda: library.identity(path), 200)
        print(
            f"{tensors} tensors, {path.stat().st_size / 1024**3:.1f} GB (sparse): "
            f"struct + json {floor * 1e3:.2f} ms, read and checked {checked * 1e3:.2f} ms, "
            f"identity {identity * 1e3:.2f} ms more, known file {again * 1e3:.3f} ms"
        )
        good = [
            claim("read and checked / struct + json", checked / floor, 3.0, "x"),
            claim("identity on top", identity * 1e3, 25.0, "ms"),
            claim("identity of a known file / reading it", again / checked, 0.5, "x"),
        ]
        by_comfyui = identity_by_comfyui(path)
        if by_comfyui is None:
            print("identity by ComfyUI's detection: not measured, no ComfyUI was found")
        else:
            good.append(claim("identity on top, by ComfyUI's detection", by_comfyui * 1e3, 25.0, "ms"))
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
