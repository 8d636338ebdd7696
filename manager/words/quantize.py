"""The words about a quantization, from the details of :meth:`Quantizer.quantize` or ``plan``."""

from __future__ import annotations

from collections.abc import Mapping
from math import log10
from typing import Any

from ..units import format_bytes

_INDENT = "  "
_FEW_NAMES = 6
_HASH_SHOWN = 12


def quantize_lines(details: Mapping[str, Any]) -> list[str]:
    """Return the report on a result, or on a plan when nothing was written."""
    lines = [headline(details), *map(_indented, _what(details))]
    lines += map(_indented, _kept_lines(details))
    lines += map(_indented, rule_lines(details))
    lines += map(_indented, _error_lines(details))
    lines += map(_indented, _worst_lines(details))
    lines += map(_indented, _warnings(details))
    lines += map(_indented, _lineage(details))
    if details["seconds"] is not None:
        lines.append(f"{_INDENT}{_effort(details)}")
    return lines


def _effort(details: Mapping[str, Any]) -> str:
    """Return how long it took, and what was done before by a run that was killed."""
    words = f"Took {details['seconds']:.1f} s"
    if details.get("resumed_bytes"):
        words += f", with {format_bytes(details['resumed_bytes'])} of the source done by an earlier run"
    return f"{words}; everything written was read back and agrees."


def headline(details: Mapping[str, Any]) -> str:
    """Return what became of what, and how large it is."""
    before, after = details["source_bytes"], details["output_bytes"]
    sizes = f"{format_bytes(after)} instead of {format_bytes(before)} ({after / before:.0%})"
    if details["output"] is None:
        return f"Plan for {details['source']}: about {sizes}. Nothing was written."
    what = "Found the earlier" if details["reused"] else "Made"
    return f"{what} {details['output']} from {details['source']}: {sizes}."


def _what(details: Mapping[str, Any]) -> list[str]:
    lines = [
        f"What it is: {details['architecture']}, {details['format_words']} (was {details['stored_as']})",
        f"Converted: {details['changed_layers']} of {details['linear_layers']} linear layers, "
        f"{details['changed_share']:.1%} of their weights",
    ]
    if len(details["formats"]) > 1:
        weights = sum(entry["weights"] for entry in details["formats"]) or 1
        lines += [
            f"{_INDENT}{entry['format']}: {_layers(entry['layers'])}, {entry['weights'] / weights:.0%} of "
            f"what was converted, {format_bytes(entry['bytes'])}"
            for entry in details["formats"]
        ]
    budget = details["budget"]
    if budget:
        lines.append(_budget_words(budget, details))
    return lines


def _budget_words(budget: Mapping[str, Any], details: Mapping[str, Any]) -> str:
    words = f"Size budget: {format_bytes(budget['limit_bytes'])} allowed"
    if budget.get("formats"):
        words += f"; chosen by measuring each layer as {', '.join(budget['formats'])}"
        words += (
            "; no other choice changes less"
            if budget["exact"]
            else "; at most one layer's change of format from the best choice"
        )
    return words


def _kept_lines(details: Mapping[str, Any]) -> list[str]:
    """Say which linear layers stay as they are and why, with the shape where that is the reason."""
    lines = []
    for group in details["kept"]:
        layers = group["layers"]
        lines.append(f"As before: {_layers(len(layers))}, {format_bytes(group['bytes'])}: {group['reason']}")
        shaped = "shape" in group["reason"] or "smaller" in group["reason"]
        names = [
            f"{layer['name']} ({' x '.join(map(str, layer['shape']))})" if shaped else layer["name"]
            for layer in layers
        ]
        lines.append(_INDENT + _some(names, _FEW_NAMES))
    return lines


def rule_lines(details: Mapping[str, Any]) -> list[str]:
    """Say which rule decides what is kept, and where it is from."""
    rule = details["rule"]
    if not rule["used"]:
        return ["Rule: everything that a format takes is converted"]
    if rule["known"]:
        words = f"Rule: {rule['name']}, after {rule['source']}"
    else:
        words = f"Rule: {rule['name']}, for none is known for this architecture: it goes by {rule['source']}"
    return [words, f"{_INDENT}keeps {', '.join(rule['patterns'])}"]


