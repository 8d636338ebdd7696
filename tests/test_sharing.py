"""Whether ComfyUI's own loaders share the pool's models."""

from __future__ import annotations

import pytest
from managed_models.manager.sharing import AUTO, NOT_HERE, OFF, ON, SHARE_STOCK_LOADERS, decide_sharing


@pytest.mark.parametrize(
    ("setting", "device", "has_api", "cache_none", "active", "words"),
    [
        (AUTO, "cpu", True, False, True, "measured to hold on a CPU"),
        (AUTO, "cuda", True, False, False, "not measured on cuda yet. Set it to on"),
        (AUTO, "mps", True, False, False, "not measured on mps yet"),
        (ON, "cuda", True, False, True, "set to on"),
        (OFF, "cpu", True, False, False, "set to off"),
        (ON, "cpu", False, False, False, "no cache-provider API"),
        (ON, "cpu", True, True, False, "--cache-none"),
    ],
)
def test_the_decision_and_its_words(
    setting: str, device: str, has_api: bool, cache_none: bool, active: bool, words: str
) -> None:
    found = decide_sharing(setting, device, has_api, cache_none)
    assert found.active is active
    assert words in found.words
    assert found.words.endswith(".")


@pytest.mark.parametrize("setting", SHARE_STOCK_LOADERS)
@pytest.mark.parametrize("device", ["cpu", "cuda", "rocm", "xpu", "mps"])
def test_it_is_never_active_where_it_cannot_be(setting: str, device: str) -> None:
    assert not decide_sharing(setting, device, False, False).active
    assert not decide_sharing(setting, device, True, True).active


def test_outside_comfyui_there_is_nothing_to_share_with() -> None:
    assert not NOT_HERE.active
