"""Reading a few bytes from servers that behave and servers that do not."""

from __future__ import annotations

import gzip
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from managed_models.manager.errors import AccessDenied, ManagedModelsError, NotPublic, RemoteError
from managed_models.manager.remote.fetch import MAX_REDIRECTS, Fetcher, Piece
from managed_models.manager.remote.guard import refuse_inner
from managed_models.manager.remote.tokens import Token
from support.range_server import Server, body, redirect, send_all, status

DATA = bytes(range(256)) * 40


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "data.bin"
    path.write_bytes(DATA)
    return path


def get(url: str, start: int = 0, count: int = 100, **options: Any) -> Piece:
    with Fetcher(allow_local=True, **options) as fetcher:
        return fetcher.get(url, start, count)


def problem(url: str, **options: Any) -> RemoteError:
    with pytest.raises(RemoteError) as caught:
        get(url, **options)
    assert caught.value.remedy
    assert "secret" not in str(caught.value.to_dict())
    return caught.value


@pytest.mark.parametrize(("start", "count"), [(0, 100), (7, 1), (0, len(DATA)), (10_000, 5000)])
def test_a_range_is_read(server: Server, file: Path, start: int, count: int) -> None:
    piece = get(server.add("/a", file), start, count)
    assert piece.data == DATA[start : start + count]
    assert piece.total == len(DATA)
    assert len(server.seen) == 1


@pytest.mark.parametrize(("start", "count"), [(0, 100), (7, 1), (0, len(DATA) * 2), (10_000, 5000)])
def test_a_server_without_ranges_is_read_as_far_as_needed(
    server: Server, file: Path, start: int, count: int
) -> None:
    with Fetcher(allow_local=True) as fetcher:
        piece = fetcher.get(server.answer("/a", lambda h: send_all(h, file)), start, count)
    assert piece.data == DATA[start : start + count]
    assert piece.total == len(DATA)
    assert fetcher.bytes_read == min(start + count, len(DATA))


def test_a_server_that_says_no_size(server: Server, file: Path) -> None:
    piece = get(server.answer("/a", lambda h: send_all(h, file, length=False)))
    assert (piece.data, piece.total) == (DATA[:100], None)


def test_of_a_large_file_without_ranges_the_rest_is_left(server: Server, tmp_path: Path) -> None:
    large = tmp_path / "large"
    with open(large, "wb") as handle:
        handle.truncate(20 * 1024**3)
    piece = get(server.answer("/a", lambda h: send_all(h, large)))
    assert piece.total == 20 * 1024**3


@pytest.mark.parametrize(
    "content_range",
    [
        "", "bytes 0-99", "bytes 1-100/10240", "bytes 0-9999/10240", "bytes 0-98/10240", "bytes 99-0/10240",
        "bytes */10240", "items 0-99/10240", "bytes 0-99/-1", "bytes 0-99/" + "9" * 30, "bytes 0-99/50",
    ],
)  # fmt: skip
def test_a_wrong_content_range_is_no_answer(server: Server, content_range: str) -> None:
    headers = {"Content_Range": content_range} if content_range else {}
    url = server.answer("/a", body(206, DATA[:100], Content_Length="100", **headers))
    assert problem(url).details["problem"] == "content_range"


def test_an_answer_that_breaks_off(server: Server) -> None:
    url = server.answer("/a", body(206, DATA[:50], Content_Range="bytes 0-99/10240", Content_Length="100"))
    assert problem(url).details["problem"] in ("truncated", "unreachable")
    url = server.answer("/b", body(206, DATA[:50], Content_Range="bytes 0-99/10240"))
    assert problem(url).details["problem"] == "truncated"
    assert "50 of 100 bytes" in problem(url).message


def test_a_packed_answer_is_refused(server: Server) -> None:
    url = server.answer("/a", body(200, gzip.compress(DATA), Content_Encoding="gzip"))
    assert problem(url).details["problem"] == "encoding"


