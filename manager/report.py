"""The words of every report. Node, panel, command line and Python show what these functions return.

Each takes the JSON-safe details of a result, so the same details give the same words everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .units import format_bytes, format_count
from .words.forecast import forecast_lines
from .words.integrity import health_line, known_lines
from .words.pairing import pair_lines, pairing_lines
from .words.quantize import lineage_lines, quantize_lines
from .words.remote import remote_lines
from .words.variants import instead_line, variant_lines
from .words.versions import about_lines, version_words

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
    if "remote" in details:
        lines += [_INDENT + one_line(line) for line in remote_lines(details["remote"])]
    if details["file"] == "absent":
        lines.append(_INDENT + "File: not on this machine yet")
    lines += _version_lines(details)
    if details.get("health"):
        lines.append(_INDENT + health_line(details["health"]))
    lines.append(_INDENT + f"Checked on: {system_words(details['system'])}")
    if not details["knows_comfyui"]:
        lines.append(_INDENT + "Host unknown: ComfyUI may have another PyTorch and other settings.")
    lines += finding_lines(details["findings"])
    if "pairing" in details:
        lines += [one_line(line) for line in pairing_lines(details["pairing"])]
    if "forecast" in details:
        lines += [one_line(line) for line in forecast_lines(details["forecast"])]
    if "variants" in details:
        lines += [one_line(line) for line in variant_lines(details["variants"])]
    return "\n".join(lines)


def render_pair(details: Mapping[str, Any]) -> str:
    """Return the words of a comparison; see :meth:`AdvancedModelManager.pair`."""
    return "\n".join([*map(one_line, pair_lines(details)), *finding_lines(details["findings"])])


def render_identity(details: Mapping[str, Any]) -> str:
    """Return the words of ``show``: what a file is, without judging it."""
    lines = [str(details["model"])]
    lines += identity_lines(details["identity"], details["size_bytes"])
    lines += _version_lines(details)
    dtypes = details["identity"]["dtypes"]
    if dtypes:
        stored = ", ".join(f"{name} {format_count(count)}" for name, count in dtypes.items())
        lines.append(_INDENT + f"Weights by type: {stored}")
    if details["identity"]["quantized_layers"]:
        lines.append(_INDENT + f"Quantized layers: {details['identity']['quantized_layers']}")
    lines += [_INDENT + one_line(line) for line in lineage_lines(details)]
    lines += [_INDENT + one_line(line) for line in known_lines(details)]
    for key, value in details["metadata"].items():
        shown = value if len(value) <= 200 else f"{value[:200]}... ({len(value)} characters)"
        lines.append(_INDENT + one_line(f"{key}: {shown}"))
    return "\n".join(lines)


def _version_lines(details: Mapping[str, Any]) -> list[str]:
    """Return the version, and what there is to say beside it."""
    words = version_words(details["version"], details.get("version_hint"))
    beside = about_lines(details["versions"]) if details.get("versions") else []
    return [_INDENT + one_line(line) for line in (f"Version: {words}", *beside)]


def render_quantize(details: Mapping[str, Any]) -> str:
    """Return the words of a quantization; see :meth:`Quantizer.quantize`."""
    return "\n".join(map(one_line, quantize_lines(details)))


def render_load(details: Mapping[str, Any]) -> str:
    """Return the words of a load."""
    if details["shared"]:
        lines = [f"{details['model']} is in memory already and is shared: nothing was read."]
    else:
        lines = [f"Loaded {details['model']} in {details['seconds']:.1f} s."]
    if details.get("instead"):
        lines.append(one_line(instead_line(details["instead"])))
    if "identity" in details:
        lines += identity_lines(details["identity"], details["size_bytes"])
    lines += _version_lines(details)
    dtype = f" as {details['dtype']}" if details["dtype"] else ""
    asked = f" (weight_dtype {details['weight_dtype']})" if "weight_dtype" in details else ""
    lines.append(
        f"{_INDENT}In memory: {format_bytes(details['loaded_bytes'])}{dtype}{asked}, for {details['device']}"
    )
    if details["attention"] != "default":
        lines.append(f"{_INDENT}Attention: {details['attention']}, for this node's MODEL alone")
    if details["keep_alive"] is not None:
        lines.append(f"{_INDENT}Keep alive: {one_line(str(details['keep_alive']))}")
    for output, words in details.get("unfilled", {}).items():
        lines.append(_INDENT + f"{output}: not in this file; {words}")
    lines += [_INDENT + one_line(f"Note: {note}") for note in details["notes"]]
    lines += finding_lines(details["findings"])
    return "\n".join(lines)


def render_memory(details: Mapping[str, Any]) -> str:
    """Return the words of a memory report; see :func:`memory.memory_report`."""
    ram = details["ram"]
    used = ram["total_bytes"] - ram["available_bytes"]
    lines = [f"Memory on {details['host']}"]
    if details["warning"]:
        lines.append(_INDENT + one_line(f"Warning: {details['warning']['message']}"))
    if not details["devices"]:
        lines.append(_INDENT + "VRAM: no GPU is used; models run on the CPU, in RAM")
    for device in details["devices"]:
        which = f"{device['device']}, " if len(details["devices"]) > 1 and device["device"] else ""
        lines.append(_INDENT + which + _device_words(device))
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
    if details["history"]:
        lines.append(_INDENT + _history_words(details["history"]))
    if not details["models"]:
        lines.append(_INDENT + "Models in memory: none")
    for model in details["models"]:
        lines.append(f"{_INDENT}{one_line(model['title'])}: {_where(model)} ({model['kind']})")
        lines.append(2 * _INDENT + _how_long(model))
    if details["post_mortem"]:
        lines += [_INDENT + line for line in render_post_mortem(details["post_mortem"]).splitlines()]
    return "\n".join(lines)


def render_post_mortem(facts: Mapping[str, Any]) -> str:
    """Return the words of memory that ran out; see :func:`monitor.trouble.post_mortem`."""
    when = f" {_duration(facts['seconds_ago'])} ago" if "seconds_ago" in facts else ""
    where = f" at {facts['node_type']} (node {facts['node']})" if facts["node_type"] else ""
    lines = [f"{facts['memory']} ran out{when}{one_line(where)}. Just before:"]
    for device in facts["devices"]:
        total, free, others = device["total_bytes"], device["free_bytes"], device["others_bytes"]
        state = "use unknown" if free is None else f"{format_bytes(free)} free"
        held = f", {format_bytes(others)} held by other programs" if others else ""
        lines.append(f"{_INDENT}{device['name']}: {state} of {format_bytes(total)} of VRAM{held}")
    available, total = facts["ram_available_bytes"], facts["ram_total_bytes"]
    lines.append(f"{_INDENT}RAM: {format_bytes(available)} available of {format_bytes(total)}")
    for model in facts["models"]:
        why = ", pinned" if model["pinned"] else ", kept from an earlier prompt" if model["kept"] else ""
        lines.append(f"{_INDENT}{one_line(model['title'])}: {_where(model)}{why}")
    lines.append("What helps:")
    lines += [_INDENT + one_line(remedy) for remedy in facts["remedies"]]
    return "\n".join(lines)


def _device_words(device: Mapping[str, Any]) -> str:
    total, free = device["total_bytes"], device["free_bytes"]
    parts = ["use unknown" if free is None else f"{format_bytes(total - free)} in use"]
    parts.append(f"{format_bytes(device['models_bytes'])} by models")
    if device["torch_bytes"] is not None:
        parts.append(f"{format_bytes(device['torch_bytes'])} taken by PyTorch in all")
    if device["others_bytes"] is not None:
        parts.append(f"{format_bytes(device['others_bytes'])} by other programs")
    return f"{device['name']}: {format_bytes(total)} of VRAM, {', '.join(parts)}"


def _history_words(history: Mapping[str, Any]) -> str:
    """Return the most that was in use, and at which node."""
    if not history["samples"]:
        return "Before now: nothing was recorded yet"
    peaks = [f"{format_bytes(history['ram_peak_bytes'])} of RAM{_at(history['ram_peak_node'])}"]
    for device in history["devices"]:
        if device["peak_bytes"] is not None:
            on = f" on {device['device']}" if len(history["devices"]) > 1 else ""
            peaks.append(f"{format_bytes(device['peak_bytes'])} of VRAM{on}{_at(device['peak_node'])}")
    return f"At most in the last {_duration(history['seconds'])}: {', '.join(peaks)}"


def _at(node_type: str | None) -> str:
    return f" (at {one_line(node_type)})" if node_type else ""


def _where(model: Mapping[str, Any]) -> str:
    """Return where a model's weights are."""
    places = []
    if model["device"] != "cpu":
        places.append(f"{format_bytes(model['loaded_bytes'])} on {model['device']}")
    places.append(f"{format_bytes(model['ram_bytes'])} in RAM")
    if model.get("file_bytes"):
        places.append(f"{format_bytes(model['file_bytes'])} read from its file when needed")
    return ", ".join(places)


