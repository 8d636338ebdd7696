"""Tokens that a person put into the environment, each for its own host alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from .address import HUGGING_FACE


class Token(NamedTuple):
    """Which variable holds the token for which origin."""

    variable: str
    scheme: str
    host: str


TOKENS = (
    Token("HF_TOKEN", "https", HUGGING_FACE),
    Token("CIVITAI_API_TOKEN", "https", "civitai.com"),
)


def token_for(url: str, tokens: Sequence[Token] = TOKENS) -> Token | None:
    """Return the token that belongs to this address's host and scheme, None for any other host."""
    parts = urlsplit(url)
    return next((t for t in tokens if (t.scheme, t.host) == (parts.scheme, parts.hostname)), None)


def token_headers(url: str, environ: Mapping[str, str], tokens: Sequence[Token] = TOKENS) -> dict[str, str]:
    """Return the header that carries the host's own token, nothing where there is none."""
    token = token_for(url, tokens)
    value = environ.get(token.variable, "").strip() if token else ""
    usable = value.isascii() and value.isprintable()
    return {"Authorization": f"Bearer {value}"} if value and usable else {}
