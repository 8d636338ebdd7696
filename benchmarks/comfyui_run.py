"""Running a real ComfyUI for a benchmark: models in place, a probe that notes reads and sampling."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import requests
from common import ROOT, load_checkout

load_checkout()
sys.path.append(str(ROOT / "scripts"))

from comfyui_server import ComfyUIServer, find_comfyui  # noqa: E402
from managed_models.manager.demo import layouts  # noqa: E402
from managed_models.manager.demo.tiny import write_random_model  # noqa: E402

PROBE = ROOT / "tests" / "comfyui" / "probe"
_SECONDS = 3600  # a step of 14B takes minutes on a CPU


@dataclass
class Run:
    """One ComfyUI process."""

    server: ComfyUIServer

    def outputs(self, prompt: dict[str, Any]) -> dict[str, Any]:
        """Run a prompt and return its outputs by node."""
        answer = requests.post(f"{self.server.url}/prompt", json={"prompt": prompt}, timeout=60).json()
        assert not answer.get("node_errors"), answer
        entry = self._wait(answer["prompt_id"])
        assert entry["status"]["status_str"] == "success", entry["status"]["messages"]
        return dict(entry["outputs"])

    def prompt(self, prompt: dict[str, Any]) -> float:
        """Run a prompt and return the seconds from queueing it to the start of sampling (0: it did not)."""
        start = time.time()
        self.outputs(prompt)
        began = [note["time"] for note in self._notes() if note["kind"] == "sample" and note["time"] >= start]
        return began[0] - start if began else 0.0

    def reads(self) -> Counter[str]:
        """Return how often each file was read, by name."""
        return Counter(Path(note["path"]).name for note in self._notes() if note["kind"] == "read")

    def rss(self) -> int:
        return int(psutil.Process(self.server.pid).memory_info().rss)

    def cpu_seconds(self) -> float:
        times = psutil.Process(self.server.pid).cpu_times()
        return float(times.user + times.system)

    def get(self, path: str) -> Any:
        return requests.get(self.server.url + path, timeout=60).json()

    def free(self) -> None:
        """Press "Free model and node cache", and wait until it has happened."""
        body = {"unload_models": True, "free_memory": True}
        requests.post(f"{self.server.url}/free", json=body, timeout=60)
        time.sleep(3)

    def _wait(self, prompt_id: str) -> dict[str, Any]:
        deadline = time.monotonic() + _SECONDS
        while time.monotonic() < deadline:
            found = requests.get(f"{self.server.url}/history/{prompt_id}", timeout=60).json()
            if prompt_id in found:
                return dict(found[prompt_id])
            time.sleep(0.02)
        raise TimeoutError(f"the prompt did not end within {_SECONDS} s")

    def _notes(self) -> list[dict[str, Any]]:
        log = self.server.base / "probe.jsonl"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


@contextmanager
def comfyui(models: Path, arguments: list[str], extension: bool = True, **settings: object) -> Iterator[Run]:
    """Start a ComfyUI on the CPU over a temporary folder, with these models, with or without us.

    Args:
        settings: of Managed Models, as in ComfyUI's settings dialog.
    """
    found = find_comfyui()
    if found is None:
        raise SystemExit("No ComfyUI was found; nothing was measured.")
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        (base / "models").symlink_to(models, target_is_directory=True)
        server = ComfyUIServer(
            found,
            base,
            ["--cpu", *arguments],
            {
                "MANAGED_MODELS_PROBE": str(base / "probe.jsonl"),
                "MANAGED_MODELS_DB": str(base / "registry.sqlite"),
            },
        )
        server.install_extension(PROBE, "probe")
        server.write_settings(**{f"managed_models.{name}": value for name, value in settings.items()})
        if extension:
            server.install_extension(ROOT)
        with server:
            yield Run(server)


def wan_14b(gigabytes: float) -> layouts.Layout:
    """The widths of Wan 14B, with as many blocks as make about this size."""
    return layouts.wan21_t2v(width=5120, ffn=13824, layers=max(1, round((gigabytes - 0.35) / 0.65)))


def make_wan_models(folder: Path, names: list[str], layout: layouts.Layout) -> None:
    """Write models of one layout with different weights."""
    target = folder / "diffusion_models"
    target.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names):
        write_random_model(target / name, layout, seed)


def stock_loader(name: str) -> dict[str, Any]:
    return {"class_type": "UNETLoader", "inputs": {"unet_name": name, "weight_dtype": "default"}}


def managed_loader(name: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": "LoadManagedModel", "inputs": {"model_name": name, **inputs}}


def conditioning(width: int) -> dict[str, Any]:
    """Zeros for a prompt, from a node that stock ComfyUI has too: the probe's."""
    return {"class_type": "ProbeConditioning", "inputs": {"width": width}}


def sample_one_step(loader: dict[str, Any], seed: int = 0, width: int = 4096) -> dict[str, Any]:
    """A workflow of one model and one small step."""
    return {
        "model": loader,
        "text": conditioning(width),
        "latent": {
            "class_type": "EmptyHunyuanLatentVideo",
            "inputs": {"width": 64, "height": 64, "length": 1, "batch_size": 1},
        },
        "sampler": {
            "class_type": "KSampler",
            "inputs": {
                "model": ["model", 0],
                "seed": seed,
                "steps": 1,
                "cfg": 1.0,
                "sampler_name": "euler",
                "scheduler": "simple",
                "positive": ["text", 0],
                "negative": ["text", 0],
                "latent_image": ["latent", 0],
                "denoise": 1.0,
            },
        },
        "save": {
            "class_type": "SaveLatent",
            "inputs": {"samples": ["sampler", 0], "filename_prefix": "bench"},
        },
    }
