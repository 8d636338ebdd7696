"""The host without ComfyUI: folders, names, loads and the machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from managed_models.manager.errors import BadInput, Cancelled, HostRequired, LoadFailed
from managed_models.manager.formats.safetensors import read_header
from managed_models.manager.host import WEIGHT_DTYPES, LoadRequest, ModelFolder, ResidentModel
from managed_models.manager.local_host import LocalHost
from managed_models.manager.model import FOLDER_ALIASES, FOLDER_TYPES, MODEL_SUFFIXES, ModelType
from safetensors.numpy import save_file
from support.machines import APPLE, CPU_ONLY, nvidia

POSIX = pytest.mark.skipif(os.name != "posix", reason="links need a right there")


def place(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def native(*names: str) -> list[str]:
    return [str(Path(name)) for name in names]


# Folders


def test_a_folder_like_comfyuis(tmp_path: Path) -> None:
    place(tmp_path, "vae/a.safetensors", "loras/b.safetensors", "diffusion_models/c.safetensors")
    place(tmp_path, "strange/d.safetensors", "loose.safetensors")
    host = LocalHost([tmp_path])
    assert set(host.folders()) == {
        ModelFolder(name, tmp_path / name) for name in ("vae", "loras", "diffusion_models")
    }
    assert set(host.folder_types()) == {"vae", "loras", "diffusion_models"}
    assert host.names("vae") == ["a.safetensors"]
    assert host.names("strange") == []


@pytest.mark.parametrize("name", FOLDER_TYPES)
def test_every_folder_of_comfyui_is_known_by_the_name_it_has_today(tmp_path: Path, name: str) -> None:
    place(tmp_path, f"{name}/a.safetensors")
    today = FOLDER_ALIASES.get(name, name)
    assert LocalHost([tmp_path]).folders() == [ModelFolder(today, tmp_path / name)]
    assert LocalHost([tmp_path]).names(today) == ["a.safetensors"]


def test_a_folder_of_any_other_layout_is_a_type_of_its_own(tmp_path: Path) -> None:
    root = tmp_path / "my models"
    place(root, "a.safetensors", "sub/b.safetensors")
    host = LocalHost([root])
    assert host.folders() == [ModelFolder("my models", root)]
    assert host.names("my models") == native("a.safetensors", "sub/b.safetensors")
    assert host.locate("my models", "a.safetensors") == root / "a.safetensors"


@pytest.mark.parametrize(
    ("name", "today"), [("unet", "diffusion_models"), ("clip", "text_encoders"), ("vae", "vae")]
)
def test_a_folder_may_be_one_of_comfyuis_itself(tmp_path: Path, name: str, today: str) -> None:
    place(tmp_path / name, "a.safetensors")
    assert LocalHost([tmp_path / name]).folders() == [ModelFolder(today, tmp_path / name)]


def test_the_type_of_a_folder_may_be_said(tmp_path: Path) -> None:
    place(tmp_path / "anything", "vae/a.safetensors")
    host = LocalHost([ModelFolder("loras", tmp_path / "anything"), ModelFolder("unet", tmp_path / "other")])
    assert host.folders() == [
        ModelFolder("loras", tmp_path / "anything"),
        ModelFolder("diffusion_models", tmp_path / "other"),
    ]
    assert host.names("loras") == native("vae/a.safetensors")


def test_both_spellings_of_a_renamed_folder_are_one_type(tmp_path: Path) -> None:
    place(tmp_path, "unet/old.safetensors", "unet/both.safetensors")
    place(tmp_path, "diffusion_models/new.safetensors", "diffusion_models/both.safetensors")
    host = LocalHost([tmp_path])
    assert host.folder_types() == ["diffusion_models"]
    assert host.names("diffusion_models") == ["both.safetensors", "new.safetensors", "old.safetensors"]
    assert host.locate("diffusion_models", "old.safetensors") == tmp_path / "unet" / "old.safetensors"
    first = tmp_path / "diffusion_models" / "both.safetensors"
    assert host.locate("diffusion_models", "both.safetensors") == first
    first.unlink()
    assert host.locate("diffusion_models", "both.safetensors") == tmp_path / "unet" / "both.safetensors"


def test_of_several_roots_the_first_wins(tmp_path: Path) -> None:
    place(tmp_path / "one", "vae/a.safetensors", "vae/b.safetensors")
    place(tmp_path / "two", "vae/b.safetensors", "vae/c.safetensors")
    host = LocalHost([tmp_path / "two", tmp_path / "one"])
    assert host.folder_types() == ["vae"]
    assert host.names("vae") == ["a.safetensors", "b.safetensors", "c.safetensors"]
    assert host.locate("vae", "b.safetensors") == tmp_path / "two" / "vae" / "b.safetensors"


def test_without_folders_there_is_nothing() -> None:
    host = LocalHost()
    assert (host.folders(), host.folder_types(), host.names("vae"), host.locate("vae", "a")) == (
        [],
        [],
        [],
        None,
    )


def test_a_folder_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    host = LocalHost([tmp_path / "gone"])
    assert host.names("gone") == []
    assert host.locate("gone", "a.safetensors") is None


def test_a_folder_that_comes_later_is_seen(tmp_path: Path) -> None:
    place(tmp_path, "vae/a.safetensors")
    host = LocalHost([tmp_path])
    place(tmp_path, "loras/b.safetensors")
    assert set(host.folder_types()) == {"vae", "loras"}


# Names


def test_files_below_are_named_from_their_folder(tmp_path: Path) -> None:
    place(tmp_path, "vae/b.safetensors", "vae/sub/a.safetensors", "vae/sub/deep/er/a b.safetensors")
    host = LocalHost([tmp_path])
    names = native("b.safetensors", "sub/a.safetensors", "sub/deep/er/a b.safetensors")
    assert host.names("vae") == names
    assert [host.locate("vae", name) for name in names] == [tmp_path / "vae" / name for name in names]


@pytest.mark.parametrize("suffix", sorted(MODEL_SUFFIXES))
def test_the_endings_of_models(tmp_path: Path, suffix: str) -> None:
    place(tmp_path, f"vae/a{suffix}", f"vae/B{suffix.upper()}")
    assert LocalHost([tmp_path]).names("vae") == [f"B{suffix.upper()}", f"a{suffix}"]


def test_other_files_are_left_out(tmp_path: Path) -> None:
    place(
        tmp_path,
        *(
            f"vae/{name}"
            for name in ("put_vae_here", "a.txt", "a.safetensors.mmpart", "a.json", "safetensors")
        ),
        "vae/a.safetensors.12-0123abcd.mmpart",
    )
    assert LocalHost([tmp_path]).names("vae") == []


def test_hidden_folders_are_left_out(tmp_path: Path) -> None:
    place(tmp_path, "vae/.cache/a.safetensors", "vae/sub/.git/b.safetensors", "vae/sub/c.safetensors")
    assert LocalHost([tmp_path]).names("vae") == native("sub/c.safetensors")


def test_a_folder_with_the_name_of_a_model_is_no_model(tmp_path: Path) -> None:
    place(tmp_path, "vae/a.safetensors/b.safetensors")
    host = LocalHost([tmp_path])
    assert host.names("vae") == native("a.safetensors/b.safetensors")
    assert host.locate("vae", "a.safetensors") is None


@POSIX
def test_links_are_followed_once(tmp_path: Path) -> None:
    place(tmp_path, "elsewhere/sub/a.safetensors", "models/vae/b.safetensors")
    vae = tmp_path / "models" / "vae"
    (vae / "linked").symlink_to(tmp_path / "elsewhere")
    (vae / "c.safetensors").symlink_to(vae / "b.safetensors")
    host = LocalHost([tmp_path / "models"])
    assert host.names("vae") == ["b.safetensors", "c.safetensors", "linked/sub/a.safetensors"]
    assert host.locate("vae", "linked/sub/a.safetensors") == vae / "linked" / "sub" / "a.safetensors"


@POSIX
def test_links_in_a_circle_end(tmp_path: Path) -> None:
    place(tmp_path, "vae/sub/a.safetensors")
    (tmp_path / "vae" / "sub" / "up").symlink_to(tmp_path / "vae")
    (tmp_path / "vae" / "self").symlink_to(tmp_path / "vae" / "self")
    (tmp_path / "vae" / "all").symlink_to(tmp_path)
    assert [name for name in LocalHost([tmp_path]).names("vae") if "a.safetensors" in name] == [
        "sub/a.safetensors"
    ]


@POSIX
def test_a_link_that_leads_nowhere_is_not_located(tmp_path: Path) -> None:
    place(tmp_path, "vae/a.safetensors")
    (tmp_path / "vae" / "dangling.safetensors").symlink_to(tmp_path / "gone")
    assert LocalHost([tmp_path]).locate("vae", "dangling.safetensors") is None


# Loads


@pytest.fixture
def host() -> LocalHost:
    return LocalHost()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Half precision, and whole numbers beside it."""
    path = tmp_path / "model.safetensors"
    weight = np.array([[1.0, -0.5], [0.25, 2.0]], dtype=np.float16)
    save_file({"weight": weight, "ids": np.arange(3, dtype=np.int64)}, path)
    return path


