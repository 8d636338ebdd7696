"""Pages of the model list: the loaders' own names, found by words, with what the registry knows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from managed_models.manager.errors import BadInput
from managed_models.manager.files import FileIdentity
from managed_models.manager.library import Library
from managed_models.manager.listing import list_models
from managed_models.manager.local_host import LocalHost
from managed_models.manager.model import ModelInfo, ModelType
from managed_models.manager.registry import Registry
from managed_models.manager.scan import Scanner
from support.files import shapes_file

LORA = {"a.lora_down.weight": (4, 4)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for kind in ("loras", "vae"):
        (tmp_path / kind / "deep").mkdir(parents=True)
    for number in range(7):
        shapes_file(tmp_path / "loras" / "deep" / f"ink_{number}.safetensors", LORA)
    shapes_file(tmp_path / "vae" / "first.safetensors", {"decoder.conv_in.weight": (4, 4)})
    return tmp_path


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def library(root: Path, registry: Registry) -> Library:
    return Library(LocalHost([root]), registry)


def test_pages_are_the_loaders_own_list(library: Library, registry: Registry) -> None:
    whole = list_models(library, registry)
    assert [(row.file.folder, row.file.name) for row in whole.rows] == library.names()
    assert whole.total == 8
    pages = [list_models(library, registry, offset=at, limit=3) for at in (0, 3, 6, 9)]
    assert [row.file for page in pages for row in page.rows] == [row.file for row in whole.rows]
    assert [page.total for page in pages] == [8, 8, 8, 8]
    assert all(row.known is None for row in whole.rows)  # nobody has scanned


@pytest.mark.parametrize(
    ("text", "folder", "count"),
    [
        ("ink", None, 7),
        ("INK 3", None, 1),
        ("deep/ink_3", None, 1),
        ("deep\\ink_3", None, 1),
        ("vae", None, 1),
        ("vae", "loras", 0),
        ("", "loras", 7),
        ("", "nothing", 0),
        ("pen", None, 0),
        ("\ud800", None, 0),
    ],
)
def test_words_find_names_without_a_scan(
    library: Library, registry: Registry, text: str, folder: str | None, count: int
) -> None:
    page = list_models(library, registry, text, folder)
    assert (len(page.rows), page.total) == (count, count)


def test_what_scans_and_people_say_is_found_too(root: Path, library: Library, registry: Registry) -> None:
    Scanner(LocalHost([root]), registry).scan()
    path = root / "loras" / "deep" / "ink_3.safetensors"
    registry.put(ModelInfo("Drawing", ModelType.LORA, path, tags=["pen"]))
    assert [row.file.path for row in list_models(library, registry, "pen").rows] == [path]
    assert [row.file.path for row in list_models(library, registry, "drawing ink").rows] == [path]
    (row,) = list_models(library, registry, "pen").rows
    assert row.known is not None
    assert row.known.identity is not None
    assert row.known.identity["role"] == "lora"
    registry.put_health(FileIdentity.of(path), {"ok": False, "problem": "cut off"})
    (row,) = list_models(library, registry, "pen").rows
    assert row.health is not None
    assert row.health["problem"] == "cut off"
    os.utime(path, ns=(1, 1))  # it is another file now, as far as anyone can tell
    (row,) = list_models(library, registry, "pen").rows
    assert (row.known, row.health) == (None, None)


def test_health_needs_no_scan(root: Path, library: Library, registry: Registry) -> None:
    path = root / "vae" / "first.safetensors"
    registry.put_health(FileIdentity.of(path), {"ok": True})
    rows = {row.file.path: row for row in list_models(library, registry).rows}
    assert rows[path].known is None
    assert rows[path].health is not None
    assert [row.health for other, row in rows.items() if other != path] == [None] * 7


@pytest.mark.parametrize(("offset", "limit"), [(-1, 5), (0, 0), (0, 201)])
def test_bounds(library: Library, registry: Registry, offset: int, limit: int) -> None:
    with pytest.raises(BadInput, match=f"offset is {offset} and limit is {limit}"):
        list_models(library, registry, offset=offset, limit=limit)
