"""What is said about versions."""

from __future__ import annotations

from typing import Any

import pytest
from managed_models.manager.words.versions import (
    about_lines,
    alias_words,
    listed_words,
    passed_over_words,
    upgrade_lines,
    upgraded_words,
    versions_words,
)


def passed(code: str, ours: str = "", theirs: str = "", issue: str = "") -> dict[str, Any]:
    return {"version": "2.0", "code": code, "ours": ours, "theirs": theirs, "issue": issue}


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (passed("prerelease"), "a pre-release"),
        (passed("unsuitable", issue="It needs 24 GB."), "which does not suit this machine: it needs 24 GB"),
        (passed("architecture", "Wan", "Flux.1"), "another base model (Flux.1 instead of Wan)"),
        (passed("family", "SDXL", "Pony"), "another base model (Pony instead of SDXL)"),
        (passed("base", "Wan 2.1", "Wan 2.2"), "made for another base model (Wan 2.2 instead of Wan 2.1)"),
        (passed("precision", "8-bit", "4-bit"), "another precision (4-bit instead of 8-bit)"),
        (
            passed("role", "diffusion", "text_encoder"),
            "another kind of model (text encoder instead of diffusion)",
        ),
        (passed("input", "t2v", "i2v"), "another variant (i2v instead of t2v)"),
        (passed("speed", "", "turbo"), "another variant (turbo, which the active one is not)"),
        (passed("kind", "edit", ""), "another variant (not edit, as the active one is)"),
        (
            passed("parameters", "14000000000", "1300000000"),
            "another size (1.3B parameters instead of 14.0B)",
        ),
    ],
)
def test_why_a_version_was_passed_over(item: dict[str, Any], words: str) -> None:
    assert passed_over_words(item) == f"2.0, {words}"


def details(candidate: dict[str, Any] | None = None, passed_over: int = 0) -> dict[str, Any]:
    return {"candidate": candidate, "passed_over": [passed("prerelease")] * passed_over}


def test_an_upgrade_and_what_was_passed_over() -> None:
    fits = {"version": "2.0", "compatible": True, "file": "present", "issues": []}
    assert upgrade_lines(details()) == ["Upgrade: none"]
    assert upgrade_lines(details(fits)) == ["Upgrade: 2.0, which can be used on this machine"]
    lines = upgrade_lines(details(fits, 7))
    assert len(lines) == 7
    assert lines[-1] == "  and 2 more"
    blocked = {
        "version": "2.0",
        "compatible": False,
        "file": "absent",
        "issues": ["It needs 24 GB. Buy one."],
    }
    assert upgrade_lines(details(blocked)) == [
        "Upgrade: none that suits this machine; 2.0: it needs 24 GB. Buy one"
    ]


def test_what_an_upgrade_did() -> None:
    done = {"name": "wan", "before": "1.0", "after": "2.0", "upgrade_details": details(None, 1)}
    assert upgraded_words({**done, "aliases": {"stable": "1.0", "edge": "2.0"}}).splitlines() == [
        "wan: 1.0 to 2.0",
        "  stable still means 1.0",
        "  Passed over: 2.0, a pre-release",
    ]
    both = upgraded_words({**done, "aliases": {"a": "1.0", "b": "1.0"}})
    assert "  a, b still mean 1.0" in both
    nothing = {**done, "after": "1.0", "aliases": {"stable": "1.0"}, "upgrade_details": details()}
    assert upgraded_words(nothing) == "wan: 1.0 is the newest that fits"


def test_an_alias_in_words() -> None:
    assert alias_words({"name": "wan", "alias": "stable", "version": "1.0"}) == "wan: stable means 1.0"
    assert alias_words({"name": "wan", "alias": "stable", "version": None}).endswith("is no alias any more")


def test_versions_with_their_marks() -> None:
    found = {
        "versions": ["1.0", "2.0"],
        "active": "1.0",
        "aliases": {"edge": "2.0", "old": "1.0"},
        "files": {"1.0": {"revision": "unknown"}, "2.0": {"revision": "absent"}},
        "upgrade_details": details(),
    }
    assert versions_words(found).splitlines() == [
        "1.0 (active, old)",
        "2.0 (edge): its file is not here",
        "Upgrade: none",
    ]
    assert listed_words("1.0", "same") == "1.0"
    assert listed_words("1.0", "absent") == "1.0 (its file is not here)"


def test_what_stands_beside_a_version() -> None:
    nothing: dict[str, Any] = {"revision": "same", "upgrade": details(), "newer_files": []}
    assert about_lines(nothing) == []
    assert about_lines({**nothing, "newer_files": ["b", "c", "d"]}) == [
        "Newer, as its name says, and here: b and 2 more"
    ]
    assert about_lines({**nothing, "revision": "replaced"}) == [
        "Note: The file was replaced since it was registered"
    ]
