"""What is told of a long job, and its words."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from managed_models.manager.local_host import LocalHost
from managed_models.manager.units import GB
from managed_models.manager.watch import JobProgress, Nobody, Pace, tell
from managed_models.manager.words.progress import format_seconds, job_words, progress_line


class Bar:
    """Takes all that is known."""

    def __init__(self) -> None:
        self.bytes: list[tuple[int, int]] = []
        self.told: list[JobProgress] = []

    def __call__(self, done: int, total: int) -> None:
        self.bytes.append((done, total))

    def tell(self, progress: JobProgress) -> None:
        self.told.append(progress)


def test_a_host_passes_on_what_its_bar_takes() -> None:
    bar, plain = Bar(), []
    progress = JobProgress("converting", 1, 2, "layer")
    tell(LocalHost(on_progress=bar), progress)
    tell(LocalHost(on_progress=lambda *seen: plain.append(seen)), progress)
    tell(LocalHost(), progress)
    tell(Nobody(), progress)
    assert (bar.bytes, bar.told, plain) == ([(1, 2)], [progress], [(1, 2)])


@given(st.integers(0, 10**12), st.integers(0, 10**12), st.integers(0, 10**12), st.floats(0, 1e6))
def test_what_an_earlier_run_did_counts_neither_for_speed_nor_for_time(
    resumed: int, fresh: int, left: int, seconds: float
) -> None:
    progress = JobProgress("converting", resumed + fresh, resumed + fresh + left, "x", seconds, resumed)
    speed = progress.bytes_per_second
    if not fresh or not seconds:
        assert speed is None
        assert progress.seconds_left is None
    elif speed and math.isfinite(speed):
        assert speed == pytest.approx(fresh / seconds)
        assert progress.seconds_left == pytest.approx(left / speed)
    assert progress_line(progress.to_dict())


def test_the_line() -> None:
    progress = JobProgress("converting", 12 * GB, 28 * GB, "blocks.3.ffn.0", 8.0, 4 * GB)
    assert progress_line(progress.to_dict()) == (
        "Converting: 12.0 GB of 28.0 GB, 4.0 GB from an earlier run, 1.0 GB/s, 16 s left, blocks.3.ffn.0"
    )
    assert job_words(progress.to_dict()) == "blocks.3.ffn.0, 1.0 GB/s"
    measured = JobProgress("measuring", 2 * GB, 28 * GB, "head", 4.0)
    assert progress_line(measured.to_dict()).startswith(
        "Measuring what each format changes: 2.0 GB of 28.0 GB"
    )
    assert job_words(measured.to_dict()) == "measuring head, 512 MB/s"
    done = JobProgress("verifying", 28 * GB, 28 * GB, "x", 30.0)
    assert progress_line(done.to_dict()) == "Reading back what was written: 28.0 GB of 28.0 GB"
    assert job_words(done.to_dict()) == "reading back what was written"


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (59, "59 s"), (185, "3 min 5 s"), (4810, "1 h 20 min"), (-1, "0 s")]
)
def test_times(seconds: float, words: str) -> None:
    assert format_seconds(seconds) == words


def test_the_pace_lets_a_new_stage_through_at_once() -> None:
    pace = Pace(3600)
    assert [pace.due("a"), pace.due("a"), pace.due("b"), pace.due("b"), pace.due("a")] == [1, 0, 1, 0, 1]
    assert [Pace(0).due(), Pace(0).due()] == [True, True]
