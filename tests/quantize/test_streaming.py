"""Models of any size and shape through a bounded amount of memory: the bytes are always the same."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from managed_models.manager.demo import layouts
from managed_models.manager.demo.tiny import write_random_model
from managed_models.manager.errors import (
    BadInput,
    FileError,
    InvalidHeader,
    ModelNotFound,
    NotEnoughDisk,
)
from managed_models.manager.formats.safetensors import read_header
from managed_models.manager.formats.temporary import unfinished_paths
from managed_models.manager.formats.writer import PAGE, SafetensorsWriter, TensorSpec
from managed_models.manager.identify import identify
from managed_models.manager.identify.reading import read_identity
from managed_models.manager.integrity import verify_file
from managed_models.manager.quantize import buffers, direct, engine, hashing
from managed_models.manager.quantize.direct import Output, address_of
from managed_models.manager.quantize.encoding import Encoded, make_encoder
from managed_models.manager.quantize.formats import FORMATS
from managed_models.manager.quantize.place import check_room, remove_unfinished
from managed_models.manager.quantize.policy import plan_tensors
from managed_models.manager.quantize.request import QuantizeRequest
from managed_models.manager.quantize.service import Quantizer
from managed_models.manager.quantize.source import Reader, read_source
from managed_models.manager.watch import JobProgress, Nobody
from safetensors.torch import load_file, save_file
from support.permissions import nobody

WAN = layouts.wan21_t2v(width=128, ffn=512, layers=2)
FORMAT = "fp8_e4m3fn_scaled"


@pytest.fixture(autouse=True, scope="module")
def _one_torch_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a small file have many blocks, and be worth several workers."""
    monkeypatch.setattr(buffers, "BLOCK_ELEMENTS", 1 << 14)
    monkeypatch.setattr(buffers, "COPY_BYTES", 1 << 13)
    monkeypatch.setattr(buffers, "BYTES_PER_WORKER", 1)


@pytest.fixture
def wan(tmp_path: Path) -> Path:
    path = tmp_path / "wan.safetensors"
    write_random_model(path, WAN)
    return path


def run(
    source: Path, output: Path, format: str = FORMAT, watch: Any = None, **options: Any
) -> engine.EngineResult:
    model = read_source(source)
    plans = plan_tensors(model.header, identify(model.header), FORMATS[format])
    chosen = engine.EngineOptions(overwrite=True, **options)
    return engine.run(model, plans, output, {"format": "pt"}, watch or Nobody(), chosen)


def quantize(source: Path, output: Path, watch: Any = None, **options: Any) -> dict[str, Any]:
    return Quantizer(read_identity, watch).quantize(source, output, QuantizeRequest(**options))


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


# The same bytes


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("format", sorted(FORMATS))
def test_bytes_depend_neither_on_workers_nor_on_memory(tmp_path: Path, format: str) -> None:
    source = tmp_path / "wan.safetensors"
    write_random_model(source, layouts.wan21_t2v(width=256, ffn=512, layers=1), dtype="F32")
    model = read_source(source)
    plans = plan_tensors(model.header, identify(model.header), FORMATS[format])
    least = buffers.least_bytes(plans)
    found = set()
    for workers, memory in ((1, 0), (3, 0), (1, least), (3, 3 * least)):
        result = run(source, tmp_path / "out.safetensors", format, workers=workers, max_memory_bytes=memory)
        assert result.workers == (3 if workers == 3 else 1)
        found.add(hashlib.sha256((tmp_path / "out.safetensors").read_bytes()).hexdigest())
    assert len(found) == 1


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("parts", [0, 3])
def test_a_source_that_is_large_for_the_machine_leaves_its_cache(
    wan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: int
) -> None:
    run(wan, tmp_path / "one.safetensors")
    dropped: list[tuple[int, int]] = []
    forget = Reader.forget

    def note(self: Reader, position: int, length: int) -> None:
        dropped.append((position, position + length))
        forget(self, position, length)

    monkeypatch.setattr(Reader, "forget", note)
    monkeypatch.setattr(hashing, "_DROP_BYTES", 1)
    available = SimpleNamespace(available=1 << 20)
    monkeypatch.setattr(engine.psutil, "virtual_memory", lambda: available)
    source = write_parts(tmp_path, load_file(wan), parts) if parts else wan
    run(source, tmp_path / "two.safetensors", workers=2)
    starts, ends = zip(*dropped, strict=True)
    total = sum(info.nbytes for info in read_header(wan).tensors.values())
    assert (starts[0], *ends[:-1]) == (0, *starts[1:])  # each byte once, and in order
    assert total // 2 < ends[-1] <= total
    one, two = load_file(tmp_path / "one.safetensors"), load_file(tmp_path / "two.safetensors")
    assert {name: raw(tensor) for name, tensor in one.items()} == {
        name: raw(tensor) for name, tensor in two.items()
    }


