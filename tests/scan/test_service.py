"""Scans of real folders: what they find, what follows a moved file, and what a kill costs."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from managed_models.manager import AdvancedModelManager, ModelInfo, ModelManagerConfig, ModelType
from managed_models.manager.errors import Cancelled
from managed_models.manager.files import FileIdentity
from managed_models.manager.host import ModelFolder
from managed_models.manager.local_host import LocalHost
from managed_models.manager.registry import PeakKey, Registry, Source, Usage
from managed_models.manager.scan import Scanner
from managed_models.manager.scan.service import ScanResult
from managed_models.manager.scan.walk import walk
from support.files import raw_file, shapes_file
from support.permissions import nobody

ROOT = Path(__file__).resolve().parents[2]
LORA = {"a.lora_down.weight": (4, 4), "a.lora_up.weight": (4, 4)}
DIGEST = "ab" * 32


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("loras", "vae"):
        (tmp_path / "models" / name).mkdir(parents=True)
    return tmp_path / "models"


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    found = Registry(f"sqlite:///{tmp_path / 'registry.sqlite'}")
    yield found
    found.close()


def lora(path: Path, number: int = 0) -> Path:
    """Write a small LoRA whose bytes and header tell its number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return shapes_file(path, LORA, metadata={"number": f"{number:05d}"})


def scan(root: Path, registry: Registry, **options: bool) -> ScanResult:
    return Scanner(LocalHost([root]), registry).scan(**options)


def test_a_first_scan_records_what_every_file_is(root: Path, registry: Registry) -> None:
    path = lora(root / "loras" / "ink" / "a.safetensors")
    result = scan(root, registry)
    assert result.added == result.paths == [str(path)]
    row = registry.rows_of([str(path)])[str(path)]
    assert (row.folder, row.name) == ("loras", os.path.join("ink", "a.safetensors"))
    assert row.identity is not None
    assert row.identity["role"] == "lora"
    assert registry.facts(FileIdentity.of(path)) == row.identity


def test_a_rescan_opens_no_unchanged_file(root: Path, registry: Registry) -> None:
    path = lora(root / "loras" / "a.safetensors")
    scan(root, registry)
    times = path.stat()
    path.write_bytes(bytes(times.st_size))  # which a look inside would notice
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    result = scan(root, registry)
    assert (result.unchanged, result.changed, result.broken) == (1, [], [])


def test_a_changed_file_is_read_again_and_loses_its_hash(root: Path, registry: Registry) -> None:
    path = lora(root / "loras" / "a.safetensors")
    scan(root, registry)
    before = FileIdentity.of(path)
    registry.put_sha256(before, DIGEST)
    registry.put_health(before, {"ok": False})
    shapes_file(path, {"decoder.conv_in.weight": (4, 4)})
    result = scan(root, registry)
    assert (result.changed, result.added, result.unchanged) == ([str(path)], [], 0)
    facts = registry.facts(FileIdentity.of(path))
    assert facts is not None
    assert facts["role"] == "vae"
    assert registry.find_by_sha256(DIGEST) == []
    assert registry.known_sha256() == {}
    assert registry.unhealthy() == []


def test_what_is_broken_is_recorded_with_its_reason(root: Path, registry: Registry) -> None:
    path = raw_file(root / "loras" / "cut.safetensors", '{"a": ')
    (root / "vae" / "old.ckpt").write_bytes(b"PK\x03\x04" + bytes(60))
    result = scan(root, registry)
    assert [row.problem["code"] for row in result.broken if row.problem] == [
        "not_safetensors",
        "invalid_header",
    ]
    row = registry.rows_of([str(path)])[str(path)]
    assert row.identity is None
    assert row.problem is not None
    assert "cut.safetensors" in row.problem["message"]
    assert scan(root, registry).broken == []  # it is not read again
    assert registry.known_files() == []
    lora(path)
    result = scan(root, registry)
    assert (result.changed, result.broken) == ([str(path)], [])


