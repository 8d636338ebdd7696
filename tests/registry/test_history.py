"""What the registry knows beside identities: aliases, pins, sources, health, variants, searches."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from managed_models.manager.files import FileIdentity
from managed_models.manager.model import ModelInfo, ModelType
from managed_models.manager.registry import Registry, Scanned, Source

FILE = FileIdentity(Path("/models/a.safetensors"), 100, 5)
CHANGED = FileIdentity(FILE.path, 101, 5)


@pytest.fixture(params=["memory", "file"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Registry]:
    memory = request.param == "memory"
    found = Registry("sqlite://" if memory else f"sqlite:///{tmp_path / 'registry.sqlite'}")
    yield found
    found.close()


def info(name: str, path: Path = Path(), version: str = "1.0", **facts: Any) -> ModelInfo:
    return ModelInfo(name, ModelType.LORA, path, version=version, **facts)


def scanned(name: str, folder: str = "loras", number: int = 0, **identity: str) -> Scanned:
    return Scanned(
        file=FileIdentity(Path("/models", folder, name), number, number),
        folder=folder,
        name=name,
        node=None,
        digest="d",
        identity=identity,
        problem=None,
        reader="1",
    )


def test_aliases(registry: Registry) -> None:
    assert registry.put_alias("ink", "stable", "1.0") is False
    registry.put(info("ink"))
    registry.put(info("wan"))
    assert registry.put_alias("ink", "stable", "1.0") is True
    assert registry.put_alias("ink", "new", "1.0") is True
    assert registry.put_alias("ink", "stable", "2.0") is True
    assert registry.put_alias("wan", "stable", "1.0") is True
    assert registry.aliases("ink") == {"new": "1.0", "stable": "2.0"}
    assert registry.remove_alias("ink", "stable") is True
    assert registry.remove_alias("ink", "stable") is False
    assert registry.remove_alias("nobody", "stable") is False
    assert registry.aliases("wan") == {"stable": "1.0"}
    registry.remove("wan")
    registry.put(info("wan"))
    assert registry.aliases("wan") == {}


def test_pins(registry: Registry) -> None:
    other = Path("/models/b.safetensors")
    assert registry.pins() == []
    registry.put_pin(other, True)
    registry.put_pin(FILE.path, True)
    registry.put_pin(FILE.path, True)
    assert registry.pins() == [FILE.path, other]
    registry.put_pin(FILE.path, False)
    registry.put_pin(FILE.path, False)
    assert registry.pins() == [other]


def test_a_source_is_that_of_the_file_as_it_came(registry: Registry) -> None:
    source = Source("https://example.org/a", "AB" * 32, '"tag"', 9.5, "MIT")
    registry.put_source(FILE, source)
    assert registry.source(FILE) == Source("https://example.org/a", "ab" * 32, '"tag"', 9.5, "MIT")
    assert registry.source(CHANGED) is None
    size, same = registry.source_of(CHANGED) or (0, None)
    assert (size, same) == (100, registry.source(FILE))
    assert registry.source_of(FileIdentity(FILE.path, 100, 6)) is None
    registry.put_source(CHANGED, Source("https://example.org/b"))
    found = registry.source(CHANGED)
    assert found is not None
    assert (found.url, found.sha256, found.fetched_at > 1e9) == ("https://example.org/b", None, True)
    assert [file for file, _ in registry.sources()] == [CHANGED]


def test_health_is_that_of_the_file_as_it_was(registry: Registry) -> None:
    assert registry.health(FILE) is None
    registry.put_health(FILE, {"ok": False, "problem": "cut off"})
    found = registry.health(FILE)
    assert found is not None
    assert (found["ok"], found["problem"], found["checked_at"] > 1e9) == (False, "cut off", True)
    assert registry.health(CHANGED) is None
    assert [file for file, _ in registry.unhealthy()] == [FILE]
    registry.put_health(FILE, {"ok": True})
    assert registry.unhealthy() == []


def test_variants_are_found_from_any_of_them(registry: Registry) -> None:
    source, int8, fp8 = (FileIdentity(Path(f"/models/{n}.safetensors"), 1, 1) for n in ("wan", "int8", "fp8"))
    digest = "AB" * 32
    registry.put_sha256(source, digest)
    registry.put_facts(source, {"precision": "bf16"})
    registry.put_variant(int8, "int8", "wan.safetensors", digest)
    registry.put_variant(fp8, "fp8", "wan.safetensors", digest)
    expected = [
        (source.path, "bf16", "", None),
        (fp8.path, "", "fp8", "ab" * 32),
        (int8.path, "", "int8", "ab" * 32),
    ]
    for asked in (digest, digest.lower(), source, int8, fp8):
        found = registry.variants_of(asked)
        assert [(v.path, v.precision, v.format, v.source_sha256) for v in found] == expected
    assert registry.variants_of("cd" * 32) == []
    assert registry.variants_of(FILE) == []


# Searching


def test_words_are_looked_for_in_names_folders_and_what_is_said(registry: Registry) -> None:
    registry.put_scanned(
        [
            scanned("Ink_Style.safetensors", title="Wan 2.1", precision="bf16"),
            scanned("sub/photo.safetensors", number=1, title="Flux"),
            scanned("wan.safetensors", "diffusion_models", 2, title="Wan 2.1", precision="fp8"),
        ]
    )
    registry.put(info("Drawing", Path("/models/loras/Ink_Style.safetensors"), "3.0", tags=["Pen"]))

    def names(text: str, folder: str | None = None) -> list[str]:
        page = registry.search(text, folder)
        assert page.total == len(page.rows)
        return [row.name for row in page.rows]

    everything = ["Ink_Style.safetensors", "sub/photo.safetensors", "wan.safetensors"]
    assert names("") == names("   ") == names("SAFETENSORS") == everything
    assert names("ink") == names("INK style") == names("drawing") == names("pen wan") == everything[:1]
    assert names("wan") == [everything[0], everything[2]]
    assert names("wan", "diffusion_models") == names("wan fp8") == everything[2:]
    assert names("sub\\photo") == names("flux") == everything[1:2]
    assert names("nothing") == names("wan flux") == names("", "vae") == []
    assert [names(word) for word in ("%", "%ink", "*", "in?", "[i]nk", "[", "]")] == [[]] * 7  # no patterns
    assert registry.described("wan") == {("loras", "Ink_Style.safetensors")}
    assert registry.described("drawing style") == {("loras", "Ink_Style.safetensors")}
    assert registry.described("") == set()
    registry.remove("Drawing")
    assert names("drawing") == []


def test_missing_files_are_not_found(registry: Registry) -> None:
    registry.put_scanned([scanned("a"), scanned("b", number=1)])
    registry.mark_missing([str(Path("/models/loras/a"))])
    assert [row.name for row in registry.search("").rows] == ["b"]
    assert registry.paths() == [Path("/models/loras/b")]


def twin(name: str, root: str) -> Scanned:
    """A file that looks like another one of its folder type, below another root."""
    file = FileIdentity(Path("/other", root, name), 1, 1)
    return dataclasses.replace(scanned(name, "one"), file=file)


_SHARED = Registry()  # a new database takes longer than everything that is done with it


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_pages_are_the_whole_in_one_order(data: st.DataObject) -> None:
    registry = _SHARED
    registry.forget_files([str(path) for path in registry.paths()])
    names = data.draw(
        st.lists(st.text("ab/", min_size=1, max_size=4), unique_by=lambda n: Path("x", n), max_size=10)
    )
    registry.put_scanned(
        [scanned(name, data.draw(st.sampled_from(["one", "two"])), n) for n, name in enumerate(names)]
        + [twin("a", root) for root in data.draw(st.sampled_from(["", "xy", "yx"]))]
    )
    names += ["a"] * (len(registry.paths()) - len(names))
    text, folder = data.draw(st.sampled_from(["", "a", "b a"])), data.draw(st.sampled_from([None, "two"]))
    limit = data.draw(st.integers(1, 5))
    whole = registry.search(text, folder, 0, 200)
    pages = [registry.search(text, folder, at, limit) for at in range(0, len(names) + limit, limit)]
    assert [row for page in pages for row in page.rows] == whole.rows
    assert {page.total for page in pages} == {whole.total} == {len(whole.rows)}
    wanted = [name for name in names if all(word in name for word in text.split())]
    found = {row.name for row in whole.rows}
    assert found <= set(wanted)
    if folder is None:
        assert found == set(wanted)
