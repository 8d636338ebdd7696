"""The pairing table against ComfyUI itself, and what people see of it in node, command line and route."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from comfyui.test_inside import run_inside
from managed_models.manager.pairing.table import FAMILY_OF_ARCHITECTURE
from support import pairing_layouts as layouts
from support.comfy_client import Client, node
from support.comfyui import ComfyUI
from support.files import shapes_file

pytestmark = pytest.mark.comfyui

# The classes of these need a file to say which text encoder it is: Flux.2's three, and LTX-2's Gemma, which
# ComfyUI builds in load_text_encoder_state_dicts alone (LTXAV inherits LTX-Video's T5 and does not use it).
NOT_ASKED = {"flux2", "ltx-2"}
# ComfyUI calls both generations of T5-XXL by one name; this one reads text of width 1024, the older one's.
OLDER_T5 = "cosmos-predict2-t2i"


@pytest.fixture(scope="module")
def answers(comfyui: ComfyUI, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_inside(comfyui, "pairing", tmp_path_factory.mktemp("pairing"))


@pytest.mark.parametrize("architecture", FAMILY_OF_ARCHITECTURE)
def test_latent_format_text_encoders_and_lora_names_are_comfyuis(
    answers: dict[str, Any], architecture: str
) -> None:
    found = answers["models"][architecture]
    assert "error" not in found, found
    assert found["ours"] == found["comfyui"]
    assert found["names"] > 50
    assert found["missing_names"] == found["invented_names"] == found["other_layers"] == []
    assert found["text_width"]
    if architecture == OLDER_T5:
        assert (found["encoders"], found["text_width"]) == (["t5-xxl"], 1024)
    elif architecture not in NOT_ASKED:
        assert found["encoders"] == found["slots"]


@pytest.mark.parametrize("kind", layouts.TEXT_ENCODERS)
def test_comfyui_finds_the_same_kind_of_text_encoder(answers: dict[str, Any], kind: str) -> None:
    found = answers["encoders"][kind]
    assert "error" not in found, found
    assert found["ours"] == kind
    assert found["class"] == found["comfyui"]


@pytest.mark.parametrize("kind", layouts.VAES)
def test_comfyui_builds_the_same_kind_of_vae(answers: dict[str, Any], kind: str) -> None:
    found = answers["vaes"][kind]
    assert "error" not in found, found
    assert found["ours"] == found["comfyui"]
    assert found["tensors"] > 50


# What people see

MODEL, VAE, WRONG_VAE = (
    "pair_wan22_5b.safetensors",
    "pair_wan22_vae.safetensors",
    "pair_wan21_vae.safetensors",
)
CLIP, WRONG_CLIP = "pair_umt5.safetensors", "pair_t5.safetensors"
LORA, WRONG_LORA = "pair_wan_ink.safetensors", "pair_flux_ink.safetensors"


@pytest.fixture(scope="module")
def files(client: Client) -> Path:
    """The files of Wan 2.2 5B and three that are not its own, in ComfyUI's folders."""
    models = client.base / "models"
    for folder, name, shapes in (
        ("diffusion_models", MODEL, layouts.DIFFUSION["wan2.2-5b"]),
        ("vae", VAE, layouts.VAES["wan2.2"]),
        ("vae", WRONG_VAE, layouts.VAES["wan2.1"]),
        ("text_encoders", CLIP, layouts.TEXT_ENCODERS["umt5-xxl"]),
        ("text_encoders", WRONG_CLIP, layouts.TEXT_ENCODERS["t5-xxl"]),
        ("loras", LORA, layouts.lora_for(layouts.DIFFUSION["wan2.2-5b"])),
        ("loras", WRONG_LORA, layouts.lora_for(layouts.DIFFUSION["flux-dev"])),
    ):
        (models / folder).mkdir(exist_ok=True)
        shapes_file(models / folder / name, shapes)
    return models


def check(client: Client, **inputs: Any) -> tuple[str, str, dict[str, Any]]:
    """Return report, verdict and details of the node."""
    prompt = {
        "check": node("CheckCompatibility", model_name=MODEL, **inputs),
        "compatible": node("PreviewAny", source=["check", 1]),
        "details": node("PreviewAny", source=["check", 3]),
    }
    outputs = client.run(prompt)
    words = outputs["check"]["managed_models_report"][0]
    return words, outputs["compatible"]["text"][0], json.loads(outputs["details"]["text"][0])