def write_one_large_layer(path: Path, rows: int, columns: int) -> None:
    """Write a Wan with one layer that is much larger than the others, without holding it."""
    shapes = layouts.wan21_t2v(width=64, ffn=128, layers=1) | {"blocks.0.ffn.0.weight": (rows, columns)}
    specs = [TensorSpec(name, "BF16", shape) for name, shape in shapes.items()]
    piece = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0)).mul_(0.02).bfloat16()
    pattern = memoryview(raw(piece))
    with SafetensorsWriter(path, specs, {"format": "pt"}) as writer:
        for spec in specs:
            for start in range(0, spec.nbytes, len(pattern)):
                writer.write(spec.name, pattern[: spec.nbytes - start])
        writer.finish({})


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_memory_stays_below_its_bound_whatever_the_size_of_a_tensor(tmp_path: Path) -> None:
    source = tmp_path / "wan.safetensors"
    write_one_large_layer(source, 8192, 12288)
    assert source.stat().st_size > 192 << 20
    bound = 120 << 20
    with watched_memory() as grown:
        run(source, tmp_path / "out.safetensors", workers=2, max_memory_bytes=bound)
    assert grown() <= bound
    assert verify_file(tmp_path / "out.safetensors")["ok"]


@contextmanager
def watched_memory() -> Iterator[Callable[[], int]]:
    """Give a function that says by how much anonymous and shared memory grew at most."""
    before = peak = held_memory()
    running = True

    def sample() -> None:
        nonlocal peak
        while running:
            peak = max(peak, held_memory())
            time.sleep(0.001)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield lambda: peak - before
    finally:
        running = False
        thread.join()


