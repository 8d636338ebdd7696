"""The words about a model's variants, from the details of :meth:`Family.to_dict`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..units import format_bytes

_INDENT = "  "
_SHOWN = 6
# Below, it is rounding that nobody sees; above, nobody measured.
_LEAST_ERROR, _MOST_ERROR = 0.005, 0.05
_LINKS = {
    "subject": "this one",
    "lineage": "made from the same original",
    "registered": "registered as the same model",
    "named_alike": "named alike",
    "same_layout": "same layout, maybe another fine-tune",
}


def variant_lines(details: Mapping[str, Any]) -> list[str]:
    """Return the other variants that are here, best first; nothing when there are none."""
    others = [variant for variant in details["list"] if variant["link"] != "subject"]
    if not others:
        return []
    lines = [_INDENT + "Variants of this model here, best quality that fits first:"]
    for variant in details["list"][:_SHOWN]:
        link = _LINKS[variant["link"]]
        lines.append(f"{2 * _INDENT}{variant['option']} ({_kind(variant)}; {link}): {fit_words(variant)}")
    left = len(details["list"]) - _SHOWN
    if left > 0:
        lines.append(f"{2 * _INDENT}and {left} more")
    return lines


def fit_words(variant: Mapping[str, Any]) -> str:
    """Say whether a variant fits, and why not."""
    if variant["fits"]:
        return "fits"
    if variant["reason"]:
        return f"does not fit: {_inside(variant['reason'])}"
    return f"does not fit: {room_words(variant['room'])}"


def room_words(room: Mapping[str, Any]) -> str:
    """Say what weights take where, and what is there for them."""
    needed = format_bytes(room["needed_bytes"])
    left = format_bytes(max(0, room["available_bytes"] - room["reserve_bytes"]))
    return f"its weights take {needed}, and {left} of {room['where']} is there for them"


def way_out_words(details: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return what helps a model that does not fit, and what to do; None when nothing is needed or known."""
    found = details["way_out"]
    best, make, maybe = found["best"], found["make"], found["maybe"]
    room = details["subject"]["room"]
    why = "" if room["enough"] else f"It does not fit as it is: {room_words(room)}. "
    if best:
        return (
            f"{why}A variant of this model that fits is here: {best['option']} ({_kind(best)}).",
            f"Choose {best['option']} in model_name.{_quality_words(best)}",
        )
    if make:
        return (
            f"{why}A variant of this model that fits can be made: {make['precision']}, "
            f"about {format_bytes(make['size_bytes'])}.",
            f"{_make_words(details, make)}{_quality_words(make)}{_maybe_words(maybe)}",
        )
    if maybe:
        return f"{why}No variant that is surely the same model fits.", _maybe_words(maybe).strip()
    return None


def _kind(variant: Mapping[str, Any]) -> str:
    return f"{variant['precision']}, {format_bytes(variant['size_bytes'])}"


def _quality_words(variant: Mapping[str, Any]) -> str:
    """Say how far its weights are from the original's, where it is quantized and somebody knows."""
    if not _LEAST_ERROR <= variant["error"] <= _MOST_ERROR:
        return ""
    known = "measured when it was made" if variant["measured"] else "as a rule"
    return f" Its weights differ from the original's by about {variant['error']:.1%} ({known})."


def _make_words(details: Mapping[str, Any], make: Mapping[str, Any]) -> str:
    source = "" if make["name"] == details["subject"]["name"] else f" of {make['option']}"
    return f"Make it with Quantize Model{source}, format {make['format']}."


def _maybe_words(maybe: Mapping[str, Any] | None) -> str:
    if not maybe:
        return ""
    return (
        f" {maybe['option']} fits and has the same layout, but may be another fine-tune: "
        "choose it only if you know that it is the same model."
    )


def misfit_words(details: Mapping[str, Any]) -> str:
    """Say why the model itself does not fit, without a full stop."""
    return fit_words(details["subject"]).removeprefix("does not fit: ").rstrip(".")


def instead_details(name: str, details: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a load says of the variant that it took instead of ``name``."""
    best = details["way_out"]["best"]
    return {
        "model": name,
        "why": misfit_words(details),
        "link": best["link"],
        "precision": best["precision"],
    }


def no_variant_words(name: str, details: Mapping[str, Any]) -> tuple[str, str]:
    """Return why nothing can be taken instead of a model that does not fit, and what to do."""
    found = details["way_out"]
    make, anyway = found["make"], "Set on_misfit to warn to load it anyway."
    if not found["helps"]:
        return (
            f"{name} does not suit this machine, and no variant of it would: {misfit_words(details)}.",
            anyway,
        )
    if make:
        remedy = f"{_make_words(details, make)[:-1]}: about {format_bytes(make['size_bytes'])}."
    elif details["could_make"]:
        remedy = "Nothing that Quantize Model makes of it would fit either."
    else:
        remedy = "Quantize Model makes smaller ones from an original, in bf16 for example, and none is here."
    return (
        f"{name} does not fit this machine, and no variant of it that does is installed: "
        f"{misfit_words(details)}.",
        f"{remedy}{_maybe_words(found['maybe'])} {anyway}",
    )


def instead_line(instead: Mapping[str, Any]) -> str:
    """Say which file was taken in place of the chosen one; see :meth:`Loader.choose`."""
    return (
        f"{_INDENT}Taken instead of {instead['model']}, which does not fit: {instead['why']}. "
        f"This is the best variant here that fits: {instead['precision']}, {_LINKS[instead['link']]}."
    )


def _inside(sentence: str) -> str:
    """Return a sentence to stand after a colon."""
    return sentence[:1].lower() + sentence[1:].rstrip(".")
