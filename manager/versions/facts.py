"""What is known of one version or file, frozen: a person's words, its header, and its name."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field

from ..identify import ModelIdentity
from ..model import ModelInfo, ModelType, QuantizationType
from .families import EIGHT_BIT, FOUR_BIT, FULL, GGUF, Axis
from .naming import NameFacts, read_name, read_text
from .order import VersionKey, version_key

_CLASSES = {
    QuantizationType.NONE: FULL,
    QuantizationType.BF16: FULL,
    QuantizationType.FP16: FULL,
    QuantizationType.NVFP4: FOUR_BIT,
    QuantizationType.W4A4: FOUR_BIT,
    QuantizationType.W4A8: FOUR_BIT,
    QuantizationType.GGUF: GGUF,
}
# Words of a tag or a local part (``2.1+fp8``) that count as if the name said them.
_TAG_AXES = frozenset(Axis) - {Axis.EDITION}


@dataclass(frozen=True)
class VersionFacts:
    """One version of a model, or one file that nobody registered.

    Attributes:
        version: None for a file whose name says none.
        role: None when nobody knows.
        architecture: id, as the header shows it; None without a file.
        title: of the architecture.
        parameters: weights, as the header shows them.
        precision: class of how the weights are stored; None when nobody knows.
        name: what the file's name and the tags say.
    """

    version: str | None
    role: ModelType | None = None
    architecture: str | None = None
    title: str = ""
    parameters: int | None = None
    precision: str | None = None
    name: NameFacts = field(default_factory=NameFacts)

    @property
    def key(self) -> VersionKey:
        return version_key(self.version or "")

    @property
    def is_prerelease(self) -> bool:
        return self.key.is_prerelease or self.name.is_prerelease

    @property
    def is_release(self) -> bool:
        return self.key.readable and not self.is_prerelease


def precision_class(kind: QuantizationType) -> str:
    """Return the class of a format: files of two classes are variants, not versions."""
    return _CLASSES.get(kind, EIGHT_BIT)


def registered_facts(info: ModelInfo, identity: ModelIdentity | None = None) -> VersionFacts:
    """Return what is known of a registered version.

    What the header shows is believed first, then what the person said, then the name. A person who
    said nothing of a quantization, of a file whose name says nothing either, said that there is none.

    Args:
        identity: of its file; None when it is not there, or no good.
    """
    name = _with_tags(read_name(info.file_path.name), [*info.tags, info.version.partition("+")[2]])
    said = None if info.quantization is QuantizationType.NONE else precision_class(info.quantization)
    shown = _shown_precision(identity)
    role = None if info.model_type is ModelType.OTHER else info.model_type
    facts = file_facts(info.version, name, identity)
    return VersionFacts(
        info.version,
        facts.role or role,
        facts.architecture,
        facts.title,
        facts.parameters,
        shown or said or name.precision or FULL,
        name,
    )


def file_facts(version: str | None, name: NameFacts, identity: ModelIdentity | None) -> VersionFacts:
    """Return what is known of a file that nobody registered."""
    if identity is None or not identity.recognised:
        return VersionFacts(version, precision=name.precision, name=name)
    return VersionFacts(
        version,
        identity.role,
        identity.architecture,
        identity.title,
        identity.parameters,
        _shown_precision(identity),
        name,
    )


def _shown_precision(identity: ModelIdentity | None) -> str | None:
    known = identity is not None and identity.recognised
    return precision_class(identity.quantization) if identity is not None and known else None


def _with_tags(name: NameFacts, tags: Iterable[str]) -> NameFacts:
    """Return what a name says, with the words of tags; a tag names the family where the file does not."""
    words = {axis: set(values) for axis, values in name.words.items()}
    family, title = name.family, name.title
    for tag in tags:
        said = read_text(tag)
        family, title = (family, title) if family else (said.family, said.title)
        for axis in _TAG_AXES & said.words.keys():
            words.setdefault(axis, set()).update(said.words[axis])
    frozen = {axis: frozenset(values) for axis, values in words.items()}
    return dataclasses.replace(name, family=family, title=title, words=frozen)
