"""Who may be asked for a model, and at which origin: decided from texts alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit, urlunsplit

from ..errors import BadInput, HostNotAllowed
from .address import HUGGING_FACE, check_url, shown

MIRROR_VARIABLE = "HF_ENDPOINT"
HOSTS_VARIABLE = "MANAGED_MODELS_DOWNLOAD_HOSTS"
# Where a site keeps its files: a redirect of its leads there. A leading dot means every host below.
STORAGE: Mapping[str, tuple[str, ...]] = {
    HUGGING_FACE: (".huggingface.co", ".hf.co"),
    "civitai.com": (".civitai.com", ".5ac0637cfd0766c97916cefa3764fbdf.r2.cloudflarestorage.com"),
    "github.com": (".githubusercontent.com",),
}
_PORTS = {"https": 443, "http": 80}


class Origin(NamedTuple):
    """Scheme, host and port: ``http://10.0.0.5:8000``."""

    scheme: str
    host: str
    port: int


@dataclass(frozen=True)
class Reach:
    """Who may be asked.

    Attributes:
        allow_local: also hosts that are no public ones, plain http, and through a proxy.
        hosts: names of hosts, with a leading dot for all below; None is every public one.
        trusted: origins that the person who runs this named in full, wherever they are.
        mirror: asked in place of https://huggingface.co; one of ``trusted``.
    """

    allow_local: bool = False
    hosts: tuple[str, ...] | None = None
    trusted: frozenset[Origin] = frozenset()
    mirror: Origin | None = None

    @classmethod
    def from_environment(
        cls,
        environ: Mapping[str, str],
        hosts: Sequence[str] | None = None,
        allow_local: bool = False,
    ) -> Reach:
        """Return what the settings and the environment say.

        Args:
            hosts: that may be asked, each with its storage; None for any.

        Raises:
            BadInput: a variable names no origin.
        """
        mirror = _mirror(environ.get(MIRROR_VARIABLE, ""))
        listed = [entry.strip() for entry in environ.get(HOSTS_VARIABLE, "").split(",") if entry.strip()]
        trusted = {_origin(entry, HOSTS_VARIABLE) for entry in listed if "://" in entry}
        names = [entry.lower() for entry in listed if "://" not in entry]
        return cls(
            allow_local=allow_local,
            hosts=None if hosts is None or allow_local else tuple(_with_storage([*hosts, *names])),
            trusted=frozenset(trusted | ({mirror} if mirror else set())),
            mirror=mirror,
        )

    def at_mirror(self, url: str) -> str:
        """Return the address to ask for ``url``: at the mirror where it is Hugging Face's."""
        parts = urlsplit(url)
        if self.mirror is None or (parts.scheme, parts.hostname) != ("https", HUGGING_FACE):
            return url
        host = f"[{self.mirror.host}]" if ":" in self.mirror.host else self.mirror.host
        return urlunsplit((self.mirror.scheme, f"{host}:{self.mirror.port}", parts.path, parts.query, ""))

    def speaks_for_hugging_face(self, url: str) -> bool:
        """Tell whether Hugging Face's own headers may be believed from this address."""
        origin = origin_of(url)
        return origin == Origin("https", HUGGING_FACE, 443) or (origin is not None and origin == self.mirror)

    def check(self, url: str) -> None:
        """Refuse an address whose text says that it may not be asked.

        Raises:
            BadInput: it is none.
            NotPublic, HostNotAllowed: it may not be asked.
        """
        origin = origin_of(url)
        if origin in self.trusted:
            check_url(url, allow_local=True)
            return
        check_url(url, self.allow_local)
        if self.hosts is None or origin is None or self._is_listed(origin):
            return
        raise HostNotAllowed(
            f"{origin.host} is none of the hosts that this ComfyUI downloads from "
            f"({', '.join(host for host in self.hosts if not host.startswith('.'))}).",
            f"Download it with the command line, or add the host to {HOSTS_VARIABLE} where ComfyUI starts.",
            problem="host",
            host=origin.host,
        )

    def _is_listed(self, origin: Origin) -> bool:
        at_port = f"{origin.host}:{origin.port}"
        return any(
            origin.host.endswith(host) if host.startswith(".") else host in (origin.host, at_port)
            for host in self.hosts or ()
        )

    def next_url(self, url: str, location: str) -> str:
        """Return where a redirect leads, checked like a first address.

        Raises:
            BadInput, NotPublic, HostNotAllowed: see :meth:`check`.
        """
        try:
            target = urljoin(url, location)
        except ValueError:
            raise BadInput(
                f"{shown(location)!r} is no address.", "Give the address that the download really comes from."
            ) from None
        self.check(target)
        return target

    def is_trusted(self, url: str) -> bool:
        """Tell whether the connection itself need not lead to a public address."""
        return self.allow_local or origin_of(url) in self.trusted


def origin_of(url: str) -> Origin | None:
    """Return an address's origin, None for what is no web address."""
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return None
    if parts.scheme not in _PORTS or not parts.hostname or port is None:
        return None
    return Origin(parts.scheme, parts.hostname, port)


def _origin(text: str, variable: str) -> Origin:
    found = origin_of(text.strip())
    if found is None or "@" in text or urlsplit(text.strip()).path not in ("", "/"):
        raise BadInput(
            f"{variable} has {shown(text)!r} in it, which is no origin.",
            "Write https://host or http://host:port.",
        )
    return found


def _mirror(text: str) -> Origin | None:
    if not text.strip():
        return None
    found = _origin(text, MIRROR_VARIABLE)
    return None if found == Origin("https", HUGGING_FACE, 443) else found


def _with_storage(hosts: Iterable[str]) -> Iterable[str]:
    for host in hosts:
        yield host
        yield from STORAGE.get(host, ())
