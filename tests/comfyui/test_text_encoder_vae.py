"""LoadManagedTextEncoder and LoadManagedVAE, compared with the stock loaders."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from comfyui.test_inside import run_inside
from support.comfy_client import SURROUNDINGS, Client, node, relative_l2, reports, sampler
from support.comfyui import ComfyUI, ComfyUIServer
from support.companions import CLIP, CLIP_2, PAIR, VAE, write_companions

pytestmark = pytest.mark.comfyui

CHECKPOINT = "tiny_sd15_checkpoint_bf16.safetensors"
FLUX = "tiny_flux_bf16.safetensors"


@pytest.fixture(scope="module")
def inside(comfyui: ComfyUI, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    base = tmp_path_factory.mktemp("stock")
    shutil.copytree(tiny_models, base / "models")
    write_companions(base / "models")
    return run_inside(comfyui, "stock", base)


@pytest.fixture(scope="module", autouse=True)
def companions(comfy_server: ComfyUIServer) -> Iterator[Path]:
    """The server's models folder, with text encoders and VAEs while this module runs."""
    models = comfy_server.base / "models"
    write_companions(models)
    yield models
    for folder in ("text_encoders", "vae", "vae_approx"):
        for path in (models / folder).iterdir():
            path.unlink()


def test_a_stock_loader_and_a_managed_one_ask_for_the_same_load(inside: dict[str, Any]) -> None:
    verdicts = {name: found for name, found in inside.items() if isinstance(found, bool)}
    assert len(verdicts) > 20
    assert not [name for name, found in verdicts.items() if not found]


# Text encoders


def encoded(clip: list[Any], latent: str) -> dict[str, Any]:
    """Encode a text and sample with it, so that the test can read what came of it.

    The tiny encoder has its first two layers only; what the missing ones hold is no number.
    """
    return {
        f"layer_{latent}": node("CLIPSetLastLayer", clip=clip, stop_at_clip_layer=-11),
        f"text_{latent}": node("CLIPTextEncode", text="a cat on a mat", clip=[f"layer_{latent}", 0]),
        **sampler(["model", 0], latent, text=f"text_{latent}"),
    }


def with_text(**loaders: dict[str, Any]) -> dict[str, Any]:
    """A prompt that samples with each loader's text encoder, into a latent of the loader's name."""
    prompt: dict[str, Any] = {
        "model": node("CheckpointLoaderSimple", ckpt_name=CHECKPOINT),
        "latent": SURROUNDINGS["sd15"]["latent"],
    }
    for name, loader in loaders.items():
        prompt |= {name: loader, **encoded([name, 0], f"encoder_{name}")}
    return prompt


@pytest.mark.parametrize("device", ["default", "cpu"])
def test_a_text_encoder_encodes_as_the_stock_loaders_does(client: Client, device: str) -> None:
    prompt = with_text(
        managed=node("LoadManagedTextEncoder", clip_name=CLIP, type="stable_diffusion", device=device),
        stock=node("CLIPLoader", clip_name=CLIP, type="stable_diffusion", device=device),
        other=node("CLIPLoader", clip_name=CLIP_2, type="stable_diffusion"),
    )
    words = reports(client.run(prompt), "managed")
    assert CLIP in words
    assert "for cpu" in words
    assert relative_l2(client.latent("encoder_managed"), client.latent("encoder_stock")) == 0
    assert relative_l2(client.latent("encoder_managed"), client.latent("encoder_other")) > 0


def test_an_encoder_of_two_files_names_both(client: Client) -> None:
    prompt = {
        "managed": node("LoadManagedTextEncoder", clip_name=CLIP, clip_name2=CLIP_2, type="sdxl"),
        "words": node("PreviewAny", source=["managed", 0]),
    }
    assert f"Loaded {CLIP} + {CLIP_2}" in reports(client.run(prompt), "managed")


def test_an_encoder_is_loaded_once_for_all_who_ask(client: Client) -> None:
    client.free()
    first = {
        "managed": node("LoadManagedTextEncoder", clip_name=CLIP, type="wan"),
        "end": node("PreviewAny", source=["managed", 0]),
    }
    assert reports(client.run(first), "managed").startswith(f"Loaded {CLIP}")
    second = {
        "managed": node("LoadManagedTextEncoder", clip_name=CLIP, type="wan", keep_alive="10m"),
        "end": node("PreviewAny", source=["managed", 0]),
    }
    words = reports(client.run(second), "managed")
    assert "is in memory already and is shared" in words
    assert "Keep alive: 10m" in words


def test_a_replaced_encoder_is_noticed(client: Client, companions: Path) -> None:
    folder = companions / "text_encoders"
    _put(folder / CLIP, folder / "replaced.safetensors")
    prompt = {
        "managed": node("LoadManagedTextEncoder", clip_name="replaced.safetensors"),
        "end": node("PreviewAny", source=["managed", 0]),
    }
    client.run(prompt)
    assert "managed" not in client.executed(prompt)
    _put(folder / CLIP_2, folder / "replaced.safetensors")
    assert reports(client.run(prompt), "managed").startswith("Loaded")


# VAEs


