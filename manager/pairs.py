"""Pairing at work: reads the headers, looks among the installed files, and answers for every door."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .checking import Advice, Asked
from .compatibility import Finding, Severity
from .errors import ManagedModelsError, ModelNotFound, NotSafetensors
from .files import FileIdentity
from .formats.gguf import read_gguf
from .formats.safetensors import TensorInfo, read_header
from .formats.sniff import GGUF_FILE
from .host import ModelFile
from .library import Library
from .model import FOLDER_TYPES, ModelType
from .pairing import DiffusionFacts, Facts, LoraFacts, SetVerdict, facts_of, judge_set
from .pairing.facts import Tensors
from .pairing.judge import accepted_encoders, match_lora, role_words, space_of
from .pairing.table import TEXT_ENCODER_OF

# What each companion is given as -> the roles that it may have.
_AS: dict[str, tuple[ModelType, ...]] = {
    "second_model": (ModelType.DIFFUSION, ModelType.CHECKPOINT),
    "clip": (ModelType.TEXT_ENCODER,),
    "vae": (ModelType.VAE,),
    "lora": (ModelType.LORA,),
}
_AS_WORDS = {"second_model": "second model", "clip": "text encoder", "vae": "VAE", "lora": "LoRA"}
# Where files to suggest are looked for; previews' small VAEs (vae_approx) are nobody's first choice.
_NOT_SUGGESTED = ("vae_approx",)
# A folder of LoRAs may hold thousands, and each header takes some milliseconds the first time.
_MOST_READ = {ModelType.LORA: 50}
_MOST_READ_ELSE = 200
_KEPT = 1000


class Pairing:
    """Says whether files belong together; an :class:`Advisor` of every check.

    Args:
        library: finds the installed files, and knows what each is.
    """

    key = "pairing"

    def __init__(self, library: Library) -> None:
        self._library = library
        self._known: dict[tuple[FileIdentity, str], Facts] = {}
        self._lock = threading.Lock()

    def advise(self, asked: Asked) -> Advice | None:
        """Return how the companions go with the model, and what it goes with; None where nothing is known.

        Raises:
            ManagedModelsError: the model's header cannot be read any more; a companion is not there.
        """
        companions = asked.options.companions
        if not companions and not asked.identity.is_diffusion:
            return None
        name = Path(asked.name).name if asked.path is None else asked.path.name
        model = self._asked_facts(name, asked)
        if not companions and (not isinstance(model, DiffusionFacts) or model.family is None):
            return None
        others: list[tuple[Facts, str]] = []
        findings: list[Finding] = []
        for given_as, path in sorted(companions.items()):
            try:
                facts = self.facts(path)
            except ModelNotFound:
                raise
            except ManagedModelsError as error:
                if given_as != "second_model":  # the forecast, which reads it too, says so
                    findings.append(_unreadable(error))
                continue
            trouble = _wrong_role(facts, given_as)
            if trouble:
                findings.append(trouble)
            else:
                others.append((facts, given_as))
        verdict = judge_set(model, [facts for facts, _ in others], self._installed)
        details = _details(verdict, {id(facts): given_as for facts, given_as in others})
        return Advice(details, (*findings, *verdict.findings))

    def pair(self, model: Path, others: Sequence[Path]) -> dict[str, Any]:
        """Return whether these files belong together; ``report.render_pair`` gives words.

        Returns:
            ``together`` (None where nothing speaks against it, and not all is known), ``model``, ``others``,
            ``unreadable`` (of these, by name), and as in a check ``findings`` and ``pairing`` (None when
            fewer than two files could be read).

        Raises:
            ModelNotFound: a file is not there.
        """
        read: list[Facts] = []
        findings: list[Finding] = []
        unreadable: list[str] = []
        for path in (model, *others):
            try:
                read.append(self.facts(path))
            except ModelNotFound:
                raise
            except ManagedModelsError as error:
                findings.append(_unreadable(error))
                unreadable.append(path.name)
        verdict = judge_set(read[0], read[1:], self._installed) if len(read) > 1 else None
        if verdict:
            findings += verdict.findings
        blocked = any(finding.severity is Severity.BLOCKER for finding in findings)
        together = False if blocked else verdict.together if verdict else None
        return {
            "model": model.name,
            "others": [path.name for path in others],
            "unreadable": unreadable,
            "together": together,
            "pairing": _details(verdict, {}) if verdict else None,
            "findings": [finding.to_dict() for finding in findings],
        }

    def facts(self, path: Path, name: str = "") -> Facts:
        """Return what a file's header says of the files that it belongs with.

        Args:
            name: how to call it in words; its file name when empty.

        Raises:
            ModelNotFound, FileError: it is not there, or no good.
        """
        key = (FileIdentity.of(path), name)
        with self._lock:
            known = self._known.get(key)
        if known is None:
            known = facts_of(name or path.name, self._library.identity(path), _read_tensors(path))
            with self._lock:
                if len(self._known) >= _KEPT:
                    self._known.clear()
                self._known[key] = known
        return known

    def _asked_facts(self, name: str, asked: Asked) -> Facts:
        """Return the model's facts; without companions mostly from its identity, which is there already."""
        facts = facts_of(name, asked.identity, {})
        by_width = isinstance(facts, DiffusionFacts) and facts.family and facts.family.hidden_layers
        if not asked.options.companions and not by_width:
            return facts
        if asked.path is not None:
            return self.facts(asked.path, name)
        header = asked.read_header()
        return facts_of(name, asked.identity, header.tensors if header else {})

    def _installed(self, role: ModelType) -> list[Facts]:
        """Return the facts of the files here that play ``role``, by the names that loaders list."""
        found: list[Facts] = []
        for file in self._candidates(role)[: _MOST_READ.get(role, _MOST_READ_ELSE)]:
            try:
                if self._library.identity(file.path).role is role:
                    found.append(self.facts(file.path, file.name))
            except ManagedModelsError:  # what cannot be read is no suggestion
                continue
        return found

    def _candidates(self, role: ModelType) -> list[ModelFile]:
        """Return the files of the folders for this role; of every folder whose purpose is not known."""
        return [
            file
            for file in self._library.files()
            if FOLDER_TYPES.get(file.folder, role) is role and file.folder not in _NOT_SUGGESTED
        ]


