"""A server for every test of addresses."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.range_server import Server, range_server


@pytest.fixture
def server() -> Iterator[Server]:
    with range_server() as found:
        yield found
