"""Is a file whole? Its header in full, the checksums that it carries, and every hash that someone knows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .checking import Advice, Asked
from .compatibility import Finding, Severity
from .errors import Cancelled, FileError, ManagedModelsError, ModelNotFound, NotSafetensors
from .files import FileIdentity, file_sha256
from .formats.gguf import read_gguf
from .formats.safetensors import read_header
from .formats.sniff import GGUF_FILE
from .formats.writer import find_damage
from .library import is_storable
from .lineage import recorded_checksums
from .model import ModelInfo
from .registry import Registry
from .watch import Nobody, Together, Watch
from .words.integrity import corrupt_words

# Who says what a file's hash should be, in words, the one to be believed first.
REGISTERED = "as registered"
FETCHED = "as where it came from said"
EARLIER = "as it was when it was checked before, of this size and time"
_PICKLE = "pickle"
_THREADS = 2


@dataclass(frozen=True)
class Expected:
    """What a file should be.

    Attributes:
        hashes: who says so, in words -> SHA-256 in lower case.
        size: bytes, as it came from where it came from; None when nobody knows.
    """

    hashes: Mapping[str, str] = field(default_factory=dict)
    size: int | None = None


class Integrity:
    """Verify files, keep what was found, and say it of a file that is to be used.

    Args:
        registry: knows what files should be, and keeps the results.
        info_of: returns what a person registered for a file.
    """

    key = "health"

    def __init__(self, registry: Registry, info_of: Callable[[Path], ModelInfo | None]) -> None:
        self._registry = registry
        self._info_of = info_of

    def verify(self, path: Path, watch: Watch | None = None, quick: bool = False) -> dict[str, Any]:
        """Check a file against everything that is known of it, and keep the result.

        Args:
            quick: its header and its size alone, without reading it all.

        Returns:
            See :func:`verify_file`.
        """
        path = path.absolute()
        try:
            file = FileIdentity.of(path)
        except ModelNotFound:
            return verify_file(path)
        storable = is_storable(str(path))
        expected = self._expected(file) if storable else Expected()
        details = verify_file(path, watch=watch, expected=expected, measure=not quick, deep=not quick)
        if not storable:
            return details
        try:
            now: FileIdentity | None = FileIdentity.of(path)
        except ModelNotFound:
            now = None
        if now != file:
            return {
                **details,
                "ok": False,
                "code": "changing",
                "problem": f"{path.name} changed while it was read. Verify it again when it is complete.",
            }
        self._keep(file, details, quick)
        return details

    def verify_all(
        self, paths: Sequence[Path], watch: Watch | None = None, quick: bool = False
    ) -> list[tuple[Path, dict[str, Any]]]:
        """Verify several files, two at once: hashing keeps one core busy each.

        Args:
            watch: hears of bytes read of all; what was found before it stops everything is kept.
        """
        together = Together(watch or Nobody(), sum(map(_size, paths)))
        with ThreadPoolExecutor(_THREADS, "managed-models-verify") as pool:
            jobs = [pool.submit(self._verify_one, path, together, quick) for path in paths]
            try:
                return [(path, job.result()) for path, job in zip(paths, jobs, strict=True)]
            except BaseException:
                together.stop()
                for job in jobs:
                    job.cancel()
                raise

    def _verify_one(self, path: Path, together: Together, quick: bool) -> dict[str, Any]:
        with together.one(_size(path)) as watch:
            return self.verify(path, watch, quick)

    def known(self, path: Path) -> dict[str, Any]:
        """Return what is kept of a file, JSON-safe: ``health``, ``sha256``, ``source``, ``usage``."""
        if not is_storable(str(path)):
            return {"health": None, "sha256": None, "source": None, "usage": None}
        file = FileIdentity.of(path)
        source, usage = self._registry.source(file), self._registry.usage(file)
        return {
            "health": self._registry.health(file),
            "sha256": self._registry.sha256(file),
            "source": dataclasses.asdict(source) if source else None,
            "usage": dataclasses.asdict(usage) if usage else None,
        }

    def problem(self, path: Path) -> Finding | None:
        """Return what an earlier verification found wrong with the file as it is; nothing is read."""
        kept = self._kept(path)
        return None if kept is None or kept["ok"] else self._finding(path, kept)

    def advise(self, asked: Asked) -> Advice | None:
        """Say what is kept of the file that is asked about."""
        kept = self._kept(asked.path) if asked.path is not None else None
        if kept is None or asked.path is None:
            return None
        details = {key: kept[key] for key in ("ok", "checked", "problem", "checked_at")}
        return Advice(details, () if kept["ok"] else (self._finding(asked.path, kept),))

    def _kept(self, path: Path) -> dict[str, Any] | None:
        path = path.absolute()
        if not is_storable(str(path)):
            return None
        try:
            return self._registry.health(FileIdentity.of(path))
        except (ModelNotFound, FileError):  # not there any more, or a registry that cannot be read
            return None

    def _finding(self, path: Path, kept: Mapping[str, Any]) -> Finding:
        info = self._info_of(path)
        source = self._registry.source(FileIdentity.of(path))
        url = source.url if source else info.url if info else None
        message, remedy = corrupt_words(path.name, kept["problem"], url)
        return Finding("corrupt", Severity.BLOCKER, message, remedy)

    def _expected(self, file: FileIdentity) -> Expected:
        info, source = self._info_of(file.path), self._registry.source_of(file)
        hashes = {
            REGISTERED: info.sha256 if info else None,
            FETCHED: source[1].sha256 if source else None,
            EARLIER: self._registry.sha256(file),
        }
        known = {who: digest.strip().lower() for who, digest in hashes.items() if digest}
        return Expected(known, source[0] if source else None)

    def _keep(self, file: FileIdentity, details: dict[str, Any], quick: bool) -> None:
        before = self._registry.health(file)
        if quick and details["ok"] and before is not None:
            return  # a longer look has said more
        self._registry.put_health(file, details)
        if details["sha256"] and details["code"] != "bytes_changed":
            self._registry.put_sha256(file, details["sha256"])


def verify_file(
    path: Path,
    sha256: str | None = None,
    watch: Watch | None = None,
    *,
    expected: Expected | None = None,
    measure: bool = False,
    deep: bool = True,
) -> dict[str, Any]:
    """Check one file and return JSON-safe details.

    Args:
        sha256: the hash it should have, if anyone knows.
        watch: shows progress and may stop the hashing.
        expected: everything that is known, in place of ``sha256``.
        measure: hash it also where there is nothing to compare with.
        deep: look at more than the header and the size.

    Returns:
        ``ok``, ``checked`` (what was looked at and agreed, in words), ``unchecked`` (why nothing could
        be, else empty), ``problem`` and ``code`` (empty when ok), ``sha256`` (measured, or None).
    """
    if expected is None:
        expected = Expected({REGISTERED: sha256.lower()} if sha256 else {})
    checked = ["header"]
    try:
        problem, unchecked = _look_inside(path, checked, expected, watch if deep else None, deep)
    except Cancelled:
        raise
    except ManagedModelsError as error:
        return _result(path, checked, str(error), code=error.code)
    if problem:
        return _result(path, checked, problem)
    measured = None
    if deep and (measure or expected.hashes):
        try:
            measured = file_sha256(path, watch)
        except OSError as error:
            return _result(path, checked, f"{path.name} cannot be read: {error.strerror}.", code="file_error")
        wrong = _disagreement(measured, expected)
        if expected.hashes:
            checked.append("SHA-256")
        if wrong:
            return _result(path, checked, wrong[0], measured, wrong[1])
    return _result(path, checked, "", measured, unchecked="" if checked else unchecked)


def _look_inside(
    path: Path, checked: list[str], expected: Expected, watch: Watch | None, deep: bool
) -> tuple[str, str]:
    """Check header, size and checksums; return a problem, or why there was nothing to look at."""
    unchecked = ""
    try:
        checksums = _checksums(path)
    except NotSafetensors as error:
        kind = str(error.details.get("looks_like", ""))
        if _PICKLE not in kind:
            raise
        # Whether a pickle is whole shows when it is run, which is not done.
        checked.remove("header")
        checksums, unchecked = {}, f"it looks like {kind}, which cannot be checked without running it"
    if expected.size is not None:
        size = path.stat().st_size
        if size != expected.size:
            return f"It has {size} bytes, and {expected.size} had come from where it came from.", ""
        checked.append("size")
    if checksums and deep:
        checked.append(f"{len(checksums)} tensor checksums")
        damaged = find_damage(path, checksums, watch)
        if damaged:
            return f"The bytes of tensor {damaged!r} are not those that were written.", ""
    return "", unchecked


def _disagreement(measured: str, expected: Expected) -> tuple[str, str] | None:
    """Return the first that expected another hash, in words, and a code."""
    for who, digest in expected.hashes.items():
        if digest != measured:
            code = "bytes_changed" if who == EARLIER else "damaged"
            return f"Its SHA-256 is {measured}, and {digest} was expected, {who}.", code
    return None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _checksums(path: Path) -> dict[str, int]:
    """Check the header, and return the checksums that it carries: none in GGUF."""
    try:
        return recorded_checksums(read_header(path))
    except NotSafetensors as error:
        if error.details.get("looks_like") != GGUF_FILE:
            raise
    read_gguf(path)
    return {}


def _result(
    path: Path,
    checked: list[str],
    problem: str,
    sha256: str | None = None,
    code: str = "damaged",
    unchecked: str = "",
) -> dict[str, Any]:
    return {
        "model": path.name,
        "ok": not problem,
        "checked": checked,
        "unchecked": unchecked,
        "problem": problem,
        "code": code if problem else "",
        "sha256": sha256,
    }
