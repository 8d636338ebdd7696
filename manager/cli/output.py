"""What a command prints: words or one JSON object on stdout, progress on stderr, and its exit code."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import typer

from ..errors import Cancelled, ManagedModelsError
from ..report import one_line, render_error
from ..watch import JobProgress
from ..words.progress import job_words

# A terminal tells its width; into a pipe or a file, rows are as long as they need to be.
_WIDE = 10_000
Command = TypeVar("Command", bound=Callable[..., Any])


def show(details: Any, words: str, as_json: bool) -> None:
    """Print one result."""
    text = json.dumps(details) if as_json else words.encode("utf-8", "replace").decode()
    sys.stdout.write(text + "\n")


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows in columns under headings."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False)
    for heading in headings:
        grid.add_column(heading, overflow="fold")
    for row in rows:
        grid.add_row(*(Text(one_line(cell)) for cell in row))  # Text: a file name is no markup
    console = Console(width=None if sys.stdout.isatty() else _WIDE)
    with console.capture() as captured:
        console.print(grid)
    return "\n".join(line.rstrip() for line in captured.get().rstrip("\n").split("\n"))


_open: list[Callable[[], None]] = []


def close_after_command(close: Callable[[], None]) -> None:
    """Call ``close`` when the running command ends, however it ends."""
    _open.append(close)


def reports_errors(command: Command) -> Command:
    """Turn our errors into words (or ``{"error": ...}`` with ``--json``) and exit code 1."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except ManagedModelsError as error:
            _fail(error, kwargs.get("json_output", False))
        except KeyboardInterrupt:
            stopped = Cancelled("Stopped.", "Nothing was left behind.")
            _fail(stopped, kwargs.get("json_output", False))
        finally:
            while _open:
                _open.pop()()

    return run  # type: ignore[return-value]


def _fail(error: ManagedModelsError, as_json: bool) -> None:
    facts = error.to_dict()
    if as_json:
        sys.stdout.write(json.dumps({"error": facts}) + "\n")
    else:
        sys.stderr.write(render_error(facts) + "\n")
    raise typer.Exit(1)


@contextmanager
def progress_bar(label: str, counts: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on stderr while a long job runs; gives the function to call with bytes done and in all.

    Args:
        counts: they are no bytes, but things.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn() if counts else DownloadColumn(binary_units=True),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()
    ) as progress:
        task = progress.add_task(label, total=None)
        yield _Bar(lambda **changes: progress.update(task, **changes), label)


class _Bar:
    """Draws a job: called with bytes done and in all, or told all that is known."""

    def __init__(self, draw: Callable[..., None], label: str) -> None:
        self._draw = draw
        self._label = label

    def __call__(self, done: int, total: int) -> None:
        self._draw(completed=done, total=total)

    def tell(self, progress: JobProgress) -> None:
        self._draw(description=f"{self._label}: {job_words(progress.to_dict())}")
