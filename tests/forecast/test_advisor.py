"""The forecast of real files through the checking: facts gathered, details complete, words for people."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from managed_models.manager import AdvancedModelManager
from managed_models.manager.check_options import CheckOptions, options_from, resolve_companions
from managed_models.manager.compatibility import CompatibilityReport
from managed_models.manager.demo import layouts
from managed_models.manager.errors import BadInput
from managed_models.manager.files import FileIdentity
from managed_models.manager.forecast.advisor import Forecaster, latent_shape, size_of
from managed_models.manager.forecast.facts import Confidence, Footprint, Latent, VaeFootprint
from managed_models.manager.forecast.table import USUAL, usual_size
from managed_models.manager.formats.safetensors import Header
from managed_models.manager.host import DeviceUse, SystemSnapshot
from managed_models.manager.identify.architectures import ARCHITECTURES
from managed_models.manager.local_host import LocalHost
from managed_models.manager.quantize.request import QuantizeRequest
from managed_models.manager.registry import PeakKey
from managed_models.manager.report import render_check
from managed_models.manager.units import GB, MB
from managed_models.manager.words.forecast import forecast_lines
from support.files import raw_file, shapes_file
from support.machines import APPLE, CPU_ONLY, ROCM, SMALL_WINDOWS

WAN = layouts.wan21_t2v(5120, 13824, 40)
CARD = "AMD Radeon RX 7900 XTX"


class Machine(LocalHost):
    """A machine of another kind, with a ComfyUI that answers as 0.33 does about a 14B Wan."""

    def __init__(self, snapshot: SystemSnapshot) -> None:
        super().__init__()
        self.snapshot = snapshot
        self.asked: list[str] = []

    def system(self) -> SystemSnapshot:
        return self.snapshot

    def vram_reserve(self) -> int:
        return 600 * MB

    def ram_headroom(self) -> int:
        return int(min(10 * GB, max(2 * GB, self.snapshot.total_ram_bytes * 0.1)))

    def device_use(self) -> list[DeviceUse]:
        return [
            DeviceUse(f"cuda:{i}", gpu.name, gpu.total_bytes, gpu.free_bytes, None, None)
            for i, gpu in enumerate(self.snapshot.gpus)
        ]

    def footprint(self, header: Header, weight_dtype: str) -> Footprint | None:
        self.asked.append(weight_dtype)
        found = super().footprint(header, weight_dtype)
        if found is None:
            return None
        on_cpu = not self.snapshot.gpus
        wide = on_cpu and weight_dtype == "default"
        return replace(
            found,
            confidence=Confidence.EXACT,
            weight_dtype="fp32" if wide else "fp16",
            compute_dtype="fp32" if on_cpu else "fp16",
            bytes_per_position=(4 if on_cpu else 2) * 0.01 * 5120 / 2222 * MB,
            mapped=self.snapshot.device == "cuda",
            source=self.snapshot.host,
        )

    def vae_footprint(
        self, header: Header, latent: tuple[int, ...] | None, prefix: str = ""
    ) -> VaeFootprint | None:
        decode = None if latent is None else int(16.7 * GB)
        return VaeFootprint(250 * MB, Confidence.EXACT, decode, int(2.7 * GB), "bf16")


@pytest.fixture
def wan(tmp_path: Path) -> Path:
    return shapes_file(tmp_path / "wan_high.safetensors", WAN, "F16")


@pytest.fixture
def vae(tmp_path: Path) -> Path:
    shapes = {"decoder.conv1.weight": (384, 16, 3, 3, 3), "decoder.middle.0.residual.0.gamma": (384, 1, 1, 1)}
    return shapes_file(tmp_path / "wan_vae.safetensors", shapes)


def check(
    path: Path, system: SystemSnapshot = ROCM, host: Machine | None = None, **options: Any
) -> CompatibilityReport:
    return AdvancedModelManager(host=host or Machine(system)).check(str(path), CheckOptions(**options))


def forecast_of(report: CompatibilityReport) -> dict[str, Any]:
    details = json.loads(json.dumps(report.to_dict()))
    return dict(details["forecast"])


def codes(report: CompatibilityReport) -> set[str]:
    return {finding.code for finding in report.findings}


# What is asked


def test_the_usual_size_is_the_architectures(wan: Path) -> None:
    found = forecast_of(check(wan))
    assert found["size"] == {"width": 832, "height": 480, "length": 81, "batch_size": 1, "usual": True}
    assert found["latent"] == [1, 16, 21, 60, 104]


def test_a_size_that_is_asked_for_counts(wan: Path) -> None:
    found = forecast_of(check(wan, width=1280, height=720, length=121, batch_size=2))
    assert found["size"]["usual"] is False
    assert found["latent"] == [2, 16, 31, 90, 160]


@pytest.mark.parametrize("architecture", sorted(USUAL))
def test_every_usual_size_has_a_latent(architecture: str) -> None:
    size = size_of(CheckOptions(), architecture, None)
    assert size is not None
    shape = latent_shape(size, architecture, None)
    assert shape is not None
    assert all(length >= 1 for length in shape)
    assert USUAL[architecture].width % USUAL[architecture].latent.spatial == 0


def test_the_table_names_architectures_that_exist() -> None:
    assert USUAL.keys() <= {row.id for row in ARCHITECTURES}
    for architecture in ("wan2.2-i2v-14b", "hunyuan-video", "flux-dev", "sd1.5", "sdxl", "qwen-image"):
        assert usual_size(architecture)


def test_an_unknown_architecture_has_no_size_unless_one_is_given() -> None:
    model = Footprint(GB, Confidence.EXACT, latent=Latent(16, 2, 8))
    assert size_of(CheckOptions(), "new", model) is None
    assert size_of(CheckOptions(width=512, height=512), "new", None) is None
    size = size_of(CheckOptions(width=512), "new", model)
    assert latent_shape(size, "new", model) == (1, 16, 64, 64)


def test_options_come_from_what_a_door_was_given(tmp_path: Path) -> None:
    def find(name: str, folders: Any) -> Path:
        return tmp_path / folders[0] / name

    given = {"width": 640, "weight_dtype": None, "vae": "a.safetensors", "clip": "none", "model": "ignored"}
    options = options_from(given, find)
    assert options == CheckOptions(width=640, companions={"vae": tmp_path / "vae" / "a.safetensors"})
    assert resolve_companions({"clip": "", "lora": "none"}, find) == {}
    with pytest.raises(BadInput, match="vae is 3"):
        options_from({"vae": 3}, find)


# What is answered


def test_the_forecast_replaces_what_the_file_alone_suggests(wan: Path) -> None:
    report = check(wan, ROCM)
    assert "streams_from_ram" in codes(report)
    assert not codes(report) & {"offloaded", "larger_than_memory"}


def test_a_cpu_that_cannot_load_it_is_told_what_would_help(wan: Path) -> None:
    host = Machine(CPU_ONLY)
    report = check(wan, host=host)
    assert not report.compatible
    finding = next(f for f in report.findings if f.code == "will_not_run")
    assert "weight_dtype to as_stored: the weights then take 26.6 GB instead of 53.2 GB" in finding.remedy
    assert forecast_of(report)["load_anyway"] is True
    assert check(wan, host=host, weight_dtype="fp8_e4m3fn").compatible


def test_a_vae_and_a_text_encoder_are_phases(wan: Path, vae: Path, tmp_path: Path) -> None:
    clip = shapes_file(tmp_path / "t5.safetensors", {"a": (1000, 1000), "b": (1000, 1000)}, {"a": "F32"})
    found = forecast_of(check(wan, SMALL_WINDOWS, companions={"vae": vae, "clip": clip}))
    encode, _, decode = found["phases"]
    assert encode["weights"] == {"bytes": 4_000_000, "confidence": "modelled"}  # fp32 becomes 16 bits
    assert decode["placement"] == "fits_in_tiles"


def test_a_pair_has_a_timeline(wan: Path, tmp_path: Path) -> None:
    low = shapes_file(tmp_path / "wan_low.safetensors", WAN, "F16")
    report = check(wan, SMALL_WINDOWS, companions={"second_model": low})
    assert forecast_of(report)["timeline"]["release_first"] is True
    assert "release_first_model" in codes(report)
    assert "release_first_model" not in codes(check(wan, companions={"second_model": low}))


def test_a_second_model_that_cannot_be_read_is_a_problem(wan: Path, tmp_path: Path) -> None:
    broken = raw_file(tmp_path / "low.safetensors", "{")
    report = check(wan, companions={"second_model": broken})
    assert "second_model_unreadable" in codes(report)
    assert not report.compatible
    assert forecast_of(report)["timeline"] is None


def test_a_second_model_of_another_kind_says_nothing_about_a_pair(wan: Path, vae: Path) -> None:
    report = check(wan, companions={"second_model": vae})
    assert "second_model_unknown" in codes(report)
    assert forecast_of(report)["timeline"] is None


def test_a_lora_has_no_forecast(tmp_path: Path) -> None:
    shapes = {"diffusion_model.blocks.0.self_attn.q.lora_A.weight": (16, 64)}
    shapes |= {"diffusion_model.blocks.0.self_attn.q.lora_B.weight": (64, 16)}
    report = check(shapes_file(tmp_path / "ink.safetensors", shapes))
    assert "forecast" not in report.to_dict()


def test_the_host_is_asked_once_for_each_file_and_type(wan: Path) -> None:
    host = Machine(ROCM)
    manager = AdvancedModelManager(host=host)
    for _ in range(3):
        manager.check(str(wan))
    assert host.asked == ["default"]
    manager.check(str(wan), CheckOptions(weight_dtype="fp8_e4m3fn"))
    assert host.asked == ["default", "fp8_e4m3fn"]


# What was measured


@pytest.mark.parametrize(
    ("change", "matches"),
    [
        ({}, True),
        ({"options": f"static, {28_577_116_416} bytes"}, False),
        ({"options": "diffusion, fp8_e4m3fn, default"}, False),
        ({"shape": "1x16x21x90x160"}, False),
        ({"device": "another card"}, False),
        ({"comfyui_version": "0.32.0"}, False),
        ({"torch_version": "2.4.0"}, False),
    ],
)
def test_only_a_run_of_the_same_kind_counts(wan: Path, change: dict[str, str], matches: bool) -> None:
    host = Machine(ROCM)
    manager = AdvancedModelManager(host=host)
    known = {
        "options": "diffusion, default, default",
        "shape": "1x16x21x60x104",
        "device": CARD,
        "comfyui_version": "0.33.0",
        "torch_version": "2.11.0",
    }
    key = PeakKey(FileIdentity.of(wan), **{**known, **change})
    manager.registry.put_peak(key, 23 * GB, 30 * GB)
    phase = forecast_of(manager.check(str(wan)))["phases"][1]
    assert (phase["measured_runs"] == 1) is matches
    assert (phase["vram_needed"]["confidence"] == "measured") is matches


def test_a_run_that_another_loader_measured_counts_by_its_bytes(wan: Path) -> None:
    manager = AdvancedModelManager(host=Machine(ROCM))
    weights = forecast_of(manager.check(str(wan)))["model"]["weight_bytes"]
    options = f"static, {weights} bytes"
    key = PeakKey(FileIdentity.of(wan), options, "1x16x21x60x104", CARD, "0.33.0", "2.11.0")
    manager.registry.put_peak(key, 23 * GB, None)
    assert forecast_of(manager.check(str(wan)))["phases"][1]["measured_runs"] == 1


# Without ComfyUI


def test_without_comfyui_only_what_is_known_is_said(wan: Path) -> None:
    report = AdvancedModelManager().check(str(wan))
    found = forecast_of(report)
    assert found["model"]["confidence"] == "modelled"
    assert found["model"]["weight_dtype"] == "unknown"
    assert found["phases"][1]["working"] is None
    words = render_check(report.to_dict())
    assert "Host unknown" in words
    assert "working memory is not known without ComfyUI" in words


# Words


def test_the_words_of_a_forecast(wan: Path, vae: Path) -> None:
    companions = {"vae": vae, "second_model": wan}
    details = check(wan, SMALL_WINDOWS, companions=companions).to_dict()["forecast"]
    assert forecast_lines(details) == [
        "  Forecast for 832 x 480, 81 frames, this model's usual size:",
        "    Weights in memory: 26.6 GB as fp16 (exact)",
        "    Text encoding: not known; name the text encoder (clip_name, or --clip) to learn it",
        "    Sampling: runs from the disk, very slowly; VRAM for all of it 32.5 GB (modelled), usable 7.0 GB"
        "; RAM 25.5 GB (modelled), usable 13.8 GB; 13.8 GB travel from RAM and 11.7 GB from the disk at "
        "every step",
        "    Decoding into pictures: fits in tiles; VRAM for all of it 16.9 GB (modelled), usable 7.0 GB; "
        "in tiles about 2.7 GB",
        "    Two models in turn, 53.2 GB (exact) together, more than 13.8 GB of RAM:",
        "      1. first model (high noise): load it and sample",
        "      2. switch: let the first model go, and only then load the second",
        "      3. second model (low noise): sample; at most 26.6 GB of RAM at any time",
        "    Figures marked modelled are estimates, not measured on a GPU yet; runs on this machine replace "
        "them.",
    ]


def test_an_unknown_size_asks_for_one() -> None:
    details = {
        "size": None,
        "model": None,
        "kernel": {
            "format": "nvfp4",
            "status": "native",
            "reason": "comfy-kitchen's cuda kernels run",
        },
        "phases": [],
        "timeline": None,
    }
    assert forecast_lines(details) == [
        "  Forecast (its usual size is not known: give width and height):",
        "    nvfp4 layers: computed as they are (comfy-kitchen's cuda kernels run)",
    ]


# How large a variant may be


def room_of(path: Path, system: SystemSnapshot) -> int | None:
    manager = AdvancedModelManager(host=Machine(system))
    forecaster = Forecaster(manager.host, manager.registry, lambda: None)
    return forecaster.file_room(path, manager.library.identity(path))


def test_a_variant_has_the_cards_memory_less_what_is_computed_with(wan: Path) -> None:
    room = room_of(wan, ROCM)
    card = max(gpu.total_bytes for gpu in ROCM.gpus)
    assert room is not None
    working = round(21 * 60 * 104 * 2 * 0.01 * 5120 / 2222 * MB)  # Wan's usual 832 x 480, 81 frames
    header = wan.stat().st_size - sum(map(_bytes, WAN.values()))
    assert room == pytest.approx(card - 600 * MB - working + header, abs=2)
    assert room_of(wan, SMALL_WINDOWS) < room  # type: ignore[operator]


def test_a_checkpoints_other_parts_come_on_top(tmp_path: Path) -> None:
    shapes = layouts.sd15_checkpoint(depth=1)
    alone = {k: v for k, v in shapes.items() if k.startswith("model.diffusion_model.")}
    checkpoint = shapes_file(tmp_path / "sd.safetensors", shapes)
    model = shapes_file(tmp_path / "unet.safetensors", alone)
    more = room_of(checkpoint, ROCM) - room_of(model, ROCM)  # type: ignore[operator]
    other = sum(_bytes(shape) for name, shape in shapes.items() if name not in alone)
    assert other <= more < other + 100_000  # a longer header, too


def _bytes(shape: tuple[int, ...]) -> int:
    count = 2
    for dimension in shape:
        count *= dimension
    return count


def test_without_video_memory_of_its_own_nothing_is_said(wan: Path) -> None:
    assert room_of(wan, CPU_ONLY) is None
    assert room_of(wan, APPLE) is None


def test_a_size_budget_of_nothing_is_what_fits_the_card(wan: Path) -> None:
    manager = AdvancedModelManager(host=Machine(ROCM))
    request = QuantizeRequest(policy="size_budget")
    room = room_of(wan, ROCM)
    assert room is not None
    name = manager.quantizer.output_path(wan, request).name
    assert name == f"wan_high_mixed_{room / GB:.3f}".rstrip("0").rstrip(".") + "gb.safetensors"
    with pytest.raises(BadInput, match="no GPU is known here"):
        AdvancedModelManager(host=Machine(CPU_ONLY)).quantizer.output_path(wan, request)