def remember(registry: Registry, path: Path) -> None:
    """Let the registry know everything about a file that it can."""
    file = FileIdentity.of(path)
    registry.put_sha256(file, DIGEST)
    registry.put_health(file, {"ok": True, "checked": ["header"]})
    registry.put_source(file, Source("https://example.org/a", DIGEST, fetched_at=5.0))
    registry.put_variant(file, "int8", "source.safetensors", "cd" * 32)
    registry.put_pin(path, True)
    registry.touch(file)
    registry.put_peak(PeakKey(file, "", "1x16", "cpu", "0.33", "2.14"), None, 5)
    registry.put(ModelInfo("ink", ModelType.LORA, path, version="2.0", tags=["pen"]))


def knows(registry: Registry, path: Path) -> list[bool]:
    """Tell which of these the registry knows of a file."""
    file = FileIdentity.of(path)
    info = registry.active_by_path().get(str(path))
    usage = registry.usage(file)
    return [
        registry.sha256(file) == DIGEST,
        registry.find_by_sha256(DIGEST) == [str(path)],
        (registry.health(file) or {}).get("ok") is True,
        registry.source(file) == Source("https://example.org/a", DIGEST, fetched_at=5.0),
        [v.path for v in registry.variants_of("cd" * 32)] == [path],
        registry.pins() == [path],
        usage is not None and usage.times == 1,
        len(registry.peaks(file)) == 1,
        info is not None and (info.name, info.file_path) == ("ink", path),
        [row.path for row in registry.search("pen").rows] == [path],
        registry.facts(file) is not None,
    ]


@pytest.mark.parametrize("target", ["loras/b.safetensors", "vae/deep/a.safetensors"])
def test_everything_follows_a_moved_file(root: Path, registry: Registry, target: str) -> None:
    path = lora(root / "loras" / "a.safetensors")
    scan(root, registry)
    remember(registry, path)
    assert all(knows(registry, path))
    new = root / target
    new.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(path, new)
    result = scan(root, registry)
    assert result.moved == [(str(path), str(new))]
    assert (result.added, result.missing, result.changed) == ([], [], [])
    assert all(knows(registry, new))
    row = registry.rows_of([str(new)])[str(new)]
    assert (row.folder, row.name) == (target.split("/")[0], os.path.join(*target.split("/")[1:]))
    assert scan(root, registry).unchanged == 1


def test_a_file_that_was_used_before_the_scan_still_gets_its_history(root: Path, registry: Registry) -> None:
    """As when it is moved, loaded in ComfyUI, and scanned only then."""
    path = lora(root / "loras" / "a.safetensors")
    scan(root, registry)
    remember(registry, path)
    new = root / "loras" / "b.safetensors"
    shutil.move(path, new)
    facts = registry.facts(FileIdentity(path, new.stat().st_size, new.stat().st_mtime_ns))
    assert facts is not None
    registry.put_facts(FileIdentity.of(new), facts)
    registry.touch(FileIdentity.of(new))
    assert scan(root, registry).moved == [(str(path), str(new))]
    usage = registry.usage(FileIdentity.of(new))
    assert usage is not None
    assert usage.times == 2


def test_a_move_between_scanned_folders_is_seen_from_one_of_them(
    root: Path, registry: Registry, tmp_path: Path
) -> None:
    path = lora(root / "loras" / "a.safetensors")
    scan(root, registry)
    remember(registry, path)
    other = tmp_path / "other"
    other.mkdir()
    new = other / "a.safetensors"
    shutil.move(path, new)
    assert scan(other, registry).moved == [(str(path), str(new))]
    assert all(knows(registry, new))


def test_a_copy_takes_nothing_with_it(root: Path, registry: Registry) -> None:
    path = lora(root / "loras" / "a.safetensors")
    scan(root, registry)
    remember(registry, path)
    copy = root / "loras" / "b.safetensors"
    shutil.copy2(path, copy)  # the same time, too
    result = scan(root, registry)
    assert (result.moved, result.added, result.ambiguous) == ([], [str(copy)], [])
    assert all(knows(registry, path))


def test_two_equal_copies_are_not_guessed_and_nothing_is_lost(root: Path, registry: Registry) -> None:
    path = lora(root / "loras" / "a.safetensors")
    scan(root, registry)
    remember(registry, path)
    for name in ("b", "c"):
        shutil.copy2(path, root / "loras" / f"{name}.safetensors")
    path.unlink()
    result = scan(root, registry)
    assert (result.moved, result.missing) == ([], [str(path)])
    assert [Path(p).name for p in result.ambiguous] == ["b.safetensors", "c.safetensors"]
    assert registry.pins() == [path]