def test_the_node_names_the_right_files(client: Client, files: Path) -> None:
    words, compatible, details = check(client, vae_name=WRONG_VAE, clip_name=WRONG_CLIP, lora_name=WRONG_LORA)
    assert compatible == "False"
    codes = {finding["code"]: finding for finding in details["findings"]}
    for code, right in (("vae_mismatch", VAE), ("text_encoder_mismatch", CLIP), ("lora_mismatch", LORA)):
        assert codes[code]["severity"] == "blocker"
        assert right in codes[code]["remedy"]
        assert codes[code]["message"] in words
    assert [c["fits"] for c in details["pairing"]["companions"]] == [False] * 3


def test_the_node_says_what_belongs(client: Client, files: Path) -> None:
    words, compatible, details = check(client, vae_name=VAE, clip_name=CLIP, lora_name=LORA)
    assert compatible == "True"
    assert details["pairing"]["together"] is True
    assert {c["role"]: c.get("share") for c in details["pairing"]["companions"]}["lora"] == 1.0
    for name in (VAE, CLIP, LORA):
        assert f"{name} (" in words
    assert words.count("belongs to it") == 3


def test_without_companions_the_node_says_what_goes_with_the_model(client: Client, files: Path) -> None:
    words, _, details = check(client)
    assert "Goes with: Wan 2.2 VAE; text encoder UMT5-XXL" in words
    assert details["pairing"]["companions"] == []


def test_combos_list_the_stock_folders(client: Client, files: Path) -> None:
    optional = client.object_info("CheckCompatibility")["input"]["optional"]
    for name, loader, key in (
        ("clip_name", "CLIPLoader", "clip_name"),
        ("lora_name", "LoraLoader", "lora_name"),
        ("vae_name", "VAELoader", "vae_name"),
    ):
        stock = client.object_info(loader)["input"]["required"][key]
        listed = stock[1]["options"] if stock[0] == "COMBO" else stock[0]
        ours = optional[name]
        options = ours[1]["options"] if ours[0] == "COMBO" else ours[0]
        assert options == ["none", *(each for each in listed if each != "pixel_space")]


def test_an_unknown_companion_is_refused_before_anything_runs(client: Client, files: Path) -> None:
    prompt = {"check": node("CheckCompatibility", model_name=MODEL, lora_name="pair_wan_inc.safetensors")}
    assert "There is no model 'pair_wan_inc.safetensors'" in client.refused(prompt)


def test_a_bad_companion_is_a_finding_and_no_error(client: Client, files: Path) -> None:
    (files / "vae" / "pair_page.safetensors").write_bytes(b"<!DOCTYPE html><html>")
    words, compatible, _ = check(client, vae_name="pair_page.safetensors")
    assert compatible == "False"
    assert "web page" in words


def test_a_lora_as_text_encoder_over_a_link(client: Client, files: Path) -> None:
    (files / "text_encoders" / "pair_no_encoder.safetensors").write_bytes(
        (files / "loras" / LORA).read_bytes()
    )
    prompt = {
        "name": node("PrimitiveString", value="pair_no_encoder.safetensors"),
        "any": node("MemoryReport", value=["name", 0]),
        "check": node("CheckCompatibility", model_name=MODEL, clip_name=["any", 0]),
    }
    words = client.run(prompt)["check"]["managed_models_report"][0]
    assert "was given as the text encoder, and it is a LoRA" in words


def command_line(*arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    return done.returncode, done.stdout + done.stderr


RUN = f"""
import sys
sys.path.insert(0, {str(Path(__file__).resolve().parents[1])!r})
import conftest
from managed_models.manager.cli.app import main
main()
"""


def test_the_same_words_by_route_and_command_line(client: Client, files: Path) -> None:
    body = {"model": MODEL, "others": [WRONG_VAE, CLIP]}
    answer = client.post("/managed-models/pair", body, **{"X-Managed-Models": "1"}).json()
    code, here = command_line("pair", "--comfyui", str(client.base), MODEL, WRONG_VAE, CLIP)
    there_code, there = command_line("pair", "--server", client.url, MODEL, WRONG_VAE, CLIP)
    assert code == there_code == 1
    assert answer["report"] + "\n" == here == there
    assert f"Choose {VAE}" in here
    words, _, _ = check(client, vae_name=WRONG_VAE)
    problem = next(line for line in words.splitlines() if "wrong VAE" in line)
    assert problem in here
    _, checked = command_line("check", "--server", client.url, MODEL, "--vae", WRONG_VAE)
    assert problem in checked


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"model": MODEL},
        {"model": MODEL, "others": []},
        {"model": MODEL, "others": [1]},
        {"others": ["a"]},
    ],
)
def test_the_route_explains_a_bad_request(client: Client, files: Path, body: dict[str, Any]) -> None:
    answer = client.post("/managed-models/pair", body, **{"X-Managed-Models": "1"})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "bad_input"
