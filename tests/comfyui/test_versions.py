"""Versions, aliases and hashes as a workflow names them, in a real ComfyUI."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from managed_models.manager import ModelInfo, ModelType
from managed_models.manager.demo import layouts
from managed_models.manager.demo.tiny import write_random_model
from managed_models.manager.files import FileIdentity
from managed_models.manager.registry import Registry, Source
from support.comfy_client import SURROUNDINGS, Client, node, reports, sampler

pytestmark = pytest.mark.comfyui

WAN = layouts.wan21_t2v(width=128, ffn=256, layers=1)


@pytest.fixture
def registry(client: Client) -> Iterator[Registry]:
    """The server's registry, as another process sees it."""
    registry = Registry(f"sqlite:///{client.base / 'registry.sqlite'}")
    yield registry
    registry.close()


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load(name: str, **inputs: Any) -> dict[str, Any]:
    """A prompt that loads a model, shows the report, and samples."""
    return {
        "model": node("LoadManagedModel", model_name=name, **inputs),
        "words": node("PreviewAny", source=["model", 3]),
        **SURROUNDINGS["wan"],
        **sampler(["model", 0], "versions"),
    }


def report(client: Client, prompt: dict[str, Any]) -> str:
    return str(client.run(prompt)["words"]["text"][0])


def test_a_workflow_that_names_a_hash_finds_the_file_wherever_it_moved(
    client: Client, diffusion_models: Path, registry: Registry
) -> None:
    path = diffusion_models / "named_by_hash.safetensors"
    write_random_model(path, WAN, 77)
    digest = sha256(path)
    registry.put_sha256(FileIdentity.of(path), digest)
    prompt = load(f"sha256:{digest[:12]}")
    assert "named_by_hash.safetensors" in report(client, prompt).splitlines()[0]
    for moved in ("renamed.safetensors", "in a folder/deeper/named_by_hash.safetensors"):
        target = diffusion_models / moved
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, target)
        # A file as large, which would be taken by a guess.
        decoy = target.with_name("a decoy.safetensors")
        write_random_model(decoy, WAN, 78)
        assert decoy.stat().st_size == target.stat().st_size
        assert target.name in report(client, prompt).splitlines()[0]
        decoy.unlink()
        path = target
    path.unlink()
    assert "is not here any more" in client.refused(prompt)


@pytest.mark.parametrize("name", ["LoadManagedModel", "CheckCompatibility", "QuantizeModel"])
def test_a_hash_that_nobody_knows_is_refused_before_anything_runs(client: Client, name: str) -> None:
    prompt = {
        "node": node(name, model_name=f"sha256:{'0f' * 32}"),
        "end": node("PreviewAny", source=["node", 0]),
    }
    words = client.refused(prompt)
    assert "No model here is known to have the SHA-256 0f0f" in words


def test_a_check_measures_a_hash_too(client: Client, diffusion_models: Path, registry: Registry) -> None:
    path = diffusion_models / "checked_by_hash.safetensors"
    write_random_model(path, WAN, 79)
    digest, before = sha256(path), FileIdentity.of(path)
    registry.put_sha256(before, digest)
    target = path.with_name("checked_elsewhere.safetensors")
    shutil.move(path, target)
    outputs = client.run({"check": node("CheckCompatibility", model_name=f"sha256:{digest}")})
    assert reports(outputs, "check").startswith("checked_elsewhere.safetensors: ")


def test_a_version_an_alias_and_a_roll_back(
    client: Client, diffusion_models: Path, registry: Registry
) -> None:
    for version, seed in (("1.0.0", 1), ("2.0.0", 2)):
        path = diffusion_models / f"versioned_{version}.safetensors"
        write_random_model(path, WAN, seed)
        registry.put(ModelInfo("versioned", ModelType.DIFFUSION, path, version=version))
    registry.put_alias("versioned", "stable", "2.0.0")
    prompt = load("versioned", version="stable")
    words = report(client, prompt)
    assert "versioned_2.0.0.safetensors" in words
    assert "  Version: 2.0.0\n" in words
    registry.put_alias("versioned", "stable", "1.0.0")  # back: the same workflow takes the other file
    words = report(client, prompt)
    assert "versioned_1.0.0.safetensors" in words
    assert "  Version: 1.0.0\n  Upgrade: 2.0.0, which can be used on this machine\n" in words
    failed = client.fails(load("versioned", version="nonsense"))
    assert "latest, or an alias" in failed["exception_message"]


def test_a_report_says_what_a_name_says_and_what_newer_is_here(
    client: Client, diffusion_models: Path
) -> None:
    for generation in ("2.7", "2.8"):
        write_random_model(diffusion_models / f"wan{generation}_t2v_bf16.safetensors", WAN, 5)
    prompt = {
        "check": node("CheckCompatibility", model_name="wan2.7_t2v_bf16.safetensors"),
        **load("wan2.7_t2v_bf16.safetensors"),
    }
    outputs = client.run(prompt)
    for name in ("check", "model"):
        assert "  Version: unknown (its name says 2.7)\n" in reports(outputs, name)
        assert "Newer, as its name says, and here: wan2.8_t2v_bf16.safetensors" in reports(outputs, name)


def test_a_file_that_was_fetched_keeps_its_address_and_hash_in_the_workflow(
    client: Client, diffusion_models: Path, registry: Registry
) -> None:
    path = diffusion_models / "fetched_earlier.safetensors"
    write_random_model(path, WAN, 80)
    registry.put_source(
        FileIdentity.of(path), Source("https://example.com/f.safetensors", sha256=sha256(path))
    )
    outputs = client.run(load(path.name))
    assert outputs["model"]["managed_models_files"] == [
        {
            "name": path.name,
            "url": "https://example.com/f.safetensors",
            "directory": "diffusion_models",
            "hash": sha256(path),
            "hash_type": "SHA256",
        }
    ]
