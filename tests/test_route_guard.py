"""Who may call the routes: everything that got through unguarded routes is refused here."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
from aiohttp import web
from managed_models.manager.route_guard import MAX_BODY, guard_read, guard_write, host_allowed

ALLOWED = "MANAGED_MODELS_ALLOWED_HOSTS"
Middleware = Callable[[web.Request, Callable[[web.Request], Awaitable[web.StreamResponse]]], Any]


class Answer(NamedTuple):
    status: int
    body: Any
    headers: dict[str, str]

    @property
    def code(self) -> str:
        return str(self.body["error"]["code"])


class Server:
    """A real server with one guarded GET and one guarded POST that count what reaches them."""

    def __init__(self, port: int, reached: list[Any]) -> None:
        self.port = port
        self.reached = reached

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def ask(
        self,
        method: str,
        headers: dict[str, str] | None = None,
        body: bytes | None = None,
        host: str | None = None,
        path: str = "/thing",
    ) -> Answer:
        """Send exactly these headers and nothing else, but for Host and the length of a body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            connection.putheader("Host", self.host if host is None else host)
            for name, value in (headers or {}).items():
                connection.putheader(name, value)
            if body is not None and "Transfer-Encoding" not in (headers or {}):
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            response = connection.getresponse()
            raw = response.read()
        finally:
            connection.close()
        try:
            found = json.loads(raw)
        except ValueError:
            found = None
        return Answer(response.status, found, {k.lower(): v for k, v in response.getheaders()})

    def read(self, host: str | None = None, **headers: str | None) -> Answer:
        return self.ask("GET", _named(headers), host=host)

    def write(self, body: Any = None, host: str | None = None, **headers: str | None) -> Answer:
        """POST as our own page does, with these headers besides; None leaves one out."""
        ours = {"X_Managed_Models": "1", "Content_Type": "application/json"}
        sent = _named(ours | headers)
        raw = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
        return self.ask("POST", sent, raw, host)


def _named(headers: Mapping[str, str | None]) -> dict[str, str]:
    """Turn ``Sec_Fetch_Site`` into ``Sec-Fetch-Site``, leaving None out."""
    return {name.replace("_", "-"): value for name, value in headers.items() if value is not None}


@contextmanager
def serving(*middlewares: Middleware) -> Iterator[Server]:
    reached: list[Any] = []

    async def read(request: web.Request) -> web.Response:
        reached.append("read")
        return web.json_response({"good": True})

    async def write(request: web.Request, body: dict[str, Any]) -> web.Response:
        reached.append(body)
        return web.json_response({"good": True})

    loop = asyncio.new_event_loop()
    app = web.Application(middlewares=middlewares)
    app.router.add_get("/thing", guard_read(read))
    app.router.add_post("/thing", guard_write(write))
    runner = web.AppRunner(app, access_log=None)
    loop.run_until_complete(runner.setup())
    loop.run_until_complete(web.TCPSite(runner, "127.0.0.1", 0).start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield Server(runner.addresses[0][1], reached)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(runner.cleanup())
        loop.close()


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def server(running: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.delenv(ALLOWED, raising=False)
    running.reached.clear()
    return running


def assert_refused(server: Server, answer: Answer, status: int, code: str) -> None:
    """Hold a refusal to have our shape, and the handler not to have been reached."""
    assert (answer.status, answer.code) == (status, code)
    assert set(answer.body) == {"error"}
    assert set(answer.body["error"]) == {"code", "message", "details"}
    assert server.reached == []


# Who is let in


def test_the_page_of_this_server_may_read_and_write(server: Server) -> None:
    page = {"Origin": f"http://{server.host}", "Sec_Fetch_Site": "same-origin"}
    assert server.read(**page).status == 200
    assert server.write({"model": "wan"}, **page).status == 200
    assert server.reached == ["read", {"model": "wan"}]


def test_the_command_line_sends_no_origin(server: Server) -> None:
    assert server.read().status == 200
    assert server.write({"id": "1"}).status == 200
    assert server.reached == ["read", {"id": "1"}]


def test_an_address_typed_by_a_person_may_be_read(server: Server) -> None:
    assert server.read(Sec_Fetch_Site="none").status == 200


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:8188",
        "localhost",
        "localhost:8188",
        "LOCALHOST:8188",
        "comfy.localhost:8188",
        "[::1]:8188",
        "[::1]",
        "[fe80::1]:8188",
        "192.168.1.20:8188",
        "10.0.0.5",
    ],
)
def test_loopback_names_and_addresses_cannot_be_rebound(server: Server, host: str) -> None:
    origin = f"http://{host.lower()}"
    assert server.read(host, Origin=origin).status == 200
    assert server.write({}, host, Origin=origin).status == 200
    assert len(server.reached) == 2


