"""Connections that are looked at before anything is sent on them, and cut when their time is up."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from ..errors import RemoteError
from .address import is_public, not_public, shown

OnConnect = Callable[[str, socket.socket], None]


def refuse_inner(host: str, connected: socket.socket) -> None:
    """Refuse a connection into this machine or its network, whatever its name said a moment ago.

    Raises:
        NotPublic: the other end is not a public address.
    """
    if not is_public(str(connected.getpeername()[0])):
        raise not_public(host)


class Deadline:
    """Cuts every connection made within it when its time is up: a trickle of bytes never ends by itself."""

    def __init__(self, seconds: float) -> None:
        self.passed = False
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self._timer = threading.Timer(seconds, self._cut)
        self._timer.daemon = True

    def watch(self, connected: socket.socket) -> None:
        """Take a connection in. A copy of it, as TLS takes the original over."""
        with self._lock:
            self._sockets.append(connected.dup())
            if self.passed:
                self._shut()

    def _cut(self) -> None:
        with self._lock:
            self.passed = True
            self._shut()

    def _shut(self) -> None:
        for copy in self._sockets:
            try:
                copy.shutdown(socket.SHUT_RDWR)
            except OSError:  # closed by the other end
                pass

    def __enter__(self) -> Deadline:
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        with self._lock:
            for copy in self._sockets:
                copy.close()
            self._sockets.clear()


class _Adapter(HTTPAdapter):
    """Shows every new connection to ``on_connect`` before TLS begins; through a proxy, that to the proxy."""

    def __init__(self, on_connect: OnConnect) -> None:
        self._pools = _pools(on_connect)
        super().__init__(max_retries=0)

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, *args: Any, **options: Any) -> Any:
        manager = super().proxy_manager_for(*args, **options)
        manager.pool_classes_by_scheme = self._pools
        return manager


def _pools(on_connect: OnConnect) -> dict[str, type[HTTPConnectionPool]]:
    """Return urllib3's pools by scheme, with connections that are looked at."""

    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return _looked_at(super()._new_conn(), self.host, on_connect)

    class Tls(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return _looked_at(super()._new_conn(), self.host, on_connect)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class TlsPool(HTTPSConnectionPool):
        ConnectionCls = Tls

    return {"http": PlainPool, "https": TlsPool}


def _looked_at(connected: socket.socket, host: str, on_connect: OnConnect) -> socket.socket:
    try:
        on_connect(host, connected)
    except BaseException:
        connected.close()
        raise
    return connected


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """See no redirect: requests would read the answer's whole body to prepare for the next one."""


def guarded_session(on_connect: OnConnect, environ: Mapping[str, str] = os.environ) -> requests.Session:
    """Return a session that takes from the environment only where certificates are: no .netrc, no proxy."""
    session = _Session()
    session.trust_env = False
    session.verify = environ.get("REQUESTS_CA_BUNDLE") or environ.get("CURL_CA_BUNDLE") or True
    session.headers.clear()
    session.mount("https://", _Adapter(on_connect))
    session.mount("http://", _Adapter(on_connect))
    return session


def proxies_for(url: str, allow_local: bool) -> dict[str, str]:
    """Return the proxies that the environment names for this address.

    Raises:
        RemoteError: there is one, and where it leads could not be looked at.
    """
    found = dict(requests.utils.get_environ_proxies(url, no_proxy=None))
    if found and not allow_local:
        raise RemoteError(
            f"A proxy is set for {shown(url)} (HTTPS_PROXY or ALL_PROXY), and behind a proxy it cannot be "
            "seen whether an address leads into a local network.",
            "Add the host to NO_PROXY, or use --allow-local-network on the command line, which leaves "
            "that check out.",
            problem="proxy",
        )
    return found