def test_a_vanished_file_is_kept_marked_and_comes_back(root: Path, registry: Registry) -> None:
    path = lora(root / "loras" / "a.safetensors")
    lora(root / "loras" / "b.safetensors", 1)
    scan(root, registry)
    remember(registry, path)
    aside = root.parent / "aside"
    shutil.move(path, aside)
    assert scan(root, registry).missing == [str(path)]
    assert [row.path for row in registry.search("").rows] == [root / "loras" / "b.safetensors"]
    assert registry.missing_files() == [FileIdentity(path, aside.stat().st_size, aside.stat().st_mtime_ns)]
    assert scan(root, registry).missing == []
    shutil.move(aside, path)
    result = scan(root, registry)
    assert (result.back, result.added) == ([str(path)], [])
    assert all(knows(registry, path))
    assert registry.missing_files() == []


def test_a_missing_file_that_turns_up_elsewhere_has_moved(
    root: Path, registry: Registry, tmp_path: Path
) -> None:
    path = lora(root / "loras" / "a.safetensors")
    scan(root, registry)
    remember(registry, path)
    shutil.move(path, tmp_path / "aside")
    assert scan(root, registry).missing == [str(path)]
    new = root / "vae" / "b.safetensors"
    shutil.move(tmp_path / "aside", new)
    result = scan(root, registry)
    assert (result.moved, result.added) == ([(str(path), str(new))], [])
    assert all(knows(registry, new))
    assert registry.missing_files() == []


def test_missing_files_are_forgotten_when_asked_and_registrations_stay(
    root: Path, registry: Registry
) -> None:
    path = lora(root / "loras" / "a.safetensors")
    scan(root, registry)
    remember(registry, path)
    file = FileIdentity.of(path)
    path.unlink()
    assert scan(root, registry, forget_missing=True).forgotten == [str(path)]
    assert registry.sha256(file) is None
    assert registry.usage(file) is None
    assert registry.pins() == []
    assert registry.names() == ["ink"]


def test_a_folder_that_is_not_there_makes_nothing_vanish(root: Path, registry: Registry) -> None:
    path = lora(root / "loras" / "a.safetensors")
    host = LocalHost([ModelFolder("loras", root / "loras"), ModelFolder("vae", root / "vae")])
    Scanner(host, registry).scan()
    shutil.move(root / "loras", root.parent / "unplugged")
    result = Scanner(host, registry).scan(forget_missing=True)
    assert (result.missing, result.forgotten) == ([], [])
    assert list(result.held) == [str(path)]
    assert "is not there" in result.held[str(path)]
    shutil.move(root.parent / "unplugged", root / "loras")
    assert Scanner(host, registry).scan().unchanged == 1


def test_an_empty_mount_point_makes_nothing_vanish(root: Path, registry: Registry) -> None:
    """The folder is there, and its files were on another device."""
    path = lora(root / "loras" / "nas" / "a.safetensors")
    scan(root, registry)
    with sqlite3.connect(str(registry.url).removeprefix("sqlite:///")) as db:
        db.execute("UPDATE files SET node = '99999:1'")
    db.close()
    path.unlink()
    result = scan(root, registry, forget_missing=True)
    assert (result.missing, result.forgotten) == ([], [])
    assert "not be mounted" in result.held[str(path)]


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_a_link_that_leads_nowhere_now_is_held(root: Path, registry: Registry, tmp_path: Path) -> None:
    target = lora(tmp_path / "nas" / "a.safetensors")
    link = root / "loras" / "a.safetensors"
    link.symlink_to(target)
    scan(root, registry)
    shutil.move(target.parent, tmp_path / "unplugged")
    result = scan(root, registry)
    assert result.missing == []
    assert "leads nowhere" in result.held[str(link)]


