"""Forecasts real layouts, then loads, samples and decodes them, in ComfyUI's own Python: peaks of both."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import comfy.model_management as mm
import comfy.sample
import comfy.sd
import psutil
import torch
from managed_models.manager import AdvancedModelManager
from managed_models.manager.check_options import CheckOptions
from managed_models.manager.comfy_host import ComfyHost
from managed_models.manager.demo.layouts import Layout
from managed_models.manager.formats.writer import SafetensorsWriter, TensorSpec, planned_file_size
from managed_models.manager.host import LoadRequest
from managed_models.manager.model import ModelType
from support.pairing_layouts import VAES

from .architectures import LAYOUTS

_ROOM_SHARE = 0.4  # of free VRAM, RAM and disk: the most that one model's weights may take
_TORCH = {"BF16": torch.bfloat16, "F16": torch.float16}


class _Case(NamedTuple):
    """A model: its layout, how deep the real one is, its VAE, its prompt, and sizes in pixels and frames.

    The first size is for the smoke run.
    """

    layout: str
    depth: dict[str, int]
    dtype: str
    vae: str
    text: tuple[int, int]
    sizes: tuple[tuple[int, int, int], ...]


_CASES = (
    _Case("sd1.5", {}, "F16", "sd", (77, 768), ((64, 64, 1), (512, 512, 1), (768, 768, 1), (1024, 1024, 1))),
    _Case(
        "flux-dev",
        {"depth": 19, "depth_single_blocks": 38},
        "BF16",
        "flux",
        (256, 4096),
        ((64, 64, 1), (768, 768, 1), (1024, 1024, 1), (1536, 1536, 1)),
    ),
    _Case(
        "wan-t2v",
        {"num_layers": 40},
        "BF16",
        "wan2.1",
        (512, 4096),
        ((64, 64, 5), (832, 480, 33), (832, 480, 81), (1280, 720, 81)),
    ),
)


def main(base: str) -> dict[str, Any]:
    """Return the device, and for each model, size and phase what was forecast and what was taken."""
    device = mm.get_torch_device()
    smoke = mm.is_device_cpu(device)
    manager = AdvancedModelManager(host=ComfyHost())
    rows: list[dict[str, Any]] = []
    with torch.inference_mode():
        for case in _CASES:
            rows += _run(case, Path(base), manager, smoke)
    name = "the CPU" if smoke else mm.get_torch_device_name(device)
    return {"device": name, "torch": torch.__version__, "smoke": smoke, "rows": rows}


def _run(case: _Case, folder: Path, manager: AdvancedModelManager, smoke: bool) -> list[dict[str, Any]]:
    depth = _depth(case, folder, smoke)
    model, vae = folder / f"{case.layout}.safetensors", folder / f"{case.vae}_vae.safetensors"
    _write(model, _model_layout(case.layout, depth), case.dtype)
    _write(vae, _vae_layout(case.vae), "BF16")
    name = " ".join([case.layout, *(f"{key}={value}" for key, value in depth.items())])
    # Every forecast comes first, as a check would say it, before anything is loaded.
    forecasts = []
    for width, height, length in case.sizes[:1] if smoke else case.sizes[1:]:
        options = CheckOptions(width, height, length, companions={"vae": vae})
        forecasts.append(manager.check(str(model), options).advice["forecast"])
    rows = []
    for phase, path, kind in (
        ("sampling", model, ModelType.DIFFUSION),
        ("vae_decode", vae, ModelType.VAE),
    ):
        parts = manager.host.load(LoadRequest(path, kind))
        patcher = parts.model if parts.model is not None else parts.vae.patcher
        mm.load_models_gpu([patcher], force_full_load=True)
        for found in forecasts:
            said = next(each for each in found["phases"] if each["name"] == phase)
            row = {
                "model": name if parts.model is not None else f"{case.vae} VAE",
                "phase": phase,
                "size": "x".join(str(found["size"][key]) for key in ("width", "height", "length")),
                "predicted": said["working"]["bytes"],
            }
            if not smoke and said["placement"] != "fits":
                rows.append({**row, "measured": None, "note": f"not run: {said['placement']}"})
                continue
            if parts.model is not None:
                measured, note = _sample(patcher, found["latent"], case.text)
            else:
                measured, note = _decode(parts.vae, found["latent"])
            if not smoke and patcher.loaded_size() < patcher.model_size():
                note = note or "not all weights were on the card"
            rows.append({**row, "measured": measured, "note": note})
        del parts, patcher
        mm.unload_all_models()
        gc.collect()
        mm.soft_empty_cache()
        with suppress(OSError):  # Windows keeps what is still mapped, until the end
            path.unlink()
    return rows


def _sample(patcher: Any, shape: list[int], text: tuple[int, int]) -> tuple[int | None, str]:
    """Run one step with guidance; return its peak, and what makes it incomparable with the forecast."""
    batches: list[int] = []

    def watched(apply: Callable[..., Any], given: dict[str, Any]) -> Any:
        batches.append(int(given["input"].shape[0]))
        return apply(given["input"], given["timestep"], **given["c"])

    clone = patcher.clone()
    clone.set_model_unet_function_wrapper(watched)
    prompt, negative = ([[torch.zeros(1, *text), {"pooled_output": torch.zeros(1, 768)}]] for _ in range(2))
    latent = torch.zeros(shape, device=mm.intermediate_device())
    noise = torch.randn(shape)

    def step() -> None:
        comfy.sample.sample(
            clone, noise, 1, 2.0, "euler", "simple", prompt, negative, latent, disable_pbar=True, seed=0
        )

    try:
        peak = _peak(step)
    except mm.OOM_EXCEPTION:
        return None, "out of memory"
    # The forecast is for the prompt and its negative in one batch, as ComfyUI does where there is room.
    return peak, "" if batches == [2 * shape[0]] else f"computed in batches of {batches}"


def _decode(vae: Any, shape: list[int]) -> tuple[int | None, str]:
    def refuse(*_: Any, **__: Any) -> None:
        raise MemoryError

    for name in [name for name in dir(vae) if name.startswith("decode_tiled")]:
        setattr(vae, name, refuse)  # what ComfyUI falls back to without a word
    try:
        return _peak(lambda: vae.decode(torch.randn(shape))), ""
    except MemoryError:
        return None, "out of memory: ComfyUI would go on in tiles"


def _peak(work: Callable[[], object]) -> int:
    """Return how much more the device held at most meanwhile; of a CPU, the process."""
    device = mm.get_torch_device()
    backend = getattr(torch, device.type)
    gc.collect()
    mm.soft_empty_cache()
    if hasattr(backend, "reset_peak_memory_stats") and hasattr(
        backend, "max_memory_allocated"
    ):  # CUDA, ROCm, XPU
        backend.synchronize()
        start = int(backend.memory_allocated(device))
        backend.reset_peak_memory_stats(device)
        work()
        backend.synchronize()
        return int(backend.max_memory_allocated(device)) - start
    process = psutil.Process()
    held: Callable[[], int] = getattr(
        backend, "current_allocated_memory", lambda: int(process.memory_info().rss)
    )
    start, peak, running = held(), 0, True

    def watch() -> None:
        nonlocal peak
        while running:
            peak = max(peak, held())
            time.sleep(0.001)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        work()
    finally:
        running = False
        thread.join()
    return peak - start


def _depth(case: _Case, folder: Path, smoke: bool) -> dict[str, int]:
    """Return as many blocks as fit, in the real model's proportions; one of each for a smoke run."""
    room = min(
        mm.get_free_memory(mm.get_torch_device()),
        psutil.virtual_memory().available,
        psutil.disk_usage(str(folder)).free,
    )
    layout = _model_layout(case.layout, case.depth)
    whole = planned_file_size(TensorSpec(name, case.dtype, shape) for name, shape in layout.items())
    share = 0.0 if smoke else min(1.0, room * _ROOM_SHARE / whole)
    return {key: max(1, int(blocks * share)) for key, blocks in case.depth.items()}


