"""How layers are computed: read from what the kernels say, never from the name of a card."""

from __future__ import annotations

from dataclasses import replace

import pytest
from managed_models.manager.forecast.facts import Kernel, KernelStatus
from managed_models.manager.forecast.kernels import PLAIN, Backend, KernelFacts, judge_kernels
from support.machines import LAYER_FORMATS, kernel_facts

NATIVE, EMULATED = KernelStatus.NATIVE, KernelStatus.EMULATED


def judged(facts: KernelFacts) -> dict[str, Kernel]:
    return {kernel.format: kernel for kernel in judge_kernels(facts)}


def test_every_format_has_a_verdict_in_order() -> None:
    assert [kernel.format for kernel in judge_kernels(kernel_facts("12.0"))] == sorted(LAYER_FORMATS)
    assert judge_kernels(KernelFacts({}, {}, "cpu", None)) == ()


@pytest.mark.parametrize(
    ("capability", "native"),
    [
        ("7.0", set()),
        ("7.5", {"int8_tensorwise", "convrot_w4a4"}),
        ("8.6", {"int8_tensorwise", "convrot_w4a4", "asym_w4a8_int8"}),
        ("12.0", set(LAYER_FORMATS)),
    ],
)
def test_what_the_layouts_say_decides(capability: str, native: set[str]) -> None:
    found = judged(kernel_facts(capability))
    assert {name for name, kernel in found.items() if kernel.status is NATIVE} == native
    for name in native - {"float8_e4m3fn", "float8_e5m2"}:
        assert "comfy-kitchen's cuda kernels" in found[name].reason


def test_an_old_cuda_turns_the_fast_kernels_off_and_says_so() -> None:
    found = judged(kernel_facts("12.0", cuda="12.8"))
    for name in ("int8_tensorwise", "nvfp4", "mxfp8"):
        assert found[name].status is EMULATED
        assert "CUDA 12.8" in found[name].reason
        assert "CUDA 13" in found[name].reason
    fp8 = found["float8_e4m3fn"]  # PyTorch itself multiplies it
    assert fp8.status is NATIVE
    assert "CUDA 12.8" in fp8.reason


def test_kernels_that_do_not_run_say_why() -> None:
    facts = kernel_facts("12.0")
    broken = Backend(False, False, "ImportError: no kernels", frozenset())
    kernel = judged(replace(facts, backends={**facts.backends, "cuda": broken}))["int8_tensorwise"]
    assert kernel.status is EMULATED
    assert "ImportError: no kernels" in kernel.reason


def test_another_fast_backend_is_as_good() -> None:
    facts = kernel_facts("8.9", cuda="12.8")
    triton = Backend(True, False, "", frozenset({"int8_linear"}))
    found = judged(replace(facts, backends={**facts.backends, "triton": triton}))
    assert found["int8_tensorwise"].status is NATIVE
    assert "triton" in found["int8_tensorwise"].reason
    assert found["convrot_w4a4"].status is EMULATED


def test_the_plain_fallback_is_never_called_native() -> None:
    plain = {PLAIN: Backend(True, False, "", frozenset({"int8_linear"}))}
    facts = KernelFacts({"int8_tensorwise": True}, plain, "cuda:0", "13.0")
    (kernel,) = judge_kernels(facts)
    assert kernel.status is EMULATED
    assert "no fast kernels" in kernel.reason


def test_a_cpu_has_none_of_it() -> None:
    found = judged(kernel_facts(None, None, "cpu"))
    assert {kernel.reason for kernel in found.values()} == {"the CPU has no arithmetic for it"}


def test_no_reason_says_how_much_slower() -> None:
    """A slow-down is stated only where it was measured, and here none was."""
    for capability in (None, "7.0", "8.9", "12.0"):
        for cuda in (None, "12.8", "13.0"):
            for kernel in judge_kernels(kernel_facts(capability, cuda)):
                assert "slow" not in kernel.reason
                assert "%" not in kernel.reason
