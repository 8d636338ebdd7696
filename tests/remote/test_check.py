"""The verdict on an address, in Python and on the command line, with the same words."""

from __future__ import annotations

import json
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from managed_models.manager import AdvancedModelManager, ModelManagerConfig
from managed_models.manager.cli.app import app
from managed_models.manager.compatibility import Severity
from managed_models.manager.demo import layouts
from managed_models.manager.errors import BadInput, NotAvailable, NotPublic
from managed_models.manager.local_host import LocalHost
from managed_models.manager.remote.check import free_bytes, remote_findings
from managed_models.manager.report import render_check
from managed_models.manager.words.remote import remote_lines
from support.files import shapes_file
from support.gguf_files import gguf_file
from support.range_server import Server
from typer.testing import CliRunner

WAN = layouts.wan21_t2v(width=64, ffn=128, layers=2)
DETAILS: dict[str, Any] = {
    "url": "https://example.com/a.safetensors",
    "size_bytes": 28 * 1024**3,
    "files": 1,
    "requests": 1,
    "bytes_read": 262144,
    "folder": "diffusion_models",
    "free_bytes": 100 * 1024**3,
}


@pytest.fixture(autouse=True)
def _own_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MANAGED_MODELS_DB", str(tmp_path / "registry.sqlite"))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    (root / "diffusion_models").mkdir(parents=True)
    return root


@pytest.fixture
def manager(models: Path) -> AdvancedModelManager:
    return AdvancedModelManager(ModelManagerConfig(), LocalHost([models]))


def test_an_address_is_judged_like_the_file(
    server: Server, tmp_path: Path, manager: AdvancedModelManager
) -> None:
    file = shapes_file(tmp_path / "wan.safetensors", WAN)
    url = server.add("/wan.safetensors", file) + "?token=secret"
    remote = manager.check(url, allow_local_network=True).to_dict()
    here = manager.check(str(file)).to_dict()
    assert remote["file"] == "remote"
    assert remote["model"] == "wan.safetensors"
    same = ("identity", "size_bytes", "compatible", "version")
    assert {key: remote[key] for key in same} == {key: here[key] for key in same}
    codes = {finding["code"] for finding in here["findings"]}
    assert codes <= {finding["code"] for finding in remote["findings"]}
    details = remote["remote"]
    assert details["url"] == server.url("/wan.safetensors")
    assert details["folder"] == "diffusion_models"
    assert details["free_bytes"] > 0
    assert details["enough_room"] is True
    words = render_check(remote)
    assert "Not on this machine yet: a download of" in words
    assert "Free where it would go (diffusion_models)" in words
    assert "secret" not in words + json.dumps(remote)


def test_the_command_line_says_the_same(
    server: Server, tmp_path: Path, manager: AdvancedModelManager
) -> None:
    file = shapes_file(tmp_path / "wan.safetensors", WAN)
    url = server.add("/wan.safetensors", file)
    result = CliRunner().invoke(app, ["check", url, "--allow-local-network", "--json"])
    assert result.exit_code == 0, result.output
    details = json.loads(result.stdout)
    words = CliRunner().invoke(app, ["check", url, "--allow-local-network"]).stdout
    assert words.strip() == render_check(details)
    assert details["remote"]["enough_room"] is None
    assert details["remote"]["free_bytes"] is None  # no folder was named
    assert "what is free there is not known here" in words


@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("https://127.0.0.1/a.safetensors", "not_public"),
        ("http://example.com/a.safetensors", "not_public"),
        ("hf:owner/repository", "bad_input"),
        ("https://user:secret@example.com/a", "bad_input"),
    ],
)
def test_what_the_command_line_refuses(address: str, code: str) -> None:
    result = CliRunner().invoke(app, ["check", address, "--json"])
    assert result.exit_code == 1
    error = json.loads(result.stdout)["error"]
    assert error["code"] == code
    assert "secret" not in result.output


def test_a_file_that_is_not_there_exits_with_words(server: Server) -> None:
    result = CliRunner().invoke(app, ["check", server.url("/gone"), "--allow-local-network", "--json"])
    assert result.exit_code == 1
    error = json.loads(result.stdout)["error"]
    assert (error["code"], error["details"]["problem"]) == ("remote_error", "not_found")


def test_a_server_is_not_asked_about_addresses() -> None:
    arguments = ["check", "hf:a/b/c.safetensors", "--server", "http://127.0.0.1:1", "--json"]
    error = json.loads(CliRunner().invoke(app, arguments).stdout)["error"]
    assert "is an address, and --server asks about a file" in error["message"]


