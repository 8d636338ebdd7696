"""The commands about files and what people said: list, verify, duplicates, pin, export, import."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from managed_models.manager import AdvancedModelManager, ModelInfo, ModelManagerConfig, ModelType
from managed_models.manager.cli.app import app
from managed_models.manager.config import registry_url
from managed_models.manager.local_host import LocalHost
from support.files import raw_file, shapes_file
from support.routes import serving_routes
from typer.testing import CliRunner

LORA = {"a.lora_down.weight": (4, 4)}


def run(*arguments: object, code: int = 0) -> str:
    """Run one command in this process and return what it printed."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == code, done.output
    return done.stdout


def good(*arguments: object, code: int = 0) -> Any:
    return json.loads(run(*arguments, "--json", code=code))


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    (folder / "loras").mkdir(parents=True)
    for number in range(3):
        shapes_file(folder / "loras" / f"ink_{number}.safetensors", LORA, metadata={"n": str(number)})
    return folder


@pytest.fixture
def ink(models: Path) -> Path:
    return models / "loras" / "ink_1.safetensors"


def manager() -> AdvancedModelManager:
    """The manager of the commands' registry."""
    return AdvancedModelManager(ModelManagerConfig(database_url=registry_url(Path("unused"))))


def test_list_finds_words_and_folders(models: Path, ink: Path) -> None:
    good("scan", models)
    manager().register_model(ModelInfo("drawing", ModelType.LORA, ink, tags=["pen"]))
    for arguments, files, registered in (
        (["ink_2"], ["ink_2.safetensors"], []),
        (["pen"], [ink.name], ["drawing"]),
        (["lora ink", "--folder", "loras"], [f"ink_{n}.safetensors" for n in range(3)], []),
        (["--folder", "vae"], [], []),
        (["nothing"], [], []),
    ):
        found = good("list", *arguments)
        assert [row["name"] for row in found["files"]] == files
        assert [row["name"] for row in found["models"]] == registered
    assert run("list", "nothing") == "Nothing that is known fits.\n"


def test_what_verify_found_is_kept_and_shown(models: Path, ink: Path) -> None:
    raw_file(models / "loras" / "cut.safetensors", '{"a": ')
    good("scan", models)
    found = good("verify", code=1)
    assert {Path(row["path"]).name: row["ok"] for row in found["results"]} == {
        "cut.safetensors": False,
        "ink_0.safetensors": True,
        "ink_1.safetensors": True,
        "ink_2.safetensors": True,
    }
    assert "4 files verified, 1 damaged." in run("verify", code=1)
    assert {row["name"]: row["health"] for row in good("list")["files"]} == {
        f"ink_{n}.safetensors": "good" for n in range(3)
    }
    details = good("show", ink)
    assert details["health"]["ok"] is True
    assert len(details["sha256"]) == 64
    assert "  Verified: nothing wrong, on " in run("show", ink)
    times = ink.stat()
    ink.write_bytes(ink.read_bytes()[:-1] + b"\1")
    os.utime(ink, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert "and " in run("verify", ink, code=1)
    assert {row["name"]: row["health"] for row in good("list")["files"]}[ink.name] == "damaged"
    assert [f["code"] for f in good("check", ink, code=1)["findings"]].count("corrupt") == 1


def test_verify_quick_reads_headers_alone(models: Path, ink: Path) -> None:
    assert good("verify", ink, "--quick")["results"][0]["sha256"] is None
    assert run("verify", ink, "--quick") == f"{ink.name}: whole (checked: header)\n"


def test_duplicates_of_folders_and_of_what_is_known(models: Path, ink: Path) -> None:
    shutil.copy(ink, models / "loras" / "twin.safetensors")
    quick = good("duplicates", models, "--quick")
    assert [group["proved"] for group in quick["groups"]] == [False]
    assert "may be wasted" in run("duplicates", models, "--quick")
    found = good("duplicates", models)
    assert [group["paths"] for group in found["groups"]] == [
        [str(ink), str(models / "loras" / "twin.safetensors")]
    ]
    assert found["wasted_bytes"] == ink.stat().st_size
    assert good("duplicates")["files"] == 0
    good("scan", models)
    assert good("duplicates")["groups"] == found["groups"]
    assert run("duplicates").startswith("The same, ")


@pytest.mark.skipif(os.name == "nt", reason="such names are refused there")
def test_names_cannot_move_the_cursor(models: Path, ink: Path) -> None:
    evil = models / "loras" / "a\x1b[2J\nb.safetensors"
    shutil.copy(ink, evil)
    texts = [run("scan", models), run("verify", evil), run("duplicates", models)]
    evil.unlink()
    texts.append(run("scan", models))
    assert all("\x1b" not in text for text in texts)
    assert "Missing: " in texts[-1]


def test_pin_is_remembered_for_the_next_start(models: Path, ink: Path) -> None:
    assert run("pin", ink) == "ink_1 is pinned: once it is loaded, it stays in memory.\n"
    assert manager().registry.pins() == [ink]
    assert good("pin", ink, "--off") == {"title": "ink_1", "pinned": False, "in_memory": False}
    assert manager().registry.pins() == []
    assert good("pin", models / "gone.safetensors", code=1)["error"]["code"] == "model_not_found"


def test_export_and_import(models: Path, ink: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = manager()
    here.register_model(ModelInfo("ink", ModelType.LORA, ink, version="1.0", tags=["pen"]))
    here.register_model(ModelInfo("ink", ModelType.LORA, ink, version="2.0"))
    here.set_active_version("ink", "2.0")
    here.registry.put_pin(ink, True)
    file = tmp_path / "said.json"
    assert run("export", file) == f"Wrote {file}: 1 model, 2 versions, 1 pin, 0 sources.\n"
    assert good("export", file, code=1)["error"]["code"] == "output_exists"
    assert good("export", file, "--overwrite")["versions"] == 2
    assert run("import", file) == "Nothing new; 4 known already.\n"
    monkeypatch.setenv("MANAGED_MODELS_DB", str(tmp_path / "other.sqlite"))
    assert run("import", file) == "Read in: 2 versions, 1 pin; 0 known already.\n"
    assert manager().registry.said() == here.registry.said()
    manager().set_active_version("ink", "1.0")
    found = good("import", file)
    assert found["conflicts"] == [{"what": "active version of ink", "here": "1.0", "there": "2.0"}]
    assert "Use --replace to believe the document." in run("import", file)
    good("import", file, "--replace")
    assert manager().get_model_version("ink") == "2.0"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ('{"format": "managed-models", "format_version": 9}', "bad_input"),
        ("no", "bad_input"),
        (None, "file_error"),
    ],
)
def test_what_cannot_be_imported_changes_nothing(tmp_path: Path, content: str | None, code: str) -> None:
    file = tmp_path / "said.json"
    if content is not None:
        file.write_text(content)
    before = manager().registry.said()
    assert good("import", file, code=1)["error"]["code"] == code
    assert manager().registry.said() == before


def test_a_running_comfyui_verifies_in_the_background(models: Path) -> None:
    there = AdvancedModelManager(ModelManagerConfig(model_roots=[models]), LocalHost([models]))
    with serving_routes(there) as server:
        assert good("verify", "ink_1.safetensors", "--server", server)["details"]["total"] == 1
        while there.verifier.state()["running"]:
            time.sleep(0.01)
        assert run("verify", "--server", server).startswith(("Verifying: ", "3 of 3 files verified"))
    there.close()