@pytest.mark.parametrize(
    ("weight_dtype", "torch_dtype", "told"),
    [
        ("default", "float16", "fp16"),
        ("as_stored", "float16", "fp16"),
        ("fp8_e4m3fn", "float8_e4m3fn", "fp8_e4m3fn"),
        ("fp8_e4m3fn_fast", "float8_e4m3fn", "fp8_e4m3fn_fast"),
        ("fp8_e5m2", "float8_e5m2", "fp8_e5m2"),
        ("bf16", "bfloat16", "bf16"),
        ("fp16", "float16", "fp16"),
        ("fp32", "float32", "fp32"),
    ],
)
def test_weights_come_in_the_type_that_is_asked_for(
    path: Path, host: LocalHost, weight_dtype: str, torch_dtype: str, told: str
) -> None:
    torch = pytest.importorskip("torch")
    parts = host.load(LoadRequest(path, ModelType.DIFFUSION, weight_dtype, "fp16"))
    weight = parts.model["weight"]
    assert weight.dtype is getattr(torch, torch_dtype)
    assert weight.float().tolist() == [[1.0, -0.5], [0.25, 2.0]]  # exact in every one of these types
    assert parts.model["ids"].dtype is torch.int64
    assert parts.dtype == told
    assert parts.size_bytes == 4 * weight.element_size() + 24
    assert (parts.device, parts.clip, parts.vae) == ("cpu", None, None)


