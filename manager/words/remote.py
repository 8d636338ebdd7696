"""The words about a model that is not here, from ``details["remote"]``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..units import format_bytes


def remote_lines(details: Mapping[str, Any]) -> list[str]:
    """Return the lines about an address; see :func:`remote.model.remote_details`."""
    size, free = details["size_bytes"], details["free_bytes"]
    files = "" if details["files"] <= 1 else f" in {details['files']} files"
    takes = "of a size that the server does not say" if size is None else f"of {format_bytes(size)}"
    lines = [f"Address: {details['url']}", f"Not on this machine yet: a download {takes}{files}"]
    if free is not None:
        lines.append(f"Free where it would go ({details['folder']}): {format_bytes(free)}")
    elif details["folder"]:
        lines.append(f"It goes into the folder {details['folder']}; what is free there is not known here")
    requests = "1 request" if details["requests"] == 1 else f"{details['requests']} requests"
    lines.append(f"Judged from its header alone: {requests}, {format_bytes(details['bytes_read'])} read")
    return lines
