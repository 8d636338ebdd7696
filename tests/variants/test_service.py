"""The variants of real small files: found, judged, planned, put into words, and taken by a load."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from managed_models.manager import AdvancedModelManager, ModelInfo, ModelType
from managed_models.manager.demo import layouts
from managed_models.manager.demo.tiny import write_random_model
from managed_models.manager.errors import Incompatible
from managed_models.manager.formats.safetensors import read_header
from managed_models.manager.host import LoadedParts, LoadRequest, ModelFile, SystemSnapshot
from managed_models.manager.identify import identify
from managed_models.manager.local_host import LocalHost
from managed_models.manager.report import render_check, render_load
from managed_models.manager.units import GB, MB
from managed_models.manager.variants.service import planned_identity
from managed_models.manager.variants.swap import swap_facts
from support.files import shapes_file
from support.machines import APPLE, CPU_ONLY, ROCM, SMALL_WINDOWS, nvidia

WAN = layouts.wan21_t2v(width=128, ffn=1024, layers=8)
LARGE, INT8, FP8 = "wan_bf16.safetensors", "wan_int8.safetensors", "wan_fp8_e4m3fn_scaled.safetensors"


class Machine(LocalHost):
    """The bare machine with another machine's facts."""

    snapshot: SystemSnapshot = CPU_ONLY

    def __init__(self, root: Path) -> None:
        super().__init__((root,))
        self.requests: list[LoadRequest] = []

    def system(self) -> SystemSnapshot:
        return self.snapshot

    def load(self, request: LoadRequest) -> LoadedParts:
        self.requests.append(request)
        return super().load(request)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "models" / "diffusion_models"
    folder.mkdir(parents=True)
    write_random_model(folder / LARGE, WAN)
    return folder


@pytest.fixture
def host(folder: Path) -> Machine:
    return Machine(folder.parent)


@pytest.fixture
def manager(host: Machine) -> AdvancedModelManager:
    return AdvancedModelManager(host=host)


def card_for(path: Path, share: float) -> SystemSnapshot:
    """A card with room for this share of the file's weights."""
    weights = identify(read_header(path)).weight_bytes
    card = nvidia().gpus[0]
    return replace(nvidia(), gpus=(replace(card, total_bytes=int(weights * share), free_bytes=0),))


def advice(manager: AdvancedModelManager, name: str = LARGE) -> dict[str, Any]:
    found: dict[str, Any] = manager.check(name).to_dict()["variants"]
    json.dumps(found)
    return found


def names(found: list[dict[str, Any]]) -> list[str]:
    return [variant["name"] for variant in found]


def test_quantized_files_of_ours_are_found_ranked_and_measured(
    manager: AdvancedModelManager, host: Machine, folder: Path
) -> None:
    for target in ("fp8_e4m3fn_scaled", "int8"):
        manager.quantize_model(LARGE, format=target)
    host.snapshot = card_for(folder / LARGE, 0.7)
    found = advice(manager)
    assert names(found["list"]) == [INT8, FP8, LARGE]
    assert [v["fits"] for v in found["list"]] == [True, True, False]
    assert [v["link"] for v in found["list"]] == ["lineage", "lineage", "subject"]
    assert [v["measured"] for v in found["list"]] == [True, True, False]
    assert 0 < found["list"][0]["error"] < found["list"][1]["error"] < 0.05
    assert found["best"]["name"] == found["way_out"]["best"]["name"] == INT8
    assert found["could_make"] == [] or "int8" not in [v["format"] for v in found["could_make"]]
    report = manager.check(LARGE)
    (finding,) = [f for f in report.findings if f.code == "way_out"]
    assert INT8 in finding.message
    assert finding.remedy.startswith(f"Choose {INT8} in model_name.")
    words = render_check(report.to_dict())
    assert f"{INT8} (int8, " in words
    assert "made from the same original): fits" in words
    # From the small one's side nothing has to be done, and the original is known.
    small = advice(manager, INT8)
    assert small["way_out"]["best"] is None
    assert {v["name"]: v["link"] for v in small["list"]}[LARGE] == "lineage"


