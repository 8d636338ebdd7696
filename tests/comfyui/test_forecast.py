"""The forecast inside a real ComfyUI: predicted bytes are the loaded ones, and every door says the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from comfyui.test_inside import run_inside
from comfyui.test_server_routes import OWN, command_line
from managed_models.manager.forecast.table import USUAL
from managed_models.manager.host import WEIGHT_DTYPES
from managed_models.manager.report import render_check
from support.comfy_client import Client, node, reports
from support.comfyui import ComfyUI, ComfyUIServer
from support.companions import CLIP, VAE, write_companions
from support.machines import LAYER_FORMATS

pytestmark = pytest.mark.comfyui

WAN = "tiny_wan21_t2v_bf16.safetensors"
SD15 = "tiny_sd15_checkpoint_bf16.safetensors"


@pytest.fixture(scope="module")
def inside(comfyui: ComfyUI, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    base = tmp_path_factory.mktemp("forecast")
    shutil.copytree(tiny_models, base / "models")
    write_companions(base / "models")
    return run_inside(comfyui, "forecast", base)


@pytest.fixture(scope="module")
def companions(comfy_server: ComfyUIServer) -> Iterator[Path]:
    models = comfy_server.base / "models"
    write_companions(models)
    yield models
    for folder in ("text_encoders", "vae", "vae_approx"):
        for path in (models / folder).iterdir():
            path.unlink()


def is_quantized(name: str) -> bool:
    return "scaled" in name or "comfy_quant" in name


def test_predicted_weights_are_those_that_comfyui_loads(inside: dict[str, Any]) -> None:
    plain = {n: found for n, found in inside["models"].items() if not is_quantized(n)}
    assert len(plain) >= 48
    wrong = {n: found for n, found in plain.items() if found["predicted"] != found.get("real")}
    assert not wrong


def test_quantized_weights_are_predicted_to_the_byte(inside: dict[str, Any]) -> None:
    quantized = {n: found for n, found in inside["models"].items() if is_quantized(n)}
    assert len(quantized) >= 20
    wrong = {n: found for n, found in quantized.items() if found["predicted"] != found["real"]}
    assert not wrong


def test_working_memory_and_latents_are_comfyuis_own_figures(inside: dict[str, Any]) -> None:
    for name, found in inside["models"].items():
        ours, theirs = found["inference"]
        assert abs(ours - theirs) <= 1, name  # it rounds down once, ComfyUI never
        assert found["channels"][0] == found["channels"][1], name


def test_a_vae_is_predicted_to_the_byte(inside: dict[str, Any]) -> None:
    found = inside["vaes"][VAE.removesuffix(".safetensors")]
    assert found["predicted"] == found["real"]
    assert found["decode"][0] == found["decode"][1]
    assert 0 < found["tiled"] < found["decode"][0]
    assert found["weights alone"]


def test_the_table_of_latents_agrees_with_comfyui(inside: dict[str, Any]) -> None:
    assert inside["latents"].keys() == USUAL.keys()
    assert not {row: both for row, both in inside["latents"].items() if both[0] != both[1]}


def test_what_comfyui_does_not_recognise_has_no_footprint(inside: dict[str, Any]) -> None:
    assert inside["unknown"] is True


def test_kernels_are_read_from_the_running_registry(inside: dict[str, Any]) -> None:
    """Nothing multiplies these on a CPU, and every format that ComfyUI loads has a verdict."""
    assert inside["kernels"].keys() == LAYER_FORMATS.keys()
    assert set(inside["kernels"].values()) == {"emulated"}
    assert sorted(inside["system"]) == sorted(inside["kernels"])


# Through the doors


def check(client: Client, **inputs: Any) -> tuple[str, dict[str, Any]]:
    outputs = client.run(
        {
            "check": node("CheckCompatibility", **inputs),
            "details": node("PreviewAny", source=["check", 3]),
        }
    )
    return reports(outputs, "check"), json.loads(outputs["details"]["text"][0])


def test_a_forecast_says_the_same_through_every_door(client: Client, companions: Path) -> None:
    asked = {"width": 512, "height": 256, "length": 33, "batch_size": 2, "weight_dtype": "as_stored"}
    words, details = check(client, model_name=WAN, second_model_name=WAN, clip_name=CLIP, **asked)
    body = {"model": WAN, "second_model": WAN, "clip": CLIP, **asked}
    by_route = client.post("/managed-models/check", body, **OWN).json()
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in asked.items()]
    by_command = command_line(
        "check", WAN, *flags, "--second-model", WAN, "--clip", CLIP, "--server", client.url
    )
    assert by_command.returncode == (0 if details["compatible"] else 1), by_command.stderr
    assert words == render_check(details) == by_route["report"] == by_command.stdout.removesuffix("\n")
    forecast = details["forecast"]
    assert forecast["latent"] == [2, 16, 9, 32, 64]
    assert forecast["model"]["weight_dtype"] == "bf16"
    assert forecast["model"]["confidence"] == "exact"
    assert forecast["timeline"]["release_first"] is False
    assert [p["placement"] for p in forecast["phases"]] == ["fits", "fits", "unknown"]
    assert "Forecast for 512 x 256, 33 frames, 2 at once" in words
    assert "Two models in turn" in words


def test_a_vae_gives_the_decode_a_figure(client: Client, companions: Path) -> None:
    _, details = check(client, model_name=SD15, vae_name=VAE, width=64, height=64)
    decode = details["forecast"]["phases"][2]
    assert decode["placement"] == "fits"
    assert decode["weights"]["confidence"] == "exact"
    assert decode["working"]["bytes"] > 0


def test_the_vae_of_a_checkpoint_counts_without_being_named(client: Client) -> None:
    _, details = check(client, model_name=SD15)
    assert details["forecast"]["size"]["usual"]
    assert details["forecast"]["phases"][2]["weights"]["bytes"] > 0


def test_the_inputs_offer_what_can_be_asked(client: Client, companions: Path) -> None:
    inputs = client.object_info("CheckCompatibility")["input"]["optional"]

    def options(name: str) -> list[str]:
        kind, extra = inputs[name]
        return list(extra["options"] if kind == "COMBO" else kind)

    assert options("weight_dtype") == list(WEIGHT_DTYPES)
    assert {"none", WAN, SD15} <= set(options("second_model_name"))
    assert {"none", CLIP} <= set(options("clip_name"))
    assert {"none", VAE} <= set(options("vae_name"))
    assert (inputs["width"][1]["min"], inputs["width"][1]["max"]) == (0, 16384)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"width": -1}, "from 0 to 16384"),
        ({"width": "wide"}, "whole number"),
        ({"batch_size": 0}, "from 1 to"),
        ({"weight_dtype": "fp2"}, "Use one of default"),
        ({"vae": "gone.safetensors"}, "There is no model"),
        ({"clip": 7}, "as text"),
        ({"second_model": "../up.safetensors"}, "outside the model folders"),
    ],
)
def test_what_cannot_be_is_refused_by_the_route(client: Client, body: dict[str, Any], words: str) -> None:
    answer = client.post("/managed-models/check", {"model": WAN, **body}, **OWN)
    assert answer.status_code in (400, 404)
    error = answer.json()["error"]
    assert words in f"{error['message']} {error.get('details', '')}{error.get('remedy', '')}"


@pytest.mark.parametrize("inputs", [{"width": -1}, {"length": 100000}, {"batch_size": 0}])
def test_absurd_sizes_are_refused_by_the_node(client: Client, inputs: dict[str, Any]) -> None:
    client.refused({"node": node("CheckCompatibility", model_name=WAN, **inputs)})
