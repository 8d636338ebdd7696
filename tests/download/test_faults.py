"""Servers, lines and disks that misbehave: nothing corrupt gets the model's name, nothing good is lost."""

from __future__ import annotations

import gzip
import os
import random
import resource
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from managed_models.manager.download.partial import Partial
from managed_models.manager.errors import (
    AccessDenied,
    AlreadyDownloading,
    FileError,
    HashMismatch,
    HostNotAllowed,
    InvalidHeader,
    ManagedModelsError,
    NoRoom,
    NotPublic,
    NotSafetensors,
    RemoteError,
    TargetExists,
)
from managed_models.manager.remote.reach import Reach
from managed_models.manager.remote.tokens import Token
from support.downloads import (
    QUICK,
    Answer,
    Handler,
    Served,
    after,
    arrived_of,
    cut_after,
    get,
    left_of,
    refuse,
    slowly,
    whole,
)
from support.permissions import nobody
from support.range_server import body, redirect, status


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "models" / "got.safetensors"


def stall(seconds: float, after_bytes: int = 0) -> Answer:
    """Send so much, then nothing more until the test is over."""

    def answer(handler: Handler) -> None:
        handler.send_response(206)
        handler.send_header("Content-Range", "bytes 0-300077/300078")
        handler.send_header("Content-Length", "300078")
        handler.send_header("ETag", '"one"')
        handler.end_headers()
        handler.wfile.write(bytes(after_bytes))
        threading.Event().wait(seconds)

    return answer


# Faults that end well: name -> how the path is answered.
RECOVERED: dict[str, Callable[[Served], Answer]] = {
    "drops at random bytes": lambda s: cut_after(s, 1, 40_000, 0, 17, 99_999, 3, 60_000),
    "429 with Retry-After": lambda s: after(1, refuse(429, Retry_After="0"), s.well),
    "503 with a date": lambda s: after(1, refuse(503, Retry_After="Fri, 31 Dec 1999 23:59:59 GMT"), s.well),
    "500, 502 and 504": lambda s: after(1, refuse(500), s.well),
    "408": lambda s: after(1, refuse(408), s.well),
    "nothing at all": lambda s: after(1, lambda handler: None, s.well),
    "nonsense": lambda s: after(1, lambda h: h.wfile.write(b"\x00\x01nonsense\r\n\r\n") and None, s.well),
    "200 instead of 206": lambda s: whole(s.file),
    "200 without a length": lambda s: whole(s.file, length=False),
    "200 that breaks off and comes again": lambda s: after(
        1, _short_200(s, 100_000), whole(s.file, ETag='"one"')
    ),
    "a redirect to another path": lambda s: redirect("/again"),
    "headers, then silence": lambda s: after(1, stall(1.0), s.well),
}


def _short_200(served: Served, count: int) -> Answer:
    return body(200, served.data[:count], Content_Length=str(len(served.data)), ETag='"one"')


@pytest.mark.parametrize(
    ("fault", "connections"),
    [*((fault, 1) for fault in RECOVERED), ("200 instead of 206", 4), ("503 with a date", 4), ("408", 4)],
)
def test_what_can_be_had_is_had_whole(served: Served, target: Path, fault: str, connections: int) -> None:
    served.server.add("/again", served.file)
    served.misbehave(RECOVERED[fault](served))
    outcome = get(served.url, target, connections=connections)
    assert target.read_bytes() == served.data
    assert (outcome.sha256, outcome.fetched) == (served.sha256, True)
    assert left_of(target) == {target.name: len(served.data)}