@pytest.mark.parametrize("listed", ["my.comfy.lan", " other , MY.comfy.LAN,", "my.comfy.lan,"])
def test_a_listed_name_is_let_in(server: Server, monkeypatch: pytest.MonkeyPatch, listed: str) -> None:
    host = "My.Comfy.Lan:8188"
    assert_refused(server, server.read(host), 403, "host_not_allowed")
    monkeypatch.setenv(ALLOWED, listed)
    assert server.read(host, Origin="http://my.comfy.lan:8188").status == 200
    assert server.write({}, host, Origin="http://my.comfy.lan:8188").status == 200


@pytest.mark.parametrize("content_type", ["application/json", "application/json; charset=utf-8"])
def test_json_is_read_with_and_without_a_charset(server: Server, content_type: str) -> None:
    assert server.write({"ä": "模型"}, Content_Type=content_type).status == 200
    assert server.reached == [{"ä": "模型"}]


def test_the_largest_body_that_is_allowed(server: Server) -> None:
    body = {"model": "x" * (MAX_BODY - len(json.dumps({"model": ""})))}
    assert len(json.dumps(body)) == MAX_BODY
    assert server.write(body).status == 200


# Everything that an unguarded route lets through (frontend.md, "Route security")

FOREIGN = [
    ("a site on the internet", {"Origin": "https://evil.example"}, None),
    (
        "that site, as browsers mark it",
        {"Origin": "https://evil.example", "Sec_Fetch_Site": "cross-site"},
        None,
    ),
    ("a sandboxed frame or a file", {"Origin": "null"}, None),
    ("another application, same address", {"Origin": "http://127.0.0.1"}, None),
    ("another application, other port", {"Origin": "http://127.0.0.1:1"}, None),
    ("another loopback name", {"Origin": "http://localhost:8188"}, "127.0.0.1:8188"),
    ("an address of this network", {"Origin": "http://evil.example"}, "192.168.1.5:8188"),
    ("an origin without a host", {"Origin": "http://"}, None),
    ("an empty origin", {"Origin": ""}, None),
    ("an origin that is no address", {"Origin": "http://[::1"}, None),
    ("a name inside the origin", {"Origin": "http://127.0.0.1@evil.example"}, None),
]


@pytest.mark.parametrize(("headers", "host"), [row[1:] for row in FOREIGN], ids=[row[0] for row in FOREIGN])
@pytest.mark.parametrize("method", ["read", "write"])
def test_a_foreign_origin_is_refused(
    server: Server, method: str, headers: dict[str, str], host: str | None
) -> None:
    answer = getattr(server, method)(host=host, **headers)
    assert_refused(server, answer, 403, "cross_origin")


@pytest.mark.parametrize("site", ["cross-site", "same-site", "SOMETHING"])
@pytest.mark.parametrize("method", ["read", "write"])
def test_an_image_or_form_on_another_page_is_refused(server: Server, method: str, site: str) -> None:
    """An ``<img>`` sends no Origin; another port of this machine counts as the same site."""
    assert_refused(server, getattr(server, method)(Sec_Fetch_Site=site), 403, "cross_site")


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8188",
        "127.0.0.1.evil.example:8188",
        "localhost.evil.example",
        "notlocalhost",
        "2130706433:8188",
        "0x7f.1",
        "[::1",
        "",
        "127.0.0.1:8188@evil.example",
    ],
)
@pytest.mark.parametrize("method", ["read", "write"])
def test_a_rebound_name_is_refused_although_the_page_is_of_the_same_origin(
    server: Server, method: str, host: str
) -> None:
    headers = {"Sec_Fetch_Site": "same-origin"}
    if host and "[" not in host:
        headers["Origin"] = f"http://{host}"
    assert_refused(server, getattr(server, method)(host=host, **headers), 403, "host_not_allowed")


