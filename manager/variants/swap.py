"""What the page needs to put a variant in place of the model that a workflow chooses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def swap_facts(details: Mapping[str, Any]) -> dict[str, str] | None:
    """Return which names to replace by which; None when there is no better variant installed.

    Args:
        details: of :meth:`Family.to_dict`.

    Returns:
        ``folder``; ``from`` and ``to`` as stock loaders list them; ``from_option`` and ``to_option`` as
        our nodes do.
    """
    subject, best = details["subject"], details["way_out"]["best"]
    if best is None or not best["folder"] or best["folder"] != subject["folder"]:
        return None
    return {
        "folder": best["folder"],
        "from": subject["name"],
        "from_option": subject["option"],
        "to": best["name"],
        "to_option": best["option"],
    }
