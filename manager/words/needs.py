"""The words about what a workflow needs, from the details of :meth:`needs.Needs.report`. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..remote.address import HUGGING_FACE
from ..units import format_bytes

_ORIGINS = {
    "own": "named by your catalogue",
    "registered": "named when it was registered",
    "workflow": "named by the workflow",
    "templates": "named by ComfyUI's templates",
}
_WHY = {
    "same_hash": "the very same file (same SHA-256) is here",
    "other_subfolder": "a file of this name is here, in another sub-folder",
    "other_folder": "a file of this name is here, in another folder",
    "other_precision": "a file named like it, in another precision, is here",
}


def render_needs(details: Mapping[str, Any]) -> str:
    """Return the whole answer: what is missing first, then what is here, then what was left out."""
    rows = details["models"]
    lines = [needs_headline(details), ""]
    active = [row for row in rows if row["active"]]
    lines += _section("Missing", [r for r in active if r["status"] != "here"])
    lines += _section("Here", [r for r in active if r["status"] == "here"])
    lines += _section("Not needed now: its nodes are muted or bypassed", [r for r in rows if not r["active"]])
    if details["refused"]:
        lines += ["Left out of the workflow's own list:"]
        lines += [f"  {r['name'] or 'an entry'}: {r['reason']}" for r in details["refused"]]
    lines += [f"Catalogue: {problem}" for problem in details["problems"]]
    return "\n".join(lines).rstrip()


def needs_headline(details: Mapping[str, Any]) -> str:
    """Return the answer in one line."""
    count = sum(row["active"] for row in details["models"])
    if not count:
        return "This workflow names no models."
    if details["ready"]:
        return f"Everything is here: {_models(count)}."
    head = f"{details['missing']} of {_models(count)} missing"
    fetchable = details["fetchable"]
    if not fetchable:
        return f"{head}; no address is known."
    if fetchable == details["missing"]:
        return f"{head}; all can be fetched ({fetch_size(details)})."
    return f"{head}; {fetchable} can be fetched ({fetch_size(details)})."


def fetch_size(details: Mapping[str, Any]) -> str:
    """Return how much there is to fetch, as far as it is known."""
    if details["fetch_bytes"] is not None:
        return format_bytes(details["fetch_bytes"])
    known = sum(size for row in details["models"] if row["fetchable"] and (size := _size(row)) is not None)
    return f"more than {format_bytes(known)}" if known else "size not known yet"


def fetch_offer(details: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the one question before the download of what is missing; None when there is nothing to fetch.

    Returns:
        ``label`` of a button, ``title``, ``message`` and ``items`` of a question, and the ``models`` meant.
    """
    rows = [row for row in details["models"] if row["fetchable"]]
    if not rows:
        return None
    size = fetch_size(details)
    hosts = ", ".join(dict.fromkeys(row["address"]["host"] for row in rows))
    return {
        "label": f"Fetch {len(rows)} missing ({size})",
        "title": "Fetch 1 missing model?" if len(rows) == 1 else f"Fetch {len(rows)} missing models?",
        "message": f"{size[0].upper()}{size[1:]}, from {hosts}.",
        "items": [_offer_item(row) for row in rows],
        "models": [{"folder": row["folder"], "name": row["name"]} for row in rows],
    }


def _offer_item(row: Mapping[str, Any]) -> str:
    size = _size(row)
    facts = [
        f"{row['folder']}/{row['address']['name']}",
        *([format_bytes(size)] if size is not None else []),
        f"from {row['address']['url']}, {_ORIGINS[row['address']['origin']]}",
    ]
    return ": ".join((facts[0], ", ".join(facts[1:])))


def missing_words(facts: Mapping[str, Any]) -> tuple[str, str]:
    """Return what is wrong and what to do about a model that is not here, and that could be fetched.

    Args:
        facts: its ``name`` as it was asked for, ``file``, ``folder`` and ``url``.
    """
    into = f" into {facts['folder']}" if facts["folder"] else ""
    return (
        f"{facts['name']} is not here. It can be had from {facts['url']}.",
        f"Fetch it{into} with the panel Managed Models, under This workflow, or let models be fetched when "
        "they are needed: the setting Fetch missing models, or MANAGED_MODELS_AUTO_DOWNLOAD=1.",
    )


