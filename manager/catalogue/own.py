"""A person's own catalogue: a JSON file in the words of ComfyUI's model lists.

    {"models": [{"name": "my_model.safetensors", "directory": "diffusion_models",
                 "url": "https://... or hf:owner/repository/path[@revision]",
                 "hash": "<sha256>", "size": 1234}]}

``hash`` (or ``sha256``) and ``size`` in bytes may be left out. An item that cannot be used is named with
its line, and the rest counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path

from ..remote.reach import Reach
from .entry import PUBLIC, Entry, Origin, Refusal, read_entry

FILE_NAME = "catalogue.json"
_MOST_BYTES = 8 << 20


def read_own(
    path: Path, folders: Collection[str] | None, reach: Reach = PUBLIC
) -> tuple[list[Entry], list[str]]:
    """Return the addresses in a catalogue file, and what is wrong with it, in words; nothing without one.

    Args:
        folders: the folder types that there are; None takes any.
        reach: the addresses that may be asked at all.
    """
    try:
        if not path.is_file():
            return [], []
        if path.stat().st_size > _MOST_BYTES:
            return [], [f"{path.name} is larger than {_MOST_BYTES >> 20} MB and was not read."]
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        return [], [f"{path.name} cannot be read: {error}."]
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        return [], [f"{path.name}, line {error.lineno}: {error.msg}. Nothing in it was used."]
    except RecursionError:
        return [], [f"{path.name} is nested too deeply. Nothing in it was used."]
    items = document.get("models") if isinstance(document, dict) else None
    if not isinstance(items, list):
        return [], [f'{path.name} has no list "models". Nothing in it was used.']
    found: list[Entry] = []
    problems: list[str] = []
    for i, item in enumerate(items):
        entry = read_entry(item, Origin.OWN, folders, reach)
        if isinstance(entry, Refusal):
            where = f"{path.name}, line {_line_of(text, i)}, entry {i + 1}"
            called = f" ({entry.name})" if entry.name else ""
            problems.append(f"{where}{called}: {entry.reason}. It is left out.")
        else:
            found.append(entry)
    return found, problems


def _line_of(text: str, index: int) -> int | str:
    """Return the line on which an item of the list begins."""
    decoder = json.JSONDecoder()
    for start in re.finditer(r'"models"\s*:\s*\[', text):
        at = start.end()
        try:
            for _ in range(index):
                at = _skip(text, decoder.raw_decode(text, _skip(text, at))[1]) + 1  # the comma
            decoder.raw_decode(text, _skip(text, at))
        except (ValueError, IndexError):
            continue  # a list of that name inside another one
        return text.count("\n", 0, _skip(text, at)) + 1
    return "?"


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at
