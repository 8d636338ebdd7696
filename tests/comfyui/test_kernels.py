"""Our encoders against comfy-kitchen's eager kernels: the same bytes, or how far apart and why."""

from __future__ import annotations

from typing import Any

import pytest
from comfyui.test_inside import run_inside
from managed_models.manager.quantize.formats import FORMATS
from support.comfyui import ComfyUI

pytestmark = pytest.mark.comfyui
SCALED = [name for name, target in FORMATS.items() if target.kind != "cast"]
# The same bytes from every element type; float16 values so small that its arithmetic has no scale aside.
IDENTICAL = ("mxfp8", "nvfp4")


@pytest.fixture(scope="module")
def found(comfyui: ComfyUI, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_inside(comfyui, "kernels", tmp_path_factory.mktemp("kernels"))


def of_format(found: dict[str, Any], name: str) -> dict[str, Any]:
    cases = {case: facts for case, facts in found.items() if case.split()[0] == name}
    assert len(cases) == 3 * 18
    return cases


@pytest.mark.parametrize("name", IDENTICAL)
def test_block_formats_are_the_same_bytes(found: dict[str, Any], name: str) -> None:
    assert not {
        case: facts["own"] for case, facts in of_format(found, name).items() if not facts["own"]["same"]
    }


@pytest.mark.parametrize("name", SCALED)
def test_of_the_same_float32_weights_codes_are_a_step_apart_at_most(found: dict[str, Any], name: str) -> None:
    """They differ where a value lies at the border of two codes: sums and quotients are rounded otherwise."""
    for case, facts in of_format(found, name).items():
        difference = facts["as float32"]
        if name in IDENTICAL and case.split()[1] != "fp32":
            continue  # theirs takes the tensor's scale in the source's element type, and so does ours
        assert difference["steps"] <= 1, case
        assert difference["share"] < 0.001, case
        # A block's scale of w4a8 is itself an 8-bit float, which may be the next one.
        assert difference["scales"] < (0.126 if name == "w4a8" else 2e-6), case


@pytest.mark.parametrize("name", SCALED)
def test_we_err_no_more_than_they_do(found: dict[str, Any], name: str) -> None:
    """From 16-bit weights theirs computes in 16 bits, and ours in 32; luck is worth up to two percent."""
    for case, facts in of_format(found, name).items():
        ours, theirs = facts["errors"]
        assert ours <= theirs * 1.02, case


@pytest.mark.parametrize("name", SCALED)
def test_they_read_what_the_format_defines(found: dict[str, Any], name: str) -> None:
    worst = max(facts["their decoding"] for facts in of_format(found, name).values())
    assert worst < 2e-6
