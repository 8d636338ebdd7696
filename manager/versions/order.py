"""One order for every version: PEP 440, and semantic versions where PEP 440 cannot read them.

What PEP 440 reads (https://peps.python.org/pep-0440/) is ordered as PEP 440 says; that includes ``v1.0``,
``1.0.0-beta.1`` and dates such as ``2509``. A semantic version (https://semver.org) that PEP 440 cannot
read, such as ``1.0.0-alpha.beta`` or ``1.0.0-SNAPSHOT``, is a pre-release of its number. Its identifiers
are compared as semver says, numbers below words, without regard to case; ``a``, ``b`` and ``rc`` of PEP 440
stand among them as alpha, beta and rc. Where both read a text and differ, PEP 440 decides: ``1.0-1`` comes
after ``1.0``. Local parts and build metadata (``+cu118``) are ignored. What nobody can read sorts below
every version, by its text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from packaging.version import Version

LOCAL_PART = re.compile(r"\+[a-z0-9]+(?:[-_.][a-z0-9]+)*", re.IGNORECASE | re.ASCII)
_SEMVER = re.compile(
    r"v?(\d+)\.(\d+)\.(\d+)(?:-([0-9a-z-]+(?:\.[0-9a-z-]+)*))?(?:\+[0-9a-z-]+(?:\.[0-9a-z-]+)*)?",
    re.IGNORECASE | re.ASCII,
)
_PHASES = {"a": "alpha", "b": "beta", "rc": "rc"}
_NO_DEV = (1, 0)

# A word, or a number, among the identifiers of a pre-release: numbers come first.
_Identifier = tuple[int, int, str]


class VersionKey(NamedTuple):
    """What versions are compared by, field by field; see the head of this file for the order.

    Attributes:
        readable: False for a text that is no version, which then has ``text`` alone.
        release: its numbers without zeros at the end.
        final: False for what comes before the number: development of it, and its pre-releases.
        identifiers: of a pre-release; none for development, which comes first.
        post: number of a post-release, -1 for none.
        dev: (0, number) of a development release, else (1, 0).
    """

    readable: bool
    epoch: int = 0
    release: tuple[int, ...] = ()
    final: bool = False
    identifiers: tuple[_Identifier, ...] = ()
    post: int = -1
    dev: tuple[int, int] = _NO_DEV
    text: str = ""

    @property
    def is_prerelease(self) -> bool:
        return self.readable and (not self.final or self.dev != _NO_DEV)


def parse_version(text: str) -> Version | None:
    """Return the version that PEP 440 reads, without its local part, or None."""
    try:
        return Version(Version(text).public)
    except (ValueError, TypeError):  # InvalidVersion, or more digits than Python reads
        return None


def version_key(text: str) -> VersionKey:
    """Return a key that sorts every text: what is no version first, then by version."""
    version = parse_version(text)
    if version is not None:
        return _pep440_key(version)
    semantic = _SEMVER.fullmatch(text.strip()) if isinstance(text, str) else None
    if semantic is not None:
        try:
            return _semantic_key(semantic)
        except ValueError:  # more digits than Python reads
            pass
    return VersionKey(False, text=str(text))


def compare_versions(a: str, b: str) -> int:
    """Return -1, 0 or 1 as ``a`` is older than, the same as or newer than ``b``."""
    first, second = version_key(a), version_key(b)
    return (first > second) - (first < second)


def is_version(text: str) -> bool:
    """Tell whether ``text`` is a version, of PEP 440 or a semantic one."""
    return version_key(text).readable


def is_release(text: str) -> bool:
    """Tell whether ``text`` is a version and no pre-release."""
    key = version_key(text)
    return key.readable and not key.is_prerelease


def latest_of(versions: Iterable[str]) -> str | None:
    """Return the newest; a pre-release only when there is nothing else. None for an empty list."""
    ordered = sorted(versions, key=version_key)
    final = [version for version in ordered if is_release(version)]
    return (final or ordered)[-1] if ordered else None


def newer_versions(versions: Iterable[str], current: str) -> list[str]:
    """Return what one may upgrade to, in ascending order; pre-releases only when there is nothing else."""
    known = sorted(versions, key=version_key)
    final = [version for version in known if is_release(version)]
    return [version for version in final or known if compare_versions(version, current) > 0]


def _pep440_key(version: Version) -> VersionKey:
    pre, post, dev = version.pre, version.post, version.dev
    identifiers: tuple[_Identifier, ...]
    if pre is not None:
        final, identifiers = False, (_word(_PHASES[pre[0]]), _number(pre[1]))
    else:
        final, identifiers = post is not None or dev is None, ()
    return VersionKey(
        True,
        version.epoch,
        _without_zeros(version.release),
        final,
        identifiers,
        -1 if post is None else post,
        _NO_DEV if dev is None else (0, dev),
    )


def _semantic_key(match: re.Match[str]) -> VersionKey:
    release = _without_zeros(tuple(int(number) for number in match.group(1, 2, 3)))
    if match[4] is None:  # its build metadata alone is what PEP 440 does not read
        return VersionKey(True, 0, release, True)
    identifiers = tuple(
        _number(int(part)) if part.isdigit() else _word(part.lower()) for part in match[4].split(".")
    )
    return VersionKey(True, 0, release, False, identifiers)


def _number(value: int) -> _Identifier:
    return 0, value, ""


def _word(text: str) -> _Identifier:
    return 1, 0, text


def _without_zeros(release: tuple[int, ...]) -> tuple[int, ...]:
    end = len(release)
    while end > 1 and release[end - 1] == 0:
        end -= 1
    return release[:end]