@pytest.mark.skipif(os.name == "nt", reason="permissions work differently there")
def test_a_folder_that_may_not_be_listed_fails_alone(root: Path) -> None:
    path = lora(root / "loras" / "shut" / "a.safetensors")
    lora(root / "loras" / "b.safetensors")
    for folder in (root, *root.parents):
        if folder.stat().st_uid == os.getuid():
            folder.chmod(folder.stat().st_mode | 0o055)
    path.parent.chmod(0)
    try:
        with nobody():
            tree = walk(LocalHost([root]))
    finally:
        path.parent.chmod(0o755)
    assert tree.failed == {str(path.parent): "Permission denied"}
    assert [file.name for file in tree.seen] == ["b.safetensors"]


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_linked_folders_are_followed_once(root: Path, registry: Registry) -> None:
    lora(root / "loras" / "a.safetensors")
    (root / "loras" / "round").symlink_to(root / "loras", target_is_directory=True)
    assert len(scan(root, registry).paths) == 1


def test_a_model_folder_within_another_lists_its_files_itself(root: Path, registry: Registry) -> None:
    path = lora(root / "loras" / "a.safetensors")
    host = LocalHost([ModelFolder("checkpoints", root), ModelFolder("loras", root / "loras")])
    Scanner(host, registry).scan()
    assert registry.rows_of([str(path)])[str(path)].folder == "loras"


def test_a_folder_that_two_types_share_asks_the_host_whose_a_file_is(root: Path) -> None:
    """As with GGUF files in ComfyUI, which lists them under a type of their own."""
    lora(root / "loras" / "a.safetensors")
    (root / "loras" / "b.gguf").write_bytes(b"GGUF")
    (root / "loras" / "c.bin").write_bytes(b"nobody lists this one")

    class Shared(LocalHost):
        def folders(self) -> list[ModelFolder]:
            return [ModelFolder("loras", root / "loras"), ModelFolder("gguf", root / "loras")]

        def names(self, folder: str) -> list[str]:
            return ["a.safetensors"] if folder == "loras" else ["b.gguf"]

    seen = {file.name: file.folder for file in walk(Shared()).seen}
    assert seen == {"a.safetensors": "loras", "b.gguf": "gguf", "c.bin": "loras"}


def test_a_lost_database_is_rebuilt(root: Path, registry: Registry, tmp_path: Path) -> None:
    for number in range(5):
        lora(root / "loras" / f"{number}.safetensors", number)
    about = {"name": "wan.safetensors", "size": 1, "mtime_ns": 1}
    made = {
        "managed_models.source": json.dumps(about),
        "managed_models.recipe": json.dumps({"format": "int8"}),
        "managed_models.source_sha256": "cd" * 32,
    }
    shapes_file(root / "vae" / "made.safetensors", LORA, metadata=made)
    scan(root, registry)
    lost = Registry(f"sqlite:///{tmp_path / 'new.sqlite'}")
    assert len(scan(root, lost).added) == 6
    assert lost.known_files() == registry.known_files()
    for known in (registry, lost):
        assert [(v.path.name, v.format) for v in known.variants_of("cd" * 32)] == [
            ("made.safetensors", "int8")
        ]
    lost.close()


def test_progress_is_told_and_stopping_keeps_what_was_read(root: Path, registry: Registry) -> None:
    for number in range(600):
        lora(root / "loras" / f"{number}.safetensors", number)
    steps: list[tuple[int, int]] = []
    host = LocalHost([root])

    class Watch:
        def throw_if_cancelled(self) -> None:
            if len(steps) == 1:
                raise Cancelled("The job was stopped.")

        def progress(self, done: int, total: int) -> None:
            steps.append((done, total))

    with pytest.raises(Cancelled):
        Scanner(host, registry).scan(Watch())
    assert steps == [(256, 600)]
    assert len(registry.known_files()) == 256
    result = Scanner(host, registry).scan()
    assert (result.unchanged, len(result.added)) == (256, 344)


def test_pins_in_memory_follow_a_moved_file(root: Path) -> None:
    path = lora(root / "loras" / "a.safetensors")
    manager = AdvancedModelManager(ModelManagerConfig(model_roots=[root]))
    manager.scan()
    manager.pin_model(str(path))
    new = path.with_name("b.safetensors")
    shutil.move(path, new)
    manager.scan()
    assert manager.registry.pins() == [new]
    assert manager.pool.pinned_paths() == {new}
    manager.close()


