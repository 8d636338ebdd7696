"""The registry: what people said, what is known of files, and databases that are no good."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st
from managed_models.manager.config import IN_MEMORY, registry_url
from managed_models.manager.errors import BadInput, FileError, ManagedModelsError
from managed_models.manager.files import FileIdentity
from managed_models.manager.model import ModelInfo, ModelType, QuantizationType
from managed_models.manager.registry import Peak, PeakKey, Registry, database
from managed_models.manager.registry.database import database_path

ROOT = Path(__file__).resolve().parents[2]


def info(name: str = "wan", version: str = "1.0.0", **facts: Any) -> ModelInfo:
    facts.setdefault("file_path", Path(f"/models/{name}-{version}.safetensors").absolute())
    return ModelInfo(name, ModelType.DIFFUSION, version=version, **facts)


def file_url(path: Path) -> str:
    return f"sqlite:///{path}"


def whole(path: str | Path) -> str:
    """A path as the registry keeps it: on Windows it gets the drive."""
    return str(Path(path).absolute())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "registry.sqlite"


@pytest.fixture(params=["memory", "file"])
def registry(request: pytest.FixtureRequest, path: Path) -> Iterator[Registry]:
    found = Registry(IN_MEMORY if request.param == "memory" else file_url(path))
    yield found
    found.close()


# What people said


def test_nothing_is_known_at_first(registry: Registry) -> None:
    assert registry.names() == []
    assert registry.get("wan") is None
    assert registry.versions("wan") == []
    assert registry.active_version("wan") is None
    assert registry.active_by_path() == {}
    assert registry.known_files() == []
    assert registry.find_by_sha256("ab") == []
    assert registry.set_active_version("wan", "1.0.0") is False
    assert registry.remove("wan") is False


def test_every_fact_comes_back(registry: Registry) -> None:
    said = ModelInfo(
        "wán 模型 'quoted' \"twice\"; DROP TABLE models",
        ModelType.CHECKPOINT,
        Path("/models/wán 模型.safetensors"),
        size_gb=28.6,
        version="2.1.0rc1+cu118",
        min_vram_gb=12.0,
        min_ram_gb=0.25,
        compatible_frameworks=["pytorch", "onnx"],
        required_extensions=["ComfyUI-GGUF"],
        quantization=QuantizationType.FP8,
        min_torch_version="2.4",
        url="https://example.com/a?b=c&d=é",
        sha256="AB" * 32,
        license="Apache-2.0",
        tags=["", "two words", "🦊"],
    )
    registry.put(said)
    assert registry.get(said.name) == said
    assert registry.get(said.name, "2.1.0rc1+cu118") == said
    assert registry.names() == [said.name]


def test_the_first_version_is_the_active_one(registry: Registry) -> None:
    for version in ("1.5.0", "2.0.0", "1.0.0"):
        registry.put(info(version=version))
    assert registry.versions("wan") == ["1.5.0", "2.0.0", "1.0.0"]
    assert registry.active_version("wan") == "1.5.0"
    assert registry.get("wan") == info(version="1.5.0")
    assert registry.get("wan", "2.0.0") == info(version="2.0.0")
    assert registry.get("wan", "3.0.0") is None


def test_another_version_may_become_active(registry: Registry) -> None:
    for version in ("1.0.0", "2.0.0"):
        registry.put(info(version=version))
        registry.put(info("flux", version))
    assert registry.set_active_version("wan", "2.0.0") is True
    assert registry.active_version("wan") == "2.0.0"
    assert registry.get("wan") == info(version="2.0.0")
    assert registry.active_version("flux") == "1.0.0"


def test_a_version_of_another_model_cannot_become_active(registry: Registry) -> None:
    registry.put(info("wan", "1.0.0"))
    registry.put(info("flux", "9.0.0"))
    assert registry.set_active_version("wan", "9.0.0") is False
    assert registry.active_version("wan") == "1.0.0"


def test_saying_something_again_replaces_it_and_keeps_its_place(registry: Registry) -> None:
    registry.put(info(version="1.0.0", tags=["old"]))
    registry.put(info(version="2.0.0"))
    registry.set_active_version("wan", "2.0.0")
    registry.put(info(version="1.0.0", tags=["new"], file_path=Path("/elsewhere.safetensors")))
    assert registry.versions("wan") == ["1.0.0", "2.0.0"]
    assert registry.active_version("wan") == "2.0.0"
    found = registry.get("wan", "1.0.0")
    assert found is not None
    assert found.tags == ["new"]
    assert set(registry.active_by_path()) == {
        whole("/elsewhere.safetensors"),
        whole("/models/wan-2.0.0.safetensors"),
    }


def test_names_are_in_order_and_case_matters(registry: Registry) -> None:
    for name in ("wan", "Flux", "flux"):
        registry.put(info(name))
    assert registry.names() == ["Flux", "flux", "wan"]


def test_removing_forgets_all_versions(registry: Registry) -> None:
    for version in ("1.0.0", "2.0.0"):
        registry.put(info(version=version))
    registry.put(info("flux"))
    assert registry.remove("wan") is True
    assert registry.names() == ["flux"]
    assert registry.versions("wan") == []
    assert list(registry.active_by_path()) == [whole("/models/flux-1.0.0.safetensors")]
    registry.put(info(version="3.0.0"))
    assert registry.versions("wan") == ["3.0.0"]
    assert registry.active_version("wan") == "3.0.0"


def test_a_file_is_known_by_its_whole_path(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    registry.put(info(file_path=Path("models/wan.safetensors")))
    registry.put(info("nameless", file_path=Path("")))
    assert set(registry.active_by_path()) == {str(Path.cwd() / "models" / "wan.safetensors"), ""}


def test_of_versions_that_share_a_file_the_active_one_speaks_for_it(registry: Registry) -> None:
    shared = Path("/models/shared.safetensors")
    for version in ("1.0.0", "2.0.0", "3.0.0"):
        registry.put(info(version=version, file_path=shared))
    assert registry.active_by_path() == {whole(shared): info(version="1.0.0", file_path=shared)}
    registry.set_active_version("wan", "2.0.0")
    assert registry.active_by_path()[whole(shared)].version == "2.0.0"


def test_of_inactive_versions_that_share_a_file_the_last_speaks_for_it(registry: Registry) -> None:
    shared = Path("/models/shared.safetensors")
    registry.put(info(version="0.1.0"))
    for version in ("1.0.0", "2.0.0"):
        registry.put(info(version=version, file_path=shared))
    assert registry.active_by_path()[whole(shared)].version == "2.0.0"


# What is on the disk

FILE = FileIdentity(Path("/models/a.safetensors").absolute(), 100, 2**62)


def test_facts_of_an_unchanged_file(registry: Registry) -> None:
    facts = {
        "role": "diffusion",
        "parts": ["vae"],
        "dtypes": {"bf16": 10**15},
        "prefix": "",
        "x": None,
        "é": 1.5,
    }
    registry.put_facts(FILE, facts)
    assert registry.facts(FILE) == facts
    assert registry.known_files() == [(FILE, facts)]


@pytest.mark.parametrize(
    "changed",
    [
        FileIdentity(FILE.path, 101, FILE.mtime_ns),
        FileIdentity(FILE.path, 100, FILE.mtime_ns + 1),
        FileIdentity(Path("/models/b.safetensors"), 100, FILE.mtime_ns),
    ],
    ids=["size", "time", "path"],
)
def test_facts_of_a_changed_file_are_not_returned(registry: Registry, changed: FileIdentity) -> None:
    registry.put_facts(FILE, {"role": "vae"})
    registry.put_sha256(FILE, "ab")
    assert registry.facts(changed) is None
    assert registry.sha256(changed) is None
    assert registry.facts(FILE) == {"role": "vae"}
    assert registry.sha256(FILE) == "ab"


def test_new_facts_replace_old_ones(registry: Registry) -> None:
    registry.put_facts(FILE, {"role": "vae"})
    later = FileIdentity(FILE.path, 200, FILE.mtime_ns + 5)
    registry.put_facts(later, {"role": "lora"})
    assert registry.facts(FILE) is None
    assert registry.facts(later) == {"role": "lora"}
    assert registry.known_files() == [(later, {"role": "lora"})]


def test_a_hash_is_kept_for_a_file_as_it_was_whatever_else_is_known(registry: Registry) -> None:
    registry.put_sha256(FILE, "AB")
    assert registry.sha256(FILE) == "ab"
    registry.put_facts(FILE, {})
    assert registry.sha256(FILE) == "ab"
    assert registry.sha256(FileIdentity(FILE.path, 101, FILE.mtime_ns)) is None
    registry.put_sha256(FileIdentity(FILE.path, 101, FILE.mtime_ns), "cd")
    assert registry.sha256(FILE) is None


def test_a_hash_outlives_new_facts_of_the_same_file_and_not_those_of_a_changed_one(
    registry: Registry,
) -> None:
    registry.put_facts(FILE, {})
    registry.put_sha256(FILE, "ab")
    registry.put_facts(FILE, {"more": 1})
    assert registry.sha256(FILE) == "ab"
    changed = FileIdentity(FILE.path, 101, FILE.mtime_ns)
    registry.put_facts(changed, {})
    assert registry.sha256(changed) is None
    assert registry.find_by_sha256("ab") == []


def test_files_are_found_by_measured_and_by_registered_hash(registry: Registry, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("measured", "twin", "other")]
    for path in paths:
        path.write_bytes(b"weights")
    file = FileIdentity.of(paths[0])
    registry.put_facts(file, {})
    registry.put_sha256(file, "ab" * 32)
    registry.put(info("same", file_path=paths[0], sha256="AB" * 32))
    registry.put(info("twin", file_path=paths[1], sha256="aB" * 32))
    registry.put(info("other", file_path=paths[2], sha256="cd" * 32))
    registry.put(info("unknown"))
    assert registry.find_by_sha256("ab" * 32) == [str(paths[0]), str(paths[1])]
    assert registry.find_by_sha256("ef" * 32) == []


def test_a_figure_that_is_no_number_does_not_spoil_the_search_for_a_hash(registry: Registry) -> None:
    registry.put(info("odd", min_vram_gb=float("nan")))
    registry.put(info("wan", sha256="ab"))
    assert registry.find_by_sha256("ab") == [whole("/models/wan-1.0.0.safetensors")]


def test_files_are_listed_by_path_and_may_be_forgotten(registry: Registry) -> None:
    files = [FileIdentity(Path(f"/models/{name}"), 1, 1) for name in "cab"]
    for file in files:
        registry.put_facts(file, {"name": file.path.name})
    assert [file.path.name for file, _ in registry.known_files()] == ["a", "b", "c"]
    registry.forget_files([str(files[0].path), str(files[1].path), "/models/never seen"])
    assert [facts for _, facts in registry.known_files()] == [{"name": "b"}]
    registry.forget_files([])
    assert len(registry.known_files()) == 1


# Where it is kept


def test_what_people_said_outlives_the_process_that_heard_it(path: Path) -> None:
    first = Registry(file_url(path))
    first.put(info(version="1.0.0"))
    first.put(info(version="2.0.0"))
    first.set_active_version("wan", "2.0.0")
    first.put_facts(FILE, {"role": "vae"})
    first.close()
    second = Registry(file_url(path))
    assert second.versions("wan") == ["1.0.0", "2.0.0"]
    assert second.get("wan") == info(version="2.0.0")
    assert second.facts(FILE) == {"role": "vae"}
    second.close()


def test_a_closed_registry_opens_again(path: Path) -> None:
    registry = Registry(file_url(path))
    registry.put(info())
    registry.close()
    registry.close()
    assert registry.get("wan") == info()
    registry.close()


def test_a_registry_in_memory_ends_with_its_connection() -> None:
    registry = Registry()
    registry.put(info())
    assert Registry().names() == []
    registry.close()
    assert registry.names() == []


def test_nothing_is_opened_before_it_is_needed(path: Path) -> None:
    registry = Registry(file_url(path))
    assert not path.exists()
    registry.names()
    assert path.exists()
    registry.close()


def test_missing_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b ü" / "registry.sqlite"
    registry = Registry(file_url(path))
    registry.put(info())
    registry.close()
    assert path.exists()


def test_a_folder_may_be_named_from_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    registry = Registry("sqlite:///~/registry.sqlite")
    registry.put(info())
    registry.close()
    assert (tmp_path / "registry.sqlite").exists()


@pytest.mark.parametrize(
    "name",
    [
        "two words",
        "ümlaut 模",
        "50%",
        "100%41",
        "a#b",
        "a&b=c",
        "a+b",
        pytest.param("what?", marks=pytest.mark.skipif(os.name == "nt", reason="no such name there")),
    ],
)
def test_the_registry_is_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = tmp_path / name / "registry.sqlite"
    monkeypatch.setenv("MANAGED_MODELS_DB", str(path))
    url = registry_url(tmp_path / "default.sqlite")
    assert database_path(url) == path
    registry = Registry(url)
    registry.put(info())
    registry.close()
    assert path.exists()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite:///"])
def test_addresses_in_memory(url: str) -> None:
    assert database_path(url) is None


@pytest.mark.parametrize("url", ["postgresql://localhost/models", "mysql://x", "registry.sqlite", "", "://"])
def test_an_address_that_is_no_sqlite_one(url: str) -> None:
    with pytest.raises(BadInput) as caught:
        Registry(url)
    assert repr(url) in caught.value.message
    assert "sqlite:///path/to/file.db" in caught.value.remedy


# Several at once


def test_two_registries_on_one_file_see_each_other(path: Path) -> None:
    first, second = Registry(file_url(path)), Registry(file_url(path))
    first.put(info("a"))
    assert second.names() == ["a"]
    second.put(info("b"))
    assert first.names() == ["a", "b"]
    first.close()
    assert second.remove("a") is True
    second.close()


def in_threads(work: Callable[[int], None], count: int) -> None:
    """Run ``work`` in threads that begin together."""
    barrier = threading.Barrier(count)

    def begin(number: int) -> None:
        barrier.wait()
        work(number)

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(begin, range(count)))


def test_no_write_of_many_threads_is_lost(registry: Registry) -> None:
    def work(thread: int) -> None:
        for i in range(10):
            registry.put(info("shared", f"{thread}.{i}.0"))
            registry.put(info(f"own-{thread}-{i}"))
            registry.put_facts(FileIdentity(Path(f"/m/{thread}/{i}"), i, thread), {"thread": thread})
            assert registry.get(f"own-{thread}-{i}") is not None

    in_threads(work, 6)
    assert len(registry.versions("shared")) == 60
    assert len(registry.names()) == 61
    assert len(registry.known_files()) == 60


def test_no_write_of_two_registries_is_lost(path: Path) -> None:
    registries = [Registry(file_url(path)) for _ in range(2)]
    registries[0].names()

    def work(number: int) -> None:
        for i in range(30):
            registries[number].put(info("shared", f"{number}.{i}.0"))

    in_threads(work, 2)
    assert len(registries[0].versions("shared")) == 60
    assert registries[0].versions("shared") == registries[1].versions("shared")
    for registry in registries:
        registry.close()


_IN_ANOTHER_PROCESS = f"""
import importlib.util, os, sys
spec = importlib.util.spec_from_file_location("managed_models", {str(ROOT / "__init__.py")!r})
module = sys.modules["managed_models"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
from pathlib import Path
from managed_models.manager.model import ModelInfo, ModelType
from managed_models.manager.registry import Peak, PeakKey, Registry
"""


def process(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _IN_ANOTHER_PROCESS + code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_no_write_of_two_processes_is_lost(path: Path) -> None:
    registry = Registry(file_url(path))
    registry.names()
    code = """
registry = Registry(sys.argv[1])
registry.names()
print("ready", flush=True)
sys.stdin.readline()
for i in range(40):
    registry.put(ModelInfo("shared", ModelType.VAE, Path("x"), version=f"{sys.argv[2]}.{i}"))
    registry.put(ModelInfo(f"{sys.argv[2]}-{i}", ModelType.VAE, Path("x")))
"""
    processes = [process(code, file_url(path), str(n)) for n in range(2)]
    for child in processes:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in processes:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    assert [(child.communicate()[1], child.returncode) for child in processes] == [("", 0), ("", 0)]
    assert len(registry.versions("shared")) == 80
    assert len(registry.names()) == 81
    registry.close()


def test_opening_waits_for_another_process_that_is_making_the_database(path: Path) -> None:
    """As when ComfyUI and the command line start together on a machine that has no registry yet."""
    with FileLock(f"{path}.lock"):
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("CREATE TABLE half_made (id INTEGER)")
        other.execute("BEGIN IMMEDIATE")
        results: list[object] = []

        def open_now() -> None:
            registry = Registry(file_url(path))
            try:
                registry.put(info())
                results.append(registry.names())
            except Exception as error:
                results.append(error)
            registry.close()

        opening = threading.Thread(target=open_now)
        opening.start()
        opening.join(0.3)  # meets the database as it is being written
        other.execute("COMMIT")
        other.close()
    opening.join()
    assert results == [["wan"]]


def test_a_database_that_another_process_keeps_writing_to(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_BUSY_MILLISECONDS", 20)
    registry = Registry(file_url(path))
    registry.names()
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    with pytest.raises(FileError, match="is in use: another process") as caught:
        registry.put(info())
    assert "damaged" not in str(caught.value)
    writer.execute("ROLLBACK")
    writer.close()
    registry.put(info())
    assert registry.names() == ["wan"]
    registry.close()


# Databases that are no good


def test_a_file_that_is_no_database(path: Path) -> None:
    path.write_bytes(b"this is a text and no database at all" * 100)
    with pytest.raises(FileError) as caught:
        Registry(file_url(path)).names()
    error = caught.value
    assert error.code == "file_error"
    assert f"The registry {path} cannot be opened: file is not a database." in error.message
    assert "move it away" in error.remedy
    assert path.read_bytes().startswith(b"this is a text")  # not ours to remove


def test_a_folder_in_the_place_of_the_database(path: Path) -> None:
    path.mkdir()
    with pytest.raises(FileError, match="cannot be opened"):
        Registry(file_url(path)).names()


def test_a_file_in_the_place_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileError, match="cannot be opened"):
        Registry(file_url(tmp_path / "file" / "registry.sqlite")).names()


def damage(path: Path) -> None:
    """Fill the page that holds the models with noise, and leave the rest as it is."""
    registry = Registry(file_url(path))
    registry.put(info())
    registry.close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    roots = dict(connection.execute("SELECT name, rootpage FROM sqlite_master"))
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    connection.close()
    with open(path, "r+b") as file:
        for table in ("models", "versions", "sqlite_autoindex_models_1"):
            file.seek((roots[table] - 1) * size)
            file.write(b"\xff" * size)


@pytest.mark.parametrize(
    "use",
    [Registry.names, lambda r: r.get("wan"), lambda r: r.put(info("flux")), Registry.active_by_path],
    ids=["names", "get", "put", "active_by_path"],
)
def test_a_database_that_is_damaged_inside(path: Path, use: Callable[[Registry], object]) -> None:
    damage(path)
    registry = Registry(file_url(path))
    with pytest.raises(ManagedModelsError) as caught:
        use(registry)
    assert str(path) in caught.value.message
    assert caught.value.remedy
    registry.close()


def newer(path: Path) -> None:
    registry = Registry(file_url(path))
    registry.put(info())
    registry.close()
    connection = sqlite3.connect(path)
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    connection.close()


def test_a_database_of_a_newer_version_is_refused_and_left_alone(path: Path) -> None:
    newer(path)
    with pytest.raises(FileError, match="was made by a newer version") as caught:
        Registry(file_url(path)).names()
    assert str(path) in caught.value.message
    assert "MANAGED_MODELS_DB" in caught.value.remedy
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [("9999",)]
    assert connection.execute("SELECT name FROM models").fetchall() == [("wan",)]
    connection.close()


def test_a_run_that_was_killed_while_it_made_the_database(path: Path) -> None:
    killed = process(
        """
from alembic.operations import Operations
Operations.create_index = lambda *args, **options: os._exit(9)
Registry(sys.argv[1]).names()
""",
        file_url(path),
    )
    killed.communicate()
    assert killed.returncode == 9
    assert path.exists()
    registry = Registry(file_url(path))
    registry.put(info())
    assert registry.names() == ["wan"]
    registry.close()


def text_instead(path: Path) -> None:
    path.write_bytes(b"no database" * 100)


@pytest.mark.parametrize("spoil", [text_instead, newer, Path.mkdir, damage])
def test_with_a_fallback_a_broken_registry_stops_nothing(
    path: Path, caplog: pytest.LogCaptureFixture, spoil: Callable[[Path], None]
) -> None:
    spoil(path)
    registry = Registry(file_url(path), fall_back=True)
    with caplog.at_level(logging.WARNING, logger="managed_models.registry"):
        registry.put(info())
        registry.put_facts(FILE, {"role": "vae"})
        assert registry.names() == ["wan"]
        assert registry.facts(FILE) == {"role": "vae"}
    (record,) = caplog.records  # said once
    assert record.levelname == "WARNING"
    assert str(path) in record.getMessage()
    assert "nothing that you register is kept" in record.getMessage()
    in_threads(lambda n: registry.put(info(f"model-{n}")), 4)
    assert len(registry.names()) == 5
    registry.close()


def test_with_a_fallback_a_good_registry_is_used(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    registry = Registry(file_url(path), fall_back=True)
    registry.put(info())
    registry.close()
    assert caplog.records == []
    again = Registry(file_url(path))
    assert again.names() == ["wan"]
    again.close()


def test_what_is_kept_is_plain_json(path: Path) -> None:
    registry = Registry(file_url(path))
    registry.put(info(tags=["é"]))
    registry.close()
    connection = sqlite3.connect(path)
    (text,) = connection.execute("SELECT info FROM versions").fetchone()
    connection.close()
    assert ModelInfo.from_dict(json.loads(text)) == info(tags=["é"])


# What prompts took

WAN = FileIdentity(Path("/models/wan.safetensors"), 10, 20)
KEY = PeakKey(WAN, "static, 10 bytes", "1x16x21x60x104", "RTX 3060", "0.33.0", "2.11.0")


def test_peaks_come_back(registry: Registry) -> None:
    assert registry.peaks(WAN) == []
    registry.put_peak(KEY, 9 * 2**30, 2**40)
    (peak,) = registry.peaks(WAN)
    assert peak == Peak(KEY, 9 * 2**30, 2**40, 1, peak.seen_at)
    assert peak.seen_at > 0


@given(seen=st.lists(st.tuples(*[st.one_of(st.none(), st.integers(0, 2**50))] * 2), min_size=1, max_size=6))
@settings(deadline=None, max_examples=30)
def test_the_most_of_all_is_kept(seen: list[tuple[int | None, int | None]]) -> None:
    registry = Registry()
    for vram, ram in seen:
        registry.put_peak(KEY, vram, ram)
    (peak,) = registry.peaks(WAN)
    for found, values in ((peak.vram_bytes, [v for v, _ in seen]), (peak.ram_bytes, [r for _, r in seen])):
        assert found == max((value for value in values if value is not None), default=None)
    assert peak.count == len(seen)
    registry.close()


@pytest.mark.parametrize("part", ["options", "shape", "device", "comfyui_version", "torch_version"])
def test_peaks_of_another_kind_are_kept_apart(registry: Registry, part: str) -> None:
    other = replace(KEY, **{part: "another"})
    registry.put_peak(KEY, 1, 1)
    registry.put_peak(other, 2, 2)
    assert {(p.key, p.vram_bytes) for p in registry.peaks(WAN)} == {(KEY, 1), (other, 2)}
    assert registry.peaks(WAN)[0].key == other, "the last seen comes first"


def test_a_file_that_changed_loses_its_peaks(registry: Registry) -> None:
    changed, flux = replace(WAN, mtime_ns=21), replace(WAN, path=Path("/models/flux.safetensors"))
    registry.put_peak(KEY, 1, 1)
    registry.put_peak(replace(KEY, file=flux), 1, 1)
    assert registry.peaks(changed) == []
    registry.put_peak(replace(KEY, file=changed), 2, 2)
    assert registry.peaks(WAN) == []
    assert [p.vram_bytes for p in registry.peaks(changed)] == [2]
    assert len(registry.peaks(flux)) == 1
