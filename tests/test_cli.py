"""The command line: one JSON object or words on stdout, the rest on stderr, and exit codes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from managed_models.manager import AdvancedModelManager, ModelInfo, ModelManagerConfig, ModelType
from managed_models.manager.cli.app import app
from managed_models.manager.config import registry_url
from managed_models.manager.demo import layouts
from managed_models.manager.demo.tiny import write_random_model
from managed_models.manager.errors import HostBusy
from managed_models.manager.host import RunningPrompt
from managed_models.manager.local_host import LocalHost
from managed_models.manager.registry import Registry
from managed_models.manager.report import render_check, render_identity, render_memory
from managed_models.manager.routes import add_routes
from managed_models.manager.units import format_bytes
from support.files import shapes_file
from support.routes import serving
from typer.testing import CliRunner

ROOT = Path(__file__).resolve().parents[1]
WAN = layouts.wan21_t2v(width=64, ffn=128, layers=1)
COMMANDS = [
    "alias",
    "check",
    "demo-model",
    "download",
    "duplicates",
    "export",
    "import",
    "list",
    "needs",
    "pair",
    "pin",
    "quantize",
    "report",
    "scan",
    "show",
    "unload",
    "upgrade",
    "verify",
    "versions",
]

# Runs this checkout in another process, as conftest.py does in this one.
BOOT = f"""
import importlib.util, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored when a shell runs us in the background
class Blocked:
    def find_spec(self, name, path=None, target=None):
        return importlib.util.spec_from_loader(name, self) if name.partition(".")[0] in BLOCKED else None
    def create_module(self, spec):
        raise ImportError(f"{{spec.name}} is blocked")
    def exec_module(self, module):
        pass
sys.meta_path.insert(0, Blocked())
spec = importlib.util.spec_from_file_location("managed_models", {str(ROOT / "__init__.py")!r})
module = sys.modules["managed_models"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
from managed_models.manager.cli import main
"""
MAIN = "main()"
# Each command line of a JSON list, one after the other, with its exit code and stdout.
MAIN_EACH = """
import contextlib, io, json
answers = []
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["managed-models", *arguments]
    with contextlib.redirect_stdout(io.StringIO()) as stdout:
        try:
            code = main()
        except SystemExit as stop:
            code = stop.code
    answers.append([code or 0, stdout.getvalue()])
print(json.dumps([answers, sorted(BLOCKED & set(sys.modules))]))
"""
HEAVY = ("torch", "comfy", "safetensors")


def boot(code: str, blocked: tuple[str, ...] = ()) -> list[str]:
    return [sys.executable, "-c", f"BLOCKED = set({list(blocked)!r})\n{BOOT}{code}"]


class Result:
    """What one command printed, and its exit code."""

    def __init__(self, code: int, stdout: str, stderr: str) -> None:
        self.code, self.stdout, self.stderr = code, stdout, stderr

    @property
    def json(self) -> Any:
        """The one JSON object of stdout."""
        assert self.stdout.endswith("\n")
        assert self.stdout.count("\n") == 1
        found = json.loads(self.stdout)
        assert isinstance(found, dict)
        return found

    @property
    def error(self) -> dict[str, Any]:
        """The error that ``--json`` shows for a failed job."""
        assert self.code == 1
        assert set(self.json) == {"error"}
        error = self.json["error"]
        assert set(error) == {"code", "message", "details"}
        assert error["message"]
        return error


def run(*arguments: object) -> Result:
    """Run one command in this process."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Result(done.exit_code, done.stdout, done.stderr)


def good(*arguments: object) -> Any:
    """Run one command with ``--json``; return the object that it prints when all is well."""
    result = run(*arguments, "--json")
    assert (result.code, result.stderr) == (0, "")
    return result.json


def register(*models: ModelInfo) -> AdvancedModelManager:
    """Register models where the command line looks."""
    manager = AdvancedModelManager(ModelManagerConfig(database_url=registry_url(Path("unused"))))
    for model in models:
        manager.register_model(model)
    return manager


def info(path: Path | str, version: str = "1.0.0", **facts: Any) -> ModelInfo:
    return ModelInfo("wan", ModelType.DIFFUSION, Path(path), version=version, **facts)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A models folder, laid out like ComfyUI's, with one small model."""
    folder = tmp_path / "ComfyUI" / "models"
    (folder / "diffusion_models").mkdir(parents=True)
    write_random_model(folder / "diffusion_models" / "wan_bf16.safetensors", WAN)
    return folder


@pytest.fixture
def wan(models: Path) -> Path:
    return models / "diffusion_models" / "wan_bf16.safetensors"


# Help and usage


def test_the_version() -> None:
    assert run("--version").stdout == "managed-models 0.1.0\n"


def test_every_command_is_tested_here() -> None:
    assert sorted(c.name or c.callback.__name__ for c in app.registered_commands if c.callback) == COMMANDS


def test_help_and_headers_need_neither_torch_nor_comfyui_nor_safetensors(wan: Path) -> None:
    lines = [["--help"], *([command, "--help"] for command in COMMANDS)]
    lines += [
        ["scan", str(wan.parents[1]), "--json"],
        ["show", str(wan)],
        ["check", str(wan), "--json"],
        ["list"],
        ["versions", "wan", "--json"],
        ["verify", str(wan)],
        ["report"],
        ["quantize", str(wan), str(wan.with_name("out.safetensors")), "--json"],
    ]
    done = subprocess.run(
        [*boot(MAIN_EACH, HEAVY), json.dumps(lines)], capture_output=True, text=True, check=True
    )
    answers, imported = json.loads(done.stdout)
    assert imported == []
    codes = [code for code, _ in answers]
    assert codes == [0] * (len(COMMANDS) + 1) + [0, 0, 0, 0, 1, 0, 0, 1]
    assert all("Usage: " in text for _, text in answers[: len(COMMANDS) + 1])
    assert all(command in answers[0][1] for command in COMMANDS)
    scan, show, check, listed, versions, _, report, quantize = (text for _, text in answers[-8:])
    assert json.loads(scan)["files"][0]["what"] == "Wan 2.1 or Wan 2.2 14B text-to-video"
    assert "Wan 2.1" in show
    assert json.loads(check)["compatible"] is True
    assert "wan_bf16.safetensors" in listed
    assert json.loads(versions)["error"]["code"] == "model_not_found"
    assert "RAM" in report
    error = json.loads(quantize)["error"]
    assert error["code"] == "not_available"
    assert "PyTorch" in error["message"]
    assert os.listdir(wan.parent) == [wan.name]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_can_answer_in_json(command: str) -> None:
    assert "--json" in run(command, "--help").stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["check"],
        ["check", "wan", "--nonsense"],
        ["check", "wan", "--width", "wide"],
        ["quantize", "only-one"],
        ["show", "a", "b"],
        ["report", "--server"],
        ["unload", "a", "b"],
        ["pin"],
        ["pin", "--server", "http://127.0.0.1:1"],
    ],
)
def test_bad_usage_is_exit_code_2_and_goes_to_stderr(arguments: list[str]) -> None:
    result = run(*arguments)
    assert (result.code, result.stdout) == (2, "")
    assert "Error" in result.stderr


