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
_WORST = 12


def quantization_chart(details: Mapping[str, Any]) -> Image.Image:
    """Draw the error of every changed layer in file order, and the worst by name.

    Args:
        details: of :meth:`Quantizer.quantize`.
    """
    errors: dict[str, float] = details["layer_errors"]
    worst = sorted(errors.items(), key=lambda item: -item[1])[:_WORST]
    height = 2 * _MARGIN + 96 + 180 + 60 + len(worst) * _BAR
    page = _Page(height)
    page.title(
        f"{details['source']} as {details['format_words']}",
        f"{format_bytes(details['source_bytes'])} to {format_bytes(details['output_bytes'])}, "
        f"{details['changed_layers']} of {details['linear_layers']} linear layers changed, "
        f"{details['mean_error']:.2%} on average",
    )
    if not errors:
        page.line("No errors were recorded in this file.", _FAINT)
        return page.finish()
    top = max(errors.values()) or 1.0
    page.line("Change of each layer's weights (relative L2), in file order", _FAINT)
    page.columns([error / top for error in errors.values()], 150, f"{top:.2%}")
    page.line("The layers that changed most", _FAINT)
    for name, error in worst:
        page.bar(name, f"{error:.2%}", [(error / top, _BLUE)])
    return page.finish()


def memory_chart(details: Mapping[str, Any]) -> Image.Image:
    """Draw VRAM per device, RAM, and each model.

    Args:
        details: of :func:`memory.memory_report`.
    """
    devices, models, ram = details["devices"], details["models"], details["ram"]
    rows = len(devices) + 2 + max(1, len(models))
    page = _Page(2 * _MARGIN + 240 + rows * _BAR)
    page.title(f"Memory on {details['host']}", "")
    page.legend((("models", _BLUE), ("other use", _ORANGE), ("free", _TRACK)))
    for device in devices:
        total, ours = device["total_bytes"], device["models_bytes"]
        free = device["free_bytes"]
        other = 0 if free is None else max(0, total - free - ours)
        used = "use unknown" if free is None else f"{format_bytes(total - free)} of {format_bytes(total)}"
        page.bar(f"VRAM, {device['name']}", used, [(ours / total, _BLUE), (other / total, _ORANGE)])
    total = ram["total_bytes"]
    in_models = sum(model["ram_bytes"] for model in models)
    used = total - ram["available_bytes"]
    page.bar(
        "RAM",
        f"{format_bytes(used)} of {format_bytes(total)}",
        [(min(in_models, used) / total, _BLUE), (max(0, used - in_models) / total, _ORANGE)],
    )
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
        left, right = 330, WIDTH - 260
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

    def columns(self, heights: list[float], size: int, top: str) -> None:
        """Draw upright columns of these relative heights; ``top`` labels a full one."""
        left, right, bottom = _MARGIN, WIDTH - 90, self._y + size
        self._draw.rectangle((left, self._y, right, bottom), fill=_TRACK)
        step = (right - left) / len(heights)
        for i, share in enumerate(heights):
            x = left + i * step
            end = max(x, x + step - (1 if step > 3 else 0) - 1)
            self._draw.rectangle((int(x), int(bottom - share * (size - 6)), int(end), bottom), fill=_BLUE)
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
