"""Who may be asked, decided from texts."""

from __future__ import annotations

import pytest
from managed_models.manager.config import ALLOWED_HOSTS
from managed_models.manager.errors import BadInput, HostNotAllowed, NotPublic
from managed_models.manager.remote.reach import Reach

COMFYUI = Reach.from_environment({}, ALLOWED_HOSTS)


@pytest.mark.parametrize(
    "url",
    [
        "https://huggingface.co/a/b/resolve/main/c",
        "https://cdn-lfs.huggingface.co/x",
        "https://cdn-lfs-us-1.hf.co/x",
        "https://cas-bridge.xethub.hf.co/x",
        "https://civitai.com/api/download/models/1",
        "https://b2.civitai.com/x",
        "https://civitai-delivery-worker-prod.5ac0637cfd0766c97916cefa3764fbdf.r2.cloudflarestorage.com/x",
        "https://github.com/a/b/releases/download/v1/x.safetensors",
        "https://objects.githubusercontent.com/x",
        "https://release-assets.githubusercontent.com/x",
    ],
)
def test_the_usual_hosts_and_their_storage(url: str) -> None:
    COMFYUI.check(url)


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("https://example.com/x", HostNotAllowed),
        ("https://huggingface.co.evil.example/x", HostNotAllowed),
        ("https://evilhuggingface.co/x", HostNotAllowed),
        ("https://evil-hf.co/x", HostNotAllowed),
        ("https://hf.co.evil/x", HostNotAllowed),
        ("https://evil.r2.cloudflarestorage.com/x", HostNotAllowed),
        ("https://8.8.8.8/x", HostNotAllowed),
        ("http://huggingface.co/x", NotPublic),
        ("https://127.0.0.1/x", NotPublic),
        ("https://user:pw@huggingface.co/x", BadInput),
        ("ftp://huggingface.co/x", BadInput),
    ],
)
def test_nobody_else(url: str, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        COMFYUI.check(url)
    assert caught.value.remedy  # type: ignore[attr-defined]


def test_every_public_host_where_a_person_typed_the_address() -> None:
    Reach().check("https://example.com/x")
    with pytest.raises(NotPublic):
        Reach().check("http://10.0.0.5/x")
    Reach.from_environment({}, ALLOWED_HOSTS, allow_local=True).check("http://10.0.0.5/x")


def test_listed_hosts_are_public_ones_and_listed_origins_wherever_they_are() -> None:
    listed = {"MANAGED_MODELS_DOWNLOAD_HOSTS": "models.example, mine.example:8443,http://10.0.0.5:8000"}
    reach = Reach.from_environment(listed, ALLOWED_HOSTS)
    for url in (
        "https://models.example/x",
        "https://mine.example:8443/x",
        "http://10.0.0.5:8000/x",
        "https://huggingface.co/x",
    ):
        reach.check(url)
    for url, error in (
        ("https://mine.example/x", HostNotAllowed),
        ("http://models.example/x", NotPublic),
        ("http://10.0.0.5/x", NotPublic),
        ("http://10.0.0.5:8001/x", NotPublic),
        ("https://10.0.0.5:8000/x", NotPublic),
    ):
        with pytest.raises(error):
            reach.check(url)
    assert reach.is_trusted("http://10.0.0.5:8000/x")
    assert not reach.is_trusted("https://models.example/x")


def test_a_mirror_is_asked_in_place_of_hugging_face() -> None:
    reach = Reach.from_environment({"HF_ENDPOINT": "http://127.0.0.1:9000/"}, ALLOWED_HOSTS)
    url = reach.at_mirror("https://huggingface.co/a/b/resolve/main/c?download=true")
    assert url == "http://127.0.0.1:9000/a/b/resolve/main/c?download=true"
    reach.check(url)
    assert reach.speaks_for_hugging_face(url)
    assert reach.at_mirror("https://civitai.com/x") == "https://civitai.com/x"
    assert reach.at_mirror("http://huggingface.co/x") == "http://huggingface.co/x"
    six = Reach.from_environment({"HF_ENDPOINT": "http://[::1]:9000"})
    assert six.at_mirror("https://huggingface.co/x") == "http://[::1]:9000/x"


def test_no_mirror_where_the_variable_names_hugging_face_itself() -> None:
    assert Reach.from_environment({"HF_ENDPOINT": "https://huggingface.co"}).mirror is None


@pytest.mark.parametrize(
    "text", ["huggingface.co", "ftp://x", "http://", "http://u:p@x", "http://x:99999", "https://x/hf"]
)
def test_a_mirror_that_is_no_origin_is_told(text: str) -> None:
    with pytest.raises(BadInput, match="HF_ENDPOINT"):
        Reach.from_environment({"HF_ENDPOINT": text})


def test_only_hugging_face_speaks_for_its_files() -> None:
    assert COMFYUI.speaks_for_hugging_face("https://huggingface.co/x")
    for url in ("https://cdn-lfs.hf.co/x", "http://huggingface.co/x", "https://huggingface.co:444/x", "x"):
        assert not COMFYUI.speaks_for_hugging_face(url)
