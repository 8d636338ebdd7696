"""The order of versions, requirements, and what is known of a model's versions."""

from __future__ import annotations

from functools import cmp_to_key

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from managed_models.manager import ModelCompatibilityChecker
from managed_models.manager.errors import BadInput
from managed_models.manager.local_host import LocalHost
from managed_models.manager.versions import (
    compare_versions,
    latest_of,
    parse_requirement,
    parse_version,
    select_version,
    version_key,
)
from managed_models.manager.versions.order import is_release
from packaging.version import Version

# Ascending: each is older than the next.
LADDER = [
    "",
    "1..0",
    "garbage",  # what is no version comes first, by its text
    "0.0.1.dev1",
    "0.0.1",
    "0.9",
    "1.0.0.dev1",
    "1.0.0-0.3.7",  # semantic: numbers below words
    "1.0.0-alpha",
    "1.0.0-alpha.2",
    "1.0.0-alpha.beta",
    "1.0.0-beta.1",
    "1.0.0-beta.11",
    "1.0.0-nightly.20250101",
    "1.0.0-rc.1",
    "1.0.0-rc.1.2",
    "1.0.0-SNAPSHOT",
    "1.0.0-x.7.z.92",
    "1.0.0",
    "1.0.0.post1.dev1",
    "1.0.0-1",  # PEP 440 reads it too, as a post-release, and decides
    "1.0.0-2",
    "1.2.0",
    "1.10.0",
    "2.0rc1",
    "2.0",
    "10.0",
    "2509",  # a month
    "2511",
    "20250901",
    "1!0.1",
]
GARBAGE = [
    "",
    " ",
    "garbage",
    "one.two",
    "1.0-SNAPSHOT",  # semver wants three numbers
    "1.0.0-",
    "1.0.0-a..b",
    "1..0",
    "1.0 beta please",
    "latest",
    "v",
    "-1",
    "１.０",
    "1.0\x00",
    pytest.param("1." + "9" * 5000, id="more digits than Python reads"),
]


# Order


@pytest.mark.parametrize("i", range(len(LADDER) - 1))
def test_each_rung_is_above_the_one_before(i: int) -> None:
    assert compare_versions(LADDER[i], LADDER[i + 1]) == -1
    assert compare_versions(LADDER[i + 1], LADDER[i]) == 1
    assert compare_versions(LADDER[i], LADDER[i]) == 0


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("1.0", "1.0.0"),
        ("1", "1.0.0.0"),
        ("v1.5.0", "1.5.0"),
        (" 1.5.0 ", "1.5.0"),
        ("2.1.0+cu118", "2.1.0"),
        ("2.1.0+cu118", "2.1.0+cu124"),
        ("2.1.0+cpu", "2.1.0+cu128.local-9"),
        ("1.0.0-beta.1", "1.0.0b1"),
        ("1.0.0-rc.2", "1.0.0rc2"),
        ("1.0RC1", "1.0rc1"),
        ("v1.0.0-SNAPSHOT", "1.0.0-snapshot"),
        ("1.0.0+21AF26D3---117B344092BD", "1.0"),
        ("1.0.0-alpha.beta+exp.sha.5114f85", "1.0.0-alpha.beta"),
    ],
)
def test_other_spellings_of_the_same_version(a: str, b: str) -> None:
    assert compare_versions(a, b) == 0


@pytest.mark.parametrize("text", GARBAGE)
def test_what_is_no_version(text: str) -> None:
    assert parse_version(text) is None
    assert compare_versions(text, "0.0.dev0") == -1


@pytest.mark.parametrize("text", [None, 1.5, 3])
def test_what_is_no_text_is_no_version(text: object) -> None:
    assert parse_version(text) is None  # type: ignore[arg-type]


def test_the_checker_compares_in_the_same_way() -> None:
    checker = ModelCompatibilityChecker(LocalHost())
    assert checker.compare_versions("2.1.0+cu118", "2.1.0") == 0
    assert checker.compare_versions("1.10.0", "1.9.0") == 1
    assert checker.compare_versions("1.0.0-beta.1", "1.0.0") == -1


