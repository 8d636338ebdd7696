"""Model files by name, found once and read once."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from managed_models.manager.errors import (
    AmbiguousModel,
    BadInput,
    FileError,
    InvalidHeader,
    ManagedModelsError,
    ModelNotFound,
    NotAvailable,
)
from managed_models.manager.files import FileIdentity
from managed_models.manager.formats.safetensors import Header
from managed_models.manager.host import ModelFile
from managed_models.manager.identify import Detection
from managed_models.manager.library import Library, ModelName, model_links, try_identity
from managed_models.manager.local_host import LocalHost
from managed_models.manager.model import ModelInfo, ModelType
from managed_models.manager.registry import Registry, Source
from support.files import shapes_file

WAN = {"head.modulation": (1, 2, 64), "patch_embedding.weight": (64, 16, 1, 2, 2)}
VAE = {"decoder.conv_in.weight": (8, 4, 3, 3)}
LORA = {"blocks.0.q.lora_A.weight": (4, 4)}
LINUX = sys.platform.startswith("linux")
NESTED = os.path.join("sub", "deep", "wan.safetensors")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A models folder with a clash of names between two kinds."""
    root = tmp_path / "models"
    for name, shapes in {
        "diffusion_models/wan.safetensors": WAN,
        "diffusion_models/sub/deep/wan.safetensors": WAN,
        "diffusion_models/both.safetensors": WAN,
        "checkpoints/both.safetensors": WAN,
        "vae/vae.safetensors": VAE,
        "loras/style.safetensors": LORA,
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shapes_file(root / name, shapes)
    return root


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def library(root: Path, registry: Registry) -> Library:
    return Library(LocalHost([root]), registry)


def info(path: Path, version: str = "1.0.0", name: str = "my wan", **facts: Any) -> ModelInfo:
    return ModelInfo(name, ModelType.DIFFUSION, path, version=version, **facts)


# Lists


def test_names_come_with_their_folder(library: Library) -> None:
    assert library.names(["diffusion_models", "vae"]) == [
        ("diffusion_models", "both.safetensors"),
        ("diffusion_models", NESTED),
        ("diffusion_models", "wan.safetensors"),
        ("vae", "vae.safetensors"),
    ]
    assert {kind for kind, _ in library.names()} == {"checkpoints", "diffusion_models", "vae", "loras"}
    assert library.names([]) == []


def test_files_say_where_they_are(root: Path, library: Library) -> None:
    assert library.files(["vae", "loras"]) == [
        ModelFile("vae", "vae.safetensors", root / "vae" / "vae.safetensors"),
        ModelFile("loras", "style.safetensors", root / "loras" / "style.safetensors"),
    ]
    assert len(library.files()) == 6


def test_options_name_the_folder_only_where_two_clash(library: Library) -> None:
    assert library.options(["checkpoints", "diffusion_models"]) == [
        os.path.join("checkpoints", "both.safetensors"),
        os.path.join("diffusion_models", "both.safetensors"),
        NESTED,
        "wan.safetensors",
    ]
    assert library.options(["checkpoints"]) == ["both.safetensors"]


def test_every_option_finds_its_file(library: Library) -> None:
    folders = ["checkpoints", "diffusion_models", "vae", "loras"]
    found = [library.find(option, folders) for option in library.options(folders)]
    assert [(file.folder, file.name) for file in found] == library.names(folders)
    assert all(file.path.is_file() for file in found)


@pytest.mark.parametrize(
    "name",
    [
        "two words.safetensors",
        "模型 (v2) [final].safetensors",
        "100%.safetensors",
        "..dots...safetensors",
        "UPPER.SAFETENSORS",
        pytest.param(
            " blank first.safetensors", marks=pytest.mark.skipif(os.name == "nt", reason="trimmed there")
        ),
        pytest.param(
            "sub\\from a zip.safetensors",
            marks=pytest.mark.skipif(os.name == "nt", reason="is a folder there"),
        ),
    ],
)
def test_an_option_with_an_odd_name_finds_its_file(root: Path, library: Library, name: str) -> None:
    path = shapes_file(root / "vae" / name, VAE)
    assert name in library.options(["vae"])
    assert library.find(name, ["vae"]) == ModelFile("vae", name, path)


# Finding by name


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("wan.safetensors", "diffusion_models/wan.safetensors"),
        (" wan.safetensors\n", "diffusion_models/wan.safetensors"),
        ("sub/deep/wan.safetensors", "diffusion_models/sub/deep/wan.safetensors"),
        ("sub\\deep\\wan.safetensors", "diffusion_models/sub/deep/wan.safetensors"),
        ("sub/deep\\wan.safetensors", "diffusion_models/sub/deep/wan.safetensors"),
        ("checkpoints/both.safetensors", "checkpoints/both.safetensors"),
        ("diffusion_models\\both.safetensors", "diffusion_models/both.safetensors"),
        ("vae/vae.safetensors", "vae/vae.safetensors"),
        ("diffusion_models\\sub/deep/wan.safetensors", "diffusion_models/sub/deep/wan.safetensors"),
    ],
)
def test_a_name_with_either_separator(root: Path, library: Library, reference: str, expected: str) -> None:
    file = library.find(reference)
    assert file.path == root / expected
    assert file.folder == expected.partition("/")[0]
    assert file.name == str(Path(*expected.split("/")[1:]))