def test_a_pin_that_is_not_written_yet_follows_too(root: Path) -> None:
    path = lora(root / "loras" / "a.safetensors")
    later: list[Callable[[], None]] = []
    manager = AdvancedModelManager(ModelManagerConfig(model_roots=[root]), defer=later.append)
    manager.scan()
    manager.pin_model(str(path))
    new = path.with_name("b.safetensors")
    shutil.move(path, new)
    manager.scan()
    for write in later:
        write()
    assert manager.registry.pins() == [new]
    manager.close()


# Several processes, and kills

_BOOT = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("managed_models", {str(ROOT / "__init__.py")!r})
module = sys.modules["managed_models"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
from pathlib import Path
from managed_models.manager.local_host import LocalHost
from managed_models.manager.model import ModelInfo, ModelType
from managed_models.manager.registry import Registry
from managed_models.manager.scan import Scanner
"""
_SCAN = _BOOT + "print(len(Scanner(LocalHost([Path(sys.argv[1])]), Registry(sys.argv[2])).scan().paths))"
_REGISTER = (
    _BOOT
    + """
registry = Registry(sys.argv[1])
number = 0
while True:
    registry.put(ModelInfo("ink", ModelType.LORA, Path(f"/m/{number}"), version=f"1.{number}"))
    registry.put_alias("ink", "newest", f"1.{number}")
    print(number, flush=True)
    number += 1
"""
)


def child(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def check_database(path: Path) -> int:
    """Return how many files are recorded, having looked at the whole database."""
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    (count,) = db.execute("SELECT count(*) FROM files WHERE identity IS NOT NULL").fetchone()
    db.close()
    return int(count)


def test_a_killed_scan_loses_nothing_and_the_next_goes_on(
    root: Path, registry: Registry, tmp_path: Path
) -> None:
    for number in range(640):
        lora(root / "loras" / f"{number}.safetensors", number)
    registry.names()
    process = child(_SCAN, str(root), registry.url)
    while not registry.records("") and process.poll() is None:
        time.sleep(0.001)
    process.kill()
    process.communicate()
    recorded = check_database(tmp_path / "registry.sqlite")
    assert recorded >= 256
    result = scan(root, registry)
    assert result.unchanged == recorded
    assert len(result.added) == 640 - recorded
    assert check_database(tmp_path / "registry.sqlite") == 640


def test_a_killed_registration_is_there_or_not_and_never_half(registry: Registry, tmp_path: Path) -> None:
    registry.names()
    process = child(_REGISTER, registry.url)
    assert process.stdout is not None
    said = [int(process.stdout.readline()) for _ in range(20)]
    process.kill()
    said += [int(line) for line in process.communicate()[0].splitlines() if line.strip()]
    check_database(tmp_path / "registry.sqlite")
    found = registry.versions("ink")
    assert found[: len(said)] == [f"1.{number}" for number in said]
    assert len(found) <= len(said) + 1
    assert registry.active_version("ink") == "1.0"
    assert registry.get("ink", found[-1]) is not None


def test_two_processes_scan_one_folder_at_once(root: Path, registry: Registry, tmp_path: Path) -> None:
    for number in range(80):
        lora(root / "loras" / f"{number}.safetensors", number)
    children = [child(_SCAN, str(root), registry.url) for _ in range(2)]
    for number in range(30):
        registry.put(ModelInfo("beside", ModelType.LORA, Path("x"), version=f"1.{number}"))
    assert [process.communicate() for process in children] == [("80\n", ""), ("80\n", "")]
    assert check_database(tmp_path / "registry.sqlite") == 80
    assert len(registry.versions("beside")) == 30
    assert scan(root, registry).unchanged == 80


def test_usage_counts(registry: Registry, root: Path) -> None:
    file = FileIdentity.of(lora(root / "loras" / "a.safetensors"))
    assert registry.usage(file) is None
    registry.touch(file)
    registry.touch_all([file, file])
    usage = registry.usage(file)
    assert isinstance(usage, Usage)
    assert usage.times == 3
    assert abs(usage.last_used_at - time.time()) < 600
