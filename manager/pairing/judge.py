"""Do these files belong together? Verdicts decided purely from frozen facts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ..compatibility import Finding, Severity, with_article
from ..model import ModelType
from .facts import (
    PACKED,
    ControlNetFacts,
    DiffusionFacts,
    Facts,
    LoraFacts,
    OtherFacts,
    TextEncoderFacts,
    VaeFacts,
)
from .lora_names import Target
from .table import FAMILIES, SPACES, TEXT_ENCODER_OF, Slot, Space

# The installed files of a role, asked for only when there is something to suggest.
Installed = Callable[[ModelType], Sequence[Facts]]
MAX_SUGGESTIONS = 3
_MAX_TITLES = 4
_PREVIEWS = ("TAESD", "TAEHV")

_ROLE_WORDS = {
    ModelType.DIFFUSION: "diffusion model",
    ModelType.VAE: "VAE",
    ModelType.TEXT_ENCODER: "text encoder",
    ModelType.LORA: "LoRA",
    ModelType.CONTROLNET: "ControlNet",
}


@dataclass(frozen=True)
class Verdict:
    """Whether two files belong together, None when that is not known; and why."""

    fits: bool | None
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class SetVerdict:
    """The verdict on a set: each other file with how it goes with ``model``, and all findings."""

    model: Facts
    pairs: tuple[tuple[Facts, Verdict], ...]
    findings: tuple[Finding, ...]

    @property
    def together(self) -> bool | None:
        """Whether all belong together; None when nothing speaks against it, but not all is known."""
        if any(finding.severity is Severity.BLOCKER for finding in self.findings):
            return False
        return True if all(verdict.fits for _, verdict in self.pairs) else None


@dataclass(frozen=True)
class LoraMatch:
    """How many of a LoRA's layers a model has: by name, and by name and size."""

    layers: int
    named: int
    matched: int

    @property
    def share(self) -> float:
        return self.matched / self.layers if self.layers else 0.0


def judge_set(model: Facts, others: Sequence[Facts], installed: Installed = lambda role: ()) -> SetVerdict:
    """Judge each of ``others`` with the set's diffusion model, whichever of them it is.

    Without a diffusion model every two files are asked whether any model takes both. The order of
    ``others`` makes no difference.
    """
    files = [model, *sorted(others, key=lambda facts: (facts.role.value, facts.name, repr(facts)))]
    anchor = next((facts for facts in files if isinstance(facts, DiffusionFacts)), None)
    if anchor is None:
        pairs = [(other, judge_pair(model, other)) for other in files[1:]]
        rest = files[1:]
        between = [judge_pair(a, b) for i, a in enumerate(rest) for b in rest[i + 1 :]]
        found = [f for _, verdict in pairs for f in verdict.findings]
        found += [f for verdict in between for f in verdict.findings if f.severity is Severity.BLOCKER]
        return SetVerdict(model, tuple(pairs), _once(found))
    companions = [facts for facts in files if facts is not anchor]
    pairs = [(other, judge_pair(anchor, other, installed)) for other in companions]
    found = [f for _, verdict in pairs for f in verdict.findings]
    found += _missing_encoders(anchor, companions, installed)
    return SetVerdict(anchor, tuple(pairs), _once(found))