def held_memory() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    sizes = [int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssAnon", "RssShmem"))]
    return sum(sizes)


def test_a_bound_that_is_too_small_is_refused_with_the_least(wan: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.safetensors"
    with pytest.raises(BadInput, match="max_memory_gb allows") as caught:
        quantize(wan, output, max_memory_gb=0.01)
    least = caught.value.details["least_bytes"] / 1024**3
    assert os.listdir(tmp_path) == [wan.name]
    assert not quantize(wan, output, max_memory_gb=least)["reused"]


def test_the_threads_of_torch_are_given_back(wan: Path, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        run(wan, tmp_path / "out.safetensors")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


# Writing past the cache


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("offset", [0, 1, PAGE - 1, PAGE, 3 * PAGE + 7])
@pytest.mark.parametrize("shift", [0, 1, 64])
def test_every_byte_goes_to_its_place(tmp_path: Path, direct: bool, offset: int, shift: int) -> None:
    path = tmp_path / "file"
    size = (1 << 20) + 5000
    path.write_bytes(b"\xee" * (offset + size + PAGE))
    data = memoryview(bytearray(os.urandom(size + 2 * PAGE)))
    start = (offset - address_of(data)) % PAGE + shift
    piece = data[start : start + size]
    with Output(path, direct) as output:
        can = output._direct is not None
        output.write(offset, piece)
        assert (output._direct is not None) == can  # what it asked for, the file system took
    found = path.read_bytes()
    assert found[offset : offset + size] == bytes(piece)
    assert found[:offset] + found[offset + size :] == b"\xee" * (offset + PAGE)


def test_a_file_system_that_cannot_write_directly_is_written_as_usual(
    wan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(wan, tmp_path / "one.safetensors")
    monkeypatch.setattr(direct, "_LEAST", 1)
    monkeypatch.setattr(direct, "PAGE", 1)  # no file system takes this: it answers EINVAL
    run(wan, tmp_path / "two.safetensors")
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system reserves no room")
def test_the_room_of_an_output_is_taken_before_anything_is_written(tmp_path: Path) -> None:
    size = (3 << 20) + 5
    with open(tmp_path / "file", "xb") as file:
        direct.reserve(file, size)
    status = (tmp_path / "file").stat()
    assert status.st_size == size
    assert status.st_blocks * 512 >= size


@pytest.mark.parametrize("how", ["it cannot", "it is slow"])
def test_where_room_cannot_be_reserved_a_hole_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    asked = []

    def allocate(descriptor: int, offset: int, size: int) -> None:
        asked.append(size)
        if how == "it cannot":
            raise OSError(errno.EOPNOTSUPP, "not here")

    monkeypatch.setattr(os, "posix_fallocate", allocate, raising=False)
    monkeypatch.setattr(direct, "_RESERVE_SECONDS", -1.0)
    monkeypatch.setattr(direct, "_RESERVE_BYTES", 1000)
    with open(tmp_path / "file", "xb") as file:
        direct.reserve(file, 5000)
    assert asked == [1000]
    assert (tmp_path / "file").stat().st_size == 5000


def test_a_full_disk_is_noticed_while_reserving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def allocate(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "posix_fallocate", allocate, raising=False)
    with open(tmp_path / "file", "xb") as file, pytest.raises(OSError, match="full"):
        direct.reserve(file, 5000)


def test_an_encoder_that_leaves_out_rows_is_noticed(wan: Path, tmp_path: Path) -> None:
    class Short:
        def __init__(self, *arguments: Any) -> None:
            self._whole = make_encoder(*arguments)
            self.passes = self._whole.passes
            self.look = self._whole.look

        @property
        def largest(self) -> float:
            return self._whole.largest

        def encode(self, *arguments: Any) -> Encoded:
            encoded = self._whole.encode(*arguments)
            return encoded._replace(weight=encoded.weight[:-1])

    with pytest.raises(ValueError, match="were encoded"):
        run(wan, tmp_path / "out.safetensors", make_encoder=Short)
    assert sorted(os.listdir(tmp_path)) == ["wan.safetensors"]


# Models in parts


def write_parts(folder: Path, tensors: dict[str, torch.Tensor], count: int) -> Path:
    """Write a model in parts as the field does, and return its index."""
    names = list(tensors)
    weight_map = {}
    for number in range(count):
        part = f"model-{number + 1:05d}-of-{count:05d}.safetensors"
        mine = names[number * len(names) // count : (number + 1) * len(names) // count]
        save_file({name: tensors[name] for name in mine}, folder / part, {"format": "pt"})
        weight_map |= dict.fromkeys(mine, part)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return index


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("format", [FORMAT, "int8"])
def test_a_model_in_parts_becomes_one_file(wan: Path, tmp_path: Path, count: int, format: str) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    index = write_parts(folder, load_file(wan), count)
    details = quantize(index, folder / "out.safetensors", format=format)
    quantize(wan, tmp_path / "whole.safetensors", format=format)
    parts, whole = load_file(folder / "out.safetensors"), load_file(tmp_path / "whole.safetensors")
    assert {name: raw(tensor) for name, tensor in parts.items()} == {
        name: raw(tensor) for name, tensor in whole.items()
    }
    digest = hashlib.sha256()
    for part in sorted(folder.glob("model-*.safetensors")):
        digest.update(part.read_bytes())
    assert details["source_sha256"] == digest.hexdigest()
    assert details["architecture"].startswith("Wan")
    assert quantize(index, folder / "out.safetensors", format=format)["reused"]
    assert verify_file(folder / "out.safetensors")["ok"]


def test_a_part_that_is_missing_is_named(wan: Path, tmp_path: Path) -> None:
    index = write_parts(tmp_path, load_file(wan), 3)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ModelNotFound, match="names the part model-00002-of-00003"):
        quantize(index, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_a_broken_index_is_refused(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "../other.safetensors"}}')
    with pytest.raises(InvalidHeader, match="none beside it"):
        quantize(index, tmp_path / "out.safetensors")


@pytest.mark.parametrize("how", ["touch", "truncate", "remove"])
def test_a_part_that_changes_meanwhile_is_noticed(wan: Path, tmp_path: Path, how: str) -> None:
    index = write_parts(tmp_path, load_file(wan), 3)
    part = tmp_path / "model-00003-of-00003.safetensors"
    there = set(os.listdir(tmp_path))

    class Change(Nobody):
        def progress(self, done: int, total: int) -> None:
            if how == "touch":
                os.utime(part, ns=(1, 1))
            elif how == "truncate":
                os.truncate(part, part.stat().st_size // 2)
            else:
                part.unlink(missing_ok=True)

    with pytest.raises(FileError, match=part.name):
        run(index, tmp_path / "out.safetensors", watch=Change())
    assert set(os.listdir(tmp_path)) <= there


def test_a_part_is_never_the_target(wan: Path, tmp_path: Path) -> None:
    index = write_parts(tmp_path, load_file(wan), 2)
    part = tmp_path / "model-00002-of-00002.safetensors"
    before = part.read_bytes()
    with pytest.raises(BadInput, match="its own target"):
        quantize(index, part, overwrite=True)
    assert part.read_bytes() == before


# Whole checkpoints


@pytest.mark.parametrize("format", [FORMAT, "int8", "fp16"])
def test_of_a_checkpoint_only_the_diffusion_part_changes(tmp_path: Path, format: str) -> None:
    prefix = "model.diffusion_model."
    layout = {prefix + name: shape for name, shape in WAN.items()}
    layout |= {
        "first_stage_model.decoder.mid.attn.weight": (64, 64),
        "first_stage_model.decoder.conv_in.weight": (64, 16, 3, 3),
        "cond_stage_model.transformer.layers.0.fc1.weight": (256, 128),
        "cond_stage_model.transformer.layers.0.fc1.bias": (256,),
    }
    source = tmp_path / "checkpoint.safetensors"
    write_random_model(source, layout)
    quantize(source, tmp_path / "out.safetensors", format=format, policy="everything")
    original, written = load_file(source), load_file(tmp_path / "out.safetensors")
    others = [name for name in original if not name.startswith(prefix)]
    assert len(others) == 4
    for name in others:
        assert written[name].dtype == original[name].dtype
        assert raw(written[name]) == raw(original[name])
    assert {name for name in written if not name.startswith(prefix)} == set(others)
    changed = [n for n in original if n.startswith(prefix) and raw(written[n]) != raw(original[n])]
    assert len(changed) >= 20


# Room, rights, leftovers


def test_what_a_killed_run_wrote_counts_as_room(
    wan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.safetensors"
    model = read_source(wan)
    plans = plan_tensors(model.header, identify(model.header), FORMATS["fp16"])
    plans += plan_tensors(model.header, identify(model.header), FORMATS[FORMAT])
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=16 << 20))
    with pytest.raises(NotEnoughDisk):
        check_room(output, plans)
    data, _, _ = unfinished_paths(output)
    with open(data, "wb") as file:
        file.truncate(64 << 20)  # a hole takes no room, and frees none
    with pytest.raises(NotEnoughDisk):
        check_room(output, plans)
    data.write_bytes(os.urandom(8 << 20))
    check_room(output, plans)


def test_a_folder_that_cannot_be_written_to(wan: Path, tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o555)
    for path in (tmp_path, *tmp_path.parents):
        if path.is_relative_to("/tmp") and path != Path("/tmp"):
            path.chmod(0o755)
    model = read_source(wan)
    plans = plan_tensors(model.header, identify(model.header), FORMATS[FORMAT])
    with nobody(), pytest.raises(FileError, match="cannot be written to"):
        engine.run(model, plans, folder / "out.safetensors", {}, Nobody())
    assert list(folder.iterdir()) == []


def test_leftovers_of_a_run_that_was_killed_at_its_very_end_go(wan: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.safetensors"
    quantize(wan, output)
    data, journal, lock = unfinished_paths(output)
    os.link(output, data)
    journal.write_bytes(b"x")
    lock.write_bytes(b"")
    assert quantize(wan, output)["reused"]
    assert sorted(os.listdir(tmp_path)) == ["out.safetensors", "wan.safetensors"]
    remove_unfinished(output)  # and nothing there is no error


# Progress


@pytest.mark.usefixtures("small_blocks")
def test_progress_tells_bytes_layer_speed_and_stage(wan: Path, tmp_path: Path) -> None:
    told: list[JobProgress] = []

    class Listen(Nobody):
        def tell(self, progress: JobProgress) -> None:
            told.append(progress)

    run(wan, tmp_path / "out.safetensors", watch=Listen(), workers=1)
    total = sum(info.nbytes for info in read_header(wan).tensors.values())
    assert {p.total for p in told} == {total}
    assert [p.done for p in told] == sorted(p.done for p in told)
    assert (told[0].done, told[-1].done) == (0, total)
    assert (told[0].stage, told[-1].stage) == ("converting", "verifying")
    layers = {p.item for p in told}
    assert {"blocks.0.ffn.0", "head.head"} <= layers
    assert all(p.bytes_per_second for p in told if p.done)  # the first blocks may still be on their way
    assert told[-1].seconds_left == 0
