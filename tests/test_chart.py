"""Charts, read back pixel by pixel."""

from __future__ import annotations

from typing import Any

import pytest
from managed_models.manager.chart import WIDTH, memory_chart, quantization_chart
from managed_models.manager.units import GB
from PIL import Image

BACK, TRACK = (24, 26, 30), (52, 56, 64)
BLUE, ORANGE, GREEN, GREY = (86, 180, 233), (230, 159, 0), (0, 158, 115), (110, 116, 126)
BAR_LEFT, BAR_RIGHT = 330, WIDTH - 260


def quantization(**facts: Any) -> dict[str, Any]:
    known: dict[str, Any] = {
        "source": "wan_bf16.safetensors",
        "format_words": "int8",
        "source_bytes": 28 * GB,
        "output_bytes": 14 * GB,
        "linear_layers": 40,
        "changed_layers": 3,
        "mean_error": 0.01,
        "layer_errors": {"blocks.0": 0.01, "blocks.1": 0.02, "blocks.2": 0.005},
    }
    return known | facts


def device(total: int = 24, free: int | None = 6, models: int = 12, name: str = "Card") -> dict[str, Any]:
    return {
        "name": name,
        "backend": "cuda",
        "total_bytes": total * GB,
        "free_bytes": None if free is None else free * GB,
        "models_bytes": models * GB,
    }


def model(size: int, loaded: int, ram: int, where: str = "cuda:0", title: str = "wan") -> dict[str, Any]:
    return {
        "title": title,
        "device": where,
        "size_bytes": size * GB,
        "loaded_bytes": loaded * GB,
        "ram_bytes": ram * GB,
        "kind": "static",
    }


def memory(**facts: Any) -> dict[str, Any]:
    known: dict[str, Any] = {
        "host": "this machine",
        "devices": [device()],
        "ram": {
            "total_bytes": 64 * GB,
            "available_bytes": 48 * GB,
            "process_bytes": 8 * GB,
            "mapped_bytes": None,
            "anonymous_bytes": None,
        },
        "models": [model(20, 10, 4)],
    }
    return known | facts


def bars(picture: Image.Image) -> list[dict[tuple[int, int, int], float]]:
    """Return each horizontal bar, from the top, as colour -> share of its length."""
    found: list[dict[tuple[int, int, int], float]] = []
    inside = False
    length = BAR_RIGHT + 1 - BAR_LEFT
    for y in range(picture.height):
        row = picture.crop((BAR_LEFT, y, BAR_RIGHT + 1, y + 1)).getcolors(length) or []
        colours = {colour: count / length for count, colour in row}
        whole = colours.keys() <= {TRACK, BLUE, ORANGE, GREEN, GREY}
        if whole and not inside:
            found.append({colour: share for colour, share in colours.items() if colour != TRACK})
        inside = whole
    return found


def is_dark(picture: Image.Image, box: tuple[int, int, int, int]) -> bool:
    """Tell whether nothing is drawn there."""
    colours = picture.crop(box).getcolors()
    return colours is not None and [colour for _, colour in colours] == [BACK]


def share(value: float) -> Any:
    return pytest.approx(value, abs=0.006)  # two pixels


# What a quantization cost


@pytest.mark.parametrize("layers", [1, 3, 12, 40, 1200])
def test_the_chart_is_as_wide_as_the_page_and_as_high_as_its_content(layers: int) -> None:
    picture = quantization_chart(
        quantization(layer_errors={f"blocks.{i}": (i + 1) / layers for i in range(layers)})
    )
    assert (picture.mode, picture.width) == ("RGB", WIDTH)
    assert is_dark(picture, (0, picture.height - 12, WIDTH, picture.height))
    assert not is_dark(picture, (0, picture.height - 50, WIDTH, picture.height))
    named = [bar for bar in bars(picture) if set(bar) == {BLUE}]
    assert len(named) >= min(layers, 12)


def test_the_length_of_a_bar_follows_the_error_of_its_layer() -> None:
    errors = {"blocks.0": 0.01, "blocks.1": 0.02, "blocks.2": 0.005}
    found = bars(quantization_chart(quantization(layer_errors=errors)))[-3:]
    assert [bar[BLUE] for bar in found] == [share(1.0), share(0.5), share(0.25)]


def test_only_the_twelve_worst_layers_are_named() -> None:
    errors = {f"blocks.{i}": (i + 1) / 100 for i in range(30)}
    found = bars(quantization_chart(quantization(layer_errors=errors)))[-12:]
    assert [bar[BLUE] for bar in found] == [share(i / 30) for i in range(30, 18, -1)]


def test_the_columns_follow_the_errors_in_file_order() -> None:
    errors = {"a": 0.01, "b": 0.04, "c": 0.02, "d": 0.0}
    picture = quantization_chart(quantization(layer_errors=errors))
    left, right = 24, WIDTH - 90
    heights = []
    for i in range(4):
        x = left + int((i + 0.5) * (right - left) / 4)
        column = [picture.getpixel((x, y)) for y in range(120, 290)]
        heights.append(column.count(BLUE))
    tallest = heights[1]
    assert tallest > 130
    assert [height / tallest for height in heights] == pytest.approx([0.25, 1.0, 0.5, 0.0], abs=0.02)


