"""Items of strangers' model lists: what is taken, and what is refused and why."""

from __future__ import annotations

from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from managed_models.manager.catalogue.entry import Entry, Origin, Refusal, merged, name_problem, read_entry
from managed_models.manager.remote.reach import Reach

FOLDERS = {"diffusion_models", "text_encoders", "vae"}
HF = "https://huggingface.co/o/r/resolve/main/a.safetensors"
GOOD = {"name": "a.safetensors", "directory": "diffusion_models", "url": HF}


def read(**changes: Any) -> Entry | Refusal:
    return read_entry({**GOOD, **changes}, Origin.WORKFLOW, FOLDERS)


def test_an_item_is_read_with_every_spelling() -> None:
    digest = "AB" * 32
    for more in ({"hash": digest, "hash_type": "SHA256"}, {"sha256": digest}, {"hash": digest}):
        entry = read(**more, size=7)
        assert isinstance(entry, Entry)
        assert (entry.sha256, entry.size_bytes, entry.url, entry.host) == ("ab" * 32, 7, HF, "huggingface.co")
    other = read(directory=None, folder="unet", name="sub\\a.safetensors", hash="x", hash_type="BLAKE3")
    assert isinstance(other, Entry)
    assert (other.folder, other.name, other.sha256) == ("diffusion_models", "sub/a.safetensors", "")


@pytest.mark.parametrize(
    "url", [HF + "?download=true", HF.replace("resolve", "blob"), "hf:o/r/a.safetensors", f" {HF} "]
)
def test_one_file_has_one_address(url: str) -> None:
    entry = read(url=url)
    assert isinstance(entry, Entry)
    assert entry.url == HF


def test_other_queries_stay_and_are_not_shown() -> None:
    entry = read(url="https://civitai.com/api/download/models/1?token=secret")
    assert isinstance(entry, Entry)
    assert "secret" in entry.url
    assert "secret" not in entry.shown


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"name": None}, "no name"),
        ({"name": "../a.safetensors"}, "leads out"),
        ({"name": "/etc/a.safetensors"}, "leads out"),
        ({"name": "a//b.safetensors"}, "leads out"),
        ({"name": "..\\a.safetensors"}, "leads out"),
        ({"name": "C:\\a.safetensors"}, "characters"),
        ({"name": "a\u202e.safetensors"}, "characters"),
        ({"name": "a\0.safetensors"}, "characters"),
        ({"name": "a .safetensors/b.safetensors "}, "characters"),
        ({"name": "\ud800.safetensors"}, "characters"),
        ({"name": "con.safetensors"}, "every system"),
        ({"name": "x" * 300 + ".safetensors"}, "every system"),
        ({"name": ".a.fetched-again.safetensors"}, "begins with a dot"),
        ({"name": "a.py"}, "no ending of a model"),
        ({"name": "a"}, "without an ending"),
        ({"directory": "custom_nodes"}, "no model folder"),
        ({"directory": "../vae"}, "no model folder"),
        ({"directory": 3}, "no folder"),
        ({"directory": None}, "no folder"),
        ({"url": None}, "no address"),
        ({"url": "ftp://x.org/a"}, "no address"),
        ({"url": "file:///etc/passwd"}, "no address"),
        ({"url": "http://huggingface.co/a.safetensors"}, "not encrypted"),
        ({"url": "https://127.0.0.1/a.safetensors"}, "own network"),
        ({"url": "https://169.254.169.254/a.safetensors"}, "own network"),
        ({"url": "https://user:pw@x.org/a.safetensors"}, "name or password"),
        ({"hash": "12"}, "64 hexadecimal"),
    ],
)
def test_what_is_refused_says_why(changes: dict[str, Any], reason: str) -> None:
    refusal = read(**changes)
    assert isinstance(refusal, Refusal)
    assert reason in refusal.reason
    assert refusal.name.isprintable()
    assert len(refusal.name) <= 200


@pytest.mark.parametrize("item", [None, 3, "a.safetensors", [GOOD]])
def test_what_is_no_item_is_refused(item: Any) -> None:
    assert isinstance(read_entry(item, Origin.WORKFLOW, FOLDERS), Refusal)


def test_an_origin_that_the_owner_named_may_be_asked() -> None:
    reach = Reach.from_environment({"MANAGED_MODELS_DOWNLOAD_HOSTS": "http://10.0.0.5:8000"})
    item = {**GOOD, "url": "http://10.0.0.5:8000/a.safetensors"}
    assert isinstance(read_entry(item, Origin.OWN, FOLDERS, reach), Entry)
    assert isinstance(read_entry(item, Origin.OWN, FOLDERS), Refusal)


@settings(max_examples=80, deadline=None)
@given(st.text(alphabet="a/\\.:\0~ -", max_size=12).map(lambda text: text + ".safetensors"))
def test_no_name_leads_out_of_its_folder(name: str) -> None:
    if not name_problem(name):
        plain = name.replace("\\", "/")
        assert ".." not in PurePosixPath(plain).parts
        assert not PurePosixPath(plain).is_absolute()
        windows = PureWindowsPath(name)
        assert not windows.drive
        assert not windows.root
        assert ".." not in windows.parts


def test_addresses_that_disagree_are_kept_apart() -> None:
    def entry(url: str, sha256: str = "") -> Entry:
        return Entry("a.safetensors", "vae", url, sha256)

    found = merged([entry("u"), entry("u", "1"), entry("v"), entry("w", "1"), entry("w", "2"), entry("w")])
    assert [(e.url, e.sha256, e.times) for e in found] == [
        ("u", "1", 2),
        ("v", "", 1),
        ("w", "1", 1),
        ("w", "2", 1),
        ("w", "", 1),
    ]
