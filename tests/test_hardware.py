"""What the machine has, asked without importing torch."""

from __future__ import annotations

import gc
import importlib.metadata
import importlib.util
import json
import mmap
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from managed_models.manager.hardware import (
    TorchBuild,
    apple_gpus,
    nvidia_gpus,
    open_nvml,
    process_memory,
    torch_build,
    torch_gpus,
)
from managed_models.manager.host import Gpu
from managed_models.manager.units import GB, MB

ROOT = Path(__file__).resolve().parents[1]

# The build of torch


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch installed")
def test_the_installed_torch_says_what_it_is() -> None:
    build = torch_build()
    assert build is not None
    assert build.version.partition("+")[0] == importlib.metadata.version("torch").partition("+")[0]


@pytest.fixture
def torch_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another torch that is found first; nobody imports it."""
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "torch"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise AssertionError('imported')")
    return folder


# As torch's own setup.py writes it
_CUDA = """from typing import Optional
__all__ = ['__version__', 'debug', 'cuda', 'git_version', 'hip', 'xpu']
__version__ = '2.11.0+cu130'
debug = False
cuda: Optional[str] = '13.0'
git_version = '0123abcd'
hip: Optional[str] = None
rocm: Optional[str] = None
xpu: Optional[str] = None
"""


@pytest.mark.parametrize(
    ("text", "build"),
    [
        (_CUDA, TorchBuild("2.11.0+cu130", "13.0", None, None)),
        ("__version__ = '2.1.0'\ncuda = None\nhip = '6.2'\n", TorchBuild("2.1.0", None, "6.2", None)),
        ("__version__ = '2.1.0'\nxpu: str = '2025'\n", TorchBuild("2.1.0", None, None, "2025")),
        (
            "__version__ = '2.1.0'\nimport os\nif os.name: cuda = 'no'\n",
            TorchBuild("2.1.0", None, None, None),
        ),
        ("__version__ = '1' + '2'\n", None),
        ("__version__ = 2\n", None),
        ("debug = False\n", None),
        ("", None),
        ("__version__ = '2.1.0\n", None),  # cut off
    ],
)
def test_a_build_is_read_from_its_version_file(
    torch_folder: Path, text: str, build: TorchBuild | None
) -> None:
    (torch_folder / "version.py").write_text(text)
    assert torch_build() == build


def test_a_torch_without_a_version_file(torch_folder: Path) -> None:
    assert torch_build() is None


def test_without_torch_there_is_no_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert torch_build() is None


# Cards that torch sees: stand-ins for hardware that nobody here has


class Cards:
    """torch.cuda or torch.xpu of a machine with these cards."""

    def __init__(self, *cards: tuple[str, int, int | None], available: bool = True) -> None:
        self.cards, self.available = cards, available

    def is_available(self) -> bool:
        return self.available

    def device_count(self) -> int:
        return len(self.cards)

    def get_device_properties(self, index: int) -> SimpleNamespace:
        name, total, _ = self.cards[index]
        return SimpleNamespace(name=name, total_memory=total, major=8, minor=index)

    def mem_get_info(self, index: int) -> tuple[int, int]:
        _, total, free = self.cards[index]
        if free is None:
            raise RuntimeError("this driver does not tell")
        return free, total


NO_CARDS = Cards(available=False)


def fake_torch(cuda: Any = NO_CARDS, xpu: Any = NO_CARDS, hip: str | None = None) -> SimpleNamespace:
    return SimpleNamespace(cuda=cuda, xpu=xpu, version=SimpleNamespace(hip=hip))


@pytest.mark.parametrize(
    ("torch", "gpus"),
    [
        (fake_torch(), ()),
        (
            fake_torch(Cards(("RTX 4090", 24 * GB, 20 * GB), ("RTX 3060", 12 * GB, 11 * GB))),
            (
                Gpu("RTX 4090", "cuda", 24 * GB, 20 * GB, "8.0"),
                Gpu("RTX 3060", "cuda", 12 * GB, 11 * GB, "8.1"),
            ),
        ),
        (
            fake_torch(Cards(("RX 7900", 24 * GB, 20 * GB)), hip="6.2"),
            (Gpu("RX 7900", "rocm", 24 * GB, 20 * GB, None),),
        ),
        (
            fake_torch(xpu=Cards(("Arc B580", 12 * GB, 11 * GB))),
            (Gpu("Arc B580", "xpu", 12 * GB, 11 * GB, None),),
        ),
        (
            fake_torch(xpu=Cards(("Arc A770", 16 * GB, None))),
            (Gpu("Arc A770", "xpu", 16 * GB, None, None),),
        ),
    ],
    ids=["none", "cuda", "rocm", "xpu", "xpu that does not tell"],
)
def test_cards_that_torch_sees(torch: Any, gpus: tuple[Gpu, ...]) -> None:
    assert torch_gpus(torch) == gpus


def test_an_old_torch_without_xpu() -> None:
    assert torch_gpus(SimpleNamespace(cuda=NO_CARDS, version=SimpleNamespace(hip=None))) == ()


_SYSTEM = f"""
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("managed_models", {str(ROOT / "__init__.py")!r})
module = sys.modules["managed_models"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
from managed_models.manager.local_host import LocalHost
system = LocalHost().system()
print(json.dumps([system.to_dict(), "torch" in sys.modules]))
"""


def system_with(folder: Path | None) -> tuple[dict[str, Any], bool]:
    """Ask a fresh process about the machine, and whether it had to import torch."""
    environment = dict(os.environ)
    if folder is not None:
        environment["PYTHONPATH"] = str(folder)
    done = subprocess.run(
        [sys.executable, "-c", _SYSTEM], capture_output=True, text=True, env=environment, check=True
    )
    facts, imported = json.loads(done.stdout)
    return facts, imported


def test_the_machine_is_described_without_importing_torch() -> None:
    facts, imported = system_with(None)
    build = torch_build()
    assert facts["pytorch_version"] == (build.version if build else None)
    assert imported == bool(build and (build.hip or build.xpu))


def test_cards_that_only_torch_can_tell_of(tmp_path: Path) -> None:
    folder = tmp_path / "torch"
    folder.mkdir()
    (folder / "version.py").write_text("__version__ = '2.9.0+rocm6.4'\ncuda = None\nhip = '6.4'\n")
    (folder / "__init__.py").write_text(
        f"""
from types import SimpleNamespace
from . import version
class cuda:
    is_available = staticmethod(lambda: True)
    device_count = staticmethod(lambda: 1)
    mem_get_info = staticmethod(lambda index: ({20 * GB}, {24 * GB}))
    get_device_properties = staticmethod(
        lambda index: SimpleNamespace(name="RX 7900", total_memory={24 * GB}, major=11, minor=0))
"""
    )
    facts, imported = system_with(tmp_path)
    assert imported
    assert (facts["device"], facts["cuda_available"], facts["cuda_version"]) == ("rocm", False, None)
    (card,) = facts["gpu_devices"]
    assert (card["name"], card["backend"], card["free_memory_gb"]) == ("RX 7900", "rocm", 20.0)


# Cards of NVIDIA's driver


def test_cards_of_the_real_driver() -> None:
    if shutil.which("nvidia-smi") is None:
        assert nvidia_gpus() == ()
        return
    query = ["nvidia-smi", "--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader,nounits"]
    lines = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip().splitlines()
    found = nvidia_gpus()
    assert [(g.name, round(g.total_bytes / MB), g.compute_capability) for g in found] == [
        (name, int(total), capability)
        for name, total, capability in (map(str.strip, line.split(",")) for line in lines)
    ]
    assert all(g.free_bytes is not None and 0 <= g.free_bytes <= g.total_bytes for g in found)


class Driver:
    """pynvml of a machine with NVIDIA cards, which may refuse at one step."""

    class NVMLError(Exception):
        pass

    def __init__(self, refuses: str = "") -> None:
        self.refuses = refuses
        self.open = 0

    def _step(self, name: str) -> None:
        if name == self.refuses:
            raise self.NVMLError(name)

    def nvmlInit(self) -> None:
        self._step("init")
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        self._step("count")
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetName(self, handle: int) -> str | bytes:
        return b"RTX 3090" if handle else "RTX 4090"  # bytes in older versions

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:
        self._step("memory")
        return SimpleNamespace(total=24 * GB, free=20 * GB, used=4 * GB)

    def nvmlDeviceGetCudaComputeCapability(self, handle: int) -> tuple[int, int]:
        return 8, 9 - 3 * handle


def test_cards_of_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    monkeypatch.setitem(sys.modules, "pynvml", driver)  # type: ignore[misc]
    assert nvidia_gpus() == (
        Gpu("RTX 4090", "cuda", 24 * GB, 20 * GB, "8.9"),
        Gpu("RTX 3090", "cuda", 24 * GB, 20 * GB, "8.6"),
    )
    assert driver.open == 0


@pytest.mark.parametrize("refuses", ["init", "count", "memory"])
def test_a_driver_that_refuses(monkeypatch: pytest.MonkeyPatch, refuses: str) -> None:
    driver = Driver(refuses)
    monkeypatch.setitem(sys.modules, "pynvml", driver)  # type: ignore[misc]
    assert nvidia_gpus() == ()
    assert driver.open == 0


def test_without_the_drivers_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert nvidia_gpus() == ()


@pytest.mark.parametrize(("refuses", "held"), [("", 1), ("init", 0)])
def test_the_drivers_library_is_kept_open(monkeypatch: pytest.MonkeyPatch, refuses: str, held: int) -> None:
    driver = Driver(refuses)
    monkeypatch.setitem(sys.modules, "pynvml", driver)  # type: ignore[misc]
    with open_nvml():
        assert driver.open == held
        nvidia_gpus()
        assert driver.open == held
    assert driver.open == 0
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with open_nvml():
        pass


# Apple's


@pytest.mark.parametrize(
    ("system", "machine", "gpus"),
    [
        ("darwin", "arm64", (Gpu("Apple Silicon", "mps", 32 * GB, 20 * GB),)),
        ("darwin", "x86_64", ()),
        ("linux", "arm64", ()),
        ("win32", "AMD64", ()),
    ],
)
def test_the_gpu_of_a_mac(
    monkeypatch: pytest.MonkeyPatch, system: str, machine: str, gpus: tuple[Gpu, ...]
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert apple_gpus(32 * GB, 20 * GB) == gpus


# Memory of this process


def test_what_this_process_holds_is_seen() -> None:
    gc.collect()  # what other tests left is not given back in between
    before = process_memory().rss_bytes
    held = b"\x01" * (256 * MB)
    assert process_memory().rss_bytes - before >= 128 * MB
    assert len(held) == 256 * MB


@pytest.mark.skipif(not psutil.LINUX, reason="is known on Linux alone")
def test_mapped_files_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(b"\x01" * (32 * MB))
    before = process_memory()
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert sum(mapped[i] for i in range(0, len(mapped), mmap.PAGESIZE)) == len(mapped) // mmap.PAGESIZE
        after = process_memory()
    assert before.mapped_bytes is not None
    assert after.mapped_bytes is not None
    assert after.mapped_bytes - before.mapped_bytes >= 24 * MB
    assert after.rss_bytes - before.rss_bytes >= 24 * MB
