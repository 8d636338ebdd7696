"""What a file says of its own version, and whether it is still the file that was registered."""

from __future__ import annotations

from pathlib import Path

import pytest
from managed_models.manager.files import FileIdentity
from managed_models.manager.versions.hints import VersionHint, hint_dict, version_hint
from managed_models.manager.versions.revision import Revision, revision_of
from managed_models.manager.words.versions import version_words

WAN = "wan2.2_t2v_14B.safetensors"


@pytest.mark.parametrize(
    ("name", "metadata", "found"),
    [
        (WAN, None, ("2.2", "name")),
        (WAN, {}, ("2.2", "name")),
        (WAN, {"modelspec.version": "2.2.1"}, ("2.2.1", "modelspec.version")),
        (WAN, {"managed_models.version": "3.0", "modelspec.version": "2"}, ("3.0", "managed_models.version")),
        ("x.gguf", {"general.version": " v1.0 "}, ("v1.0", "general.version")),
        ("x.safetensors", {"modelspec.title": "Wan 2.1 by somebody"}, ("2.1", "modelspec.title")),
        ("x.gguf", {"general.name": "Qwen Image Edit 2509"}, ("2509", "general.name")),
        ("x.safetensors", {"modelspec.title": "Example 1.0"}, None),  # of which family?
        ("x.safetensors", {"modelspec.version": "final"}, None),  # no version
        ("x.safetensors", {"modelspec.version": "1." + "0." * 30 + "1"}, None),  # and no longer one
        ("x.safetensors", {"modelspec.version": ""}, None),
        ("x.safetensors", {"modelspec.sai_model_spec": "1.0.0"}, None),  # of the standard, not the model
        ("flux1-dev.safetensors", None, None),
    ],
)
def test_a_hint(name: str, metadata: dict[str, object] | None, found: tuple[str, str] | None) -> None:
    expected = VersionHint(*found) if found else None
    assert version_hint(name, metadata) == expected
    assert hint_dict(expected) == (dict(zip(("version", "source"), found, strict=True)) if found else None)


@pytest.mark.parametrize(
    ("version", "hint", "words"),
    [
        ("1.0.0", None, "1.0.0"),
        ("1.0.0", {"version": "2.2", "source": "name"}, "1.0.0"),
        (None, None, "unknown"),
        (None, {"version": "2.2", "source": "name"}, "unknown (its name says 2.2)"),
        (None, {"version": "2", "source": "modelspec.title"}, "unknown (its title says 2)"),
        (None, {"version": "2", "source": "modelspec.version"}, "unknown (its metadata says 2)"),
    ],
)
def test_a_hint_never_stands_for_the_version(
    version: str | None, hint: dict[str, str] | None, words: str
) -> None:
    assert version_words(version, hint) == words


def file(size: int = 10, mtime_ns: int = 1, name: str = "a") -> FileIdentity:
    return FileIdentity(Path(name), size, mtime_ns)


@pytest.mark.parametrize(
    ("recorded", "now", "said", "measured", "expected"),
    [
        (file(), file(), None, None, Revision.SAME),
        (file(), file(name="moved/a"), None, None, Revision.SAME),
        (file(), file(size=11), None, None, Revision.REPLACED),
        (file(), file(mtime_ns=2), None, None, Revision.REWRITTEN),
        (file(), None, None, None, Revision.ABSENT),
        (None, None, "ab", None, Revision.ABSENT),
        (None, file(), None, None, Revision.UNKNOWN),
        (None, file(), "ab", None, Revision.UNKNOWN),
        (None, file(), "AB", "ab", Revision.SAME),
        (None, file(), "ab", "cd", Revision.REPLACED),
        (file(), file(), "ab", "cd", Revision.REPLACED),  # the hash knows better than size and time
        (file(), file(mtime_ns=2), "ab", "ab", Revision.SAME),
    ],
)
def test_whether_a_file_is_still_the_registered_one(
    recorded: FileIdentity | None,
    now: FileIdentity | None,
    said: str | None,
    measured: str | None,
    expected: Revision,
) -> None:
    assert revision_of(recorded, now, said, measured) is expected
