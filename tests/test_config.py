"""Settings and their words for a wrong value."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from managed_models.manager import ModelManagerConfig
from managed_models.manager.config import parse_duration, registry_url
from managed_models.manager.errors import BadInput
from managed_models.manager.registry.database import database_path

# Lengths of time


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("0s", 0),
        ("30s", 30),
        ("5m", 300),
        ("1h", 3600),
        ("1.5h", 5400),
        ("90", 90),
        (" 5 m ", 300),
        ("5M", 300),
        ("0.5s", 0.5),
        ("forever", math.inf),
        (" Forever ", math.inf),
        ("-1", math.inf),  # as other programs write it
        (0, 0),
        (300, 300),
        (2.5, 2.5),
        (math.inf, math.inf),
    ],
)
def test_a_length_of_time(text: str | float, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            " ",
            "m",
            "5 minutes",
            "5d",
            "-5m",
            "1h30m",
            "5,5s",
            "1e3",
            "nan",
            "inf",
            "for ever",
            "5m5",
            ".5s",
        ),
        *(-5, -0.1, math.nan, True, None, b"5m", ["5m"]),
    ],
)
def test_what_is_no_length_of_time(text: Any) -> None:
    with pytest.raises(BadInput) as caught:
        parse_duration(text)
    assert repr(text) in caught.value.message
    assert "30s, 5m, 1h or forever" in caught.value.remedy


@given(st.integers(0, 10**9), st.sampled_from(["s", "m", "h", "S", "M", "H", ""]), st.text(" \t", max_size=3))
def test_a_length_in_any_unit(count: int, unit: str, space: str) -> None:
    seconds = count * {"s": 1, "m": 60, "h": 3600, "": 1}[unit.lower()]
    assert parse_duration(f"{space}{count}{space}{unit}{space}") == seconds


@given(st.text(max_size=12))
def test_any_text_is_a_length_or_refused(text: str) -> None:
    try:
        seconds: float | None = parse_duration(text)
    except BadInput:
        seconds = None
    assert seconds is None or seconds >= 0


@given(st.floats(0, allow_nan=False, allow_infinity=False) | st.integers(0, 10**12))
def test_a_number_is_seconds(number: float) -> None:
    assert parse_duration(number) == number


# Where the registry is


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///:memory:", "sqlite:////data/registry.sqlite", "sqlite:///relative.sqlite"]
)
def test_an_address_in_the_environment_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("MANAGED_MODELS_DB", url)
    assert registry_url(Path("/default.sqlite")) == url


def test_a_path_in_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MANAGED_MODELS_DB", str(tmp_path / "my registry.sqlite"))
    assert database_path(registry_url(Path("/default.sqlite"))) == tmp_path / "my registry.sqlite"


def test_a_relative_path_in_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MANAGED_MODELS_DB", "here.sqlite")
    assert database_path(registry_url(Path("/default.sqlite"))) == Path.cwd() / "here.sqlite"


def test_a_path_from_home_in_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("MANAGED_MODELS_DB", "~/here.sqlite")
    assert database_path(registry_url(Path("/default.sqlite"))) == tmp_path / "here.sqlite"


@pytest.mark.parametrize("said", [None, ""])
def test_without_a_word_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: str | None
) -> None:
    monkeypatch.delenv("MANAGED_MODELS_DB")
    if said is not None:
        monkeypatch.setenv("MANAGED_MODELS_DB", said)
    assert database_path(registry_url(tmp_path / "r.sqlite")) == tmp_path / "r.sqlite"


# The settings


def test_the_registry_of_a_script_is_in_memory_whatever_the_environment_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MANAGED_MODELS_DB", "/somewhere.sqlite")
    assert ModelManagerConfig().database_url == "sqlite:///:memory:"


def test_two_configs_share_nothing() -> None:
    first, second = ModelManagerConfig(), ModelManagerConfig()
    assert first == second
    first.model_roots.append(Path("/models"))  # type: ignore[attr-defined]
    assert second.model_roots == []


def test_folders_become_paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    config = ModelManagerConfig(model_roots=["/models", Path("relative"), "~/models"])
    assert config.model_roots == [Path("/models"), Path("relative"), tmp_path / "models"]


def test_every_setting_is_taken() -> None:
    config = ModelManagerConfig(
        database_url="sqlite:///x.sqlite",
        max_ram_gb=0,
        vram_reserve_gb=1.5,
        keep_alive="forever",
        cleanup_interval_seconds=0.01,
        monitor_interval_seconds=1,
        max_parallel_downloads=1,
    )
    assert (config.max_ram_gb, config.vram_reserve_gb, config.keep_alive) == (0, 1.5, "forever")


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("keep_alive", "5 minutes", "Use 0, 30s, 5m, 1h or forever"),
        ("keep_alive", -5, "Use 0, 30s, 5m, 1h or forever"),
        ("database_url", "postgresql://x", "Use sqlite:///path/to/file.db"),
        ("database_url", "/models/registry.sqlite", "Use sqlite:///path/to/file.db"),
        ("database_url", "", "Use sqlite:///path/to/file.db"),
        ("cleanup_interval_seconds", 0, "It has to be more than 0"),
        ("cleanup_interval_seconds", -1, "It has to be more than 0"),
        ("cleanup_interval_seconds", math.nan, "It has to be more than 0"),
        ("monitor_interval_seconds", 0, "It has to be more than 0"),
        ("max_ram_gb", -1, "Give a number of GB"),
        ("max_ram_gb", "4", "Give a number of GB"),
        ("max_ram_gb", float("nan"), "Give a number of GB"),
        ("share_stock_loaders", "always", "Use one of auto, on, off"),
        ("vram_reserve_gb", -0.5, "Give a number of GB"),
        ("max_parallel_downloads", 0, "It has to be 1 or more"),
    ],
)
def test_a_wrong_setting_says_what_would_be_right(setting: str, value: Any, words: str) -> None:
    with pytest.raises(BadInput) as caught:
        ModelManagerConfig(**{setting: value})
    error = caught.value
    assert setting in error.message
    assert repr(value) in error.message
    assert words in error.remedy
