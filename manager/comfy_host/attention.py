"""How a model computes attention: the backends that this ComfyUI really has, one model at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import comfy.ldm.modules.attention

from ..errors import NotAvailable
from ..host import LoadedParts


def names() -> Sequence[str]:
    """Return the backends that are installed and registered; none where ComfyUI has no such list."""
    return sorted(_registered())


def with_attention(parts: LoadedParts, name: str) -> LoadedParts:
    """Return a clone of the model that computes attention with this backend.

    Raises:
        NotAvailable: there is no such backend, or no diffusion model in ``parts``.
    """
    function = _registered().get(name)
    if function is None or parts.model is None:
        listed = ", ".join(names()) or "none"
        raise NotAvailable(f"There is no attention backend {name!r} here.", f"This ComfyUI has {listed}.")
    model = parts.model.clone()
    if hasattr(model, "set_model_optimized_attention"):  # since 0.33
        model.set_model_optimized_attention(function)
    else:
        model.model_options.setdefault("transformer_options", {})["optimized_attention_override"] = (
            lambda _, *args, **kwargs: function(*args, **kwargs)
        )
    return dataclasses.replace(parts, model=model)


def _registered() -> Mapping[str, Callable[..., Any]]:
    return getattr(comfy.ldm.modules.attention, "REGISTERED_ATTENTION_FUNCTIONS", {})
