"""What a file's name says, read with the table in ``families``. A name is a hint, never a fact."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath, PureWindowsPath
from typing import NamedTuple

from ..model import MODEL_SUFFIXES
from .families import EIGHT_BIT, FAMILIES, FOUR_BIT, FULL, GGUF, WORDS, Axis, Family, Word

_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z][a-z])")
_SEPARATORS = re.compile(r"[^a-z0-9.]+|(?<!\d)\.|\.(?!\d)")
_DATE = re.compile(r"2[3-9](?:0[1-9]|1[0-2])|20[2-9]\d(?:0[1-9]|1[0-2])(?:[0-3]\d)?")
_LONGEST = 255  # of a file's name; nothing longer is one
_FEWEST_BITS_FIRST = (GGUF, FOUR_BIT, EIGHT_BIT, FULL)


@dataclass(frozen=True)
class NameFacts:
    """What a name says.

    Attributes:
        family: an id of ``FAMILIES``, None when no row fits.
        generation: the number that belongs to the family: 2.2 of ``wan2.2``, 2509 of a dated one.
        own: further version numbers, in order: 1.1 of ``wan2.2_lora_v1.1``.
        words: what stands on each axis.
        rest: other families that it names, and what no row reads, in order.
        dated: see :class:`Family`.
    """

    family: str | None = None
    title: str = ""
    generation: str | None = None
    own: tuple[str, ...] = ()
    words: Mapping[Axis, frozenset[str]] = field(default_factory=dict)
    rest: tuple[str, ...] = ()
    dated: bool = False

    def on(self, axis: Axis) -> frozenset[str]:
        """Return what stands on an axis."""
        return self.words.get(axis, frozenset())

    @property
    def version(self) -> str | None:
        """What a person would call its version: its own, else the family's generation; None if several."""
        if self.own:
            return self.own[0] if len(self.own) == 1 else None
        return None if "LoRA" in self.on(Axis.ROLE) else self.generation  # which is its base model's

    @property
    def precision(self) -> str | None:
        """The class of how it is stored, the fewest bits where several are named."""
        return next((name for name in _FEWEST_BITS_FIRST if name in self.on(Axis.PRECISION)), None)

    @property
    def is_prerelease(self) -> bool:
        return bool(self.on(Axis.PRERELEASE))


@functools.lru_cache(maxsize=16384)
def read_name(name: str) -> NameFacts:
    """Return what the name of a file says; folders and the ending count for nothing."""
    return read_text(_stem(name))


def read_text(text: str) -> NameFacts:
    """Return what a text says that is written as names are, such as a tag."""
    plain = _CAMEL.sub("-", text[:_LONGEST]).lower()
    family, generation, left = _take_family(plain)
    left, others = _take_other_families(left)
    words, rest = _words_in(left)
    own = words.pop(Axis.VERSION, [])
    words.pop(Axis.PACKAGING, None)
    if family is not None and family.dated and own:
        dates = [text for text in own if _DATE.fullmatch(text)]
        generation = dates[0] if dates else None
        own = [text for text in own if text != generation]
    frozen = {axis: frozenset(values) for axis, values in words.items()}
    if family is None:
        return NameFacts(own=tuple(own), words=frozen, rest=(*others, *rest))
    return NameFacts(family.id, family.title, generation, tuple(own), frozen, (*others, *rest), family.dated)


class _Reader(NamedTuple):
    """A family's pattern; one of ``needs`` is in every text that it fits, which is quicker to see."""

    row: Family
    pattern: re.Pattern[str]
    needs: tuple[str, ...]


def _compiled(pattern: str) -> re.Pattern[str]:
    number = r"(?P<version>\\d+(?:[._]\\d+)*)"
    expanded = re.sub("#", number, pattern.replace("~", "[-_. ]*"))
    return re.compile(rf"(?<![a-z0-9])(?:{expanded})(?![a-z0-9]|\.\d)")


def _needs(pattern: str) -> tuple[str, ...]:
    """Return what each alternative begins with; a single empty text where one begins otherwise."""
    alternatives, depth = [""], 0
    for character in pattern:
        depth += (character in "([") - (character in ")]")
        if character == "|" and depth == 0:
            alternatives.append("")
        else:
            alternatives[-1] += character
    starts = [re.match(r"\^?([a-z0-9]*)(?![?*])", text) for text in alternatives]
    return tuple(start[1] if start else "" for start in starts)


@functools.cache
def _families() -> tuple[_Reader, ...]:
    """Compile the table on first use: ComfyUI's start needs none of it."""
    return tuple(_Reader(row, _compiled(row.pattern), _needs(row.pattern)) for row in FAMILIES)


@functools.cache
def _words() -> tuple[tuple[Word, re.Pattern[str]], ...]:
    return tuple((row, _compiled(row.pattern)) for row in WORDS)


def _take_family(text: str) -> tuple[Family | None, str | None, str]:
    """Return the family that is named first, its generation, and the text without both."""
    found = [
        (match.start(), i)
        for i, reader in enumerate(_families())
        if any(need in text for need in reader.needs) and (match := reader.pattern.search(text))
    ]
    if not found:
        return None, None, text
    row, pattern, _ = _families()[min(found)[1]]
    match = pattern.search(text)
    assert match is not None
    generation = _number(match.groupdict().get("version"), row.glued)
    return row, generation, f"{text[: match.start()]}-{text[match.end() :]}"


def _take_other_families(text: str) -> tuple[str, list[str]]:
    """Return a text without further families, whose numbers are not versions of this file."""
    others: list[str] = []
    while True:
        row, generation, left = _take_family(text)
        if row is None:
            return text, sorted(others)
        others.append(f"{row.id} {generation or ''}".strip())
        text = left


def _words_in(text: str) -> tuple[dict[Axis, list[str]], tuple[str, ...]]:
    """Return what the words of a text say, and what is left of it."""
    found: dict[Axis, list[tuple[int, str]]] = {}
    for word, pattern in _words():
        matches = list(pattern.finditer(text))
        for match in matches:
            value = match.expand(word.value)
            if word.axis in (Axis.SIZE, Axis.VERSION):
                value = value.replace("_", ".").replace("-", ".")
            found.setdefault(word.axis, []).append((match.start(), value))
        if matches:  # as long as before, so that places in it stay comparable
            text = pattern.sub(lambda match: "-" * len(match[0]), text)
    rest = tuple(part for part in _SEPARATORS.split(text) if part)
    return {axis: [value for _, value in sorted(values)] for axis, values in found.items()}, rest


def _number(text: str | None, glued: bool) -> str | None:
    """Return a generation with points: ``2_1`` and, where rows say so, ``21`` are 2.1."""
    if not text:
        return None
    if glued and re.fullmatch(r"\d\d", text):
        return f"{text[0]}.{text[1]}"
    return re.sub(r"[-_]", ".", text)


def _stem(name: str) -> str:
    path = PureWindowsPath(name) if "\\" in name else PurePath(name)
    return path.stem if path.suffix.lower() in MODEL_SUFFIXES else path.name
