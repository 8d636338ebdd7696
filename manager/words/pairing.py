"""The words about files that belong together, from the details of :class:`pairs.Pairing`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_INDENT = "  "
_ROLES = {
    "diffusion": "Second model",
    "vae": "VAE",
    "text_encoder": "Text encoder",
    "lora": "LoRA",
    "controlnet": "ControlNet",
}
_VERDICTS = {
    True: "These files belong together.",
    False: "These files do not belong together.",
    None: "Nothing speaks against these files, but not all of it is known.",
}
_FITS = {True: "belongs to it", False: "does not belong to it", None: "not known whether it belongs"}
_FITS_WITHOUT_MODEL = {
    True: "there are models that take both",
    False: "no model known here takes both",
    None: "not known whether a model takes both",
}


def pairing_lines(pairing: Mapping[str, Any]) -> list[str]:
    """Return what goes with the model, and how each file that was named goes with it."""
    lines = []
    if pairing["needs"]:
        lines.append(_INDENT + f"Goes with: {_needs_words(pairing['needs'])}")
    fits = _FITS if pairing["model"]["role"] == "diffusion" else _FITS_WITHOUT_MODEL
    return lines + [_INDENT + _companion_words(companion, fits) for companion in pairing["companions"]]


def pair_lines(details: Mapping[str, Any]) -> list[str]:
    """Return the words of ``pair``, without its findings."""
    lines = ["Not all of these files can be read."]
    if not details["unreadable"]:
        lines = [_VERDICTS[details["together"]]]
    pairing = details["pairing"]
    if pairing:
        model = pairing["model"]
        lines.append(_INDENT + f"{model['name']}: {model['title']}")
        lines += pairing_lines(pairing)
    return lines


def _needs_words(needs: Mapping[str, Any]) -> str:
    """Return ``Wan 2.1 VAE; text encoder UMT5-XXL``."""
    parts = []
    if needs["vae"]:
        inside = " (it is in the model's file)" if "vae" in needs["in_file"] else ""
        parts.append(needs["vae"]["title"] + inside)
    encoders = needs["text_encoders"]
    if encoders:
        named = [
            " or ".join(slot["any_of"]) + (" (may be left out)" if slot["optional"] else "")
            for slot in encoders
        ]
        many = "s" if len(named) > 1 else ""
        inside = " (in the model's file)" if "text_encoder" in needs["in_file"] else ""
        parts.append(f"text encoder{many} {' and '.join(named)}{inside}")
    return "; ".join(parts)


def _companion_words(companion: Mapping[str, Any], fits: Mapping[bool | None, str]) -> str:
    role = _ROLES.get(companion["role"], "File")
    what = companion["title"] if companion["title"] != role else ""
    if companion["role"] == "lora":
        what = _lora_words(companion)
    elif companion["role"] == "controlnet" and companion["base"]:
        what = f"for {companion['base']}"
    facts = f" ({what})" if what else ""
    return f"{role}: {companion['name']}{facts}, {fits[companion['fits']]}"


def _lora_words(lora: Mapping[str, Any]) -> str:
    parts = [f"for {lora['base']}"] if lora["base"] else []
    if lora["rank"]:
        same = lora["rank"] == lora["smallest_rank"]
        parts.append(f"rank {lora['rank']}" if same else f"rank {lora['smallest_rank']} to {lora['rank']}")
    if "matched_layers" in lora:
        parts.append(f"{lora['matched_layers']} of its {lora['layers']} layers are in the model")
    return ", ".join(parts)
