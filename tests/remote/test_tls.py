"""Encrypted connections: looked at before TLS begins, and cut like plain ones."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from managed_models.manager.errors import NotPublic, RemoteError
from managed_models.manager.remote.fetch import Fetcher
from managed_models.manager.remote.tokens import Token
from support.range_server import Server, range_server, redirect

DATA = bytes(range(256)) * 40


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate for this machine, in one file."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    command = [
        openssl,
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", "key", "-out", "cert"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    both = folder / "both.pem"
    both.write_text((folder / "cert").read_text() + (folder / "key").read_text())
    return both


@pytest.fixture
def server(certificate: Path) -> Iterator[Server]:
    with range_server(certificate) as found:
        yield found


def test_a_range_over_tls_with_a_token_that_is_dropped(
    server: Server, certificate: Path, tmp_path: Path
) -> None:
    file = tmp_path / "a"
    file.write_bytes(DATA)
    server.add("/file", file)
    server.answer("/a", redirect(server.url("/file", host="localhost")))
    environ = {"MY_TOKEN": "secret", "REQUESTS_CA_BUNDLE": str(certificate)}
    tokens = (Token("MY_TOKEN", "https", "127.0.0.1"),)
    with Fetcher(allow_local=True, environ=environ, tokens=tokens) as fetcher:
        assert fetcher.get(server.url("/a"), 5, 100).data == DATA[5:105]
        assert fetcher.get(server.url("/file"), 0, 10).data == DATA[:10]
    sent = [(seen.path, seen.headers.get("Authorization")) for seen in server.seen]
    assert sent == [("/a", "Bearer secret"), ("/file", None), ("/file", "Bearer secret")]


def test_a_certificate_that_nobody_vouches_for(server: Server) -> None:
    with Fetcher(allow_local=True) as fetcher, pytest.raises(RemoteError) as caught:
        fetcher.get(server.url("/a") + "?secret", 0, 10)
    assert caught.value.details["problem"] == "certificate"
    assert "REQUESTS_CA_BUNDLE" in caught.value.remedy
    assert "secret" not in str(caught.value)


def test_a_trickle_over_tls_is_cut(server: Server, certificate: Path) -> None:
    stop = threading.Event()
    server.answer("/a", lambda handler: stop.wait(20) and None)
    environ = {"REQUESTS_CA_BUNDLE": str(certificate)}
    with (
        Fetcher(allow_local=True, seconds=0.5, environ=environ) as fetcher,
        pytest.raises(RemoteError, match="took longer"),
    ):
        fetcher.get(server.url("/a"), 0, 10)
    stop.set()


def test_nothing_is_sent_to_an_inner_host() -> None:
    received: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            connected, _ = listening.accept()
            with connected:
                received.append(connected.recv(1000))

        thread = threading.Thread(target=accept)
        thread.start()
        with Fetcher() as fetcher, pytest.raises(NotPublic):
            fetcher.get(f"https://127.0.0.1:{listening.getsockname()[1]}/a", 0, 10)
        thread.join()
    assert received == [b""]


def test_an_end_that_never_answers_the_handshake_is_cut() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"https://127.0.0.1:{listening.getsockname()[1]}/a"
        with (
            Fetcher(allow_local=True, seconds=0.5) as fetcher,
            pytest.raises(RemoteError, match="took longer"),
        ):
            fetcher.get(url, 0, 10)
