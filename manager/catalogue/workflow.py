"""What a workflow says about models: which it names, at which nodes, and where it says that they are. Pure.

Reads what ComfyUI saves (nodes, with sub-graphs) and what it runs (a prompt: inputs by node), alone or
as ``{"workflow": ..., "prompt": ...}``. Everything in it was written by strangers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from ..errors import BadInput
from ..model import MODEL_SUFFIXES
from .loaders import NO_MODELS, OUR_LOADERS, Folders, folders_by_input, inputs_of

_MUTED, _BYPASSED = 2, 4
_LONGEST_NAME = 400
_DEEPEST = 32
# Values in place of a file's name: nothing chosen, and the VAE that has no weights.
_NOTHING = frozenset({"", "none", "None", "default", "[none]", "pixel_space"})


@dataclass(frozen=True)
class Use:
    """A model that the workflow names.

    Attributes:
        name: as the workflow writes it.
        folders: folder types in which its node looks, none where that is not known.
        nodes: who uses it, for people.
        active: whether one of these nodes would run.
        ours: whether a node of ours names it, which takes registered names and hashes.
    """

    name: str
    folders: Folders
    nodes: tuple[str, ...]
    active: bool = True
    ours: bool = False


@dataclass(frozen=True)
class Workflow:
    """What was read: the models by name, and the items of its model lists as they stand."""

    uses: tuple[Use, ...]
    stated: tuple[Any, ...] = ()


@dataclass
class _Found:
    uses: list[Use] = field(default_factory=list)
    stated: list[Any] = field(default_factory=list)


def read_workflow(document: Any) -> Workflow:
    """Return what a workflow says about models.

    Raises:
        BadInput: it is neither a workflow nor a prompt.
    """
    if not isinstance(document, Mapping):
        raise _no_workflow()
    found = _Found()
    saved = document.get("workflow", document)
    prompt = document.get("prompt", None if _is_saved(saved) else saved)
    saved_ok, prompt_ok = _is_saved(saved), _is_prompt(prompt)
    if not (saved_ok or prompt_ok):
        raise _no_workflow()
    if saved_ok:
        _read_saved(saved, found)
    if prompt_ok:
        # What is run says exactly what is used; what was saved says where it can be had.
        ran = list(_read_prompt(prompt))
        unused = {use.name for use in ran}
        off = [use for use in found.uses if not use.active and use.name not in unused]
        found.uses = [*ran, *off]
    return Workflow(tuple(_joined(found.uses)), tuple(found.stated))


def _no_workflow() -> BadInput:
    return BadInput(
        "This is no workflow of ComfyUI.",
        "Give a file saved by ComfyUI's Save or Export, or one of Export (API).",
    )


def _is_saved(document: Any) -> bool:
    return isinstance(document, Mapping) and isinstance(document.get("nodes"), list)


def _is_prompt(document: Any) -> bool:
    return (
        isinstance(document, Mapping)
        and bool(document)
        and any(
            isinstance(node, Mapping) and isinstance(node.get("class_type"), str)
            for node in document.values()
        )
    )


# What ComfyUI saves


def _read_saved(document: Mapping[str, Any], found: _Found) -> None:
    definitions: dict[str, Mapping[str, Any]] = {}
    holder = document.get("definitions")
    for graph in _list(holder.get("subgraphs") if isinstance(holder, Mapping) else None):
        if isinstance(graph, Mapping) and isinstance(graph.get("id"), str):
            definitions[graph["id"]] = graph
    for graph in (document, *definitions.values()):
        found.stated += _list(graph.get("models"))
        for node in _nodes(graph):
            found.stated += _list(_mapping(node.get("properties")).get("models"))
    _walk(_nodes(document), definitions, {}, "", True, found, ())


def _walk(
    nodes: Sequence[Mapping[str, Any]],
    definitions: Mapping[str, Mapping[str, Any]],
    given: Mapping[tuple[str, str], Any],
    path: str,
    active: bool,
    found: _Found,
    inside: tuple[str, ...],
) -> None:
    """Read the nodes of one graph; a sub-graph is read once for each node that stands for it.

    Args:
        given: (node id, input name) -> the value that the node around this graph gives.
        inside: the sub-graphs around this one, which it must not contain again.
    """
    for node in nodes:
        kind = node.get("type")
        if not isinstance(kind, str) or kind in NO_MODELS:
            continue
        runs = active and node.get("mode") not in (_MUTED, _BYPASSED)
        number = f"{path}{node.get('id')}"
        graph = definitions.get(kind)
        if graph is None:
            found.uses += _uses_of_saved(node, kind, number, given, runs)
        elif kind not in inside and len(inside) < _DEEPEST:
            outer = _given_by(node, graph, given)
            _walk(_nodes(graph), definitions, outer, f"{number}:", runs, found, (*inside, kind))


def _given_by(
    node: Mapping[str, Any], graph: Mapping[str, Any], given: Mapping[tuple[str, str], Any]
) -> dict[tuple[str, str], Any]:
    """Return the values that a sub-graph's node gives to the inputs of nodes in it.

    They are stored in the order of the sub-graph's inputs, those left out that are no widgets inside.
    """
    targets = {}
    for link in _list(graph.get("links")):
        if isinstance(link, Mapping):
            targets[link.get("id")] = (link.get("target_id"), link.get("target_slot"))
        elif isinstance(link, list) and len(link) >= 5:
            targets[link[0]] = (link[3], link[4])
    inner = {str(n.get("id")): n for n in _nodes(graph)}
    widgets = []
    for outer in _list(graph.get("inputs")):
        names = [
            (str(at), name)
            for link in _list(_mapping(outer).get("linkIds"))
            if isinstance(link, (int, str)) and link in targets
            for at, slot in [targets[link]]
            if (name := _widget_at(inner.get(str(at)), slot))
        ]
        if names:
            widgets.append((_mapping(outer).get("name"), names))
    values = _list(node.get("widgets_values"))
    if len(values) != len(widgets):
        return {}
    number = str(node.get("id"))
    return {
        target: given.get((number, str(name)), value)
        for (name, targets_of), value in zip(widgets, values, strict=True)
        for target in targets_of
    }


def _widget_at(node: Mapping[str, Any] | None, slot: Any) -> str:
    inputs = _list(node.get("inputs")) if node else []
    if not isinstance(slot, int) or not 0 <= slot < len(inputs):
        return ""
    name = _mapping(_mapping(inputs[slot]).get("widget")).get("name")
    return name if isinstance(name, str) else ""


def _uses_of_saved(
    node: Mapping[str, Any],
    kind: str,
    number: str,
    given: Mapping[tuple[str, str], Any],
    active: bool,
) -> Iterator[Use]:
    who = f"{kind} #{number}"
    ours = kind in OUR_LOADERS
    values = list(_strings(node.get("widgets_values")))
    names = [(key, text) for key, text in values if is_model_name(text)]
    table = inputs_of(kind)
    own = str(node.get("id"))
    if table is not None:
        if ours and values and not names and values[0][1] not in _NOTHING:
            names = values[:1]  # a registered name or a hash
        for (name, folders), (_, text) in zip(table.items(), names, strict=False):
            wanted = given.get((own, name), text)
            if _names_model(wanted, ours):
                yield Use(str(wanted), folders, (who,), active, ours)
        return
    replaced = [value for (at, _), value in given.items() if at == own and is_model_name(value)]
    if len(names) == 1 and len(replaced) == 1:
        names = [(names[0][0], replaced[0])]
    for key, text in names:
        yield Use(text, folders_by_input(key), (who,), active)


def _strings(value: Any, key: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """Return (nearest key, text) of every text in a node's values, which may be nested."""
    if isinstance(value, str):
        yield key, value
    elif depth < 4 and isinstance(value, Mapping):
        if value.get("on") is False:  # a row that is switched off
            return
        for name, inner in value.items():
            yield from _strings(inner, str(name), depth + 1)
    elif depth < 4 and isinstance(value, list):
        for inner in value:
            yield from _strings(inner, key, depth + 1)


