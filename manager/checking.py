"""Checking a model for a purpose: the verdict on the file, and what advisors add to it.

An advisor answers one question more (does it fit, do they belong together, what else is there). It is
handed frozen facts and returns findings and JSON-safe details under its own key.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from .compatibility import CompatibilityReport, Finding, ModelCompatibilityChecker
from .errors import BadInput
from .host import DEFAULT, WEIGHT_DTYPES, SystemSnapshot
from .identify import ModelIdentity
from .model import ModelInfo, ModelType

MAX_SIDE = 16384
MAX_LENGTH = 4096
MAX_BATCH = 4096


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


@dataclass(frozen=True)
class Asked:
    """What an advisor is asked about: a file that could be read, on this machine, for a purpose."""

    name: str
    path: Path
    identity: ModelIdentity
    system: SystemSnapshot
    options: CheckOptions


@dataclass(frozen=True)
class Advice:
    """An answer: findings that join the others, and details under the advisor's key."""

    details: dict[str, Any]
    findings: tuple[Finding, ...] = ()


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

    def extend(self, report: CompatibilityReport, path: Path, options: CheckOptions) -> CompatibilityReport:
        """Return the report with the advisors' answers; as it is for a file that could not be read."""
        identity = report.subject.identity
        if identity is None:
            return report
        asked = Asked(report.subject.name, path, identity, report.system, options)
        advice = {advisor.key: advisor.advise(asked) for advisor in self.advisors}
        given = {key: answer for key, answer in advice.items() if answer is not None}
        return dataclasses.replace(
            report,
            findings=(*report.findings, *(f for answer in given.values() for f in answer.findings)),
            advice={key: answer.details for key, answer in given.items()},
        )
