"""Whether weights have room."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from managed_models.manager.host import SystemSnapshot
from managed_models.manager.placement import WeightSizes
from managed_models.manager.room import RAM, VRAM, Room, room_for
from managed_models.manager.units import GB
from support.machines import APPLE, CPU_ONLY, ROCM, SMALL_WINDOWS, nvidia


@pytest.mark.parametrize(
    ("machine", "on_gpu", "on_cpu", "where", "fits"),
    [
        (nvidia(24.0), 20, 40, VRAM, True),
        (nvidia(24.0, cards=4), 25, 50, VRAM, False),  # one card holds a model, not four
        (nvidia(24.0, free_gb=1.0), 20, 40, VRAM, True),  # what is free passes: ComfyUI makes room
        (SMALL_WINDOWS, 7, 14, VRAM, True),
        (SMALL_WINDOWS, 8, 14, VRAM, False),
        (ROCM, 23, 46, VRAM, True),
        (APPLE, 30, 60, VRAM, True),
        (CPU_ONLY, 10, 19, RAM, True),
        (CPU_ONLY, 12, 24, RAM, False),
    ],
)
def test_the_memory_that_counts(
    machine: SystemSnapshot, on_gpu: int, on_cpu: int, where: str, fits: bool
) -> None:
    room = room_for(WeightSizes(on_gpu * GB, on_cpu * GB, on_gpu * GB), machine)
    assert (room.where, room.enough) == (where, fits)


def test_what_comfyui_leaves_to_others_is_not_there() -> None:
    sizes = WeightSizes(23 * GB, 46 * GB, 23 * GB)
    assert room_for(sizes, nvidia(24.0), vram_reserve=GB).enough
    assert not room_for(sizes, nvidia(24.0), vram_reserve=GB + 1).enough


def test_the_cpu_may_be_asked_for_beside_a_gpu_and_ram_may_come_back() -> None:
    sizes = WeightSizes(10 * GB, 60 * GB, 10 * GB)
    room = room_for(sizes, nvidia(24.0, ram_gb=64.0), on_cpu=True)
    assert (room.where, room.enough) == (RAM, False)
    assert room_for(sizes, nvidia(24.0, ram_gb=64.0), releasable_ram=4 * GB, on_cpu=True).enough


@given(*[st.integers(0, 100 * GB) for _ in range(3)], st.integers(0, GB))
def test_less_weight_or_more_memory_never_fits_worse(
    needed: int, available: int, reserve: int, change: int
) -> None:
    if Room(VRAM, needed, available, reserve).enough:
        assert Room(VRAM, max(0, needed - change), available, reserve).enough
        assert Room(VRAM, needed, available + change, reserve).enough
