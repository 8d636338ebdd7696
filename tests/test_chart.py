"""Charts, read back pixel by pixel."""

from __future__ import annotations

from typing import Any

import pytest
from managed_models.manager.chart import WIDTH, memory_chart, quantization_chart
from managed_models.manager.units import GB
from PIL import Image

BACK, TRACK = (24, 26, 30), (52, 56, 64)
BLUE, ORANGE, GREEN, GREY = (86, 180, 233), (230, 159, 0), (0, 158, 115), (110, 116, 126)
PURPLE, YELLOW, RED, PLOT = (204, 121, 167), (240, 228, 66), (213, 94, 0), (36, 39, 45)
BAR_LEFT, BAR_RIGHT = 330, WIDTH - 260
STRIP_LEFT, STRIP = 150, 56


def quantization(**facts: Any) -> dict[str, Any]:
    """Return details; ``layers`` follow from ``layer_errors`` and ``formats_of`` (int8 by default)."""
    known: dict[str, Any] = {
        "source": "wan_bf16.safetensors",
        "format_words": "int8",
        "source_bytes": 28 * GB,
        "output_bytes": 14 * GB,
        "linear_layers": 40,
        "changed_layers": 3,
        "mean_error": 0.01,
        "layer_errors": {"blocks.0": 0.01, "blocks.1": 0.02, "blocks.2": 0.005},
        "formats": [{"format": "int8", "layers": 3, "weights": 10, "bytes": 12 * GB}],
        "formats_of": {},
    } | facts
    errors, formats = known["layer_errors"], known["formats_of"]
    known["layers"] = [
        {"name": name, "format": formats.get(name, "int8"), "error": error, "sqnr_db": 30.0}
        for name, error in errors.items()
    ]
    known["worst"] = sorted(errors, key=lambda name: -errors[name])[:10]
    return known


def device(
    total: int = 24,
    free: int | None = 6,
    models: int = 12,
    name: str = "Card",
    others: int | None = None,
) -> dict[str, Any]:
    return {
        "device": "cuda:0",
        "name": name,
        "backend": "cuda",
        "total_bytes": total * GB,
        "free_bytes": None if free is None else free * GB,
        "models_bytes": models * GB,
        "torch_bytes": None,
        "others_bytes": None if others is None else others * GB,
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
            "headroom_bytes": 8 * GB,
            "process_bytes": 8 * GB,
            "mapped_bytes": None,
            "anonymous_bytes": None,
        },
        "models": [model(20, 10, 4)],
        "history": None,
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
        whole = colours.keys() <= {TRACK, BLUE, ORANGE, GREEN, GREY, PURPLE}
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
    assert len(named) >= min(layers, 10)


def test_the_length_of_a_bar_follows_the_error_of_its_layer() -> None:
    errors = {"blocks.0": 0.01, "blocks.1": 0.02, "blocks.2": 0.005}
    found = bars(quantization_chart(quantization(layer_errors=errors)))[-3:]
    assert [bar[BLUE] for bar in found] == [share(1.0), share(0.5), share(0.25)]


def test_the_ten_worst_layers_are_named() -> None:
    errors = {f"blocks.{i}": (i + 1) / 100 for i in range(30)}
    found = bars(quantization_chart(quantization(layer_errors=errors)))
    named = [bar for bar in found[-10:] if set(bar) == {BLUE}]
    assert [bar[BLUE] for bar in named] == [share(i / 30) for i in range(30, 20, -1)]


def test_the_bytes_before_and_after_by_what_they_are() -> None:
    formats = [
        {"format": "nvfp4", "layers": 2, "weights": 10, "bytes": 7 * GB},
        {"format": "int8", "layers": 1, "weights": 4, "bytes": 3 * GB},
    ]
    picture = quantization_chart(quantization(formats=formats))
    before, after = bars(picture)[:2]
    assert before == {GREY: share(1.0)}
    assert after == {BLUE: share(7 / 28), ORANGE: share(3 / 28), GREY: share(4 / 28)}


def test_a_layer_has_the_colour_of_its_format() -> None:
    formats = [{"format": name, "layers": 1, "weights": 10, "bytes": GB} for name in ("nvfp4", "int8")]
    details = quantization(
        formats=formats, layer_errors={"a": 0.01, "b": 0.02}, formats_of={"a": "nvfp4", "b": "int8"}
    )
    worst, other = bars(quantization_chart(details))[-2:]
    assert (worst, other) == ({ORANGE: share(1.0)}, {BLUE: share(0.5)})


def test_the_columns_follow_the_errors_in_file_order() -> None:
    errors = {"a": 0.01, "b": 0.04, "c": 0.02, "d": 0.0}
    picture = quantization_chart(quantization(layer_errors=errors))
    left, right = 24, WIDTH - 90
    heights = []
    for i in range(4):
        x = left + int((i + 0.5) * (right - left) / 4)
        column = [picture.getpixel((x, y)) for y in range(215, 390)]
        heights.append(column.count(BLUE))
    tallest = heights[1]
    assert tallest > 130
    assert [height / tallest for height in heights] == pytest.approx([0.25, 1.0, 0.5, 0.0], abs=0.02)


def test_a_file_without_recorded_errors_says_so_in_a_short_picture() -> None:
    picture = quantization_chart(quantization(layer_errors={}, formats=[], changed_layers=0, mean_error=0.0))
    full = quantization_chart(quantization())
    assert (picture.width, picture.height < full.height / 2) == (WIDTH, True)
    assert bars(picture)[0] == {GREY: share(1.0)}
    assert len(bars(picture)) == 2


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