def test_a_name_of_two_files_needs_its_folder(root: Path, library: Library) -> None:
    with pytest.raises(AmbiguousModel) as caught:
        library.find("both.safetensors")
    error = caught.value
    assert error.code == "ambiguous_model"
    for words in ("checkpoints/both.safetensors", "diffusion_models/both.safetensors"):
        assert words in error.message
    assert library.find("both.safetensors", ["checkpoints"]).path == root / "checkpoints/both.safetensors"


@pytest.mark.parametrize("folder", ["checkpoints", "diffusion_models"])
def test_a_name_that_knows_its_folder(root: Path, library: Library, folder: str) -> None:
    file = library.find(ModelName("both.safetensors", folder))
    assert file == ModelFile(folder, "both.safetensors", root / folder / "both.safetensors")


def test_a_name_that_knows_another_folder_still_finds_the_only_file(library: Library) -> None:
    assert library.find(ModelName("vae.safetensors", "checkpoints")).folder == "vae"


def test_a_file_whose_name_begins_like_a_folder_wins(root: Path, library: Library) -> None:
    path = root / "diffusion_models" / "vae" / "vae.safetensors"
    path.parent.mkdir()
    shapes_file(path, WAN)
    assert library.find("vae/vae.safetensors").path == path
    assert library.find("diffusion_models/vae/vae.safetensors").path == path


def test_only_the_given_folders_are_looked_at(library: Library) -> None:
    with pytest.raises(ModelNotFound):
        library.find("vae.safetensors", ["diffusion_models"])
    with pytest.raises(ModelNotFound):
        library.find("vae/vae.safetensors", ["diffusion_models"])


def test_files_that_come_later_are_found(root: Path, library: Library) -> None:
    with pytest.raises(ModelNotFound):
        library.find("late.safetensors")
    shapes_file(root / "vae" / "late.safetensors", VAE)
    assert library.find("late.safetensors").folder == "vae"


# Names that are refused


@pytest.mark.parametrize(
    "reference",
    [
        "../secret.safetensors",
        "..\\secret.safetensors",
        "sub/../../secret.safetensors",
        "sub\\..\\..\\secret.safetensors",
        "..",
        "vae/..",
        "/etc/passwd",
        "\\windows\\system32",
        "//server/share/model.safetensors",
        "\\\\server\\share\\model.safetensors",
        "\\\\?\\C:\\model.safetensors",
        "C:\\models\\wan.safetensors",
        "C:/models/wan.safetensors",
        "C:wan.safetensors",
        "c:",
        "wan.safetensors\0",
        "wan\0.safetensors",
        "",
        "   ",
        None,
        5,
        ["wan.safetensors"],
    ],
)
def test_what_points_outside_the_model_folders_is_refused(library: Library, reference: Any) -> None:
    with pytest.raises(BadInput) as caught:
        library.find(reference)
    error = caught.value
    assert error.message.startswith("model_name is ")
    assert error.remedy
    assert not isinstance(error, NotAvailable)