@pytest.mark.parametrize("name", [VAE, PAIR])
def test_a_vae_decodes_as_the_stock_loaders_does(client: Client, name: str) -> None:
    plain = name.partition(".")[0]
    prompt = {
        "latent": node("EmptyLatentImage", width=128, height=128, batch_size=1),
        "checkpoint": node("CheckpointLoaderSimple", ckpt_name=CHECKPOINT),
        "text": SURROUNDINGS["sd15"]["text"],
        **sampler(["checkpoint", 0], f"vae_sampled_{plain}"),
        "managed": node("LoadManagedVAE", vae_name=name),
        "stock": node("VAELoader", vae_name=name),
    }
    for loader in ("managed", "stock"):
        there = f"vae_{loader}_{plain}"
        prompt |= {
            there: node("VAEDecode", samples=[f"vae_sampled_{plain}", 0], vae=[loader, 0]),
            f"back_{there}": node("VAEEncode", pixels=[there, 0], vae=["stock", 0]),
            f"save_{there}": node("SaveLatent", samples=[f"back_{there}", 0], filename_prefix=there),
        }
    words = reports(client.run(prompt), "managed")
    assert name in words
    assert "for cpu" in words
    assert relative_l2(client.latent(f"vae_managed_{plain}"), client.latent(f"vae_stock_{plain}")) == 0


def test_pixel_space_needs_no_file(client: Client) -> None:
    prompt = {
        "managed": node("LoadManagedVAE", vae_name="pixel_space"),
        "picture": node("EmptyImage", width=64, height=64, batch_size=1, color=255),
        "end": node("PreviewAny", source=["managed", 0]),
    }
    assert "pixel_space" in reports(client.run(prompt), "managed")


def test_a_vae_is_loaded_once_for_all_who_ask(client: Client) -> None:
    client.free()
    prompt = {
        "managed": node("LoadManagedVAE", vae_name=VAE),
        "end": node("PreviewAny", source=["managed", 0]),
    }
    assert reports(client.run(prompt), "managed").startswith(f"Loaded {VAE}")
    prompt["managed"]["inputs"]["keep_alive"] = "1h"
    assert "is shared: nothing was read" in reports(client.run(prompt), "managed")


# What a person can get wrong


@pytest.mark.parametrize(
    ("name", "inputs", "words"),
    [
        ("LoadManagedTextEncoder", {"clip_name": "gone.safetensors"}, "There is no model 'gone"),
        ("LoadManagedTextEncoder", {"clip_name": CLIP, "clip_name3": "gone"}, "There is no model 'gone'"),
        ("LoadManagedTextEncoder", {"clip_name": CLIP, "keep_alive": "soon"}, "not a length of time"),
        ("LoadManagedVAE", {"vae_name": "gone.safetensors"}, "There is no model 'gone"),
        ("LoadManagedVAE", {"vae_name": "../../secret"}, "outside the model folders"),
        ("LoadManagedVAE", {"vae_name": VAE, "keep_alive": "-3s"}, "not a length of time"),
        ("LoadManagedModel", {"model_name": FLUX, "keep_alive": ""}, "not a length of time"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(
    client: Client, name: str, inputs: dict[str, Any], words: str
) -> None:
    prompt = {"node": node(name, **inputs), "end": node("PreviewAny", source=["node", 0])}
    assert words in client.refused(prompt)


@pytest.mark.parametrize(
    ("name", "key"), [("LoadManagedTextEncoder", "clip_name"), ("LoadManagedVAE", "vae_name")]
)
def test_a_name_may_come_over_a_link(client: Client, name: str, key: str) -> None:
    file = {"clip_name": CLIP, "vae_name": VAE}[key]
    prompt = {
        "text": node("PrimitiveString", value=file),
        "any": node("MemoryReport", value=["text", 0]),
        "node": node(name, **{key: ["any", 0]}),
        "end": node("PreviewAny", source=["node", 0]),
    }
    assert file in reports(client.run(prompt), "node")
    prompt["text"] = node("PrimitiveString", value="gone.safetensors")
    assert "There is no model 'gone" in client.fails(prompt)["exception_message"]


def test_a_device_that_is_not_here_is_a_warning(client: Client) -> None:
    prompt = {
        "clip": node("LoadManagedTextEncoder", clip_name=CLIP, device="cuda:7"),
        "vae": node("LoadManagedVAE", vae_name=VAE, device="cuda:7"),
        "clip_end": node("PreviewAny", source=["clip", 0]),
        "vae_end": node("PreviewAny", source=["vae", 0]),
    }
    outputs = client.run(prompt)
    for name in ("clip", "vae"):
        assert "device cuda:7 is not on this machine, which has cpu" in reports(outputs, name)


def test_a_file_of_another_kind_is_told_apart(client: Client, companions: Path) -> None:
    shutil.copy(companions / "vae" / VAE, companions / "text_encoders" / "a_vae.safetensors")
    prompt = {
        "clip": node("LoadManagedTextEncoder", clip_name="a_vae.safetensors"),
        "end": node("PreviewAny", source=["clip", 0]),
    }
    assert "a text encoder is expected" in client.fails(prompt)["exception_message"]


def _put(source: Path, target: Path) -> None:
    """Put another file in place as a download does: beside it first, then renamed."""
    beside = target.with_suffix(".part")
    shutil.copy(source, beside)
    os.replace(beside, target)
