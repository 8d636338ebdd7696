"""Checking a model for a purpose: the verdict on the file, and what advisors add to it.

An advisor answers one question more (does it fit, do they belong together, what else is there). It is
handed frozen facts and returns findings and JSON-safe details under its own key.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from .check_options import CheckOptions
from .compatibility import CompatibilityReport, Finding, ModelCompatibilityChecker
from .formats.safetensors import Header, read_header
from .host import SystemSnapshot
from .identify import ModelIdentity
from .model import ModelInfo, ModelType, QuantizationType


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