# Failures

FAILURES = [
    (["scan"], "bad_input"),
    (["scan", "no-such-folder"], "model_not_found"),
    (["show", "nothing"], "model_not_found"),
    (["show", "../nothing.safetensors"], "model_not_found"),
    (["show", "."], "file_error"),
    (["show", "text.safetensors"], "not_safetensors"),
    (["show", "cut.safetensors"], "invalid_header"),
    (["show", "https://huggingface.co/x/y.safetensors"], "not_available"),
    (["check", "nothing"], "model_not_found"),
    (["check", "hf:owner/repo"], "bad_input"),
    (["check", "cut.safetensors", "--width", "20000"], "bad_input"),
    (["check", "cut.safetensors", "--height", "-1"], "bad_input"),
    (["check", "cut.safetensors", "--length", "5000"], "bad_input"),
    (["check", "cut.safetensors", "--batch-size", "0"], "bad_input"),
    (["check", "cut.safetensors", "--weight-dtype", "fp2"], "bad_input"),
    (["check", "cut.safetensors", "--clip", "t5"], "model_not_found"),
    (["check", "cut.safetensors", "--vae", "wan"], "model_not_found"),
    (["check", "cut.safetensors", "--second-model", "low"], "model_not_found"),
    (["check", "cut.safetensors", "--lora", "ink"], "model_not_found"),
    (["pair", "cut.safetensors", "nothing"], "model_not_found"),
    (["pair", "nothing", "cut.safetensors"], "model_not_found"),
    (["quantize", "nothing", "out.safetensors"], "model_not_found"),
    (["quantize", "cut.safetensors", "out.safetensors"], "invalid_header"),
    (["quantize", "cut.safetensors", "out.safetensors", "--format", "fp9"], "bad_input"),
    (["quantize", "cut.safetensors", "out.safetensors", "--policy", "some"], "bad_input"),
    (["quantize", "cut.safetensors", "out.safetensors", "--quality", "worst"], "bad_input"),
    (["quantize", "cut.safetensors", "out.safetensors", "--target-size-gb", "4"], "bad_input"),
    (["quantize", "cut.safetensors", "out.safetensors", "--max-memory-gb=-4"], "bad_input"),
    (["quantize", "cut.safetensors", "out.safetensors", "--layout", "gguf"], "bad_input"),
    (["quantize", "cut.safetensors", "out.safetensors", "--plan"], "invalid_header"),
    (["verify"], "model_not_found"),
    (["verify", "nothing"], "model_not_found"),
    (["versions", "nothing"], "model_not_found"),
    (["upgrade", "nothing"], "model_not_found"),
    (["demo-model", "here", "--kind", "sdxl"], "bad_input"),
    (["report", "--server", "nonsense"], "bad_input"),
    (["unload"], "host_required"),
    (["unload", "wan", "--vram-only"], "host_required"),
    (["unload", "--server", "nonsense"], "bad_input"),
    (["pin", "wan"], "model_not_found"),
    (["pin", "wan", "--off", "--server", "nonsense"], "bad_input"),
    (["list", "--comfyui", "nowhere"], "model_not_found"),
]


@pytest.mark.parametrize(("arguments", "code"), FAILURES, ids=[" ".join(a) for a, _ in FAILURES])
def test_a_failed_job_is_exit_code_1_with_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.safetensors").write_text("<html>log in</html>")
    Path("cut.safetensors").write_bytes(b"\x80\x00\x00\x00\x00\x00\x00\x00{")
    before = sorted(os.listdir("."))
    result = run(*arguments, "--json")
    assert result.error["code"] == code
    assert result.stderr == ""
    words = run(*arguments)
    assert (words.code, words.stdout) == (1, "")
    assert words.stderr == f"Error: {result.error['message']}\n"
    assert sorted(os.listdir(".")) == before


def test_a_registry_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "registry.sqlite"
    broken.write_bytes(b"this is no database, and longer than a header" * 100)
    monkeypatch.setenv("MANAGED_MODELS_DB", str(broken))
    assert run("list", "--json").error["code"] == "file_error"


# Scanning and listing


def test_scan_says_what_every_file_is(models: Path, wan: Path) -> None:
    (models / "loras").mkdir()
    shapes_file(models / "loras" / "ink.safetensors", {"a.lora_down.weight": (4, 4)})
    (models / "vae").mkdir()
    (models / "vae" / "old.ckpt").write_bytes(b"PK\x03\x04" + bytes(60))
    found = good("scan", models)
    assert [(row["name"], row["folder"], row["role"], row["version"]) for row in found["files"]] == [
        ("wan_bf16.safetensors", "diffusion_models", "diffusion", None),
        ("ink.safetensors", "loras", "lora", None),
    ]
    first = found["files"][0]
    assert (first["path"], first["size_bytes"], first["precision"]) == (str(wan), wan.stat().st_size, "bf16")
    assert [(row["name"], row["code"]) for row in found["unreadable"]] == [("old.ckpt", "not_safetensors")]
    words = run("scan", models)
    assert (words.code, words.stderr) == (0, "")
    assert words.stdout.startswith("2 models, 1 unreadable: nothing changed; 3 unchanged\n")
    assert "Cannot be used: old.ckpt is not a safetensors file" in words.stdout


