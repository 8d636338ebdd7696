"""The header of a model behind an address: one file, or the parts that an index names."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from ..errors import FileError, RemoteError
from ..formats.gguf import GgufHeader, ShortRead, gguf_from_bytes, looks_like_gguf
from ..formats.safetensors import Header, header_end, header_from_bytes
from ..formats.shards import INDEX_SUFFIX, MAX_INDEX_BYTES, join_shards, shard_names
from .address import Address, sibling
from .fetch import Fetcher, Piece

FIRST_BYTES = 256 * 1024
# Headers of the largest models known take a few MB; the format's own limit is 100 MB.
MAX_HEADER_BYTES = 32 * 1024**2
MAX_SHARD_BYTES = 64 * 1024**2


@dataclass(frozen=True)
class RemoteModel:
    """A model that is not here.

    Attributes:
        shown: its address for people.
        size_bytes: of all its files; None where the server does not say.
        header: None for a broken one, see ``error``.
        files: how many it is in.
        requests, bytes_read: what it took to know that.
    """

    shown: str
    name: str
    size_bytes: int | None
    header: Header | GgufHeader | None
    error: FileError | None
    files: int
    requests: int
    bytes_read: int


def read_remote(address: Address, fetcher: Fetcher) -> RemoteModel:
    """Read the header of the model at an address.

    Raises:
        RemoteError: it cannot be read; a header that is broken is a result.
    """
    with fetcher:
        first = fetcher.get(address.url, 0, FIRST_BYTES)
        name = first.name or address.name
        if address.name.endswith(INDEX_SUFFIX):
            name = address.name
            found = _read_shards(fetcher, address, first)
        else:
            found = _read_one(fetcher, first, name)
    return RemoteModel(address.shown, name, *found, requests=fetcher.requests, bytes_read=fetcher.bytes_read)


_Found = tuple[int | None, Header | GgufHeader | None, FileError | None, int]


def _read_one(fetcher: Fetcher, first: Piece, name: str) -> _Found:
    path = Path(name)
    try:
        header: Header | GgufHeader
        if looks_like_gguf(first.data):
            header = _read_gguf(fetcher, first, path)
        else:
            data = _with_rest(fetcher, first, header_end(path, first.data, first.total), name)
            header = header_from_bytes(path, data, first.total, in_file=False)
    except FileError as error:
        return first.total, None, error, 1
    return header.file_size, header, None, 1


def _with_rest(fetcher: Fetcher, first: Piece, end: int, name: str, limit: int = MAX_HEADER_BYTES) -> bytes:
    """Return the first ``end`` bytes of a file, asking for those that are not there yet."""
    have = len(first.data)
    if end <= have:
        return first.data
    if end > limit:
        raise RemoteError(
            f"{name} has {end} bytes to read before its first tensor, and {limit} are read over the network.",
            "Download it, and check it here.",
            problem="header_too_large",
        )
    rest = fetcher.get(first.url, have, end - have)
    if rest.total != first.total:
        raise RemoteError(
            f"{name} changed while it was read: {first.total} bytes first, then {rest.total}.",
            "Try again.",
            problem="changed",
        )
    return first.data + rest.data


def _read_gguf(fetcher: Fetcher, first: Piece, path: Path) -> GgufHeader:
    """Read a header that does not say how long it is: more and more of it, until it is whole."""
    data = first.data
    while True:
        try:
            return gguf_from_bytes(path, data, first.total)
        except ShortRead:
            so_far = dataclasses.replace(first, data=data)
            more = _with_rest(fetcher, so_far, _next_size(len(data), first.total), path.name)
            if len(more) <= len(data):
                raise RemoteError(
                    f"{path.name} ends inside its header.", "It is damaged there.", problem="truncated"
                ) from None
            data = more


def _next_size(have: int, total: int | None) -> int:
    wanted = have * 16
    if total is not None:
        wanted = min(wanted, total)
    return wanted if have >= MAX_HEADER_BYTES else min(wanted, MAX_HEADER_BYTES)


def _read_shards(fetcher: Fetcher, address: Address, first: Piece) -> _Found:
    size = first.total if first.total is not None else len(first.data)
    text = _with_rest(fetcher, first, size, address.name, MAX_INDEX_BYTES)
    try:
        names = shard_names(address.name, text)
        headers = {}
        for name in names:
            headers[name] = _read_shard(fetcher, sibling(address.url, name), name)
        header = join_shards(address.name, headers)
    except FileError as error:
        return None, None, error, 0
    return header.file_size, header, None, len(names)


def _read_shard(fetcher: Fetcher, url: str, name: str) -> Header:
    if fetcher.bytes_read > MAX_SHARD_BYTES:
        raise RemoteError(
            f"The headers of the parts take more than {MAX_SHARD_BYTES} bytes.",
            "Download the model, and check it here.",
            problem="header_too_large",
        )
    first = fetcher.get(url, 0, FIRST_BYTES)
    path = Path(name)
    data = _with_rest(fetcher, first, header_end(path, first.data, first.total), name)
    return header_from_bytes(path, data, first.total, in_file=False)