def _once(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    return tuple(dict.fromkeys(findings))


def judge_pair(a: Facts, b: Facts, installed: Installed = lambda role: ()) -> Verdict:
    """Say whether two files belong together, in whichever order they are given."""
    if isinstance(b, DiffusionFacts) and not isinstance(a, DiffusionFacts):
        a, b = b, a
    if not isinstance(a, DiffusionFacts):
        return _without_model(*sorted((a, b), key=lambda facts: (facts.role.value, facts.name)))
    if isinstance(b, DiffusionFacts):
        return _two_models(*sorted((a, b), key=lambda facts: facts.name))
    if isinstance(b, VaeFacts):
        return _vae(a, b, installed)
    if isinstance(b, TextEncoderFacts):
        return _text_encoder(a, b, installed)
    if isinstance(b, LoraFacts):
        return _lora(a, b, installed)
    if isinstance(b, ControlNetFacts):
        return _controlnet(a, b)
    return _unknown(a, b)


def suitable(model: DiffusionFacts, candidates: Sequence[Facts]) -> list[str]:
    """Return the names of the files that belong to ``model``, at most three, certain ones first."""
    good = [
        (_is_preview(other), bool(verdict.findings), other.name)
        for other in candidates
        if (verdict := judge_pair(model, other)).fits
    ]
    return [name for _, _, name in sorted(good)[:MAX_SUGGESTIONS]]


def _is_preview(facts: Facts) -> bool:
    """Tell whether a VAE is one of the small ones, which are quick and worse."""
    return isinstance(facts, VaeFacts) and facts.kind is not None and facts.kind.comfy_class in _PREVIEWS


def match_lora(model: DiffusionFacts, lora: LoraFacts) -> LoraMatch:
    """Count the layers of ``lora`` that ``model`` has, under the names that ComfyUI knows for them."""
    names = model.layer_names
    named = [(names[name], size) for name, size in lora.layers.layers.items() if name in names]
    matched = sum(_same_size(model, target, size) for target, size in named)
    return LoraMatch(len(lora.layers.layers), len(named), matched)


def accepted_encoders(model: DiffusionFacts) -> list[Slot]:
    """Return the text encoders that a model takes; of a choice, those that give text of its width."""
    if model.family is None:
        return []
    return [Slot(_of_width(model, slot.kinds), slot.optional) for slot in model.family.slots]


def space_of(model: DiffusionFacts) -> Space | None:
    """Return the latent space that a model works in."""
    return SPACES[model.family.space] if model.family else None


def _of_width(model: DiffusionFacts, kinds: tuple[str, ...]) -> tuple[str, ...]:
    layers = model.family.hidden_layers if model.family else 0
    if not layers or not model.text_width:
        return kinds
    return tuple(k for k in kinds if TEXT_ENCODER_OF[k].width * layers == model.text_width) or kinds


def _vae(model: DiffusionFacts, vae: VaeFacts, installed: Installed) -> Verdict:
    space = space_of(model)
    if space is None or vae.kind is None:
        return _unknown(model, vae)
    needed, found = _latent_words(space), f"{vae.title}: {_vae_words(vae)}"
    if space.id not in vae.kind.spaces:
        remedy = _choose(suitable(model, installed(ModelType.VAE)), space.file, "VAE")
        if "vae" in model.parts:
            remedy = f"Use the VAE that is in {model.name}. {remedy}"
        return Verdict(
            False,
            (
                Finding(
                    "vae_mismatch",
                    Severity.BLOCKER,
                    f"{vae.name} is the wrong VAE for {model.title}: it is {_a(vae.title)}, and this model "
                    f"needs the {space.title}. Pictures would fail or be noise.",
                    remedy,
                    needed,
                    found,
                ),
            ),
        )
    if len(vae.kind.spaces) == 1:
        return Verdict(True)
    others = " or ".join(SPACES[other].title for other in vae.kind.spaces if other != space.id)
    named = f", such as {space.file}" if space.file and space.file != vae.name else ""
    return Verdict(
        True,
        (
            Finding(
                "vae_ambiguous",
                Severity.NOTE,
                f"{vae.name} has the form of the {space.title} that {model.title} needs. The {others} has "
                "the same form, so only its origin tells which it is.",
                f"If colours come out wrong, get the {space.title}{named}.",
                needed,
                found,
            ),
        ),
    )


def _text_encoder(model: DiffusionFacts, encoder: TextEncoderFacts, installed: Installed) -> Verdict:
    slots = accepted_encoders(model)
    if not slots or encoder.kind is None:
        return _unknown(model, encoder)
    if any(encoder.kind.id in slot.kinds for slot in slots):
        return Verdict(True)
    known = [TEXT_ENCODER_OF[kind] for slot in slots for kind in slot.kinds]
    files = [kind.file for kind in known if kind.file]
    remedy = _choose(
        suitable(model, installed(ModelType.TEXT_ENCODER)), files[0] if files else "", "text encoder"
    )
    return Verdict(
        False,
        (
            Finding(
                "text_encoder_mismatch",
                Severity.BLOCKER,
                f"{encoder.name} is the wrong text encoder for {model.title}: it is {encoder.title}, and "
                f"this model needs {_slots_words(slots)}. It would not understand your prompt.",
                remedy,
                _slots_words(slots) + (f"; text of width {model.text_width}" if model.text_width else ""),
                f"{encoder.title}, width {encoder.width}",
            ),
        ),
    )


def _lora(model: DiffusionFacts, lora: LoraFacts, installed: Installed) -> Verdict:
    if not lora.layers.layers:
        return _lora_of_text(model, lora)
    if not model.tensors:  # its header was not read
        return _unknown(model, lora)
    match = match_lora(model, lora)
    base = lora.base or "a model that nobody here recognises"
    found = f"{match.matched} of {match.layers} layers, made for {base}"
    needed = f"layers of {model.title}"
    if model.family and lora.families and model.family.id not in lora.families:
        why = f"it is made for {lora.base}"
    elif match.matched:
        return _lora_by_share(model, match, lora, needed, found)
    elif match.named:
        why = f"it is made for {_other_size(lora, model)}, whose layers are larger or smaller"
    elif model.family is None:
        return _unknown(model, lora)
    else:
        why = f"none of the {match.layers} layers that it changes is in this model"
    good = suitable(model, installed(ModelType.LORA))
    remedy = (
        f"Choose {_or(good)} instead." if good else f"Leave it out, or get a LoRA made for {model.title}."
    )
    return Verdict(
        False,
        (
            Finding(
                "lora_mismatch",
                Severity.BLOCKER,
                f"{lora.name} is the wrong LoRA for {model.title}: {why}. "
                f"ComfyUI would apply {match.matched} of its {match.layers} layers.",
                remedy,
                needed,
                found,
            ),
        ),
    )


def _other_size(lora: LoraFacts, model: DiffusionFacts) -> str:
    return lora.base if lora.base and lora.base != model.title else "another size of this model"


def _lora_by_share(
    model: DiffusionFacts, match: LoraMatch, lora: LoraFacts, needed: str, found: str
) -> Verdict:
    if match.matched == match.layers:
        return Verdict(True)
    percent = f"{max(1, min(99, round(100 * match.share)))} %"
    return Verdict(
        True if model.family and 2 * match.matched >= match.layers else None,
        (
            Finding(
                "lora_partial",
                Severity.NOTE,
                f"{lora.name} fits {model.title} in part: ComfyUI would apply {match.matched} of its "
                f"{match.layers} layers ({percent}), and pass over the rest.",
                f"Its effect may be weaker, or another one; a LoRA made for {model.title} fits whole.",
                needed,
                found,
            ),
        ),
    )


def _lora_of_text(model: DiffusionFacts, lora: LoraFacts) -> Verdict:
    if not lora.layers.text_layers:
        return _unknown(model, lora)
    return Verdict(
        None,
        (
            Finding(
                "lora_text_only",
                Severity.NOTE,
                f"{lora.name} changes text encoders alone ({lora.layers.text_layers} layers) and no layer of "
                f"{model.title}.",
                "It has an effect only where the CLIP input of Load LoRA is connected.",
            ),
        ),
    )


def _same_size(model: DiffusionFacts, target: Target, size: tuple[int, int] | None) -> bool:
    """Tell whether a change of this size can be added to the layer; True where the size is not known."""
    info = model.tensors[target.key]
    if size is None or len(info.shape) < 2:
        return True
    outputs, inputs = info.shape[0], info.shape[1]
    same_outputs = size[0] <= outputs if target.part else size[0] == outputs
    return same_outputs and (size[1] == inputs or (info.dtype in PACKED and size[1] == 2 * inputs))


def _controlnet(model: DiffusionFacts, control: ControlNetFacts) -> Verdict:
    if model.family is None or not control.families:
        return _unknown(model, control)
    if model.family.id in control.families:
        return Verdict(True)
    return Verdict(
        False,
        (
            Finding(
                "controlnet_mismatch",
                Severity.BLOCKER,
                f"{control.name} is the wrong ControlNet for {model.title}: it is made for {control.base}.",
                f"Get a ControlNet made for {model.title}.",
                model.title,
                control.base,
            ),
        ),
    )


def _two_models(a: DiffusionFacts, b: DiffusionFacts) -> Verdict:
    """Judge the two halves of a pair such as Wan 2.2's high and low noise."""
    if a.family is None or b.family is None:
        return _unknown(a, b)
    measures = ((x.latent_out, x.text_width, _hidden_width(x)) for x in (a, b))
    if a.architecture == b.architecture and all(map(_agree, *measures)):
        return Verdict(True)
    words = [x.title if a.title != b.title else f"{x.title} of width {_hidden_width(x)}" for x in (a, b)]
    return Verdict(
        False,
        (
            Finding(
                "second_model_mismatch",
                Severity.BLOCKER,
                f"{a.name} and {b.name} are no halves of one model: the first is {words[0]}, "
                f"the second {words[1]}.",
                "Choose two files of one model, such as Wan 2.2's high_noise and low_noise.",
                words[0],
                words[1],
            ),
        ),
    )


def _hidden_width(model: DiffusionFacts) -> int | None:
    info = model.tensors.get(model.family.output[0]) if model.family else None
    known = info is not None and len(info.shape) > 1 and info.dtype not in PACKED
    return info.shape[1] if info is not None and known else None


def _agree(a: int | None, b: int | None) -> bool:
    """Tell whether two measures can be the same; one that a quantized file does not give may be any."""
    return a is None or b is None or a == b


def _without_model(a: Facts, b: Facts) -> Verdict:
    """Judge two files by whether any model takes both."""
    if not a.families or not b.families:
        return _unknown(a, b)
    if a.families & b.families:
        return Verdict(True)
    return Verdict(
        False,
        (
            Finding(
                "pair_mismatch",
                Severity.BLOCKER,
                f"No model known here takes both: {a.name} ({a.title}) goes with {_families_words(a)}, "
                f"{b.name} ({b.title}) with {_families_words(b)}.",
                "Name the diffusion model too, to see which of them belongs to it.",
            ),
        ),
    )


def _unknown(a: Facts, b: Facts) -> Verdict:
    """Say that it is not known whether two files belong together, and what was seen of the stranger."""
    model = a if isinstance(a, DiffusionFacts) else None
    if model is not None and model.family is None:
        what = f"{model.name} ({model.title}) is not in the table of what belongs together"
    else:
        strange = b if _is_strange(b) or not _is_strange(a) else a
        what = f"{strange.name} is {_a(strange.title)}"
        if isinstance(strange, OtherFacts) and strange.role is ModelType.OTHER:
            what = f"{strange.name} is of a kind that nobody here recognises"
        seen = ", ".join(getattr(strange, "seen", ()))
        what += f" (it holds tensors such as {seen})" if seen else ""
    return Verdict(
        None,
        (
            Finding(
                "pair_unknown",
                Severity.NOTE,
                f"Whether {a.name} and {b.name} belong together is not known: {what}.",
                "Look at the page where you got it.",
            ),
        ),
    )


def _is_strange(facts: Facts) -> bool:
    return not facts.families


def _missing_encoders(
    model: DiffusionFacts, companions: Sequence[Facts], installed: Installed
) -> Iterator[Finding]:
    """Name the text encoders that a model needs besides those that were given."""
    given = {c.kind.id for c in companions if isinstance(c, TextEncoderFacts) and c.kind}
    slots = accepted_encoders(model)
    if "text_encoder" in model.parts or not any(given.intersection(slot.kinds) for slot in slots):
        return
    missing = [slot for slot in slots if not slot.optional and not given.intersection(slot.kinds)]
    for slot in missing:
        fitting = [
            facts
            for facts in installed(ModelType.TEXT_ENCODER)
            if isinstance(facts, TextEncoderFacts) and facts.kind and facts.kind.id in slot.kinds
        ]
        names = sorted(facts.name for facts in fitting)[:MAX_SUGGESTIONS]
        files = [TEXT_ENCODER_OF[kind].file for kind in slot.kinds if TEXT_ENCODER_OF[kind].file]
        yield Finding(
            "text_encoder_more",
            Severity.NOTE,
            f"{model.title} uses one more text encoder at the same time: {_slots_words([slot])}.",
            f"Load {_or(names)} beside it." if names else _get(files[0] if files else "", "text encoder"),
        )


def _choose(names: list[str], file: str, role: str) -> str:
    return f"Choose {_or(names)} instead." if names else _get(file, role)


def _get(file: str, role: str) -> str:
    if not file:
        return f"No {role} that was found here fits; look at the page where you got the model."
    return f"No {role} that was found here fits; ComfyUI's own templates use {file}."


def _latent_words(space: Space) -> str:
    return f"{space.title}: {space.channels} latent channels, {_factor_words(space.spatial, space.temporal)}"


def _vae_words(vae: VaeFacts) -> str:
    return f"{vae.latent_channels} latent channels, {_factor_words(vae.spatial, vae.temporal)}"


def _factor_words(spatial: int | None, temporal: int | None) -> str:
    side = f"{spatial} x {spatial} pixels per cell" if spatial else "pixels per cell unknown"
    return side if temporal in (None, 1) else f"{side}, {temporal} frames"


def _slots_words(slots: Sequence[Slot]) -> str:
    """Return ``CLIP-L and T5-XXL``; what may be left out is named when it is all there is."""
    needed = [slot for slot in slots if not slot.optional] or list(slots)
    return " and ".join(_or([TEXT_ENCODER_OF[kind].title for kind in slot.kinds]) for slot in needed)


def _families_words(facts: Facts) -> str:
    titles = [family.title for family in FAMILIES if family.id in facts.families]
    if len(titles) > _MAX_TITLES:
        titles = [*titles[:_MAX_TITLES], f"{len(titles) - _MAX_TITLES} more"]
    return _or(titles)


def _or(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def _a(title: str) -> str:
    return f"the {title}" if title.endswith("VAE") and " or " not in title else with_article(title)


def role_words(role: ModelType) -> str:
    """Return a role in a person's words."""
    return _ROLE_WORDS.get(role, role.value.replace("_", " "))