def test_what_other_programs_hold_is_told_apart_where_it_is_known() -> None:
    found = bars(memory_chart(memory(devices=[device(total=24, free=6, models=12, others=2)])))
    assert found[0] == {BLUE: share(12 / 24), ORANGE: share(4 / 24), PURPLE: share(2 / 24)}


def test_other_programs_never_take_more_than_what_is_in_use() -> None:
    found = bars(memory_chart(memory(devices=[device(total=24, free=6, models=17, others=5)])))
    assert found[0] == {BLUE: share(17 / 24), PURPLE: share(1 / 24)}


# How it went until now


def history(cards: int = 1, ram: list[int] | None = None, vram: list[int | None] | None = None) -> Any:
    ram = [16, 32, 32, 16] if ram is None else ram
    vram = [6, 12, 12, None] if vram is None else vram
    return {
        "seconds": 300,
        "samples": len(ram),
        "ram_peak_bytes": max(ram, default=0) * GB,
        "ram_peak_node": "KSampler",
        "devices": [
            {
                "device": f"cuda:{i}",
                "name": "Card",
                "total_bytes": 24 * GB,
                "peak_bytes": 12 * GB,
                "peak_node": None,
            }
            for i in range(cards)
        ],
        "points": {
            "seconds_ago": [300 - 75 * i for i in range(len(ram))],
            "ram_bytes": [used * GB for used in ram],
            "device_bytes": [[None if y is None else y * GB for y in vram]] * cards,
            "busy": [False, True, True, False][: len(ram)],
        },
    }


def strips(picture: Image.Image) -> list[Image.Image]:
    """Return the picture of each line over time, from the top."""
    column = [picture.getpixel((STRIP_LEFT, y)) for y in range(picture.height)]
    axis = (150, 156, 166)
    tops = [
        y
        for y in range(1, picture.height - STRIP)
        if column[y - 1] != axis and all(pixel == axis for pixel in column[y : y + STRIP])
    ]
    return [picture.crop((STRIP_LEFT, top, BAR_RIGHT, top + STRIP + 1)) for top in tops]


def height_at(strip: Image.Image, along: float) -> float:
    """Return how high the line is there, 0 to 1."""
    x = int(along * (strip.width - 1))
    ys = [y for y in range(strip.height) if strip.getpixel((x, y)) == YELLOW]
    return 1 - sum(ys) / len(ys) / STRIP


def test_the_line_follows_memory_over_time() -> None:
    (vram, ram) = strips(memory_chart(memory(history=history())))
    assert height_at(ram, 0.02) == pytest.approx(0.27, abs=0.04)
    assert height_at(ram, 0.35) == pytest.approx(0.5, abs=0.03)
    assert height_at(vram, 0.35) == pytest.approx(0.5, abs=0.03)


def test_where_use_is_unknown_the_line_breaks() -> None:
    (vram, _) = strips(memory_chart(memory(history=history())))
    right = vram.crop((int(vram.width * 0.8), 4, vram.width, vram.height - 4))
    assert YELLOW not in {colour for _, colour in right.getcolors(10_000) or []}


def test_the_limits_are_marked() -> None:
    (vram, ram) = strips(memory_chart(memory(history=history())))
    for strip, limit in ((vram, 1.0), (ram, 1 - 8 / 64)):
        ys = {y for y in range(strip.height) if strip.getpixel((102, y)) == RED}
        assert ys
        assert 1 - min(ys) / STRIP == pytest.approx(limit, abs=0.04)


def test_it_shows_when_a_prompt_ran() -> None:
    (_, ram) = strips(memory_chart(memory(history=history())))
    bottom = [ram.getpixel((x, ram.height - 1)) for x in range(1, ram.width)]
    ran = [i / len(bottom) for i, pixel in enumerate(bottom) if pixel == GREEN]
    assert ran
    assert all(0.2 < x < 0.55 for x in ran)


@pytest.mark.parametrize("cards", [0, 1, 4])
def test_every_card_and_ram_get_a_line(cards: int) -> None:
    picture = memory_chart(memory(devices=[device()] * cards, history=history(cards)))
    assert len(strips(picture)) == cards + 1
    assert len(bars(picture)) == cards + 2
    assert is_dark(picture, (0, picture.height - 12, WIDTH, picture.height))
    assert not is_dark(picture, (0, picture.height - 50, WIDTH, picture.height))
    assert is_dark(picture, (WIDTH - 24, 0, WIDTH, picture.height))


def test_one_moment_is_a_line_too() -> None:
    (ram,) = strips(memory_chart(memory(devices=[], history=history(0, [32], []))))
    assert height_at(ram, 0.5) == pytest.approx(0.5, abs=0.03)


def test_before_anything_was_recorded_there_is_no_line() -> None:
    picture = memory_chart(memory(history=history(0, [])))
    assert strips(picture) == []
    assert picture.height > memory_chart(memory()).height


def test_lines_never_leave_their_plot() -> None:
    """Shares above 1 and points before the window come from clocks and drivers that disagree."""
    wild = history(1, [100, 0, 100], [48, None, 0])
    wild["points"]["seconds_ago"] = [400, 100, -5]
    picture = memory_chart(memory(history=wild))
    assert len(strips(picture)) == 2
    assert is_dark(picture, (WIDTH - 24, 0, WIDTH, picture.height))
