"""Charts as pictures: what a quantization cost per layer, and what fills the memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from .units import format_bytes

WIDTH = 900
_MARGIN = 24
_BAR = 26
_BACK = (24, 26, 30)
_TEXT = (232, 234, 237)
_FAINT = (150, 156, 166)
_TRACK = (52, 56, 64)
# Distinguishable with any colour vision (Okabe and Ito).
_BLUE = (86, 180, 233)
_ORANGE = (230, 159, 0)
_GREEN = (0, 158, 115)
_GREY = (110, 116, 126)
_PURPLE = (204, 121, 167)
_YELLOW = (240, 228, 66)
_RED = (213, 94, 0)
_UNDER = (78, 76, 44)  # under the yellow line
_PLOT = (36, 39, 45)
_BAR_LEFT, _BAR_RIGHT = 330, WIDTH - 260
_STRIP = 56
_STRIP_LEFT = 150  # names of devices are short
# Colours of formats, that of most weights first.
_FORMATS = (_BLUE, _ORANGE, _GREEN, _PURPLE, _YELLOW, _RED)


def quantization_chart(details: Mapping[str, Any]) -> Image.Image:
    """Draw what became of a model's bytes, the error of every changed layer in file order, and the worst.

    Args:
        details: of :meth:`Quantizer.quantize`.
    """
    errors: dict[str, float] = details["layer_errors"]
    worst = details["worst"]
    formats = [entry["format"] for entry in details["formats"]]
    colours = {name: _FORMATS[i % len(_FORMATS)] for i, name in enumerate(formats)}
    format_of = {layer["name"]: layer["format"] for layer in details["layers"]}
    page = _Page(2 * _MARGIN + 200 + 180 + 60 + len(worst) * _BAR)
    page.title(
        f"{details['source']} as {details['format_words']}",
        f"{format_bytes(details['source_bytes'])} to {format_bytes(details['output_bytes'])}, "
        f"{details['changed_layers']} of {details['linear_layers']} linear layers changed, "
        f"{details['mean_error']:.2%} on average",
    )
    page.legend((*((name, colours[name]) for name in formats), ("as before", _GREY)))
    _draw_sizes(page, details, colours)
    page.space()
    if not errors:
        page.line("No errors were recorded in this file.", _FAINT)
        return page.finish()
    top = max(errors.values()) or 1.0
    page.line("Change of each layer's weights (relative L2), in file order", _FAINT)
    shades = [colours.get(format_of.get(name, ""), _BLUE) for name in errors]
    page.columns([error / top for error in errors.values()], 150, f"{top:.2%}", shades)
    page.line("The layers that changed most", _FAINT)
    decibels = {layer["name"]: layer["sqnr_db"] for layer in details["layers"]}
    for name in worst:
        error, ratio = errors[name], decibels.get(name)
        words = f"{error:.2%}" + ("" if ratio is None else f", {ratio:.1f} dB")
        page.bar(name, words, [(error / top, colours.get(format_of.get(name, ""), _BLUE))])
    return page.finish()


def _draw_sizes(page: _Page, details: Mapping[str, Any], colours: Mapping[str, tuple[int, int, int]]) -> None:
    """Draw the file before and after, by what its bytes are."""
    before, after = details["source_bytes"], details["output_bytes"]
    longest = max(before, after)
    page.bar("Before", format_bytes(before), [(before / longest, _GREY)])
    parts = [(entry["bytes"] / longest, colours[entry["format"]]) for entry in details["formats"]]
    rest = after - sum(entry["bytes"] for entry in details["formats"])
    page.bar("After", format_bytes(after), [*parts, (max(0, rest) / longest, _GREY)])


def memory_chart(details: Mapping[str, Any]) -> Image.Image:
    """Draw VRAM per device, RAM, how both went until now, and each model.

    Args:
        details: of :func:`memory.memory_report`.
    """
    devices, models, history = details["devices"], details["models"], details["history"]
    strips = 1 + len(history["devices"]) if history else 0
    rows = len(devices) + 2 + max(1, len(models))
    page = _Page(2 * _MARGIN + 420 + rows * _BAR + strips * (_STRIP + 12))
    page.title(f"Memory on {details['host']}", "")
    _draw_now(page, details)
    if history:
        page.space()
        _draw_history(page, history, details["ram"])
    page.space()
    page.line("Models in memory", _TEXT)
    if devices:
        page.legend((("in VRAM", _GREEN), ("in RAM", _GREY)))
    if not models:
        page.line("none", _FAINT)
    largest = max((model["size_bytes"] for model in models), default=1) or 1
    for model in models:
        parts = [(model["loaded_bytes"] / largest, _GREEN), (model["ram_bytes"] / largest, _GREY)]
        where = f"{format_bytes(model['ram_bytes'])} in RAM"
        if model["device"] != "cpu":
            where = f"{format_bytes(model['loaded_bytes'])} VRAM, {where}"
        page.bar(model["title"], where, parts)
    return page.finish()


def _draw_now(page: _Page, details: Mapping[str, Any]) -> None:
    """Draw who has what of each device and of RAM now."""
    devices, ram = details["devices"], details["ram"]
    entries = [("models", _BLUE), ("other use", _ORANGE)]
    if any(device["others_bytes"] for device in devices):
        entries.append(("other programs", _PURPLE))
    page.legend((*entries, ("free", _TRACK)))
    for device in devices:
        total, ours, free = device["total_bytes"], device["models_bytes"], device["free_bytes"]
        used = ours if free is None else total - free
        strangers = min(device["others_bytes"] or 0, max(0, used - ours))
        words = "use unknown" if free is None else f"{format_bytes(used)} of {format_bytes(total)}"
        parts = [
            (ours / total, _BLUE),
            (max(0, used - ours - strangers) / total, _ORANGE),
            (strangers / total, _PURPLE),
        ]
        page.bar(_vram_label(device, len(devices)), words, parts)
    total = ram["total_bytes"]
    in_models = sum(model["ram_bytes"] for model in details["models"])
    used = total - ram["available_bytes"]
    page.bar(
        "RAM",
        f"{format_bytes(used)} of {format_bytes(total)}",
        [(min(in_models, used) / total, _BLUE), (max(0, used - in_models) / total, _ORANGE)],
    )


def _vram_label(device: Mapping[str, Any], devices: int) -> str:
    which = f"{device['device']} " if devices > 1 and device["device"] else ""
    return f"VRAM, {which}{device['name']}"


def _draw_history(page: _Page, history: Mapping[str, Any], ram: Mapping[str, Any]) -> None:
    """Draw how VRAM and RAM went until now, each with its limit."""
    past = _span(history["seconds"])
    if not history["samples"]:
        page.line(f"The last {past}: nothing was recorded yet", _TEXT)
        return
    page.line(f"The last {past}", _TEXT)
    page.legend((("in use", _YELLOW), ("limit", _RED), ("a prompt ran", _GREEN)))
    points = history["points"]
    xs = [1 - ago / history["seconds"] for ago in points["seconds_ago"]]
    for device, used in zip(history["devices"], points["device_bytes"], strict=True):
        total = device["total_bytes"]
        page.strip(
            "VRAM" if len(history["devices"]) == 1 else f"VRAM, {device['device']}",
            _peak_words(device["peak_bytes"], total, device["peak_node"]),
            [(x, None if y is None else y / total) for x, y in zip(xs, used, strict=True)],
            points["busy"],
            1.0,
        )
    total = ram["total_bytes"]
    page.strip(
        "RAM",
        _peak_words(history["ram_peak_bytes"], total, history["ram_peak_node"]),
        [(x, y / total) for x, y in zip(xs, points["ram_bytes"], strict=True)],
        points["busy"],
        1 - ram["headroom_bytes"] / total,
    )
    page.axis(f"{past} ago", "now")


def _peak_words(peak: int | None, total: int, node_type: str | None) -> tuple[str, str]:
    if peak is None:
        return "use unknown", ""
    words = f"at most {format_bytes(peak)} of {format_bytes(total)}"
    return words, f"at {node_type}" if node_type else ""


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else "1 h"


class _Page:
    """A picture that fills from top to bottom and ends where its content ends."""

    def __init__(self, height: int) -> None:
        self._image = Image.new("RGB", (WIDTH, height), _BACK)
        self._draw = ImageDraw.Draw(self._image)
        self._y = _MARGIN
        self._large = ImageFont.load_default(22)
        self._small = ImageFont.load_default(15)

    def finish(self) -> Image.Image:
        return self._image.crop((0, 0, WIDTH, self._y + _MARGIN // 2))

    def space(self) -> None:
        self._y += 12

    def legend(self, entries: tuple[tuple[str, tuple[int, int, int]], ...]) -> None:
        x = _MARGIN
        for text, colour in entries:
            self._draw.rectangle((x, self._y + 7, x + 11, self._y + 18), fill=colour, outline=_FAINT)
            self._text(x + 18, self._y + 4, text, self._small, _FAINT, 200)
            x += 44 + int(self._draw.textlength(text, font=self._small))
        self._y += 30

    def title(self, text: str, subtitle: str) -> None:
        self._text(_MARGIN, self._y, text, self._large, _TEXT, WIDTH - 2 * _MARGIN)
        if subtitle:
            self._text(_MARGIN, self._y + 32, subtitle, self._small, _FAINT, WIDTH - 2 * _MARGIN)
        self._y += 68 if subtitle else 38

    def line(self, text: str, colour: tuple[int, int, int]) -> None:
        self._text(_MARGIN, self._y + 4, text, self._small, colour, WIDTH - 2 * _MARGIN)
        self._y += 30

    def bar(self, label: str, value: str, parts: list[tuple[float, tuple[int, int, int]]]) -> None:
        """Draw a labelled bar; ``parts`` are shares of its length, from the left."""
        left, right = _BAR_LEFT, _BAR_RIGHT
        middle = self._y + 4
        self._text(_MARGIN, middle, label, self._small, _TEXT, left - _MARGIN - 12)
        self._draw.rectangle((left, middle, right, middle + 16), fill=_TRACK)
        x = float(left)
        for share, colour in parts:
            length = max(0.0, min(share, 1.0)) * (right - left)
            end = min(x + length, right)
            if end - x >= 1:
                self._draw.rectangle((int(x), middle, int(end), middle + 16), fill=colour)
            x = end
        self._text(right + 12, middle, value, self._small, _TEXT, WIDTH - right - 12 - _MARGIN)
        self._y += _BAR

    def strip(
        self,
        label: str,
        value: tuple[str, str],
        points: list[tuple[float, float | None]],
        busy: list[bool],
        limit: float,
    ) -> None:
        """Draw a labelled line over time with the area under it; all figures are shares, 0 to 1.

        Args:
            value: two lines of words on the right.
            points: (how far along, how high), None where that is unknown.
            busy: whether something ran, for each point.
            limit: how high the line may go.
        """
        left, right, top, bottom = _STRIP_LEFT, _BAR_RIGHT, self._y, self._y + _STRIP
        self._text(_MARGIN, top + 4, label, self._small, _TEXT, left - _MARGIN - 12)
        self._text(right + 12, top + 4, value[0], self._small, _TEXT, WIDTH - right - 12 - _MARGIN)
        self._text(right + 12, top + 24, value[1], self._small, _FAINT, WIDTH - right - 12 - _MARGIN)
        self._draw.rectangle((left, top, right, bottom), fill=_PLOT)
        placed = [
            (left + _inside(x) * (right - left), None if y is None else bottom - _inside(y) * _STRIP)
            for x, y in points
        ]
        for (x0, y0), (x1, y1) in zip(placed, [*placed[1:], (float(right), placed[-1][1])], strict=True):
            if y0 is not None and y1 is not None:
                self._draw.polygon(((x0, bottom), (x0, y0), (x1, y1), (x1, bottom)), fill=_UNDER)
                self._draw.line(((x0, y0), (x1, y1)), fill=_YELLOW, width=2)
        for (x, _), ran in zip(placed, busy, strict=True):
            if ran:
                self._draw.rectangle((max(left, x - 2), bottom - 2, x, bottom), fill=_GREEN)
        height = bottom - _inside(limit) * _STRIP
        for x in range(left, right, 10):
            self._draw.line(((x, height), (x + 5, height)), fill=_RED, width=2)
        self._draw.line(((left, top), (left, bottom)), fill=_FAINT)
        self._y += _STRIP + 12

    def axis(self, start: str, end: str) -> None:
        """Write what the left and the right end of the strips above mean."""
        width = int(self._draw.textlength(end, font=self._small))
        self._text(_STRIP_LEFT, self._y - 6, start, self._small, _FAINT, 200)
        self._text(_BAR_RIGHT - width, self._y - 6, end, self._small, _FAINT, 200)
        self._y += 18

    def columns(self, heights: list[float], size: int, top: str, colours: list[tuple[int, int, int]]) -> None:
        """Draw upright columns of these relative heights; ``top`` labels a full one."""
        left, right, bottom = _MARGIN, WIDTH - 90, self._y + size
        self._draw.rectangle((left, self._y, right, bottom), fill=_TRACK)
        step = (right - left) / len(heights)
        for i, (share, colour) in enumerate(zip(heights, colours, strict=True)):
            x = left + i * step
            end = max(x, x + step - (1 if step > 3 else 0) - 1)
            self._draw.rectangle((int(x), int(bottom - share * (size - 6)), int(end), bottom), fill=colour)
        self._text(right + 10, self._y, top, self._small, _TEXT, 80)
        self._text(right + 10, bottom - 16, "0 %", self._small, _FAINT, 80)
        self._y += size + 14

    def _text(
        self,
        x: int,
        y: int,
        text: str,
        font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
        colour: tuple[int, int, int],
        width: int,
    ) -> None:
        """Write text, shortened in the middle when it is wider than ``width``."""
        shown = text
        keep = len(text)
        while self._draw.textlength(shown, font=font) > width and keep > 8:
            keep -= 1
            shown = f"{text[: keep // 2]}…{text[-(keep - keep // 2) :]}"
        self._draw.text((x, y), shown, fill=colour, font=font)


def _inside(share: float) -> float:
    return max(0.0, min(share, 1.0))