def test_scan_shows_what_changed_and_nothing_else(models: Path, wan: Path) -> None:
    words = run("scan", models).stdout
    assert words.splitlines()[0].split() == [
        "Name",
        "Folder",
        "What",
        "it",
        "is",
        "Precision",
        "Size",
        "Version",
    ]
    assert "unknown" in words  # the version
    assert words.endswith("1 models, 0 unreadable: 1 added; 0 unchanged\n")
    (models / "vae").mkdir()
    write_random_model(models / "vae" / "other.safetensors", WAN)
    shutil.move(wan, models / "diffusion_models" / "moved.safetensors")
    found = good("scan", models)
    assert found["moved"] == [
        {"from": str(wan), "to": str(models / "diffusion_models" / "moved.safetensors")}
    ]
    assert found["added"] == [str(models / "vae" / "other.safetensors")]
    shutil.move(models / "diffusion_models" / "moved.safetensors", wan)
    words = run("scan", models).stdout
    assert f"Moved: {models / 'diffusion_models' / 'moved.safetensors'} -> {wan}\n" in words
    assert "other.safetensors" not in words


def test_scan_of_several_folders_with_a_registered_file(models: Path, wan: Path, tmp_path: Path) -> None:
    other = tmp_path / "more"
    other.mkdir()
    write_random_model(other / "wan2.safetensors", WAN)
    register(info(wan, "2.1.0"))
    found = good("scan", models, other)
    assert [(row["name"], row["version"]) for row in found["files"]] == [
        ("wan_bf16.safetensors", "2.1.0"),
        ("wan2.safetensors", None),
    ]


def test_scan_of_an_empty_folder(tmp_path: Path) -> None:
    found = good("scan", tmp_path)
    assert (found["files"], found["unreadable"], found["added"], found["count"]) == ([], [], [], 0)
    assert "0 models, 0 unreadable" in run("scan", tmp_path).stdout


def test_list_shows_what_was_registered_and_what_scans_found(models: Path, wan: Path) -> None:
    assert run("list").stdout == "Nothing is known yet. Run: managed-models scan FOLDER\n"
    assert good("list") == {"models": [], "files": []}
    register(info(wan, "2.1.0", tags=["video"]))
    good("scan", models)
    found = good("list")
    assert [(m["name"], m["version"], m["tags"]) for m in found["models"]] == [("wan", "2.1.0", ["video"])]
    assert [(f["name"], f["version"]) for f in found["files"]] == [("wan_bf16.safetensors", "2.1.0")]
    words = run("list").stdout
    assert words.splitlines()[0].split() == ["Name", "What", "it", "is", "Version", "Verified", "File"]
    assert str(wan) in words


def test_a_file_that_vanished_is_not_listed_and_forgotten_when_asked(models: Path, wan: Path) -> None:
    stays = wan.with_name("stays.safetensors")
    write_random_model(stays, WAN)
    good("scan", models)
    wan.unlink()
    assert [f["path"] for f in good("list")["files"]] == [str(stays)]
    registry = Registry(registry_url(Path("unused")))
    assert len(registry.known_files()) == 2
    assert good("scan", models)["missing"] == [str(wan)]
    assert len(registry.known_files()) == 2
    assert good("scan", models)["missing"] == []  # which was said
    assert good("scan", models, "--forget-missing")["forgotten"] == [str(wan)]
    assert [file.path for file, _ in registry.known_files()] == [stays]
    registry.close()


def test_a_scan_forgets_nothing_outside_its_folders(models: Path, wan: Path, tmp_path: Path) -> None:
    other = tmp_path / "unplugged"
    other.mkdir()
    write_random_model(other / "wan2.safetensors", WAN)
    good("scan", models, other)
    (other / "wan2.safetensors").unlink()
    good("scan", models)
    registry = Registry(registry_url(Path("unused")))
    assert len(registry.known_files()) == 2
    registry.close()


@pytest.mark.parametrize(
    "name", ["[bold]x.safetensors", "[red", "a[]b [link=x].safetensors", ":smile:.safetensors"]
)
def test_names_are_printed_as_they_are(models: Path, wan: Path, name: str) -> None:
    """What looks like the markup of the library that draws tables is no markup."""
    path = wan.with_name(name if name.endswith(".safetensors") else f"{name}.safetensors")
    wan.rename(path)
    register(ModelInfo(name, ModelType.DIFFUSION, path, version="[bold]1.0[/bold]"))
    assert path.name in run("scan", models).stdout
    listed = run("list").stdout
    assert path.name in listed
    assert "[bold]1.0[/bold]" in listed
    assert f"{name}: can be used" in run("check", name).stdout
    assert run("show", path).stdout.startswith(f"{path.name}\n")
    assert name in run("show", "no " + name).stderr


def test_a_long_path_stays_on_its_line_in_a_pipe(tmp_path: Path) -> None:
    folder = tmp_path / ("deep" * 30) / ("deeper" * 20)
    folder.mkdir(parents=True)
    path = folder / "wan.safetensors"
    write_random_model(path, WAN)
    good("scan", tmp_path)
    assert any(line.endswith(str(path)) for line in run("list").stdout.splitlines())


@pytest.mark.skipif(os.name == "nt", reason="file names are Unicode there")
def test_a_file_name_that_is_not_utf8_does_not_stop_a_scan(models: Path, wan: Path) -> None:
    odd = os.path.join(os.fsencode(wan.parent), b"caf\xe9.safetensors")
    try:
        with open(odd, "wb") as file:
            file.write(wan.read_bytes())
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    found = good("scan", models)
    assert "wan_bf16.safetensors" in [row["name"] for row in found["files"]]
    assert run("scan", models).code == 0


# Showing and checking


@pytest.mark.parametrize("reference", ["wan", "path", "name"])
def test_show_finds_a_model_by_name_and_by_path(models: Path, wan: Path, reference: str) -> None:
    register(info(wan, "2.1.0"))
    arguments = {
        "wan": ["wan"],
        "path": [str(wan)],
        "name": ["wan_bf16.safetensors", "--comfyui", str(models.parent)],
    }[reference]
    details = good("show", *arguments)
    assert (details["model"], details["path"]) == ("wan_bf16.safetensors", str(wan))
    assert details["size_bytes"] == wan.stat().st_size
    assert details["made_from"] is None
    assert run("show", *arguments).stdout == render_identity(details) + "\n"


def test_show_of_a_file_of_ours_says_what_it_was_made_from(wan: Path) -> None:
    output = wan.with_name("wan_int8.safetensors")
    good("quantize", wan, output, "--format", "int8")
    details = good("show", output)
    assert details["made_from"]["name"] == "wan_bf16.safetensors"
    assert details["metadata"] == {"format": "pt"}
    assert details["source_sha256"] == hashlib.sha256(wan.read_bytes()).hexdigest()
    words = run("show", output).stdout
    assert (
        f"Made by Managed Models from wan_bf16.safetensors (sha256 {details['source_sha256'][:12]}..."
        in words
    )
    assert "as int8: recommended, fast, comfy_quant" in words


