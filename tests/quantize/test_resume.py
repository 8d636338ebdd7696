"""Runs that end badly, and those that come after them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from managed_models.manager.demo import layouts
from managed_models.manager.demo.tiny import write_random_model
from managed_models.manager.errors import AlreadyRunning, FileError
from managed_models.manager.file_lock import FileLock
from managed_models.manager.formats.temporary import unfinished_paths
from managed_models.manager.identify import identify
from managed_models.manager.integrity import verify_file
from managed_models.manager.quantize import buffers, engine
from managed_models.manager.quantize import journal as journal_module
from managed_models.manager.quantize.formats import FORMATS
from managed_models.manager.quantize.policy import plan_tensors
from managed_models.manager.quantize.source import read_source
from managed_models.manager.watch import Nobody
from support import kill_runs

ROOT = Path(__file__).resolve().parents[2]
WAN = layouts.wan21_t2v(width=128, ffn=512, layers=2)


@pytest.fixture(autouse=True, scope="module")
def _one_torch_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a small file have many blocks, and be worth several workers."""
    monkeypatch.setattr(buffers, "BLOCK_ELEMENTS", 1 << 12)
    monkeypatch.setattr(buffers, "COPY_BYTES", 1 << 13)
    monkeypatch.setattr(buffers, "BYTES_PER_WORKER", 1)


@pytest.fixture
def wan(tmp_path: Path) -> Path:
    path = tmp_path / "wan.safetensors"
    write_random_model(path, WAN)
    return path


class Killed(BaseException):
    """What a killed process would see, if it saw anything."""


class Freeze(Nobody):
    """Keeps what a process would leave if it were killed once a share of the bytes is done."""

    def __init__(self, share: float, output: Path, kept: Path) -> None:
        self._share = share
        self._output = output
        self._kept = kept

    def progress(self, done: int, total: int) -> None:
        if done >= self._share * total:
            data, journal, lock = unfinished_paths(self._output)
            for path in (journal, data, lock):  # other workers go on: nothing is noted that is not written
                shutil.copyfile(path, self._kept / path.name)
            raise Killed


def run(
    source: Path, output: Path, format: str = "fp8_e4m3fn_scaled", watch: Any = None, **options: Any
) -> engine.EngineResult:
    model = read_source(source)
    plans = plan_tensors(model.header, identify(model.header), FORMATS[format])
    chosen = engine.EngineOptions(**options)
    return engine.run(model, plans, output, {"format": "pt"}, watch or Nobody(), chosen)


def kill_at(share: float, source: Path, output: Path, format: str, **options: Any) -> None:
    """Leave what a run leaves that is killed once a share of the bytes is done."""
    kept = output.parent / "kept"
    kept.mkdir()
    with pytest.raises(Killed):
        run(source, output, format, Freeze(share, output, kept), **options)
    for path in unfinished_paths(output):
        assert not path.exists()
        shutil.move(kept / path.name, path)
    kept.rmdir()


FORMAT = "fp8_e4m3fn_scaled"


@pytest.mark.parametrize("format", [FORMAT, "int8", "fp16"])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.9, 0.97])
def test_a_killed_run_goes_on_to_the_same_bytes(wan: Path, tmp_path: Path, format: str, share: float) -> None:
    whole, output = tmp_path / "whole.safetensors", tmp_path / "out.safetensors"
    first = run(wan, whole, format)
    assert first.resumed_bytes == 0
    kill_at(share, wan, output, format)
    result = run(wan, output, format)
    assert output.read_bytes() == whole.read_bytes()
    total = first.computed_bytes
    assert result.computed_bytes <= (1 - share) * total
    assert result.computed_bytes + result.resumed_bytes == total
    assert result.layer_errors == first.layer_errors
    assert result.reread_bytes <= result.workers * 512 * 128 * 2  # of the layers that were interrupted
    assert sorted(os.listdir(tmp_path)) == ["out.safetensors", "wan.safetensors", "whole.safetensors"]


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("format", [FORMAT, "int8"])
def test_after_a_kill_at_ninety_percent_at_most_ten_are_computed_again(
    tmp_path: Path, format: str, workers: int
) -> None:
    source, output = tmp_path / "wan.safetensors", tmp_path / "out.safetensors"
    write_random_model(source, layouts.wan21_t2v(width=128, ffn=512, layers=6))
    total = sum(info.nbytes for info in read_source(source).header.tensors.values())
    kill_at(0.9, source, output, format, workers=workers)
    result = run(source, output, format, workers=1)
    assert result.computed_bytes <= 0.1 * total
    assert result.computed_bytes > 0 or workers > 1  # others may be done before this one is frozen
    assert verify_file(output)["ok"]


def test_a_run_may_be_killed_again_and_again(wan: Path, tmp_path: Path) -> None:
    whole, output = tmp_path / "whole.safetensors", tmp_path / "out.safetensors"
    run(wan, whole)
    for share in (0.2, 0.3, 0.6, 0.61, 0.9):
        kill_at(share, wan, output, FORMAT, workers=2)
    run(wan, output)
    assert output.read_bytes() == whole.read_bytes()


def _touch(source: Path, output: Path) -> None:
    os.utime(source, ns=(1, 10**18))


def _cut_data(source: Path, output: Path) -> None:
    data, _, _ = unfinished_paths(output)
    os.truncate(data, data.stat().st_size - 1)


def _lose_data(source: Path, output: Path) -> None:
    unfinished_paths(output)[0].unlink()


def _lose_journal(source: Path, output: Path) -> None:
    unfinished_paths(output)[1].unlink()