def _model_layout(name: str, depth: dict[str, int]) -> Layout:
    kind, settings = LAYOUTS[name]
    config = kind(settings | depth)
    config.set_inference_dtype(torch.float32, None)
    with torch.device("meta"):
        model = config.get_model({}, "", device=torch.device("meta"))
    return {key: tuple(value.shape) for key, value in model.diffusion_model.state_dict().items()}


def _vae_layout(kind: str) -> Layout:
    """Let ComfyUI build the whole VAE from the tensors that tell which one it is."""
    with torch.device("meta"):
        tensors = {name: torch.empty(shape) for name, shape in VAES[kind].items()}
        vae = comfy.sd.VAE(sd=tensors, device=torch.device("cpu"), dtype=torch.float32)
    return {key: tuple(value.shape) for key, value in vae.first_stage_model.state_dict().items()}


def _write(path: Path, layout: Layout, dtype: str) -> None:
    """Write random weights, made where that is quickest: files here are too large for numpy."""
    specs = [TensorSpec(name, dtype, shape) for name, shape in layout.items()]
    with SafetensorsWriter(path, specs, {"format": "pt"}) as writer:
        for spec in specs:
            values = torch.randn(spec.shape, device=mm.get_torch_device()).mul_(0.02).to(_TORCH[dtype])
            writer.write(spec.name, values.reshape(-1).view(torch.uint8).cpu().numpy().tobytes())
        writer.finish({}, overwrite=True)