def test_where_everything_fits_the_original_is_best_and_nothing_is_recommended(
    manager: AdvancedModelManager, host: Machine
) -> None:
    manager.quantize_model(LARGE, format="int8")
    host.snapshot = nvidia()
    for name in (LARGE, INT8):
        found = advice(manager, name)
        assert found["best"]["name"] == LARGE
        assert found["way_out"] == {"best": None, "make": None, "maybe": None, "helps": False}
        assert "way_out" not in [f.code for f in manager.check(name).findings]
        assert swap_facts(found) is None


@pytest.mark.parametrize("target", ["fp8_e4m3fn_scaled", "int8", "fp16"])
def test_what_could_be_made_is_as_large_as_what_is_made(
    manager: AdvancedModelManager, folder: Path, host: Machine, target: str
) -> None:
    host.snapshot = nvidia()
    planned = {v["format"]: v for v in advice(manager)["could_make"]}[target]
    made = Path(manager.quantize_model(LARGE, format=target)["path"])
    assert planned["size_bytes"] == pytest.approx(made.stat().st_size, rel=0.01)
    assert planned["weight_bytes"] == identify(read_header(made)).weight_bytes
    assert target not in [v["format"] for v in advice(manager)["could_make"]]


def test_a_plan_knows_the_precision_of_what_it_makes(manager: AdvancedModelManager, folder: Path) -> None:
    from managed_models.manager.model import QuantizationType
    from managed_models.manager.quantize.formats import FORMATS
    from managed_models.manager.quantize.policy import plan_tensors

    header = read_header(folder / LARGE)
    identity = identify(header)
    for name, kind in (("int8", QuantizationType.INT8), ("fp16", QuantizationType.FP16)):
        target = FORMATS[name]
        planned = planned_identity(identity, plan_tensors(header, identity, target), target, kind)
        made = identify(read_header(Path(manager.quantize_model(LARGE, format=name)["path"])))
        assert planned == replace(made, tensor_count=planned.tensor_count)


def test_what_could_be_made_is_named_with_node_and_setting(
    manager: AdvancedModelManager, host: Machine, folder: Path
) -> None:
    host.snapshot = card_for(folder / LARGE, 0.7)
    (finding,) = [f for f in manager.check(LARGE).findings if f.code == "way_out"]
    assert "can be made: int8, about " in finding.message
    assert finding.remedy.startswith("Make it with Quantize Model, format int8.")
    host.snapshot = replace(host.snapshot, layer_formats=frozenset({"float8_e4m3fn"}))
    (finding,) = [f for f in manager.check(LARGE).findings if f.code == "way_out"]
    assert "format fp8_e4m3fn_scaled." in finding.remedy
    host.snapshot = card_for(folder / LARGE, 0.1)
    assert [f for f in manager.check(LARGE).findings if f.code == "way_out"] == []


def test_apple_is_not_told_to_make_fp8(manager: AdvancedModelManager, host: Machine, folder: Path) -> None:
    host.snapshot = replace(card_for(folder / LARGE, 0.7), device="mps", layer_formats=None)
    assert "fp8_e4m3fn_scaled" not in [v["format"] for v in advice(manager)["could_make"]]


def test_another_fine_tune_is_named_as_such_and_not_taken(
    manager: AdvancedModelManager, host: Machine, folder: Path
) -> None:
    host.snapshot = card_for(folder / LARGE, 0.7)
    tune = folder / "anime_v3.safetensors"
    shutil.move(manager.quantize_model(LARGE, format="int8", output_name="x")["path"], tune)
    write_random_model(folder / LARGE, WAN, seed=1, dtype="F32")  # the original of that is gone
    found = advice(manager)
    assert {v["name"]: v["link"] for v in found["list"]}[tune.name] == "same_layout"
    assert found["way_out"]["best"] is None
    assert found["way_out"]["maybe"]["name"] == tune.name
    assert swap_facts(found) is None
    assert "maybe another fine-tune" in render_check(manager.check(LARGE).to_dict())
    manager.register_model(ModelInfo("wan", ModelType.DIFFUSION, folder / LARGE, version="1.0"))
    manager.register_model(ModelInfo("wan", ModelType.DIFFUSION, tune, version="1.0+int8"))
    found = advice(manager)
    assert (found["way_out"]["best"]["name"], found["way_out"]["best"]["link"]) == (tune.name, "registered")