def test_a_request_without_a_host_is_refused(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(b"GET /thing HTTP/1.0\r\n\r\n")
        answer = b""
        while piece := connection.recv(4096):
            answer += piece
    assert b" 403 " in answer.split(b"\r\n", 1)[0]
    assert server.reached == []


@pytest.mark.parametrize("value", [None, "", "0", "true", "11"])
def test_a_form_or_image_cannot_send_our_header(server: Server, value: str | None) -> None:
    assert_refused(server, server.write({}, X_Managed_Models=value), 403, "missing_header")


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "text/plain;charset=UTF-8",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "",
        None,
    ],
)
def test_what_a_form_sends_is_not_read_as_json(server: Server, content_type: str | None) -> None:
    """These need no preflight, and ``request.json()`` would read them all the same."""
    assert_refused(server, server.write({"all": True}, Content_Type=content_type), 415, "not_json")


def test_a_body_that_is_too_large_is_refused(server: Server) -> None:
    assert_refused(server, server.write({"model": "x" * MAX_BODY}), 413, "too_large")


def test_a_body_without_its_length_is_refused(server: Server) -> None:
    headers = {
        "X-Managed-Models": "1",
        "Content-Type": "application/json",
        "Transfer-Encoding": "chunked",
    }
    assert_refused(server, server.ask("POST", headers, b"2\r\n{}\r\n0\r\n\r\n"), 413, "too_large")


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b'["wan"]',
        b'"wan"',
        b"1",
        b"null",
        b"true",
        b"",
        b" ",
        b"{",
        b"{'a': 1}",
        b"\xff\xfe{}",
        b'{"a": "\xff"}',
        b"[" * 30_000,
        b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    ],
    ids=lambda body: repr(body[:12]),
)
def test_what_is_no_json_object_is_refused(server: Server, body: bytes) -> None:
    assert_refused(server, server.write(body), 400, "bad_input")


def test_refusals_say_what_to_do(server: Server) -> None:
    assert ALLOWED in server.read("evil.example").body["error"]["message"]
    assert "X-Managed-Models: 1" in server.write(X_Managed_Models=None).body["error"]["message"]


@pytest.mark.parametrize("headers", [{}, {"Access-Control-Request-Headers": "x-managed-models"}])
def test_the_question_before_a_foreign_request_is_never_granted(
    server: Server, headers: dict[str, str]
) -> None:
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"} | headers
    answer = server.ask("OPTIONS", asked)
    assert answer.status == 405
    assert not any(name.startswith("access-control") for name in answer.headers)


def test_the_guard_holds_where_the_server_opens_itself_to_everybody() -> None:
    """ComfyUI's --enable-cors-header '*' answers every preflight and marks every answer as public."""

    @web.middleware
    async def everybody(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        answer = web.Response() if request.method == "OPTIONS" else await handler(request)
        answer.headers["Access-Control-Allow-Origin"] = "*"
        answer.headers["Access-Control-Allow-Headers"] = "Content-Type, X-Managed-Models"
        return answer

    with serving(everybody) as server:
        for origin in ("https://evil.example", "null", "http://127.0.0.1:1"):
            assert server.ask("OPTIONS", {"Origin": origin}).status == 200
            assert_refused(server, server.read(Origin=origin), 403, "cross_origin")
            assert_refused(server, server.write({"all": True}, Origin=origin), 403, "cross_origin")
        assert server.read(Origin=f"http://{server.host}").status == 200


@pytest.mark.parametrize(
    ("netloc", "allowed"),
    [
        ("localhost", True),
        ("a.b.localhost:1", True),
        ("::1", False),  # an IPv6 address stands in brackets
        ("[::1]", True),
        ("[::1]:99999999", True),
        ("", False),
        (":8188", False),
        ("localhost.", False),
        ("evil.localhost.example", False),
    ],
)
def test_host_allowed(netloc: str, allowed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ALLOWED, raising=False)
    assert host_allowed(netloc) is allowed


def test_an_empty_list_of_names_allows_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOWED, " , ,")
    assert not host_allowed("")
    assert not host_allowed("evil.example")
