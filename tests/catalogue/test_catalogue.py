"""The catalogue: installed template packages in either layout, people's own files, and what is kept."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from managed_models.manager.catalogue import Catalogue, Origin, Places
from managed_models.manager.catalogue.own import read_own
from managed_models.manager.catalogue.templates import find_packages, read_packages, site_packages

HF = "https://huggingface.co/o/r/resolve/main"


def item(name: str, folder: str = "vae", repository: str = "r", **more: Any) -> dict[str, Any]:
    return {"name": name, "directory": folder, "url": f"{HF}/{repository}/{name}", **more}


def template(*items: dict[str, Any]) -> dict[str, Any]:
    nodes = [{"id": i, "type": "VAELoader", "properties": {"models": [it]}} for i, it in enumerate(items)]
    return {"nodes": nodes}


def install(place: Path, package: str, version: str, **workflows: Any) -> Path:
    """Write a package as pip would."""
    folder = place / package / "templates"
    folder.mkdir(parents=True, exist_ok=True)
    for name, document in workflows.items():
        (folder / f"{name}.json").write_text(json.dumps(document))
    for other in place.glob(f"{package}-*.dist-info"):
        other.rmdir()
    (place / f"{package}-{version}.dist-info").mkdir()
    return folder


SPLIT = "comfyui_workflow_templates_json"
ONE = "comfyui_workflow_templates"


@pytest.mark.parametrize("package", [SPLIT, ONE])
def test_both_layouts_are_read(tmp_path: Path, package: str) -> None:
    install(tmp_path, package, "1.2.3", index=[{"name": "x"}], a=template(item("a.safetensors")))
    (found,) = find_packages([tmp_path])
    assert (found.name, found.version) == (package, "1.2.3")
    assert [e.name for e in read_packages([found])] == ["a.safetensors"]


def test_templates_that_disagree_are_both_known_the_usual_one_first(tmp_path: Path) -> None:
    a, b = item("a.safetensors"), item("a.safetensors", repository="other")
    install(tmp_path, SPLIT, "1", x=template(a), y=template(b), z=template(b, {**b, "hash": "c" * 64}))
    found = Catalogue(places=Places((tmp_path,))).find("a.safetensors", ["vae"])
    assert [(e.url, e.times, e.sha256) for e in found] == [(b["url"], 3, "c" * 64), (a["url"], 1, "")]
    assert Catalogue(places=Places((tmp_path,))).find("a.safetensors", ["loras"]) == []


def test_what_cannot_be_used_is_left_out(tmp_path: Path) -> None:
    bad = item("../up.safetensors")
    folder = install(tmp_path, SPLIT, "1", x=template(bad, item("good.safetensors")))
    (folder / "broken.json").write_text('{"nodes": [ "directory"')
    (folder / "deep.json").write_text('"directory"' + "[" * 100_000)
    (folder / "empty.json").touch()
    assert [e.name for e in Catalogue(places=Places((tmp_path,))).entries()] == ["good.safetensors"]


def test_the_templates_are_read_once_for_each_version(tmp_path: Path) -> None:
    places = Places((tmp_path,), cache=tmp_path / "kept" / "templates.json")
    folder = install(tmp_path, SPLIT, "1", x=template(item("a.safetensors")))
    catalogue = Catalogue(places=places)
    first = catalogue.entries()
    (folder / "x.json").unlink()
    (folder / "index.json").write_text("[]")
    assert catalogue.entries() == first
    assert Catalogue(places=places).entries() == first
    install(tmp_path, SPLIT, "2", y=template(item("b.safetensors")))
    assert [e.name for e in catalogue.entries()] == ["b.safetensors"]
    assert [e.name for e in Catalogue(places=places).entries()] == ["b.safetensors"]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format": 1}', '{"format": 1, "versions": {}, "models": [3]}']
)
def test_a_broken_cache_is_read_anew(tmp_path: Path, text: str) -> None:
    install(tmp_path, SPLIT, "1", x=template(item("a.safetensors")))
    cache = tmp_path / "templates.json"
    cache.write_text(text.replace('"versions": {}', f'"versions": {{"{SPLIT}": "1"}}'))
    assert len(Catalogue(places=Places((tmp_path,), cache=cache)).entries()) == 1
    assert json.loads(cache.read_text())["versions"] == {SPLIT: "1"}
    assert [path.name for path in tmp_path.glob("*.mmpart")] == []


def test_a_comfyui_has_its_packages_in_its_own_python(tmp_path: Path) -> None:
    place = tmp_path / "ComfyUI" / ".venv" / "lib" / "python3.12" / "site-packages"
    portable = tmp_path / "python_embeded" / "Lib" / "site-packages"
    for folder in (place, portable):
        folder.mkdir(parents=True)
    assert site_packages(tmp_path / "ComfyUI") == [place, portable]
    assert site_packages(tmp_path / "none") == [portable]


def test_a_persons_own_file_has_the_first_word(tmp_path: Path) -> None:
    install(tmp_path, SPLIT, "1", x=template(item("a.safetensors")))
    own = tmp_path / "catalogue.json"
    catalogue = Catalogue(places=Places((tmp_path,), (own,)))
    assert [e.origin for e in catalogue.find("a.safetensors")] == [Origin.TEMPLATES]
    own.write_text(json.dumps({"models": [item("a.safetensors", repository="mine", size=5)]}))
    first, second = catalogue.find("a.safetensors")
    assert (first.origin, first.size_bytes, second.origin) == (Origin.OWN, 5, Origin.TEMPLATES)
    own.unlink()
    assert len(catalogue.find("a.safetensors")) == 1


def test_a_wrong_entry_is_named_with_its_line_and_the_rest_counts(tmp_path: Path) -> None:
    own = tmp_path / "catalogue.json"
    own.write_text(
        '{"note": {"x": 1},\n "models": [\n'
        f"  {json.dumps(item('a.safetensors'))},\n"
        '  {"name": "b, ] }.safetensors",\n   "directory": "nowhere", "url": "https://x.org/b"},\n\n'
        '  {"name": "c.safetensors", "directory": "vae"}\n ]}\n'
    )
    entries, problems = read_own(own, {"vae"})
    assert [e.name for e in entries] == ["a.safetensors"]
    assert problems == [
        "catalogue.json, line 4, entry 2 (b, ] }.safetensors): there is no model folder 'nowhere'. "
        "It is left out.",
        "catalogue.json, line 7, entry 3 (c.safetensors): it has no address. It is left out.",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"models": [\n{"name": }]}', "line 2: Expecting value"),
        ("[]", 'no list "models"'),
        ('{"models": {}}', 'no list "models"'),
        ("[" * 200_000, "nested too deeply"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
    ids=["json", "list", "object", "deep", "bytes"],
)
def test_a_file_that_is_none_says_where(tmp_path: Path, text: str | bytes, problem: str) -> None:
    own = tmp_path / "catalogue.json"
    own.write_bytes(text.encode() if isinstance(text, str) else text)
    entries, problems = read_own(own, None)
    assert entries == []
    assert problem in problems[0]
    assert Catalogue(places=Places(own=(own,))).problems() == problems


def test_no_file_is_no_problem(tmp_path: Path) -> None:
    assert read_own(tmp_path / "none.json", None) == ([], [])
    assert Catalogue().entries() == []


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    own = tmp_path / "catalogue.json"
    catalogue = Catalogue(places=Places(own=(own,)))
    for i, name in enumerate(("a.safetensors", "b.safetensors")):
        own.write_text(json.dumps({"models": [item(name)]}))
        os.utime(own, ns=(i, i))
        assert [e.name for e in catalogue.entries()] == [name]