def render_fetch(started: Sequence[Mapping[str, Any]], failed: Sequence[Mapping[str, Any]]) -> str:
    """Return what became of a wish to fetch: how many downloads began, and why others did not."""
    words = [f"{_downloads(len(started))} began." if started else "Nothing is being downloaded."]
    words += [f"{row['name']}: {row['error']['message']}" for row in failed]
    return " ".join(words)


def render_again(name: str) -> str:
    """Return what is said when a damaged file begins to be fetched again."""
    return f"{name} is being fetched again; the damaged file stays until the new one is whole."


def need_lines(row: Mapping[str, Any], short: bool = False) -> list[str]:
    """Return one model's lines: its name and place first.

    Args:
        short: name places rather than whole addresses, for a narrow list.
    """
    size = _size(row)
    facts = [text for text in (row["folder"], format_bytes(size) if size is not None else "") if text]
    lines = [row["name"] + (f" ({', '.join(facts)})" if facts else "")]
    if row["nodes"]:
        lines.append("for " + ", ".join(row["nodes"]))
    lines += _state_lines(row, short)
    return lines


def _state_lines(row: Mapping[str, Any], short: bool) -> list[str]:
    status, file = row["status"], row["file"]
    if status == "here":
        lines = _verdict_lines(file.get("verdict") if file else None)
        if row["hash_differs"]:
            lines.append(
                "a file of this name is here, but its SHA-256 is not the one that the workflow states"
            )
        return lines
    if status == "refused":
        return [f"refused: {row['reason']}"]
    lines = [_alternative_line(alternative) for alternative in row["alternatives"]]
    if row["reason"]:
        lines.append(row["reason"])
    elif status == "unknown":
        lines.append("nobody knows which folder its node looks in; look where the workflow came from")
    return lines + _address_lines(row, short)


def _alternative_line(alternative: Mapping[str, Any]) -> str:
    where = f"{_WHY[alternative['why']]}: {alternative['folder']}/{alternative['name']}"
    if alternative["why"] == "same_hash":
        return f"{where}. Choose it, or move it."
    return ", ".join([where, *_verdict_lines(alternative["verdict"])])


def _address_lines(row: Mapping[str, Any], short: bool) -> list[str]:
    address = row["address"]
    if address is None:
        return (
            [] if row["status"] == "unknown" else ["no address is known: look where the workflow came from"]
        )
    show = _place if short else str
    lines = [f"from {show(address['url'])} ({_ORIGINS[address['origin']]})"]
    if row["name"].rpartition("/")[2] != address["name"].rpartition("/")[2]:
        lines.append(f"as {address['folder']}/{address['name']}")
    others = [other for other in row["other_addresses"] if other["url"] != address["url"]]
    if others:
        said = ", ".join(dict.fromkeys(f"{show(o['url'])} ({_ORIGINS[o['origin']]})" for o in others))
        lines.append(f"files of that name are also at {said}")
    if row["blocked"] and row["status"] != "here":
        lines.append(row["blocked"])
    remote = row["remote"]
    if remote and remote["error"]:
        lines.append(f"could not be asked: {remote['error']['message']}")
    elif remote:
        lines += _verdict_lines(remote["verdict"])
    return lines


def _place(url: str) -> str:
    """Return an address's host, on Hugging Face with the repository."""
    host, *path = url.partition("://")[2].split("/")
    return "/".join([host, *path[:2]]) if host == HUGGING_FACE else host


def _verdict_lines(verdict: Mapping[str, Any] | None) -> list[str]:
    if verdict is None:
        return []
    what = verdict["what"]
    if verdict["compatible"]:
        return [f"{what}: suits this machine" if what else "suits this machine"]
    against = " ".join(text for text in (verdict["message"], verdict["remedy"]) if text)
    return [f"{what}: {against}" if what else against]


def _section(title: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    if not rows:
        return []
    lines = [f"{title}:"]
    for row in rows:
        first, *rest = need_lines(row)
        lines += [f"  {first}", *(f"    {line}" for line in rest)]
    return [*lines, ""]


def _size(row: Mapping[str, Any]) -> int | None:
    if row["file"]:
        size = row["file"]["size_bytes"]
        return None if size is None else int(size)
    remote, address = row["remote"], row["address"]
    if remote and remote["size_bytes"] is not None:
        return int(remote["size_bytes"])
    return int(address["size_bytes"]) if address and address["size_bytes"] is not None else None


def _downloads(count: int) -> str:
    return "1 download" if count == 1 else f"{count} downloads"


def _models(count: int) -> str:
    return "1 model" if count == 1 else f"{count} models"
