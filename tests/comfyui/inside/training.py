"""Gradients of real models with and without checkpointing, in ComfyUI's own Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from comfy_extras.nodes_train import find_modules_at_depth, patch, unpatch
from managed_models.manager import AdvancedModelManager
from managed_models.manager.comfy_host import ComfyHost
from managed_models.manager.errors import NotAvailable
from managed_models.manager.host import LoadRequest
from managed_models.manager.model import ModelType
from support.gradients import Gradients, gradients, state_of

MODELS = {
    "wan": "tiny_wan21_t2v_bf16.safetensors",
    "flux": "tiny_flux_bf16.safetensors",
}


def main(base: str) -> dict[str, Any]:
    """Return facts by model; the test says what they have to be."""
    manager = AdvancedModelManager(host=ComfyHost())
    found: dict[str, Any] = {}
    for kind, name in MODELS.items():
        path = Path(base) / "models" / "diffusion_models" / name
        parts = manager.host.load(LoadRequest(path, ModelType.DIFFUSION))
        network = parts.model.model.diffusion_model
        before = state_of(network)
        plain = gradients(kind, network)
        changed = manager.enable_gradient_checkpointing(parts.model)
        again = manager.enable_gradient_checkpointing(parts)
        thrifty = gradients(kind, network)
        _train_and_stop(network)
        restored = manager.enable_gradient_checkpointing(parts.model.clone(), enabled=False)
        found[kind] = {
            "changed": changed,
            "changed_again": again,
            "restored": restored,
            "differs": difference(plain, thrifty),
            "kept_bytes": [plain.kept_bytes, thrifty.kept_bytes],
            "as_before": state_of(network) == before,
            "after": difference(plain, gradients(kind, network)),
        }
    try:
        manager.enable_gradient_checkpointing("no model")
    except NotAvailable as error:
        found["refusal"] = str(error)
    return found


def _train_and_stop(network: Any) -> None:
    """Do what TrainLoraNode does on a model whose checkpointing we turned on."""
    blocks = find_modules_at_depth(network, depth=2)
    for block in blocks:
        patch(block)
    for block in blocks:
        unpatch(block)


def difference(one: Gradients, other: Gradients) -> float:
    """Return the largest relative L2 distance of two gradients of one name."""
    assert one.by_name.keys() == other.by_name.keys()
    return max(
        float(torch.dist(one.by_name[name], other.by_name[name]) / one.by_name[name].norm())
        for name in one.by_name
    )
