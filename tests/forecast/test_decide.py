"""Where a run finds its memory: laws that hold on every machine, and verdicts on machines nobody here has."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from managed_models.manager.compatibility import Severity
from managed_models.manager.forecast.advisor import machine_of
from managed_models.manager.forecast.decide import (
    DECODE,
    LEAST_WORKING_BYTES,
    SAMPLING,
    TEXT,
    Forecast,
    Machine,
    Measured,
    Placement,
    Question,
    forecast,
)
from managed_models.manager.forecast.facts import Confidence, Footprint, Latent, VaeFootprint
from managed_models.manager.forecast.findings import Wanted, find
from managed_models.manager.host import SystemSnapshot
from managed_models.manager.units import GB, MB
from support.machines import APPLE, CPU_ONLY, FOUR_CARDS, INTEL, ROCM, SMALL_WINDOWS

EXACT, MODELLED = Confidence.EXACT, Confidence.MODELLED
ORDER = list(Placement)
WAN = Latent(16, 3, 8, 4)
SHAPE = WAN.shape(832, 480, 81)
# 14.3 billion weights, and ComfyUI 0.33's estimate for a width of 5120.
PER_POSITION = 2 * 0.01 * 5120 / 2222 * MB
FP16 = Footprint(int(26.6 * GB), EXACT, "fp16", "fp16", PER_POSITION, WAN, mapped=False)
FP8 = replace(FP16, weight_bytes=int(13.6 * GB), weight_dtype="fp8_e4m3fn", mapped=True)
FP32 = replace(FP16, weight_bytes=int(53.2 * GB), bytes_per_position=2 * PER_POSITION)
VAE = VaeFootprint(int(0.24 * GB), EXACT, int(16.7 * GB), int(2.7 * GB), "bf16")


def machine(system: SystemSnapshot) -> Machine:
    headroom = int(min(10 * GB, max(2 * GB, system.total_ram_bytes * 0.1)))
    return machine_of(system, 600 * MB, headroom)


def ask(system: SystemSnapshot, model: Footprint | None = FP16, **facts: Any) -> Forecast:
    return forecast(Question(machine(system), model, SHAPE, **facts))


def codes(answer: Forecast, system: SystemSnapshot) -> dict[str, Severity]:
    return {f.code: f.severity for f in find(answer, machine(system), Wanted("832 x 480"))}


# Machines that nobody here has


@pytest.mark.parametrize(
    ("system", "model", "placement", "code"),
    [
        # NVIDIA maps the file, so fp16 streams from RAM as far as RAM goes.
        (SMALL_WINDOWS, replace(FP16, mapped=True), Placement.DISK, "needs_disk"),
        (SMALL_WINDOWS, FP8, Placement.STREAMS, "streams_from_ram"),
        (ROCM, FP16, Placement.STREAMS, "streams_from_ram"),
        (ROCM, FP8, Placement.FITS, ""),
        (INTEL, FP16, Placement.STREAMS, "streams_from_ram"),
        (INTEL, FP8, Placement.STREAMS, "streams_from_ram"),
        (APPLE, FP16, Placement.DISK, "needs_disk"),
        (APPLE, FP8, Placement.FITS, ""),
        (CPU_ONLY, FP32, Placement.NOT, "will_not_run"),
        (CPU_ONLY, FP8, Placement.DISK, "needs_disk"),
        (FOUR_CARDS, replace(FP16, mapped=True), Placement.FITS, ""),
        (FOUR_CARDS, FP8, Placement.FITS, ""),
    ],
)
def test_a_14b_wan_on_machines_nobody_here_has(
    system: SystemSnapshot, model: Footprint, placement: Placement, code: str
) -> None:
    answer = ask(system, model)
    assert answer.phase(SAMPLING).placement is placement
    found = codes(answer, system)
    assert list(found) == ([code] if code else [])
    blocked = placement is Placement.NOT
    assert found.get(code) is (Severity.BLOCKER if blocked else Severity.SLOW if code else None)


def test_what_the_8_gb_card_cannot_hold_travels_at_every_step() -> None:
    phase = ask(SMALL_WINDOWS, FP8).phase(SAMPLING)
    room = machine(SMALL_WINDOWS).vram_room
    least = FP8.inference_bytes(SHAPE)
    assert least is not None
    assert phase.streamed_bytes == FP8.weight_bytes - (room - least)
    assert phase.ram == (phase.streamed_bytes, MODELLED)
    assert phase.weights == (FP8.weight_bytes, EXACT)


def test_a_cpu_only_machine_without_swap_certainly_cannot_load_it() -> None:
    phase = ask(CPU_ONLY, FP32).phase(SAMPLING)
    assert phase.certain
    (finding,) = find(ask(CPU_ONLY, FP32), machine(CPU_ONLY), Wanted("", as_stored_bytes=int(26.6 * GB)))
    assert "53.2 GB" in finding.message
    assert "no swap" in finding.message
    assert "weight_dtype to as_stored" in finding.remedy
    assert "anyway" in finding.remedy


@pytest.mark.parametrize(
    ("system", "model"),
    [
        (replace(CPU_ONLY, swap_bytes=None), FP32),  # the swap may grow
        (replace(CPU_ONLY, swap_bytes=64 * GB), FP32),
        (CPU_ONLY, replace(FP32, confidence=MODELLED)),
        (CPU_ONLY, replace(FP32, mapped=True)),
        (CPU_ONLY, replace(FP32, mapped=None)),
    ],
)
def test_what_is_not_certain_blocks_nothing(system: SystemSnapshot, model: Footprint) -> None:
    answer = ask(system, model)
    assert answer.phase(SAMPLING).placement is Placement.DISK
    assert codes(answer, system) == {"needs_disk": Severity.SLOW}


def test_a_picture_too_large_for_the_card_is_probably_too_large() -> None:
    question = Question(machine(SMALL_WINDOWS), FP8, WAN.shape(1920, 1088, 121))
    phase = forecast(question).phase(SAMPLING)
    assert phase.placement is Placement.NOT
    assert not phase.certain
    (finding,) = find(forecast(question), machine(SMALL_WINDOWS), Wanted("1920 x 1088 with 121 frames"))
    assert (finding.code, finding.severity) == ("will_not_run", Severity.SLOW)
    assert "1920 x 1088 with 121 frames" in finding.message
    assert "fewer frames" in finding.remedy
    assert "estimate" in finding.remedy


def test_a_size_that_is_the_problem_is_named_and_not_the_model() -> None:
    small = replace(FP8, weight_bytes=GB, bytes_per_position=2 * PER_POSITION)
    answer = forecast(Question(machine(CPU_ONLY), small, WAN.shape(1920, 1088, 121)))
    (finding,) = find(answer, machine(CPU_ONLY), Wanted("1920 x 1088 with 121 frames"))
    assert (finding.code, finding.severity) == ("needs_disk", Severity.SLOW)
    assert "smaller than 1920 x 1088 with 121 frames" in finding.remedy
    assert "estimate" in finding.remedy
    assert "variant" not in finding.remedy


# The VAE and the text encoder are phases of their own


def test_a_decode_that_is_too_large_is_told_to_use_tiles() -> None:
    answer = ask(SMALL_WINDOWS, FP8, vae=VAE)
    phase = answer.phase(DECODE)
    assert (phase.placement, phase.tiled_bytes) == (Placement.TILED, VAE.tiled_bytes)
    finding = find(answer, machine(SMALL_WINDOWS), Wanted())[-1]
    assert (finding.code, finding.severity) == ("vae_decode_tiled", Severity.NOTE)
    assert "VAE Decode (Tiled)" in finding.remedy
    assert "2.7 GB" in finding.remedy


def test_a_decode_that_fits_needs_no_words() -> None:
    answer = ask(ROCM, FP8, vae=VAE)
    assert answer.phase(DECODE).placement is Placement.FITS
    assert codes(answer, ROCM) == {}


def test_what_was_not_named_is_unknown_and_not_guessed() -> None:
    answer = ask(ROCM, None)
    assert [phase.placement for phase in answer.phases] == [Placement.UNKNOWN] * 3
    assert all(phase.vram is phase.ram is None for phase in answer.phases)
    weights_only = ask(ROCM, FP8, vae=replace(VAE, decode_bytes=None)).phase(DECODE)
    assert weights_only.placement is Placement.UNKNOWN
    assert weights_only.weights == (VAE.weight_bytes, EXACT)


def test_a_text_encoder_is_weighed_by_itself() -> None:
    answer = ask(SMALL_WINDOWS, FP8, encoder_bytes=11 * GB)
    assert answer.phase(TEXT).placement is Placement.STREAMS
    assert codes(answer, SMALL_WINDOWS) == {"streams_from_ram": Severity.SLOW}  # of sampling
    assert ask(ROCM, FP8, encoder_bytes=11 * GB).phase(TEXT).placement is Placement.FITS


# A pair


@pytest.mark.parametrize(
    ("system", "release"),
    [(SMALL_WINDOWS, True), (INTEL, False), (CPU_ONLY, True), (ROCM, False), (FOUR_CARDS, False)],
)
def test_a_pair_says_when_to_let_the_first_go(system: SystemSnapshot, release: bool) -> None:
    answer = ask(system, FP8, second=FP8)
    assert answer.timeline is not None
    assert answer.timeline.release_first is release
    assert answer.timeline.both_bytes == 2 * FP8.weight_bytes
    assert answer.timeline.one_bytes == FP8.weight_bytes
    assert ("release_first_model" in codes(answer, system)) is release


def test_letting_the_first_go_is_explained_step_by_step() -> None:
    answer = ask(SMALL_WINDOWS, FP8, second=FP8)
    finding = find(answer, machine(SMALL_WINDOWS), Wanted())[-1]
    assert "keep_alive 0" in finding.remedy
    assert "'after'" in finding.remedy
    assert "13.6 GB" in finding.remedy


# What was measured wins


def test_a_measured_peak_wins_over_the_model() -> None:
    peak = Measured(int(20 * GB), int(3 * GB), 4)
    phase = ask(ROCM, replace(FP8, bytes_per_position=10 * PER_POSITION), measured=peak).phase(SAMPLING)
    assert phase.placement is Placement.FITS
    assert phase.vram == (20 * GB, Confidence.MEASURED)
    assert phase.ram == (3 * GB, Confidence.MEASURED)
    assert phase.measured_runs == 4


def test_a_run_that_took_less_than_the_weights_had_them_travel() -> None:
    peak = Measured(int(7 * GB), None, 1)
    phase = ask(SMALL_WINDOWS, FP8, measured=peak).phase(SAMPLING)
    assert phase.placement is Placement.STREAMS
    assert phase.vram == (7 * GB, Confidence.MEASURED)


def test_a_run_that_took_less_than_the_model_says_fits_travels_too() -> None:
    phase = ask(ROCM, FP8, measured=Measured(int(10 * GB), None, 1)).phase(SAMPLING)
    assert phase.placement is Placement.STREAMS
    assert phase.streamed_bytes == FP8.weight_bytes - 10 * GB


def test_an_estimate_that_nothing_fits_gives_way_to_a_run_that_did() -> None:
    question = Question(
        machine(SMALL_WINDOWS), FP8, WAN.shape(1920, 1088, 121), measured=Measured(7 * GB, None, 2)
    )
    assert forecast(question).phase(SAMPLING).placement is not Placement.NOT


def test_a_measured_peak_on_a_cpu_is_ram() -> None:
    phase = ask(CPU_ONLY, FP8, measured=Measured(None, 15 * GB, 1)).phase(SAMPLING)
    assert phase.ram == (15 * GB, Confidence.MEASURED)
    assert phase.placement is Placement.FITS


# Laws

_sizes = st.integers(0, 200 * GB)
_machines = st.builds(
    Machine,
    device=st.sampled_from(["cuda", "rocm", "xpu", "mps", "cpu"]),
    ram=_sizes,
    ram_free=_sizes,
    vram=_sizes,
    vram_reserve=st.integers(0, 2 * GB),
    ram_headroom=st.integers(0, 10 * GB),
    swap=st.one_of(st.none(), _sizes),
)
_models = st.builds(
    Footprint,
    weight_bytes=_sizes,
    confidence=st.sampled_from([EXACT, MODELLED]),
    bytes_per_position=st.one_of(st.none(), st.floats(0, 1e6)),
    mapped=st.sampled_from([True, False, None]),
)
_vaes = st.builds(
    VaeFootprint,
    weight_bytes=st.integers(0, 2 * GB),
    confidence=st.just(EXACT),
    decode_bytes=st.one_of(st.none(), _sizes),
    tiled_bytes=st.one_of(st.none(), st.integers(0, 4 * GB)),
)
_questions = st.builds(
    Question,
    machine=_machines,
    model=st.one_of(st.none(), _models),
    shape=st.one_of(st.none(), st.just(SHAPE), st.just((1, 4, 64, 64))),
    encoder_bytes=st.one_of(st.none(), _sizes),
    vae=st.one_of(st.none(), _vaes),
    second=st.one_of(st.none(), _models),
)


@given(_questions)
def test_every_question_has_an_answer_that_holds_together(question: Question) -> None:
    answer = forecast(question)
    assert forecast(question) == answer
    assert [phase.name for phase in answer.phases] == [TEXT, SAMPLING, DECODE]
    for phase in answer.phases:
        json.dumps(phase.to_dict())
        assert phase.streamed_bytes >= 0
        assert phase.disk_bytes >= 0
        if phase.weights:
            assert phase.streamed_bytes <= phase.weights.bytes
        if phase.placement is Placement.FITS:
            assert phase.streamed_bytes == phase.disk_bytes == 0
        if phase.certain:
            assert phase.placement is Placement.NOT
            assert phase.weights is not None
            assert phase.weights.confidence is EXACT
            assert question.machine.swap is not None
        if phase.vram is not None:
            assert question.machine.has_vram
    for finding in find(answer, question.machine, Wanted()):
        assert finding.message
        assert finding.remedy
        assert (finding.severity is Severity.BLOCKER) <= any(phase.certain for phase in answer.phases)


@given(_questions, st.integers(0, 100 * GB), st.integers(0, 100 * GB))
def test_more_memory_never_makes_it_worse(question: Question, vram: int, ram: int) -> None:
    small = question.machine
    more = replace(small, vram=small.vram + (vram if small.vram else 0), ram=small.ram + ram)
    before, after = forecast(question), forecast(replace(question, machine=more))
    for old, new in zip(before.phases, after.phases, strict=True):
        assert ORDER.index(new.placement) <= ORDER.index(old.placement)


@given(_machines, _models, st.integers(1, 40), st.integers(0, 40))
def test_more_frames_never_take_less(machine: Machine, model: Footprint, frames: int, more: int) -> None:
    def phase(length: int) -> Any:
        return forecast(Question(machine, model, (1, 16, length, 60, 104))).phase(SAMPLING)

    short, long = phase(frames), phase(frames + more)
    assert ORDER.index(short.placement) <= ORDER.index(long.placement)


def test_the_least_working_memory_is_asked_for_in_any_case() -> None:
    tiny = Footprint(10 * MB, EXACT, bytes_per_position=1.0, latent=WAN, mapped=False)
    phase = ask(ROCM, tiny).phase(SAMPLING)
    assert phase.vram == (10 * MB + LEAST_WORKING_BYTES, MODELLED)