def test_python_refuses_inner_addresses_unless_told(server: Server, manager: AdvancedModelManager) -> None:
    with pytest.raises(NotPublic):
        manager.check(server.url("/a"))
    assert server.seen == []


def test_nothing_but_a_check_takes_an_address(manager: AdvancedModelManager) -> None:
    for name in ("https://example.com/a?secret", "hf:a/b/c"):
        for ask in (manager.load_model, manager.unload_model, manager.pin_model):
            with pytest.raises(NotAvailable) as caught:
                ask(name)
            assert "secret" not in str(caught.value)
    with pytest.raises(BadInput, match="is no address"):
        manager.addresses.check("wan.safetensors")


def test_a_broken_file_there_is_a_verdict(
    server: Server, tmp_path: Path, manager: AdvancedModelManager
) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(b"PK\x03\x04" + bytes(100))
    report = manager.check(server.add("/x.safetensors", file), allow_local_network=True)
    assert not report.compatible
    details = report.to_dict()
    assert details["file"] == "broken"
    assert "pickle" in render_check(details)


def test_gguf_there(server: Server, tmp_path: Path, manager: AdvancedModelManager) -> None:
    file = gguf_file(tmp_path / "a.gguf", WAN, "wan")
    report = manager.check(server.add("/a.gguf", file), allow_local_network=True)
    assert report.subject.identity is not None
    assert report.subject.identity.architecture == "wan-t2v"
    assert "ComfyUI-GGUF" in render_check(report.to_dict())


def test_a_lora_goes_into_its_folder(server: Server, tmp_path: Path, manager: AdvancedModelManager) -> None:
    file = shapes_file(tmp_path / "l.safetensors", {"diffusion_model.blocks.0.q.lora_A.weight": (8, 64)})
    report = manager.check(server.add("/l.safetensors", file), allow_local_network=True)
    assert report.to_dict()["remote"]["folder"] == "loras"


def test_a_gguf_file_here_is_judged(models: Path, manager: AdvancedModelManager) -> None:
    gguf_file(models / "diffusion_models" / "a.gguf", WAN, "wan")
    details = manager.check("a.gguf").to_dict()
    assert details["identity"]["quantization"] == "gguf"
    assert "Wan 2.1 or Wan 2.2 14B text-to-video" in render_check(details)


@pytest.mark.parametrize(
    ("changes", "codes"),
    [
        ({}, {}),
        ({"free_bytes": None}, {}),
        ({"size_bytes": None}, {}),
        ({"free_bytes": 28 * 1024**3 - 1}, {"disk": Severity.BLOCKER}),
        ({"files": 6}, {"sharded": Severity.BLOCKER}),
        ({"files": 6, "free_bytes": 0}, {"disk": Severity.BLOCKER, "sharded": Severity.BLOCKER}),
    ],
)
def test_what_speaks_against_a_download(changes: dict[str, Any], codes: dict[str, Severity]) -> None:
    found = list(remote_findings(DETAILS | changes))
    assert {finding.code: finding.severity for finding in found} == codes
    assert all(finding.remedy and finding.needed and finding.found for finding in found)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "a download of 28.0 GB"),
        ({"size_bytes": None}, "a download of a size that the server does not say"),
        ({"files": 6}, "28.0 GB in 6 files"),
        ({"requests": 2}, "2 requests, 256 KB read"),
        ({"free_bytes": None}, "It goes into the folder diffusion_models"),
    ],
)
def test_the_words(changes: dict[str, Any], words: str) -> None:
    assert words in "\n".join(remote_lines(DETAILS | changes))


def test_room_is_that_of_the_folder_or_of_what_is_above_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "free")

    def disk_usage(path: Path) -> Any:
        if path != tmp_path:
            raise FileNotFoundError
        return usage(5)

    monkeypatch.setattr("managed_models.manager.remote.check.shutil.disk_usage", disk_usage)
    assert free_bytes([tmp_path / "not" / "made"]) == 5
    assert free_bytes([]) is None


def test_a_gguf_file_can_be_shown_and_scanned(models: Path) -> None:
    gguf_file(models / "diffusion_models" / "a.gguf", WAN, "wan", fields={"general.license": "apache-2.0"})
    scanned = json.loads(CliRunner().invoke(app, ["scan", str(models), "--json"]).stdout)
    assert [row["precision"] for row in scanned["files"]] == ["GGUF Q4_K"]
    shown = CliRunner().invoke(app, ["show", str(models / "diffusion_models" / "a.gguf")])
    assert shown.exit_code == 0
    assert "general.license: apache-2.0" in shown.stdout
    assert "Weights by type: Q4_K" in shown.stdout
