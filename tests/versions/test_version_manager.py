"""The manager of versions that scripts use."""

from __future__ import annotations

from pathlib import Path

import pytest
from managed_models.manager import ModelInfo, ModelType, ModelVersionManager
from managed_models.manager.errors import BadInput
from managed_models.manager.registry import Registry

LADDER = [
    "0.0.1.dev1",
    "0.0.1",
    "0.9",
    "1.0.0-alpha",
    "1.0.0-beta.1",
    "1.0.0-beta.11",
    "1.0.0-rc.1",
    "1.0.0-SNAPSHOT",
    "1.0.0",
    "1.0.0.post1",
    "1.2.0",
    "1.10.0",
    "2.0rc1",
    "2.0",
    "1!0.1",
]


@pytest.fixture
def versions() -> ModelVersionManager:
    return ModelVersionManager()


def register(versions: ModelVersionManager, *numbers: str, name: str = "wan") -> None:
    for number in numbers:
        versions.register_version(name, number)


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
    shuffled = LADDER[::2] + LADDER[1::2][::-1]
    register(versions, *shuffled)
    assert versions.get_all_versions("wan") == LADDER
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