def test_other_models_of_the_folder_are_no_variants(
    manager: AdvancedModelManager, folder: Path, host: Machine
) -> None:
    write_random_model(folder / "flux.safetensors", layouts.flux(width=128, double=1, single=1))
    shapes_file(folder / "wan_i2v.safetensors", WAN | {"patch_embedding.weight": (128, 36, 1, 2, 2)})
    shapes_file(folder / "wan_14b.safetensors", layouts.wan21_t2v(width=256, ffn=1024, layers=8))
    (folder / "wan_broken.safetensors").write_bytes((folder / LARGE).read_bytes()[:-5])
    (folder / "wan.gguf").write_bytes(b"GGUF" + bytes(2 * MB))
    os.symlink(folder / "nowhere", folder / "dangling.safetensors")
    assert names(advice(manager)["list"]) == [LARGE]
    assert "Variants of this model" not in render_check(manager.check(LARGE).to_dict())


def test_a_file_of_ones_own_is_compared_with_what_lies_beside_it(tmp_path: Path, folder: Path) -> None:
    manager = AdvancedModelManager(host=LocalHost())
    manager.quantize_model(str(folder / LARGE), format="int8")
    found = manager.check(str(folder / LARGE)).to_dict()["variants"]
    assert sorted(names(found["list"])) == [LARGE, INT8]


def test_a_lora_has_no_variants(manager: AdvancedModelManager, folder: Path) -> None:
    shapes_file(folder / "lora.safetensors", {"blocks.0.lora_down.weight": (4, 8)})
    assert "variants" not in manager.check("lora.safetensors").to_dict()


def test_a_checkpoint_has_variants_too(host: Machine, folder: Path) -> None:
    checkpoints = folder.parent / "checkpoints"
    checkpoints.mkdir()
    write_random_model(checkpoints / "sd_bf16.safetensors", layouts.sd15_checkpoint(1))
    manager = AdvancedModelManager(host=host)
    manager.quantize_model("sd_bf16.safetensors", format="int8")
    host.snapshot = card_for(checkpoints / "sd_bf16.safetensors", 0.9)
    found = advice(manager, "sd_bf16.safetensors")
    assert found["way_out"]["best"]["name"] == "sd_int8.safetensors"
    assert swap_facts(found) == {
        "folder": "checkpoints",
        "from": "sd_bf16.safetensors",
        "from_option": "sd_bf16.safetensors",
        "to": "sd_int8.safetensors",
        "to_option": "sd_int8.safetensors",
    }


def test_names_in_two_folders_are_swapped_by_folder_and_name(
    manager: AdvancedModelManager, host: Machine, folder: Path
) -> None:
    manager.quantize_model(LARGE, format="int8")
    (folder.parent / "checkpoints").mkdir()
    write_random_model(folder.parent / "checkpoints" / INT8, layouts.sd15_checkpoint(1))
    host.snapshot = card_for(folder / LARGE, 0.7)
    facts = swap_facts(advice(manager))
    assert facts is not None
    assert (facts["to"], facts["to_option"]) == (INT8, os.path.join("diffusion_models", INT8))


# Loading


def load(manager: AdvancedModelManager, folder: Path, name: str = LARGE, **options: Any) -> dict[str, Any]:
    path = folder / name
    return manager.loader.load(
        name, path, on_misfit="use_smaller", folder="diffusion_models", **options
    ).details


