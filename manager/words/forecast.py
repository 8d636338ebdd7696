"""The words of a forecast, from the details of :class:`Forecaster`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..units import format_bytes

_INDENT = "  "
_PHASES = {"text_encode": "Text encoding", "sampling": "Sampling", "vae_decode": "Decoding into pictures"}
_MISSING = {
    "text_encode": "not known; name the text encoder (clip_name, or --clip) to learn it",
    "sampling": "not known: ComfyUI does not say what this model takes",
    "vae_decode": "not known; name the VAE (vae_name, or --vae) to learn it",
}
_PLACES = {
    "fits": "fits",
    "fits_in_tiles": "fits in tiles",
    "streams_from_ram": "runs, with a part in RAM",
    "needs_disk": "runs from the disk, very slowly",
    "will_not_run": "will not run",
}


def forecast_lines(details: Mapping[str, Any]) -> list[str]:
    """Return the forecast, phase by phase, with how far each figure is to be trusted."""
    lines = [_INDENT + _title(details)]
    if details["model"]:
        lines.append(2 * _INDENT + _weights_words(details["model"]))
    if details["kernel"]:
        lines.append(2 * _INDENT + _kernel_words(details["kernel"]))
    lines += [2 * _INDENT + _phase_words(phase, details) for phase in details["phases"]]
    if details["timeline"]:
        lines += [2 * _INDENT + line for line in _timeline_lines(details["timeline"], details["machine"])]
    if _has_estimates(details):
        lines.append(
            2 * _INDENT + "Figures marked modelled are estimates, not measured on a GPU yet; runs on this "
            "machine replace them."
        )
    return lines


def _title(details: Mapping[str, Any]) -> str:
    size = details["size"]
    if size is None:
        return "Forecast (its usual size is not known: give width and height):"
    frames = f", {size['length']} frames" if size["length"] > 1 else ""
    batch = f", {size['batch_size']} at once" if size["batch_size"] > 1 else ""
    usual = ", this model's usual size" if size["usual"] else ""
    return f"Forecast for {size['width']} x {size['height']}{frames}{batch}{usual}:"


def _weights_words(model: Mapping[str, Any]) -> str:
    kept = "" if model["weight_dtype"] == "unknown" else f" as {model['weight_dtype']}"
    computed = ""
    if model["compute_dtype"] not in ("unknown", model["weight_dtype"]):
        computed = f", computed in {model['compute_dtype']}"
    return f"Weights in memory: {format_bytes(model['weight_bytes'])}{kept} ({model['confidence']}){computed}"


def _kernel_words(kernel: Mapping[str, Any]) -> str:
    means = {"native": "computed as they are", "emulated": "widened before they are computed"}
    return f"{kernel['format']} layers: {means.get(kernel['status'], 'not supported')} ({kernel['reason']})"


def _phase_words(phase: Mapping[str, Any], details: Mapping[str, Any]) -> str:
    name = _PHASES[phase["name"]]
    if phase["placement"] == "unknown":
        weights = phase["weights"]
        known = f"weights {_figure(weights)}, working memory " if weights else ""
        missing = "not known for these files here" if weights else _MISSING[phase["name"]]
        return f"{name}: {known}{missing}"
    place = _PLACES[phase["placement"]]
    if phase["placement"] == "will_not_run" and not phase["certain"]:
        place = "will probably run out of memory"
    parts = [place, *_needs(phase, details["machine"])]
    if phase["placement"] == "fits_in_tiles":
        parts.append(f"in tiles about {format_bytes(phase['tiled_bytes'])}")
    parts += _travel(phase)
    if phase["name"] == "sampling" and phase["working"] is None:
        parts.append("working memory is not known without ComfyUI and comes on top")
    return f"{name}: {'; '.join(parts)}"


def _travel(phase: Mapping[str, Any]) -> list[str]:
    """Say what moves at every step."""
    streamed, disk = phase["streamed_bytes_per_step"], phase["disk_bytes"]
    if phase["placement"] == "streams_from_ram":
        return [f"{format_bytes(streamed)} travel from RAM at every step"]
    if phase["placement"] == "needs_disk" and streamed > disk:
        ram = format_bytes(streamed - disk)
        return [f"{ram} travel from RAM and {format_bytes(disk)} from the disk at every step"]
    if phase["placement"] == "needs_disk":
        return [f"{format_bytes(disk)} come from the disk"]
    return []


def _needs(phase: Mapping[str, Any], machine: Mapping[str, Any]) -> list[str]:
    needs = []
    if phase["vram_needed"]:
        usable = format_bytes(machine["vram_usable_bytes"])
        needs.append(f"VRAM for all of it {_figure(phase['vram_needed'])}, usable {usable}")
    tiles = phase["placement"] == "fits_in_tiles" and bool(phase["vram_needed"])
    if phase["ram_needed"] and phase["ram_needed"]["bytes"] and not tiles:
        where = "memory, shared with the GPU," if machine["shared_memory"] else "RAM"
        usable = format_bytes(machine["ram_usable_bytes"])
        needs.append(f"{where} {_figure(phase['ram_needed'])}, usable {usable}")
    return needs


def _figure(figure: Mapping[str, Any]) -> str:
    return f"{format_bytes(figure['bytes'])} ({figure['confidence']})"


def _timeline_lines(line: Mapping[str, Any], machine: Mapping[str, Any]) -> list[str]:
    room = format_bytes(machine["ram_usable_bytes"])
    both, one = format_bytes(line["both_bytes"]), format_bytes(line["one_bytes"])
    if not line["release_first"]:
        return [f"Two models in turn: both stay in RAM, {both} ({line['confidence']}) of {room}"]
    return [
        f"Two models in turn, {both} ({line['confidence']}) together, more than {room} of RAM:",
        f"{_INDENT}1. first model (high noise): load it and sample",
        f"{_INDENT}2. switch: let the first model go, and only then load the second",
        f"{_INDENT}3. second model (low noise): sample; at most {one} of RAM at any time",
    ]


def _has_estimates(details: Mapping[str, Any]) -> bool:
    figures = ("weights", "working", "vram_needed", "ram_needed")
    return any(
        phase[name] and phase[name]["confidence"] == "modelled"
        for phase in details["phases"]
        for name in figures
    )
