"""The tree of errors: drawn, and as classes."""

from __future__ import annotations

import importlib
import json
import pickle
import re
from pathlib import Path

import pytest
from managed_models import manager
from managed_models.manager import errors
from managed_models.manager.errors import ManagedModelsError


def _drawn_tree() -> dict[str, str]:
    """Read name -> parent's name from the tree in the module's docstring."""
    parents: dict[str, str] = {}
    branch = ["ManagedModelsError"]
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"((?:│   |    )*)[├└]── (\w+)", line)
        if match:
            depth = len(match[1]) // 4
            branch[depth + 1 :] = [match[2]]
            parents[match[2]] = branch[depth]
    return parents


def _all_subclasses(cls: type) -> set[type]:
    below = set(cls.__subclasses__())
    return below | {deeper for sub in below for deeper in _all_subclasses(sub)}


def _classes() -> list[type[ManagedModelsError]]:
    """Return the base and every class below it, wherever in the package it stands."""
    folder = Path(manager.__path__[0])
    for file in folder.rglob("*.py"):
        parts = file.relative_to(folder).with_suffix("").parts
        if "comfy_host" not in parts and "migrations" not in parts and parts[-1] != "__init__":
            importlib.import_module(".".join([manager.__name__, *parts]))
    found = {
        cls for cls in _all_subclasses(ManagedModelsError) if cls.__module__.startswith(manager.__name__)
    }
    return [ManagedModelsError, *sorted(found, key=lambda cls: cls.__name__)]


def test_the_drawing_and_the_classes_agree() -> None:
    below = {cls.__name__: cls.__bases__[0].__name__ for cls in _classes()[1:]}
    assert len(below) > 15
    assert _drawn_tree() == below


def test_every_class_has_a_code_of_its_own() -> None:
    codes = [cls.code for cls in _classes()]
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", code) for code in codes)


@pytest.mark.parametrize("cls", _classes(), ids=lambda cls: cls.__name__)
def test_an_error_carries_message_remedy_and_details(cls: type[ManagedModelsError]) -> None:
    error = cls("It broke.", "Mend it.", tensor="a.weight", count=3)
    assert str(error) == "It broke. Mend it."
    assert (error.message, error.remedy) == ("It broke.", "Mend it.")
    assert error.to_dict() == {
        "code": cls.code,
        "message": "It broke. Mend it.",
        "details": {"tensor": "a.weight", "count": 3},
    }
    assert json.loads(json.dumps(error.to_dict())) == error.to_dict()


def test_an_error_without_a_remedy_ends_with_its_message() -> None:
    assert str(ManagedModelsError("It broke.")) == "It broke."


def test_an_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(errors.NonFiniteWeights("Bad.", "Good.", tensors=["a"])))
    assert (type(error), str(error), error.details) == (
        errors.NonFiniteWeights,
        "Bad. Good.",
        {"tensors": ["a"]},
    )
