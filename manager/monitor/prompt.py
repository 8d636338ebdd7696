"""What one prompt took at most, and its last moments."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..host import DeviceUse, ResidentModel
from .sample import Sample, device_used

# ComfyUI unloads every model after a device ran out of memory, before the prompt ends.
_LAST_SECONDS = 5.0


class Moment(NamedTuple):
    """A sample with the models that were in memory then."""

    sample: Sample
    models: tuple[ResidentModel, ...]


class Use(NamedTuple):
    """What a prompt took that sampled with this model at this latent shape, in bytes.

    ``vram_bytes`` is None on a CPU, ``ram_bytes`` where the platform does not tell.
    """

    model: ResidentModel
    shape: tuple[int, ...]
    device: str
    vram_bytes: int | None
    ram_bytes: int | None


class PromptRecord:
    """A prompt while it runs.

    Args:
        before: the last sample before it was noticed, if that may have been late: its growth in RAM is
            measured from the lower of that and its own first sample.
    """

    def __init__(self, id: str, began: float, before: Sample | None = None) -> None:
        self.id = id
        self.began = began
        self._lowest: int | None = before.anonymous_bytes if before else None
        self._highest: int | None = None
        self._vram: dict[str, int] = {}
        self._devices: dict[str, DeviceUse] = {}
        self._moments: deque[Moment] = deque()
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._models: dict[str, ResidentModel] = {}

    def note_sampling(self, ids: Iterable[str], shape: Sequence[int]) -> None:
        """Note which models sample, by the host's ids; of several shapes the largest counts."""
        for id in ids:
            known = self._shapes.get(id)
            if known is None or math.prod(shape) > math.prod(known):
                self._shapes[id] = tuple(shape)

    def add(self, moment: Moment) -> None:
        sample, models = moment
        self._moments.append(moment)
        while sample.time - self._moments[0].sample.time > _LAST_SECONDS:
            self._moments.popleft()
        if sample.anonymous_bytes is not None:
            if self._highest is None:
                self._lowest = min(self._lowest or sample.anonymous_bytes, sample.anonymous_bytes)
            self._highest = max(self._highest or 0, sample.anonymous_bytes)
        for use in sample.devices:
            self._devices[use.device] = use
            taken = _taken(use)
            if taken is not None:
                self._vram[use.device] = max(self._vram.get(use.device, 0), taken)
        for model in models:
            if model.id in self._shapes:
                self._models.setdefault(model.id, model)

    def uses(self) -> list[Use]:
        """Return what the prompt took, for each model that it sampled with."""
        return [self._use(model, self._shapes[id]) for id, model in self._models.items()]

    def _use(self, model: ResidentModel, shape: tuple[int, ...]) -> Use:
        growth = None
        if self._highest is not None and self._lowest is not None:
            growth = max(0, self._highest - self._lowest)
        device = self._devices.get(model.device)
        if device is None:
            return Use(model, shape, model.device, None, growth)
        return Use(model, shape, device.name, self._vram.get(model.device), growth)

    def worst_moment(self, on_device: bool) -> Moment | None:
        """Return the last moment at which memory was fullest, near the prompt's end."""
        if not self._moments:
            return None
        return max(reversed(self._moments), key=lambda moment: _fullness(moment.sample, on_device))


def _taken(use: DeviceUse) -> int | None:
    """Return what this process has on a device, as far as the platform tells it from the rest."""
    used = device_used(use)
    return None if used is None else max(0, used - (use.others_bytes or 0))


def _fullness(sample: Sample, on_device: bool) -> int:
    if on_device and sample.devices:
        return sum(device_used(use) or 0 for use in sample.devices)
    return sample.ram_used_bytes
