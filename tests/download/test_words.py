"""The words about downloads."""

from __future__ import annotations

from typing import Any

import pytest
from managed_models.manager.units import GB, MB
from managed_models.manager.words.download import download_line, format_seconds, render_downloads


def state(**changes: Any) -> dict[str, Any]:
    return {
        "name": "wan.safetensors", "state": "running", "done_bytes": GB, "total_bytes": 4 * GB,
        "bytes_per_second": 50 * MB, "seconds_left": 61.0, "connections": 4, "error": None, **changes,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "1.0 GB of 4.0 GB (25 %), 50 MB/s, 61 s left, 4 connections"),
        ({"seconds_left": None, "connections": 1}, "1.0 GB of 4.0 GB (25 %), 50 MB/s"),
        ({"total_bytes": None, "seconds_left": None, "connections": 1}, "1.0 GB, 50 MB/s"),
        ({"state": "queued"}, "waits for its turn"),
        ({"state": "checking"}, "checking, 1.0 GB of 4.0 GB (25 %)"),
        ({"state": "paused"}, "paused at 1.0 GB of 4.0 GB (25 %)"),
        ({"state": "done"}, "whole, 1.0 GB"),
        ({"state": "cancelled"}, "cancelled, nothing is left of it"),
        (
            {"state": "failed", "error": {"message": "It broke.", "remedy": "Mend it."}},
            "It broke. Mend it. Kept: 1.0 GB of 4.0 GB (25 %).",
        ),
        ({"state": "failed", "done_bytes": 0, "error": None}, "Nobody knows why."),
    ],
)
def test_a_line_for_each_state(changes: dict[str, Any], words: str) -> None:
    assert download_line(state(**changes)) == f"wan.safetensors: {words}"


def test_a_list() -> None:
    assert render_downloads([]) == "There are no downloads."
    assert len(render_downloads([state(), state()]).splitlines()) == 2


@pytest.mark.parametrize(("seconds", "words"), [(0.2, "1 s"), (90, "90 s"), (600, "10 min"), (5400, "1.5 h")])
def test_lengths_of_time(seconds: float, words: str) -> None:
    assert format_seconds(seconds) == words