@pytest.mark.parametrize(
    "reference",
    [
        "https://huggingface.co/x/wan.safetensors",
        "http://localhost/wan",
        "hf:owner/repo/wan.safetensors@main",
    ],
)
def test_an_address_is_not_available_yet(library: Library, reference: str) -> None:
    for find in (library.find, library.find_path):
        with pytest.raises(NotAvailable) as caught:
            find(reference)
        assert reference in caught.value.message
        assert "Download the file" in caught.value.remedy


def test_an_unknown_name_names_the_nearest(library: Library, registry: Registry) -> None:
    registry.put(info(Path("/elsewhere.safetensors"), name="waan"))
    with pytest.raises(ModelNotFound) as caught:
        library.find("wam.safetensors")
    error = caught.value
    assert error.message == "There is no model 'wam.safetensors'."
    assert error.remedy.startswith("Did you mean wan.safetensors")
    assert error.details["near"][0] == "wan.safetensors"
    with pytest.raises(ModelNotFound, match="Did you mean waan"):
        library.find("waann")


def test_only_names_that_may_be_chosen_are_suggested(library: Library) -> None:
    with pytest.raises(ModelNotFound) as caught:
        library.find("wam.safetensors", ["vae"])
    assert "wan.safetensors" not in caught.value.details["near"]


def test_a_name_like_no_other(library: Library) -> None:
    with pytest.raises(ModelNotFound, match="with its ending, or a registered name"):
        library.find("zzzzzzzzzz")
    with pytest.raises(ModelNotFound) as caught:
        library.find("qqqqqqqqqqqqqqqqqqqqqqqqqqqqq.bin")
    assert caught.value.remedy == "Check the name."


def test_without_any_model_the_remedy_says_where_to_put_one(tmp_path: Path, registry: Registry) -> None:
    for roots in ([], [tmp_path / "gone"], [tmp_path]):
        with pytest.raises(ModelNotFound, match="There are no models here yet"):
            Library(LocalHost(roots), registry).find("wan.safetensors")


class Vanishing(LocalHost):
    """Files are deleted between being listed and being looked at."""

    def names(self, folder: str) -> Sequence[str]:
        names = super().names(folder)
        for name in names:
            path = self.locate(folder, name)
            if path is not None and name == "wan.safetensors":
                path.unlink()
        return names


def test_a_file_that_vanishes_after_it_was_listed(root: Path, registry: Registry) -> None:
    library = Library(Vanishing([root]), registry)
    with pytest.raises(ModelNotFound) as caught:
        library.find("wan.safetensors")
    assert "wan.safetensors" in caught.value.message
    assert "version" not in caught.value.message  # nobody said anything of a version


@pytest.mark.skipif(os.name != "posix", reason="links need a right there")
def test_a_link_that_leads_nowhere(root: Path, library: Library) -> None:
    (root / "vae" / "dangling.safetensors").symlink_to(root / "gone.safetensors")
    assert [file.name for file in library.files(["vae"])] == ["vae.safetensors"]
    with pytest.raises(ModelNotFound, match=r"dangling\.safetensors"):
        library.find("dangling.safetensors")


# Registered names and versions


def test_a_registered_name_is_found(root: Path, library: Library, registry: Registry) -> None:
    path = root / "diffusion_models" / NESTED
    registry.put(info(path))
    assert library.find("my wan") == ModelFile("diffusion_models", NESTED, path)
    assert library.find("my wan", ["diffusion_models"]).path == path


def test_a_registered_file_of_another_kind_is_refused(
    root: Path, library: Library, registry: Registry
) -> None:
    registry.put(info(root / "vae" / "vae.safetensors"))
    with pytest.raises(ModelNotFound, match="is a model of another kind"):
        library.find("my wan", ["diffusion_models"])