# What ComfyUI runs


def _read_prompt(prompt: Mapping[str, Any]) -> Iterator[Use]:
    for number, node in prompt.items():
        kind = _mapping(node).get("class_type")
        if not isinstance(kind, str) or kind in NO_MODELS:
            continue
        who, table = f"{kind} #{number}", inputs_of(kind)
        ours = kind in OUR_LOADERS
        inputs = _mapping(_mapping(node).get("inputs"))
        if table is not None:
            for name, folders in table.items():
                value = inputs.get(name)
                if _names_model(value, ours):
                    yield Use(str(value), folders, (who,), True, ours)
            continue
        for name, value in inputs.items():
            linked = isinstance(value, list) and len(value) == 2 and isinstance(value[1], int)
            for key, text in () if linked else _strings(value, str(name)):
                if is_model_name(text):
                    yield Use(text, folders_by_input(key) or folders_by_input(str(name)), (who,))


# Both


def _names_model(value: Any, ours: bool) -> bool:
    """Tell whether a loader's input names a model; ours may name it by a registered name or a hash."""
    return is_model_name(value) or (ours and isinstance(value, str) and value not in _NOTHING)


def is_model_name(value: Any) -> bool:
    """Tell whether a value looks like a model's file name: one line with such an ending, no address."""
    return (
        isinstance(value, str)
        and 0 < len(value) <= _LONGEST_NAME
        and "://" not in value
        and "\n" not in value
        and PurePosixPath(value.replace("\\", "/")).suffix.lower() in MODEL_SUFFIXES
    )


def _joined(uses: Sequence[Use]) -> list[Use]:
    """Return each model once; a node that is not known adds itself to one that names the same."""
    found: dict[tuple[str, Folders], Use] = {}
    for use in sorted(uses, key=lambda use: not use.folders):
        key = (use.name.replace("\\", "/"), use.folders)
        if not use.folders:
            key = next((k for k in found if k[0] == key[0]), key)
        before = found.get(key)
        if before is None:
            found[key] = use
        else:
            nodes = tuple(dict.fromkeys((*before.nodes, *use.nodes)))
            found[key] = Use(
                before.name, before.folders, nodes, before.active or use.active, before.ours or use.ours
            )
    return list(found.values())


def _nodes(graph: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [node for node in _list(graph.get("nodes")) if isinstance(node, Mapping)]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
