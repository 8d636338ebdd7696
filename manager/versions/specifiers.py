"""Which version a text asks for: a version, a specifier, ``latest``, or an alias that a person gave."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from packaging.specifiers import SpecifierSet

from ..errors import BadInput, ModelNotFound
from .order import LOCAL_PART, is_version, latest_of, parse_version, version_key

LATEST = "latest"
_ALIAS = re.compile(r"[^\W\d][\w.\-]{0,63}")


def parse_requirement(requirement: str, aliases: Iterable[str] = ()) -> SpecifierSet:
    """Read ``>=1.2``, ``~=2.1`` or a bare ``1.5.0``, which means ``==1.5.0``.

    Args:
        aliases: words that would have been understood, for the error.

    Raises:
        BadInput: it is neither a version nor a specifier.
    """
    text = LOCAL_PART.sub("", requirement.strip())
    version = parse_version(text)
    if version is not None:
        return SpecifierSet(f"=={version}", prereleases=True)
    try:
        return SpecifierSet(text)
    except ValueError:  # InvalidSpecifier, or more digits than Python reads
        raise BadInput(
            f"{requirement!r} is not a version requirement.",
            "Use a version such as 1.5.0, a specifier such as >=1.2 or ~=2.1, latest, or an alias"
            f" ({', '.join(aliases) or 'this model has none'}).",
        ) from None


def select_version(
    versions: Iterable[str], requirement: str, aliases: Mapping[str, str] | None = None
) -> str | None:
    """Return the version that ``requirement`` means: the newest that it admits, or None.

    A version as it was registered comes first, then ``latest``, an alias, and a specifier.

    Raises:
        BadInput: it is none of these.
        ModelNotFound: it is an alias of a version that is not there any more.
    """
    versions, wanted = list(versions), requirement.strip()
    if wanted.lower() == LATEST:
        return latest_of(versions)
    if wanted in versions:
        return wanted
    if aliases and wanted in aliases:
        return _aliased(wanted, aliases[wanted], versions)
    if parse_version(wanted) is None and is_version(wanted):  # semantic, which no specifier can say
        return next((v for v in versions if version_key(v) == version_key(wanted)), None)
    specifier = parse_requirement(wanted, aliases or ())
    fitting = [v for v in versions if (p := parse_version(v)) is not None and specifier.contains(p)]
    return latest_of(fitting)


def check_alias(alias: str, versions: Iterable[str]) -> str:
    """Return an alias without the blanks around it.

    Raises:
        BadInput: it could be taken for something else, or is no word.
    """
    text = alias.strip()
    if text.lower() == LATEST:
        raise BadInput(f"{alias!r} always means the newest version.", "Choose another word, such as stable.")
    if is_version(text) or text in versions:
        raise BadInput(f"{alias!r} is a version itself.", "Choose a word that is no version, such as stable.")
    if not _ALIAS.fullmatch(text):
        raise BadInput(
            f"{alias!r} cannot be an alias.",
            "Use one word of letters, digits, '-', '_' or '.' that begins with a letter, such as stable.",
        )
    return text


def _aliased(alias: str, version: str, versions: list[str]) -> str:
    if version not in versions:
        raise ModelNotFound(
            f"The alias {alias!r} points to version {version!r}, which is not registered any more.",
            f"Point it to another one ({', '.join(versions) or 'none is registered'}), or remove it.",
        )
    return version
