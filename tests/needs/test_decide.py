"""How each model of a workflow stands, from facts alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from managed_models.manager.catalogue.entry import Entry, Origin
from managed_models.manager.catalogue.workflow import Use, Workflow
from managed_models.manager.needs.decide import (
    Alternative,
    Facts,
    Here,
    Need,
    Registered,
    Status,
    Why,
    decide,
    to_dict,
)

D = "diffusion_models"
URL = "https://huggingface.co/o/r/resolve/main/"
SHA = "a" * 64


def use(name: str, *folders: str, **more: Any) -> Use:
    return Use(name, folders or (D,), ("UNETLoader #1",), **more)


def entry(name: str, folder: str = D, url: str = URL, **more: Any) -> Entry:
    return Entry(name, folder, url + name, **more)


def item(name: str, folder: str = D, **more: Any) -> dict[str, Any]:
    return {"name": name, "directory": folder, "url": URL + name, **more}


def one(facts: Facts, wanted: Use, *stated: Any) -> Need:
    (need,) = decide(Workflow((wanted,), stated), facts).needs
    return need


@pytest.mark.parametrize("installed", ["wan/a.safetensors", "wan\\a.safetensors"])
@pytest.mark.parametrize("named", ["wan/a.safetensors", "wan\\a.safetensors"])
def test_either_separator_finds_the_file(installed: str, named: str) -> None:
    need = one(Facts(here=[Here(D, installed)]), use(named))
    assert (need.status, need.file) == (Status.HERE, Here(D, installed))


def test_a_file_in_a_folder_that_the_loader_does_not_read_is_no_help_but_told() -> None:
    need = one(Facts(here=[Here("checkpoints", "a.safetensors")]), use("a.safetensors"))
    assert (need.status, need.folder) == (Status.MISSING, D)
    assert need.alternatives == (Alternative(Here("checkpoints", "a.safetensors"), Why.OTHER_FOLDER),)


def test_what_may_do_instead_comes_surest_first() -> None:
    here = [
        Here("vae", "wan_fp16.safetensors"),
        Here(D, "wan_bf16.safetensors"),
        Here(D, "sub/wan_fp16.safetensors"),
        Here(D, "other.safetensors"),
        Here(D, "elsewhere.safetensors"),
    ]
    facts = Facts(here=here, by_hash={SHA: [Here(D, "elsewhere.safetensors")]})
    need = one(facts, use("wan_fp16.safetensors"), item("wan_fp16.safetensors", hash=SHA))
    assert need.status is Status.SAME_FILE
    assert [(a.file.name, a.why) for a in need.alternatives] == [
        ("elsewhere.safetensors", Why.SAME_HASH),
        ("sub/wan_fp16.safetensors", Why.OTHER_SUBFOLDER),
        ("wan_fp16.safetensors", Why.OTHER_FOLDER),
        ("wan_bf16.safetensors", Why.OTHER_PRECISION),
    ]
    assert not need.fetchable


def test_a_name_that_is_only_a_precision_has_no_other_precision() -> None:
    assert one(Facts(here=[Here(D, "bf16.safetensors")]), use("fp16.safetensors")).alternatives == ()


def test_a_persons_own_word_counts_before_the_workflow_and_that_before_the_templates() -> None:
    name = "a.safetensors"
    facts = Facts(
        catalogue=[
            entry(name, url="https://x.org/t/", times=9),
            entry(name, url="https://x.org/r/", origin=Origin.REGISTERED),
            entry(name, url="https://x.org/own/", origin=Origin.OWN),
        ]
    )
    need = one(facts, use(name), item(name))
    assert [e.origin for e in need.addresses] == [
        Origin.OWN,
        Origin.REGISTERED,
        Origin.WORKFLOW,
        Origin.TEMPLATES,
    ]
    assert need.fetchable


def test_one_address_that_two_name_is_one_and_keeps_the_hash() -> None:
    facts = Facts(catalogue=[entry("a.safetensors", sha256=SHA)])
    need = one(facts, use("a.safetensors"), item("a.safetensors"))
    assert [(e.origin, e.sha256) for e in need.addresses] == [(Origin.WORKFLOW, SHA)]


def test_an_address_for_another_folder_is_not_taken() -> None:
    facts = Facts(catalogue=[entry("a.safetensors", "checkpoints")])
    assert one(facts, use("a.safetensors")).addresses == ()
    assert one(facts, use("a.safetensors", D, "checkpoints")).folder == "checkpoints"


def test_a_persons_own_sub_folder_does_not_hide_the_address() -> None:
    need = one(Facts(catalogue=[entry("a.safetensors")]), use("mine/a.safetensors"))
    assert need.addresses[0].name == "mine/a.safetensors"
    assert need.fetchable


def test_a_node_that_nobody_knows_takes_the_folder_of_the_address() -> None:
    unknown = Use("a.safetensors", (), ("Theirs #1",))
    assert one(Facts(catalogue=[entry("a.safetensors", "vae")]), unknown).folder == "vae"
    assert one(Facts(here=[Here("vae", "a.safetensors")]), unknown).status is Status.HERE
    assert one(Facts(), unknown).status is Status.UNKNOWN


def test_a_file_that_is_another_one_than_the_workflow_states_is_told() -> None:
    facts = Facts(here=[Here(D, "a.safetensors")], hashes={(D, "a.safetensors"): "b" * 64})
    assert one(facts, use("a.safetensors"), item("a.safetensors", hash=SHA)).hash_differs
    assert not one(facts, use("a.safetensors"), item("a.safetensors", hash="b" * 64)).hash_differs
    assert not one(facts, use("a.safetensors"), item("a.safetensors")).hash_differs
    assert not one(Facts(here=facts.here), use("a.safetensors"), item("a.safetensors", hash=SHA)).hash_differs


def test_names_and_items_that_lead_out_are_refused() -> None:
    decision = decide(
        Workflow(
            (use("../../x.safetensors"),),
            (item("../../x.safetensors"), item("a.safetensors", "custom_nodes")),
        ),
        Facts(folders={D}),
    )
    assert decision.needs[0].status is Status.REFUSED
    assert "leads out" in decision.needs[0].reason
    assert [r.name for r in decision.refused] == ["../../x.safetensors", "a.safetensors"]


def test_hashes_and_registered_names_are_for_loaders_of_ours() -> None:
    facts = Facts(
        here=[Here(D, "a.safetensors")],
        by_hash={SHA: [Here(D, "a.safetensors")]},
        catalogue=[entry("b.safetensors", sha256="b" * 64), entry("r.safetensors", origin=Origin.REGISTERED)],
        registered={
            "there": Registered(D, "a.safetensors", here=True),
            "absent": Registered(D, "r.safetensors"),
        },
    )
    found = {
        name: one(facts, use(name, ours=True))
        for name in (f"SHA256:{SHA}", "sha256:" + "b" * 64, "sha256:" + "c" * 64, "there", "absent", "nobody")
    }
    assert [(need.status, need.fetchable) for need in found.values()] == [
        (Status.HERE, False),
        (Status.MISSING, True),
        (Status.MISSING, False),
        (Status.HERE, False),
        (Status.MISSING, True),
        (Status.UNKNOWN, False),
    ]
    assert one(facts, use("there")).status is Status.REFUSED


def test_loaders_of_ours_may_name_the_folder() -> None:
    both = (D, "checkpoints")
    facts = Facts(here=[Here("checkpoints", "a.safetensors"), Here(D, "checkpoints/b.safetensors")])
    assert one(facts, use("checkpoints\\a.safetensors", *both, ours=True)).file == Here(
        "checkpoints", "a.safetensors"
    )
    assert one(facts, use("checkpoints/b.safetensors", *both, ours=True)).file == facts.here[1]  # type: ignore[index]
    need = one(facts, use("checkpoints/c.safetensors", *both, ours=True))
    assert (need.name, need.folder) == ("c.safetensors", "checkpoints")


def test_a_vae_in_two_files_is_here_when_both_are() -> None:
    halves = [Here("vae_approx", f"taesd_{half}.safetensors") for half in ("encoder", "decoder")]
    wanted = use("taesd", "vae", "vae_approx", ours=True)
    assert one(Facts(here=halves), wanted).status is Status.HERE
    assert one(Facts(here=halves[:1]), wanted).status is Status.UNKNOWN


def test_what_is_off_is_neither_fetched_nor_missed() -> None:
    facts = Facts(catalogue=[entry("a.safetensors")])
    decision = decide(Workflow((replace(use("a.safetensors"), active=False),)), facts)
    assert decision.ready
    assert not decision.needs[0].fetchable


def test_two_kinds_of_loader_for_one_file_are_one_need() -> None:
    wanted = (
        use("a.safetensors"),
        replace(use("a.safetensors", D, "checkpoints", ours=True), nodes=("Ours #2",)),
    )
    (need,) = decide(Workflow(wanted), Facts(here=[Here(D, "a.safetensors")])).needs
    assert need.nodes == ("UNETLoader #1", "Ours #2")


NAMES = st.sampled_from(
    ["a.safetensors", "s/a.safetensors", "a_fp16.safetensors", "../a.safetensors", "b.gguf", "x"]
)
FOLDERS = st.sampled_from([D, "vae", "checkpoints"])
HERE = st.builds(Here, FOLDERS, st.sampled_from(["a.safetensors", "s\\a.safetensors", "a_bf16.safetensors"]))
ENTRIES = st.builds(
    Entry,
    st.sampled_from(["a.safetensors", "s/a.safetensors", "b.gguf"]),
    FOLDERS,
    st.sampled_from(["https://x.org/1", "https://x.org/2"]),
    st.sampled_from(["", SHA]),
    st.sampled_from(Origin),
)
USES = st.builds(
    Use, NAMES, st.lists(FOLDERS, max_size=2).map(tuple), st.just(("N",)), st.booleans(), st.booleans()
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(USES, max_size=4),
    st.lists(HERE, max_size=4),
    st.lists(ENTRIES, max_size=4),
    st.lists(HERE, max_size=2),
)
def test_laws(uses: list[Use], here: list[Here], catalogue: list[Entry], hashed: list[Here]) -> None:
    facts = Facts(here=here, catalogue=catalogue, by_hash={SHA: hashed})
    decision = decide(Workflow(tuple(uses)), facts)
    assert len(decision.needs) <= len(uses)
    assert decision.ready is not any(n.active and n.status is not Status.HERE for n in decision.needs)
    for need in decision.needs:
        assert (need.file is not None) == (need.status is Status.HERE)
        assert need.file is None or need.file in here
        assert all(a.file in [*here, *hashed] for a in need.alternatives)
        if need.fetchable:
            assert need.active
            assert need.folder == need.addresses[0].folder
            assert ".." not in need.addresses[0].name
            assert not any(a.why is Why.SAME_HASH for a in need.alternatives)
        assert to_dict(need)["fetchable"] is need.fetchable
    # A file more never makes a model missing, and an address more never makes a file go.
    more = replace(
        facts, here=[*here, Here(D, "new.safetensors")], catalogue=[*catalogue, entry("new.safetensors")]
    )
    again = decide(Workflow(tuple(uses)), more)
    assert [n.status for n in again.needs] == [n.status for n in decision.needs]