def _spoil_journal(source: Path, output: Path) -> None:
    unfinished_paths(output)[1].write_bytes(b"\x00" * 1000)


@pytest.mark.parametrize("happen", [_touch, _cut_data, _lose_data, _lose_journal, _spoil_journal])
def test_what_does_not_fit_any_more_is_begun_anew(
    wan: Path, tmp_path: Path, happen: Callable[[Path, Path], None]
) -> None:
    output = tmp_path / "out.safetensors"
    kill_at(0.9, wan, output, FORMAT)
    happen(wan, output)
    assert run(wan, output).resumed_bytes == 0
    assert verify_file(output)["ok"]
    assert sorted(os.listdir(tmp_path)) == ["out.safetensors", "wan.safetensors"]


def test_another_recipe_begins_anew(wan: Path, tmp_path: Path) -> None:
    whole, output = tmp_path / "whole.safetensors", tmp_path / "out.safetensors"
    run(wan, whole, "int8")
    kill_at(0.9, wan, output, FORMAT)
    assert run(wan, output, "int8").resumed_bytes == 0
    assert output.read_bytes() == whole.read_bytes()


def test_after_a_restart_of_the_machine_unflushed_blocks_are_not_believed(
    wan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.safetensors"
    kill_at(0.9, wan, output, FORMAT)
    data, _, _ = unfinished_paths(output)
    data.write_bytes(bytes(data.stat().st_size))  # a power cut: nothing had reached the disk
    monkeypatch.setattr(journal_module, "_boot", lambda: "another start of the machine")
    assert run(wan, output).resumed_bytes == 0
    assert verify_file(output)["ok"]


def test_after_a_restart_flushed_blocks_are_believed(
    wan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from managed_models.manager.quantize import partial

    whole, output = tmp_path / "whole.safetensors", tmp_path / "out.safetensors"
    run(wan, whole)
    monkeypatch.setattr(partial, "_SYNC_BYTES", 1 << 13)
    kill_at(0.9, wan, output, FORMAT)
    monkeypatch.setattr(journal_module, "_boot", lambda: "another start of the machine")
    assert run(wan, output).resumed_bytes > 0
    assert output.read_bytes() == whole.read_bytes()


def test_a_run_killed_while_it_gave_the_file_its_name_does_not_write_into_it(
    wan: Path, tmp_path: Path
) -> None:
    output, other = tmp_path / "out.safetensors", tmp_path / "other.safetensors"
    kill_at(0.9, wan, output, FORMAT)
    os.link(unfinished_paths(output)[0], other)
    before = other.read_bytes()
    assert run(wan, output).resumed_bytes == 0
    assert other.read_bytes() == before


def test_damage_in_what_is_continued_is_found_and_nothing_is_left(wan: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.safetensors"
    kill_at(0.9, wan, output, FORMAT)
    data, _, _ = unfinished_paths(output)
    with open(data, "r+b") as file:
        file.seek(data.stat().st_size // 3)
        (byte,) = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(FileError, match="reads back differently"):
        run(wan, output)
    assert os.listdir(tmp_path) == ["wan.safetensors"]
    run(wan, output)
    assert verify_file(output)["ok"]


def test_the_hash_is_not_computed_again_when_it_was_known(
    wan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from managed_models.manager.quantize import hashing

    class Hashed(Freeze):
        def progress(self, done: int, total: int) -> None:
            if done and b"sha256" in unfinished_paths(output)[1].read_bytes():
                super().progress(total, total)

    whole, output, kept = tmp_path / "whole.safetensors", tmp_path / "out.safetensors", tmp_path / "kept"
    run(wan, whole)
    kept.mkdir()
    with pytest.raises(Killed):
        run(wan, output, FORMAT, Hashed(0.0, output, kept))
    for path in unfinished_paths(output):
        shutil.move(kept / path.name, path)
    monkeypatch.setattr(hashing, "source_sha256", None)  # whoever calls it now fails
    run(wan, output)
    assert output.read_bytes() == whole.read_bytes()


# Two at once


def test_the_second_of_two_runs_is_told(wan: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.safetensors"
    told: list[AlreadyRunning] = []

    class Second(Nobody):
        def progress(self, done: int, total: int) -> None:
            if not told:
                with pytest.raises(AlreadyRunning) as caught:
                    run(wan, output)
                told.append(caught.value)

    run(wan, output, watch=Second())
    assert told[0].code == "already_running"
    assert "out.safetensors is being written by another job of this process" in str(told[0])
    assert told[0].details == {"process": os.getpid()}
    assert verify_file(output)["ok"]


def test_a_run_in_another_process_is_named(wan: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.safetensors"
    lock = unfinished_paths(output)[2]
    held = FileLock(lock)
    assert held.acquire()
    with pytest.raises(AlreadyRunning, match="another process"):
        run(wan, output)
    assert sorted(os.listdir(tmp_path)) == [lock.name, "wan.safetensors"]
    held.release()
    run(wan, output)


# Really killed


def test_runs_killed_at_random_moments_end_in_the_identical_file(wan: Path, tmp_path: Path) -> None:
    write_random_model(wan, layouts.wan21_t2v(width=512, ffn=2048, layers=3))
    command = [sys.executable, str(kill_runs.__file__), str(ROOT), str(wan)]
    command += [str(tmp_path / "out.safetensors"), FORMAT, "5", "1", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    trials = json.loads(done.stdout)["trials"]
    assert len(trials) == 5
    assert all(trial["same"] and not trial["left"] for trial in trials), trials
    assert sum(trial["kills"] for trial in trials) >= 3, trials
