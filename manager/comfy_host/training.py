"""Gradient checkpointing with what ComfyUI's own TrainLoraNode has for it, for any model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from ..errors import NotAvailable

# The model itself is at depth 1, and would be computed whole for the gradients, which saves nothing.
_BLOCKS_DEPTH = 2
# A module that has it was changed here; the value is the ``forward`` that its instance had before.
_MARK = "_managed_models_forward"


def checkpoint_gradients(model: Any, enabled: bool) -> int:
    """Turn it on or off for the blocks of a MODEL; how many were changed.

    Raises:
        NotAvailable: this is no MODEL, or an older ComfyUI without it.
    """
    network = getattr(getattr(model, "model", None), "diffusion_model", None)
    if network is None:
        raise NotAvailable(
            f"Gradient checkpointing needs a MODEL, and this is a {type(model).__name__}.",
            "Give the MODEL of a loader, or what load_model returned.",
        )
    return _patch(network) if enabled else _restore(network)


def _patch(network: Any) -> int:
    try:
        from comfy_extras.nodes_train import find_modules_at_depth, patch
    except ImportError as error:
        raise NotAvailable(
            "This ComfyUI has no gradient checkpointing of single blocks.", "Update ComfyUI."
        ) from error
    blocks = [block for block in find_modules_at_depth(network, _BLOCKS_DEPTH) if _MARK not in vars(block)]
    for block in blocks:
        own = vars(block).get("forward")
        block.forward = _undisturbed(block.forward)
        patch(block)
        setattr(block, _MARK, own)
    return len(blocks)


def _restore(network: Any) -> int:
    """Undo :func:`_patch`: also what its own undoing leaves, a ``forward`` on each instance."""
    blocks = [block for block in network.modules() if _MARK in vars(block)]
    for block in blocks:
        state = vars(block)
        own = state.pop(_MARK)
        for name in ("forward", "org_forward"):
            state.pop(name, None)
        if own is not None:
            block.forward = own
    return len(blocks)


def _undisturbed(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``forward`` such that computing it again gives the same, though it changes tensors in place.

    Flux's blocks add to their inputs and to what autograd keeps. Checkpointing turns off the check
    with which PyTorch would say so, and the gradients would be wrong.
    """

    def computed(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        with _FreshStorage():
            return forward(*map(_copy, args), **{name: _copy(value) for name, value in kwargs.items()})

    return computed


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, torch.Tensor) else value


class _FreshStorage(TorchFunctionMode):
    """Moves a tensor to memory of its own before it is changed, away from what was kept of it."""

    _CHANGING = frozenset(
        getattr(torch.Tensor, name) for name in ("add_", "sub_", "mul_", "div_", "addcmul_", "clamp_")
    )

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        # A view has no memory of its own: what it changes is left to change.
        if func in self._CHANGING and not args[0]._is_view():
            args[0].data = args[0].data.clone()
        return func(*args, **(kwargs or {}))
