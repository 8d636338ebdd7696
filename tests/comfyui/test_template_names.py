"""The table of names, held against the model lists of the templates that ComfyUI has installed."""

from __future__ import annotations

import pytest
from managed_models.manager.catalogue.templates import find_packages, read_packages, site_packages
from managed_models.manager.versions.naming import read_name
from support.comfyui import ComfyUI

pytestmark = pytest.mark.comfyui


def test_nearly_every_model_that_the_templates_name_is_of_a_known_family(comfyui: ComfyUI) -> None:
    entries = read_packages(find_packages(site_packages(comfyui.path)))
    names = {entry.name for entry in entries}
    if not names:
        pytest.skip("This ComfyUI has no templates installed.")
    unread = sorted(name for name in names if read_name(name).family is None)
    assert len(unread) <= 0.05 * len(names), unread
