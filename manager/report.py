"""The words of every report. Node, panel, command line and Python show what these functions return.

Each takes the JSON-safe details of a result, so the same details give the same words everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .units import format_bytes, format_count

_INDENT = "  "
_SEVERITY_WORDS = {"blocker": "Problem", "slow": "Slower", "note": "Note"}
_ROLE_WORDS = {
    "diffusion": "diffusion model",
    "checkpoint": "checkpoint",
    "text_encoder": "text encoder",
    "lora": "LoRA",
    "vae": "VAE",
    "controlnet": "ControlNet",
    "clip_vision": "CLIP vision encoder",
    "audio_encoder": "audio encoder",
    "latent_upscaler": "latent upscaler",
}
_PART_WORDS = {"vae": "a VAE", "text_encoder": "a text encoder"}


def render_check(details: Mapping[str, Any]) -> str:
    """Return the words of a compatibility check; see :meth:`CompatibilityReport.to_dict`."""
    verdict = "can be used on this machine" if details["compatible"] else "cannot be used as it is"
    lines = [f"{details['model']}: {verdict}."]
    lines += identity_lines(details["identity"], details["size_bytes"])
    if details["file"] == "absent":
        lines.append(_INDENT + "File: not on this machine yet")
    lines.append(_INDENT + f"Version: {details['version'] or 'unknown'}")
    lines.append(_INDENT + f"Checked on: {system_words(details['system'])}")
    if not details["knows_comfyui"]:
        lines.append(_INDENT + "Host unknown: ComfyUI may have another PyTorch and other settings.")
    lines += finding_lines(details["findings"])
    return "\n".join(lines)


def render_identity(details: Mapping[str, Any]) -> str:
    """Return the words of ``show``: what a file is, without judging it."""
    lines = [str(details["model"])]
    lines += identity_lines(details["identity"], details["size_bytes"])
    lines.append(_INDENT + f"Version: {details['version'] or 'unknown'}")
    dtypes = details["identity"]["dtypes"]
    if dtypes:
        stored = ", ".join(f"{name} {format_count(count)}" for name, count in dtypes.items())
        lines.append(_INDENT + f"Weights by type: {stored}")
    if details["identity"]["quantized_layers"]:
        lines.append(_INDENT + f"Quantized layers: {details['identity']['quantized_layers']}")
    made = details["made_from"]
    if made:
        lines.append(f"{_INDENT}Made by Managed Models from {made['name']} as {made['format']}")
    for key, value in details["metadata"].items():
        shown = value if len(value) <= 200 else f"{value[:200]}... ({len(value)} characters)"
        lines.append(_INDENT + one_line(f"{key}: {shown}"))
    return "\n".join(lines)


def render_quantize(details: Mapping[str, Any]) -> str:
    """Return the words of a quantization; see :meth:`Quantizer.quantize`."""
    before, after = details["source_bytes"], details["output_bytes"]
    what = "Found the earlier" if details["reused"] else "Made"
    lines = [
        f"{what} {details['output']} from {details['source']}: "
        f"{format_bytes(after)} instead of {format_bytes(before)} ({after / before:.0%}).",
        f"{_INDENT}What it is: {details['architecture']}, {details['format_words']} "
        f"(was {details['stored_as']})",
        f"{_INDENT}Converted: {details['changed_layers']} of {details['linear_layers']} linear layers, "
        f"{details['changed_share']:.1%} of their weights",
    ]
    for reason, count in details["kept_layers"].items():
        rule = f" ({details['policy_rule']})" if "recommended policy" in reason else ""
        lines.append(f"{_INDENT}As before: {_layers(count)}, {reason}{rule}")
    if details["layer_errors"]:
        worst, error = max(details["layer_errors"].items(), key=lambda item: item[1])
        lines.append(
            f"{_INDENT}Weights changed by {details['mean_error']:.2%} on average, "
            f"at most by {error:.2%} ({worst}); relative L2"
        )
    if not details["loads_here"]:
        lines.append(
            f"{_INDENT}Problem: this ComfyUI is too old to load {details['format']} layers: update it"
        )
    if details["seconds"] is not None:
        lines.append(
            f"{_INDENT}Took {details['seconds']:.1f} s; everything written was read back and agrees."
        )
    return "\n".join(lines)


def render_load(details: Mapping[str, Any]) -> str:
    """Return the words of a load."""
    if details["shared"]:
        lines = [f"{details['model']} is in memory already and is shared: nothing was read."]
    else:
        lines = [f"Loaded {details['model']} in {details['seconds']:.1f} s."]
    if "identity" in details:
        lines += identity_lines(details["identity"], details["size_bytes"])
    lines.append(_INDENT + f"Version: {details['version'] or 'unknown'}")
    dtype = f" as {details['dtype']}" if details["dtype"] else ""
    asked = f" (weight_dtype {details['weight_dtype']})" if "weight_dtype" in details else ""
    lines.append(
        f"{_INDENT}In memory: {format_bytes(details['loaded_bytes'])}{dtype}{asked}, for {details['device']}"
    )
    for output, words in details.get("unfilled", {}).items():
        lines.append(_INDENT + f"{output}: not in this file; {words}")
    lines += [_INDENT + f"Note: {note}" for note in details["notes"]]
    lines += finding_lines(details["findings"])
    return "\n".join(lines)


def render_memory(details: Mapping[str, Any]) -> str:
    """Return the words of a memory report; see :func:`memory.memory_report`."""
    ram = details["ram"]
    used = ram["total_bytes"] - ram["available_bytes"]
    lines = [f"Memory on {details['host']}"]
    if not details["devices"]:
        lines.append(_INDENT + "VRAM: no GPU is used; models run on the CPU, in RAM")
    for device in details["devices"]:
        total, free = device["total_bytes"], device["free_bytes"]
        state = "use unknown" if free is None else f"{format_bytes(total - free)} in use"
        lines.append(
            f"{_INDENT}{device['name']}: {format_bytes(total)} of VRAM, {state}, "
            f"{format_bytes(device['models_bytes'])} by models"
        )
    lines.append(
        f"{_INDENT}RAM: {format_bytes(ram['total_bytes'])}, {format_bytes(used)} in use, "
        f"{format_bytes(ram['available_bytes'])} available"
    )
    process = f"{_INDENT}This process: {format_bytes(ram['process_bytes'])}"
    if ram["mapped_bytes"] is not None:
        process += (
            f" ({format_bytes(ram['anonymous_bytes'])} its own, "
            f"{format_bytes(ram['mapped_bytes'])} mapped files, which the system can take back)"
        )
    lines.append(process)
    if not details["models"]:
        lines.append(_INDENT + "Models in memory: none")
    for model in details["models"]:
        where = f"{format_bytes(model['ram_bytes'])} in RAM"
        if model["device"] != "cpu":
            where = f"{format_bytes(model['loaded_bytes'])} on {model['device']}, {where}"
        lines.append(f"{_INDENT}{model['title']}: {where} ({model['kind']})")
    return "\n".join(lines)


def render_system(info: Mapping[str, Any]) -> str:
    """Return the words of ``get_system_info``."""
    lines = [f"{info['host']}", f"{_INDENT}{info['platform']}, Python {info['python_version']}"]
    lines.append(_INDENT + system_words(info))
    return "\n".join(lines)


def render_error(error: Mapping[str, Any]) -> str:
    """Return the words of an error as :meth:`ManagedModelsError.to_dict` gives it."""
    return f"Error: {one_line(error['message'])}"


def identity_lines(identity: Mapping[str, Any] | None, size_bytes: int | None) -> list[str]:
    """Return the lines that say what a file is."""
    if identity is None:
        return []
    if identity["role"] == "other":
        words = f"unknown, {identity['tensor_count']} tensors"
    else:
        role = _ROLE_WORDS.get(identity["role"], identity["role"])
        named = identity["title"].lower() == role.lower()
        words = identity["title"] if named else f"{identity['title']}, {role}"
        if identity["parts"]:
            words += " with " + " and ".join(_PART_WORDS[part] for part in identity["parts"])
    facts = [words, f"{format_count(identity['parameters'])} parameters", identity["precision"]]
    if size_bytes is not None:
        facts.append(format_bytes(size_bytes))
    lines = [_INDENT + f"What it is: {', '.join(facts)}"]
    if identity["detected_by"]:
        lines.append(_INDENT + f"Recognised by: {identity['detected_by']}")
    return lines


def finding_lines(findings: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the findings, problems first, each with what to do about it."""
    lines: list[str] = []
    for severity, word in _SEVERITY_WORDS.items():
        for finding in findings:
            if finding["severity"] == severity:
                lines.append(f"{_INDENT}{word}: {one_line(finding['message'])}")
                if finding["remedy"]:
                    lines.append(f"{_INDENT}{_INDENT}{one_line(finding['remedy'])}")
    return lines


def system_words(info: Mapping[str, Any]) -> str:
    """Return the machine in one line, leaving out what changes from moment to moment."""
    torch = f"PyTorch {info['pytorch_version']}" if info["pytorch_version"] else "no PyTorch"
    gpus = [f"{gpu['name']} with {gpu['total_memory_gb']:.1f} GB" for gpu in info["gpu_devices"]]
    return ", ".join([info["host"], torch, *(gpus or ["no GPU"]), f"{info['total_ram_gb']:.1f} GB RAM"])


def one_line(text: str) -> str:
    """Return what a stranger wrote without what would start a line or move a terminal's cursor."""
    return "".join(c if c.isprintable() else " " for c in text)


def _layers(count: int) -> str:
    return f"{count} layer" if count == 1 else f"{count} layers"