@pytest.mark.parametrize(
    "answer",
    [
        body(200, b"<!DOCTYPE html><html>log in</html>", Content_Type="text/html; charset=utf-8"),
        body(200, b"  \n<!doctype HTML><html>log in</html>"),
        body(200, b"please log in", Content_Type="text/html"),
    ],
)
def test_a_web_page_is_told_apart(server: Server, answer: Any) -> None:
    error = problem(server.answer("/a", answer))
    assert error.details["problem"] == "web_page"
    assert "HF_TOKEN" in error.remedy


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (401, "access", "may not be read"),
        (403, "access", "may not be read"),
        (404, "not_found", "does not exist"),
        (410, "not_found", "was removed"),
        (416, "range", "empty"),
        (429, "too_many_requests", "too often"),
        (500, "server", "trouble"),
        (503, "server", "trouble"),
        (418, "status", "gave no file"),
        (204, "status", "gave no file"),
        (304, "status", "gave no file"),
    ],
)
def test_each_status_has_its_words(server: Server, code: int, kind: str, words: str) -> None:
    error = problem(server.answer("/a", lambda h: status(h, code)) + "?token=secret")
    assert (error.details["problem"], error.details["status"]) == (kind, code)
    assert words in error.message
    assert isinstance(error, AccessDenied) == (kind == "access")


def test_how_long_to_wait_is_passed_on(server: Server) -> None:
    assert "30 s" in problem(server.answer("/a", lambda h: status(h, 429, Retry_After="30"))).remedy
    error = problem(server.answer("/b", lambda h: status(h, 503, Retry_After="Fri, 31 Dec 1999")))
    assert error.remedy == "Try again later."


def test_redirects_are_followed_and_end(server: Server, file: Path) -> None:
    server.add("/file", file)
    for step in range(MAX_REDIRECTS):
        server.answer(f"/{step}", redirect(f"/{step + 1}" if step + 1 < MAX_REDIRECTS else "/file?sig=1"))
    piece = get(server.url("/0"))
    assert piece.data == DATA[:100]
    assert piece.url == server.url("/file?sig=1")
    server.answer("/one_more", redirect("/0"))
    assert problem(server.url("/one_more")).details["problem"] == "redirects"


def test_what_comes_with_a_redirect_is_not_read(server: Server, file: Path) -> None:
    server.add("/file", file)
    url = server.answer("/a", body(302, bytes(10**6), Location="/file", Content_Length=str(10**15)))
    with Fetcher(allow_local=True) as fetcher:
        assert fetcher.get(url, 0, 100).data == DATA[:100]
    assert fetcher.bytes_read == 100


def test_a_redirect_loop_ends(server: Server) -> None:
    url = server.answer("/a", redirect("/a"))
    assert problem(url).details["problem"] == "redirects"
    assert len(server.seen) == MAX_REDIRECTS + 1


@pytest.mark.parametrize(
    "target", ["ftp://example.com/a", "file:///etc/passwd", "https://u:secret@h/", "https://["]
)
def test_a_redirect_to_what_is_no_address(server: Server, target: str) -> None:
    assert problem(server.answer("/a", redirect(target))).details["problem"] == "redirect"


def test_a_token_goes_to_its_own_host_and_is_dropped_on_the_way_to_another(
    server: Server, file: Path
) -> None:
    server.add("/file", file)
    server.answer("/a", redirect("/b"))
    server.answer("/b", redirect(server.url("/file", host="localhost")))
    tokens = (Token("MY_TOKEN", "http", "127.0.0.1"),)
    get(server.url("/a"), environ={"MY_TOKEN": "secret"}, tokens=tokens)
    sent = [(seen.path, seen.headers.get("Authorization")) for seen in server.seen]
    assert sent == [("/a", "Bearer secret"), ("/b", "Bearer secret"), ("/file", None)]