def _read_tensors(path: Path) -> Tensors:
    try:
        return read_header(path).tensors
    except NotSafetensors as error:
        if error.details.get("looks_like") != GGUF_FILE:
            raise
        tensors = read_gguf(path).tensors
        return {name: TensorInfo("U8", tensor.shape, 0, 0) for name, tensor in tensors.items()}


def _unreadable(error: ManagedModelsError) -> Finding:
    return Finding(error.code, Severity.BLOCKER, error.message, error.remedy)


def _wrong_role(facts: Facts, given_as: str) -> Finding | None:
    """Return what is wrong with a file that was given as what it is not; nothing for an unknown one."""
    expected = _AS.get(given_as)
    if expected is None or facts.role in expected or facts.role is ModelType.OTHER:
        return None
    return Finding(
        "wrong_role",
        Severity.BLOCKER,
        f"{facts.name} was given as the {_AS_WORDS[given_as]}, and it is {_what(facts)}.",
        f"Choose a {_AS_WORDS[given_as]} there.",
        needed=_AS_WORDS[given_as],
        found=role_words(facts.role),
    )


def _what(facts: Facts) -> str:
    role = role_words(facts.role)
    return f"a {role}" if role.lower() in facts.title.lower() else f"a {role} ({facts.title})"


def _details(verdict: SetVerdict, given: dict[int, str]) -> dict[str, Any]:
    """Return the JSON-safe details that the renderer and scripts read."""
    return {
        "model": verdict.model.to_dict(),
        "needs": _needs(verdict.model),
        "companions": [
            {
                **facts.to_dict(),
                **_match(verdict.model, facts),
                "given_as": given.get(id(facts)),
                "fits": judged.fits,
            }
            for facts, judged in verdict.pairs
        ],
        "together": verdict.together,
    }


def _match(model: Facts, facts: Facts) -> dict[str, Any]:
    if not isinstance(model, DiffusionFacts) or not isinstance(facts, LoraFacts) or not facts.layers.layers:
        return {}
    match = match_lora(model, facts)
    return {"matched_layers": match.matched, "share": round(match.share, 4)}


def _needs(model: Facts) -> dict[str, Any] | None:
    """Return what goes with a diffusion model, None where the table does not have it."""
    if not isinstance(model, DiffusionFacts) or model.family is None:
        return None
    space = space_of(model)
    return {
        "vae": {
            "title": space.title,
            "latent_channels": space.channels,
            "spatial_factor": space.spatial,
            "temporal_factor": space.temporal,
            "file": space.file,
        }
        if space
        else None,
        "text_encoders": [
            {
                "any_of": [TEXT_ENCODER_OF[kind].title for kind in slot.kinds],
                "optional": slot.optional,
            }
            for slot in accepted_encoders(model)
        ],
        "in_file": list(model.parts),
        "source": f"ComfyUI 0.33, {model.family.source}",
    }
