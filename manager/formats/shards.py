"""A model in parts: an index that names the safetensors files beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from ..errors import FileError, InvalidHeader, ModelNotFound
from .safetensors import Header, TensorInfo, read_header

INDEX_SUFFIX = ".safetensors.index.json"
MAX_INDEX_BYTES = 16 * 1024**2
MAX_SHARDS = 128


def is_index(path: Path) -> bool:
    """Tell whether a path is that of an index."""
    return path.name.endswith(INDEX_SUFFIX)


def read_shards(index: Path) -> tuple[Header, list[Header]]:
    """Read the headers of all parts; return the one that they have together, and each.

    Raises:
        ModelNotFound: the index or a part is not there.
        FileError: the index or a header is broken.
    """
    try:
        with open(index, "rb") as file:
            names = shard_names(index.name, file.read(MAX_INDEX_BYTES))
    except FileNotFoundError:
        raise ModelNotFound(f"There is no file at {index}.", "Check the path.") from None
    except OSError as error:
        raise FileError(f"{index} cannot be read: {error.strerror}.", "Check who may read it.") from error
    headers: dict[str, Header] = {}
    for name in names:
        try:
            headers[name] = read_header(index.with_name(name))
        except ModelNotFound as error:
            raise ModelNotFound(
                f"{index.name} names the part {name}, and there is no such file beside it.",
                "Download all parts of the model.",
            ) from error
    return join_shards(index.name, headers), list(headers.values())


def shard_names(index: str, text: bytes) -> list[str]:
    """Return the files that an index names, in order.

    Raises:
        InvalidHeader: it is no index, or names a file outside its own folder.
    """
    try:
        weights = json.loads(text)["weight_map"]
        names = sorted({str(name) for name in weights.values()})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise _bad_index(index, "it is no JSON object with a weight_map") from None
    if not names or len(names) > MAX_SHARDS:
        raise _bad_index(index, f"it names {len(names)} files, and 1 to {MAX_SHARDS} are read")
    for name in names:
        path = PurePosixPath(name)
        plain = path.name == name and "\\" not in name and ":" not in name and name.isprintable()
        if not plain or path.suffix != ".safetensors":
            raise _bad_index(index, f"it names the file {name[:80]!r}, which is none beside it")
    return names


def join_shards(index: str, headers: Mapping[str, Header]) -> Header:
    """Return the header that the parts have together: their tensors one part after the other.

    Raises:
        InvalidHeader: two parts hold a tensor of one name.
    """
    tensors: dict[str, TensorInfo] = {}
    metadata: dict[str, str] = {}
    size = position = 0
    for header in headers.values():
        for name, info in header.tensors.items():
            if name in tensors:
                raise _bad_index(index, f"two of its parts hold the tensor {name!r}")
            tensors[name] = info._replace(start=info.start + position, end=info.end + position)
        position += max((info.end for info in header.tensors.values()), default=0)
        size += header.file_size
        metadata.update(header.metadata)
    return Header(Path(index), size, size - position, metadata, tensors, in_file=False)


def _bad_index(index: str, words: str) -> InvalidHeader:
    return InvalidHeader(
        f"{index} is no index of a model in parts: {words}.", "Check the address.", problem="index"
    )
