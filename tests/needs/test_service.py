"""What workflows need on a machine with real files, and fetching it from a real server."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from managed_models.manager import AdvancedModelManager, ModelInfo, ModelManagerConfig, ModelType
from managed_models.manager.again import replaced_path
from managed_models.manager.catalogue import Places
from managed_models.manager.catalogue.entry import is_pickle, name_problem
from managed_models.manager.demo import layouts
from managed_models.manager.demo.tiny import write_random_model
from managed_models.manager.download.content import SAFE_SUFFIXES
from managed_models.manager.download.model import DownloadRequest
from managed_models.manager.errors import BadInput, Cancelled, ModelMissing, ModelNotFound
from managed_models.manager.files import FileIdentity, file_sha256
from managed_models.manager.local_host import LocalHost
from managed_models.manager.model import MODEL_SUFFIXES
from managed_models.manager.words.needs import fetch_offer, render_needs
from support.range_server import Server, range_server

NAME = "wan_bf16.safetensors"
HF = "https://huggingface.co"
D = "diffusion_models"


@pytest.fixture(scope="session")
def wan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / NAME
    write_random_model(path, layouts.wan21_t2v(width=64, ffn=128, layers=1))
    return path


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with range_server() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url(""))
        yield server


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[AdvancedModelManager]:
    models = tmp_path / "models"
    for kind in (D, "vae", "loras", "checkpoints"):
        (models / kind).mkdir(parents=True)
    made = AdvancedModelManager(ModelManagerConfig(), LocalHost([models]))
    made.catalogue.places = Places(own=(tmp_path / "catalogue.json",))
    yield made
    made.close()


def folder(manager: AdvancedModelManager, kind: str = D) -> Path:
    return next(f.path for f in manager.host.folders() if f.type == kind)


def offer(mirror: Server, file: Path, name: str = NAME, **more: Any) -> dict[str, Any]:
    path = f"/o/r/resolve/main/{name}"
    mirror.add(path, file)
    return {"name": name, "directory": D, "url": HF + path, **more}


def address(name: str = NAME, kind: str = D) -> dict[str, Any]:
    return {"name": name, "directory": kind, "url": f"{HF}/o/r/resolve/main/{name}"}


def workflow(*items: dict[str, Any], **more: Any) -> dict[str, Any]:
    nodes = [
        {"id": i, "type": "UNETLoader", "widgets_values": [item["name"]], "properties": {"models": [item]}}
        for i, item in enumerate(items)
    ]
    return {"nodes": nodes, **more}


def write_catalogue(manager: AdvancedModelManager, *items: dict[str, Any]) -> None:
    manager.catalogue.places.own[0].write_text(json.dumps({"models": list(items)}))


def test_files_are_found_and_judged(manager: AdvancedModelManager, wan: Path) -> None:
    shutil.copy(wan, folder(manager) / NAME)
    (folder(manager) / "broken.safetensors").write_bytes(b"<!DOCTYPE html>")
    details = manager.needs.report(workflow(address(), address("broken.safetensors")))
    good, bad = details["models"]
    assert details["ready"]
    assert good["file"]["size_bytes"] == wan.stat().st_size
    assert good["file"]["verdict"]["what"].startswith("Wan 2.1")
    assert good["file"]["verdict"]["compatible"]
    assert not bad["file"]["verdict"]["compatible"]
    assert "web page" in bad["file"]["verdict"]["message"]
    quick = manager.needs.report(workflow(address()), judge=False)
    assert quick["models"][0]["file"]["verdict"] is None


def test_the_very_file_under_another_name_is_not_fetched_again(
    manager: AdvancedModelManager, wan: Path
) -> None:
    other = folder(manager) / "renamed.safetensors"
    shutil.copy(wan, other)
    digest = file_sha256(other)
    manager.registry.put_sha256(FileIdentity.of(other), digest)
    details = manager.needs.report(workflow({**address(), "hash": digest}))
    (row,) = details["models"]
    assert (row["status"], row["fetchable"]) == ("same_file", False)
    first = row["alternatives"][0]
    assert (first["folder"], first["name"], first["why"]) == (D, "renamed.safetensors", "same_hash")
    assert "the very same file (same SHA-256) is here: diffusion_models/renamed.safetensors" in render_needs(
        details
    )
    assert manager.needs.requests(workflow({**address(), "hash": digest})).requests == []


def test_a_file_of_that_name_with_another_hash_is_told(manager: AdvancedModelManager, wan: Path) -> None:
    path = folder(manager) / NAME
    shutil.copy(wan, path)
    manager.registry.put_sha256(FileIdentity.of(path), file_sha256(path))
    details = manager.needs.report(workflow({**address(), "hash": "0" * 64}))
    assert details["models"][0]["hash_differs"]
    assert "its SHA-256 is not the one that the workflow states" in render_needs(details)


def test_asking_fetches_headers_alone_and_only_then(
    manager: AdvancedModelManager, mirror: Server, wan: Path
) -> None:
    document = workflow(offer(mirror, wan), address("gone.safetensors"))
    details = manager.needs.report(document)
    assert mirror.seen == []
    assert "size not known yet" in render_needs(details)
    asked = manager.needs.report(document, ask=True)
    good, gone = asked["models"]
    assert good["remote"]["size_bytes"] == wan.stat().st_size
    assert good["remote"]["verdict"]["compatible"]
    assert gone["remote"]["error"]["code"] == "remote_error"
    assert asked["fetch_bytes"] is None
    assert "could not be asked" in render_needs(asked)
    assert mirror.sent <= wan.stat().st_size
    assert not (folder(manager) / NAME).exists()


def test_what_is_missing_is_fetched_into_its_folder(
    manager: AdvancedModelManager, mirror: Server, wan: Path
) -> None:
    items = [offer(mirror, wan), offer(mirror, wan, "sub/again.safetensors")]
    document = workflow(*items)
    some = manager.needs.requests(document, {(D, NAME)}).requests
    assert [request.target for request in some] == [folder(manager) / NAME]
    for request in manager.needs.requests(document).requests:
        manager.downloads.fetch(request)
    assert (folder(manager) / NAME).read_bytes() == wan.read_bytes()
    assert (folder(manager) / "sub" / "again.safetensors").read_bytes() == wan.read_bytes()
    assert manager.needs.report(document)["ready"]


def test_what_has_no_folder_here_does_not_keep_the_rest_from_coming(manager: AdvancedModelManager) -> None:
    requests, failed = manager.needs.requests(workflow(address()) | {"models": [address("s.gguf", "gligen")]})
    assert ([r.target.name for r in requests], failed) == ([NAME], [])
    node = {"id": 9, "type": "GLIGENLoader", "widgets_values": ["s.gguf"]}
    document = {"nodes": [*workflow(address())["nodes"], node], "models": [address("s.gguf", "gligen")]}
    requests, failed = manager.needs.requests(document)
    assert [r.target.name for r in requests] == [NAME]
    assert [(row["name"], row["error"]["code"]) for row in failed] == [("s.gguf", "bad_input")]


def test_a_persons_catalogue_and_registrations_say_where_a_model_is(
    manager: AdvancedModelManager, tmp_path: Path
) -> None:
    prompt = {"1": {"class_type": "UNETLoader", "inputs": {"unet_name": NAME}}}
    assert manager.needs.report(prompt)["models"][0]["address"] is None
    manager.register_model(
        ModelInfo("wan", ModelType.DIFFUSION, folder(manager) / NAME, url=f"{HF}/registered", sha256="A" * 64)
    )
    row = manager.needs.report(prompt)["models"][0]
    assert (row["address"]["origin"], row["address"]["sha256"]) == ("registered", "a" * 64)
    write_catalogue(manager, address(), {"name": "x"})
    details = manager.needs.report(prompt)
    assert details["models"][0]["address"]["origin"] == "own"
    assert [o["origin"] for o in details["models"][0]["other_addresses"]] == ["registered"]
    assert "entry 2 (x)" in details["problems"][0]
    assert "Catalogue: catalogue.json, line 1, entry 2" in render_needs(details)


def test_what_may_be_fetched_from_here_depends_on_who_asks(manager: AdvancedModelManager) -> None:
    items = [
        {"name": "a.safetensors", "directory": D, "url": "https://example.com/a.safetensors"},
        {"name": "b.ckpt", "directory": D, "url": f"{HF}/b.ckpt"},
    ]
    page, person = (manager.needs.report(workflow(*items), any_host=who) for who in (False, True))
    assert [row["fetchable"] for row in page["models"]] == [False, False]
    assert "example.com is none of the hosts" in page["models"][0]["blocked"]
    assert "can run code" in page["models"][1]["blocked"]
    assert [row["fetchable"] for row in person["models"]] == [True, True]
    assert fetch_offer(page) is None


def test_an_address_that_may_be_asked_comes_before_one_that_may_not(manager: AdvancedModelManager) -> None:
    write_catalogue(manager, {**address(), "url": "https://example.com/mine.safetensors"})
    row = manager.needs.report(workflow(address()))["models"][0]
    assert (row["address"]["host"], row["blocked"]) == ("huggingface.co", "")


def test_pickles_are_what_the_downloader_takes_for_them() -> None:
    assert {suffix for suffix in MODEL_SUFFIXES if not is_pickle(f"x{suffix}")} == SAFE_SUFFIXES


def test_no_words_show_a_secret_of_an_address(manager: AdvancedModelManager) -> None:
    item = {**address(), "url": f"{HF}/o/r/resolve/main/{NAME}?token=secret"}
    details = manager.needs.report(workflow(item))
    offered = fetch_offer(details)
    assert offered is not None
    assert "secret" not in json.dumps([details, offered]) + render_needs(details)
    assert "secret" in manager.needs.requests(workflow(item)).requests[0].url


def test_the_words_of_every_state(manager: AdvancedModelManager, wan: Path) -> None:
    shutil.copy(wan, folder(manager) / "wan_fp16.safetensors")
    document = {
        "nodes": [
            {"id": 1, "type": "UNETLoader", "widgets_values": [NAME]},
            {"id": 2, "type": "Theirs", "widgets_values": ["what.safetensors"]},
            {"id": 3, "type": "UNETLoader", "widgets_values": ["../x.safetensors"]},
            {"id": 4, "type": "UNETLoader", "widgets_values": ["off.safetensors"], "mode": 4},
        ],
        "models": [{"name": "../x.safetensors"}],
    }
    text = render_needs(manager.needs.report(document))
    for words in (
        "3 of 3 models missing; no address is known.",
        "a file named like it, in another precision, is here: diffusion_models/wan_fp16.safetensors, Wan",
        "nobody knows which folder its node looks in",
        "refused: its name leads out of the model folder",
        "Not needed now: its nodes are muted or bypassed:\n  off.safetensors",
        "Left out of the workflow's own list:\n  ../x.safetensors: its name leads out",
    ):
        assert words in text
    assert render_needs(manager.needs.report({"nodes": []})) == "This workflow names no models."


# First use


def test_first_use_without_leave_says_where_and_asks_nothing(
    manager: AdvancedModelManager, mirror: Server, wan: Path
) -> None:
    write_catalogue(manager, offer(mirror, wan))
    with pytest.raises(
        ModelMissing, match=r"not here\. It can be had from https://huggingface\.co/o/r/"
    ) as caught:
        manager.load_model(NAME)
    assert caught.value.details["folder"] == D
    with pytest.raises(ModelNotFound) as unknown:
        manager.load_model("nobody.safetensors")
    assert not isinstance(unknown.value, ModelMissing)
    assert mirror.seen == []


def test_first_use_with_leave_fetches_and_loads(
    manager: AdvancedModelManager, mirror: Server, wan: Path
) -> None:
    pytest.importorskip("torch")
    manager.change_settings(auto_download=True)
    write_catalogue(manager, offer(mirror, wan))
    parts = manager.load_model(NAME)
    assert parts.size_bytes > 0
    assert (folder(manager) / NAME).is_file()


@pytest.mark.parametrize("reference", ["wan", "sha256", "short"])
def test_first_use_knows_registered_names_and_hashes(
    manager: AdvancedModelManager, mirror: Server, wan: Path, reference: str
) -> None:
    manager.change_settings(auto_download=True)
    item = offer(mirror, wan)
    digest = file_sha256(wan)
    name = "wan"
    if reference == "wan":
        target = folder(manager) / "mine.safetensors"
        manager.register_model(ModelInfo("wan", ModelType.DIFFUSION, target, url=item["url"], sha256=digest))
    else:
        target, name = folder(manager) / NAME, f"sha256:{digest[:16] if reference == 'short' else digest}"
        write_catalogue(manager, {**item, "hash": digest})
    found = manager.first_use.find(lambda: manager.library.find(name, [D]), name, [D])
    assert found.path == target
    assert target.read_bytes() == wan.read_bytes()


def test_only_yes_or_no_allows_it(manager: AdvancedModelManager) -> None:
    with pytest.raises(BadInput, match="auto_download is 'yes'"):
        manager.change_settings(auto_download="yes")
    assert manager.config.auto_download is False


def test_a_check_asks_nothing_and_says_whether_it_would_be_fetched(
    manager: AdvancedModelManager, mirror: Server, wan: Path
) -> None:
    write_catalogue(manager, offer(mirror, wan))
    find = lambda: manager.library.find(NAME, [D])  # noqa: E731
    with pytest.raises(ModelMissing):
        manager.first_use.check(find, NAME, [D])
    manager.change_settings(auto_download=True)
    assert not manager.first_use.check(find, NAME, [D])
    assert mirror.seen == []
    shutil.copy(wan, folder(manager) / NAME)
    assert manager.first_use.check(find, NAME, [D])


def test_what_the_workflow_says_of_itself_is_not_followed_on_first_use(
    manager: AdvancedModelManager, mirror: Server, wan: Path
) -> None:
    offer(mirror, wan)
    manager.change_settings(auto_download=True)
    with pytest.raises(ModelNotFound):
        manager.load_model(NAME)


def test_a_pickle_is_not_fetched_on_first_use(manager: AdvancedModelManager) -> None:
    manager.change_settings(auto_download=True)
    write_catalogue(manager, address("old.ckpt"))
    with pytest.raises(ModelNotFound, match="There is no model"):
        manager.load_model("old.ckpt")


def test_stop_keeps_a_first_use_from_beginning(
    manager: AdvancedModelManager, mirror: Server, wan: Path
) -> None:
    manager.change_settings(auto_download=True)
    write_catalogue(manager, offer(mirror, wan))
    assert isinstance(manager.host, LocalHost)
    manager.host.cancel()
    with pytest.raises(Cancelled):
        manager.load_model(NAME)


# Once more


def test_a_damaged_file_is_replaced_when_the_new_one_is_whole(
    manager: AdvancedModelManager, mirror: Server, wan: Path
) -> None:
    write_catalogue(manager, offer(mirror, wan, hash=file_sha256(wan)))
    path = folder(manager) / NAME
    path.write_bytes(wan.read_bytes()[:-8] + b"\0" * 8)
    state = manager.again.start(D, NAME)
    assert manager.downloads.wait(state.id).state == "done"
    assert path.read_bytes() == wan.read_bytes()
    assert [p.name for p in path.parent.iterdir() if p.suffix == ".safetensors"] == [NAME]
    assert manager.registry.sha256(FileIdentity.of(path)) == file_sha256(wan)


def test_a_file_that_cannot_be_had_again_stays(
    manager: AdvancedModelManager, mirror: Server, wan: Path
) -> None:
    path = folder(manager) / NAME
    path.write_bytes(b"damaged")
    with pytest.raises(ModelNotFound, match="Nobody knows where"):
        manager.again.start(D, NAME)
    write_catalogue(manager, {**offer(mirror, wan), "hash": "0" * 64})
    assert manager.downloads.wait(manager.again.start(D, NAME).id).state == "failed"
    assert path.read_bytes() == b"damaged"


def test_a_paused_fetch_takes_its_place_when_it_goes_on_after_a_restart(
    manager: AdvancedModelManager, mirror: Server, wan: Path
) -> None:
    item = offer(mirror, wan)
    write_catalogue(manager, item)
    path = folder(manager) / NAME
    path.write_bytes(b"damaged")
    beside = manager.again.start(D, NAME)
    manager.downloads.wait(beside.id)
    path.write_bytes(b"damaged once more")
    later = AdvancedModelManager(ModelManagerConfig(), manager.host)
    target = path.with_name(f".{path.stem}.fetched-again{path.suffix}")
    later.downloads.fetch(DownloadRequest(item["url"], target, D))
    later.close()
    assert path.read_bytes() == wan.read_bytes()
    assert not target.exists()


@pytest.mark.parametrize(
    ("name", "replaced"),
    [
        (".wan.fetched-again.safetensors", "wan.safetensors"),
        ("wan.fetched-again.safetensors", None),
        (".fetched-again.safetensors", None),
        ("wan.safetensors", None),
        (".wan.safetensors", None),
    ],
)
def test_only_a_name_that_nobody_can_give_takes_anothers_place(name: str, replaced: str | None) -> None:
    found = replaced_path(Path("/models") / name)
    assert found == (Path("/models") / replaced if replaced else None)
    assert not replaced or name_problem(name)


def test_no_workflow_is_said_so(manager: AdvancedModelManager) -> None:
    with pytest.raises(BadInput):
        manager.needs.report({"x": 1})
