"""Loading one file: options, the judgement before, and the words after."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from managed_models.manager import ModelInfo, ModelType
from managed_models.manager.compatibility import ModelCompatibilityChecker
from managed_models.manager.demo import layouts
from managed_models.manager.demo.tiny import write_random_model
from managed_models.manager.errors import (
    BadInput,
    Incompatible,
    LoadFailed,
    ManagedModelsError,
    ModelNotFound,
    NotAvailable,
    NotSafetensors,
    UnfilledOutputError,
)
from managed_models.manager.formats.safetensors import read_header
from managed_models.manager.host import (
    WEIGHT_DTYPES,
    DeviceUse,
    LoadedParts,
    LoadRequest,
    ModelFile,
    Ram,
    SystemSnapshot,
)
from managed_models.manager.identify import identify
from managed_models.manager.library import Library
from managed_models.manager.load_options import UnfilledOutput, text_encoder_request, unfilled_output
from managed_models.manager.loading import Loader
from managed_models.manager.local_host import LocalHost
from managed_models.manager.pool import ModelPool, PoolKey
from managed_models.manager.quantize.request import QuantizeRequest
from managed_models.manager.quantize.service import Quantizer
from managed_models.manager.registry import Registry
from managed_models.manager.report import render_load
from managed_models.manager.units import GB
from support.files import shapes_file
from support.gguf_files import gguf_file
from support.machines import CPU_ONLY, nvidia

WAN = layouts.wan21_t2v(width=64, ffn=128, layers=1)


class Recorder(LocalHost):
    """The bare machine, which also remembers what it was asked to load."""

    def __init__(self, roots: tuple[Path, ...] = (), snapshot: SystemSnapshot = CPU_ONLY) -> None:
        super().__init__(roots)
        self._snapshot = snapshot
        self.requests: list[LoadRequest] = []

    def system(self) -> SystemSnapshot:
        return self._snapshot

    def load(self, request: LoadRequest) -> LoadedParts:
        self.requests.append(request)
        return super().load(request)


def make_loader(host: Recorder, registry: Registry | None = None) -> Loader:
    library = Library(host, registry or Registry())
    return Loader(host, library, ModelCompatibilityChecker(host, library.identity), ModelPool(host))


@pytest.fixture
def host() -> Recorder:
    return Recorder()


@pytest.fixture
def loader(host: Recorder) -> Loader:
    return make_loader(host)


@pytest.fixture
def wan(tmp_path: Path) -> Path:
    path = tmp_path / "wan.safetensors"
    write_random_model(path, WAN)
    return path


@pytest.fixture
def quantized(tmp_path: Path, wan: Path) -> Path:
    output = tmp_path / "wan_fp8.safetensors"
    Quantizer(lambda path: identify(read_header(path))).quantize(wan, output, QuantizeRequest())
    return output


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    layout = {f"model.diffusion_model.{name}": shape for name, shape in WAN.items()}
    path = tmp_path / "all.safetensors"
    write_random_model(path, layout | {"first_stage_model.decoder.conv_in.weight": (8, 4, 3, 3)})
    return path


# What is loaded


def test_a_diffusion_model_is_loaded_as_the_host_would(wan: Path, host: Recorder, loader: Loader) -> None:
    loaded = loader.load("wan.safetensors", wan)
    assert host.requests == [LoadRequest(wan, ModelType.DIFFUSION, "default", "bf16")]
    assert set(loaded.parts.model) == set(WAN)
    assert loaded.parts.size_bytes == sum(info.nbytes for info in read_header(wan).tensors.values())
    assert [model.path for model in host.resident()] == [wan]


@pytest.mark.parametrize("weight_dtype", WEIGHT_DTYPES)
def test_a_weight_dtype_reaches_the_host(
    wan: Path, host: Recorder, loader: Loader, weight_dtype: str
) -> None:
    loaded = loader.load("wan.safetensors", wan, weight_dtype)
    assert host.requests[0].weight_dtype == weight_dtype
    assert loaded.details["notes"] == []
    assert loaded.details["weight_dtype"] == weight_dtype
    expected = {"fp8_e4m3fn_fast": "float8_e4m3fn", "fp16": "float16", "fp32": "float32"}
    if weight_dtype in expected:
        weight = loaded.parts.model["blocks.0.ffn.0.weight"]
        assert weight.dtype == getattr(torch, expected[weight_dtype])


@pytest.mark.parametrize(
    ("folder", "whole"), [("diffusion_models", False), ("checkpoints", True), ("", False)]
)
def test_the_folder_says_whether_more_parts_may_be_inside(
    wan: Path, host: Recorder, loader: Loader, folder: str, whole: bool
) -> None:
    loader.load("wan.safetensors", wan, folder=folder)
    assert (host.requests[0].kind is ModelType.CHECKPOINT) is whole


def test_a_checkpoint_is_told_by_what_it_holds(checkpoint: Path, host: Recorder, loader: Loader) -> None:
    loaded = loader.load("all.safetensors", checkpoint, folder="diffusion_models")
    assert host.requests[0].kind is ModelType.CHECKPOINT
    assert loaded.details["identity"]["parts"] == ["vae"]


def test_a_checkpoint_has_no_fast_fp8(checkpoint: Path, host: Recorder, loader: Loader) -> None:
    loaded = loader.load("all.safetensors", checkpoint, "fp8_e4m3fn_fast")
    assert host.requests[0].weight_dtype == "fp8_e4m3fn"
    (note,) = loaded.details["notes"]
    assert "no fast fp8" in note


@pytest.mark.parametrize("weight_dtype", ["fp8_e4m3fn", "bf16", "fp16", "fp32", "fp8_e4m3fn_fast"])
def test_a_quantized_file_keeps_its_own_precision_and_says_so(
    quantized: Path, host: Recorder, loader: Loader, weight_dtype: str
) -> None:
    loaded = loader.load("wan_fp8.safetensors", quantized, weight_dtype)
    assert host.requests[0].weight_dtype == "default"
    assert loaded.details["notes"] == [
        f"weight_dtype {weight_dtype} is left aside: the file is quantized (fp8_e4m3fn, scaled) "
        "and keeps its own precision."
    ]
    assert loaded.details["dtype"] == "fp8_e4m3fn, scaled"
    assert f"Note: weight_dtype {weight_dtype} is left aside" in render_load(loaded.details)


@pytest.mark.parametrize("weight_dtype", ["default", "as_stored"])
def test_a_quantized_file_needs_no_note_where_nothing_was_asked(
    quantized: Path, loader: Loader, weight_dtype: str
) -> None:
    assert loader.load("wan_fp8.safetensors", quantized, weight_dtype).details["notes"] == []


def test_plain_int8_weights_are_stored_as_the_host_likes(
    tmp_path: Path, host: Recorder, loader: Loader
) -> None:
    path = shapes_file(tmp_path / "wan.safetensors", WAN, "I8")
    loader.load("wan.safetensors", path, "as_stored")
    assert host.requests[0].weight_dtype == "default"


def test_the_type_in_memory_is_named_when_nothing_was_asked(wan: Path, loader: Loader) -> None:
    details = loader.load("wan.safetensors", wan).details
    assert details["dtype"] == "bf16"
    assert "as bf16 (weight_dtype default)" in render_load(details)


# Where it goes


class FourCards(Recorder):
    """A machine with four cards of 24 GB; ``free`` says in bytes what is left on each."""

    def __init__(self) -> None:
        super().__init__(snapshot=nvidia(cards=4))
        self.free = [22 * GB] * 4
        self.obeys = True

    def devices(self) -> list[str]:
        return [*(f"cuda:{i}" for i in range(4)), "cpu"]

    def device_use(self) -> list[DeviceUse]:
        return [DeviceUse(f"cuda:{i}", "Card", 24 * GB, free, None, None) for i, free in enumerate(self.free)]

    def places(self, kind: ModelType) -> bool:
        return self.obeys


def test_a_model_goes_to_the_card_with_room_and_stays_there(wan: Path) -> None:
    host = FourCards()
    loader = make_loader(host)
    host.free = [0, 0, 22 * GB, 0]
    first = loader.load("wan.safetensors", wan)
    assert [request.device for request in host.requests] == ["cuda:2"]
    assert "Note: cuda:2 (Card) has room for it" in render_load(first.details)
    host.free = [22 * GB] * 4
    again = loader.load("wan.safetensors", wan)
    assert again.details["shared"]
    assert len(host.requests) == 1


def test_a_chosen_device_is_another_copy(wan: Path) -> None:
    host = FourCards()
    loader = make_loader(host)
    kept = [loader.load("wan", wan, device=device) for device in ("default", "cuda:0", "cuda:1", "cpu")]
    assert [request.device for request in host.requests] == ["default", "cuda:1", "cpu"]
    assert [loaded.details["shared"] for loaded in kept] == [False, True, False, False]


def test_a_copy_that_somebody_put_on_the_cpu_is_not_what_default_means(wan: Path) -> None:
    host = FourCards()
    loader = make_loader(host)
    kept = loader.load("wan", wan, device="cpu")
    assert not loader.load("wan", wan).details["shared"]
    assert kept.parts.model is not None


def test_a_device_that_is_not_here_is_a_warning(wan: Path, host: Recorder, loader: Loader) -> None:
    loaded = loader.load("wan", wan, device="cuda:1")
    assert host.requests[0].device == "default"
    assert loaded.details["notes"] == ["device cuda:1 is not on this machine, which has cpu."]


def test_wide_weights_that_do_not_fit_the_ram_are_a_note(wan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Recorder()
    size = wan.stat().st_size
    monkeypatch.setattr(host, "ram", lambda: Ram(64 * GB, int(size * 1.5)))
    (note,) = make_loader(host).load("wan", wan).details["notes"]
    assert "as_stored" in note
    assert make_loader(host).load("wan", wan, "as_stored").details["notes"] == []


# How attention is computed


class WithAttention(Recorder):
    """A host that has one backend."""

    def with_attention(self, parts: LoadedParts, name: str) -> LoadedParts:
        if name != "sub_quad":
            raise NotAvailable(f"There is no attention backend {name!r} here.", "This ComfyUI has sub_quad.")
        return self.share(parts)


def test_attention_concerns_this_handle_alone(wan: Path) -> None:
    host = WithAttention()
    loader = make_loader(host)
    plain = loader.load("wan", wan)
    other = loader.load("wan", wan, attention="sub_quad")
    assert other.details["shared"]
    assert other.parts.model is not plain.parts.model
    assert "Attention: sub_quad" in render_load(other.details)
    assert "Attention" not in render_load(plain.details)
    assert "Attention" not in render_load(loader.load("wan", wan).details)


@pytest.mark.parametrize("make", [Recorder, WithAttention])
def test_attention_that_is_not_here_falls_back_with_a_warning(wan: Path, make: type[Recorder]) -> None:
    loaded = make_loader(make()).load("wan", wan, attention="sage")
    assert loaded.details["attention"] == "default"
    (note,) = loaded.details["notes"]
    assert "no attention backend 'sage'" in note
    assert note.endswith("ComfyUI's own choice is used.")


# How long it stays


def test_keep_alive_reaches_the_pool_and_the_report(wan: Path, host: Recorder) -> None:
    library = Library(host, Registry())
    pool = ModelPool(host)
    loader = Loader(host, library, ModelCompatibilityChecker(host, library.identity), pool)
    loaded = loader.load("wan", wan, keep_alive="30s")
    assert [model.keep_alive for model in pool.models()] == [30.0]
    assert "Keep alive: 30s" in render_load(loaded.details)
    longer = loader.load("wan", wan, keep_alive="1h")
    assert [model.keep_alive for model in pool.models()] == [3600.0]
    assert longer.details["shared"]


def test_a_time_that_is_none_is_refused_before_anything_is_read(
    wan: Path, host: Recorder, loader: Loader
) -> None:
    with pytest.raises(BadInput, match="not a length of time"):
        loader.load("wan", wan, keep_alive="soon")
    assert host.requests == []


# Text encoders and VAEs


@pytest.fixture
def encoder(tmp_path: Path) -> ModelFile:
    path = shapes_file(
        tmp_path / "clip_l.safetensors",
        {
            "text_model.embeddings.token_embedding.weight": (64, 8),
            "text_model.encoder.layers.0.mlp.fc1.weight": (32, 8),
        },
    )
    return ModelFile("text_encoders", path.name, path)


@pytest.fixture
def vae(tmp_path: Path) -> Path:
    path = tmp_path / "vae.safetensors"
    write_random_model(path, layouts.taesd())
    return path


def test_a_text_encoder_is_shared(encoder: ModelFile, host: Recorder, loader: Loader) -> None:
    first = loader.load_text_encoder([encoder], "flux")
    again = loader.load_text_encoder([encoder], "flux")
    other = loader.load_text_encoder([encoder], "sd3")
    assert [loaded.details["shared"] for loaded in (first, again, other)] == [False, True, False]
    assert [request.kind for request in host.requests] == [ModelType.TEXT_ENCODER] * 2
    assert render_load(again.details).startswith("clip_l.safetensors is in memory already")


def test_the_order_of_an_encoders_files_is_kept_and_three_say_what_they_are_for(encoder: ModelFile) -> None:
    paths = [encoder.path, encoder.path.with_name("t5.safetensors"), encoder.path.with_name("g.safetensors")]
    request = text_encoder_request(paths, "sd3", "default")
    assert request.paths == tuple(paths)
    assert request.name == "clip_l.safetensors + t5.safetensors + g.safetensors"
    assert request.encoder_type == text_encoder_request(paths, "flux", "default").encoder_type
    assert text_encoder_request(paths[:2], "flux", "default").encoder_type == "flux"


def test_the_same_encoder_on_another_device_is_another_copy(encoder: ModelFile) -> None:
    host = FourCards()
    loader = make_loader(host)
    kept = [loader.load_text_encoder([encoder], "flux", device=device) for device in ("default", "cpu")]
    assert [request.device for request in host.requests] == ["default", "cpu"]
    assert len({PoolKey.of(request) for request in host.requests}) == len(kept)


def test_a_vae_is_shared(vae: Path, host: Recorder, loader: Loader) -> None:
    first = loader.load_vae("vae.safetensors", [vae])
    assert loader.load_vae("vae.safetensors", [vae]).details["shared"]
    assert [request.kind for request in host.requests] == [ModelType.VAE]
    assert render_load(first.details).startswith("Loaded vae.safetensors in")


def test_what_no_file_holds_is_loaded_beside_the_pool(host: Recorder) -> None:
    library = Library(host, Registry())
    pool = ModelPool(host)
    host.load = lambda request: LoadedParts(None, vae=object())  # type: ignore[method-assign]
    loader = Loader(host, library, ModelCompatibilityChecker(host, library.identity), pool)
    loaded = loader.load_vae("pixel_space", [])
    assert loaded.parts.vae is not None
    assert pool.models() == []
    assert json.loads(json.dumps(loaded.details)) == loaded.details
    assert render_load(loaded.details).startswith("Loaded pixel_space")


def test_a_file_of_another_kind_is_no_text_encoder_and_no_vae(
    wan: Path, vae: Path, host: Recorder, loader: Loader
) -> None:
    with pytest.raises(BadInput, match="a text encoder is expected"):
        loader.load_text_encoder([ModelFile("text_encoders", "wan", wan)], "wan")
    with pytest.raises(BadInput, match="a VAE is expected"):
        loader.load_vae("wan", [wan])
    assert host.requests == []


# Refusals


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weight_dtype": "fp4"}, "weight_dtype is 'fp4'"),
        ({"weight_dtype": ""}, "weight_dtype is ''"),
        ({"on_misfit": "ignore"}, "on_misfit is 'ignore'"),
    ],
)
def test_an_unknown_option_is_refused_before_anything_is_read(
    tmp_path: Path, host: Recorder, loader: Loader, options: dict[str, str], words: str
) -> None:
    with pytest.raises(BadInput, match=words):
        loader.load("x", tmp_path / "not there", **options)
    assert host.requests == []


@pytest.mark.parametrize("on_misfit", ["warn", "error", "use_smaller"])
def test_a_file_of_another_role_is_never_loaded(
    tmp_path: Path, host: Recorder, loader: Loader, on_misfit: str
) -> None:
    path = shapes_file(tmp_path / "lora.safetensors", {"blocks.0.lora_down.weight": (4, 8)})
    with pytest.raises(BadInput, match=r"lora\.safetensors is a LoRA"):
        loader.load("lora.safetensors", path, on_misfit=on_misfit)
    assert host.requests == []


def test_a_file_that_is_not_there(tmp_path: Path, loader: Loader) -> None:
    with pytest.raises(ModelNotFound):
        loader.load("x", tmp_path / "x.safetensors")


def test_a_file_of_another_kind_is_refused(tmp_path: Path, host: Recorder, loader: Loader) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"PK\x03\x04" + bytes(60))
    with pytest.raises(NotSafetensors, match="pickle"):
        loader.load("x", path)
    assert host.requests == []


def test_gguf_is_left_to_its_own_loader(tmp_path: Path, host: Recorder, loader: Loader) -> None:
    path = gguf_file(tmp_path / "x.gguf", {"blocks.0.q.weight": (4, 256)}, "wan")
    text = gguf_file(tmp_path / "t.gguf", {"token_embd.weight": (4, 256)}, "t5")
    with pytest.raises(NotSafetensors, match="ComfyUI-GGUF"):
        loader.load("x", path)
    with pytest.raises(NotSafetensors, match="ComfyUI-GGUF"):
        loader.load_text_encoder([ModelFile("text_encoders", "t.gguf", text)], "wan")
    with pytest.raises(NotSafetensors, match="ComfyUI-GGUF"):
        loader.load_vae("t.gguf", [text])
    assert host.requests == []


def test_an_unknown_architecture_is_loaded_with_a_warning_or_not_at_all(
    tmp_path: Path, host: Recorder, loader: Loader
) -> None:
    path = tmp_path / "new.safetensors"
    write_random_model(path, {"layer.weight": (32, 32)})
    with pytest.raises(Incompatible, match="Nobody here recognises") as caught:
        loader.load("new.safetensors", path, on_misfit="error")
    assert "on_misfit" in caught.value.remedy
    assert host.requests == []
    loaded = loader.load("new.safetensors", path, on_misfit="warn")
    assert [f["code"] for f in loaded.details["findings"]] == ["unknown"]
    assert "Problem: Nobody here recognises" in render_load(loaded.details)


def test_what_is_merely_slow_or_emulated_does_not_stop_a_load(quantized: Path) -> None:
    host = Recorder(snapshot=nvidia(24.0, "8.6"))
    loaded = make_loader(host).load("wan_fp8.safetensors", quantized, on_misfit="error")
    assert [f["code"] for f in loaded.details["findings"]] == ["emulated"]
    assert len(host.requests) == 1


def test_a_blocked_torch_stops_a_load_that_is_told_to(quantized: Path) -> None:
    host = Recorder(snapshot=replace(nvidia(), torch_version="2.0.1"))
    with pytest.raises(Incompatible, match=r"PyTorch knows since 2\.1"):
        make_loader(host).load("wan_fp8.safetensors", quantized, on_misfit="error")
    assert host.requests == []


@pytest.mark.parametrize("on_misfit", ["warn", "error"])
def test_layers_that_the_host_would_read_as_noise_are_never_loaded(quantized: Path, on_misfit: str) -> None:
    host = Recorder(snapshot=replace(nvidia(), layer_formats=frozenset()))
    with pytest.raises(Incompatible, match="make noise") as caught:
        make_loader(host).load("wan_fp8.safetensors", quantized, on_misfit=on_misfit)
    assert "Update ComfyUI" in caught.value.remedy
    assert host.requests == []


def test_what_was_registered_for_the_file_counts_when_it_is_loaded(wan: Path) -> None:
    host, registry = Recorder(), Registry()
    registry.put(ModelInfo("wan", ModelType.DIFFUSION, wan, min_vram_gb=80.0, version="2.1.0"))
    loader = make_loader(host, registry)
    loaded = loader.load("wan.safetensors", wan, on_misfit="warn")
    assert loaded.details["version"] == "2.1.0"
    assert [f["code"] for f in loaded.details["findings"]] == ["vram"]
    with pytest.raises(Incompatible, match=r"80\.0 GB of VRAM"):
        loader.load("wan.safetensors", wan, on_misfit="error")
    assert len(host.requests) == 1


def test_a_load_that_the_host_refuses(tmp_path: Path, wan: Path) -> None:
    class Refuses(Recorder):
        def load(self, request: LoadRequest) -> LoadedParts:
            raise LoadFailed("Out of memory.", "Unload something.")

    with pytest.raises(LoadFailed, match="Out of memory"):
        make_loader(Refuses()).load("wan.safetensors", wan)


# The details


def test_the_details_are_json_and_render_alike_afterwards(wan: Path, loader: Loader) -> None:
    details = loader.load("wan.safetensors", wan).details
    restored = json.loads(json.dumps(details))
    assert restored == details
    assert render_load(restored) == render_load(details)
    assert details["size_bytes"] == wan.stat().st_size
    assert details["unfilled"] == {"CLIP": "use 'Load CLIP'", "VAE": "use 'Load VAE'"}
    assert (details["model"], details["version"], details["device"]) == ("wan.safetensors", None, "cpu")


def test_only_what_is_missing_counts_as_unfilled(wan: Path) -> None:
    class Whole(Recorder):
        def load(self, request: LoadRequest) -> LoadedParts:
            return replace(super().load(request), clip=object(), vae=object())

    assert make_loader(Whole()).load("wan.safetensors", wan).details["unfilled"] == {}


# Outputs that a file cannot fill


@pytest.mark.parametrize(
    ("output", "node", "use"),
    [
        ("CLIP", "Load CLIP", lambda part: part.tokenize("a cat")),
        ("VAE", "Load VAE", lambda part: part.decode(None)),
    ],
)
def test_an_unfilled_output_names_the_loader_when_it_is_used(
    output: str, node: str, use: Callable[[Any], Any]
) -> None:
    part = unfilled_output(output, "wan.safetensors")
    with pytest.raises(UnfilledOutputError) as caught:
        use(part)
    assert str(caught.value) == (
        f"wan.safetensors holds no {output}, so LoadManagedModel's {output} output is empty. "
        f"Connect ComfyUI's {node!r} node instead."
    )
    assert isinstance(caught.value, ManagedModelsError)
    assert caught.value.to_dict()["code"] == "unfilled_output"


@pytest.mark.parametrize("name", ["decode", "patcher", "first_stage_model", "_private"])
def test_an_unfilled_output_has_no_attributes(name: str) -> None:
    part = unfilled_output("VAE", "wan.safetensors")
    assert not hasattr(part, name)
    assert getattr(part, name, "nothing") == "nothing"


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy, lambda part: pickle.loads(pickle.dumps(part))])
def test_a_copy_of_an_unfilled_output_says_the_same(make: Callable[[Any], Any]) -> None:
    part = make(unfilled_output("VAE", "wan.safetensors"))
    assert isinstance(part, UnfilledOutput)
    with pytest.raises(UnfilledOutputError, match=r"wan\.safetensors holds no VAE"):
        part.decode  # noqa: B018


def test_looking_at_an_unfilled_output_does_no_harm() -> None:
    part = unfilled_output("VAE", "wan.safetensors")
    assert "UnfilledOutput" in repr(part)
    assert str(part)
    assert part is not None
    assert bool(part)
    assert hash(part) == hash(part)
    assert isinstance(dir(part), list)
    assert not callable(part)