def test_a_registered_file_outside_the_model_folders(
    tmp_path: Path, library: Library, registry: Registry
) -> None:
    path = shapes_file(tmp_path / "elsewhere.safetensors", WAN)
    registry.put(info(path))
    assert library.find("my wan") == ModelFile("", "elsewhere.safetensors", path)
    assert library.find("my wan", ["diffusion_models"]).path == path


def test_a_registered_file_that_is_not_there(tmp_path: Path, library: Library, registry: Registry) -> None:
    registry.put(info(tmp_path / "later.safetensors"))
    with pytest.raises(ModelNotFound) as caught:
        library.find("my wan")
    assert "my wan 1.0.0 is registered, and its file later.safetensors is not there" in caught.value.message
    assert "register where it is now" in caught.value.remedy


def test_a_file_wins_over_a_registered_name(root: Path, library: Library, registry: Registry) -> None:
    registry.put(info(root / "vae" / "vae.safetensors", name="wan.safetensors"))
    assert library.find("wan.safetensors").folder == "diffusion_models"
    assert library.find("wan.safetensors", version="1.0.0").folder == "vae"


@pytest.fixture
def versioned(root: Path, registry: Registry) -> dict[str, Path]:
    paths = {
        "1.0.0": root / "diffusion_models" / "wan.safetensors",
        "2.1.0": root / "diffusion_models" / NESTED,
        "2.2.0rc1": root / "diffusion_models" / "both.safetensors",
    }
    for version, path in paths.items():
        registry.put(info(path, version))
    return paths


@pytest.mark.parametrize(
    ("version", "chosen"),
    [
        ("", "1.0.0"),
        ("1.0.0", "1.0.0"),
        ("2.1", "2.1.0"),
        ("latest", "2.1.0"),
        ("~=2.1", "2.1.0"),
        (">=1,<2", "1.0.0"),
        ("2.2.0rc1", "2.2.0rc1"),
    ],
)
def test_a_version_of_a_registered_name(
    library: Library, versioned: dict[str, Path], version: str, chosen: str
) -> None:
    assert library.find("my wan", version=version).path == versioned[chosen]
    assert library.find_path("my wan", version) == versioned[chosen]


def test_the_active_version_is_meant_when_none_is_named(
    library: Library, registry: Registry, versioned: dict[str, Path]
) -> None:
    registry.set_active_version("my wan", "2.1.0")
    assert library.find("my wan").path == versioned["2.1.0"]


def test_a_version_that_is_not_there_names_those_that_are(
    library: Library, versioned: dict[str, Path]
) -> None:
    with pytest.raises(ModelNotFound) as caught:
        library.find("my wan", version=">=3")
    assert (
        "my wan has no version that satisfies '>=3'; it has 1.0.0, 2.1.0, 2.2.0rc1." in caught.value.message
    )


def test_a_version_that_is_no_requirement(library: Library, versioned: dict[str, Path]) -> None:
    with pytest.raises(BadInput, match="'newest' is not a version requirement"):
        library.find("my wan", version="newest")


@pytest.mark.parametrize("reference", ["wan.safetensors", "both.safetensors"])
def test_a_version_of_a_file_that_nobody_registered(library: Library, reference: str) -> None:
    with pytest.raises(BadInput) as caught:
        library.find(reference, version="latest")
    assert "version is 'latest'" in caught.value.message
    assert "register the model's versions first" in caught.value.remedy


def test_a_version_of_an_unknown_name(library: Library) -> None:
    with pytest.raises(ModelNotFound, match="There is no model 'nothing'"):
        library.find("nothing", version="latest")


# Finding by hash

DIGEST = "ab" * 32


