"""What a file at an address is called."""

from __future__ import annotations

from pathlib import PurePath

from ..errors import InvalidOutputName
from ..model import MODEL_SUFFIXES
from ..remote.address import parse_address
from ..remote.reach import Reach
from .target import checked_name


def name_at(url: str, reach: Reach) -> str:
    """Return the file's name: from the address where it tells, else the server is asked.

    Raises:
        InvalidOutputName: neither gives a plain name of a model file.
        RemoteError: the server cannot be asked.
    """
    address = parse_address(url, allow_local=True)
    reach.check(reach.at_mirror(address.url))
    if PurePath(address.name).suffix.lower() in MODEL_SUFFIXES:
        return checked_name(address.name)
    from ..remote.fetch import Fetcher  # with requests, which the start need not wait for

    with Fetcher(reach=reach) as fetcher:
        name = fetcher.get(address.url, 0, 1).name
    if not name:
        raise InvalidOutputName(
            f"Neither {address.shown} nor its server says what the file is called.",
            "Say how it is to be called: with --name or --output on the command line.",
        )
    return checked_name(name)
