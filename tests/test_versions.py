"""The order of versions, requirements, and what is known of a model's versions."""

from __future__ import annotations

from functools import cmp_to_key
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from managed_models.manager import ModelCompatibilityChecker, ModelInfo, ModelType, ModelVersionManager
from managed_models.manager.errors import BadInput
from managed_models.manager.local_host import LocalHost
from managed_models.manager.registry import Registry
from managed_models.manager.versions import (
    compare_versions,
    latest_of,
    parse_requirement,
    parse_version,
    select_version,
    version_key,
)

# Ascending: each is older than the next.
LADDER = [
    "",
    "1.0.0-SNAPSHOT",  # what is no version comes first, by its text
    "garbage",
    "0.0.1.dev1",
    "0.0.1",
    "0.9",
    "1.0.0-alpha",
    "1.0.0-alpha.2",
    "1.0.0-beta.1",
    "1.0.0-beta.11",
    "1.0.0-rc.1",
    "1.0.0",
    "1.0.0.post1",
    "1.2.0",
    "1.10.0",
    "2.0rc1",
    "2.0",
    "10.0",
    "1!0.1",
]
GARBAGE = [
    "",
    " ",
    "garbage",
    "one.two",
    "1.0.0-SNAPSHOT",
    "1..0",
    "1.0 beta please",
    "latest",
    "v",
    "-1",
    "１.０",
    "1.0\x00",
    pytest.param("1." + "9" * 5000, id="more digits than Python reads"),
]


@pytest.fixture
def versions() -> ModelVersionManager:
    return ModelVersionManager()


def register(versions: ModelVersionManager, *numbers: str, name: str = "wan") -> None:
    for number in numbers:
        versions.register_version(name, number)


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
_TAILS = st.sampled_from(["", "a1", "b2", "rc1", "-beta.1", ".post1", ".dev3", "+cu118", "+cpu", "-SNAPSHOT"])
_VERSIONS = st.builds(lambda number, tail: number + tail, _NUMBERS, _TAILS) | st.text(max_size=6)


@given(_VERSIONS, _VERSIONS)
def test_comparing_is_antisymmetric(a: str, b: str) -> None:
    assert compare_versions(a, b) == -compare_versions(b, a)
    assert compare_versions(a, a) == 0


@given(_VERSIONS, _VERSIONS, _VERSIONS)
def test_the_order_is_total(a: str, b: str, c: str) -> None:
    first, middle, last = sorted([a, b, c], key=version_key)
    steps = compare_versions(first, middle), compare_versions(middle, last)
    assert max(steps) <= 0
    assert compare_versions(first, last) == min(steps)


@given(st.lists(_VERSIONS, max_size=8))
def test_sorting_twice_changes_nothing(numbers: list[str]) -> None:
    once = sorted(numbers, key=version_key)
    assert sorted(once, key=version_key) == once
    assert sorted(numbers, key=cmp_to_key(compare_versions)) == once


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


@given(st.lists(_NUMBERS, min_size=1, max_size=6), _NUMBERS)
def test_what_is_selected_was_there_and_fits(have: list[str], requirement: str) -> None:
    chosen = select_version(have, f">={requirement}")
    fitting = [n for n in have if compare_versions(n, requirement) >= 0]
    assert (chosen is None) == (not fitting)
    if chosen is not None:
        assert chosen in fitting
        assert all(compare_versions(chosen, n) >= 0 for n in fitting)


# The manager of versions


def test_of_an_unknown_name_nothing_is_known(versions: ModelVersionManager) -> None:
    assert versions.get_latest_version("wan") is None
    assert versions.get_all_versions("wan") == []
    assert versions.suggest_upgrade("wan") is None
    assert versions.suggest_upgrade("wan", "1.0.0") is None
    assert versions.is_version_compatible("wan", ">=0") is False
    assert versions.is_version_compatible("wan", "latest") is False


def test_one_version(versions: ModelVersionManager) -> None:
    register(versions, "1.0.0")
    assert versions.get_latest_version("wan") == "1.0.0"
    assert versions.get_all_versions("wan") == ["1.0.0"]
    assert versions.suggest_upgrade("wan") is None
    assert versions.is_version_compatible("wan", "1.0.0") is True
    assert versions.is_version_compatible("wan", "latest") is True
    assert versions.is_version_compatible("flux", "1.0.0") is False


