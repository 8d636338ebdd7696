"""What the rules for layers to keep find in the real layouts, as ComfyUI's own classes have them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from managed_models.manager.quantize.keep_rules import keep_rule, matches

from inside.architectures import LAYOUTS


def main(folder: str) -> dict[str, Any]:
    """Return, for each of our ids, its rule, the part of linear weights that it keeps, and idle patterns."""
    assert Path(folder).is_dir()
    return {name: _judge(name) for name in LAYOUTS}


def _judge(name: str) -> dict[str, Any]:
    cls, unet_config = LAYOUTS[name]
    config = cls(dict(unet_config))
    config.set_inference_dtype(torch.float32, None)
    with torch.device("meta"):
        model = config.get_model({}, "", device=torch.device("meta"))
    shapes = {key: tuple(value.shape) for key, value in model.diffusion_model.state_dict().items()}
    rule = keep_rule(name)
    linear = {key: shape for key, shape in shapes.items() if key.endswith(".weight") and len(shape) == 2}
    kept = [key for key in linear if rule.keeps(key)]
    return {
        "rule": rule.name,
        "known": rule.known,
        "kept": sum(math.prod(linear[key]) for key in kept) / sum(map(math.prod, linear.values())),
        "layers": [key.removesuffix(".weight") for key in kept],
        "used": [p for p in rule.patterns if any(matches(key, [p]) for key in shapes)],
    }