PAGE = b"<!DOCTYPE html><html>log in</html>" * 100
# Faults that cannot end well: name -> answer, error, a word of it, options.
REFUSED: dict[str, tuple[Callable[[Served], Answer], type[ManagedModelsError], str, dict[str, Any]]] = {
    "wrong length": (
        lambda s: body(206, s.data[:-9], Content_Range="bytes 0-300068/300069", Content_Length="300069"),
        InvalidHeader, "9 bytes", {},
    ),
    "another length than expected": (lambda s: s.well, RemoteError, "299999 bytes", {"size_bytes": 299_999}),
    "wrong hash": (lambda s: s.well, HashMismatch, "SHA-256 is", {"sha256": "0" * 64}),
    "gzip": (
        lambda s: body(200, gzip.compress(s.data), Content_Encoding="gzip"), RemoteError, "packs", {},
    ),
    "a login page": (
        lambda s: body(200, PAGE, Content_Type="text/html", Content_Length=str(len(PAGE))),
        RemoteError, "web page", {},
    ),
    "a login page in disguise": (
        lambda s: body(200, PAGE, Content_Type="application/octet-stream", Content_Length=str(len(PAGE))),
        NotSafetensors, "web page", {},
    ),
    "a pointer of Git LFS": (
        lambda s: body(200, b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n" * 4),
        NotSafetensors, "LFS pointer", {},
    ),
    "401": (lambda s: refuse(401), AccessDenied, "401", {}),
    "403": (lambda s: refuse(403), AccessDenied, "403", {}),
    "404": (lambda s: refuse(404), RemoteError, "does not exist", {}),
    "416": (lambda s: refuse(416), RemoteError, "416", {}),
    "429 for an hour": (lambda s: refuse(429, Retry_After="3600"), RemoteError, "too often", {}),
    "503 for ever": (lambda s: refuse(503), RemoteError, "trouble", {}),
    "501": (lambda s: refuse(501), RemoteError, "501", {}),
    "a range that was not asked for": (
        lambda s: body(206, s.data, Content_Range="bytes 5-99/300078", Content_Length="95"),
        RemoteError, "the bytes from 0 on", {},
    ),
    "a redirect to no address": (lambda s: redirect("ftp://example.com/a"), RemoteError, "must not", {}),
    "a redirect loop": (lambda s: redirect("/model.safetensors"), RemoteError, "redirects more", {}),
    "silence": (lambda s: stall(2.0), RemoteError, "http://127.0.0.1", {}),
}  # fmt: skip


@pytest.mark.parametrize("fault", REFUSED)
def test_what_cannot_be_had_says_why_and_leaves_no_file(served: Served, target: Path, fault: str) -> None:
    answer, kind, words, options = REFUSED[fault]
    served.misbehave(answer(served))
    limits = replace(QUICK, stall_seconds=0.2, failures=2) if fault == "silence" else QUICK
    with pytest.raises(ManagedModelsError) as caught:
        get(served.url + "?token=secret", target, limits, **options)
    error = caught.value
    assert type(error) is kind, error
    assert words in error.message
    assert error.remedy
    assert "secret" not in str(error.to_dict())
    assert not target.exists()
    kept = {
        "got.safetensors.mmdownload",
        "got.safetensors.mmdownload.json",
        "got.safetensors.mmdownload.lock",
    }
    if fault in ("wrong hash",):
        assert set(left_of(target)) == kept
    else:
        assert left_of(target) == {}, "there was nothing good in it"


def test_how_long_to_wait_is_told(served: Served, target: Path) -> None:
    served.misbehave(refuse(429, Retry_After="3600"))
    with pytest.raises(RemoteError) as caught:
        get(served.url, target)
    assert "3600 s" in caught.value.remedy
    assert len(served.server.seen) == 1


def test_a_slow_trickle_is_left_and_taken_up_again(served: Served, target: Path) -> None:
    """A byte now and then keeps a socket busy for ever; the connection is made anew."""
    stop = threading.Event()

    def trickle(handler: Handler) -> None:
        handler.send_response(206)
        handler.send_header("Content-Range", "bytes 0-300077/300078")
        handler.send_header("Content-Length", "300078")
        handler.send_header("ETag", '"one"')
        handler.end_headers()
        for byte in served.data:
            handler.wfile.write(bytes([byte]))
            if stop.wait(0.05):
                return

    served.misbehave(after(1, trickle, served.well))
    get(served.url, target)
    stop.set()
    assert target.read_bytes() == served.data
    assert len(served.server.seen) >= 2


def test_several_connections_share_the_file(served: Served, target: Path) -> None:
    served.misbehave(slowly(served))
    get(served.url, target, connections=4)
    ranges = {seen.headers["Range"] for seen in served.server.seen}
    assert len(ranges) == len(served.server.seen) > 1
    assert target.read_bytes() == served.data


def test_a_server_that_bears_one_connection_gets_one(served: Served, target: Path) -> None:
    busy = threading.Lock()

    def answer(handler: Handler) -> None:
        if not busy.acquire(blocking=False):
            refuse(429, Retry_After="0")(handler)
            return
        try:
            served.well(handler)
        finally:
            busy.release()

    served.misbehave(slowly(served, answer))
    get(served.url, target, connections=4)
    assert target.read_bytes() == served.data


@pytest.mark.parametrize("seed", range(4))
def test_drops_at_any_bytes_on_four_connections(
    served: Served, target: Path, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    served.misbehave(slowly(served, cut_after(served, *(chance.randrange(80_000) for _ in range(12)))))
    get(served.url, target, connections=4)
    assert target.read_bytes() == served.data


# Resuming


def _interrupted(served: Served, target: Path, count: int = 150_000, **options: Any) -> int:
    """Leave a download behind that broke off after so many bytes, and return what is kept of it."""
    served.misbehave(after(1, cut_after(served, count), refuse(404)))
    with pytest.raises(RemoteError):
        get(served.url, target, **options)
    served.behave()
    served.server.seen.clear()
    served.server.sent = 0
    return arrived_of(target)


def test_a_broken_download_goes_on_where_it_was(served: Served, target: Path) -> None:
    kept = _interrupted(served, target)
    assert 100_000 < kept <= 150_000
    assert not target.exists()
    get(served.url, target)
    asked = served.server.seen[0].headers
    assert (asked["Range"], asked["If-Range"]) == (f"bytes={kept}-300077", '"one"')
    assert served.server.sent == len(served.data) - kept
    assert target.read_bytes() == served.data


def test_a_file_that_changed_is_fetched_anew(served: Served, target: Path, tmp_path: Path) -> None:
    _interrupted(served, target)
    other = tmp_path / "other.safetensors"
    other.write_bytes(served.data[:-1] + b"x")
    served.server.files["/model.safetensors"] = other
    served.server.etags["/model.safetensors"] = '"two"'
    get(served.url, target)
    assert target.read_bytes() == other.read_bytes()


def test_an_etag_that_changes_under_a_206_is_noticed(served: Served, target: Path, tmp_path: Path) -> None:
    """A server that ignores If-Range and sends the rest of another file."""
    _interrupted(served, target)
    other = tmp_path / "other.safetensors"
    other.write_bytes(served.data[:100] + bytes(len(served.data) - 100))

    def answer(handler: Handler) -> None:
        del handler.headers["If-Range"]
        served.well(handler)

    served.server.files["/model.safetensors"] = other
    served.server.etags["/model.safetensors"] = '"two"'
    served.file = other
    served.misbehave(answer)
    get(served.url, target)
    assert target.read_bytes() == other.read_bytes()


def test_a_file_that_changes_all_the_time_is_given_up(served: Served, target: Path) -> None:
    number = [0]

    def answer(handler: Handler) -> None:
        number[0] += 1
        served.server.etags["/model.safetensors"] = f'"{number[0]}"'
        cut_after(served, 50_000)(handler)

    served.misbehave(answer)
    with pytest.raises(RemoteError, match="changes again and again"):
        get(served.url, target)
    assert not target.exists()


def test_without_etag_date_or_hash_nothing_is_joined(served: Served, target: Path) -> None:
    """Nobody would notice that the second half is of another file."""
    served.server.etags.clear()
    served.misbehave(after(1, cut_after(served, 150_000), served.well))
    get(served.url, target)
    assert [seen.headers["Range"] for seen in served.server.seen][-1] == "bytes=0-"
    assert target.read_bytes() == served.data


def test_without_etag_but_with_a_hash_it_goes_on(served: Served, target: Path) -> None:
    served.server.etags.clear()
    kept = _interrupted(served, target, sha256=served.sha256)
    get(served.url, target, sha256=served.sha256)
    assert served.server.sent == len(served.data) - kept
    assert target.read_bytes() == served.data


def test_a_server_that_never_lets_go_on_is_told(served: Served, target: Path) -> None:
    served.server.etags.clear()
    served.misbehave(lambda handler: cut_after(served, 50_000)(handler))
    with pytest.raises(RemoteError, match="no way to go on"):
        get(served.url, target)
    assert not target.exists()


def test_a_server_without_ranges_sends_everything_and_what_is_here_is_dropped(
    served: Served, target: Path
) -> None:
    _interrupted(served, target)
    served.misbehave(whole(served.file, ETag='"one"'))
    get(served.url, target)
    assert target.read_bytes() == served.data
    assert len(served.server.seen) == 1


@pytest.mark.parametrize(
    "journal", ["", "{", "[]", '{"format": 2}', '{"format": 1, "done": [["a", 1]]}', "\x00"]
)
def test_a_journal_that_cannot_be_read_costs_the_bytes_and_nothing_else(
    served: Served, target: Path, journal: str
) -> None:
    _interrupted(served, target)
    Partial(target).journal_path.write_text(journal)
    get(served.url, target)
    assert target.read_bytes() == served.data


def test_bytes_that_the_journal_has_and_the_disk_has_not_are_fetched_again(
    served: Served, target: Path
) -> None:
    _interrupted(served, target)
    with open(Partial(target).path, "r+b") as file:
        file.truncate(1000)
    get(served.url, target)
    assert target.read_bytes() == served.data


def test_bytes_that_are_wrong_on_the_disk_are_found_by_the_hash(served: Served, target: Path) -> None:
    _interrupted(served, target, sha256=served.sha256)
    with open(Partial(target).path, "r+b") as file:
        file.seek(90_000)
        file.write(b"garbage")
    with pytest.raises(HashMismatch):
        get(served.url, target, sha256=served.sha256)
    assert not target.exists()
    get(served.url, target, sha256=served.sha256)  # known to be wrong: fetched anew
    assert target.read_bytes() == served.data


def test_a_wrong_hash_keeps_the_file_for_the_right_one(served: Served, target: Path) -> None:
    with pytest.raises(HashMismatch):
        get(served.url, target, sha256="0" * 64)
    served.server.seen.clear()
    get(served.url, target, sha256=served.sha256)
    assert served.server.seen == [], "not one byte is fetched again"
    assert target.read_bytes() == served.data


def test_an_address_that_expired_is_asked_for_again(served: Served, target: Path) -> None:
    """A signed address of a storage host: good for a moment, then 403."""
    signed = iter(range(1, 100))

    def sign(handler: Handler) -> None:
        redirect(f"/storage?signature={next(signed)}")(handler)

    def storage(handler: Handler) -> None:
        used = handler.path.partition("=")[2]
        if len([s for s in served.server.seen if s.path == handler.path]) > 1:
            refuse(403)(handler)
        else:
            assert used
            cut_after(served, 80_000)(handler)

    served.server.etags["/storage"] = '"one"'
    served.misbehave(sign)
    served.misbehave(storage, "/storage")
    get(served.url, target)
    assert target.read_bytes() == served.data
    assert len([s for s in served.server.seen if s.path == "/model.safetensors"]) >= 3


def test_a_hash_from_hugging_face_outlives_another_etag(served: Served, target: Path) -> None:
    """Its storage answers from several machines, which need not agree on ETags."""

    def linked(handler: Handler) -> None:
        status(handler, 302, Location="/storage", X_Linked_ETag=f'"{served.sha256}"')

    url = "https://huggingface.co/model.safetensors"
    reach = Reach.from_environment({"HF_ENDPOINT": served.server.url("")}, ["huggingface.co"])
    served.server.add("/storage", served.file)
    served.server.etags["/storage"] = '"one"'
    served.misbehave(linked)
    served.misbehave(after(1, cut_after(served, 150_000), refuse(404)), "/storage")
    with pytest.raises(RemoteError):
        get(url, target, reach=reach)
    kept = arrived_of(target)
    assert kept > 100_000
    del served.server.special["/storage"]
    served.server.etags["/storage"] = '"two"'
    served.server.sent = 0
    assert get(url, target, reach=reach).sha256 == served.sha256
    assert served.server.sent == len(served.data) - kept


def test_a_hash_from_hugging_face_that_changed_starts_over(
    served: Served, target: Path, tmp_path: Path
) -> None:
    hashes = ["0" * 64, served.sha256]

    def linked(handler: Handler) -> None:
        status(handler, 302, Location="/storage", X_Linked_ETag=f'"{hashes[0]}"')

    url = "https://huggingface.co/model.safetensors"
    reach = Reach.from_environment({"HF_ENDPOINT": served.server.url("")}, ["huggingface.co"])
    served.server.add("/storage", served.file)
    served.server.etags["/storage"] = '"one"'
    served.misbehave(linked)
    served.misbehave(after(1, cut_after(served, 150_000), refuse(404)), "/storage")
    with pytest.raises(RemoteError):
        get(url, target, reach=reach)
    del served.server.special["/storage"]
    hashes.pop(0)
    assert get(url, target, reach=reach).sha256 == served.sha256
    assert target.read_bytes() == served.data


def test_half_a_file_of_another_address_is_not_thrown_away(served: Served, target: Path) -> None:
    kept = _interrupted(served, target)
    other = served.server.add("/other.safetensors", served.file)
    with pytest.raises(AlreadyDownloading, match="half downloaded from another address"):
        get(other, target)
    assert arrived_of(target) == kept


def test_another_address_of_the_same_hash_goes_on(served: Served, target: Path) -> None:
    kept = _interrupted(served, target, sha256=served.sha256)
    other = served.server.add("/other.safetensors", served.file)
    get(other, target, sha256=served.sha256)
    assert served.server.sent == len(served.data) - kept
    assert target.read_bytes() == served.data


def test_a_hash_that_is_said_later_keeps_what_is_here(served: Served, target: Path) -> None:
    kept = _interrupted(served, target)
    get(served.url, target, sha256=served.sha256)
    assert served.server.sent == len(served.data) - kept


def test_a_door_that_closes_while_resuming_keeps_what_is_here(served: Served, target: Path) -> None:
    kept = _interrupted(served, target)
    served.misbehave(refuse(403))
    with pytest.raises(AccessDenied):
        get(served.url, target)
    assert arrived_of(target) == kept


# Who may be asked


def test_a_redirect_into_this_machine_is_refused(served: Served, target: Path) -> None:
    """The server itself was named by whoever runs this; where it leads was not."""
    origin = Reach.from_environment({"HF_ENDPOINT": served.server.url("")}, ["huggingface.co"])
    with socket.create_server(("127.0.0.1", 0)) as inner:
        port = inner.getsockname()[1]
        for location, kind in (
            (f"http://127.0.0.1:{port}/x", NotPublic),
            ("https://127.0.0.1/x", NotPublic),
            ("https://evil.example/x", HostNotAllowed),
        ):
            served.misbehave(redirect(location))
            with pytest.raises(kind, match="redirects where it must not"):
                get("https://huggingface.co/model.safetensors", target, reach=origin)
        inner.setblocking(False)
        with pytest.raises(BlockingIOError):
            inner.accept()
    assert not target.exists()


def test_a_token_goes_to_its_host_alone_and_into_no_journal(served: Served, target: Path) -> None:
    served.server.add("/storage", served.file)
    served.server.etags["/storage"] = '"one"'
    served.misbehave(redirect(served.server.url("/storage", host="localhost")))
    tokens = (Token("MY_TOKEN", "http", "127.0.0.1"),)
    served.misbehave(after(1, cut_after(served, 100_000), refuse(404)), "/storage")
    with pytest.raises(RemoteError):
        get(served.url + "?token=hush", target, environ={"MY_TOKEN": "hush"}, tokens=tokens)
    sent = [(s.path.partition("?")[0], s.headers.get("Authorization")) for s in served.server.seen]
    assert ("/model.safetensors", "Bearer hush") in sent
    assert all(token is None for path, token in sent if path == "/storage")
    assert "hush" not in Partial(target).journal_path.read_text()


# Disks


def _with_file_limit(size: int, work: Callable[[], object]) -> None:
    """Let no file grow beyond ``size`` while ``work`` runs: like a disk that becomes full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        work()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_becomes_full_keeps_what_is_here(served: Served, target: Path) -> None:
    def work() -> None:
        with pytest.raises(NoRoom, match="became full"):
            get(served.url, target)

    _with_file_limit(150_000, work)
    kept = arrived_of(target)
    assert 100_000 < kept <= 150_000
    served.server.sent = 0
    get(served.url, target)
    assert served.server.sent == len(served.data) - kept
    assert target.read_bytes() == served.data


def test_a_folder_that_cannot_be_written_is_told(served: Served, tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o555)
    os.chmod(tmp_path, 0o755)
    with nobody(), pytest.raises(FileError) as caught:
        get(served.url, folder / "got.safetensors")
    assert "who may write there" in caught.value.remedy
    assert served.server.seen == []
    assert list(folder.iterdir()) == []


def test_a_file_of_that_name_is_never_replaced(served: Served, target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(b"somebody's")
    for sha256 in (None, served.sha256):
        with pytest.raises(TargetExists) as caught:
            get(served.url, target, sha256=sha256)
        assert "another name" in caught.value.remedy
    assert target.read_bytes() == b"somebody's"
    assert left_of(target) == {target.name: 10}


def test_the_very_same_file_is_done_at_once(served: Served, target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(served.data)
    outcome = get(served.url, target, sha256=served.sha256)
    assert (outcome.fetched, outcome.sha256) == (False, served.sha256)
    assert served.server.seen == []


def test_a_file_that_appears_meanwhile_is_not_replaced(served: Served, target: Path) -> None:
    def answer(handler: Handler) -> None:
        target.write_bytes(b"somebody's")
        served.well(handler)

    served.misbehave(answer)
    with pytest.raises(TargetExists, match="appeared"):
        get(served.url, target)
    assert target.read_bytes() == b"somebody's"
    assert arrived_of(target) == len(served.data), "what has arrived is kept"


def test_a_run_that_was_killed_between_naming_and_tidying_up_is_tidied_up(
    served: Served, target: Path
) -> None:
    target.parent.mkdir()
    partial = Partial(target)
    partial.path.write_bytes(served.data)
    partial.journal_path.write_text("{}")
    os.link(partial.path, target)
    assert get(served.url, target, sha256=served.sha256).fetched is False
    assert left_of(target) == {target.name: len(served.data)}


def test_a_second_program_on_the_same_file_is_told(served: Served, target: Path) -> None:
    with Partial(target).lock(), pytest.raises(AlreadyDownloading, match="another program"):
        get(served.url, target)
    get(served.url, target)
    assert target.read_bytes() == served.data