def _how_long(model: Mapping[str, Any]) -> str:
    """Return when a model was used last and when its memory comes back."""
    if not model["pooled"]:
        return "Not kept by Managed Models: ComfyUI decides when it goes"
    if model["busy"]:
        used = "In use by the running prompt"
    else:
        used = f"Last used {_duration(model['idle_seconds'])} ago"
    if model["pinned"]:
        stays = "pinned: it stays until it is unpinned"
    elif model["expires_in"] is None:
        stays = "it stays until it is unloaded"
    elif model["expires_in"] > 0:
        stays = f"it stays {_duration(model['expires_in'])} {'after that' if model['busy'] else 'more'}"
    elif model["held"]:
        stays = "its time is up"
    else:
        stays = "its time is up: it goes as soon as no prompt runs"
    if model["held"] and not model["busy"] and not model["pinned"]:
        stays += ". ComfyUI's cache of outputs has it too: RAM comes back when that lets go"
    return f"{used}; {stays}"


def _duration(seconds: float) -> str:
    """Return a length of time in one or two units: ``8 s``, ``4 min 30 s``, ``1 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min" + (f" {rest} s" if rest else "")
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h" + (f" {minutes} min" if minutes else "")


def memory_notices(details: Mapping[str, Any]) -> list[str]:
    """Return what a person should know at once of a memory report: a shortage, and what came of one."""
    warning, post_mortem = details["warning"], details["post_mortem"]
    notices = [one_line(warning["message"])] if warning else []
    if post_mortem:
        lasting = {key: value for key, value in post_mortem.items() if key != "seconds_ago"}
        notices.append(render_post_mortem(lasting))  # the same words whenever one looks
    return notices


def render_unload(details: Mapping[str, Any]) -> str:
    """Return the words of an unload: what came back, and what stays and why."""
    if not details["models"]:
        return "No model was in memory."
    who = details["title"] or f"{details['models']} model{'' if details['models'] == 1 else 's'}"
    given = {"VRAM": details["freed_bytes"], "RAM": details["ram_bytes"]}
    back = " and ".join(f"{format_bytes(size)} of {where}" for where, size in given.items() if size)
    said = [f"{back} given back."] if back else []
    if details["scheduled"]:
        said.append("What is left goes as soon as ComfyUI is done with what it is doing.")
    elif details["vram_only"]:
        said = said or ["Nothing was in VRAM."]
    if details["still_in_ram_bytes"] and not details["scheduled"]:
        said.append(f"{format_bytes(details['still_in_ram_bytes'])} stay in RAM{_why_it_stays(details)}.")
    return one_line(f"{who}: {' '.join(said) or 'Nothing had to be given back.'}")


def _why_it_stays(details: Mapping[str, Any]) -> str:
    if details["vram_only"]:
        return ", from where they come back quickly"
    if details["title"] is None:
        return ", because another extension or a script has them"
    return (
        " while ComfyUI's cache of results, or another extension, has the model; "
        "freeing everything empties that cache"
    )


def render_pin(details: Mapping[str, Any]) -> str:
    """Return the words of a pin that was set or taken away."""
    title = one_line(details["title"])
    if not details["pinned"]:
        return f"{title} is not pinned any more: it goes when it has rested long enough."
    if details["in_memory"]:
        return f"{title} is pinned: it stays in memory until it is unpinned or unloaded."
    return f"{title} is pinned: once it is loaded, it stays in memory."


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
