"""Which layers keep their shape: ComfyUI reads a model's dimensions from the shapes of some.

A weight of 4 bits is stored with half its columns. Source: ``comfy/model_detection.py`` of ComfyUI 0.33; a
test packs every architecture's layout and asks ComfyUI's detection again.
"""

from __future__ import annotations

import re

from .keep_rules import matches

WIDTH_IS_READ = "ComfyUI reads the model's dimensions from its shape"
# Widths are read from what stands outside of the repeated blocks: inputs, embeddings, heads.
_IN_A_BLOCK = re.compile(r"(^|\.)\w*(blocks?|layers?|refiner)\.\d+\.")
# And from these within them.
_WITHIN = (
    "transformer_blocks.0.attn2.to_k.",
    "transformer.layers.0.self_attn.to_qkv.",
    "transformer.layers.0.to_local_embed.0.",
    "blocks.0.norm1.linear.",
)


def width_is_read(name: str) -> bool:
    """Tell whether the number of columns of this weight may have to be what it is.

    Args:
        name: without the model's prefix.
    """
    return not _IN_A_BLOCK.search(name) or matches(name, _WITHIN)
