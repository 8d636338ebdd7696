"""Verdicts: what a model needs against what a machine has."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from managed_models.manager import (
    ModelCompatibilityChecker,
    ModelInfo,
    ModelType,
    QuantizationType,
)
from managed_models.manager.compatibility import (
    CompatibilityReport,
    Finding,
    Severity,
    Subject,
    assess,
)
from managed_models.manager.demo import layouts
from managed_models.manager.demo.tiny import write_random_model
from managed_models.manager.errors import FileError, InvalidHeader, ManagedModelsError, ModelNotFound
from managed_models.manager.forecast.facts import Kernel, KernelStatus
from managed_models.manager.host import Gpu, SystemSnapshot
from managed_models.manager.identify import ModelIdentity
from managed_models.manager.local_host import LocalHost
from managed_models.manager.report import render_check
from managed_models.manager.units import GB
from support.files import shapes_file
from support.machines import APPLE, CPU_ONLY, INTEL, ROCM, SMALL_WINDOWS, kernels, nvidia

FP8 = QuantizationType.FP8_E4M3
BLOCKER, SLOW, NOTE = Severity.BLOCKER, Severity.SLOW, Severity.NOTE


def make_info(**facts: Any) -> ModelInfo:
    return ModelInfo("wan", ModelType.DIFFUSION, Path("wan.safetensors"), **facts)


def make_identity(**facts: Any) -> ModelIdentity:
    known: dict[str, Any] = {
        "role": ModelType.DIFFUSION,
        "architecture": "wan-t2v",
        "title": "Wan 2.1",
        "detected_by": "our table",
        "prefix": "",
        "parts": (),
        "parameters": 14_000_000_000,
        "weight_bytes": 4 * GB,
        "tensor_count": 1095,
        "dtypes": {"bf16": 14_000_000_000},
        "precision": "bf16",
        "quantization": QuantizationType.BF16,
        "quantized_layers": 0,
    }
    return ModelIdentity(**(known | facts))


def judge(
    system: SystemSnapshot,
    info: ModelInfo | None = None,
    identity: ModelIdentity | None = None,
    expected: ModelType | None = None,
    error: ManagedModelsError | None = None,
) -> CompatibilityReport:
    return assess(Subject("wan", info, expected, identity, 28 * GB if identity else None, error), system)


def found(report: CompatibilityReport) -> dict[str, Severity]:
    """Return code -> severity, each code once."""
    codes = {finding.code: finding.severity for finding in report.findings}
    assert len(codes) == len(report.findings)
    return codes


class Machine(LocalHost):
    """The bare machine, but with the memory and cards of another."""

    def __init__(self, snapshot: SystemSnapshot) -> None:
        super().__init__()
        self._snapshot = snapshot

    def system(self) -> SystemSnapshot:
        return self._snapshot


# Declared facts


def test_a_model_that_fits_has_no_findings() -> None:
    info = make_info(min_vram_gb=12.0, min_ram_gb=16.0, min_torch_version="2.4", quantization=FP8)
    report = judge(nvidia(23.6, "8.9"), info, make_identity())
    assert (report.compatible, report.findings, report.issues) == (True, (), [])


@pytest.mark.parametrize(
    ("system", "needed_gb", "blocked"),
    [
        (CPU_ONLY, 1.0, True),
        (nvidia(24.0), 24.0, False),
        (nvidia(11.6), 12.0, False),  # what a "12 GB" card reports
        (nvidia(11.05), 12.0, False),  # 7.9 % missing
        (nvidia(11.03), 12.0, True),  # 8.1 % missing
        (nvidia(7.6), 12.0, True),
        (nvidia(10.0, cards=2), 16.0, True),  # cards do not add up
        (SMALL_WINDOWS, 8.0, False),
        (SMALL_WINDOWS, 12.0, True),
        (APPLE, 24.0, False),
        (ROCM, 24.0, False),
        (ROCM, 32.0, True),
    ],
)
def test_declared_vram_is_compared_with_the_total_of_the_largest_card(
    system: SystemSnapshot, needed_gb: float, blocked: bool
) -> None:
    idle = replace(system, gpus=tuple(replace(gpu, free_bytes=gpu.total_bytes) for gpu in system.gpus))
    report = judge(idle, make_info(min_vram_gb=needed_gb))
    assert found(report) == ({"vram": BLOCKER} if blocked else {})
    assert report.compatible is not blocked


def test_the_largest_of_several_cards_decides() -> None:
    small = nvidia(8.0).gpus[0]
    large = replace(nvidia(24.0).gpus[0], name="NVIDIA RTX 4090")
    report = judge(replace(nvidia(), gpus=(small, large, small)), make_info(min_vram_gb=30.0))
    assert report.findings[0].found == "24.0 GB"
    assert "NVIDIA RTX 4090 has 24.0 GB" in report.findings[0].message


def test_too_little_vram_says_both_figures_with_their_units() -> None:
    (finding,) = judge(nvidia(7.6), make_info(min_vram_gb=12.0)).findings
    assert (finding.needed, finding.found) == ("12.0 GB", "7.6 GB")
    assert finding.message == "It needs 12.0 GB of VRAM, and NVIDIA GeForce has 7.6 GB."
    assert finding.remedy


def test_busy_vram_is_a_note_with_a_remedy() -> None:
    report = judge(nvidia(24.0, free_gb=3.0), make_info(min_vram_gb=12.0))
    assert found(report) == {"vram_busy": NOTE}
    assert report.compatible
    assert report.findings[0].found == "3.0 GB free"
    assert "Unload" in report.findings[0].remedy


def test_unknown_free_vram_says_nothing() -> None:
    card = replace(nvidia(24.0).gpus[0], free_bytes=None)
    assert judge(replace(nvidia(), gpus=(card,)), make_info(min_vram_gb=12.0)).findings == ()


@pytest.mark.parametrize(
    ("ram_gb", "available_gb", "codes"),
    [
        (64.0, 60.0, {}),
        (15.8, 15.0, {}),  # what a "16 GB" machine reports
        (14.73, 14.73, {}),  # 7.9 % missing
        (14.71, 14.71, {"ram": BLOCKER}),  # 8.1 % missing
        (8.0, 8.0, {"ram": BLOCKER}),
        (64.0, 2.0, {"ram_busy": NOTE}),
    ],
)
def test_declared_ram_is_compared_with_the_total(
    ram_gb: float, available_gb: float, codes: dict[str, Severity]
) -> None:
    system = replace(CPU_ONLY, total_ram_bytes=int(ram_gb * GB), available_ram_bytes=int(available_gb * GB))
    report = judge(system, make_info(min_ram_gb=16.0))
    assert found(report) == codes
    assert report.compatible is (BLOCKER not in codes.values())


@pytest.mark.parametrize(
    ("frameworks", "blocked"),
    [
        (["pytorch"], False),
        (["PyTorch"], False),
        (["torch"], False),
        (["ComfyUI"], False),
        (["tensorflow", "pytorch"], False),
        ([], False),
        (["tensorflow"], True),
        (["onnx", "coreml"], True),
    ],
)
def test_a_model_for_another_framework_is_blocked(frameworks: list[str], blocked: bool) -> None:
    report = judge(CPU_ONLY, make_info(compatible_frameworks=frameworks))
    assert found(report) == ({"framework": BLOCKER} if blocked else {})
    if blocked:
        assert report.findings[0].needed == ", ".join(frameworks)


@pytest.mark.parametrize(
    ("installed", "needed", "codes"),
    [
        ("2.4.0", None, {}),
        ("2.4.0", "2.4.0", {}),
        ("2.11.0", "2.4.0", {}),  # not compared as text
        ("2.4.0+cu118", "2.4.0", {}),
        ("2.4.1+rocm6.2", "2.4", {}),
        ("2.4.0", "2.4.0+cu121", {}),
        ("2.3.1", "2.4.0", {"torch_version": BLOCKER}),
        ("2.3.1+cu118", "2.4.0", {"torch_version": BLOCKER}),
        ("1.13.1", "2.4.0", {"torch_version": BLOCKER}),
        ("2.4.0", "the newest", {"torch_version_unreadable": NOTE}),
        (None, "2.4.0", {"torch_unknown": NOTE}),
        (None, None, {}),
    ],
)
def test_the_minimum_torch_version(
    installed: str | None, needed: str | None, codes: dict[str, Severity]
) -> None:
    report = judge(replace(CPU_ONLY, torch_version=installed), make_info(min_torch_version=needed))
    assert found(report) == codes


def test_an_old_torch_says_what_is_installed_and_what_is_needed() -> None:
    report = judge(replace(CPU_ONLY, torch_version="2.3.1+cu118"), make_info(min_torch_version="2.4.0"))
    (finding,) = report.findings
    assert (finding.needed, finding.found) == ("2.4.0", "2.3.1+cu118")


@pytest.mark.parametrize("spelling", ["ComfyUI-GGUF", "comfyui_gguf", "ComfyUI GGUF"])
def test_an_installed_extension_is_found_in_any_spelling(spelling: str) -> None:
    system = replace(CPU_ONLY, extensions=("ComfyUI-Manager", "ComfyUI-GGUF"))
    assert judge(system, make_info(required_extensions=[spelling])).findings == ()


def test_every_missing_extension_is_a_blocker_of_its_own() -> None:
    system = replace(CPU_ONLY, extensions=("ComfyUI-GGUF",))
    report = judge(system, make_info(required_extensions=["ComfyUI-GGUF", "One", "Two"]))
    assert [(f.code, f.severity, f.needed) for f in report.findings] == [
        ("extension", BLOCKER, "One"),
        ("extension", BLOCKER, "Two"),
    ]


def test_extensions_are_a_note_where_comfyui_is_unknown() -> None:
    system = replace(CPU_ONLY, knows_comfyui=False)
    report = judge(system, make_info(required_extensions=["ComfyUI-GGUF"]))
    assert found(report) == {"extension_unknown": NOTE}
    assert report.compatible


# Number formats

NATIVE = [
    (FP8, "8.9", "9.0", "8.6"),
    (QuantizationType.FP8_E5M2, "8.9", "12.0", "7.5"),
    (QuantizationType.INT8, "7.5", "8.9", "7.0"),
    (QuantizationType.INT8_CONVROT, "7.5", "10.0", "6.1"),
    (QuantizationType.MXFP8, "10.0", "12.0", "9.0"),
    (QuantizationType.NVFP4, "10.0", "12.0", "8.9"),
]


@pytest.mark.parametrize(("kind", "first", "newer", "older"), NATIVE)
def test_a_format_is_emulated_below_its_compute_capability(
    kind: QuantizationType, first: str, newer: str, older: str
) -> None:
    identity = make_identity(quantization=kind, quantization_layout="comfy_quant")
    assert judge(nvidia(24.0, first), identity=identity).findings == ()
    assert judge(nvidia(24.0, newer), identity=identity).findings == ()
    report = judge(nvidia(24.0, older), identity=identity)
    assert found(report) == {"emulated": NOTE}
    assert report.compatible
    assert report.findings[0].needed == f"{kind.value} kernels"
    assert report.findings[0].found == "this GPU (cuda:0) has no arithmetic for it"


@pytest.mark.parametrize(
    ("system", "words"),
    [
        (CPU_ONLY, "the CPU has no arithmetic for it"),
        (APPLE, "this GPU (mps) has no arithmetic for it"),
        (ROCM, "this GPU (cuda:0) has no arithmetic for it"),
        (INTEL, "this GPU (xpu:0) has no arithmetic for it"),
        (SMALL_WINDOWS, "this GPU (cuda:0) has no arithmetic for it"),
    ],
)
@pytest.mark.parametrize("kind", [FP8, QuantizationType.NVFP4])
def test_quantized_weights_run_emulated_where_there_is_no_such_card(
    system: SystemSnapshot, words: str, kind: QuantizationType
) -> None:
    report = judge(system, identity=make_identity(quantization=kind, quantization_layout="comfy_quant"))
    assert found(report) == {"emulated": NOTE}
    assert report.compatible
    assert report.findings[0].found == words
    assert words in report.findings[0].message


def test_the_kernels_decide_and_not_the_name_of_the_card() -> None:
    identity = make_identity(quantization=QuantizationType.INT8, quantization_layout="comfy_quant")
    system = replace(nvidia(24.0, "12.0"), kernels=kernels("12.0", cuda="12.8"))
    report = judge(system, identity=identity)
    assert found(report) == {"emulated": NOTE}
    assert "CUDA 12.8" in report.findings[0].message
    assert "CUDA 13" in report.findings[0].message


@pytest.mark.parametrize(("knows", "words"), [(True, "this ComfyUI does not say"), (False, "host unknown")])
@pytest.mark.parametrize("capability", ["6.1", "8.9", "12.0"])
def test_nothing_is_guessed_from_the_card(knows: bool, words: str, capability: str) -> None:
    system = replace(nvidia(24.0, capability), knows_comfyui=knows, kernels=None)
    report = judge(system, identity=make_identity(quantization=FP8, quantization_layout="comfy_quant"))
    assert found(report) == {"kernel_unknown": NOTE}
    assert words in report.findings[0].message


def test_a_format_that_nothing_computes_is_blocked() -> None:
    system = replace(nvidia(), kernels=(Kernel("nvfp4", KernelStatus.UNSUPPORTED, "it was removed"),))
    report = judge(system, identity=make_identity(quantization=QuantizationType.NVFP4))
    assert found(report) == {"format_unsupported": BLOCKER}
    assert "it was removed" in report.findings[0].message


@pytest.mark.parametrize("kind", [QuantizationType.NONE, QuantizationType.BF16, QuantizationType.FP16])
def test_plain_weights_need_no_special_arithmetic(kind: QuantizationType) -> None:
    assert judge(SMALL_WINDOWS, identity=make_identity(quantization=kind)).findings == ()


@pytest.mark.parametrize("kind", [FP8, QuantizationType.FP8_E5M2, QuantizationType.MXFP8])
@pytest.mark.parametrize("torch", ["2.0.1", "1.13.1+cu117"])
def test_fp8_weights_are_blocked_by_a_torch_without_fp8(kind: QuantizationType, torch: str) -> None:
    report = judge(
        replace(nvidia(24.0, "12.0"), torch_version=torch), identity=make_identity(quantization=kind)
    )
    assert found(report) == {"torch_version": BLOCKER}
    assert report.findings[0].found == torch


def test_int8_weights_do_not_ask_for_a_torch_with_fp8() -> None:
    system = replace(nvidia(24.0, "8.6"), torch_version="2.0.1")
    assert judge(system, identity=make_identity(quantization=QuantizationType.INT8)).findings == ()


@pytest.mark.parametrize(
    ("kind", "known", "blocked"),
    [
        (FP8, None, False),  # nobody knows
        (FP8, [], True),
        (FP8, ["float8_e5m2", "nvfp4"], True),
        (FP8, ["float8_e4m3fn"], False),
        (QuantizationType.INT8, ["int8_tensorwise"], False),
        (QuantizationType.INT8_CONVROT, ["int8_tensorwise"], False),  # the same layers, rotated
        (QuantizationType.INT8_CONVROT, ["float8_e4m3fn"], True),
        (QuantizationType.NVFP4, ["float8_e4m3fn"], True),
    ],
)
def test_marked_layers_that_this_comfyui_does_not_know_are_blocked(
    kind: QuantizationType, known: list[str] | None, blocked: bool
) -> None:
    system = replace(nvidia(24.0, "12.0"), layer_formats=None if known is None else frozenset(known))
    report = judge(system, identity=make_identity(quantization=kind, quantization_layout="comfy_quant"))
    assert found(report) == ({"format_unsupported": BLOCKER} if blocked else {})
    if blocked:
        assert report.findings[0].found == (", ".join(sorted(known or ())) or "none")


def test_one_unknown_type_among_the_layers_is_enough() -> None:
    mixed = make_identity(
        quantization=QuantizationType.NVFP4,
        quantization_layout="comfy_quant",
        layer_types=(QuantizationType.NVFP4, QuantizationType.FP8_E4M3, QuantizationType.INT8_CONVROT),
    )
    old = replace(nvidia(24.0, "12.0"), layer_formats=frozenset({"nvfp4", "float8_e4m3fn"}))
    report = judge(old, identity=mixed)
    assert found(report) == {"format_unsupported": BLOCKER}
    assert "int8_convrot layers: loading it fails" in report.findings[0].message
    new = replace(old, layer_formats=frozenset({"nvfp4", "float8_e4m3fn", "int8_tensorwise"}))
    assert "format_unsupported" not in found(judge(new, identity=mixed))


@pytest.mark.parametrize(("layout", "codes"), [("scaled_fp8", {}), ("", {"emulated": NOTE})])
def test_the_older_marker_and_plain_fp8_load_in_every_comfyui(layout: str, codes: dict[str, Any]) -> None:
    system = replace(nvidia(24.0, "12.0"), layer_formats=frozenset())
    report = judge(system, identity=make_identity(quantization=FP8, quantization_layout=layout))
    assert found(report) == codes  # plain fp8 is widened even where the card has fp8
    assert report.compatible


def test_the_declared_format_counts_while_there_is_no_file() -> None:
    assert found(judge(CPU_ONLY, make_info(quantization=FP8))) == {"emulated": NOTE}
    assert judge(CPU_ONLY, make_info(quantization=FP8), make_identity()).findings == ()  # the file knows


def test_a_gguf_model_is_told_which_extension_it_needs() -> None:
    report = judge(CPU_ONLY, make_info(quantization=QuantizationType.GGUF))
    assert found(report) == {"gguf": BLOCKER}
    assert "ComfyUI-GGUF" in report.findings[0].remedy


# The file


def test_an_unrecognised_file_is_blocked_and_shows_what_it_holds() -> None:
    identity = make_identity(
        role=ModelType.OTHER, architecture=None, title="unknown", tensor_count=2, seen=("alpha", "beta")
    )
    report = judge(CPU_ONLY, identity=identity, expected=ModelType.DIFFUSION)
    assert found(report) == {"unknown": BLOCKER}
    assert "2 tensors, such as alpha, beta" in report.findings[0].message


@pytest.mark.parametrize(
    ("role", "title", "expected", "node"),
    [
        (ModelType.LORA, "LoRA", ModelType.DIFFUSION, "Load LoRA"),
        (ModelType.VAE, "VAE", ModelType.CHECKPOINT, "Load VAE"),
        (ModelType.TEXT_ENCODER, "text encoder", ModelType.DIFFUSION, "Load CLIP"),
        (ModelType.CONTROLNET, "ControlNet", ModelType.DIFFUSION, "Load ControlNet Model"),
    ],
)
def test_a_file_of_another_role_is_told_its_loader(
    role: ModelType, title: str, expected: ModelType, node: str
) -> None:
    report = judge(CPU_ONLY, identity=make_identity(role=role, title=title), expected=expected)
    assert found(report) == {"wrong_role": BLOCKER}
    assert f"This file is a {title}" in report.findings[0].message
    assert repr(node) in report.findings[0].remedy


def test_a_diffusion_model_where_another_role_is_expected() -> None:
    (finding,) = judge(CPU_ONLY, identity=make_identity(), expected=ModelType.VAE).findings
    assert (finding.code, finding.needed, finding.found) == ("wrong_role", "VAE", "diffusion model")
    assert finding.remedy == "Choose another file."


@pytest.mark.parametrize("role", [ModelType.DIFFUSION, ModelType.CHECKPOINT])
@pytest.mark.parametrize("expected", [ModelType.DIFFUSION, ModelType.CHECKPOINT, ModelType.OTHER, None])
def test_diffusion_models_and_checkpoints_stand_for_each_other(
    role: ModelType, expected: ModelType | None
) -> None:
    assert judge(CPU_ONLY, identity=make_identity(role=role), expected=expected).findings == ()


@pytest.mark.parametrize("error", [InvalidHeader("Broken.", "Get it again."), FileError("Locked.")])
def test_a_file_that_cannot_be_read_is_blocked_with_its_own_code(error: ManagedModelsError) -> None:
    report = judge(CPU_ONLY, error=error)
    assert found(report) == {error.code: BLOCKER}
    assert report.issues == [str(error)]
    assert report.to_dict()["file"] == "broken"


def test_an_absent_file_is_no_finding() -> None:
    report = judge(nvidia(), make_info(min_vram_gb=12.0))
    assert (report.compatible, report.findings) == (True, ())
    assert report.to_dict()["file"] == "absent"


@pytest.mark.parametrize(
    ("system", "weights_gb", "codes"),
    [
        (nvidia(24.0, ram_gb=64.0), 20, {}),
        (nvidia(24.0, ram_gb=64.0), 30, {"offloaded": SLOW}),
        (nvidia(24.0, ram_gb=64.0), 89, {"larger_than_memory": SLOW}),
        (nvidia(24.0, ram_gb=64.0, cards=4), 89, {"larger_than_memory": SLOW}),  # one card works
        (CPU_ONLY, 20, {}),
        (CPU_ONLY, 24, {"larger_than_memory": SLOW}),
        (SMALL_WINDOWS, 14, {"offloaded": SLOW}),
        (SMALL_WINDOWS, 28, {"larger_than_memory": SLOW}),
    ],
)
def test_weights_against_all_memory(
    system: SystemSnapshot, weights_gb: int, codes: dict[str, Severity]
) -> None:
    report = judge(system, identity=make_identity(weight_bytes=weights_gb * GB))
    assert found(report) == codes
    assert report.compatible


def test_the_memory_of_a_mac_is_shared_and_counts_once() -> None:
    report = judge(APPLE, identity=make_identity(weight_bytes=40 * GB))
    assert found(report) == {"larger_than_memory": SLOW}
    assert report.findings[0].found == "32.0 GB"


def test_a_lora_is_not_weighed_against_memory() -> None:
    identity = make_identity(role=ModelType.LORA, title="LoRA", weight_bytes=500 * GB)
    assert judge(CPU_ONLY, identity=identity, expected=ModelType.LORA).findings == ()


# The report


def test_issues_come_blockers_first_then_what_is_slow_then_notes() -> None:
    system = nvidia(8.0, "7.5", free_gb=8.0)
    info = make_info(min_ram_gb=64.0, compatible_frameworks=["onnx"], min_torch_version="newest")
    identity = make_identity(quantization=FP8, weight_bytes=10 * GB)
    report = judge(system, info, identity, ModelType.VAE)
    ranked = sorted(report.findings, key=lambda f: [BLOCKER, SLOW, NOTE].index(f.severity))
    assert [f.code for f in ranked] == [
        "wrong_role",
        "framework",
        "offloaded",
        "ram_busy",
        "torch_version_unreadable",
        "emulated",
    ]
    assert report.issues == [f"{f.message} {f.remedy}" for f in ranked]


def test_the_details_are_json_and_complete() -> None:
    info = make_info(min_vram_gb=12.0, version="1.5.0")
    details = judge(SMALL_WINDOWS, info, make_identity(quantization=FP8)).to_dict()
    assert json.loads(json.dumps(details)) == details
    assert set(details) == {
        "model",
        "version",
        "version_hint",
        "compatible",
        "file",
        "size_bytes",
        "identity",
        "system",
        "knows_comfyui",
        "findings",
    }
    assert (details["version"], details["compatible"], details["file"]) == ("1.5.0", False, "present")
    assert [set(f) for f in details["findings"]] == [
        {"code", "severity", "message", "remedy", "needed", "found"}
    ] * len(details["findings"])


def test_a_finding_becomes_plain_text() -> None:
    assert Finding("vram", BLOCKER, "Too small.").to_dict() == {
        "code": "vram",
        "severity": "blocker",
        "message": "Too small.",
        "remedy": "",
        "needed": "",
        "found": "",
    }


# Laws

_bytes = st.integers(0, 2**42)
_versions = st.one_of(
    st.none(),
    st.sampled_from(["2.4.0", "2.0.1", "1.13.1+cu117", "2.6.0.dev20250101", "nightly", ""]),
    st.text(max_size=8),
)
_gpus = st.builds(
    Gpu,
    name=st.text(max_size=12),
    backend=st.sampled_from(["cuda", "rocm", "xpu", "mps", "cpu"]),
    total_bytes=_bytes,
    free_bytes=st.one_of(st.none(), _bytes),
    compute_capability=st.one_of(st.none(), st.sampled_from(["7.5", "8.9", "12.0", "gfx1100"])),
)
_systems = st.builds(
    SystemSnapshot,
    host=st.just("this machine"),
    knows_comfyui=st.booleans(),
    platform=st.just("Linux"),
    python_version=st.just("3.12.4"),
    torch_version=_versions,
    cuda_version=st.one_of(st.none(), st.just("13.0")),
    device=st.sampled_from(["cuda", "rocm", "xpu", "mps", "cpu"]),
    gpus=st.lists(_gpus, max_size=3).map(tuple),
    total_ram_bytes=_bytes,
    available_ram_bytes=_bytes,
    cpu_count=st.integers(1, 256),
    extensions=st.lists(st.text(max_size=6), max_size=2).map(tuple),
    layer_formats=st.one_of(
        st.none(), st.frozensets(st.sampled_from(["float8_e4m3fn", "int8_tensorwise", "new"]))
    ),
)
_gigabytes = st.one_of(st.none(), st.floats(0, 2000))
_infos = st.builds(
    ModelInfo,
    name=st.just("wan"),
    model_type=st.sampled_from(ModelType),
    file_path=st.just(Path("wan.safetensors")),
    version=st.text(max_size=8),
    min_vram_gb=_gigabytes,
    min_ram_gb=_gigabytes,
    compatible_frameworks=st.lists(st.sampled_from(["pytorch", "ONNX", ""]), max_size=2),
    required_extensions=st.lists(st.text(max_size=6), max_size=2),
    quantization=st.sampled_from(QuantizationType),
    min_torch_version=_versions,
)
_identities = st.builds(
    make_identity,
    role=st.sampled_from(ModelType),
    weight_bytes=_bytes,
    tensor_count=st.integers(0, 5000),
    quantization=st.sampled_from(QuantizationType),
    seen=st.lists(st.text(max_size=6), max_size=3).map(tuple),
    quantization_layout=st.sampled_from(["", "comfy_quant", "scaled_fp8"]),
)
_subjects = st.builds(
    Subject,
    name=st.just("wan"),
    info=st.one_of(st.none(), _infos),
    expected=st.one_of(st.none(), st.sampled_from(ModelType)),
    identity=st.one_of(st.none(), _identities),
    size_bytes=st.one_of(st.none(), _bytes),
    file_error=st.one_of(st.none(), st.just(InvalidHeader("Broken.", "Get it again."))),
)


@settings(deadline=None, max_examples=150)
@given(_subjects, _systems)
def test_every_model_gets_a_verdict_on_every_machine(subject: Subject, system: SystemSnapshot) -> None:
    report = assess(subject, system)
    blockers = [f for f in report.findings if f.severity is BLOCKER]
    assert report.compatible is (not blockers)
    assert len(report.issues) == len(report.findings)
    assert report.issues[: len(blockers)] == [f"{f.message} {f.remedy}".strip() for f in blockers]
    details = json.loads(json.dumps(report.to_dict()))
    assert all(f["message"] and f["code"] for f in details["findings"])
    assert render_check(details)
    assert assess(subject, system) == report


@settings(deadline=None, max_examples=60)
@given(_infos, _systems, _bytes)
def test_more_memory_never_makes_a_model_incompatible(
    info: ModelInfo, system: SystemSnapshot, more: int
) -> None:
    larger = replace(
        system,
        total_ram_bytes=system.total_ram_bytes + more,
        gpus=tuple(replace(gpu, total_bytes=gpu.total_bytes + more) for gpu in system.gpus),
    )
    if judge(system, info).compatible:
        assert judge(larger, info).compatible


# The checker, on real files


def test_a_registered_file_is_judged_by_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "wan.safetensors"
    write_random_model(path, layouts.wan21_t2v(width=64, ffn=64, layers=1))
    checker = ModelCompatibilityChecker(Machine(nvidia(24.0)))
    report = checker.report(ModelInfo("wan", ModelType.DIFFUSION, path))
    assert report.subject.identity is not None
    assert report.subject.identity.architecture == "wan-t2v"
    assert report.subject.size_bytes == path.stat().st_size
    assert checker.check_model_compatibility(ModelInfo("wan", ModelType.VAE, path)) == (
        False,
        [
            "This file is a Wan 2.1 or Wan 2.2 14B text-to-video, and a VAE is expected here. "
            "Choose another file."
        ],
    )


def test_a_lora_among_the_diffusion_models(tmp_path: Path) -> None:
    path = shapes_file(tmp_path / "lora.safetensors", {"blocks.0.lora_down.weight": (4, 8)})
    report = ModelCompatibilityChecker(Machine(CPU_ONLY)).report_file("x", path, ModelType.DIFFUSION)
    assert found(report) == {"wrong_role": BLOCKER}


def test_a_broken_file_keeps_the_code_of_its_defect(tmp_path: Path, tiny_models: Path) -> None:
    whole = tiny_models / "diffusion_models" / "tiny_flux_bf16.safetensors"
    broken = tmp_path / "flux.safetensors"
    shutil.copyfile(whole, broken)
    with open(broken, "r+b") as file:
        file.truncate(broken.stat().st_size // 2)
    checker = ModelCompatibilityChecker(Machine(CPU_ONLY))
    compatible, issues = checker.check_model_compatibility(ModelInfo("flux", ModelType.DIFFUSION, broken))
    assert not compatible
    assert "are missing" in issues[0]
    assert found(checker.report_file("flux", broken, ModelType.DIFFUSION)) == {"invalid_header": BLOCKER}


@pytest.mark.parametrize("path", [Path("not/there.safetensors"), Path()])
def test_a_model_may_be_judged_before_its_file_exists(path: Path) -> None:
    checker = ModelCompatibilityChecker(Machine(nvidia(24.0)))
    assert checker.check_model_compatibility(ModelInfo("x", ModelType.DIFFUSION, path)) == (True, [])


def test_a_check_of_a_file_that_is_not_there_says_so(tmp_path: Path) -> None:
    checker = ModelCompatibilityChecker(Machine(CPU_ONLY))
    with pytest.raises(ModelNotFound, match="no file at"):
        checker.report_file("x", tmp_path / "x.safetensors", None)


@pytest.mark.parametrize(
    ("older", "newer"),
    [("1.9.0", "1.10.0"), ("2.0.0rc1", "2.0.0"), ("1.0.0-beta.1", "1.0.0"), ("junk", "0.0.1")],
)
def test_compare_versions(older: str, newer: str) -> None:
    compare = ModelCompatibilityChecker.compare_versions
    assert (compare(older, newer), compare(newer, older), compare(older, older)) == (-1, 1, 0)


def test_compare_versions_ignores_the_local_part() -> None:
    assert ModelCompatibilityChecker().compare_versions("2.4.0+cu118", "2.4.0+cpu") == 0


def test_a_checker_without_arguments_knows_this_machine() -> None:
    import psutil
    import torch

    info = ModelCompatibilityChecker().get_system_info()
    assert set(info) >= {
        "pytorch_version",
        "cuda_available",
        "cuda_version",
        "total_ram_gb",
        "available_ram_gb",
        "gpu_devices",
    }
    assert info["pytorch_version"] == torch.__version__
    assert info["cuda_available"] is torch.cuda.is_available()
    assert info["total_ram_gb"] == pytest.approx(psutil.virtual_memory().total / GB, abs=0.001)
    assert json.loads(json.dumps(info)) == info


def test_the_figures_of_a_card_are_in_gb() -> None:
    info = ModelCompatibilityChecker(Machine(nvidia(24.0, "8.9", free_gb=20.0, cards=2))).get_system_info()
    assert (
        info["gpu_devices"]
        == [
            {
                "name": "NVIDIA GeForce",
                "total_memory_gb": 24.0,
                "free_memory_gb": 20.0,
                "compute_capability": "8.9",
                "backend": "cuda",
            }
        ]
        * 2
    )
    assert (info["cuda_available"], info["cuda_version"]) == (True, "13.0")
    rocm = ModelCompatibilityChecker(Machine(ROCM)).get_system_info()
    assert (rocm["cuda_available"], rocm["gpu_devices"][0]["backend"]) == (False, "rocm")
