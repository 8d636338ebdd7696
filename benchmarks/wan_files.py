"""Large files in the layout of Wan 2.2 14B, written as fast as the disk takes them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from common import load_checkout

load_checkout()

from managed_models.manager.demo import layouts  # noqa: E402
from managed_models.manager.demo.tiny import encode  # noqa: E402
from managed_models.manager.formats.writer import SafetensorsWriter, TensorSpec  # noqa: E402

WIDTH, FFN, LAYERS = 5120, 13824, 40
_POOL = 1 << 24


def wan_layout(gigabytes: float = 0.0) -> layouts.Layout:
    """Return Wan 14B with as many blocks as make about this size in bf16; 0 for all 40."""
    if not gigabytes:
        return layouts.wan21_t2v(WIDTH, FFN, LAYERS)
    one, two = (_elements(layouts.wan21_t2v(WIDTH, FFN, count)) for count in (1, 2))
    layers = 1 + round((gigabytes * 1024**3 / 2 - one) / (two - one))
    return layouts.wan21_t2v(WIDTH, FFN, max(1, layers))


def write_large_model(path: Path, layout: layouts.Layout, seed: int = 0) -> None:
    """Write random bf16 weights: for each tensor another part of one pool of them, at its own scale."""
    generator = np.random.default_rng(seed)
    pool = generator.standard_normal(_POOL, np.float32)
    # Some weights lie far out, as in trained models.
    pool[:: 1 << 14] *= 4
    pools: dict[str, memoryview] = {}
    specs = [TensorSpec(name, "BF16", shape) for name, shape in layout.items()]
    with SafetensorsWriter(path, specs, {"format": "pt"}) as writer:
        for name, shape in layout.items():
            count = math.prod(shape)
            spread = 0.7 / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 else 0.01
            norm = len(shape) == 1 and name.endswith(".weight")
            kind = "norm" if norm else f"{spread:g}"
            if kind not in pools:
                values = np.float32(1) + pool * np.float32(0.01) if norm else pool * np.float32(spread)
                pools[kind] = memoryview(encode(values, "BF16"))
            raw = pools[kind]
            start = 2 * int(generator.integers(0, _POOL))
            left = 2 * count
            while left:
                piece = raw[start : start + left]
                writer.write(name, piece)
                left -= len(piece)
                start = 0
        writer.finish({}, overwrite=True)


def _elements(layout: layouts.Layout) -> int:
    return sum(math.prod(shape) for shape in layout.values())
