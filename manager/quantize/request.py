"""What a person asks for, in the contract's words, checked before anything is read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import BadInput
from ..units import GB
from .choices import (
    COMFY_QUANT,
    FAST,
    FORMAT_NAMES,
    LAYOUTS,
    POLICIES,
    QUALITIES,
    RECOMMENDED,
    SIZE_BUDGET,
)

if TYPE_CHECKING:
    from .formats import TargetFormat

MIXED = "mixed"
# Changes when the same request would give other bytes.
RECIPE_VERSION = 2
_LARGEST_GB = 1024.0


@dataclass(frozen=True)
class QuantizeRequest:
    """What a person wants, in the contract's words. Defaults are the contract's defaults.

    ``target_size_gb`` is for the policy ``size_budget`` alone: the whole file in GB of 1024^3 bytes, or
    0 for what fits this machine's GPU. That policy chooses formats by itself and leaves ``format`` aside.
    """

    format: str = "fp8_e4m3fn_scaled"
    policy: str = RECOMMENDED
    target_size_gb: float = 0.0
    quality: str = FAST
    keep_patterns: str = ""
    layout: str = COMFY_QUANT
    overwrite: bool = False
    allow_requantize: bool = False
    allow_nonfinite: bool = False
    max_memory_gb: float = 0.0

    def checked(self) -> Wanted:
        """Return what is wanted, in our own types.

        Raises:
            BadInput: an unknown value, or values that do not go together.
        """
        from .formats import FORMATS, with_layout
        from .policy import parse_patterns

        _check_choice("format", self.format, FORMAT_NAMES)
        _check_choice("policy", self.policy, POLICIES)
        _check_choice("quality", self.quality, QUALITIES)
        _check_choice("layout", self.layout, LAYOUTS)
        for name in ("target_size_gb", "max_memory_gb"):
            _check_size(name, getattr(self, name))
        patterns = parse_patterns(self.keep_patterns)
        if self.policy == SIZE_BUDGET:
            if self.layout != COMFY_QUANT:
                raise BadInput(
                    f"layout {self.layout} marks the whole file, and size_budget mixes formats.",
                    f"Leave layout at {COMFY_QUANT}, or choose another policy.",
                )
            return Wanted(None, patterns, round(self.target_size_gb * GB) or None)
        if self.target_size_gb:
            raise BadInput(
                f"target_size_gb is {self.target_size_gb:g}, and the policy is {self.policy}.",
                "Set policy to size_budget, or target_size_gb to 0.",
            )
        return Wanted(with_layout(FORMATS[self.format], self.layout), patterns)

    def recipe(self, wanted: Wanted, limit: int | None = None) -> dict[str, Any]:
        """Return everything that changes the bytes of the result, JSON-safe.

        Args:
            limit: bytes of the whole file, of a size budget.
        """
        recipe: dict[str, Any] = {
            "format": wanted.name,
            "policy": self.policy,
            "keep_patterns": list(wanted.patterns),
            "layout": self.layout,
            "quality": self.quality,
            "version": RECIPE_VERSION,
        }
        if limit is not None:
            recipe["limit_bytes"] = limit
        if self.allow_requantize:
            recipe["requantize"] = True
        return recipe


@dataclass(frozen=True)
class Wanted:
    """A checked request.

    Attributes:
        target: the format of every layer; None where a size budget chooses.
        patterns: layers to keep besides.
        limit: bytes of the whole file that a size budget allows; None for what fits the GPU.
    """

    target: TargetFormat | None
    patterns: tuple[str, ...] = ()
    limit: int | None = None

    @property
    def name(self) -> str:
        return self.target.name if self.target else MIXED


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise BadInput(f"{name} is {value!r}, which does not exist.", f"Use one of {', '.join(choices)}.")


def _check_size(name: str, value: float) -> None:
    if not math.isfinite(value) or not 0 <= value <= _LARGEST_GB:
        raise BadInput(f"{name} is {value!r}.", f"Give GB between 0 and {_LARGEST_GB:g}.")