def test_every_type_is_tried_above() -> None:
    assert len(WEIGHT_DTYPES) == 8


@pytest.mark.parametrize("weight_dtype", ["int8", "FP16", "", "float16"])
def test_an_unknown_type_is_refused(path: Path, host: LocalHost, weight_dtype: str) -> None:
    with pytest.raises(BadInput) as caught:
        host.load(LoadRequest(path, ModelType.DIFFUSION, weight_dtype))
    assert caught.value.message == f"weight_dtype is {weight_dtype!r}."
    assert "fp8_e4m3fn_fast" in caught.value.remedy
    assert host.resident() == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b"\x10\0\0\0\0\0\0\0{}"),
        lambda path: path.write_bytes(b"<html>"),
        lambda path: path.write_bytes(b""),
        lambda path: os.truncate(path, path.stat().st_size - 1),
        lambda path: path.unlink(),
        lambda path: (path.unlink(), path.mkdir()),
    ],
    ids=["header", "web page", "empty", "cut off", "gone", "folder"],
)
def test_a_broken_file_is_refused(path: Path, host: LocalHost, spoil: Any) -> None:
    pytest.importorskip("torch")
    spoil(path)
    with pytest.raises(LoadFailed, match=r"model\.safetensors could not be loaded") as caught:
        host.load(LoadRequest(path, ModelType.DIFFUSION))
    assert caught.value.remedy
    assert host.resident() == []


