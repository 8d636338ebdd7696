"""What a workflow says about models, whoever wrote it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from managed_models.manager.catalogue.workflow import Use, is_model_name, read_workflow
from managed_models.manager.errors import BadInput

DIFFUSION = ("diffusion_models",)


def node(number: int, kind: str, values: Any, **more: Any) -> dict[str, Any]:
    return {"id": number, "type": kind, "widgets_values": values, **more}


def saved(*nodes: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"nodes": list(nodes), "links": [], **more}


def test_what_comfyui_saves_and_what_it_runs_say_the_same() -> None:
    of_saved = read_workflow(saved(node(3, "UNETLoader", ["wan/a.safetensors", "default"])))
    prompt = {"3": {"class_type": "UNETLoader", "inputs": {"unet_name": "wan/a.safetensors"}}}
    assert of_saved.uses == (Use("wan/a.safetensors", DIFFUSION, ("UNETLoader #3",)),)
    assert read_workflow(prompt).uses == of_saved.uses
    assert read_workflow({"prompt": prompt}).uses == of_saved.uses
    assert read_workflow({"workflow": prompt}).uses == of_saved.uses


def test_model_lists_come_from_everywhere() -> None:
    inner = node(1, "UNETLoader", ["b.safetensors"], properties={"models": [{"name": "of the inner node"}]})
    document = saved(
        node(2, "VAELoader", ["v.safetensors"], properties={"models": [{"name": "of the node"}]}),
        models=[{"name": "of the workflow"}],
        definitions={"subgraphs": [{"id": "s", "nodes": [inner], "models": [{"name": "of the sub-graph"}]}]},
    )
    assert {item["name"] for item in read_workflow(document).stated} == {
        "of the node",
        "of the workflow",
        "of the inner node",
        "of the sub-graph",
    }


@pytest.mark.parametrize("mode", [2, 4])
def test_a_node_that_is_off_uses_nothing_now(mode: int) -> None:
    document = saved(
        node(1, "UNETLoader", ["off.safetensors"], mode=mode),
        node(2, "UNETLoader", ["both.safetensors"], mode=mode),
        node(3, "UNETLoader", ["both.safetensors"]),
    )
    assert {use.name: use.active for use in read_workflow(document).uses} == {
        "off.safetensors": False,
        "both.safetensors": True,
    }


def subgraph() -> dict[str, Any]:
    """A sub-graph whose second input is no widget inside, and whose others give two model names."""
    widget = {"widget": {"name": "unet_name"}}
    return {
        "id": "sub",
        "inputs": [
            {"name": "unet_name", "linkIds": [1]},
            {"name": "image", "linkIds": [3]},
            {"name": "vae", "linkIds": [2]},
        ],
        "links": [
            {"id": 1, "target_id": 10, "target_slot": 0},
            {"id": 2, "target_id": 11, "target_slot": 0},
            {"id": 3, "target_id": 12, "target_slot": 0},
        ],
        "nodes": [
            node(
                10, "UNETLoader", ["stale.safetensors", "default"], inputs=[{"name": "unet_name", **widget}]
            ),
            node(11, "VAELoader", ["stale_vae.safetensors"], inputs=[{"widget": {"name": "vae_name"}}]),
            node(12, "VAEEncode", [], inputs=[{"name": "pixels"}]),
        ],
    }


def test_a_sub_graph_uses_what_its_node_gives_it() -> None:
    document = saved(
        node(1, "sub", ["a.safetensors", "av.safetensors"]),
        node(2, "sub", ["b.safetensors", "bv.safetensors"], mode=4),
        definitions={"subgraphs": [subgraph()]},
    )
    found = {use.name: (use.nodes, use.active) for use in read_workflow(document).uses}
    assert found == {
        "a.safetensors": (("UNETLoader #1:10",), True),
        "av.safetensors": (("VAELoader #1:11",), True),
        "b.safetensors": (("UNETLoader #2:10",), False),
        "bv.safetensors": (("VAELoader #2:11",), False),
    }


def test_a_sub_graph_inside_another_hands_values_through() -> None:
    outer = {
        "id": "outer",
        "inputs": [{"name": "model", "linkIds": [7]}],
        "links": [[7, 0, 0, 20, 0, "COMBO"]],
        "nodes": [
            node(
                20, "sub", ["stale.safetensors", "v.safetensors"], inputs=[{"widget": {"name": "unet_name"}}]
            )
        ],
    }
    document = saved(
        node(1, "outer", ["outermost.safetensors"]), definitions={"subgraphs": [subgraph(), outer]}
    )
    assert {use.name for use in read_workflow(document).uses} == {"outermost.safetensors", "v.safetensors"}


def test_a_sub_graph_that_holds_itself_ends() -> None:
    graph = {"id": "s", "nodes": [node(1, "s", []), node(2, "UNETLoader", ["a.safetensors"])]}
    document = saved(node(1, "s", []), definitions={"subgraphs": [graph]})
    assert [use.name for use in read_workflow(document).uses] == ["a.safetensors"]


def test_what_is_run_counts_before_what_was_saved() -> None:
    document = {
        "workflow": saved(
            node(1, "UNETLoader", ["saved.safetensors"], properties={"models": [{"name": "x"}]}),
            node(2, "VAELoader", ["muted.safetensors"], mode=2),
        ),
        "prompt": {"1": {"class_type": "UNETLoader", "inputs": {"unet_name": "run.safetensors"}}},
    }
    found = read_workflow(document)
    assert {use.name: use.active for use in found.uses} == {
        "run.safetensors": True,
        "muted.safetensors": False,
    }
    assert found.stated == ({"name": "x"},)


def test_nodes_of_extensions_are_known_by_their_inputs() -> None:
    prompt = {
        "1": {"class_type": "TheirLoader", "inputs": {"lora_1": {"on": True, "lora": "l.safetensors"}}},
        "2": {"class_type": "TheirLoader", "inputs": {"lora_1": {"on": False, "lora": "off.safetensors"}}},
        "3": {
            "class_type": "TheirOther",
            "inputs": {"file": "u.gguf", "text": "see https://x.org/y.safetensors"},
        },
        "4": {"class_type": "TheirOther", "inputs": {"file": ["3", 0]}},
    }
    assert {use.name: use.folders for use in read_workflow(prompt).uses} == {
        "l.safetensors": ("loras",),
        "u.gguf": (),
    }


def test_one_name_at_a_known_and_an_unknown_node_is_one_model() -> None:
    document = saved(
        node(1, "PrimitiveNode", ["a.safetensors", "fixed"]),
        node(2, "UNETLoader", ["a.safetensors", "default"]),
    )
    (use,) = read_workflow(document).uses
    assert use.folders == DIFFUSION
    assert set(use.nodes) == {"PrimitiveNode #1", "UNETLoader #2"}


def test_loaders_of_ours_name_more_than_files() -> None:
    prompt = {
        "1": {"class_type": "LoadManagedModel", "inputs": {"model_name": "flux", "device": "default"}},
        "2": {"class_type": "LoadManagedModel", "inputs": {"model_name": "sha256:" + "a" * 64}},
        "3": {
            "class_type": "LoadManagedTextEncoder",
            "inputs": {"clip_name": "c.safetensors", "clip_name2": "none"},
        },
        "4": {"class_type": "LoadManagedVAE", "inputs": {"vae_name": "pixel_space"}},
    }
    assert [(use.name, use.ours) for use in read_workflow(prompt).uses] == [
        ("flux", True),
        ("sha256:" + "a" * 64, True),
        ("c.safetensors", True),
    ]
    named = saved(node(1, "LoadManagedModel", ["flux", "default"]))
    assert [use.name for use in read_workflow(named).uses] == ["flux"]


def test_notes_and_outputs_are_no_models() -> None:
    document = saved(
        node(1, "MarkdownNote", ["put it into models: x.safetensors"]),
        node(2, "QuantizeModel", ["a.safetensors", "int8", "recommended", "made.safetensors"]),
    )
    assert [use.name for use in read_workflow(document).uses] == ["a.safetensors"]


@pytest.mark.parametrize(
    "document",
    [None, [], "text", 3, {}, {"a": 1}, {"nodes": {}}, {"workflow": 3, "prompt": 4}, {"prompt": {}}],
)
def test_what_is_no_workflow_is_refused(document: Any) -> None:
    with pytest.raises(BadInput, match="no workflow of ComfyUI"):
        read_workflow(document)


@pytest.mark.parametrize(
    ("text", "yes"),
    [
        ("a.safetensors", True),
        ("sub\\a.GGUF", True),
        ("https://x.org/a.safetensors", False),
        ("two\nlines.safetensors", False),
        ("a.png", False),
        ("x" * 500 + ".safetensors", False),
        (".safetensors", False),
        (3, False),
    ],
)
def test_what_looks_like_a_model(text: Any, yes: bool) -> None:
    assert is_model_name(text) is yes


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["UNETLoader", "sub", "a.safetensors", "x"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["nodes", "type", "widgets_values", "inputs", "links", "id", "linkIds", "definitions"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(JSON, JSON)
def test_nothing_that_strangers_write_makes_it_fail(nodes: Any, subgraphs: Any) -> None:
    document = {"nodes": [nodes, node(1, "sub", [])], "definitions": {"subgraphs": [subgraphs, subgraph()]}}
    found = read_workflow(json.loads(json.dumps(document)))
    assert all(isinstance(use.name, str) for use in found.uses)
