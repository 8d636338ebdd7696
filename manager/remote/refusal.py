"""Answers that bring no file, in words: statuses, closed doors, web pages, and lines that break."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

import requests
import urllib3
from urllib3.util import Retry

from ..errors import AccessDenied, RemoteError
from .address import HUGGING_FACE, shown
from .tokens import token_for

AGAIN = "Try again later."


def failure(url: str, error: Exception) -> RemoteError:
    """Return our error for a request that got no answer."""
    if isinstance(error, requests.exceptions.SSLError):
        return RemoteError(
            f"The certificate of {urlsplit(url).hostname} is not to be trusted.",
            "Check the address. A company's own certificate goes into REQUESTS_CA_BUNDLE.",
            problem="certificate",
        )
    if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError):
        return RemoteError(f"{shown(url)} does not answer in time.", AGAIN, problem="slow")
    return RemoteError(
        f"{shown(url)} cannot be reached ({type(error).__name__}).",
        "Check the address, and whether this machine is online.",
        problem="unreachable",
    )


def refuse_status(url: str, status: int, headers: Mapping[str, str], token_sent: bool) -> None:
    """Raise our error for a status that brings no file.

    Raises:
        AccessDenied, RemoteError: each with what to do.
    """
    where = shown(url)
    if status in (200, 206):
        return
    if status in (401, 403):
        raise AccessDenied(
            f"{where} may not be read ({status}).",
            access_remedy(url, token_sent),
            problem="access",
            status=status,
        )
    if status == 404:
        words, remedy, problem = "does not exist", "Check its path and its revision.", "not_found"
    elif status == 410:
        words, remedy, problem = "was removed", "Look for another address.", "not_found"
    elif status == 416:
        words, remedy, problem = "is empty, or shorter than its header says", "It is damaged there.", "range"
    elif status == 429:
        words, remedy, problem = "was asked too often", _wait(headers), "too_many_requests"
    elif status >= 500:
        words, remedy, problem = "cannot be had now: its server has trouble", _wait(headers), "server"
    else:
        words, remedy, problem = "gave no file", "Open it in a browser to see why.", "status"
    raise RemoteError(f"{where} {words} ({status}).", remedy, problem=problem, status=status)


def refuse_page(url: str, headers: Mapping[str, str], start: bytes) -> None:
    """Raise our error for an answer that is a web page.

    Raises:
        RemoteError: it is one.
    """
    kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    text = start[:200].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if kind in ("text/html", "application/xhtml+xml") or text.startswith((b"<!doctype html", b"<html")):
        raise RemoteError(
            f"{shown(url)} is a web page, not a model file: a login, or the page about the model.",
            "Give the address of the download itself. Where it needs a login, set "
            "HF_TOKEN (huggingface.co) or CIVITAI_API_TOKEN (civitai.com).",
            problem="web_page",
        )


def refuse_encoding(url: str, headers: Mapping[str, str], remedy: str) -> None:
    """Raise our error for an answer that is packed, whose ranges are not those of the file.

    Raises:
        RemoteError: it is.
    """
    encoding = headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise RemoteError(
            f"{shown(url)} packs what it sends ({encoding[:20]}), though asked not to.",
            remedy,
            problem="encoding",
        )


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a server asks to wait, None where it does not say."""
    text = headers.get("Retry-After", "").strip()
    if not text or len(text) > 40:
        return None
    try:
        return float(Retry(0).parse_retry_after(text))
    except (urllib3.exceptions.HTTPError, ValueError, OverflowError, TypeError):
        return None


def access_remedy(url: str, token_sent: bool) -> str:
    """Return what opens a closed door."""
    host = urlsplit(url).hostname
    token = token_for(url)
    if host == HUGGING_FACE:
        page = "/".join(shown(url).split("/")[:5])
        licence = f"Open {page} in a browser, log in and accept its licence if it has one"
        if token_sent:
            return f"{licence}; the token in HF_TOKEN must be of that account and allow reading."
        return f"{licence}; then put a token of that account into HF_TOKEN. Or no such repository exists."
    if token is not None:
        state = "does not allow it: make a new one" if token_sent else "is not set: make one"
        return f"{token.variable} {state} in your account's settings at {host}."
    return "Managed Models sends a token to huggingface.co and civitai.com alone: download it in a browser."


def _wait(headers: Mapping[str, str]) -> str:
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit() and len(text) < 6:
        return f"Try again in {int(text)} s."
    return AGAIN