_NUMBERS = st.lists(st.integers(0, 30), min_size=1, max_size=4).map(lambda n: ".".join(map(str, n)))
_TAILS = st.sampled_from(
    [
        "",
        "a1",
        "b2",
        "rc1",
        "-beta.1",
        ".post1",
        ".dev3",
        "+cu118",
        "+cpu",
        "-SNAPSHOT",
        "-alpha.beta",
        "-0.3",
    ]
)
_VERSIONS = st.builds(lambda number, tail: number + tail, _NUMBERS, _TAILS) | st.text(max_size=6)


@settings(max_examples=50, deadline=None)
@given(_VERSIONS, _VERSIONS)
def test_comparing_is_antisymmetric(a: str, b: str) -> None:
    assert compare_versions(a, b) == -compare_versions(b, a)
    assert compare_versions(a, a) == 0


@settings(max_examples=50, deadline=None)
@given(_VERSIONS, _VERSIONS, _VERSIONS)
def test_the_order_is_total(a: str, b: str, c: str) -> None:
    first, middle, last = sorted([a, b, c], key=version_key)
    steps = compare_versions(first, middle), compare_versions(middle, last)
    assert max(steps) <= 0
    assert compare_versions(first, last) == min(steps)


@settings(max_examples=50, deadline=None)
@given(st.lists(_VERSIONS, max_size=8))
def test_sorting_twice_changes_nothing(numbers: list[str]) -> None:
    once = sorted(numbers, key=version_key)
    assert sorted(once, key=version_key) == once
    assert sorted(numbers, key=cmp_to_key(compare_versions)) == once


@settings(max_examples=50, deadline=None)
@given(st.lists(_VERSIONS, max_size=8))
def test_the_latest_is_one_of_them_and_none_of_its_kind_is_newer(numbers: list[str]) -> None:
    latest = latest_of(numbers)
    if not numbers:
        assert latest is None
        return
    assert latest in numbers
    found = parse_version(str(latest))
    final = [n for n in numbers if (p := parse_version(n)) is not None and not p.is_prerelease]
    rivals = final or numbers
    assert latest in rivals
    assert all(compare_versions(str(latest), rival) >= 0 for rival in rivals)
    assert not final or (found is not None and not found.is_prerelease)


# Requirements


@pytest.mark.parametrize(
    ("have", "requirement", "chosen"),
    [
        (["1.0.0", "1.5.0", "2.0.0"], "1.5.0", "1.5.0"),  # bare means ==
        (["1.0.0", "1.5.0", "2.0.0"], "1.5", "1.5.0"),
        (["1.0.0", "1.5.0", "2.0.0"], " 1.5.0 ", "1.5.0"),
        (["1.0.0", "1.5.0", "2.0.0"], "v1.5.0", "1.5.0"),
        (["1.0.0", "1.5.0", "2.0.0"], "1.6.0", None),
        (["1.0.0", "1.5.0", "2.0.0"], "==1.*", "1.5.0"),
        (["1.0.0", "1.5.0", "2.0.0"], ">=1.2", "2.0.0"),
        (["1.0.0", "1.5.0", "2.0.0"], ">=1.2,<2", "1.5.0"),
        (["1.0.0", "1.5.0", "2.0.0"], " >= 1.2 , != 2.0.0 ", "1.5.0"),
        (["1.0.0", "1.5.0", "2.0.0"], "~=1.2", "1.5.0"),
        (["1.0.0", "1.5.0", "2.0.0"], "~=1.5.0", "1.5.0"),
        (["1.0.0", "1.5.0", "2.0.0"], "<1", None),
        (["1.0.0", "1.5.0", "2.0.0"], "latest", "2.0.0"),
        (["1.0.0", "1.5.0", "2.0.0"], " LATEST ", "2.0.0"),
        (["2.1.0+cu118"], "2.1.0", "2.1.0+cu118"),
        (["2.1.0+cu118"], "==2.1.0", "2.1.0+cu118"),
        (["2.1.0+cu118"], ">=2.1", "2.1.0+cu118"),
        (["2.1.0+cu118"], "2.1.0+cu124", "2.1.0+cu118"),
        (["2.1.0+cu118"], "==2.1.0+cu118", "2.1.0+cu118"),
        (["1.0.0", "2.0.0rc1"], "latest", "1.0.0"),
        (["1.0.0", "2.0.0rc1"], ">=1.0", "1.0.0"),
        (["1.0.0", "2.0.0rc1"], "2.0.0rc1", "2.0.0rc1"),
        (["1.0.0", "2.0.0-rc.1"], "2.0.0rc1", "2.0.0-rc.1"),
        (["1.0.0", "2.0.0rc1"], ">=2.0.0rc1", "2.0.0rc1"),
        (["2.0.0rc1", "2.0.0rc2"], "latest", "2.0.0rc2"),
        (["the best"], "the best", "the best"),  # a text that is no version, named exactly
        (["the best", "1.0"], "latest", "1.0"),
        (["the best"], ">=0", None),
        ([], "latest", None),
        ([], ">=1", None),
    ],
)
def test_select_version(have: list[str], requirement: str, chosen: str | None) -> None:
    assert select_version(have, requirement) == chosen
    assert select_version(list(reversed(have)), requirement) == chosen


