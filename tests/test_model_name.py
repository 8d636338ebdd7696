"""A model's name as it travels between nodes."""

from __future__ import annotations

import copy
import json

import pytest
from managed_models.manager.library import ModelName


@pytest.mark.parametrize(
    "clone", [copy.copy, copy.deepcopy, lambda name: copy.deepcopy([{"a": (name,)}])[0]["a"][0]]
)
def test_a_copy_keeps_name_and_folder(clone: object) -> None:
    name = ModelName("sub/model.safetensors", "checkpoints")
    twin = clone(name)  # type: ignore[operator]
    assert twin == "sub/model.safetensors"
    assert twin.folder == "checkpoints"


def test_it_is_a_plain_text_to_everybody_else() -> None:
    name = ModelName("model.safetensors", "checkpoints")
    assert json.dumps(name) == '"model.safetensors"'
    assert hash(name) == hash("model.safetensors")
    assert name in ["model.safetensors"]
