"""What every host has to do. Plain functions with plain assertions, so that they run in ComfyUI's Python too.

Each takes the host and a ``models`` folder that it was given, with the tiny models in it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from managed_models.manager.errors import HostBusy, HostRequired, LoadFailed, NotAvailable
from managed_models.manager.forecast.facts import Confidence
from managed_models.manager.formats.safetensors import read_header
from managed_models.manager.host import WEIGHT_DTYPES, Host, LoadRequest
from managed_models.manager.identify import identify
from managed_models.manager.model import ModelType
from managed_models.manager.watch import JobProgress, tell

WAN = "tiny_wan21_t2v_bf16.safetensors"
CHECKPOINT = "tiny_sd15_checkpoint_bf16.safetensors"


def has_a_name(host: Host, models: Path) -> None:
    assert host.name
    assert host.system().host == host.name


def describes_the_machine(host: Host, models: Path) -> None:
    system = host.system()
    assert system.total_ram_bytes >= system.available_ram_bytes > 0
    assert system.cpu_count >= 1
    assert system.torch_version
    assert system.device == ("cpu" if not system.gpus else system.gpus[0].backend)
    info = system.to_dict()
    for key in (
        "pytorch_version",
        "cuda_available",
        "cuda_version",
        "total_ram_gb",
        "available_ram_gb",
        "gpu_devices",
    ):
        assert key in info, key


def lists_model_files_as_loaders_do(host: Host, models: Path) -> None:
    assert {"diffusion_models", "checkpoints"} <= set(host.folder_types())
    assert WAN in host.names("diffusion_models")
    assert list(host.names("diffusion_models")) == sorted(host.names("diffusion_models"))
    assert list(host.names("no_such_folder")) == []


def locates_what_it_lists(host: Host, models: Path) -> None:
    path = host.locate("diffusion_models", WAN)
    assert path is not None
    assert path.samefile(models / "diffusion_models" / WAN)
    assert host.locate("diffusion_models", "gone.safetensors") is None
    assert host.locate("no_such_folder", WAN) is None


def names_its_folders(host: Host, models: Path) -> None:
    found = {(folder.type, folder.path.resolve()) for folder in host.folders()}
    assert ("diffusion_models", (models / "diffusion_models").resolve()) in found


def finds_files_that_come_later(host: Host, models: Path) -> None:
    late = models / "diffusion_models" / "sub" / "late.safetensors"
    late.parent.mkdir(exist_ok=True)
    late.write_bytes(b"")
    assert str(Path("sub", "late.safetensors")) in host.names("diffusion_models")
    late.unlink()
    assert host.locate("diffusion_models", str(Path("sub", "late.safetensors"))) is None


def detects_or_says_nothing(host: Host, models: Path) -> None:
    header = read_header(models / "diffusion_models" / WAN)
    detection = host.detect(header)
    assert detection is None or detection.comfy_class == "WAN21_T2V"
    assert identify(header, host.detect).architecture == "wan-t2v"


def loads_every_weight_dtype(host: Host, models: Path) -> None:
    for weight_dtype in WEIGHT_DTYPES:
        parts = host.load(
            LoadRequest(models / "diffusion_models" / WAN, ModelType.DIFFUSION, weight_dtype, "bf16")
        )
        assert parts.model is not None
        assert parts.size_bytes > 0
        assert parts.device


def keeps_the_stored_precision_when_asked(host: Host, models: Path) -> None:
    path = models / "diffusion_models" / WAN
    parts = host.load(LoadRequest(path, ModelType.DIFFUSION, "as_stored", "bf16"))
    assert abs(parts.size_bytes - path.stat().st_size) < 0.05 * path.stat().st_size


def loads_where_it_is_told(host: Host, models: Path) -> None:
    assert host.devices()[-1] == "cpu"
    path = models / "diffusion_models" / WAN
    for device in host.devices() if host.places(ModelType.DIFFUSION) else ():
        parts = host.load(LoadRequest(path, ModelType.DIFFUSION, "as_stored", "bf16", device))
        assert parts.device == device


def gives_attention_to_one_handle(host: Host, models: Path) -> None:
    parts = host.load(LoadRequest(models / "diffusion_models" / WAN, ModelType.DIFFUSION))
    names = list(host.attentions())
    assert names == sorted(names)
    assert "default" not in names
    for name in names:
        handle = host.with_attention(parts, name)
        assert handle.model is not parts.model
        assert host.ids(handle) == host.ids(parts)
    try:
        host.with_attention(parts, "no such backend")
        refusal = None
    except NotAvailable as error:
        refusal = error
    assert refusal is not None, "an unknown backend was accepted"
    assert "no such backend" in refusal.message


def checkpoints_gradients_or_says_why_not(host: Host, models: Path) -> None:
    parts = host.load(LoadRequest(models / "diffusion_models" / WAN, ModelType.DIFFUSION))
    try:
        changed = host.checkpoint_gradients(parts.model, True)
    except (HostRequired, NotAvailable):  # no host, or one before 0.33
        return
    assert changed > 0
    assert host.checkpoint_gradients(parts.model, True) == 0
    assert host.checkpoint_gradients(parts.model, False) == changed
    assert host.checkpoint_gradients(parts.model, False) == 0
    try:
        host.checkpoint_gradients(object(), True)
        refusal = None
    except NotAvailable as error:
        refusal = error
    assert refusal is not None, "something that is no model was accepted"


def loads_a_checkpoint(host: Host, models: Path) -> None:
    parts = host.load(LoadRequest(models / "checkpoints" / CHECKPOINT, ModelType.CHECKPOINT))
    assert parts.model is not None
    assert parts.clip is None


def refuses_a_file_that_is_no_model(host: Host, models: Path) -> None:
    path = models / "diffusion_models" / "broken.safetensors"
    path.write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    try:
        host.load(LoadRequest(path, ModelType.DIFFUSION))
        refusal = None
    except LoadFailed as error:
        refusal = error
    finally:
        path.unlink()
    assert refusal is not None, "a broken file was loaded"
    assert "broken.safetensors" in refusal.message
    assert refusal.remedy


def lists_what_it_loaded_with_its_file(host: Host, models: Path) -> None:
    path = models / "diffusion_models" / WAN
    parts = host.load(LoadRequest(path, ModelType.DIFFUSION))
    mine = [m for m in host.resident() if m.path is not None and m.path.samefile(path)]
    assert mine, "the loaded model is not listed"
    model = mine[0]
    assert model.size_bytes == parts.size_bytes
    assert model.title == path.stem
    assert model.loaded_bytes + model.ram_bytes > 0
    assert model.to_dict()["path"] == str(model.path)


def ids_stay_the_same(host: Host, models: Path) -> None:
    parts = host.load(LoadRequest(models / "diffusion_models" / WAN, ModelType.DIFFUSION))
    assert [m.id for m in host.resident()] == [m.id for m in host.resident()]
    assert len({m.id for m in host.resident()}) == len(host.resident())
    del parts


def unloads_by_id_and_ignores_strangers(host: Host, models: Path) -> None:
    assert host.unload(["no such id"]) == {}
    parts = host.load(LoadRequest(models / "diffusion_models" / WAN, ModelType.DIFFUSION))
    freed = host.unload([model.id for model in host.resident()])
    assert all(count >= 0 for count in freed.values())
    del parts


def unloads_everything(host: Host, models: Path) -> None:
    host.forget_results()
    with suppress(HostBusy):  # the results are forgotten by a thread that runs in a server alone
        host.unload_all()


def tells_its_memory(host: Host, models: Path) -> None:
    memory = host.memory()
    assert memory.rss_bytes > 0
    assert memory.mapped_bytes is None or 0 <= memory.mapped_bytes <= memory.rss_bytes


def remembers_no_prompt_that_never_was(host: Host, models: Path) -> None:
    assert host.running() is None
    assert host.outcome("never was") is None


def takes_progress_outside_a_job(host: Host, models: Path) -> None:
    host.progress(1, 2)
    tell(host, JobProgress("converting", 1, 2, "blocks.0"))
    host.throw_if_cancelled()


def foresees_what_it_loads(host: Host, models: Path) -> None:
    header = read_header(models / "diffusion_models" / WAN)
    for dtype in ("default", "as_stored", "fp16"):
        expected = host.footprint(header, dtype)
        assert expected is not None
        assert expected.latent == (16, 3, 8, 4)
        stored = next(iter(identify(header).dtypes))
        request = LoadRequest(header.path, ModelType.DIFFUSION, dtype, stored)
        if expected.confidence is Confidence.EXACT:
            assert expected.weight_bytes == host.load(request).size_bytes
            assert expected.source == host.name
            assert (expected.inference_bytes((1, 16, 21, 60, 104)) or 0) > 0
    assert host.vae_footprint(header, (1, 16, 21, 60, 104)) is None or not host.system().knows_comfyui


def knows_its_kernels_or_says_so(host: Host, models: Path) -> None:
    kernels, system = host.kernels(), host.system()
    if kernels is None:
        assert system.kernels is None
        return
    assert kernels.keys() == system.layer_formats
    assert [kernel.format for kernel in system.kernels or ()] == list(kernels)
    assert all(kernel.format == name and kernel.reason for name, kernel in kernels.items())


CHECKS: dict[str, Callable[[Host, Path], Any]] = {
    check.__name__: check
    for check in (
        has_a_name,
        describes_the_machine,
        lists_model_files_as_loaders_do,
        locates_what_it_lists,
        names_its_folders,
        finds_files_that_come_later,
        detects_or_says_nothing,
        loads_every_weight_dtype,
        keeps_the_stored_precision_when_asked,
        loads_where_it_is_told,
        gives_attention_to_one_handle,
        checkpoints_gradients_or_says_why_not,
        loads_a_checkpoint,
        refuses_a_file_that_is_no_model,
        lists_what_it_loaded_with_its_file,
        ids_stay_the_same,
        unloads_by_id_and_ignores_strangers,
        unloads_everything,
        tells_its_memory,
        remembers_no_prompt_that_never_was,
        takes_progress_outside_a_job,
        foresees_what_it_loads,
        knows_its_kernels_or_says_so,
    )
}