def test_without_torch_a_load_says_what_to_install(
    path: Path, host: LocalHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # as where it is not installed
    with pytest.raises(HostRequired, match="needs PyTorch") as caught:
        host.load(LoadRequest(path, ModelType.DIFFUSION))
    assert "pip install" in caught.value.remedy
    assert host.system().torch_version is None


def test_what_is_loaded_is_listed_last_first(tmp_path: Path, path: Path, host: LocalHost) -> None:
    pytest.importorskip("torch")
    other = tmp_path / "other.safetensors"
    save_file({"a": np.zeros(5, dtype=np.uint8)}, other)
    kept = [
        host.load(LoadRequest(path, ModelType.DIFFUSION)),
        host.load(LoadRequest(other, ModelType.DIFFUSION)),
        host.load(LoadRequest(path, ModelType.DIFFUSION, "fp32")),
    ]
    models = host.resident()
    assert [(m.title, m.path, m.size_bytes) for m in models] == [
        ("model", path, 40),
        ("other", other, 5),
        ("model", path, 32),
    ]
    first = models[1]
    assert first == ResidentModel(first.id, "other", other, "cpu", 5, 0, 5)
    assert len({m.id for m in models}) == len(kept)


def test_models_are_unloaded_by_id(path: Path, host: LocalHost) -> None:
    pytest.importorskip("torch")
    parts = [host.load(LoadRequest(path, ModelType.DIFFUSION)) for _ in range(2)]
    newest, oldest = host.resident()
    assert [*host.ids(parts[1]), *host.ids(parts[0])] == [newest.id, oldest.id]
    # Nothing is on a device: there is nothing to give back, and whoever has the model keeps it.
    assert host.unload([oldest.id, "nobody", oldest.id]) == {oldest.id: 0}
    assert host.resident() == [newest, oldest]
    del parts[0]
    assert host.resident() == [newest]
    assert host.unload([oldest.id]) == {}
    assert host.unload([]) == {}
    host.unload_all()
    assert host.resident() == [newest]
    parts.clear()
    assert host.resident() == []
    host.unload_all()


def test_what_was_loaded_stays_with_whoever_has_it(path: Path, host: LocalHost) -> None:
    pytest.importorskip("torch")
    parts = host.load(LoadRequest(path, ModelType.DIFFUSION))
    host.unload_all()
    assert parts.model["weight"].float().sum() == 2.75


def test_a_model_is_recognised_by_nobody(path: Path, host: LocalHost) -> None:
    assert host.detect(read_header(path)) is None


# Jobs


def test_a_job_is_stopped_once(host: LocalHost) -> None:
    host.throw_if_cancelled()
    host.cancel()
    with pytest.raises(Cancelled) as caught:
        host.throw_if_cancelled()
    assert caught.value.code == "cancelled"
    host.throw_if_cancelled()  # the next job is not meant


def test_progress_goes_to_whoever_wants_it(host: LocalHost) -> None:
    host.progress(1, 2)
    seen: list[tuple[int, int]] = []
    LocalHost(on_progress=lambda done, total: seen.append((done, total))).progress(1, 2)
    assert seen == [(1, 2)]


# The machine


def test_the_machine_right_now(host: LocalHost) -> None:
    system = host.system()
    assert system.host == host.name == "this machine"
    assert system.knows_comfyui is False
    assert system.total_ram_bytes == psutil.virtual_memory().total
    assert 0 < system.available_ram_bytes <= system.total_ram_bytes
    assert system.cpu_count == os.cpu_count()
    assert system.python_version == ".".join(map(str, sys.version_info[:3]))
    assert system.comfyui_version is None
    assert system.layer_formats is None
    assert system.device == (system.gpus[0].backend if system.gpus else "cpu")


PROMISED = {
    "pytorch_version",
    "cuda_available",
    "cuda_version",
    "total_ram_gb",
    "available_ram_gb",
    "gpu_devices",
}
PROMISED_OF_A_CARD = {"name", "total_memory_gb", "free_memory_gb", "compute_capability", "backend"}


def test_the_facts_have_the_promised_names(host: LocalHost) -> None:
    facts = host.system().to_dict()
    assert set(facts) == PROMISED | {  # "and more"
        "host",
        "platform",
        "python_version",
        "device",
        "comfyui_version",
        "cpu_count",
    }
    assert isinstance(facts["cuda_available"], bool)
    assert facts["total_ram_gb"] == round(psutil.virtual_memory().total / 1024**3, 3)
    assert all(set(card) == PROMISED_OF_A_CARD for card in facts["gpu_devices"])


def test_the_facts_of_other_machines() -> None:
    facts = nvidia(24.0, "8.9", free_gb=20.0, cards=2).to_dict()
    assert (facts["cuda_available"], facts["cuda_version"]) == (True, "13.0")
    assert (
        facts["gpu_devices"]
        == [
            {
                "name": "NVIDIA GeForce",
                "total_memory_gb": 24.0,
                "free_memory_gb": 20.0,
                "compute_capability": "8.9",
                "backend": "cuda",
            }
        ]
        * 2
    )
    apple = APPLE.to_dict()
    assert (apple["cuda_available"], apple["gpu_devices"][0]["compute_capability"]) == (False, None)
    assert set(apple["gpu_devices"][0]) == PROMISED_OF_A_CARD
    assert CPU_ONLY.to_dict()["gpu_devices"] == []


def test_memory_of_this_process(host: LocalHost) -> None:
    memory = host.memory()
    assert 0 < memory.rss_bytes < psutil.virtual_memory().total
    if psutil.LINUX:
        assert memory.mapped_bytes is not None
        assert 0 < memory.mapped_bytes <= memory.rss_bytes