@pytest.mark.parametrize("reference", [f"sha256:{DIGEST}", f"SHA256:{DIGEST.upper()}", f" sha256: {DIGEST} "])
def test_a_file_by_its_registered_hash(
    root: Path, library: Library, registry: Registry, reference: str
) -> None:
    path = root / "vae" / "vae.safetensors"
    registry.put(info(path, sha256=DIGEST.upper()))
    assert library.find(reference) == ModelFile("vae", "vae.safetensors", path)
    assert library.find(reference, ["vae"]).path == path
    with pytest.raises(ModelNotFound):
        library.find(reference, ["loras"])


def test_a_file_by_its_measured_hash(root: Path, library: Library, registry: Registry) -> None:
    path = root / "vae" / "vae.safetensors"
    library.identity(path)
    registry.put_sha256(FileIdentity.of(path), DIGEST)
    assert library.find(f"sha256:{DIGEST}").path == path


def test_a_hash_measured_before_the_file_was_replaced_finds_nothing(
    root: Path, library: Library, registry: Registry
) -> None:
    path = root / "vae" / "vae.safetensors"
    library.identity(path)
    registry.put_sha256(FileIdentity.of(path), DIGEST)
    shapes_file(path, WAN)
    with pytest.raises(ModelNotFound):
        library.find(f"sha256:{DIGEST}")


@pytest.mark.parametrize("digest", [DIGEST, "", "zz", "ab" * 31])
def test_a_hash_that_nobody_knows(library: Library, digest: str) -> None:
    with pytest.raises(ModelNotFound, match="is known to have the SHA-256") as caught:
        library.find(f"sha256:{digest}")
    assert "registered or verified" in caught.value.remedy


# Paths of a person's own


