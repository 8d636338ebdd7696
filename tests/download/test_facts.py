"""What answers say, what may be joined, when to ask again: tables, without a server."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from managed_models.manager.download.address import public_part
from managed_models.manager.download.facts import (
    CannotJoin,
    Facts,
    FileChanged,
    judge,
    range_headers,
    with_links,
)
from managed_models.manager.download.model import DownloadRequest
from managed_models.manager.download.partial import Journal, check_room
from managed_models.manager.download.retry import back_off, is_passing, seconds_to_wait
from managed_models.manager.errors import BadInput, NoRoom, NotPublic, RemoteError

URL = "https://example.com/a.safetensors"
ONE = {"ETag": '"one"'}


def said(status: int, asked: tuple[int, int | None], known: Facts | None = None, **options: Any) -> Any:
    headers = {**ONE, **options.get("headers", {})}
    return judge(URL, status, headers, options.get("length"), asked, known, options.get("sha256"))


def test_a_206_brings_what_was_asked_for() -> None:
    found = said(206, (10, 20), headers={"Content-Range": "bytes 10-19/100"})
    assert (found.facts.total, found.facts.ranges, found.skip, found.end) == (100, True, 0, 20)


def test_a_200_brings_everything_again() -> None:
    found = said(200, (10, None), Facts(100, '"one"'), length=100)
    assert (found.facts.total, found.facts.ranges, found.skip, found.end) == (100, False, 10, 100)


def test_a_206_of_unknown_size_ends_with_what_it_brings() -> None:
    assert said(206, (0, None), headers={"Content-Range": "bytes 0-99/*"}).facts.total == 100


@pytest.mark.parametrize(
    "text", ["", "bytes 9-19/100", "bytes 10-20/100", "bytes 10-9/100", "bytes */100", "items 10-19/100"]
)
def test_another_range_is_no_answer(text: str) -> None:
    with pytest.raises(RemoteError, match="the bytes from 10 on"):
        said(206, (10, 20), headers={"Content-Range": text})


@pytest.mark.parametrize(
    ("known", "error"),
    [
        (Facts(100, '"one"'), None),
        (Facts(100, '"two"'), FileChanged),
        (Facts(99, '"one"'), FileChanged),
        (Facts(100, None, "Mon"), None),
        (Facts(100), CannotJoin),
        (Facts(100, 'W/"one"'), FileChanged),
    ],
)
def test_what_goes_with_what_is_here(known: Facts, error: type[Exception] | None) -> None:
    def work() -> None:
        said(206, (10, None), known, headers={"Content-Range": "bytes 10-99/100"})

    if error is None:
        work()
        return
    with pytest.raises(error) as caught:
        work()
    assert type(caught.value) is error


def test_a_date_is_enough_where_there_is_no_etag() -> None:
    headers = {"ETag": "", "Last-Modified": "Tue", "Content-Range": "bytes 10-99/100"}
    with pytest.raises(FileChanged):
        said(206, (10, None), Facts(100, None, "Mon"), headers=headers)


def test_a_hash_lets_anything_be_joined() -> None:
    known = Facts(100)
    assert not known.can_join(None)
    assert known.can_join("0" * 64)
    said(206, (10, None), known, headers={"Content-Range": "bytes 10-99/100"}, sha256="0" * 64)


def test_if_range_carries_strong_validators_only() -> None:
    assert range_headers(5, 10, Facts(100, '"one"', "Mon")) == {"Range": "bytes=5-9", "If-Range": '"one"'}
    assert range_headers(5, None, Facts(100, 'W/"one"', "Mon"))["If-Range"] == "Mon"
    assert range_headers(5, None, Facts(100, 'W/"one"')) == {"Range": "bytes=5-"}
    assert range_headers(0, None, None) == {"Range": "bytes=0-"}


@pytest.mark.parametrize(
    ("etag", "size", "found"),
    [
        (f'"{"A" * 64}"', "5", ("a" * 64, 5)),
        ("b" * 64, "", ("b" * 64, None)),
        ('"0123456789abcdef0123456789abcdef01234567"', "x", (None, None)),  # of git: no SHA-256
        ("", "-1", (None, None)),
    ],
)
def test_what_hugging_face_says_of_a_file(etag: str, size: str, found: tuple[str | None, int | None]) -> None:
    facts = with_links(Facts(None), [{"X-Linked-ETag": etag, "X-Linked-Size": size}])
    assert (facts.linked_sha256, facts.linked_size) == found


# When to ask again


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (RemoteError("", problem="unreachable"), True),
        (RemoteError("", problem="slow"), True),
        (RemoteError("", problem="stalled"), True),
        (RemoteError("", problem="truncated"), True),
        (RemoteError("", problem="too_many_requests", status=429), True),
        (RemoteError("", problem="server", status=503), True),
        (RemoteError("", problem="server", status=501), False),
        (RemoteError("", problem="server", status=507), False),
        (RemoteError("", problem="status", status=408), True),
        (RemoteError("", problem="status", status=418), False),
        (RemoteError("", problem="not_found", status=404), False),
        (RemoteError("", problem="certificate"), False),
        (NotPublic("", problem="not_public"), False),
        (NoRoom(""), False),
    ],
)
def test_which_errors_pass(error: Any, again: bool) -> None:
    assert is_passing(error) is again


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 5000), st.floats(0, 1), st.one_of(st.none(), st.floats(0, 300)))
def test_waits_grow_to_a_limit_and_are_never_shorter_than_asked(
    failures: int, chance: float, asked: float | None
) -> None:
    own = back_off(failures, chance, 1.0, 60.0)
    assert 0.5 <= own <= 60.0
    assert back_off(failures, 0.0, 1.0, 60.0) <= back_off(failures + 1, 0.0, 1.0, 60.0)
    wait = seconds_to_wait(failures, chance, asked, 1.0, 60.0)
    assert wait >= (asked or 0)


# Room


@pytest.mark.parametrize(
    ("needed", "free", "promised", "good"),
    [
        (100, 100, 0, True),
        (101, 100, 0, False),
        (50, 100, 50, True),
        (51, 100, 50, False),
        (1, 10, 50, False),
    ],
)
def test_room_counts_what_others_still_need(needed: int, free: int, promised: int, good: bool) -> None:
    if good:
        check_room("a", needed, free, promised)
        return
    with pytest.raises(NoRoom) as caught:
        check_room("a", needed, free, promised)
    assert ("other downloads" in caught.value.message) is bool(promised)


# What is written down


@pytest.mark.parametrize(
    ("url", "kept", "whole"),
    [
        ("https://e.com/a?token=s", "https://e.com/a", False),
        ("https://e.com/a?type=Model&fp=fp16", "https://e.com/a?type=Model&fp=fp16", True),
        ("https://e.com/a?type=Model&sig=s", "https://e.com/a?type=Model", False),
        ("https://u:p@e.com/a#f", "https://e.com/a", False),
        ("https://e.com/a", "https://e.com/a", True),
    ],
)
def test_an_address_without_its_secrets(url: str, kept: str, whole: bool) -> None:
    assert public_part(url) == (kept, whole)


@settings(max_examples=50, deadline=None)
@given(st.text())
def test_any_journal_is_read_or_left(text: str) -> None:
    found = Journal.from_json(text)
    assert found is None or Journal.from_json(found.to_json()) == found


def test_a_journal_comes_back_as_it_was() -> None:
    journal = Journal(URL, False, "vae", "0" * 64, '"one"', "Mon", 100, ((0, 10), (20, 100)), 4, "1" * 64)
    assert Journal.from_json(journal.to_json()) == journal


@pytest.mark.parametrize(
    "change", [{"done": [[0, 101]]}, {"total": -1}, {"total": "5"}, {"etag": 5}, {"url": 1}]
)
def test_a_journal_of_nonsense_is_left(change: dict[str, Any]) -> None:
    import json

    text = json.dumps({**json.loads(Journal(URL, total=100).to_json()), **change})
    assert Journal.from_json(text) is None


def test_a_request_is_checked() -> None:
    from pathlib import Path

    assert DownloadRequest(URL, Path("a"), sha256="SHA256:" + "A" * 64).sha256 == "a" * 64
    assert DownloadRequest(URL, Path("a"), sha256="").sha256 is None
    assert DownloadRequest(URL, Path("a")).target.is_absolute()
    for options in ({"sha256": "abc"}, {"connections": 17}, {"connections": -1}):
        with pytest.raises(BadInput):
            DownloadRequest(URL, Path("a"), **options)  # type: ignore[arg-type]
