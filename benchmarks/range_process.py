"""A web server in a process of its own, for the download benchmarks: ranges by sendfile, at a given pace.

python benchmarks/range_process.py FILE [--total MB] [--each MB]    prints its port, serves until killed
"""

from __future__ import annotations

import argparse
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MB = 1024**2
_BLOCK = 256 * 1024


class Pace:
    """Lets so many bytes a second through; None lets all."""

    def __init__(self, bytes_per_second: float | None) -> None:
        self._rate = bytes_per_second
        self._next = time.monotonic()
        self._lock = threading.Lock()

    def wait(self, size: int) -> None:
        if self._rate is None:
            return
        with self._lock:
            now = time.monotonic()
            self._next = (
                max(self._next, now - 0.05) + size / self._rate
            )  # a pause is made up for, up to 50 ms
            left = self._next - now
        if left > 0.002:
            time.sleep(left)


def _serve(connection: socket.socket, path: str, total: Pace, each: float | None, counted: list[int]) -> None:
    size = os.path.getsize(path)
    pace = Pace(each)
    pending = b""
    with connection, open(path, "rb") as file:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            while b"\r\n\r\n" not in pending:
                got = connection.recv(65536)
                if not got:
                    return
                pending += got
            head, _, pending = pending.partition(b"\r\n\r\n")
            match = re.search(rb"\r\nrange: *bytes=(\d+)-(\d*)", head, re.IGNORECASE)
            first = int(match[1]) if match else 0
            last = min(int(match[2] or size - 1), size - 1) if match else size - 1
            status = b"206 Partial Content" if match else b"200 OK"
            lines = [
                b"HTTP/1.1 " + status, b'ETag: "one"', b"Accept-Ranges: bytes",
                b"Content-Length: %d" % (last - first + 1),
            ]  # fmt: skip
            if match:
                lines.append(b"Content-Range: bytes %d-%d/%d" % (first, last, size))
            connection.sendall(b"\r\n".join([*lines, b"", b""]))
            if head.startswith(b"HEAD"):
                continue
            position = first
            while position <= last:
                count = min(_BLOCK, last + 1 - position)
                total.wait(count)
                pace.wait(count)
                while count:
                    sent = os.sendfile(connection.fileno(), file.fileno(), position, count)
                    position, count = position + sent, count - sent
                    counted[0] += sent


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("file")
    parser.add_argument("--total", type=float)
    parser.add_argument("--each", type=float)
    options = parser.parse_args()
    total = Pace(options.total and options.total * MB)
    counted = [0]
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        print(listening.getsockname()[1], flush=True)

        def report() -> None:
            for _ in sys.stdin:  # one line asks for the bytes sent so far
                print(counted[0], flush=True)

        threading.Thread(target=report, daemon=True).start()
        while True:
            connection, _ = listening.accept()
            arguments = (connection, options.file, total, options.each and options.each * MB, counted)

            def run(arguments: tuple = arguments) -> None:  # type: ignore[type-arg]
                try:
                    _serve(*arguments)
                except OSError:  # the other end had enough
                    pass

            threading.Thread(target=run, daemon=True).start()


class Running:
    """The server as seen from the benchmark."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self._process = process
        self.url = f"http://127.0.0.1:{port}/model.safetensors"

    def sent(self) -> int:
        """Return how many bytes of bodies it has sent."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("?\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


@contextmanager
def serving(file: Path, total: float | None = None, each: float | None = None) -> Iterator[Running]:
    """Serve a file until the block ends; paces in MB per second, for everything and for each connection."""
    command = [sys.executable, __file__, str(file)]
    command += ["--total", str(total)] if total else []
    command += ["--each", str(each)] if each else []
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield Running(process, int(process.stdout.readline()))
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main()
