"""Where a model goes, on machines that nobody here has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from managed_models.manager.demo import layouts
from managed_models.manager.formats.safetensors import read_header
from managed_models.manager.host import DeviceUse, SystemSnapshot
from managed_models.manager.identify import identify
from managed_models.manager.model import ModelType
from managed_models.manager.placement import (
    WeightSizes,
    Wish,
    canonical_device,
    place,
    weight_sizes,
)
from managed_models.manager.units import GB
from support.files import shapes_file
from support.machines import APPLE, CPU_ONLY, ROCM, SMALL_WINDOWS, nvidia

FOUR = nvidia(24.0, cards=4)
MACHINES = {
    "cpu": CPU_ONLY,
    "8 GB of VRAM": SMALL_WINDOWS,
    "24 GB of VRAM": nvidia(24.0),
    "Apple": APPLE,
    "ROCm": ROCM,
    "four cards": FOUR,
}
WAN_14B = 28 * GB  # in 16 bits


def names(system: SystemSnapshot) -> tuple[str, ...]:
    """The devices of a machine as ComfyUI names them: ROCm's cards are torch's cuda."""
    if system.device == "mps":
        return ("mps", "cpu")
    kind = {"rocm": "cuda"}.get(system.device, system.device)
    return (*(f"{kind}:{i}" for i in range(len(system.gpus))), "cpu")


def wish(
    system: SystemSnapshot,
    weights: int,
    device: str = "default",
    free: tuple[float, ...] | None = None,
    kind: ModelType = ModelType.DIFFUSION,
    **more: object,
) -> Wish:
    """Ask for a model whose weights are in 16 bits; ``free`` in GB by card, what PyTorch took unknown."""
    frees = [gpu.free_bytes for gpu in system.gpus] if free is None else [int(gb * GB) for gb in free]
    uses = tuple(
        DeviceUse(name, gpu.name, gpu.total_bytes, left, None, None)
        for name, gpu, left in zip(names(system), system.gpus, frees, strict=False)
    )
    wanted = Wish(
        device=device,
        kind=kind,
        sizes=WeightSizes(weights, 2 * weights, weights),
        devices=names(system),
        uses=uses,
        available_ram=system.available_ram_bytes,
    )
    return replace(wanted, **more)  # type: ignore[arg-type]


# The host's own choice


@pytest.mark.parametrize("machine", MACHINES)
def test_a_model_that_fits_goes_where_the_host_puts_it(machine: str) -> None:
    assert place(wish(MACHINES[machine], 4 * GB)) == ("default", ())


@pytest.mark.parametrize("machine", ["8 GB of VRAM", "24 GB of VRAM", "ROCm"])
def test_one_card_that_is_too_small_streams_and_says_so(machine: str) -> None:
    device, (note,) = place(wish(MACHINES[machine], WAN_14B))
    assert device == "default"
    assert "keeps the rest in RAM" in note
    assert "32.0 GB would be used" in note
    assert "free" in note


def test_apples_memory_is_the_machines() -> None:
    device, (note,) = place(wish(APPLE, WAN_14B))
    assert device == "default"
    assert "swap" in note
    assert "slower" not in note


def test_room_that_comfyui_makes_by_itself_needs_no_note() -> None:
    busy = wish(nvidia(24.0), 12 * GB, free=(2.0,))
    assert place(busy).notes != ()
    ours = replace(busy.uses[0], torch_bytes=20 * GB)
    assert place(replace(busy, uses=(ours,))) == ("default", ())


def test_a_card_that_cannot_hold_the_working_memory_leaves_the_model_to_the_cpu() -> None:
    tiny = nvidia(1.9, "6.1", ram_gb=64.0)
    device, (note,) = place(wish(tiny, 3 * GB))
    assert device == "cpu"
    assert "too small to be of use" in note
    assert place(wish(tiny, 3 * GB, available_ram=1 * GB)).device == "default"
    assert place(wish(tiny, int(0.2 * GB))) == ("default", ())


# Several cards


def test_of_four_cards_the_one_with_room_is_taken() -> None:
    device, (note,) = place(wish(FOUR, 14 * GB, free=(3.0, 3.0, 22.0, 18.0)))
    assert device == "cuda:2"
    assert note.startswith("cuda:2 (NVIDIA GeForce) has room for it; cuda:0 (NVIDIA GeForce) has 3.0 GB")


def test_without_a_free_card_the_hosts_own_is_cleared() -> None:
    full = wish(FOUR, 14 * GB, free=(3.0, 3.0, 2.0, 1.0))
    cleared = tuple(replace(use, torch_bytes=20 * GB) for use in full.uses)
    assert place(replace(full, uses=cleared)) == ("default", ())


def test_where_nothing_fits_the_largest_card_streams() -> None:
    uses = tuple(
        DeviceUse(f"cuda:{i}", name, total * GB, total * GB, None, None)
        for i, (name, total) in enumerate((("Small", 4), ("Large", 24)))
    )
    device, notes = place(wish(FOUR, WAN_14B, uses=uses, devices=("cuda:0", "cuda:1", "cpu")))
    assert device == "cuda:1"
    assert "more room than cuda:0 (Small)" in notes[0]
    assert "keeps the rest in RAM" in notes[1]


@pytest.mark.parametrize("kind", [ModelType.TEXT_ENCODER, ModelType.VAE])
def test_text_encoders_and_vaes_are_left_to_the_host(kind: ModelType) -> None:
    assert place(wish(FOUR, 14 * GB, free=(1.0, 22.0, 22.0, 22.0), kind=kind)) == ("default", ())


# What a person chose


def test_a_chosen_card_is_taken_even_where_it_has_to_stream() -> None:
    assert place(wish(FOUR, 4 * GB, "cuda:3")) == ("cuda:3", ())
    device, (note,) = place(wish(FOUR, WAN_14B, "cuda:3"))
    assert device == "cuda:3"
    assert note.startswith("cuda:3")


def test_the_cpu_can_be_chosen() -> None:
    assert place(wish(nvidia(ram_gb=128.0), 4 * GB, "cpu")) == ("cpu", ())


@pytest.mark.parametrize("machine", MACHINES)
def test_a_device_that_is_not_here_falls_back_with_a_warning(machine: str) -> None:
    device, (note,) = place(wish(MACHINES[machine], 1 * GB, "xpu:7"))
    assert device == "default"
    assert "xpu:7 is not on this machine" in note
    assert names(MACHINES[machine])[0] in note


def test_an_old_host_chooses_by_itself_and_says_so() -> None:
    device, (note,) = place(wish(FOUR, 4 * GB, "cuda:2", obeyed=False))
    assert device == "default"
    assert "0.33" in note
    full = wish(FOUR, 14 * GB, free=(1.0, 22.0, 22.0, 22.0), obeyed=False)
    assert place(full).device == "default"


def test_naming_the_hosts_own_choice_asks_for_the_same_copy() -> None:
    assert place(wish(FOUR, 4 * GB, "cuda:0")).device == "default"
    assert place(wish(CPU_ONLY, 4 * GB, "cpu")).device == "default"
    assert canonical_device("cuda:0", ModelType.VAE, names(FOUR)) == "cuda:0"  # --cpu-vae may say otherwise
    assert canonical_device("cpu", ModelType.VAE, ("cpu",)) == "default"


# RAM


def test_a_14b_model_fits_a_cpu_as_stored_where_its_wide_form_does_not() -> None:
    machine = replace(CPU_ONLY, available_ram_bytes=40 * GB)
    device, (note,) = place(wish(machine, WAN_14B))
    assert device == "default"
    assert "56.0 GB, and 40.0 GB of RAM is available" in note
    assert "as_stored to keep them at 28.0 GB." in note
    stored = wish(machine, WAN_14B, sizes=WeightSizes(WAN_14B, WAN_14B, WAN_14B))
    assert place(stored) == ("default", ())


def test_where_even_the_stored_form_does_not_fit_a_smaller_variant_is_named() -> None:
    (note,) = place(wish(CPU_ONLY, WAN_14B)).notes
    assert "as_stored" in note
    assert "smaller variant" in note
    (note,) = place(wish(CPU_ONLY, 0, sizes=WeightSizes(WAN_14B, WAN_14B, WAN_14B))).notes
    assert "as_stored" not in note
    assert "smaller variant" in note


# Laws

SIZES = st.integers(0, 80 * GB)
WISHES = st.builds(
    wish,
    st.sampled_from(list(MACHINES.values())),
    SIZES,
    st.sampled_from(["default", "cpu", "cuda:0", "cuda:2", "mps", "xpu:9"]),
    st.one_of(st.none(), st.tuples(*[st.floats(0, 24)] * 4)),
    st.sampled_from([ModelType.DIFFUSION, ModelType.CHECKPOINT, ModelType.TEXT_ENCODER, ModelType.VAE]),
    obeyed=st.booleans(),
    available_ram=SIZES,
)


@given(WISHES)
def test_the_place_exists_and_asking_again_changes_nothing(wanted: Wish) -> None:
    found = place(wanted)
    assert found.device in ("default", *wanted.devices)
    assert place(wanted) == found


@given(WISHES)
def test_a_choice_that_is_here_is_kept(wanted: Wish) -> None:
    found = place(wanted)
    if wanted.device in wanted.devices and wanted.obeyed:
        assert found.device == canonical_device(wanted.device, wanted.kind, wanted.devices)
    if not wanted.obeyed:
        assert found.device == "default"


@given(WISHES)
def test_whatever_differs_from_what_was_asked_has_its_reason(wanted: Wish) -> None:
    found = place(wanted)
    asked = canonical_device(wanted.device, wanted.kind, wanted.devices)
    if found.device != asked:
        assert found.notes


@given(WISHES)
def test_a_model_never_leaves_a_card_with_room_for_one_without(wanted: Wish) -> None:
    found = place(replace(wanted, device="default"))
    needed = int(wanted.sizes.on_gpu * 1.1) + int(1.2 * GB)
    free = {use.device: use.free_bytes or 0 for use in wanted.uses}
    if found.device in free and any(room >= needed for room in free.values()):
        assert free[found.device] >= needed
    if wanted.devices[0] in free and free[wanted.devices[0]] >= needed:
        assert found == ("default", ())


# How large weights become


@pytest.mark.parametrize(
    ("stored", "weight_dtype", "expected"),
    [
        ("BF16", "default", (2, 4, 2)),
        ("BF16", "as_stored", (2, 2, 2)),
        ("BF16", "fp8_e4m3fn", (1, 1, 1)),
        ("BF16", "fp8_e4m3fn_fast", (1, 1, 1)),
        ("BF16", "fp32", (4, 4, 4)),
        ("F32", "default", (2, 4, 4)),
        ("F8_E4M3", "default", (1, 4, 1)),
        ("F8_E4M3", "bf16", (2, 2, 2)),
    ],
)
def test_bytes_per_weight(
    tmp_path: Path, stored: str, weight_dtype: str, expected: tuple[int, int, int]
) -> None:
    path = shapes_file(tmp_path / "wan.safetensors", layouts.wan21_t2v(64, 128, 1), stored)
    identity = identify(read_header(path))
    found = weight_sizes(identity, path.stat().st_size, weight_dtype)
    header = path.stat().st_size - identity.weight_bytes
    assert [round((size - header) / identity.parameters, 2) for size in found] == list(expected)


def test_what_is_quantized_or_unknown_stays_as_it_is(tmp_path: Path) -> None:
    assert weight_sizes(None, 100, "fp32") == (100, 100, 100)
    path = shapes_file(tmp_path / "wan.safetensors", layouts.wan21_t2v(64, 128, 1))
    quantized = replace(identify(read_header(path)), quantized_layers=3)
    assert weight_sizes(quantized, 100, "default") == (100, 100, 100)
