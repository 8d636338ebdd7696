"""A web server on this machine that behaves, or misbehaves in the way that a test asks for."""

from __future__ import annotations

import re
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_BLOCK = 1 << 16


@dataclass
class Seen:
    """One request as the server saw it."""

    path: str
    headers: dict[str, str]


@dataclass
class Server:
    """What is served, and what was asked.

    Attributes:
        files: path -> a file whose ranges are served.
        special: path -> a function that answers by itself.
        etags: path -> what the server calls the state of that file.
    """

    port: int
    scheme: str = "http"
    files: dict[str, Path] = field(default_factory=dict)
    special: dict[str, Callable[[BaseHTTPRequestHandler], None]] = field(default_factory=dict)
    etags: dict[str, str] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    sent: int = 0

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"{self.scheme}://{host}:{self.port}{path}"

    def add(self, path: str, file: Path) -> str:
        self.files[path] = file
        return self.url(path)

    def answer(self, path: str, handler: Callable[[BaseHTTPRequestHandler], None]) -> str:
        self.special[path] = handler
        return self.url(path)


@contextmanager
def range_server(certificate: Path | None = None) -> Iterator[Server]:
    """Serve until the block ends, over TLS where there is a key with its certificate."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            server.seen.append(Seen(self.path, dict(self.headers)))
            try:
                if path in server.special:
                    server.special[path](self)
                elif path in server.files:
                    send_range(self, server.files[path], server)
                else:
                    status(self, 404)
            except (BrokenPipeError, ConnectionResetError):  # the other end had enough
                pass

        def end_headers(self) -> None:
            self.send_header("Connection", "close")
            super().end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        httpd.socket = context.wrap_socket(httpd.socket, server_side=True)
    server = Server(httpd.server_address[1], "https" if certificate else "http")
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


def send_range(handler: BaseHTTPRequestHandler, file: Path, server: Server) -> None:
    """Send what the Range header asks for, and count the bytes."""
    size = file.stat().st_size
    etag = server.etags.get(handler.path.partition("?")[0])
    if etag and handler.headers.get("If-Range", etag) != etag:
        send_all(handler, file, ETag=etag)
        return
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", handler.headers.get("Range", ""))
    assert match, "every request here asks for a range"
    first, last = int(match[1]), min(int(match[2] or size), size - 1)
    if first >= size:
        status(handler, 416)
        return
    server.sent += last - first + 1
    handler.send_response(206)
    if etag:
        handler.send_header("ETag", etag)
    handler.send_header("Content-Range", f"bytes {first}-{last}/{size}")
    handler.send_header("Content-Length", str(last - first + 1))
    handler.end_headers()
    with open(file, "rb") as source:
        source.seek(first)
        handler.wfile.write(source.read(last - first + 1))


def send_all(handler: BaseHTTPRequestHandler, file: Path, length: bool = True, **headers: str) -> None:
    """Send the whole file, whatever range was asked for, until the other end has enough."""
    handler.send_response(200)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    if length:
        handler.send_header("Content-Length", str(file.stat().st_size))
    handler.end_headers()
    with open(file, "rb") as source:
        while block := source.read(_BLOCK):
            handler.wfile.write(block)


def status(handler: BaseHTTPRequestHandler, code: int, **headers: str) -> None:
    """Answer with a status and nothing else."""
    handler.send_response(code)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", "0")
    handler.end_headers()


def redirect(target: str, code: int = 302) -> Callable[[BaseHTTPRequestHandler], None]:
    """Return an answer that leads elsewhere."""
    return lambda handler: status(handler, code, Location=target)


def body(
    code: int, data: bytes, wait: Callable[[], None] | None = None, **headers: str
) -> Callable[[BaseHTTPRequestHandler], None]:
    """Return an answer with exactly these headers and bytes, one by one where ``wait`` comes between."""

    def send(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        if wait is None:
            handler.wfile.write(data)
            return
        for byte in data:
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
            wait()

    return send