def test_many_versions_come_in_ascending_order(versions: ModelVersionManager) -> None:
    shuffled = LADDER[3:][::2] + LADDER[3:][1::2][::-1]
    register(versions, *shuffled)
    assert versions.get_all_versions("wan") == LADDER[3:]
    assert versions.get_latest_version("wan") == "1!0.1"


def test_versions_of_different_builds_keep_their_text(versions: ModelVersionManager) -> None:
    register(versions, "2.1.0+cu118", "2.0.0+cu118")
    assert versions.get_all_versions("wan") == ["2.0.0+cu118", "2.1.0+cu118"]
    assert versions.get_latest_version("wan") == "2.1.0+cu118"
    assert versions.suggest_upgrade("wan", "2.1.0") is None
    assert versions.suggest_upgrade("wan", "2.0.0") == "2.1.0+cu118"


@pytest.mark.parametrize(
    ("have", "latest"),
    [
        (["1.0.0", "2.0.0rc1"], "1.0.0"),
        (["2.0.0rc1", "1.0.0"], "1.0.0"),
        (["2.0.0rc1"], "2.0.0rc1"),
        (["2.0.0-alpha.1", "2.0.0-beta.1"], "2.0.0-beta.1"),
        (["2.0.0.dev1", "1.0.0"], "1.0.0"),
        (["1.0.0", "1.0.0.post1"], "1.0.0.post1"),
        (["the best"], "the best"),
        (["the best", "0.1a1"], "0.1a1"),
    ],
)
def test_a_prerelease_is_the_latest_only_without_a_release(
    versions: ModelVersionManager, have: list[str], latest: str
) -> None:
    register(versions, *have)
    assert versions.get_latest_version("wan") == latest


@pytest.mark.parametrize(
    ("have", "current", "suggested"),
    [
        (["1.0.0", "2.0.0"], None, "2.0.0"),  # the active one is the first registered
        (["2.0.0", "1.0.0"], None, None),
        (["1.0.0", "2.0.0"], "1.5.0", "2.0.0"),
        (["1.0.0", "2.0.0"], "2.0", None),
        (["1.0.0", "2.0.0"], "3.0.0", None),
        (["1.0.0", "2.0.0"], "no version", "2.0.0"),
        (["1.0.0", "2.0.0rc1"], None, None),
        (["1.0.0", "2.0.0rc1"], "2.0.0rc1", None),
        (["1.0.0rc1", "1.0.0rc2"], None, "1.0.0rc2"),
        (["1.0.0rc1", "1.0.0"], None, "1.0.0"),
        (["the best", "1.0.0"], None, "1.0.0"),
    ],
)
def test_suggest_upgrade(
    versions: ModelVersionManager, have: list[str], current: str | None, suggested: str | None
) -> None:
    register(versions, *have)
    assert versions.suggest_upgrade("wan", current) == suggested


def test_a_requirement_of_the_manager(versions: ModelVersionManager) -> None:
    register(versions, "1.0.0", "1.5.0")
    assert versions.is_version_compatible("wan", "1.5.0") is True
    assert versions.is_version_compatible("wan", "1.4.0") is False
    assert versions.is_version_compatible("wan", "~=1.2") is True
    assert versions.is_version_compatible("wan", ">=2") is False
    with pytest.raises(BadInput, match="'nonsense' is not a version requirement"):
        versions.is_version_compatible("wan", "nonsense")


def test_facts_come_with_a_version_and_are_replaced_by_newer_ones() -> None:
    registry = Registry()
    versions = ModelVersionManager(registry)
    versions.register_version("wan", "1.0.0")
    assert registry.get("wan") == ModelInfo("wan", ModelType.OTHER, Path(""))
    versions.register_version(
        "wan", "1.0.0", model_type=ModelType.DIFFUSION, file_path=Path("/m/wan.safetensors"), tags=["x"]
    )
    assert registry.get("wan") == ModelInfo(
        "wan", ModelType.DIFFUSION, Path("/m/wan.safetensors"), tags=["x"]
    )
    assert versions.get_all_versions("wan") == ["1.0.0"]


def test_two_managers_share_a_registry_only_when_it_is_given() -> None:
    registry = Registry()
    register(ModelVersionManager(registry), "1.0.0")
    assert ModelVersionManager(registry).get_all_versions("wan") == ["1.0.0"]
    assert ModelVersionManager().get_all_versions("wan") == []
