"""Writing a demo model: random weights that behave, the same bytes for the same seed."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import BadInput
from ..formats.writer import SafetensorsWriter, TensorSpec
from . import layouts
from .layouts import Layout, Shape


class DemoModel(NamedTuple):
    """One kind of demo model: its layout, ComfyUI's folder for it, and its file name."""

    layout: Callable[[], Layout]
    folder: str
    file_name: str


DEMO_MODELS: dict[str, DemoModel] = {
    "wan21_t2v": DemoModel(layouts.wan21_t2v, "diffusion_models", "tiny_wan21_t2v_bf16.safetensors"),
    "flux": DemoModel(layouts.flux, "diffusion_models", "tiny_flux_bf16.safetensors"),
    "sd15_checkpoint": DemoModel(
        layouts.sd15_checkpoint, "checkpoints", "tiny_sd15_checkpoint_bf16.safetensors"
    ),
}
_CONSTANTS = {"vae_scale": 0.18215, "vae_shift": 0.0}


def make_demo_model(kind: str, models: Path, seed: int = 0) -> Path:
    """Write one demo model under ``models``, in ComfyUI's folder for it, unless it is there.

    Raises:
        BadInput: no such kind.
    """
    model = DEMO_MODELS.get(kind)
    if model is None:
        raise BadInput(f"There is no demo model {kind!r}.", f"Use one of {', '.join(DEMO_MODELS)}.")
    path = models / model.folder / model.file_name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_random_model(path, model.layout(), seed)
    return path


def write_random_model(path: Path, layout: Layout, seed: int = 0, dtype: str = "BF16") -> None:
    """Write random weights in this layout.

    Args:
        dtype: ``BF16``, ``F16`` or ``F32``.
    """
    generator = np.random.default_rng(seed)
    specs = [TensorSpec(name, dtype, shape) for name, shape in layout.items()]
    with SafetensorsWriter(path, specs, {"format": "pt"}) as writer:
        for name, shape in layout.items():
            writer.write(name, encode(_values(name, shape, generator), dtype))
        writer.finish({}, overwrite=True)


def encode(values: np.ndarray, dtype: str) -> bytes:
    """Return float32 values as the bytes of ``dtype``, rounded to nearest even."""
    if dtype == "F32":
        return values.astype("<f4").tobytes()
    if dtype == "F16":
        return values.astype("<f2").tobytes()
    bits = np.ascontiguousarray(values, "<f4").view("<u4")
    rounded: bytes = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()
    return rounded


def _values(name: str, shape: Shape, generator: np.random.Generator) -> np.ndarray:
    """Return weights of a scale at which signals neither vanish nor explode."""
    constant = _CONSTANTS.get(name.rpartition(".")[2])
    if constant is not None:
        return np.full(shape, constant, np.float32)
    if len(shape) == 1 and name.endswith((".weight", ".scale")):
        return np.ones(shape, np.float32)
    spread = 0.01 if len(shape) == 1 else 0.7 / math.sqrt(math.prod(shape[1:]))
    return generator.standard_normal(shape, np.float32) * np.float32(spread)