def test_nothing_of_the_environment_goes_along(
    server: Server, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HF_TOKEN", "secret")
    get(server.add("/a", file))
    assert {"Authorization", "Cookie"}.isdisjoint(server.seen[0].headers)
    assert server.seen[0].headers["Accept-Encoding"] == "identity"


def test_the_address_of_an_inner_host_is_seen_on_the_connection(server: Server, file: Path) -> None:
    """A name that leads here is found out, whatever its text says."""
    url = server.add("/a", file)
    with Fetcher() as fetcher, pytest.raises(NotPublic, match="one of its own network"):
        fetcher.get(url, 0, 100)
    assert server.seen == []


def test_a_redirect_inside_is_refused_before_anything_is_sent(
    server: Server, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first connection passes for a public one here; where it leads does not."""
    server.add("/secret", file)
    url = server.answer("/a", redirect(server.url("/secret")))
    passed: list[str] = []

    def pass_the_first(host: str, connected: socket.socket) -> None:
        if passed:
            refuse_inner(host, connected)
        passed.append(host)

    monkeypatch.setattr("managed_models.manager.remote.request.refuse_inner", pass_the_first)
    with Fetcher() as fetcher, pytest.raises(NotPublic, match="redirects where it must not"):
        fetcher.get(url, 0, 100)
    monkeypatch.setattr("managed_models.manager.remote.address._may_be_public", lambda host: True)
    monkeypatch.setattr("managed_models.manager.remote.reach.Reach.next_url", lambda self, url, to: to)
    passed.clear()
    with Fetcher() as fetcher, pytest.raises(NotPublic, match="one of its own network"):
        fetcher.get(url, 0, 100)
    assert [seen.path for seen in server.seen] == ["/a", "/a"]


def test_a_proxy_is_refused_where_it_would_hide_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example.com:3128")
    with Fetcher() as fetcher, pytest.raises(RemoteError, match="proxy") as caught:
        fetcher.get("https://example.com/a?secret", 0, 100)
    assert "NO_PROXY" in caught.value.remedy
    assert "secret" not in str(caught.value)


def test_through_a_proxy_where_that_was_allowed(
    server: Server, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", server.url(""))
    server.add("http://example.com/a", file)
    assert get("http://example.com/a").data == DATA[:100]
    stop = threading.Event()
    server.answer("http://example.com/b", lambda handler: stop.wait(20) and None)
    assert problem("http://example.com/b", seconds=0.3).details["problem"] == "slow"
    stop.set()


def test_a_trickle_is_cut(server: Server) -> None:
    stop = threading.Event()
    url = server.answer(
        "/a", body(200, bytes(100), wait=lambda: stop.wait(0.3) and None, Content_Length="100")
    )
    error = problem(url, seconds=0.5)
    stop.set()
    assert error.details["problem"] == "slow"


def test_headers_that_trickle_are_cut_too(server: Server) -> None:
    stop = threading.Event()

    def send(handler: Any) -> None:
        for byte in b"HTTP/1.1 200 OK\r\nX-Long: " + b"a" * 1000:
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
            if stop.wait(0.1):
                return

    error = problem(server.answer("/a", send), seconds=0.5)
    stop.set()
    assert error.details["problem"] == "slow"


def test_a_server_that_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    assert problem(f"http://127.0.0.1:{port}/a?secret").details["problem"] == "unreachable"
    assert problem("https://nowhere.invalid/a?secret").details["problem"] == "unreachable"


def test_what_is_no_http_is_told(server: Server) -> None:
    url = server.answer("/a", lambda h: h.wfile.write(b"\x00\x01\x02 nonsense\r\n\r\n"))
    assert problem(url).details["problem"] == "unreachable"
    tls = server.url("/b").replace("http:", "https:")
    assert problem(tls).details["problem"] in ("certificate", "unreachable")


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        ('attachment; filename="model.safetensors"', "model.safetensors"),
        ("attachment; filename=model.safetensors", "model.safetensors"),
        ("attachment; filename*=UTF-8''m%20%C3%B6.safetensors", "m ö.safetensors"),
        ('attachment; filename="../../etc/passwd"', "passwd"),
        ("inline", ""),
    ],
)
def test_what_the_server_calls_the_file(server: Server, disposition: str, name: str) -> None:
    url = server.answer("/a", body(200, DATA, Content_Length=str(len(DATA)), Content_Disposition=disposition))
    assert get(url).name == name


@pytest.mark.parametrize(
    ("url", "environ", "words"),
    [
        ("https://huggingface.co/o/r/resolve/main/x", {}, "put a token of that account into HF_TOKEN"),
        ("https://huggingface.co/o/r/resolve/main/x", {"HF_TOKEN": "s"}, "the token in HF_TOKEN"),
        ("https://civitai.com/api/1", {}, "CIVITAI_API_TOKEN is not set"),
        ("https://civitai.com/api/1", {"CIVITAI_API_TOKEN": "s"}, "does not allow it"),
        ("https://example.com/a", {}, "huggingface.co and civitai.com alone"),
    ],
)
def test_what_to_do_about_a_closed_door(url: str, environ: dict[str, str], words: str) -> None:
    from managed_models.manager.remote.refusal import access_remedy
    from managed_models.manager.remote.tokens import token_headers

    remedy = access_remedy(url, bool(token_headers(url, environ)))
    assert words in remedy
    if "huggingface" in url:
        assert "https://huggingface.co/o/r in" in remedy


def test_every_error_is_ours(server: Server) -> None:
    assert issubclass(RemoteError, ManagedModelsError)
    assert {RemoteError.code, NotPublic.code, AccessDenied.code} == {
        "remote_error",
        "not_public",
        "access_denied",
    }
