"""The words of every report, held to the letter once each."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from managed_models.manager import ModelInfo, ModelType, QuantizationType
from managed_models.manager.compatibility import Subject, assess
from managed_models.manager.demo import layouts, make_demo_model
from managed_models.manager.demo.tiny import write_random_model
from managed_models.manager.errors import InvalidHeader
from managed_models.manager.host import SystemSnapshot
from managed_models.manager.identify import ModelIdentity
from managed_models.manager.report import (
    finding_lines,
    identity_lines,
    memory_notices,
    render_check,
    render_error,
    render_identity,
    render_load,
    render_memory,
    render_pin,
    render_post_mortem,
    render_quantize,
    render_system,
    render_unload,
    system_words,
)
from managed_models.manager.units import GB, MB
from support.machines import APPLE, CPU_ONLY, SMALL_WINDOWS, nvidia

IDENTITY = ModelIdentity(
    role=ModelType.CHECKPOINT,
    architecture="sd1.5",
    title="Stable Diffusion 1.5",
    detected_by="ComfyUI 0.33.0",
    prefix="model.diffusion_model.",
    parts=("vae", "text_encoder"),
    parameters=859_520_964,
    weight_bytes=860_000_000,
    tensor_count=1130,
    dtypes={"fp8_e4m3fn": 800_000_000, "fp16": 59_520_964},
    precision="fp8_e4m3fn, scaled",
    quantization_layout="comfy_quant",
    quantization=QuantizationType.FP8,
    quantized_layers=224,
)
SYSTEM = SMALL_WINDOWS.to_dict()


def check_details(
    identity: ModelIdentity | None = IDENTITY,
    info: ModelInfo | None = None,
    system: SystemSnapshot = CPU_ONLY,
    error: InvalidHeader | None = None,
) -> dict[str, Any]:
    size = 2_132_625_894 if identity else None
    return assess(Subject("sd15", info, ModelType.CHECKPOINT, identity, size, error), system).to_dict()


def quantize_details(**facts: Any) -> dict[str, Any]:
    known: dict[str, Any] = {
        "source": "wan_bf16.safetensors",
        "output": "wan_int8.safetensors",
        "path": "/models/wan_int8.safetensors",
        "reused": False,
        "format": "int8",
        "format_words": "int8",
        "architecture": "Wan 2.1",
        "policy": "recommended",
        "quality": "fast",
        "layout": "comfy_quant",
        "rule": {
            "name": "wan",
            "known": True,
            "used": True,
            "source": "somebody",
            "patterns": ["head.", "norm"],
            "keep_patterns": [],
        },
        "policy_rule": "wan",
        "stored_as": "bf16",
        "requantized_layers": 0,
        "sampled_layers": 0,
        "source_bytes": 28 * GB,
        "output_bytes": 14 * GB,
        "linear_layers": 406,
        "changed_layers": 400,
        "changed_share": 0.9912,
        "kept": [
            {
                "reason": "kept by the recommended policy",
                "bytes": 80 * 2**20,
                "layers": [{"name": f"head.{i}", "shape": [64, 64]} for i in range(8)],
            },
            {
                "reason": "its shape does not divide into blocks of 16",
                "bytes": 12_800,
                "layers": [{"name": "odd", "shape": [100, 64]}],
            },
        ],
        "kept_layers": {},
        "kept_names": ["head.head"],
        "formats": [{"format": "int8", "layers": 400, "weights": 14 * 10**9, "bytes": 14 * GB}],
        "layers": [
            {
                "name": name,
                "format": "int8",
                "was": "BF16",
                "shape": [64, 64],
                "bytes": 4096,
                "error": error,
                "sqnr_db": sqnr,
            }
            for name, error, sqnr in (("blocks.0.ffn.0", 0.0088, 41.1), ("blocks.1.ffn.0", 0.0123, 38.2))
        ],
        "layer_formats": ["int8_tensorwise"],
        "missing_formats": [],
        "layer_errors": {"blocks.0.ffn.0": 0.0088, "blocks.1.ffn.0": 0.0123},
        "worst": ["blocks.1.ffn.0", "blocks.0.ffn.0"],
        "mean_error": 0.0091,
        "total_error": 0.0089,
        "made_with": {"managed_models": "0.6.0", "torch": "2.13.0"},
        "budget": None,
        "source_sha256": "ab" * 32,
        "loads_here": True,
        "seconds": 61.24,
    }
    return known | facts


def load_details(**facts: Any) -> dict[str, Any]:
    known: dict[str, Any] = {
        "model": "sd15.safetensors",
        "version": "1.5.0",
        "identity": IDENTITY.to_dict(),
        "size_bytes": 2_132_625_894,
        "loaded_bytes": 2 * GB,
        "dtype": "fp8_e4m3fn, scaled",
        "device": "cuda:0",
        "attention": "default",
        "shared": False,
        "keep_alive": "5m",
        "weight_dtype": "fp16",
        "unfilled": {"CLIP": "use 'Load CLIP'"},
        "notes": ["weight_dtype fp16 is left aside."],
        "findings": check_details()["findings"],
        "seconds": 3.456,
    }
    return known | facts


def memory_details(**facts: Any) -> dict[str, Any]:
    known: dict[str, Any] = {
        "host": "ComfyUI 0.33.0",
        "devices": [
            {
                "device": "cuda:0",
                "name": "NVIDIA GeForce RTX 4090",
                "backend": "cuda",
                "total_bytes": 24 * GB,
                "free_bytes": 6 * GB,
                "models_bytes": 14 * GB,
                "torch_bytes": 16 * GB,
                "others_bytes": 1 * GB,
            },
            {
                "device": None,
                "name": "Arc",
                "backend": "xpu",
                "total_bytes": 16 * GB,
                "free_bytes": None,
                "models_bytes": 0,
                "torch_bytes": None,
                "others_bytes": None,
            },
        ],
        "ram": {
            "total_bytes": 64 * GB,
            "available_bytes": 24 * GB,
            "headroom_bytes": 6 * GB,
            "process_bytes": 20 * GB,
            "mapped_bytes": 15 * GB,
            "anonymous_bytes": 5 * GB,
        },
        "models": [
            {
                "id": "1",
                "title": "wan",
                "path": None,
                "device": "cuda:0",
                "size_bytes": 14 * GB,
                "loaded_bytes": 14 * GB,
                "ram_bytes": 512 * MB,
                "kind": "dynamic",
                "file_bytes": 256 * MB,
                **kept(idle_seconds=12.4, expires_in=287.6),
            },
            {
                "id": "2",
                "title": "flux",
                "path": None,
                "device": "cpu",
                "size_bytes": 22 * GB,
                "loaded_bytes": 0,
                "ram_bytes": 22 * GB,
                "kind": "static",
                "file_bytes": 0,
                **kept(pooled=False, held=None),
            },
        ],
        "history": {
            "seconds": 300,
            "samples": 40,
            "ram_peak_bytes": 50 * GB,
            "ram_peak_node": "KSampler",
            "devices": [
                {"device": "cuda:0", "peak_bytes": 20 * GB, "peak_node": None},
                {"device": "xpu:0", "peak_bytes": None, "peak_node": None},
            ],
        },
        "warning": None,
        "post_mortem": None,
    }
    return known | facts


def kept(**facts: Any) -> dict[str, Any]:
    """What the pool knows of a model."""
    known = {"pooled": True, "pinned": False, "busy": False, "held": False}
    return known | {"idle_seconds": None, "expires_in": None} | facts


POST_MORTEM: dict[str, Any] = {
    "memory": "RAM",
    "node": "7",
    "node_type": "VAEDecode",
    "seconds_ago": 65.2,
    "devices": [{"name": "Arc", "total_bytes": 16 * GB, "free_bytes": None, "others_bytes": None}],
    "ram_available_bytes": GB,
    "ram_total_bytes": 32 * GB,
    "models": [
        {"title": "wan", "device": "cpu", "ram_bytes": GB, "pinned": True, "kept": True},
        {"title": "flux", "device": "cpu", "ram_bytes": GB, "pinned": False, "kept": True},
    ],
    "remedies": ["Use less."],
}


def identity_details(**facts: Any) -> dict[str, Any]:
    known: dict[str, Any] = {
        "model": "sd15.safetensors",
        "path": "/models/sd15.safetensors",
        "version": None,
        "size_bytes": 2_132_625_894,
        "identity": IDENTITY.to_dict(),
        "made_from": {
            "name": "sd15_fp16.safetensors",
            "format": "fp8_e4m3fn_scaled",
            "recipe": {"format": "fp8_e4m3fn_scaled", "policy": "recommended", "quality": "best"},
        },
        "source_sha256": "cd" * 32,
        "kin": [
            {"name": "sd15_int8.safetensors", "precision": "int8", "format": "int8"},
            {"name": "sd15_fp16.safetensors", "precision": "", "format": ""},
        ],
        "metadata": {"format": "pt", "notes": "n" * 201},
    }
    return known | facts


# Golden texts: a change of words is meant, and is made here too.


def test_the_words_of_a_check() -> None:
    info = ModelInfo(
        "sd15",
        ModelType.CHECKPOINT,
        Path("sd15.safetensors"),
        version="1.5.0",
        min_vram_gb=12,
        min_ram_gb=16,
        required_extensions=["ComfyUI-X"],
    )
    system = replace(SMALL_WINDOWS, available_ram_bytes=6 * GB)
    assert render_check(check_details(info=info, system=system)) == (
        "sd15: cannot be used as it is.\n"
        "  What it is: Stable Diffusion 1.5, checkpoint with a VAE and a text encoder, 860M parameters, "
        "fp8_e4m3fn, scaled, 2.0 GB\n"
        "  Recognised by: ComfyUI 0.33.0\n"
        "  Version: 1.5.0\n"
        "  Checked on: ComfyUI 0.33.0, PyTorch 2.11.0, NVIDIA GeForce with 7.6 GB, 15.8 GB RAM\n"
        "  Problem: It needs 12.0 GB of VRAM, and NVIDIA GeForce has 7.6 GB.\n"
        "    Use a smaller variant of the model, for example a quantized one.\n"
        "  Problem: It needs the ComfyUI extension ComfyUI-X, which is not installed.\n"
        "    Install ComfyUI-X with ComfyUI-Manager and restart ComfyUI.\n"
        "  Note: It needs 16.0 GB of RAM, and 6.0 GB of 15.8 GB are available now.\n"
        "    Unload other models or close other programs.\n"
        "  Note: Its fp8_e4m3 weights are not computed as they are here: this GPU (cuda:0) has no arithmetic "
        "for it.\n"
        "    It runs all the same, and saves memory: ComfyUI widens each layer when it computes."
    )


def test_the_words_of_a_check_of_what_is_not_there_yet() -> None:
    system = replace(CPU_ONLY, knows_comfyui=False, host="this machine", torch_version=None)
    assert render_check(check_details(identity=None, system=system)) == (
        "sd15: can be used on this machine.\n"
        "  File: not on this machine yet\n"
        "  Version: unknown\n"
        "  Checked on: this machine, no PyTorch, no GPU, 23.5 GB RAM\n"
        "  Host unknown: ComfyUI may have another PyTorch and other settings."
    )


def test_the_words_of_a_check_of_a_broken_file() -> None:
    error = InvalidHeader("sd15.safetensors is a broken safetensors file.", "Get it again.")
    assert render_check(check_details(identity=None, error=error)) == (
        "sd15: cannot be used as it is.\n"
        "  Version: unknown\n"
        "  Checked on: ComfyUI 0.33.0, PyTorch 2.11.0, no GPU, 23.5 GB RAM\n"
        "  Problem: sd15.safetensors is a broken safetensors file.\n"
        "    Get it again."
    )


def test_the_words_of_an_identity() -> None:
    assert render_identity(identity_details()) == (
        "sd15.safetensors\n"
        "  What it is: Stable Diffusion 1.5, checkpoint with a VAE and a text encoder, 860M parameters, "
        "fp8_e4m3fn, scaled, 2.0 GB\n"
        "  Recognised by: ComfyUI 0.33.0\n"
        "  Version: unknown\n"
        "  Weights by type: fp8_e4m3fn 800M, fp16 59.5M\n"
        "  Quantized layers: 224\n"
        "  Made by Managed Models from sd15_fp16.safetensors (sha256 cdcdcdcdcdcd...) as fp8_e4m3fn_scaled: "
        "recommended, best\n"
        "  The same model, in other files: sd15_int8.safetensors (int8), sd15_fp16.safetensors (original)\n"
        "  format: pt\n"
        f"  notes: {'n' * 200}... (201 characters)"
    )


def test_the_words_of_a_quantization() -> None:
    assert render_quantize(quantize_details()) == (
        "Made wan_int8.safetensors from wan_bf16.safetensors: 14.0 GB instead of 28.0 GB (50%).\n"
        "  What it is: Wan 2.1, int8 (was bf16)\n"
        "  Converted: 400 of 406 linear layers, 99.1% of their weights\n"
        "  As before: 8 layers, 80 MB: kept by the recommended policy\n"
        "    head.0, head.1, head.2, head.3, head.4, head.5 and 2 more\n"
        "  As before: 1 layer, 12 KB: its shape does not divide into blocks of 16\n"
        "    odd (100 x 64)\n"
        "  Rule: wan, after somebody\n"
        "    keeps head., norm\n"
        "  Weights changed by 0.91% on average, at most by 1.23% (blocks.1.ffn.0); by 0.89% taken together "
        "(SQNR 41.0 dB); relative L2\n"
        "  The layers that changed most:\n"
        "    blocks.1.ffn.0    1.23%   38.2 dB  int8\n"
        "    blocks.0.ffn.0    0.88%   41.1 dB  int8\n"
        "  Made from: wan_bf16.safetensors (sha256 abababababab...), int8, recommended, fast, comfy_quant\n"
        "  Made with: Managed Models 0.6.0, PyTorch 2.13.0\n"
        "  Took 61.2 s; everything written was read back and agrees."
    )


def test_the_words_of_an_earlier_quantization() -> None:
    facts: dict[str, Any] = {"layer_errors": {}, "worst": [], "kept": [], "source_sha256": None}
    rule = quantize_details()["rule"] | {"used": False}
    details = quantize_details(reused=True, seconds=None, policy="everything", rule=rule, **facts)
    assert render_quantize(details) == (
        "Found the earlier wan_int8.safetensors from wan_bf16.safetensors: "
        "14.0 GB instead of 28.0 GB (50%).\n"
        "  What it is: Wan 2.1, int8 (was bf16)\n"
        "  Converted: 400 of 406 linear layers, 99.1% of their weights\n"
        "  Rule: everything that a format takes is converted"
    )


def test_the_words_of_a_size_budget() -> None:
    budget = {
        "limit_bytes": 9 * GB,
        "planned_bytes": 9 * GB - 5,
        "exact": False,
        "formats": ["int8", "nvfp4"],
    }
    formats = [
        {"format": "nvfp4", "layers": 300, "weights": 10 * 10**9, "bytes": 5 * GB},
        {"format": "int8", "layers": 1, "weights": 4 * 10**9, "bytes": 4 * GB},
    ]
    lines = render_quantize(quantize_details(budget=budget, formats=formats)).splitlines()
    assert lines[3:6] == [
        "    nvfp4: 300 layers, 71% of what was converted, 5.0 GB",
        "    int8: 1 layer, 29% of what was converted, 4.0 GB",
        "  Size budget: 9.0 GB allowed; chosen by measuring each layer as int8, nvfp4; at most one layer's "
        "change of format from the best choice",
    ]
    exact = render_quantize(quantize_details(budget=budget | {"exact": True}))
    assert "as int8, nvfp4; no other choice changes less" in exact


def test_errors_that_a_part_of_the_rows_tells_are_said_to_be_so() -> None:
    errors = {"blocks.0.ffn.0": 0.02}
    exact = render_quantize(quantize_details(layer_errors=errors))
    sampled = render_quantize(quantize_details(layer_errors=errors, sampled_layers=1))
    added = "\n    (of 1 layer with 4 million weights or more, measured on a quarter of the rows)"
    assert added in sampled
    assert sampled.replace(added, "") == exact


def test_a_second_rounding_is_told() -> None:
    words = render_quantize(quantize_details(requantized_layers=3, stored_as="fp8_e4m3fn, scaled"))
    assert (
        "Note: 3 layers had been rounded before (fp8_e4m3fn, scaled) and are rounded a second time" in words
    )
    assert "those of this rounding alone" in words


def test_the_words_of_a_plan() -> None:
    details = quantize_details(output=None, path=None, seconds=None, layer_errors={}, worst=[])
    first, *rest = render_quantize(details).splitlines()
    assert (
        first == "Plan for wan_bf16.safetensors: about 14.0 GB instead of 28.0 GB (50%). Nothing was written."
    )
    assert "  Rule: wan, after somebody" in rest
    assert not any("Took" in line or "read back" in line for line in rest)


def test_a_rule_that_is_not_known_is_no_fact() -> None:
    rule = quantize_details()["rule"] | {"name": "generic", "known": False}
    words = render_quantize(quantize_details(rule=rule))
    assert "Rule: generic, for none is known for this architecture: it goes by somebody" in words


def test_a_quantization_that_this_comfyui_cannot_load_says_so() -> None:
    words = render_quantize(quantize_details(loads_here=False, missing_formats=["int8_tensorwise"]))
    assert (
        "  Problem: this ComfyUI is too old to load int8_tensorwise layers: update it" in words.splitlines()
    )


def test_the_words_of_a_load() -> None:
    assert render_load(load_details()) == (
        "Loaded sd15.safetensors in 3.5 s.\n"
        "  What it is: Stable Diffusion 1.5, checkpoint with a VAE and a text encoder, 860M parameters, "
        "fp8_e4m3fn, scaled, 2.0 GB\n"
        "  Recognised by: ComfyUI 0.33.0\n"
        "  Version: 1.5.0\n"
        "  In memory: 2.0 GB as fp8_e4m3fn, scaled (weight_dtype fp16), for cuda:0\n"
        "  Keep alive: 5m\n"
        "  CLIP: not in this file; use 'Load CLIP'\n"
        "  Note: weight_dtype fp16 is left aside.\n"
        "  Note: Its fp8_e4m3 weights are not computed as they are here: the CPU has no arithmetic for it.\n"
        "    It runs all the same, and saves memory: ComfyUI widens each layer when it computes."
    )


def test_a_load_that_read_nothing_says_so_and_how_attention_is_computed() -> None:
    details = load_details(shared=True, attention="sub_quad", keep_alive=None, unfilled={}, findings=[])
    assert render_load(details).splitlines()[0] == (
        "sd15.safetensors is in memory already and is shared: nothing was read."
    )
    assert render_load(details).splitlines()[-2:] == [
        "  Attention: sub_quad, for this node's MODEL alone",
        "  Note: weight_dtype fp16 is left aside.",
    ]


def test_the_words_of_memory() -> None:
    assert render_memory(memory_details()) == (
        "Memory on ComfyUI 0.33.0\n"
        "  cuda:0, NVIDIA GeForce RTX 4090: 24.0 GB of VRAM, 18.0 GB in use, 14.0 GB by models, "
        "16.0 GB taken by PyTorch in all, 1.0 GB by other programs\n"
        "  Arc: 16.0 GB of VRAM, use unknown, 0 bytes by models\n"
        "  RAM: 64.0 GB, 40.0 GB in use, 24.0 GB available\n"
        "  This process: 20.0 GB (5.0 GB its own, 15.0 GB mapped files, which the system can take back)\n"
        "  At most in the last 5 min: 50.0 GB of RAM (at KSampler), 20.0 GB of VRAM on cuda:0\n"
        "  wan: 14.0 GB on cuda:0, 512 MB in RAM, 256 MB read from its file when needed (dynamic)\n"
        "    Last used 12 s ago; it stays 4 min 48 s more\n"
        "  flux: 22.0 GB in RAM (static)\n"
        "    Not kept by Managed Models: ComfyUI decides when it goes"
    )


def test_the_words_of_memory_on_a_machine_without_cards_models_or_answers() -> None:
    ram = memory_details()["ram"] | {"mapped_bytes": None, "anonymous_bytes": None}
    assert render_memory(memory_details(devices=[], models=[], ram=ram, history=None)) == (
        "Memory on ComfyUI 0.33.0\n"
        "  VRAM: no GPU is used; models run on the CPU, in RAM\n"
        "  RAM: 64.0 GB, 40.0 GB in use, 24.0 GB available\n"
        "  This process: 20.0 GB\n"
        "  Models in memory: none"
    )


def test_one_card_needs_no_name_before_its_name() -> None:
    details = memory_details()
    history = details["history"] | {"devices": details["history"]["devices"][:1]}
    words = render_memory(memory_details(devices=details["devices"][:1], history=history))
    assert "\n  NVIDIA GeForce RTX 4090: 24.0 GB of VRAM" in words
    assert "20.0 GB of VRAM\n" in words


def test_before_anything_was_recorded() -> None:
    words = render_memory(memory_details(history={"samples": 0}))
    assert "\n  Before now: nothing was recorded yet\n" in words


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (
            kept(busy=True, idle_seconds=0, expires_in=300),
            "In use by the running prompt; it stays 5 min after that",
        ),
        (kept(idle_seconds=3900, expires_in=None), "Last used 1 h 5 min ago; it stays until it is unloaded"),
        (kept(idle_seconds=7200, expires_in=30), "Last used 2 h ago; it stays 30 s more"),
        (
            kept(pinned=True, held=True, idle_seconds=1),
            "Last used 1 s ago; pinned: it stays until it is unpinned",
        ),
        (
            kept(idle_seconds=400, expires_in=0),
            "Last used 6 min 40 s ago; its time is up: it goes as soon as no prompt runs",
        ),
        (
            kept(held=True, idle_seconds=400, expires_in=0),
            "Last used 6 min 40 s ago; its time is up. ComfyUI's cache of outputs has it too: "
            "RAM comes back when that lets go",
        ),
        (
            kept(held=True, idle_seconds=1, expires_in=1),
            "Last used 1 s ago; it stays 1 s more. ComfyUI's cache of outputs has it too: "
            "RAM comes back when that lets go",
        ),
    ],
)
def test_how_long_a_model_stays(facts: dict[str, Any], words: str) -> None:
    model = memory_details()["models"][1] | facts
    assert render_memory(memory_details(models=[model])).splitlines()[-1] == "    " + words


def test_warnings_and_post_mortems_are_part_of_the_words() -> None:
    words = render_memory(memory_details(warning={"message": "RAM is short."}, post_mortem=POST_MORTEM))
    lines = words.splitlines()
    assert lines[1] == "  Warning: RAM is short."
    assert lines[-7:] == [
        "  RAM ran out 1 min 5 s ago at VAEDecode (node 7). Just before:",
        "    Arc: use unknown of 16.0 GB of VRAM",
        "    RAM: 1.0 GB available of 32.0 GB",
        "    wan: 1.0 GB in RAM, pinned",
        "    flux: 1.0 GB in RAM, kept from an earlier prompt",
        "  What helps:",
        "    Use less.",
    ]


def test_a_post_mortem_without_a_node() -> None:
    facts = {**POST_MORTEM, "node": None, "node_type": None}
    del facts["seconds_ago"]
    assert render_post_mortem(facts).startswith("RAM ran out. Just before:\n")


def test_the_words_of_a_system() -> None:
    assert render_system(SYSTEM) == (
        "ComfyUI 0.33.0\n"
        "  Windows 11, Python 3.12.4\n"
        "  ComfyUI 0.33.0, PyTorch 2.11.0, NVIDIA GeForce with 7.6 GB, 15.8 GB RAM"
    )
    assert system_words(APPLE.to_dict()).endswith("Apple Silicon with 32.0 GB, 32.0 GB RAM")
    assert system_words(nvidia(24.0, cards=2).to_dict()).count("NVIDIA GeForce with 24.0 GB") == 2


def test_the_words_of_an_error() -> None:
    error = InvalidHeader("It is broken.", "Get it again.").to_dict()
    assert render_error(error) == "Error: It is broken. Get it again."


# One renderer for everybody


@pytest.mark.parametrize(
    ("render", "details"),
    [
        (render_check, check_details(info=ModelInfo("a", ModelType.DIFFUSION, Path("a"), min_vram_gb=9))),
        (render_check, check_details(identity=None)),
        (render_identity, identity_details()),
        (render_quantize, quantize_details()),
        (render_load, load_details()),
        (render_memory, memory_details(post_mortem=POST_MORTEM)),
        (render_system, SYSTEM),
    ],
)
def test_details_that_travelled_as_json_give_the_same_words(
    render: Callable[[dict[str, Any]], str], details: dict[str, Any]
) -> None:
    travelled = json.loads(json.dumps(details))
    assert travelled == details
    assert render(travelled) == render(details)


def test_the_command_line_shows_the_same_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from managed_models.manager.cli.app import app
    from typer.testing import CliRunner

    monkeypatch.chdir(tmp_path)
    path = make_demo_model("flux", tmp_path)
    write_random_model(tmp_path / "wan.safetensors", layouts.wan21_t2v(width=64, ffn=128, layers=1))

    def ask(*arguments: str) -> tuple[str, dict[str, Any]]:
        words, details = (CliRunner().invoke(app, [*arguments, *flag]) for flag in ((), ("--json",)))
        assert (words.exit_code, details.exit_code) == (0, 0), details.output
        return words.stdout, json.loads(details.stdout)

    for arguments, render in (
        (("check", str(path)), render_check),
        (("show", str(path)), render_identity),
        (("quantize", "wan.safetensors", "a.safetensors"), render_quantize),
    ):
        words, details = ask(*arguments)
        if arguments[0] == "quantize":  # the second run finds the first one's file
            words, details = ask(*arguments)
        assert words == render(details) + "\n"
    words, details = ask("report")
    figure = re.compile(r"\d+(\.\d+)? (GB|MB|KB|bytes)")
    assert figure.sub("#", words) == figure.sub("#", render_memory(details)) + "\n"


# What a file is


@pytest.mark.parametrize(
    ("facts", "line"),
    [
        (
            {"role": ModelType.DIFFUSION, "title": "Flux.1 dev", "parts": (), "precision": "bf16"},
            "  What it is: Flux.1 dev, diffusion model, 860M parameters, bf16, 10 KB",
        ),
        (
            {"role": ModelType.LORA, "title": "LoRA", "parts": (), "precision": "fp16"},
            "  What it is: LoRA, 860M parameters, fp16, 10 KB",
        ),
        (
            {"role": ModelType.OTHER, "title": "unknown", "parts": (), "precision": "fp32"},
            "  What it is: unknown, 1130 tensors, 860M parameters, fp32, 10 KB",
        ),
        (
            {"parts": ("vae",)},
            "  What it is: Stable Diffusion 1.5, checkpoint with a VAE, 860M parameters, "
            "fp8_e4m3fn, scaled, 10 KB",
        ),
    ],
)
def test_what_a_file_is(facts: dict[str, Any], line: str) -> None:
    identity = replace(IDENTITY, **facts, detected_by="").to_dict()
    assert identity_lines(identity, 10 * 1024) == [line]


@pytest.mark.parametrize("role", ModelType)
def test_every_role_has_words(role: ModelType) -> None:
    (line,) = identity_lines(replace(IDENTITY, role=role, detected_by="").to_dict(), None)
    assert "_" not in line.removesuffix("fp8_e4m3fn, scaled")
    assert "None" not in line


def test_a_strangers_metadata_forges_no_lines_and_moves_no_cursor() -> None:
    honest = render_identity(identity_details(metadata={"title": "x"}))
    forged = render_identity(identity_details(metadata={"title": "x\n  Version: 9.9\r\x1b[2J"}))
    assert len(forged.splitlines()) == len(honest.splitlines())
    assert "\x1b" not in forged


def test_nothing_is_said_of_a_file_that_is_not_known() -> None:
    assert identity_lines(None, 5) == []


def test_findings_are_ordered_by_severity_and_keep_their_order_within_one() -> None:
    def finding(severity: str, message: str) -> dict[str, str]:
        return {"severity": severity, "message": message, "remedy": ""}

    found = [
        finding("note", "n"),
        finding("blocker", "b1"),
        finding("slow", "s"),
        finding("blocker", "b2"),
    ]
    assert finding_lines(found) == ["  Problem: b1", "  Problem: b2", "  Slower: s", "  Note: n"]


# Every figure has a unit

_UNIT = re.compile(r" ?(GB|MB|KB|bytes|s|min|h|%|dB)\b|%|[BMK]? parameters| (layers?|linear|of \d+ linear)")


def _bare_figures(text: str) -> list[str]:
    """Return every number of the text that no unit follows."""
    return [
        match[0]
        for match in re.finditer(r"(?<![\w.:])\d+(\.\d+)?", text)
        if not _UNIT.match(text, match.end())
    ]


_count = st.integers(0, 2**45)


@settings(deadline=None, max_examples=60)
@given(total=_count, available=_count, process=_count, mapped=st.one_of(st.none(), _count), model=_count)
def test_every_figure_of_memory_has_a_unit(
    total: int, available: int, process: int, mapped: int | None, model: int
) -> None:
    details = memory_details(
        host="this machine",
        devices=[
            {
                "device": "cuda:0",
                "name": "Card",
                "total_bytes": t,
                "free_bytes": f,
                "models_bytes": model,
                "torch_bytes": process,
                "others_bytes": mapped,
            }
            for t, f in ((total, available), (available, None))
        ],
        ram={
            "total_bytes": total,
            "available_bytes": available,
            "process_bytes": process,
            "mapped_bytes": mapped,
            "anonymous_bytes": None if mapped is None else process - mapped,
        },
        models=[
            {
                "title": "wan",
                "device": d,
                "loaded_bytes": model,
                "ram_bytes": process,
                "file_bytes": model,
                "kind": "static",
                **kept(idle_seconds=total % 10**6, expires_in=process % 10**6),
            }
            for d in ("cuda:0", "cpu")
        ],
    )
    assert _bare_figures(render_memory(details)) == []


@settings(deadline=None, max_examples=60)
@given(before=st.integers(1, 2**45), after=_count, share=st.floats(0, 1), error=st.floats(0, 10))
def test_every_figure_of_a_quantization_has_a_unit(
    before: int, after: int, share: float, error: float
) -> None:
    details = quantize_details(
        source="a",
        output="b",
        architecture="Wan",
        source_bytes=before,
        output_bytes=after,
        changed_share=share,
        mean_error=error,
        total_error=error,
        layer_errors={"layer": error},
        formats=[{"format": f, "layers": 2, "weights": after, "bytes": after} for f in ("int8", "nvfp4")],
        budget={"limit_bytes": after, "exact": True, "formats": ["int8"]},
        kept=[{"reason": "kept", "bytes": after, "layers": [{"name": "head", "shape": [1, 1]}]}],
        worst=[],
        source_sha256=None,
        seconds=error,
    )
    assert _bare_figures(render_quantize(details)) == []


@settings(deadline=None, max_examples=60)
@given(vram=st.floats(0.1, 200), ram=st.floats(0.1, 200), size=_count, weights=_count)
def test_every_figure_of_a_check_has_a_unit(vram: float, ram: float, size: int, weights: int) -> None:
    identity = replace(
        IDENTITY, title="Wan", detected_by="", precision="int8", weight_bytes=weights, quantized_layers=0
    )
    identity = replace(identity, quantization=QuantizationType.NONE)
    info = ModelInfo("a", ModelType.DIFFUSION, Path("a"), version="x", min_vram_gb=vram, min_ram_gb=ram)
    system = replace(nvidia(8.0, ram_gb=16.0, free_gb=1.0), host="here", torch_version=None)
    details = assess(Subject("a", info, ModelType.DIFFUSION, identity, size), system).to_dict()
    assert _bare_figures(render_check(details)) == []


@pytest.mark.parametrize("text", ["It has 12.0 of it", "VRAM: 5", "7 free"])
def test_a_figure_without_a_unit_would_be_noticed(text: str) -> None:
    assert len(_bare_figures(text)) == 1


# Unloading and pinning


def unload_words(**facts: Any) -> str:
    details = {
        "title": "wan",
        "models": 1,
        "freed_bytes": 0,
        "ram_bytes": 0,
        "still_in_ram_bytes": 0,
        "scheduled": False,
        "vram_only": False,
    }
    return render_unload(details | facts)


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"models": 0, "title": None}, "No model was in memory."),
        ({"freed_bytes": 2 * GB, "ram_bytes": GB}, "wan: 2.0 GB of VRAM and 1.0 GB of RAM given back."),
        ({"ram_bytes": GB, "title": None}, "1 model: 1.0 GB of RAM given back."),
        ({"ram_bytes": GB, "title": None, "models": 3}, "3 models: 1.0 GB of RAM given back."),
        ({}, "wan: Nothing had to be given back."),
        ({"vram_only": True}, "wan: Nothing was in VRAM."),
        (
            {"vram_only": True, "freed_bytes": GB, "still_in_ram_bytes": 2 * GB},
            "wan: 1.0 GB of VRAM given back. 2.0 GB stay in RAM, from where they come back quickly.",
        ),
        (
            {"freed_bytes": GB, "still_in_ram_bytes": 2 * GB},
            "wan: 1.0 GB of VRAM given back. 2.0 GB stay in RAM while ComfyUI's cache of results, or another "
            "extension, has the model; freeing everything empties that cache.",
        ),
        (
            {"title": None, "models": 2, "ram_bytes": GB, "still_in_ram_bytes": 2 * GB},
            "2 models: 1.0 GB of RAM given back. 2.0 GB stay in RAM, because another extension or a script "
            "has them.",
        ),
        (
            {"title": None, "models": 2, "still_in_ram_bytes": 2 * GB, "scheduled": True},
            "2 models: What is left goes as soon as ComfyUI is done with what it is doing.",
        ),
    ],
)
def test_an_unload_says_what_came_back_and_what_stays(facts: dict[str, Any], words: str) -> None:
    assert unload_words(**facts) == words


def test_a_pin_says_what_it_does() -> None:
    facts = {"title": "wan\n", "pinned": True, "in_memory": True}
    assert render_pin(facts) == "wan  is pinned: it stays in memory until it is unpinned or unloaded."
    assert "once it is loaded" in render_pin(facts | {"in_memory": False})
    assert "is not pinned any more" in render_pin(facts | {"pinned": False})


def test_notices_are_the_shortage_and_what_came_of_it() -> None:
    details = memory_details()
    assert memory_notices(details) == []
    short = {"message": "RAM is nearly\nused up.", "time": 1.0, "seconds_ago": 5.0}
    assert memory_notices(details | {"warning": short}) == ["RAM is nearly used up."]
    told = [
        memory_notices(details | {"warning": short, "post_mortem": POST_MORTEM | {"seconds_ago": seconds}})
        for seconds in (1.0, 90.0)
    ]
    assert told[0] == told[1]  # what is said already is not said again
    assert told[0][1].startswith("RAM ran out at ")