def test_a_path_is_taken_as_it_is(
    root: Path, tmp_path: Path, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = root / "vae" / "vae.safetensors"
    assert library.find_path(str(path)) == path
    assert library.find_path(str(tmp_path / "gone.safetensors")) == tmp_path / "gone.safetensors"
    monkeypatch.chdir(root)
    assert library.find_path("vae/vae.safetensors") == Path.cwd() / "vae" / "vae.safetensors"
    assert library.find_path("../gone.safetensors").absolute() == Path.cwd() / ".." / "gone.safetensors"
    monkeypatch.setenv("HOME", str(root))
    monkeypatch.setenv("USERPROFILE", str(root))
    assert library.find_path("~/vae/vae.safetensors") == path


def test_a_name_is_a_path_too(root: Path, library: Library, versioned: dict[str, Path]) -> None:
    assert library.find_path("vae.safetensors") == root / "vae" / "vae.safetensors"
    assert library.find_path("my wan") == versioned["1.0.0"]


def test_a_name_that_is_neither(tmp_path: Path, library: Library, registry: Registry) -> None:
    with pytest.raises(ModelNotFound, match="There is no model 'nothing'"):
        library.find_path("nothing")
    with pytest.raises(ModelNotFound) as caught:
        Library(LocalHost(), registry).find_path("nothing.safetensors")
    assert "There is no file 'nothing.safetensors' here" in caught.value.message
    assert "name the folder that holds your models" in caught.value.remedy


@pytest.mark.parametrize(
    "reference", ["", "   ", "wan\0.safetensors", "~nobody-of-that-name/wan.safetensors"]
)
def test_what_is_no_path_of_this_system_is_refused_as_ours(library: Library, reference: str) -> None:
    with pytest.raises(ManagedModelsError):
        library.identity(library.find_path(reference))


def test_the_version_of_a_file_that_was_registered_from_its_own_folder(
    root: Path, library: Library, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root / "vae")
    registry.put(info(Path("vae.safetensors"), "1.5.0"))
    monkeypatch.chdir(root)
    assert library.version_of(Path("vae/vae.safetensors")) == "1.5.0"
    assert library.version_of(root / "vae" / "vae.safetensors") == "1.5.0"


def test_a_registered_name_means_the_file_that_was_meant_when_it_was_registered(
    root: Path, library: Library, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root / "vae")
    registry.put(info(Path("vae.safetensors")))
    monkeypatch.chdir(root)
    assert library.find("my wan").path == root / "vae" / "vae.safetensors"


def test_a_version_of_a_path_is_refused(root: Path, library: Library) -> None:
    with pytest.raises(BadInput, match="points outside the model folders"):
        library.find_path(str(root / "vae" / "vae.safetensors"), "latest")


# Identities


def at_the_time_of(path: Path, change: Callable[[], object]) -> None:
    """Change the file and put its time back, so that nobody can see it from outside."""
    before = path.stat()
    change()
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def spoil(path: Path) -> None:
    """Replace the content by zeros of the same size and time: whoever reads it notices."""
    size = path.stat().st_size
    at_the_time_of(path, lambda: path.write_bytes(bytes(size)))


def test_a_header_is_read_once(root: Path, library: Library) -> None:
    path = root / "diffusion_models" / "wan.safetensors"
    first = library.identity(path)
    assert first.architecture == "wan-t2v"
    spoil(path)
    assert library.identity(path) is first


def test_a_replaced_file_is_read_again(root: Path, library: Library) -> None:
    path = root / "diffusion_models" / "wan.safetensors"
    assert library.identity(path).role is ModelType.DIFFUSION
    shapes_file(path, VAE)
    assert library.identity(path).role is ModelType.VAE
    path.unlink()
    with pytest.raises(ModelNotFound, match="There is no file at"):
        library.identity(path)


def test_a_file_of_another_time_is_read_again(root: Path, library: Library) -> None:
    path = root / "diffusion_models" / "wan.safetensors"
    library.identity(path)
    size = path.stat().st_size
    path.write_bytes(bytes(size))
    os.utime(path, ns=(1, 1))
    with pytest.raises(FileError, match="a file of zeros"):
        library.identity(path)


def test_an_identity_outlives_the_library(root: Path, library: Library, registry: Registry) -> None:
    path = root / "diffusion_models" / "wan.safetensors"
    first = library.identity(path)
    spoil(path)
    later = Library(LocalHost([root]), registry)
    assert later.identity(path) == first
    assert later.identity(path) is later.identity(path)
    with pytest.raises(FileError):
        Library(LocalHost([root]), Registry()).identity(path)


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"role": "diffusion"},
        {"nonsense": 1},
        [],
        ["role"],
        "text",
        5,
        {"role": "flying", "parts": [], "seen": [], "quantization": "none"},
    ],
)
def test_broken_facts_are_read_again(root: Path, library: Library, registry: Registry, facts: Any) -> None:
    path = root / "vae" / "vae.safetensors"
    registry.put_facts(FileIdentity.of(path), facts)
    identity = library.identity(path)
    assert identity.role is ModelType.VAE
    assert registry.facts(FileIdentity.of(path)) == identity.to_dict()


def test_facts_of_another_version_are_read_again(root: Path, library: Library, registry: Registry) -> None:
    path = root / "vae" / "vae.safetensors"
    identity = library.identity(path)
    registry.put_facts(FileIdentity.of(path), identity.to_dict() | {"of_tomorrow": 1})
    assert Library(LocalHost([root]), registry).identity(path) == identity


def test_a_broken_file_is_not_remembered(root: Path, library: Library, registry: Registry) -> None:
    path = root / "vae" / "vae.safetensors"
    good = path.read_bytes()
    before = path.stat()
    path.write_bytes(good[:-1] + b"")
    os.truncate(path, before.st_size - 1)
    with pytest.raises(InvalidHeader, match="are missing"):
        library.identity(path)
    assert registry.known_files() == []
    path.write_bytes(good)
    assert library.identity(path).role is ModelType.VAE


def test_the_hosts_own_detection_is_used_and_kept(root: Path, registry: Registry) -> None:
    class Knowing(LocalHost):
        def detect(self, header: Header) -> Detection | None:
            return Detection("Flux", "", "a host") if "head.modulation" in header.tensors else None

    path = root / "diffusion_models" / "wan.safetensors"
    library = Library(Knowing([root]), registry)
    assert (library.identity(path).architecture, library.identity(path).detected_by) == ("flux-dev", "a host")
    assert library.identity(root / "vae" / "vae.safetensors").role is ModelType.VAE