def test_a_model_that_fits_is_loaded_itself(
    manager: AdvancedModelManager, host: Machine, folder: Path
) -> None:
    manager.quantize_model(LARGE, format="int8")
    host.snapshot = nvidia()
    details = load(manager, folder)
    assert details["instead"] is None
    assert [r.path.name for r in host.requests] == [LARGE]
    assert "Taken instead" not in render_load(details)


def test_the_best_variant_that_fits_is_taken_and_the_report_says_why(
    manager: AdvancedModelManager, host: Machine, folder: Path
) -> None:
    for target in ("fp8_e4m3fn_scaled", "int8"):
        manager.quantize_model(LARGE, format=target)
    host.snapshot = card_for(folder / LARGE, 0.7)
    details = load(manager, folder)
    assert details["model"] == INT8
    assert [r.path.name for r in host.requests] == [INT8]
    words = render_load(details)
    assert f"Taken instead of {LARGE}, which does not fit: its weights take" in words
    assert "of VRAM is there for them" in words


def test_a_declared_need_counts_like_a_counted_one(
    manager: AdvancedModelManager, host: Machine, folder: Path
) -> None:
    manager.quantize_model(LARGE, format="int8")
    manager.register_model(ModelInfo("wan", ModelType.DIFFUSION, folder / LARGE, min_ram_gb=900.0))
    details = load(manager, folder)
    assert details["model"] == INT8
    assert details["instead"]["why"] == "it needs 900.0 GB of RAM, and this machine has 23.5 GB"


def test_without_a_variant_that_fits_nothing_is_loaded_and_what_can_be_made_is_named(
    manager: AdvancedModelManager, host: Machine, folder: Path
) -> None:
    host.snapshot = card_for(folder / LARGE, 0.7)
    with pytest.raises(Incompatible, match="no variant of it that does is installed") as caught:
        load(manager, folder)
    assert "Make it with Quantize Model, format int8: about " in caught.value.remedy
    assert "Set on_misfit to warn" in caught.value.remedy
    host.snapshot = card_for(folder / LARGE, 0.1)
    with pytest.raises(Incompatible, match="no variant") as caught:
        load(manager, folder)
    assert "Nothing that Quantize Model makes of it would fit" in caught.value.remedy
    assert host.requests == []


def test_a_quantized_file_without_its_original_says_what_is_missing(
    manager: AdvancedModelManager, host: Machine, folder: Path
) -> None:
    manager.quantize_model(LARGE, format="int8")
    (folder / LARGE).unlink()
    host.snapshot = card_for(folder / INT8, 0.5)
    with pytest.raises(Incompatible) as caught:
        load(manager, folder, INT8)
    assert "none is here" in caught.value.remedy


def test_what_no_variant_can_help_with_is_said(
    manager: AdvancedModelManager, host: Machine, folder: Path
) -> None:
    manager.quantize_model(LARGE, format="int8")
    manager.register_model(ModelInfo("wan", ModelType.DIFFUSION, folder / LARGE, required_extensions=["x"]))
    with pytest.raises(Incompatible, match="no variant of it would: it needs the ComfyUI extension x"):
        load(manager, folder)
    assert host.requests == []


def test_a_layout_that_would_be_noise_is_replaced_by_what_the_host_reads(
    manager: AdvancedModelManager, host: Machine, folder: Path
) -> None:
    manager.quantize_model(LARGE, format="int8")
    host.snapshot = replace(nvidia(), layer_formats=frozenset())
    assert load(manager, folder, INT8)["model"] == LARGE


def test_the_choice_is_stable_once_the_model_is_loaded(
    manager: AdvancedModelManager, host: Machine, folder: Path
) -> None:
    """Its own weights have used up the RAM that was available: it fits all the same."""
    manager.quantize_model(LARGE, format="int8")
    need = manager.check(LARGE).to_dict()["variants"]["subject"]["room"]["needed_bytes"]
    host.snapshot = replace(CPU_ONLY, available_ram_bytes=need - 1000)
    file = ModelFile("diffusion_models", LARGE, folder / LARGE)
    assert manager.loader.choose(file).file.name == INT8
    loaded = manager.loader.load(LARGE, folder / LARGE, folder="diffusion_models")
    assert manager.loader.choose(file).file.name == LARGE
    del loaded