def test_show_names_the_other_files_of_the_model(wan: Path) -> None:
    for name in ("int8", "nvfp4"):
        good("quantize", wan, wan.with_name(f"{name}.safetensors"), "--format", name)
    kin = good("show", wan.with_name("int8.safetensors"))["kin"]
    assert {other["name"] for other in kin} == {"wan_bf16.safetensors", "nvfp4.safetensors"}
    assert {other["name"] for other in good("show", wan)["kin"]} == {"int8.safetensors", "nvfp4.safetensors"}
    assert "The same model, in other files: " in run("show", wan).stdout


def test_a_good_check_is_exit_code_0(wan: Path) -> None:
    details = good("check", wan)
    assert details["compatible"] is True
    assert details["version"] is None
    words = run("check", wan)
    assert (words.code, words.stdout, words.stderr) == (0, render_check(details) + "\n", "")
    assert "Host unknown" in words.stdout


@pytest.mark.parametrize("flag", [[], ["--json"]])
def test_a_negative_verdict_is_exit_code_1_with_the_whole_report(wan: Path, flag: list[str]) -> None:
    register(info(wan, compatible_frameworks=["onnx"]))
    result = run("check", "wan", *flag)
    assert (result.code, result.stderr) == (1, "")
    if flag:
        assert result.json["compatible"] is False
        assert [f["code"] for f in result.json["findings"]] == ["framework"]
    else:
        assert "wan: cannot be used as it is." in result.stdout


def test_check_of_a_model_that_is_registered_and_not_there(tmp_path: Path) -> None:
    register(info(tmp_path / "later.safetensors"))
    details = good("check", "wan")
    assert (details["file"], details["compatible"]) == ("absent", True)


def test_check_of_a_broken_file(wan: Path) -> None:
    os.truncate(wan, 1000)
    result = run("check", wan, "--json")
    assert (result.code, result.json["file"]) == (1, "broken")
    assert [f["code"] for f in result.json["findings"]] == ["invalid_header"]


def test_check_of_a_lora_among_the_diffusion_models(models: Path, wan: Path) -> None:
    shapes_file(wan.with_name("ink.safetensors"), {"a.lora_down.weight": (4, 4)})
    result = run("check", "ink.safetensors", "--comfyui", models.parent, "--json")
    assert result.code == 1
    assert [f["code"] for f in result.json["findings"]] == ["wrong_role"]


def test_a_relative_path_is_the_registered_file_too(wan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(info(wan, "2.1.0", compatible_frameworks=["onnx"]))
    monkeypatch.chdir(wan.parent)
    assert good("show", wan.name)["version"] == "2.1.0"
    result = run("check", wan.name, "--json")
    assert (result.code, result.json["version"]) == (1, "2.1.0")


# Versions


def test_versions_and_upgrade(wan: Path) -> None:
    manager = register(*(info(wan, version) for version in ("1.0.0", "1.5.0", "1.10.0", "2.0.0")))
    manager.set_active_version("wan", "1.5.0")
    found = good("versions", "wan")
    assert {key: found[key] for key in ("name", "versions", "active", "latest", "upgrade")} == {
        "name": "wan",
        "versions": ["1.0.0", "1.5.0", "1.10.0", "2.0.0"],
        "active": "1.5.0",
        "latest": "2.0.0",
        "upgrade": "2.0.0",
    }
    usable = "2.0.0, which can be used on this machine"
    assert run("versions", "wan").stdout == f"1.0.0\n1.5.0 (active)\n1.10.0\n2.0.0\nUpgrade: {usable}\n"
    done = good("upgrade", "wan")
    assert (done["name"], done["before"], done["after"]) == ("wan", "1.5.0", "2.0.0")
    again = good("upgrade", "wan")
    assert (again["before"], again["after"]) == ("2.0.0", "2.0.0")
    assert run("upgrade", "wan").stdout == "wan: 2.0.0 is the newest that fits\n"
    assert run("versions", "wan").stdout.endswith("2.0.0 (active)\nUpgrade: none\n")
    manager.set_active_version("wan", "1.0.0")
    assert run("upgrade", "wan").stdout == "wan: 1.0.0 to 2.0.0\n"


def test_an_alias_is_given_moved_back_and_taken_away(wan: Path) -> None:
    manager = register(*(info(wan, version) for version in ("1.0.0", "2.0.0")))
    assert good("alias", "wan", "stable") == {"name": "wan", "alias": "stable", "version": "1.0.0"}
    assert good("alias", "wan", "stable", "latest")["version"] == "2.0.0"
    assert run("alias", "wan", "stable", "1.0.0").stdout == "wan: stable means 1.0.0\n"
    assert good("versions", "wan")["aliases"] == {"stable": "1.0.0"}
    assert run("versions", "wan").stdout.startswith("1.0.0 (active, stable)\n2.0.0\n")
    assert run("upgrade", "wan").stdout == "wan: 1.0.0 to 2.0.0\n  stable still means 1.0.0\n"
    assert manager.aliases("wan") == {"stable": "1.0.0"}  # an upgrade leaves it where it is
    manager.set_active_version("wan", "stable")
    assert manager.get_model_version("wan") == "1.0.0"
    assert good("alias", "wan", "stable", "--remove") == {"name": "wan", "alias": "stable", "version": None}
    assert good("versions", "wan")["aliases"] == {}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["wan", "latest"], "bad_input", "always means the newest version"),
        (["wan", "2.0"], "bad_input", "is a version itself"),
        (["wan", ">=2"], "bad_input", "cannot be an alias"),
        (["wan", "two words"], "bad_input", "cannot be an alias"),
        (["wan", "stable", "3.0"], "model_not_found", "registered are 1.0.0"),
        (["wan", "stable", "1.0.0", "--remove"], "bad_input", "Leave one of them out"),
        (["wan", "stable", "--remove"], "model_not_found", "has no alias 'stable'; it has none"),
        (["nothing", "stable"], "model_not_found", "is not registered"),
    ],
)
def test_what_cannot_be_an_alias(wan: Path, arguments: list[str], code: str, words: str) -> None:
    register(info(wan))
    result = run("alias", *arguments, "--json")
    assert (result.code, result.json["error"]["code"]) == (1, code)
    assert words in result.json["error"]["message"]