def test_nobody_waits_for_the_registry(root: Path, registry: Registry) -> None:
    later: list[Callable[[], None]] = []
    library = Library(LocalHost([root]), registry, later.append)
    path = root / "vae" / "vae.safetensors"
    identity = library.identity(path)
    assert registry.known_files() == []
    assert library.identity(path) is identity
    assert len(later) == 1
    later[0]()
    assert registry.known_files() == [(FileIdentity.of(path), identity.to_dict())]


@pytest.mark.skipif(not LINUX, reason="every name is text there")
def test_a_file_whose_name_is_no_text_has_an_identity(
    root: Path, library: Library, registry: Registry
) -> None:
    path = shapes_file(root / "vae" / os.fsdecode(b"caf\xe9.safetensors"), VAE)
    assert library.identity(path).role is ModelType.VAE
    assert registry.known_files() == []  # which holds text alone
    with pytest.raises(BadInput, match="is no text"):
        library.find(path.name)
    assert library.find_path(str(path)) == path


def test_an_identity_or_the_reason_why_there_is_none(root: Path, library: Library) -> None:
    path = root / "vae" / "vae.safetensors"
    assert try_identity(library, path) == (library.identity(path), None)
    path.write_bytes(b"GGUF")
    identity, error = try_identity(library, path)
    assert identity is None
    assert isinstance(error, FileError)
    assert try_identity(library, root / "gone")[0] is None


# What a person said of a file


def test_the_version_of_a_file(root: Path, library: Library, registry: Registry) -> None:
    path = root / "vae" / "vae.safetensors"
    assert library.version_of(path) is None
    registry.put(info(path, "1.5.0"))
    assert library.version_of(path) == "1.5.0"
    assert library.version_of(root / "loras" / "style.safetensors") is None


FILE = ModelFile("vae", "sub/vae.safetensors", Path("/models/vae/sub/vae.safetensors"))


@pytest.mark.parametrize(
    ("said", "links"),
    [
        (None, []),
        (info(FILE.path), []),
        (info(FILE.path, sha256=DIGEST), []),
        (
            info(FILE.path, url="https://example.com/x"),
            [{"name": "sub/vae.safetensors", "url": "https://example.com/x", "directory": "vae"}],
        ),
        (
            info(FILE.path, url="https://example.com/x", sha256=DIGEST),
            [
                {
                    "name": "sub/vae.safetensors",
                    "url": "https://example.com/x",
                    "directory": "vae",
                    "hash": DIGEST,
                    "hash_type": "SHA256",
                }
            ],
        ),
    ],
)
def test_what_the_dialog_for_missing_models_is_told(
    said: ModelInfo | None, links: list[dict[str, str]]
) -> None:
    assert model_links(FILE, said) == links


def test_a_file_that_was_fetched_is_named_by_where_it_came_from() -> None:
    source = Source("https://example.com/from", sha256=DIGEST)
    fetched = model_links(FILE, None, source)
    assert [(link["url"], link["hash"]) for link in fetched] == [("https://example.com/from", DIGEST)]
    said = model_links(FILE, info(FILE.path, url="https://example.com/said", sha256="cd" * 32), source)
    assert [(link["url"], link["hash"]) for link in said] == [("https://example.com/said", "cd" * 32)]


def test_where_a_file_came_from(root: Path, library: Library, registry: Registry) -> None:
    path = root / "vae" / "vae.safetensors"
    assert library.source_of(path) is None
    registry.put_source(FileIdentity.of(path), Source("https://example.com/x"))
    found = library.source_of(path)
    assert found is not None
    assert found.url == "https://example.com/x"
    shapes_file(path, WAN)  # another file by now
    assert library.source_of(path) is None
    path.unlink()
    assert library.source_of(path) is None
    if LINUX:
        assert library.source_of(Path(os.fsdecode(b"/models/\xff.safetensors"))) is None
