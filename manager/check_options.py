"""What a model is checked for, as a node, a request or a command line asks. Light: node schemas need it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import BadInput
from .host import DEFAULT, WEIGHT_DTYPES

MAX_SIDE = 16384
MAX_LENGTH = 4096
MAX_BATCH = 4096
# What goes with a model, and where it is looked for.
COMPANION_FOLDERS: Mapping[str, tuple[str, ...]] = {
    "second_model": ("diffusion_models", "checkpoints"),
    "clip": ("text_encoders",),
    "vae": ("vae",),
    "lora": ("loras",),
}
_PLAIN = ("width", "height", "length", "batch_size", "weight_dtype")


@dataclass(frozen=True)
class CheckOptions:
    """What the model is wanted for.

    Attributes:
        width, height: of the picture in pixels; 0 is the architecture's usual.
        length: frames; 0 is the architecture's usual.
        weight_dtype: one of ``WEIGHT_DTYPES``.
        companions: files that go with it, by what they are: ``second_model``, ``clip``, ``vae``, ``lora``.
    """

    width: int = 0
    height: int = 0
    length: int = 0
    batch_size: int = 1
    weight_dtype: str = DEFAULT
    companions: dict[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, least, most in (
            ("width", 0, MAX_SIDE),
            ("height", 0, MAX_SIDE),
            ("length", 0, MAX_LENGTH),
            ("batch_size", 1, MAX_BATCH),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or not least <= value <= most:
                raise BadInput(f"{name} is {value!r}.", f"Give a whole number from {least} to {most}.")
        if self.weight_dtype not in WEIGHT_DTYPES:
            raise BadInput(
                f"weight_dtype is {self.weight_dtype!r}.", f"Use one of {', '.join(WEIGHT_DTYPES)}."
            )


def options_from(
    values: Mapping[str, Any], find: Callable[[str, Sequence[str]], Path], none: str = "none"
) -> CheckOptions:
    """Return options from what a node, a request or a command line was given.

    Args:
        values: width, height, length, batch_size, weight_dtype, and names of companions; what is left
            out, None or ``none`` has its default.
        find: returns the file that a name means, given the folder types to look in.

    Raises:
        BadInput: a value of the wrong kind.
        ManagedModelsError: no such companion.
    """
    plain = {name: values[name] for name in _PLAIN if values.get(name) is not None}
    names = {what: values[what] for what in COMPANION_FOLDERS if values.get(what) is not None}
    return CheckOptions(**plain, companions=resolve_companions(names, find, none))


def resolve_companions(
    names: Mapping[str, Any], find: Callable[[str, Sequence[str]], Path], none: str = "none"
) -> dict[str, Path]:
    """Return the files that companions' names mean; those called ``none`` or nothing are left out.

    Raises:
        BadInput: a name is no text.
        ManagedModelsError: there is no such file.
    """
    for what, name in names.items():
        if not isinstance(name, str):
            raise BadInput(f"{what} is {name!r}.", "Give the name of a model file as text.")
    return {
        what: find(name, COMPANION_FOLDERS[what])
        for what, name in names.items()
        if name.strip() not in ("", none)
    }