def test_versions_say_which_file_was_replaced(wan: Path) -> None:
    register(info(wan), info(wan.with_name("later.safetensors"), "2.0.0"))
    assert {v: f["revision"] for v, f in good("versions", "wan")["files"].items()} == {
        "1.0.0": "same",
        "2.0.0": "absent",
    }
    wan.write_bytes(wan.read_bytes() + b"\0")
    assert good("versions", "wan")["files"]["1.0.0"]["revision"] == "replaced"
    assert "1.0.0 (active): the file was replaced since it was registered\n" in run("versions", "wan").stdout
    (listed,) = good("list")["models"]
    assert (listed["version"], listed["revision"]) == ("1.0.0", "replaced")
    assert "1.0.0 (the file was replaced since it was registered)" in run("list").stdout


# Whole files


def test_verify_finds_damage_and_says_where(models: Path, wan: Path) -> None:
    output = wan.with_name("wan_int8.safetensors")
    good("quantize", wan, output, "--format", "int8")
    found = good("verify", wan, output)
    assert found["ok"] is True
    assert [(r["path"], r["ok"]) for r in found["results"]] == [(str(wan), True), (str(output), True)]
    assert found["results"][0]["checked"] == ["header", "SHA-256"]  # measured when it was quantized
    assert "tensor checksums" in found["results"][1]["checked"][1]
    with open(output, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        (last,) = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    result = run("verify", wan, output, "--json")
    assert (result.code, result.json["ok"]) == (1, False)
    assert [r["ok"] for r in result.json["results"]] == [True, False]
    assert result.json["results"][1]["code"] == "damaged"
    words = run("verify", wan, output)
    assert words.code == 1
    assert "wan_bf16.safetensors: whole (checked: header, SHA-256)" in words.stdout
    assert "wan_int8.safetensors: The bytes of tensor" in words.stdout


def test_verify_without_names_takes_every_known_file(models: Path, wan: Path) -> None:
    good("scan", models)
    assert [r["path"] for r in good("verify")["results"]] == [str(wan)]
    assert [r["path"] for r in good("verify", "--comfyui", models.parent)["results"]] == [str(wan)]


def test_verify_measures_the_hash_that_was_registered(wan: Path) -> None:
    register(info(wan, sha256="0" * 64))
    result = run("verify", "wan", "--json")
    assert result.code == 1
    assert "SHA-256" in result.json["results"][0]["problem"]


def test_verify_of_a_relative_path_measures_the_hash_too(wan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(info(wan, sha256="0" * 64))
    monkeypatch.chdir(wan.parent)
    assert run("verify", wan.name, "--json").code == 1


# Quantizing


def test_quantize_writes_the_target(wan: Path) -> None:
    output = wan.with_name("out.safetensors")
    details = good("quantize", wan, output)
    assert (details["path"], details["format"], details["reused"]) == (
        str(output),
        "fp8_e4m3fn_scaled",
        False,
    )
    assert details["output_bytes"] == output.stat().st_size
    words = run("quantize", wan, output)
    assert (words.code, words.stderr) == (0, "")
    assert words.stdout.startswith("Found the earlier out.safetensors from wan_bf16.safetensors: ")


def test_the_options_of_quantize_arrive(wan: Path) -> None:
    output = wan.with_name("out.safetensors")
    good("quantize", wan, output)
    options = ["--format", "int8", "--policy", "everything", "--keep-patterns", "head, ffn.2"]
    assert run("quantize", wan, output, *options, "--json").error["code"] == "output_exists"
    details = good("quantize", wan, output, *options, "--overwrite")
    assert (details["format"], details["policy"]) == ("int8", "everything")
    assert set(details["kept_names"]) == {"head.head", "blocks.0.ffn.2"}


def test_the_rarer_options_of_quantize_arrive(wan: Path) -> None:
    output = wan.with_name("out.safetensors")
    old = ["--layout", "scaled_fp8", "--quality", "best", "--max-memory-gb", "1"]
    details = good("quantize", wan, output, *old)
    assert (details["layout"], details["quality"]) == ("scaled_fp8", "best")
    again = wan.with_name("again.safetensors")
    assert run("quantize", output, again, "--json").error["code"] == "already_quantized"
    details = good("quantize", output, again, "--format", "int8", "--requantize")
    assert details["requantized_layers"] == details["changed_layers"] > 0
    limit = wan.stat().st_size - 55_000
    budget = ["--policy", "size_budget", "--target-size-gb", str(limit / 2**30)]
    small = wan.with_name("small.safetensors")
    assert good("quantize", wan, small, *budget)["format"] == "mixed"
    assert small.stat().st_size <= limit


def test_a_plan_shows_the_rule_and_the_layers_and_writes_nothing(wan: Path) -> None:
    output = wan.with_name("out.safetensors")
    details = good("quantize", wan, output, "--format", "int8", "--plan")
    assert details["rule"]["name"] == "wan"
    assert {layer["format"] for layer in details["layers"]} == {"int8"}
    words = run("quantize", wan, output, "--format", "int8", "--plan").stdout
    assert words.startswith("Plan for wan_bf16.safetensors")
    assert "Rule: wan, after" in words
    assert "head.head" in words
    assert not output.exists()


def test_weights_that_are_not_finite_need_a_word(wan: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    tensors = load_file(wan)
    tensors["blocks.0.ffn.0.weight"][0, 0] = torch.nan
    save_file(tensors, wan)
    output = wan.with_name("out.safetensors")
    error = run("quantize", wan, output, "--json").error
    assert (error["code"], error["details"]) == (
        "nonfinite_weights",
        {"tensors": ["blocks.0.ffn.0.weight"]},
    )
    assert not output.exists()
    assert good("quantize", wan, output, "--allow-nonfinite")["kept_names"].count("blocks.0.ffn.0") == 1


def test_a_target_may_be_relative_or_at_home(wan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(wan.parent)
    monkeypatch.setenv("HOME", str(wan.parent))
    monkeypatch.setenv("USERPROFILE", str(wan.parent))
    assert good("quantize", "wan_bf16.safetensors", "a.safetensors")["path"] == str(
        wan.with_name("a.safetensors")
    )
    assert good("quantize", "~/wan_bf16.safetensors", "~/b.safetensors")["path"] == str(
        wan.with_name("b.safetensors")
    )


class Terminal:
    """A pseudo-terminal for a command's stderr."""

    def __init__(self) -> None:
        import pty

        self._ours, self.theirs = pty.openpty()
        self.shown = b""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        try:
            while piece := os.read(self._ours, 4096):
                self.shown += piece
        except OSError:  # the other end is closed
            pass

    def close(self) -> None:
        os.close(self.theirs)
        self._reader.join()
        os.close(self._ours)


def start(*arguments: object, stderr: int = subprocess.PIPE) -> subprocess.Popen[str]:
    """Start one command in a process of its own."""
    return subprocess.Popen(
        [*boot(MAIN), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=stderr,
        env=os.environ | {"TERM": "xterm"},
        text=True,
    )


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
def test_progress_goes_to_stderr_and_leaves_stdout_to_json(wan: Path) -> None:
    register(info(wan, sha256=hashlib.sha256(wan.read_bytes()).hexdigest()))
    terminal = Terminal()
    try:
        process = start("verify", "wan", "--json", stderr=terminal.theirs)
        stdout, _ = process.communicate(timeout=120)
    finally:
        terminal.close()
    result = Result(process.returncode, stdout, "")
    assert (result.code, result.json["ok"]) == (0, True)
    assert b"verifying" in terminal.shown


@pytest.mark.skipif(os.name == "nt", reason="signals work differently there")
@pytest.mark.parametrize(("written", "flag"), [(0, []), (32 << 20, ["--json"])], ids=["at once", "later"])
def test_ctrl_c_leaves_nothing_behind(tmp_path: Path, written: int, flag: list[str]) -> None:
    source = shapes_file(  # 1 GB of zeros that take no room
        tmp_path / "big.safetensors", layouts.wan21_t2v(width=1024, ffn=8192, layers=20)
    )
    output = tmp_path / "out.safetensors"
    process = start("quantize", source, output, *flag)
    while process.poll() is None:
        if any(path.stat().st_size >= written for path in tmp_path.glob("*.mmpart")):
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=120)
    assert os.listdir(tmp_path) == ["big.safetensors"]
    result = Result(process.returncode, stdout, stderr)
    assert result.code == 1
    if flag:
        assert result.error["code"] == "cancelled"
        assert stderr == ""
    else:
        assert (stdout, stderr) == ("", "Error: Stopped. Nothing was left behind.\n")


@pytest.mark.skipif(os.name == "nt", reason="signals work differently there")
def test_ctrl_c_stops_a_hash(tmp_path: Path) -> None:
    source = shapes_file(tmp_path / "big.safetensors", {"a.weight": (64, 1 << 26)})  # 8 GB of zeros
    register(info(source, sha256="0" * 64))
    terminal = Terminal()
    try:
        process = start("verify", "wan", "--json", stderr=terminal.theirs)
        while process.poll() is None and b"verifying" not in terminal.shown:
            time.sleep(0.002)
        process.send_signal(signal.SIGINT)
        stdout, _ = process.communicate(timeout=120)
    finally:
        terminal.close()
    assert Result(process.returncode, stdout, "").error["code"] == "cancelled"


# Demo models


def test_a_demo_model_is_written_where_comfyui_looks(tmp_path: Path) -> None:
    found = good("demo-model", tmp_path, "--kind", "flux")
    path = tmp_path / "diffusion_models" / "tiny_flux_bf16.safetensors"
    assert found == {"path": str(path), "size_bytes": path.stat().st_size}
    assert run("demo-model", tmp_path, "--kind", "flux").stdout == f"{path}\n"


# Memory


def test_report_says_what_this_machine_holds() -> None:
    details = good("report")
    assert details["host"] == "this machine"
    assert details["models"] == []
    words = run("report")
    assert (words.code, words.stderr) == (0, "")
    assert words.stdout.startswith("Memory on this machine\n")


# A running ComfyUI


def answering(response: Any) -> web.RouteTableDef:
    """Return routes that give this answer to everything."""
    table = web.RouteTableDef()

    async def answer(_: web.Request) -> web.Response:
        return response()

    table.route("*", "/{anything:.*}")(answer)
    return table


def test_a_running_comfyui_is_asked(models: Path, wan: Path) -> None:
    manager = AdvancedModelManager(ModelManagerConfig(model_roots=[models]))
    manager.register_model(info(wan, "2.1.0"))
    manager.load_model("wan")
    table = web.RouteTableDef()
    add_routes(table, lambda: manager)
    with serving(table) as server:
        for address in (server, server + "/"):
            details = good("check", "wan_bf16.safetensors", "--server", address)
            assert (details["compatible"], details["version"]) == (True, "2.1.0")
        words = run("check", "wan_bf16.safetensors", "--server", server)
        assert words.stdout == render_check(details) + "\n"
        memory = good("report", "--server", server)
        assert [m["title"] for m in memory["models"]] == ["wan_bf16"]
        assert render_memory(memory).startswith("Memory on this machine\n")
        manager.register_model(info(wan, "2.1.0", compatible_frameworks=["onnx"]))
        result = run("check", "wan_bf16.safetensors", "--server", server, "--json")
        assert (result.code, result.json["compatible"]) == (1, False)
        error = run("check", "nothing", "--server", server, "--json").error
        assert (error["code"], error["details"]) == ("server_error", {"code": "model_not_found"})
        assert "There is no model 'nothing'" in error["message"]


class BusyHost(LocalHost):
    """The bare machine, on which a prompt may be running."""

    busy = False

    def quiet(self) -> AbstractContextManager[None]:
        if self.busy:
            raise HostBusy("A prompt is running.", "Try again when it is done.")
        return super().quiet()

    def unload(self, ids: Sequence[str]) -> Mapping[str, int]:
        with self.quiet():
            return super().unload(ids)

    def running(self) -> RunningPrompt | None:
        return RunningPrompt("prompt", None, None) if self.busy else None


@contextmanager
def holding(models: Path, *names: str) -> Iterator[tuple[str, AdvancedModelManager]]:
    """Run a server that has these models in memory."""
    manager = AdvancedModelManager(ModelManagerConfig(model_roots=[models]), BusyHost([models]))
    for name in names:
        manager.load_model(name)
    table = web.RouteTableDef()
    add_routes(table, lambda: manager)
    with serving(table) as server:
        yield server, manager
    manager.close()


@pytest.fixture
def other(models: Path) -> Path:
    path = models / "diffusion_models" / "other.safetensors"
    write_random_model(path, WAN, seed=2)
    return path


@pytest.mark.parametrize(
    "name", ["wan_bf16.safetensors", "diffusion_models/wan_bf16.safetensors", "wan_bf16", "wan"]
)
def test_unload_of_one_model_of_a_running_comfyui(models: Path, wan: Path, other: Path, name: str) -> None:
    with holding(models, wan.name, other.name) as (server, manager):
        manager.register_model(info(wan))
        size = manager.get_memory_report()["models"][0]["size_bytes"]
        assert good("unload", name, "--server", server) == {
            "title": "wan_bf16",
            "models": 1,
            "freed_bytes": 0,
            "ram_bytes": size,
            "still_in_ram_bytes": 0,
            "scheduled": False,
            "vram_only": False,
        }
        assert [m["title"] for m in manager.get_memory_report()["models"]] == ["other"]
        error = run("unload", name, "--server", server, "--json").error
        assert (error["code"], error["details"]) == ("server_error", {"code": "model_not_found"})
        assert f"{name} is not in memory" in error["message"]
        words = run("unload", name, "--server", server)
        assert (words.code, words.stdout) == (1, "")
        assert words.stderr.startswith("Error: ")


def test_unload_of_every_model_of_a_running_comfyui(models: Path, wan: Path, other: Path) -> None:
    with holding(models, wan.name, other.name) as (server, manager):
        size = sum(m["size_bytes"] for m in manager.get_memory_report()["models"])
        words = run("unload", "--server", server)
        assert (words.code, words.stderr) == (0, "")
        assert words.stdout == f"2 models: {format_bytes(size)} of RAM given back.\n"
        assert manager.get_memory_report()["models"] == []
        assert run("unload", "--server", server).stdout == "No model was in memory.\n"


@pytest.mark.parametrize("name", [[], ["wan_bf16"]], ids=["all", "one"])
def test_unload_from_vram_only_leaves_models_in_ram(models: Path, wan: Path, name: list[str]) -> None:
    with holding(models, wan.name) as (server, manager):
        before = manager.get_memory_report()["models"][0]
        details = good("unload", *name, "--vram-only", "--server", server)
        assert (details["vram_only"], details["still_in_ram_bytes"]) == (True, before["ram_bytes"])
        words = run("unload", *name, "--vram-only", "--server", server).stdout
        assert "Nothing was in VRAM" in words
        assert manager.get_memory_report()["models"][0]["pooled"] is True


def test_unload_while_a_prompt_runs(models: Path, wan: Path) -> None:
    with holding(models, wan.name) as (server, manager):
        assert isinstance(manager.host, BusyHost)
        manager.host.busy = True
        for arguments in (["wan_bf16"], ["wan_bf16", "--vram-only"], ["--vram-only"]):
            error = run("unload", *arguments, "--server", server, "--json").error
            assert (error["code"], error["details"]) == ("server_error", {"code": "host_busy"})
        assert len(manager.get_memory_report()["models"]) == 1
        details = good("unload", "--server", server)
        assert (details["scheduled"], details["ram_bytes"]) == (True, 0)


def test_a_pin_is_set_and_taken_away(models: Path, wan: Path) -> None:
    with holding(models, wan.name) as (server, manager):
        assert good("pin", wan.name, "--server", server) == {
            "title": "wan_bf16",
            "pinned": True,
            "in_memory": True,
        }
        assert manager.get_memory_report()["models"][0]["pinned"] is True
        assert "pinned" in run("report", "--server", server).stdout
        assert good("pin", "wan_bf16", "--off", "--server", server)["pinned"] is False
        assert manager.get_memory_report()["models"][0]["pinned"] is False
        good("unload", "--server", server)
        waits = run("pin", wan.name, "--server", server)
        assert (waits.code, waits.stdout) == (
            0,
            "wan_bf16 is pinned: once it is loaded, it stays in memory.\n",
        )
        error = run("pin", "nothing", "--server", server, "--json").error
        assert error["details"] == {"code": "model_not_found"}


@pytest.mark.parametrize(
    ("response", "words"),
    [
        (lambda: web.Response(status=404, text="404: Not Found"), "answered 404"),
        (lambda: web.Response(text="<html>hello</html>", content_type="text/html"), "answered 200"),
        (lambda: web.Response(status=500, text="{"), "answered 500"),
        (lambda: web.json_response(["not", "an", "object"]), "answered 200"),
        (lambda: web.json_response({"error": "a plain text"}, status=400), "answered 400"),
        (lambda: web.json_response({"error": {"message": "No."}}, status=403), "No."),
        (lambda: web.json_response({"another": "program"}), "answered 200"),
        (lambda: web.json_response({"details": "no object"}), "answered 200"),
        (lambda: web.json_response({}), "answered 200"),
        (lambda: web.json_response({"report": {}}), "answered 200"),
    ],
    ids=["404", "html", "500", "list", "text", "refused", "other", "details", "empty", "report"],
)
@pytest.mark.parametrize(
    "command",
    [["report"], ["check", "wan"], ["unload"], ["pin", "wan"]],
    ids=["report", "check", "unload", "pin"],
)
def test_a_server_that_is_not_ours(response: Any, words: str, command: list[str]) -> None:
    with serving(answering(response)) as server:
        error = run(*command, "--server", server, "--json").error
    assert error["code"] == "server_error"
    assert words in error["message"]


def test_a_server_that_is_not_there() -> None:
    with socket.socket() as taken:  # bound and not listening: nobody answers there
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        error = run("report", "--server", address, "--json").error
    assert error["code"] == "server_error"
    assert "does not answer" in error["message"]


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1:8188", "localhost", "ftp://127.0.0.1", "http://", "file:///etc/passwd", "http://[::1", " "],
)
def test_an_address_that_is_none(address: str) -> None:
    error = run("report", "--server", address, "--json").error
    assert error["code"] == "bad_input"
    assert repr(address) in error["message"]


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:99999999", "http://no such host.invalid", "http://a..b"]
)
def test_an_address_that_cannot_be_reached(address: str) -> None:
    assert run("report", "--server", address, "--json").error["code"] in ("bad_input", "server_error")


# An installation of ComfyUI


@pytest.fixture
def comfyui(models: Path) -> Path:
    return models.parent


def names_of(comfyui: Path) -> dict[str, str]:
    """Return name -> folder type of every model that the installation offers."""
    found = good("scan", "--comfyui", comfyui)
    assert found["unreadable"] == []
    return {row["name"]: row["folder"] for row in found["files"]}


def put(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return shapes_file(folder / name, {"a.lora_down.weight": (4, 4)})


def test_the_folders_of_an_installation(comfyui: Path) -> None:
    put(comfyui / "models" / "loras" / "styles", "ink.safetensors")
    put(comfyui / "output", "elsewhere.safetensors")
    assert names_of(comfyui) == {
        "wan_bf16.safetensors": "diffusion_models",
        os.path.join("styles", "ink.safetensors"): "loras",
    }


def test_extra_folders_of_an_installation(comfyui: Path, tmp_path: Path) -> None:
    put(tmp_path / "one" / "loras", "1.safetensors")
    put(tmp_path / "one" / "more" / "loras", "2.safetensors")
    put(comfyui / "two" / "unet", "3.safetensors")
    put(tmp_path / "three" / "vae", "4.safetensors")
    put(comfyui / "beside" / "clip", "5.safetensors")
    (comfyui / "extra_model_paths.yaml").write_text(
        f"""
first:
  base_path: {tmp_path / "one"}
  loras: |
    loras
    more/loras
    not/there
second:
  base_path: two
  is_default: true
  diffusion_models: unet
third:
  vae: {tmp_path / "three" / "vae"}
  text_encoders: beside/clip
nothing:
""",
        encoding="utf-8",
    )
    assert names_of(comfyui) == {
        "wan_bf16.safetensors": "diffusion_models",
        "1.safetensors": "loras",
        "2.safetensors": "loras",
        "3.safetensors": "diffusion_models",
        "4.safetensors": "vae",
        "5.safetensors": "text_encoders",
    }


def test_an_extra_folder_may_have_any_name(comfyui: Path, tmp_path: Path) -> None:
    """As ComfyUI's own example does for another program's folders."""
    put(tmp_path / "a111" / "models" / "Stable-diffusion", "1.safetensors")
    (comfyui / "extra_model_paths.yaml").write_text(
        f"a111:\n  base_path: {tmp_path / 'a111'}\n  checkpoints: models/Stable-diffusion\n"
    )
    assert names_of(comfyui)["1.safetensors"] == "checkpoints"
    result = run("check", "1.safetensors", "--comfyui", comfyui, "--json")
    assert [f["code"] for f in result.json["findings"]] == ["wrong_role"]


def test_an_extra_base_path_may_hold_variables(
    comfyui: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ComfyUI expands both ``~`` and ``$VARIABLES`` in it."""
    put(tmp_path / "home" / "loras", "1.safetensors")
    put(tmp_path / "disk" / "loras", "2.safetensors")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.setenv("MODEL_DISK", str(tmp_path / "disk"))
    (comfyui / "extra_model_paths.yaml").write_text(
        'home:\n  base_path: "~"\n  loras: loras\ndisk:\n  base_path: $MODEL_DISK\n  loras: loras\n'
    )
    assert {"1.safetensors", "2.safetensors"} < set(names_of(comfyui))


def test_extra_folders_that_hold_no_models_are_left_out(comfyui: Path) -> None:
    put(comfyui / "nodes" / "some_pack", "1.safetensors")
    put(comfyui / "more_loras", "2.safetensors")
    (comfyui / "extra_model_paths.yaml").write_text("all:\n  custom_nodes: nodes\n  loras: more_loras\n")
    assert "1.safetensors" not in {Path(name).name for name in names_of(comfyui)}


@pytest.mark.parametrize(
    "content",
    [b"a: [", b"- a\n- b", b"just text", b"a: b", b"a:\n  - b", b"\xff\xfe\xfd", b"a: 5"],
    ids=["open bracket", "list", "text", "text section", "list section", "not utf-8", "number section"],
)
def test_extra_folders_that_cannot_be_read(comfyui: Path, content: bytes) -> None:
    path = comfyui / "extra_model_paths.yaml"
    path.write_bytes(content)
    error = run("scan", "--comfyui", comfyui, "--json").error
    assert error["code"] == "file_error"
    assert str(path) in error["message"]


@pytest.mark.parametrize("content", ["", "# nothing\n", "a:\n", "a:\n  base_path: x\n", "a:\n  loras:\n"])
def test_extra_folders_that_name_none(comfyui: Path, content: str) -> None:
    (comfyui / "extra_model_paths.yaml").write_text(content)
    assert set(names_of(comfyui)) == {"wan_bf16.safetensors"}


def test_a_folder_that_is_no_installation(tmp_path: Path) -> None:
    error = run("scan", "--comfyui", tmp_path, "--json").error
    assert error["code"] == "model_not_found"
    assert "is not a ComfyUI installation" in error["message"]


# Where the registry is


def test_a_database_may_be_named_by_path_or_address(
    wan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for value, path in (
        (str(tmp_path / "one.sqlite"), tmp_path / "one.sqlite"),
        (f"sqlite:///{tmp_path / 'two.sqlite'}", tmp_path / "two.sqlite"),
    ):
        monkeypatch.setenv("MANAGED_MODELS_DB", value)
        assert good("list") == {"models": [], "files": []}
        good("scan", wan.parent)
        assert len(good("list")["files"]) == 1
        assert path.is_file()


def test_an_installation_has_a_registry_of_its_own(
    comfyui: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("MANAGED_MODELS_DB")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "data"))
    good("scan", "--comfyui", comfyui)
    assert (comfyui / "user" / "__managed_models" / "registry.sqlite").is_file()
    assert good("list") == {"models": [], "files": []}
    assert len(good("list", "--comfyui", comfyui)["files"]) == 1
    assert not (tmp_path / "data" / "managed-models" / "nothing").exists()


def test_an_installation_at_home_has_its_registry_there(
    comfyui: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Shells leave the tilde of ``--comfyui=~/ComfyUI`` alone."""
    monkeypatch.delenv("MANAGED_MODELS_DB")
    monkeypatch.setenv("HOME", str(comfyui.parent))
    monkeypatch.setenv("USERPROFILE", str(comfyui.parent))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    good("scan", "--comfyui=~/ComfyUI")
    assert os.listdir(elsewhere) == []
    assert (comfyui / "user" / "__managed_models" / "registry.sqlite").is_file()


@pytest.mark.skipif(sys.platform != "linux", reason="another platform, another folder")
def test_the_registry_of_a_person_is_in_the_data_folder(
    wan: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("MANAGED_MODELS_DB")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    good("scan", wan.parent)
    assert (tmp_path / "data" / "managed-models" / "registry.sqlite").is_file()
