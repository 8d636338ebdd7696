"""What the nodes share: inputs that older ComfyUI also accepts, refusals, and results on the node."""

from __future__ import annotations

import dataclasses
import inspect
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from comfy_api.latest import io, ui
from PIL import Image

from ..manager.variants.swap import swap_facts

CATEGORY = "model/managed"
DIFFUSION_FOLDERS = ("diffusion_models", "checkpoints")
# The key of a node's result under which the page finds its report.
REPORT_KEY = "managed_models_report"
MODELS_KEY = "managed_models_files"
# The same for a variant that the page can put in place of the model.
SWAP_KEY = "managed_models_swap"
NONE = "none"


def make_input(kind: type[Any], name: str, **options: Any) -> Any:
    """Return an input, leaving out options (such as ``advanced``) that this ComfyUI does not know."""
    known = inspect.signature(kind.Input.__init__).parameters
    return kind.Input(name, **{key: value for key, value in options.items() if key in known})


def make_schema(**options: Any) -> io.Schema:
    """Return a schema in our category, leaving out fields that this ComfyUI does not know."""
    known = {field.name for field in dataclasses.fields(io.Schema)}
    options["category"] = CATEGORY
    return io.Schema(**{key: value for key, value in options.items() if key in known})


def never_the_same() -> int:
    """Return a fingerprint for a node whose result is never taken from the cache.

    Not NaN, which ComfyUI also takes for that: it would keep loaders behind the node from being looked
    up at all, and so from sharing their models.
    """
    return time.time_ns()


def report_ui(text: str, image: torch.Tensor | None = None) -> dict[str, Any]:
    """Return a node's ``ui`` result: its report, and a picture under it.

    Args:
        image: as ComfyUI has them, ``[1, height, width, 3]``.
    """
    result: dict[str, Any] = {REPORT_KEY: [text]}
    if image is not None:
        result.update(ui.PreviewImage(image).as_dict())
    return result


def swap_ui(variants: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what a node's ``ui`` result says of a better variant that is here; empty without one."""
    facts = swap_facts(variants) if variants else None
    return {SWAP_KEY: [facts]} if facts else {}


def to_image(picture: Image.Image) -> torch.Tensor:
    """Return a picture as ComfyUI's IMAGE: float32 ``[1, height, width, 3]`` from 0 to 1."""
    return torch.from_numpy(np.asarray(picture, np.float32) / 255.0).unsqueeze(0)
