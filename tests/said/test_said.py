"""What people said, written out, read back and merged: nothing is lost, nothing bad gets in."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from managed_models.manager.errors import BadInput, FileError, OutputExists
from managed_models.manager.files import FileIdentity
from managed_models.manager.model import ModelInfo, ModelType, QuantizationType
from managed_models.manager.registry import Registry, Said, SaidModel, Source
from managed_models.manager.said import merge, read_document, to_document, write_document
from managed_models.manager.said.document import from_document
from managed_models.manager.words.said import import_lines
from support.permissions import nobody

PATH = Path("/models/ink.safetensors").absolute()
FILE = FileIdentity(PATH, 100, 5)


def fill(registry: Registry) -> None:
    for version in ("1.0.0", "2.0"):
        registry.put(
            ModelInfo("ink", ModelType.LORA, PATH, version=version, tags=["pen", "é"], min_vram_gb=1.5)
        )
    registry.put(ModelInfo("wan", ModelType.DIFFUSION, Path(), quantization=QuantizationType.FP8))
    registry.set_active_version("ink", "2.0")
    registry.put_alias("ink", "stable", "1.0.0")
    registry.put_pin(PATH, True)
    registry.put_source(FILE, Source("https://example.org/ink", "ab" * 32, '"e"', 7.5, "MIT"))


@pytest.fixture
def registry() -> Iterator[Registry]:
    found = Registry()
    fill(found)
    yield found
    found.close()


def test_what_was_said_comes_back(registry: Registry, tmp_path: Path) -> None:
    path = tmp_path / "said.json"
    write_document(registry.said(), path)
    there = read_document(path)
    assert there == registry.said()
    other = Registry()
    other.say(lambda here: merge(here, there))
    assert other.said() == registry.said()
    assert other.active_version("ink") == "2.0"
    assert other.aliases("ink") == {"stable": "1.0.0"}
    assert other.source(FILE) == registry.source(FILE)
    assert os.listdir(tmp_path) == ["said.json"]


def test_reading_twice_changes_nothing(registry: Registry) -> None:
    there = from_document(json.loads(json.dumps(to_document(registry.said()))))
    before = registry.said()
    result = registry.say(lambda here: merge(here, there))
    assert registry.said() == before
    details = result.to_dict()
    assert (details["versions"], details["active"], details["conflicts"]) == ([], {}, [])
    assert details["known"] == 8
    assert import_lines(details) == ["Nothing new; 8 known already."]


def test_what_differs_is_named_and_kept_unless_it_is_to_be_replaced(registry: Registry) -> None:
    other = Registry()
    fill(other)
    other.put(ModelInfo("ink", ModelType.LORA, PATH, version="1.0.0", tags=["brush"]))
    other.put(ModelInfo("ink", ModelType.LORA, PATH, version="3.0"))
    other.set_active_version("ink", "3.0")
    other.put_alias("ink", "stable", "2.0")
    other.put_alias("ink", "next", "3.0")
    other.put_source(FILE, Source("https://example.org/other", "cd" * 32, fetched_at=7.5))
    other.put_pin(Path("/models/b").absolute(), True)
    there = other.said()
    before = registry.said()
    details = registry.say(lambda here: merge(here, there)).to_dict()
    assert details["versions"] == ["ink 3.0"]
    assert details["aliases"] == [{"name": "ink", "alias": "next", "version": "3.0"}]
    assert details["pins"] == [str(Path("/models/b").absolute())]
    assert [row["what"] for row in details["conflicts"]] == [
        "ink 1.0.0",
        "active version of ink",
        "alias stable of ink",
        f"source of {PATH}",
    ]
    assert details["conflicts"][1] == {"what": "active version of ink", "here": "2.0", "there": "3.0"}
    assert "tags ['pen', 'é']" in details["conflicts"][0]["here"]
    assert registry.get("ink", "1.0.0") == before.models[0].versions[0]
    assert registry.active_version("ink") == "2.0"
    lines = import_lines(details)
    assert lines[0] == "Read in: 1 version, 1 alias, 1 pin; 4 known already."
    assert "  active version of ink: 2.0, kept; the document says 3.0" in lines
    details = registry.say(lambda here: merge(here, there, replace=True)).to_dict()
    assert len(details["conflicts"]) == 4
    assert registry.said() == there


def test_an_import_that_fails_keeps_nothing(registry: Registry, tmp_path: Path) -> None:
    before = registry.said()

    def fail(here: Said) -> Any:
        result = merge(
            here, Said((SaidModel("new", "1", (ModelInfo("new", ModelType.VAE, PATH, version="1"),)),))
        )
        result.pins.append(5)  # type: ignore[arg-type]
        result.sources.append((FILE, None))  # type: ignore[arg-type]
        return result

    with pytest.raises(AttributeError):
        registry.say(fail)
    assert registry.said() == before


def test_nobody_writes_between_what_is_read_and_what_is_made_of_it(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'registry.sqlite'}"
    registry, other = Registry(url), Registry(url)
    fill(registry)
    writer = threading.Thread(target=lambda: other.put(ModelInfo("late", ModelType.VAE, PATH)))

    def decide(here: Said) -> Any:
        writer.start()
        writer.join(0.3)
        assert writer.is_alive()  # it waits
        return merge(here, Said(pins=("/m/new",)))

    registry.say(decide)
    writer.join()
    assert registry.names() == ["ink", "late", "wan"]
    assert "/m/new" in registry.said().pins
    registry.close()
    other.close()


def document(**changes: Any) -> dict[str, Any]:
    registry = Registry()
    fill(registry)
    return to_document(registry.said()) | changes


def version(**changes: Any) -> dict[str, Any]:
    info = ModelInfo("ink", ModelType.LORA, PATH).to_dict() | changes
    return {"name": "ink", "active_version": "1.0.0", "aliases": {}, "versions": [info]}


SOURCE = {"path": "/m/a", "size": 1, "mtime_ns": 1, "url": "https://x/a", "sha256": None}
BAD: list[tuple[Any, str]] = [
    ([], "no export"),
    ({}, "no export"),
    (document(format="other"), "no export"),
    (document(format_version=2), "has format 2"),
    (document(format_version="1"), "format_version is '1'"),
    (document(format_version=True), "format_version is True"),
    (document(format_version=0), "format_version is 0"),
    (document(models={}), "models is {}"),
    (document(models=[5]), r"models\[0\] is 5"),
    (document(models=[version(), version()]), "each one once"),
    (document(models=[version() | {"active_version": "9"}]), r"models\[0\].active_version is '9'"),
    (document(models=[version() | {"versions": []}]), "one of its versions"),
    (document(models=[version() | {"aliases": {"stable": 5}}]), r"aliases.stable is 5"),
    (document(models=[version() | {"aliases": []}]), r"aliases is \[\]"),
    (document(models=[version(name="other")]), r"versions\[0\].name is 'other'"),
    (document(models=[version(model_type="car")]), "model_type is 'car'"),
    (document(models=[version(quantization="fp2")]), "quantization is 'fp2'"),
    (document(models=[version(size_gb="large")]), "size_gb is 'large'"),
    (document(models=[version(size_gb=float("inf"))]), "size_gb is inf"),
    (document(models=[version(tags="pen")]), "tags is 'pen'"),
    (document(models=[version(tags=[5])]), r"tags\[0\] is 5"),
    (document(models=[version(url=5)]), "url is 5"),
    (document(models=[version(file_path=None)]), "file_path is None"),
    (document(models=[version(file_path="a\0b")]), "file_path is"),
    (document(models=[version(license="\ud800")]), "license is"),
    (document(pins=[5]), r"pins\[0\] is 5"),
    (document(pins=[""]), r"pins\[0\] is ''"),
    (document(sources=[SOURCE | {"size": -1}]), r"sources\[0\].size is -1"),
    (document(sources=[SOURCE | {"mtime_ns": 1 << 64}]), "mtime_ns is"),
    (document(sources=[SOURCE | {"url": None}]), "url is None"),
    (document(sources=[SOURCE | {"fetched_at": "now"}]), "fetched_at is 'now'"),
]


@pytest.mark.parametrize(("given", "words"), BAD, ids=[words for _, words in BAD])
def test_a_bad_document_says_what_and_where(given: Any, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        from_document(given)


def test_what_a_newer_version_adds_beside_is_left_out() -> None:
    info = ModelInfo("ink", ModelType.LORA, PATH).to_dict() | {"colour": "blue"}
    entry = {"name": "ink", "active_version": "1.0.0", "versions": [info], "mood": "good"}
    said = from_document({"format": "managed-models", "format_version": 1, "models": [entry], "more": 1})
    assert said.models[0].versions == (ModelInfo("ink", ModelType.LORA, PATH),)


def test_secrets_in_an_address_are_not_taken_in() -> None:
    secret = SOURCE | {"url": "https://me:pass@x.org/a?token=hush#part"}
    said = from_document(document(sources=[secret]))
    assert said.sources[0][1].url == "https://x.org/a"


def _folder(path: Path) -> None:
    path.mkdir()


UNREADABLE: list[tuple[Callable[[Path], Any], type[Exception], str]] = [
    (lambda path: None, FileError, "cannot be read: No such file"),
    (_folder, FileError, "cannot be read: Is a directory"),
    (lambda path: path.write_bytes(b"\xff\xfe\x00"), BadInput, "is no text"),
    (lambda path: path.write_text("{"), BadInput, "is no JSON"),
    (lambda path: path.write_text("NaN"), BadInput, "is no JSON"),
    (lambda path: path.write_text("[" * 100_000), BadInput, "is no JSON"),
]


@pytest.mark.skipif(os.name == "nt", reason="other words there")
@pytest.mark.parametrize(("make", "error", "words"), UNREADABLE, ids=[words for *_, words in UNREADABLE])
def test_a_file_that_is_no_export(
    tmp_path: Path, make: Callable[[Path], Any], error: type[Exception], words: str
) -> None:
    make(tmp_path / "x.json")
    with pytest.raises(error, match=words):
        read_document(tmp_path / "x.json")


def test_another_file_is_not_replaced_unless_that_is_wanted(registry: Registry, tmp_path: Path) -> None:
    path = tmp_path / "said.json"
    path.write_text("mine")
    with pytest.raises(OutputExists):
        write_document(registry.said(), path)
    assert path.read_text() == "mine"
    write_document(registry.said(), path, overwrite=True)
    assert read_document(path) == registry.said()
    assert os.listdir(tmp_path) == ["said.json"]


@pytest.mark.skipif(os.name == "nt", reason="permissions work differently there")
def test_a_folder_that_may_not_be_written(registry: Registry, tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        with nobody(), pytest.raises(FileError, match="cannot be written"):
            write_document(registry.said(), tmp_path / "said.json")
    finally:
        tmp_path.chmod(0o755)


words = st.sampled_from(["a", "b", "c"])
infos = st.builds(
    lambda version, tag: (version, tag), st.sampled_from(["1", "2", "3"]), st.sampled_from(["x", "y"])
)


@st.composite
def said(draw: st.DrawFn) -> Said:
    models = []
    for name in sorted(draw(st.sets(words))):
        chosen = dict(draw(st.lists(infos, min_size=1, max_size=3)))
        versions = tuple(
            ModelInfo(name, ModelType.LORA, PATH, version=version, tags=[tag])
            for version, tag in chosen.items()
        )
        active = draw(st.sampled_from(sorted(chosen)))
        aliases = draw(st.dictionaries(st.sampled_from(["stable", "old"]), st.sampled_from(sorted(chosen))))
        models.append(SaidModel(name, active, versions, dict(sorted(aliases.items()))))
    pins = tuple(sorted(draw(st.sets(words))))
    sources = tuple(
        (
            FileIdentity(Path(path), 1, 1),
            Source(f"https://{path}", fetched_at=draw(st.sampled_from([1.0, 2.0]))),
        )
        for path in sorted(draw(st.sets(words)))
    )
    return Said(tuple(models), pins, sources)


def _facts(what: Said) -> tuple[Any, ...]:
    """Return what is said, whatever the order in which versions came."""
    return (
        {m.name: (m.active_version, {i.version: i.tags for i in m.versions}, m.aliases) for m in what.models},
        set(what.pins),
        dict(what.sources),
    )


@settings(max_examples=8, deadline=None)
@given(said(), said())
def test_a_merge_loses_nothing_and_twice_is_once(here: Said, there: Said) -> None:
    registry = Registry()
    registry.say(lambda empty: merge(empty, here))
    assert _facts(registry.said()) == _facts(here)
    registry.say(lambda ours: merge(ours, there))
    models, pins, sources = _facts(registry.said())
    for name, (active, versions, aliases) in _facts(here)[0].items():
        assert models[name][0] == active
        assert versions.items() <= models[name][1].items()
        assert aliases.items() <= models[name][2].items()
    assert pins == set(here.pins) | set(there.pins)
    assert dict(here.sources).items() <= sources.items()
    once = _facts(registry.said())
    again = registry.say(lambda ours: merge(ours, there))
    assert _facts(registry.said()) == once
    assert (again.infos, again.active, again.aliases, again.pins, again.sources) == ([], {}, [], [], [])
    registry.say(lambda ours: merge(ours, there, replace=True))
    for name, (active, versions, aliases) in _facts(there)[0].items():
        found = _facts(registry.said())[0][name]
        assert found[0] == active
        assert versions.items() <= found[1].items()
        assert aliases.items() <= found[2].items()
    registry.close()
