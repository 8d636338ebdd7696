"""Versions on a machine: upgrades that it can run, aliases, replaced files, and files nobody registered."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from managed_models.manager import AdvancedModelManager, ModelInfo, ModelType
from managed_models.manager.demo import layouts
from managed_models.manager.errors import BadInput, ModelNotFound
from managed_models.manager.files import FileIdentity
from managed_models.manager.host import SystemSnapshot
from managed_models.manager.local_host import LocalHost
from managed_models.manager.model import QuantizationType
from managed_models.manager.report import render_check
from managed_models.manager.words.versions import about_lines, upgrade_lines, versions_words
from support.files import shapes_file
from support.gguf_files import gguf_file
from support.machines import nvidia

WAN = layouts.wan21_t2v(width=64, ffn=128, layers=1)
FLUX = layouts.flux(width=256, double=1, single=1)


class Machine(LocalHost):
    """The bare machine, but with the memory and card of another."""

    def __init__(self, root: Path, snapshot: SystemSnapshot) -> None:
        super().__init__([root])
        self._snapshot = snapshot

    def system(self) -> SystemSnapshot:
        return self._snapshot


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "models" / "diffusion_models"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def manager(folder: Path) -> AdvancedModelManager:
    return AdvancedModelManager(host=Machine(folder.parent, nvidia(8.0)))


def register(manager: AdvancedModelManager, version: str, path: Path | str = "", **facts: Any) -> None:
    facts.setdefault("model_type", ModelType.DIFFUSION)
    manager.registry.put(ModelInfo("wan", file_path=Path(path), version=version, **facts))


# Upgrades


def test_an_upgrade_that_this_machine_can_run(manager: AdvancedModelManager, folder: Path) -> None:
    register(manager, "1.0", shapes_file(folder / "old.safetensors", WAN))
    register(manager, "2.0", shapes_file(folder / "new.safetensors", WAN))
    details = manager.upgrade_details("wan")
    assert json.loads(json.dumps(details)) == details
    assert details == {
        "name": "wan",
        "active": "1.0",
        "latest": "2.0",
        "upgrade": "2.0",
        "candidate": {"version": "2.0", "compatible": True, "file": "present", "issues": []},
        "passed_over": [],
    }
    assert upgrade_lines(details) == ["Upgrade: 2.0, which can be used on this machine"]


def test_a_newer_version_whose_header_shows_another_model_is_passed_over(
    manager: AdvancedModelManager, folder: Path
) -> None:
    register(manager, "1.0", shapes_file(folder / "a.safetensors", WAN))
    register(manager, "2.0", shapes_file(folder / "b.safetensors", FLUX))
    register(manager, "3.0", shapes_file(folder / "c.safetensors", WAN, "F8_E4M3"))
    register(manager, "4.0", shapes_file(folder / "d.safetensors", layouts.wan21_t2v(64, 128, 3)))
    details = manager.upgrade_details("wan")
    assert (details["upgrade"], details["candidate"], details["latest"]) == (None, None, "4.0")
    assert {item["version"]: item["code"] for item in details["passed_over"]} == {
        "4.0": "parameters",
        "3.0": "precision",
        "2.0": "architecture",
    }
    words = upgrade_lines(details)
    assert words[0] == "Upgrade: none"
    assert "Passed over: 4.0, another size (" in words[1]
    assert words[2] == "  Passed over: 3.0, another precision (8-bit instead of 16-bit or more)"
    assert words[3].startswith("  Passed over: 2.0, another base model (Flux.1 ")
    assert manager.suggest_model_upgrade("wan") is None
    assert manager.upgrade("wan") is None


def test_the_newest_that_suits_is_taken_and_the_rest_is_said(manager: AdvancedModelManager) -> None:
    register(manager, "1.0")
    register(manager, "1.5")
    register(manager, "2.0", min_vram_gb=24.0)
    register(manager, "3.0rc1")
    details = manager.upgrade_details("wan")
    assert details["upgrade"] == "1.5"
    assert details["candidate"]["file"] == "absent"
    assert [(item["version"], item["code"]) for item in details["passed_over"]] == [
        ("3.0rc1", "prerelease"),
        ("2.0", "unsuitable"),
    ]
    first, second, third = upgrade_lines(details)
    assert first.endswith("its file is not here yet")
    assert second == "  Passed over: 3.0rc1, a pre-release"
    assert third.startswith("  Passed over: 2.0, which does not suit this machine: ")


def test_a_candidate_that_suits_no_machine_of_this_size_is_shown_with_its_reason(
    manager: AdvancedModelManager,
) -> None:
    register(manager, "1.0")
    register(manager, "2.0", min_vram_gb=24.0)
    details = manager.upgrade_details("wan")
    assert (details["upgrade"], details["passed_over"]) == (None, [])
    assert (details["candidate"]["version"], details["candidate"]["compatible"]) == ("2.0", False)
    (line,) = upgrade_lines(details)
    assert line.startswith("Upgrade: none that suits this machine; 2.0: ")
    assert "24" in line


def test_an_unknown_name_has_no_details(manager: AdvancedModelManager) -> None:
    with pytest.raises(ModelNotFound, match="Model 'x' is not registered"):
        manager.upgrade_details("x")
    assert manager.suggest_model_upgrade("x") is None
    assert manager.aliases("x") == {}


# Aliases


def test_an_alias_means_a_version_until_it_is_moved(manager: AdvancedModelManager, folder: Path) -> None:
    for version in ("1.0", "2.0", "2.1"):
        register(manager, version, shapes_file(folder / f"{version}.safetensors", WAN))
    assert manager.set_alias("wan", "stable") == "1.0"  # the active one
    assert manager.set_alias("wan", "edge", "latest") == "2.1"
    assert manager.set_alias("wan", " good ", "~=2.0") == "2.1"
    assert manager.aliases("wan") == {"edge": "2.1", "good": "2.1", "stable": "1.0"}
    find = manager.library.find
    assert find("wan", version="stable").name == "1.0.safetensors"
    assert manager.library.find_path("wan", "edge").name == "2.1.safetensors"
    assert manager.upgrade("wan") == "2.1"
    assert find("wan", version="stable").name == "1.0.safetensors"  # an upgrade moves no alias
    assert manager.set_alias("wan", "edge", "2.0") == "2.0"  # back again
    assert manager.set_alias("wan", "stable", "edge") == "2.0"  # to where another points
    manager.set_active_version("wan", "stable")
    assert manager.get_model_version("wan") == "2.0"
    assert manager.versions.is_version_compatible("wan", "stable") is True


@pytest.mark.parametrize(
    ("alias", "words"),
    [
        ("latest", "always means the newest version"),
        ("LATEST", "always means the newest version"),
        ("1.5", "is a version itself"),
        ("v2", "is a version itself"),
        ("the best", "is a version itself"),  # as it was registered
        ("1.0.0-SNAPSHOT", "is a version itself"),
        (">=1.0", "cannot be an alias"),
        ("~=2.1", "cannot be an alias"),
        ("two words", "cannot be an alias"),
        ("", "cannot be an alias"),
        ("-x", "cannot be an alias"),
        ("a" * 65, "cannot be an alias"),
    ],
)
def test_what_would_be_taken_for_something_else_is_no_alias(
    manager: AdvancedModelManager, alias: str, words: str
) -> None:
    register(manager, "1.0")
    register(manager, "the best")
    with pytest.raises(BadInput, match=words) as caught:
        manager.set_alias("wan", alias)
    assert "stable" in caught.value.remedy
    assert manager.aliases("wan") == {}


def test_an_alias_of_what_is_not_registered(manager: AdvancedModelManager) -> None:
    with pytest.raises(ModelNotFound, match="'wan' is not registered"):
        manager.set_alias("wan", "stable")
    register(manager, "1.0")
    with pytest.raises(ModelNotFound, match=r"no version '>=2'; registered are 1\.0"):
        manager.set_alias("wan", "stable", ">=2")
    with pytest.raises(BadInput, match="'nonsense' is not a version requirement"):
        manager.set_alias("wan", "stable", "nonsense")
    with pytest.raises(ModelNotFound, match="has no alias 'stable'; it has none"):
        manager.versioning.remove_alias("wan", "stable")
    manager.registry.put_alias("wan", "old", "0.9")
    with pytest.raises(
        ModelNotFound, match=r"'old' points to version '0\.9', which is not registered"
    ) as caught:
        manager.library.find("wan", version="old")
    assert "1.0" in caught.value.remedy


# Files that changed, and files that nobody registered


def test_a_version_whose_file_was_replaced_is_told(manager: AdvancedModelManager, folder: Path) -> None:
    paths = {v: shapes_file(folder / f"{v}.safetensors", WAN) for v in ("1.0", "2.0", "3.0", "4.0")}
    for version, path in paths.items():
        register(manager, version, path, sha256="ab" * 32 if version == "4.0" else None)
    register(manager, "5.0", folder / "later.safetensors")
    shapes_file(paths["2.0"], FLUX)
    os.utime(paths["3.0"], ns=(1, 1))
    manager.registry.put_sha256(FileIdentity.of(paths["4.0"]), "cd" * 32)
    details = manager.versioning.details("wan")
    assert {version: file["revision"] for version, file in details["files"].items()} == {
        "1.0": "same",
        "2.0": "replaced",
        "3.0": "rewritten",
        "4.0": "replaced",
        "5.0": "absent",
    }
    lines = versions_words(details).splitlines()
    assert lines[0] == "1.0 (active)"
    assert lines[1] == "2.0: the file was replaced since it was registered"
    assert "as large as before" in lines[2]
    assert lines[4] == "5.0: its file is not here"
    register(manager, "2.0", paths["2.0"])  # saying it again is to know
    assert manager.versioning.details("wan")["files"]["2.0"]["revision"] == "same"


def test_a_report_on_a_registered_file(manager: AdvancedModelManager, folder: Path) -> None:
    old = shapes_file(folder / "old.safetensors", WAN)
    register(manager, "1.0", old)
    register(manager, "2.0", shapes_file(folder / "new.safetensors", WAN))
    os.utime(old, ns=(1, 1))
    about = manager.versioning.about(old)
    assert (about["version"], about["version_hint"], about["registered"]) == ("1.0", None, "wan")
    assert about_lines(about) == [
        "Note: The file was written again since it was registered, as large as before: "
        "verify tells whether it is the same",
        "Upgrade: 2.0, which can be used on this machine",
    ]
    assert manager.versioning.about(folder / "new.safetensors")["upgrade"] is None  # it is not the active one


def test_a_newer_file_of_the_same_line_is_told_and_nothing_more(
    manager: AdvancedModelManager, folder: Path
) -> None:
    old = shapes_file(folder / "wan2.1_t2v_bf16.safetensors", WAN)
    shapes_file(folder / "wan2.2_t2v_bf16.safetensors", WAN)
    shapes_file(folder / "wan2.3_t2v_bf16.safetensors", FLUX)  # its name says so, its header does not
    shapes_file(folder / "wan2.4_i2v_bf16.safetensors", WAN)
    report = manager.check(str(old)).to_dict()
    assert (report["version"], report["version_hint"]) == (None, {"version": "2.1", "source": "name"})
    assert report["versions"]["newer_files"] == ["wan2.2_t2v_bf16.safetensors"]
    words = render_check(report)
    assert "  Version: unknown (its name says 2.1)\n" in words
    assert "  Newer, as its name says, and here: wan2.2_t2v_bf16.safetensors\n" in words


def test_metadata_says_more_than_the_name(manager: AdvancedModelManager, folder: Path) -> None:
    path = shapes_file(folder / "wan2.1_t2v.safetensors", WAN, metadata={"modelspec.version": "2.1.4"})
    assert manager.versioning.about(path)["version_hint"] == {
        "version": "2.1.4",
        "source": "modelspec.version",
    }
    shapes_file(path, WAN, metadata={"modelspec.version": "2.1.5-x"})  # another file: it is read anew
    hint = manager.versioning.hint(path)
    assert hint is not None
    assert hint.version == "2.1.5-x"
    gguf = gguf_file(folder / "x.gguf", WAN, "wan", fields={"general.version": "v1.1"})
    assert manager.versioning.about(gguf)["version_hint"] == {"version": "v1.1", "source": "general.version"}
    broken = folder / "wan2.9.safetensors"
    broken.write_bytes(b"x" * 100)
    assert manager.versioning.about(broken)["version_hint"] == {"version": "2.9", "source": "name"}


def test_a_gguf_is_no_upgrade_of_a_safetensors_file(manager: AdvancedModelManager, folder: Path) -> None:
    register(manager, "1.0", shapes_file(folder / "a.safetensors", WAN))
    register(manager, "2.0", gguf_file(folder / "b.gguf", WAN, "wan"), quantization=QuantizationType.GGUF)
    (passed,) = manager.upgrade_details("wan")["passed_over"]
    assert (passed["code"], passed["theirs"]) == ("precision", "GGUF")