@pytest.mark.parametrize(
    "requirement", ["garbage", "=1.0", "=>1.0", "^1.0", "1.0 || 2.0", ">=", ">=one", "newest", "~1.0", "1.0,"]
)
def test_what_is_no_requirement(requirement: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_requirement(requirement)
    assert repr(requirement) in caught.value.message
    assert "1.5.0" in caught.value.remedy


@settings(max_examples=50, deadline=None)
@given(st.lists(_NUMBERS, min_size=1, max_size=6), _NUMBERS)
def test_what_is_selected_was_there_and_fits(have: list[str], requirement: str) -> None:
    chosen = select_version(have, f">={requirement}")
    fitting = [n for n in have if compare_versions(n, requirement) >= 0]
    assert (chosen is None) == (not fitting)
    if chosen is not None:
        assert chosen in fitting
        assert all(compare_versions(chosen, n) >= 0 for n in fitting)


# PEP 440 and semantic versioning, each where it reads a text

_PEP440 = st.builds(
    lambda epoch, number, pre, post, dev: f"{epoch}{number}{pre}{post}{dev}",
    st.sampled_from(["", "1!"]),
    st.lists(st.integers(0, 3), min_size=1, max_size=3).map(lambda n: ".".join(map(str, n))),
    st.sampled_from(["", "a1", "b1", "b2", "rc1"]),
    st.sampled_from(["", ".post0", ".post1"]),
    st.sampled_from(["", ".dev0", ".dev1"]),
)
# The precedence of semver 2.0.0, paragraph 11, among pre-releases that PEP 440 cannot read.
_IDENTIFIERS = st.lists(st.sampled_from(["0", "2", "11", "foo", "beta", "x7"]), min_size=2, max_size=4)


@settings(max_examples=50, deadline=None)
@given(_PEP440, _PEP440)
def test_what_pep_440_reads_is_ordered_as_it_says(a: str, b: str) -> None:
    first, second = Version(a), Version(b)
    assert compare_versions(a, b) == (first > second) - (first < second)
    assert is_release(a) == (not first.is_prerelease)


@settings(max_examples=50, deadline=None)
@given(_IDENTIFIERS, _IDENTIFIERS)
def test_semantic_pre_releases_are_ordered_as_semver_says(a: list[str], b: list[str]) -> None:
    one, other = f"1.0.0-{'.'.join(a)}", f"1.0.0-{'.'.join(b)}"
    if parse_version(one) or parse_version(other):
        return
    keys = [[(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in c] for c in (a, b)]
    assert compare_versions(one, other) == (keys[0] > keys[1]) - (keys[0] < keys[1])
    assert compare_versions(one, "1.0.0") == -1
    assert compare_versions(one, "0.9.9") == 1
    assert not is_release(one)
