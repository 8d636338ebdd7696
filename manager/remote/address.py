"""What an address means, and whether it may be asked: decided from the text alone."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from ..errors import BadInput, NotPublic

HUGGING_FACE = "huggingface.co"
_SCHEMES = ("https://", "http://", "hf:")
_HF_FORM = "hf:owner/repository/path/file.safetensors, with @revision after it if need be"
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_LOCAL_REMEDY = "Only the command line and Python reach into a local network: --allow-local-network."


@dataclass(frozen=True)
class Address:
    """Where a model is.

    Attributes:
        url: to ask; its query may hold a secret, so it is shown to nobody.
        shown: the same for people, without query.
    """

    url: str
    shown: str

    @property
    def name(self) -> str:
        """The last part of the path: the file's name, as far as the address tells."""
        return plain_name(unquote(urlsplit(self.url).path))


def is_address(reference: str) -> bool:
    """Tell whether a model is named by an address rather than by a name or a path."""
    return reference.strip().lower().startswith(_SCHEMES)


def parse_address(text: str, allow_local: bool = False) -> Address:
    """Return where an ``https:`` or ``hf:`` address leads.

    Args:
        allow_local: also take plain http and hosts that are no public ones.

    Raises:
        BadInput: it is no such address.
        NotPublic: it may not be asked.
    """
    text = text.strip()
    if not is_address(text):
        raise BadInput(f"{shown(text)!r} is no address.", f"Give an https:// address, or {_HF_FORM}.")
    url = _hugging_face_url(text) if text[:3].lower() == "hf:" else _file_behind_page(text)
    check_url(url, allow_local)
    return Address(url, shown(url))


def check_url(url: str, allow_local: bool) -> None:
    """Refuse an address whose text alone says that it may not be asked.

    Raises:
        BadInput, NotPublic: see :func:`parse_address`.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
        host.encode("idna") if host and not host.isascii() else None
    except (ValueError, UnicodeError):
        host = None
        parts = urlsplit("")
    if (
        parts.scheme not in ("http", "https")
        or not host
        or not url.isprintable()
        or any(c in url for c in " \\")
    ):
        raise BadInput(f"{shown(url)!r} is no address.", f"Give an https:// address, or {_HF_FORM}.")
    if "@" in parts.netloc:
        raise BadInput(
            f"The address at {host} has a name or password in it.",
            "Take it out: tokens belong into HF_TOKEN or CIVITAI_API_TOKEN, which only their own hosts get.",
        )
    if allow_local:
        return
    if parts.scheme != "https":
        raise NotPublic(
            f"{shown(url)} is not encrypted (http).",
            f"Give its https:// address. {_LOCAL_REMEDY}",
            problem="plain_http",
        )
    if host == "localhost" or host.endswith((".localhost", ".local")) or not _may_be_public(host):
        raise not_public(host)


def _may_be_public(host: str) -> bool:
    try:
        return is_public(host)
    except ValueError:  # a name, which is looked at once it is connected
        return True


def is_public(ip: str) -> bool:
    """Tell whether an IP address is one of the public internet.

    Addresses that carry an IPv4 address (mapped, 6to4, Teredo, NAT64) are what they carry.

    Raises:
        ValueError: it is no IP address.
    """
    found = ipaddress.ip_address(ip.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        carried = found.ipv4_mapped or found.sixtofour or (found.teredo or (None, None))[1]
        if found in _NAT64:
            carried = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if carried is not None:
            return is_public(str(carried))
        if found.is_site_local or int(found) >> 32 == 0:  # ::/96 once carried IPv4 too
            return False
    return found.is_global and not (
        found.is_multicast or found.is_reserved or found.is_loopback or found.is_link_local
    )


def not_public(host: str) -> NotPublic:
    """Return the refusal of a host inside this machine or its network."""
    return NotPublic(
        f"{host} is this machine or one of its own network, which an address must not lead into.",
        f"Give a public https:// address. {_LOCAL_REMEDY}",
        problem="not_public",
    )


def sibling(url: str, name: str) -> str:
    """Return the address of another file in the same folder, with the same query."""
    parts = urlsplit(url)
    folder = parts.path.rpartition("/")[0]
    return urlunsplit((parts.scheme, parts.netloc, f"{folder}/{quote(name)}", parts.query, ""))


def shown(url: str) -> str:
    """Return an address for people: no query, fragment, name or password, which may be secrets."""
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        text = urlunsplit((parts.scheme, host, parts.path, "", ""))
    except ValueError:
        text = url.partition("?")[0]
    return "".join(c if c.isprintable() else " " for c in text)[:300]


def plain_name(path: str) -> str:
    """Return a file's name without folders and without what moves a cursor; ``model`` when none is left."""
    name = path.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return "".join(c for c in name if c.isprintable())[:200].strip() or "model"


def _hugging_face_url(text: str) -> str:
    place, at, revision = text[3:].partition("@") if text.count("@") == 1 else text[3:].rpartition("@")
    if not at:
        place, revision = text[3:], "main"
    parts = place.split("/")
    if len(parts) < 3 or not revision or any(part in ("", ".", "..") for part in parts):
        raise BadInput(f"{shown(text)!r} is no file on Hugging Face.", f"Write {_HF_FORM}.")
    owner, repository, *path = (quote(part, safe="") for part in parts)
    return f"https://{HUGGING_FACE}/{owner}/{repository}/resolve/{quote(revision, safe='')}/{'/'.join(path)}"


def _file_behind_page(url: str) -> str:
    """Return the file's address for the page that Hugging Face shows about it."""
    start = f"https://{HUGGING_FACE}/"
    owner, _, rest = url[len(start) :].partition("/")
    repository, _, rest = rest.partition("/")
    if url.lower().startswith(start) and rest.startswith("blob/"):
        return f"{start}{owner}/{repository}/resolve/{rest[len('blob/') :]}"
    return url
