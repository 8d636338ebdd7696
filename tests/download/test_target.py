"""Where a download goes, and under which name."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from managed_models.manager.download.target import checked_name, target_path
from managed_models.manager.errors import BadInput, FileError, InvalidOutputName
from managed_models.manager.host import ModelFolder
from managed_models.manager.local_host import LocalHost
from support.permissions import nobody

NAME = "model.safetensors"


@pytest.fixture
def host(tmp_path: Path) -> LocalHost:
    for folder in ("diffusion_models", "vae", "unet"):
        (tmp_path / folder).mkdir()
    os.chmod(tmp_path, 0o755)
    return LocalHost([tmp_path])


def test_the_folder_of_that_kind(host: LocalHost, tmp_path: Path) -> None:
    assert target_path(host, "vae", NAME) == tmp_path / "vae" / NAME
    assert target_path(host, "diffusion_models", NAME) == tmp_path / "diffusion_models" / NAME
    assert target_path(host, "unet", NAME) == tmp_path / "diffusion_models" / NAME, "an older name of it"


def test_a_kind_that_is_not_there_is_told(host: LocalHost) -> None:
    with pytest.raises(BadInput) as caught:
        target_path(host, "../vae", NAME)
    assert "diffusion_models, vae" in caught.value.remedy


@pytest.fixture
def passage() -> Iterator[Path]:
    """A folder that everybody may enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def test_the_first_folder_that_may_be_written(passage: Path) -> None:
    closed, open_ = passage / "closed", passage / "open"
    closed.mkdir(mode=0o555)
    open_.mkdir(mode=0o777)
    os.chmod(open_, 0o777)
    host = LocalHost([ModelFolder("vae", closed), ModelFolder("vae", open_)])
    with nobody():
        assert target_path(host, "vae", NAME) == open_ / NAME
        with pytest.raises(FileError, match="Nobody may write"):
            target_path(LocalHost([ModelFolder("vae", closed)]), "vae", NAME)


def test_a_file_that_is_there_already_is_the_target(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    (second / NAME).touch()
    host = LocalHost([ModelFolder("vae", first), ModelFolder("vae", second)])
    assert target_path(host, "vae", NAME) == second / NAME
    assert target_path(host, "vae", NAME, needed_bytes=1) == second / NAME


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", "../a.safetensors", "a/b.safetensors", "a\\b.safetensors", "/a.safetensors",
        "C:a.gguf", "a\nb.safetensors", "a\x00.safetensors", "a\x1b[2J.safetensors", "a\u202e.safetensors",
        " a.safetensors", "a.safetensors ", "a.safetensors.", ".a.safetensors", "con.safetensors",
        "LPT1.gguf", "a" * 250 + ".gguf", "a.exe", "a.py", "model", "a.safetensors.exe",
        "\ud800.safetensors", "a?.gguf",
    ],
)  # fmt: skip
def test_a_name_that_is_no_plain_one_is_refused(host: LocalHost, name: str) -> None:
    with pytest.raises(InvalidOutputName) as caught:
        target_path(host, "vae", name)
    assert caught.value.message.isprintable()


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40))
def test_no_name_leads_out_of_the_folder(text: str) -> None:
    for name in (text, text + ".safetensors"):
        try:
            found = checked_name(name)
        except InvalidOutputName:
            continue
        assert Path(os.path.normpath(Path("/models") / found)).parent == Path("/models")
        assert found.isprintable()


@pytest.mark.parametrize("name", [NAME, "Wan 2.2 (fp8).SAFETENSORS", "ö.gguf", "a..b.safetensors"])
def test_plain_names_stay_as_they_are(name: str) -> None:
    assert checked_name(name) == name
