"""One training step of a tiny model in ComfyUI's Python: its gradients, and what it kept for them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import torch


@dataclass(frozen=True)
class Gradients:
    """The gradients of one step by name, and the bytes that the step kept for computing them."""

    by_name: dict[str, Any]
    kept_bytes: int


def gradients(kind: str, network: Any, size: int = 16) -> Gradients:
    """Go forward and back once, the same way each time, counting what is kept in between.

    Args:
        kind: ``wan`` or ``flux``.
        size: width and height of the latent.
    """
    kept = _Kept()
    with kept.watching(network):
        step(kind, network, size, kept.keep)
    found = {name: weight.grad.clone() for name, weight in _matrices(network).items()}
    network.zero_grad()
    return Gradients(found, kept.bytes)


def step(kind: str, network: Any, size: int, keep: Callable[[Any], Any] = lambda tensor: tensor) -> None:
    """Go forward and back once, and leave the gradients on the weights.

    Args:
        keep: called with each tensor that autograd keeps; what it returns is kept instead.
    """
    comfy.model_management.in_training = True  # ComfyUI's fast rotation has no gradient
    torch.manual_seed(0)
    network.requires_grad_(False)
    network.zero_grad()
    for weight in _matrices(network).values():
        weight.requires_grad_(True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = _INPUTS[kind](network, size).square().mean()
    loss.backward()
    network.requires_grad_(False)


def state_of(network: Any) -> list[tuple[str, list[str], Any]]:
    """Return what hangs on each module, and which function carries it out."""
    return [(name, sorted(vars(module)), module.forward.__func__) for name, module in network.named_modules()]


class _Kept:
    """Counts what is kept: by autograd, and the inputs of blocks that are computed again. Not weights."""

    def __init__(self) -> None:
        self._storages: dict[int, int] = {}

    @property
    def bytes(self) -> int:
        return sum(self._storages.values())

    def keep(self, tensor: Any) -> Any:
        """Count a tensor and return a copy: PyTorch does not check here whether Flux changes it later."""
        if isinstance(tensor, torch.nn.Parameter):
            return tensor
        self._count(tensor)
        return tensor.clone()

    def watching(self, network: Any) -> ExitStack:
        hooks = ExitStack()
        for block in network.modules():
            if "org_forward" in vars(block):
                hooks.callback(block.register_forward_pre_hook(self._enter, with_kwargs=True).remove)
        return hooks

    def _enter(self, block: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for value in (*args, *kwargs.values()):
            if isinstance(value, torch.Tensor):
                self._count(value)

    def _count(self, tensor: Any) -> None:
        storage = tensor.untyped_storage()
        self._storages[storage.data_ptr()] = storage.nbytes()


def _matrices(network: Any) -> dict[str, Any]:
    return {name: weight for name, weight in network.named_parameters() if weight.ndim == 2}


def _wan(network: Any, size: int) -> Any:
    latent = torch.randn(1, 16, 1, size, size)
    return network(latent, torch.tensor([500.0]), torch.randn(1, 8, 4096))


def _flux(network: Any, size: int) -> Any:
    latent = torch.randn(1, 16, size, size)
    text, pooled, guidance = torch.randn(1, 8, 64), torch.randn(1, 32), torch.tensor([3.5])
    return network(latent, torch.tensor([0.5]), text, pooled, guidance)


_INPUTS: dict[str, Callable[[Any, int], Any]] = {"wan": _wan, "flux": _flux}
