"""One look at memory, how often to look, and a window of looks in few figures."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..host import DeviceUse, Host, ResidentModel

# Five a second, in spite of what waking up and a sample take.
RUNNING_SECONDS = 0.18
IDLE_SECONDS = 30.0
# As many as a chart has columns to show.
POINTS = 240


@dataclass(frozen=True, slots=True)
class Sample:
    """Memory at one moment. Bytes; None where the platform does not tell.

    Attributes:
        time: seconds since the epoch.
        anonymous_bytes: what this process has for itself.
        mapped_bytes: the files that it maps, which the system takes back when it needs room.
        models_bytes: what models hold, on devices and in RAM.
        prompt: the running prompt; None when nothing runs.
    """

    time: float
    ram_total_bytes: int
    ram_available_bytes: int
    anonymous_bytes: int | None
    mapped_bytes: int | None
    devices: tuple[DeviceUse, ...]
    models_bytes: int
    prompt: str | None = None
    node: str | None = None
    node_type: str | None = None

    @property
    def ram_used_bytes(self) -> int:
        return self.ram_total_bytes - self.ram_available_bytes

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"devices": [dataclasses.asdict(use) for use in self.devices]}


def take_sample(host: Host, models: Sequence[ResidentModel], now: float) -> Sample:
    """Look at memory; ``models`` is what :meth:`Host.resident` just said."""
    ram, process, running = host.ram(), host.memory(), host.running()
    mapped = process.mapped_bytes
    return Sample(
        time=now,
        ram_total_bytes=ram.total_bytes,
        ram_available_bytes=ram.available_bytes,
        anonymous_bytes=None if mapped is None else process.rss_bytes - mapped,
        mapped_bytes=mapped,
        devices=tuple(host.device_use()),
        models_bytes=sum(model.loaded_bytes + model.ram_bytes for model in models),
        prompt=running.id if running else None,
        node=running.node if running else None,
        node_type=running.node_type if running else None,
    )


def interval(running: bool, watched: bool, watched_seconds: float) -> float:
    """Return the seconds from one sample to the next."""
    seconds = min(watched_seconds, IDLE_SECONDS) if watched else IDLE_SECONDS
    return min(seconds, RUNNING_SECONDS) if running else seconds


def device_used(use: DeviceUse) -> int | None:
    """Return what is in use on a device by everybody, as far as the platform tells.

    What PyTorch keeps for later counts as free where the driver tells: it is handed out again.
    """
    return use.torch_bytes if use.free_bytes is None else use.total_bytes - use.free_bytes


def summarise(samples: Sequence[Sample], seconds: float, now: float) -> dict[str, Any]:
    """Return the highest use of a window with the node that ran then, and points for a chart. JSON-safe.

    ``points`` has one list per figure, oldest first: seconds ago, RAM in use, use of each device (None
    where unknown), and whether a prompt ran.
    """
    inside = [sample for sample in samples if 0 <= now - sample.time <= seconds]
    ram_peak = _highest(inside, lambda sample: sample.ram_used_bytes)
    names = list(dict.fromkeys(use.device for sample in inside for use in sample.devices))
    shown = _thin(inside, now - seconds, seconds)
    return {
        "seconds": seconds,
        "samples": len(inside),
        "ram_peak_bytes": ram_peak.ram_used_bytes if ram_peak else None,
        "ram_peak_node": ram_peak.node_type if ram_peak else None,
        "anonymous_peak_bytes": max(
            (s.anonymous_bytes for s in inside if s.anonymous_bytes is not None), default=None
        ),
        "devices": [_device_peak(inside, name) for name in names],
        "points": {
            "seconds_ago": [round(now - group[-1].time, 1) for group in shown],
            "ram_bytes": [max(sample.ram_used_bytes for sample in group) for group in shown],
            "device_bytes": [[_most(group, name) for group in shown] for name in names],
            "busy": [any(sample.prompt is not None for sample in group) for group in shown],
        },
    }


def _thin(samples: Sequence[Sample], start: float, seconds: float) -> list[list[Sample]]:
    """Group samples by which of ``POINTS`` columns they fall into."""
    groups: dict[int, list[Sample]] = {}
    for sample in samples:
        column = min(POINTS - 1, math.floor((sample.time - start) / seconds * POINTS))
        groups.setdefault(column, []).append(sample)
    return [groups[column] for column in sorted(groups)]


def _device_peak(samples: Sequence[Sample], device: str) -> dict[str, Any]:
    peak = _highest(samples, lambda sample: _used_on(sample, device))
    use = next(use for sample in reversed(samples) for use in sample.devices if use.device == device)
    return {
        "device": device,
        "name": use.name,
        "total_bytes": use.total_bytes,
        "peak_bytes": None if peak is None else _used_on(peak, device),
        "peak_node": peak.node_type if peak else None,
    }


def _used_on(sample: Sample, device: str) -> int | None:
    return next((device_used(use) for use in sample.devices if use.device == device), None)


def _most(samples: Iterable[Sample], device: str) -> int | None:
    return max((used for s in samples if (used := _used_on(s, device)) is not None), default=None)


def _highest(samples: Iterable[Sample], figure: Callable[[Sample], int | None]) -> Sample | None:
    """Return the sample with the largest figure, None when none has one."""
    known = [(value, sample) for sample in samples if (value := figure(sample)) is not None]
    return max(known, key=lambda pair: pair[0])[1] if known else None
