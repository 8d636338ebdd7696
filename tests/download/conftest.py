"""A server and a model that is large enough to break off in the middle."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.downloads import Served
from support.range_server import range_server


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "HF_TOKEN", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.delenv("MANAGED_MODELS_DOWNLOAD_HOSTS", raising=False)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A safetensors file of 300 KB."""
    size = 300_000
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    path = tmp_path_factory.mktemp("served") / "model.safetensors"
    block = b"".join(hashlib.sha256(bytes([i])).digest() for i in range(256))
    path.write_bytes(struct.pack("<Q", len(header)) + header + (block * (size // len(block) + 1))[:size])
    return path


@pytest.fixture
def served(model: Path) -> Iterator[Served]:
    with range_server() as server:
        server.etags["/model.safetensors"] = '"one"'
        yield Served(server, model, server.add("/model.safetensors", model))