def test_a_file_without_recorded_errors_says_so_in_a_short_picture() -> None:
    picture = quantization_chart(quantization(layer_errors={}, changed_layers=0, mean_error=0.0))
    full = quantization_chart(quantization())
    assert (picture.width, picture.height < full.height / 2) == (WIDTH, True)
    assert bars(picture) == []


def test_layers_that_did_not_change_at_all() -> None:
    picture = quantization_chart(quantization(layer_errors={"a": 0.0, "b": 0.0}, mean_error=0.0))
    assert BLUE not in {colour for bar in bars(picture)[-2:] for colour in bar}


@pytest.mark.parametrize("length", [1, 60, 400])
def test_a_long_name_stays_clear_of_its_bar_and_of_the_edge(length: int) -> None:
    name = "b" * length
    picture = quantization_chart(quantization(source=name, layer_errors={name: 0.01}))
    top = picture.height - 12 - 26
    assert not is_dark(picture, (24, top, BAR_LEFT - 12, top + 26))
    assert is_dark(picture, (BAR_LEFT - 12, top, BAR_LEFT, top + 26))
    assert is_dark(picture, (WIDTH - 24, 0, WIDTH, picture.height))
    assert is_dark(picture, (0, 0, 24, picture.height))


def test_a_long_name_is_shortened_in_its_middle() -> None:
    def label(name: str) -> bytes:
        picture = quantization_chart(quantization(layer_errors={name: 0.01}))
        top = picture.height - 12 - 26
        return picture.crop((24, top, BAR_LEFT - 12, top + 26)).tobytes()

    start, end = "start" + "x" * 200, "x" * 200 + "end"
    assert label(start + end) == label(start + "y" * 50 + end)
    assert label(start + end) != label("other" + start[5:] + end)
    assert label(start + end) != label(start + end[:-3] + "END")


# What fills the memory


def test_the_bar_of_a_card_shows_models_and_other_use() -> None:
    found = bars(memory_chart(memory(devices=[device(total=24, free=6, models=12)])))
    assert found[0] == {BLUE: share(12 / 24), ORANGE: share(6 / 24)}


def test_the_bar_of_ram_shows_models_and_other_use() -> None:
    found = bars(memory_chart(memory()))
    assert found[1] == {BLUE: share(4 / 64), ORANGE: share(12 / 64)}


def test_the_bar_of_a_model_is_measured_against_the_largest() -> None:
    models = [model(20, 10, 4), model(40, 0, 40, "cpu"), model(5, 5, 0)]
    found = bars(memory_chart(memory(models=models)))[-3:]
    assert found == [
        {GREEN: share(10 / 40), GREY: share(4 / 40)},
        {GREY: share(1.0)},
        {GREEN: share(5 / 40)},
    ]


def test_a_card_whose_free_memory_is_unknown_shows_models_only() -> None:
    found = bars(memory_chart(memory(devices=[device(total=24, free=None, models=12)])))
    assert found[0] == {BLUE: share(0.5)}


@pytest.mark.parametrize(
    ("devices", "models"),
    [
        ([], []),
        ([], [model(4, 0, 4, "cpu")]),
        ([device()], []),
        ([device(), device(), device(), device()], [model(4, 4, 0)] * 30),
    ],
)
def test_every_card_and_model_gets_one_bar(
    devices: list[dict[str, Any]], models: list[dict[str, Any]]
) -> None:
    picture = memory_chart(memory(devices=devices, models=models))
    assert picture.width == WIDTH
    assert len(bars(picture)) == len(devices) + 1 + len(models)
    assert is_dark(picture, (0, picture.height - 12, WIDTH, picture.height))
    assert not is_dark(picture, (0, picture.height - 50, WIDTH, picture.height))


def test_bars_never_leave_their_track() -> None:
    """Models may be listed with more than the driver says is in use."""
    ram = memory()["ram"] | {"available_bytes": 63 * GB}
    models = [model(4, 4, 4), model(4, 4, 40)]
    picture = memory_chart(memory(devices=[device(free=23, models=30)], ram=ram, models=models))
    found = bars(picture)
    assert all(sum(bar.values()) <= 1 for bar in found)
    assert found[0] == {BLUE: share(1.0)}
    assert found[1] == {BLUE: share(1 / 64)}
    assert is_dark(picture, (WIDTH - 24, 0, WIDTH, picture.height))


def test_models_of_unknown_size_do_not_stop_the_chart() -> None:
    assert bars(memory_chart(memory(models=[model(0, 0, 0)])))[-1] == {}


def test_long_names_of_cards_and_models_stay_clear_of_their_bars() -> None:
    picture = memory_chart(
        memory(devices=[device(name="NVIDIA " * 20)], models=[model(4, 4, 0, title="模型" * 60)])
    )
    rows = [y for y in range(picture.height) if picture.getpixel((BAR_LEFT + 1, y)) in (TRACK, BLUE, GREEN)]
    assert rows
    assert all(picture.getpixel((x, y)) == BACK for y in rows for x in range(BAR_LEFT - 12, BAR_LEFT))
