"""Bytes to words."""

from __future__ import annotations

import pytest
from managed_models.manager.units import GB, MB, format_bytes, format_count, to_gb


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1 KB"),
        (MB, "1.0 MB"),
        (10 * MB, "10 MB"),
        (1023 * MB, "1023 MB"),
        (GB - 1, "1.0 GB"),
        (GB, "1.0 GB"),
        (int(13.3 * GB), "13.3 GB"),
    ],
)
def test_format_bytes_always_has_a_unit(count: int, words: str) -> None:
    assert format_bytes(count) == words


def test_one_gb_is_1024_cubed() -> None:
    assert to_gb(1024**3) == 1.0


@pytest.mark.parametrize(
    ("count", "words"),
    [(14_288_491_584, "14.3B"), (860e6, "860M"), (20_638_016, "20.6M"), (256, "256"), (1500, "1.5K")],
)
def test_format_count(count: float, words: str) -> None:
    assert format_count(count) == words