def _error_lines(details: Mapping[str, Any]) -> list[str]:
    errors = details["layer_errors"]
    if not errors:
        return []
    worst, error = max(errors.items(), key=lambda item: item[1])
    mean, total = details["mean_error"], details["total_error"]
    whole = "" if total is None else f"; by {total:.2%} taken together{_decibels(total)}"
    words = f"Weights changed by {mean:.2%} on average, at most by {error:.2%} ({worst}){whole}; relative L2"
    if not details["sampled_layers"]:
        return [words]
    layers = _layers(details["sampled_layers"])
    sampled = f"(of {layers} with 4 million weights or more, measured on a quarter of the rows)"
    return [words, _INDENT + sampled]


def _worst_lines(details: Mapping[str, Any]) -> list[str]:
    """Return the layers that changed most, as a table."""
    by_name = {layer["name"]: layer for layer in details["layers"]}
    worst = [by_name[name] for name in details["worst"] if name in by_name]
    if len(worst) < 2:
        return []
    width = max(len(layer["name"]) for layer in worst)
    lines = ["The layers that changed most:"]
    for layer in worst:
        decibels = "" if layer["sqnr_db"] is None else f"  {layer['sqnr_db']:5.1f} dB"
        lines.append(f"{_INDENT}{layer['name']:<{width}}  {layer['error']:7.2%}{decibels}  {layer['format']}")
    return lines


def _warnings(details: Mapping[str, Any]) -> list[str]:
    lines = []
    if details["requantized_layers"]:
        lines.append(
            f"Note: {_layers(details['requantized_layers'])} had been rounded before "
            f"({details['stored_as']}) and are rounded a second time. The errors here are those of this "
            "rounding alone; those of the first come on top, and only the original is without them"
        )
    if details["missing_formats"]:
        layers = ", ".join(details["missing_formats"])
        lines.append(f"Problem: this ComfyUI is too old to load {layers} layers: update it")
    return lines


def _lineage(details: Mapping[str, Any]) -> list[str]:
    digest = details["source_sha256"]
    if not digest:
        return []
    recipe = f"{details['format']}, {details['policy']}, {details['quality']}, {details['layout']}"
    lines = [f"Made from: {details['source']} (sha256 {digest[:_HASH_SHOWN]}...), {recipe}"]
    if details["made_with"]:
        names = {"managed_models": "Managed Models", "torch": "PyTorch"}
        parts = [f"{names.get(name, name)} {number}" for name, number in details["made_with"].items()]
        lines.append(f"Made with: {', '.join(parts)}")
    return lines


def lineage_lines(details: Mapping[str, Any]) -> list[str]:
    """Return what ``show`` says of a file's origin: what it was made from and how, and its kin."""
    lines, made = [], details["made_from"]
    if made:
        digest = details.get("source_sha256")
        known = f" (sha256 {digest[:_HASH_SHOWN]}...)" if digest else ""
        recipe = made.get("recipe", {})
        how = [str(recipe[key]) for key in ("policy", "quality", "layout") if key in recipe]
        way = f": {', '.join(how)}" if how else ""
        lines.append(f"Made by Managed Models from {made['name']}{known} as {made['format']}{way}")
    kin = details.get("kin") or []
    if kin:
        names = [f"{other['name']} ({other['precision'] or other['format'] or 'original'})" for other in kin]
        lines.append(f"The same model, in other files: {_some(names, _FEW_NAMES)}")
    return lines


def _decibels(error: float) -> str:
    """Return a relative error as signal to noise."""
    if error <= 0:
        return ""
    return f" (SQNR {-20 * log10(error):.1f} dB)"


def _some(names: list[str], count: int) -> str:
    shown = ", ".join(names[:count])
    return shown if len(names) <= count else f"{shown} and {len(names) - count} more"


def _layers(count: int) -> str:
    return f"{count} layer{'' if count == 1 else 's'}"


def _indented(line: str) -> str:
    return _INDENT + line
