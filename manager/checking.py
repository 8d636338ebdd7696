"""Checking a model for a purpose: the verdict on the file, and what advisors add to it.

An advisor answers one question more (does it fit, do they belong together, what else is there). It is
handed frozen facts and returns findings and JSON-safe details under its own key.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from .compatibility import CompatibilityReport, Finding, ModelCompatibilityChecker
from .errors import BadInput
from .formats.safetensors import Header, read_header
from .host import DEFAULT, WEIGHT_DTYPES, SystemSnapshot
from .identify import ModelIdentity
from .model import ModelInfo, ModelType, QuantizationType

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


@dataclass(frozen=True)
class Asked:
    """What an advisor is asked about: a model whose header could be read, on this machine, for a purpose.

    Attributes:
        path: the file; None for one that is not here, whose header was read from an address.
        header: of a model that is not here, None for a file and for GGUF; see :meth:`read_header`.
    """

    name: str
    path: Path | None
    identity: ModelIdentity
    system: SystemSnapshot
    options: CheckOptions
    header: Header | None = None

    def read_header(self) -> Header | None:
        """Return the model's header, from here or from afar; None for GGUF, which has another.

        Raises:
            ManagedModelsError: the file is not there any more, or no good.
        """
        if (
            self.header is not None
            or self.path is None
            or self.identity.quantization is QuantizationType.GGUF
        ):
            return self.header
        return read_header(self.path)


@dataclass(frozen=True)
class Advice:
    """An answer: findings that join the others, and details under the advisor's key.

    Attributes:
        replaces: codes of findings on the file alone, which this answer says better.
    """

    details: dict[str, Any]
    findings: tuple[Finding, ...] = ()
    replaces: frozenset[str] = frozenset()


class Advisor(Protocol):
    """Answers one question about a model."""

    key: str

    def advise(self, asked: Asked) -> Advice | None:
        """Return the answer; None when the question does not arise."""


class Checking:
    """The verdict on a file with everything that the advisors know.

    Args:
        checker: judges the file by itself.
        advisors: asked in this order.
    """

    def __init__(self, checker: ModelCompatibilityChecker, advisors: Sequence[Advisor] = ()) -> None:
        self._checker = checker
        self.advisors = list(advisors)

    def check_file(
        self,
        name: str,
        path: Path,
        expected: ModelType | None,
        info: ModelInfo | None,
        options: CheckOptions | None = None,
    ) -> CompatibilityReport:
        """Return the verdict on a file.

        Raises:
            ModelNotFound: it is not there.
        """
        report = self._checker.report_file(name, path, expected, info)
        return self.extend(report, path, options or CheckOptions())

    def extend(
        self,
        report: CompatibilityReport,
        path: Path | None,
        options: CheckOptions,
        header: Header | None = None,
    ) -> CompatibilityReport:
        """Return the report with the advisors' answers; as it is for a file that could not be read.

        Args:
            path, header: see :class:`Asked`.
        """
        identity = report.subject.identity
        if identity is None:
            return report
        asked = Asked(report.subject.name, path, identity, report.system, options, header)
        advice = {advisor.key: advisor.advise(asked) for advisor in self.advisors}
        given = {key: answer for key, answer in advice.items() if answer is not None}
        replaced = frozenset[str]().union(*(answer.replaces for answer in given.values()))
        kept = (finding for finding in report.findings if finding.code not in replaced)
        return dataclasses.replace(
            report,
            findings=(*kept, *(f for answer in given.values() for f in answer.findings)),
            advice={**report.advice, **{key: answer.details for key, answer in given.items()}},
        )