def test_a_variant_that_appears_is_chosen_from_then_on(
    manager: AdvancedModelManager, host: Machine, folder: Path
) -> None:
    host.snapshot = card_for(folder / LARGE, 0.7)
    file = ModelFile("diffusion_models", LARGE, folder / LARGE)
    with pytest.raises(Incompatible):
        manager.loader.choose(file)
    manager.quantize_model(LARGE, format="fp8_e4m3fn_scaled")
    assert manager.loader.choose(file).file.name == FP8
    manager.quantize_model(LARGE, format="int8")
    assert manager.loader.choose(file).file.name == INT8
    (folder / INT8).unlink()
    assert manager.loader.choose(file).file.name == FP8


@pytest.mark.parametrize(
    ("machine", "installed", "best", "make"),
    [
        (nvidia(31.5), ["fp8"], None, None),  # all of it fits
        (nvidia(23.6), ["fp8"], "wan_14b_fp8.safetensors", None),
        (nvidia(23.6, cards=4), ["fp8"], "wan_14b_fp8.safetensors", None),
        (nvidia(23.6), [], None, "int8_convrot"),
        (nvidia(15.6, "8.6"), [], None, "int8_convrot"),
        (nvidia(11.6, "8.6"), ["fp8"], None, "w4a8"),  # 8 bits are 13.3 GB
        (SMALL_WINDOWS, ["fp8"], None, "w4a4"),
        (ROCM, [], None, "int8_convrot"),
        (APPLE, [], None, None),
        (replace(APPLE, gpus=(replace(APPLE.gpus[0], total_bytes=16 * GB),)), [], None, "int8_convrot"),
        (CPU_ONLY, ["fp8"], "wan_14b_fp8.safetensors", None),
        (CPU_ONLY, [], None, "int8_convrot"),
    ],
)
def test_the_way_out_of_a_14b_model_on_machines_that_nobody_here_has(
    host: Machine,
    folder: Path,
    machine: SystemSnapshot,
    installed: list[str],
    best: str | None,
    make: str | None,
) -> None:
    """Decided on snapshots; nothing of it was measured on such machines."""
    large = layouts.wan21_t2v(width=5120, ffn=13824, layers=40)
    shapes_file(folder / "wan_14b_bf16.safetensors", large)
    if "fp8" in installed:
        layers = [n for n in large if n.startswith("blocks.") and n.endswith("weight") and len(large[n]) == 2]
        marker = {"layers": {n.removesuffix(".weight"): {"format": "float8_e4m3fn"} for n in layers}}
        shapes_file(
            folder / "wan_14b_fp8.safetensors",
            large | {f"{n}_scale": () for n in layers},
            dict.fromkeys(layers, "F8_E4M3") | {f"{n}_scale": "F32" for n in layers},
            {"_quantization_metadata": json.dumps(marker)},
        )
    host.snapshot = machine
    found = advice(AdvancedModelManager(host=host), "wan_14b_bf16.safetensors")["way_out"]
    assert (found["best"]["name"] if found["best"] else None) == best
    assert (found["make"]["format"] if found["make"] else None) == make


def test_a_14b_header_is_planned_from_its_header_alone(tmp_path: Path, host: Machine, folder: Path) -> None:
    large = layouts.wan21_t2v(width=5120, ffn=13824, layers=40)
    shapes_file(folder / "wan_14b_bf16.safetensors", large)
    host.snapshot = nvidia(16.0)
    found = advice(AdvancedModelManager(host=host), "wan_14b_bf16.safetensors")
    assert found["subject"]["room"]["needed_bytes"] > 26 * GB
    assert found["way_out"]["make"]["format"] == "int8_convrot"
    assert 13 * GB < found["way_out"]["make"]["size_bytes"] < 14.5 * GB
