"""Headers of models behind addresses: in one file, in parts, in GGUF, and broken."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from gguf import GGMLQuantizationType as Kind
from hypothesis import given
from hypothesis import strategies as st
from managed_models.manager.demo import layouts
from managed_models.manager.errors import InvalidGguf, InvalidHeader, NotSafetensors, RemoteError
from managed_models.manager.formats.gguf import GgufHeader
from managed_models.manager.formats.safetensors import Header, TensorInfo, read_header
from managed_models.manager.formats.shards import MAX_SHARDS, join_shards, shard_names
from managed_models.manager.identify import identify
from managed_models.manager.model import QuantizationType
from managed_models.manager.remote import model as model_module
from managed_models.manager.remote.address import parse_address
from managed_models.manager.remote.fetch import Fetcher
from managed_models.manager.remote.model import RemoteModel, read_remote
from support.files import raw_file, shapes_file
from support.gguf_files import gguf_file
from support.range_server import Server, body, send_all

WAN_14B = layouts.wan21_t2v(width=5120, ffn=13824, layers=40)
WAN = layouts.wan21_t2v(width=64, ffn=128, layers=2)


def read(url: str) -> RemoteModel:
    return read_remote(parse_address(url, allow_local=True), Fetcher(allow_local=True))


def test_a_28_gb_file_takes_two_requests_and_less_than_a_megabyte(server: Server, tmp_path: Path) -> None:
    large = shapes_file(tmp_path / "wan.safetensors", WAN_14B)
    assert large.stat().st_size > 28e9
    found = read(server.add("/wan.safetensors", large))
    assert len(server.seen) <= 2
    assert server.sent < 1e6
    assert (found.requests, found.bytes_read) == (len(server.seen), server.sent)
    assert found.size_bytes == large.stat().st_size
    assert isinstance(found.header, Header)
    assert found.header.tensors == read_header(large).tensors
    assert not found.header.in_file
    assert identify(found.header) == identify(read_header(large))


def test_a_header_longer_than_the_first_guess_takes_a_second_request(server: Server, tmp_path: Path) -> None:
    shapes = {f"blocks.{i}.{'long' * 10}.weight": (2, 2) for i in range(5000)}
    file = shapes_file(tmp_path / "a.safetensors", shapes)
    found = read(server.add("/a.safetensors", file))
    assert server.seen[0].headers["Range"] == "bytes=0-262143"
    assert len(server.seen) == 2
    assert isinstance(found.header, Header)
    assert found.header.tensors == read_header(file).tensors
    assert server.sent == found.header.data_start


def test_a_server_without_ranges_and_one_without_a_size(server: Server, tmp_path: Path) -> None:
    shapes = {f"blocks.{i}.{'long' * 10}.weight": (2, 2) for i in range(5000)}
    file = shapes_file(tmp_path / "a.safetensors", shapes)
    for length in (True, False):
        found = read(server.answer("/a.safetensors", lambda h, n=length: send_all(h, file, n)))
        assert found.size_bytes == file.stat().st_size
        assert isinstance(found.header, Header)
        assert found.header.tensors == read_header(file).tensors


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (struct.pack("<Q", 200_000_000) + b"{" + bytes(100), InvalidHeader),
        (struct.pack("<Q", 1 << 62) + b"{" + bytes(100), InvalidHeader),
        (struct.pack("<Q", 5000) + b"{" + bytes(100), InvalidHeader),
        (struct.pack("<Q", 16) + b'{"a":1,"a":2}   ', InvalidHeader),
        (b"PK\x03\x04" + bytes(100), NotSafetensors),
        (b"GGUF" + bytes(100), InvalidGguf),
        (b"GGUF", InvalidGguf),
        (b"\0", NotSafetensors),
    ],
)
def test_a_broken_header_is_a_result_in_the_words_for_a_file(
    server: Server, tmp_path: Path, data: bytes, problem: type
) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(data)
    found = read(server.add("/x.safetensors", file))
    assert found.header is None
    assert isinstance(found.error, problem)
    if data[:4] == b"GGUF":
        return
    with pytest.raises(problem) as caught:
        read_header(file)
    assert str(found.error) == str(caught.value)


def test_a_header_of_more_than_is_read_over_the_network(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    with open(file, "wb") as handle:
        handle.write(struct.pack("<Q", 90_000_000) + b"{")
        handle.truncate(200_000_000)
    with pytest.raises(RemoteError, match="are read over the network"):
        read(server.add("/x.safetensors", file))
    assert server.sent == model_module.FIRST_BYTES


def test_a_file_that_changes_meanwhile(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    with open(file, "wb") as handle:
        handle.write(struct.pack("<Q", 500_000) + b"{")
        handle.truncate(2_000_000)
    first = file.read_bytes()[: model_module.FIRST_BYTES]
    answers = [
        body(206, first, Content_Range=f"bytes 0-{len(first) - 1}/2000000"),
        body(206, bytes(500_008 - len(first)), Content_Range=f"bytes {len(first)}-500007/3000000"),
    ]
    with pytest.raises(RemoteError, match="changed while it was read"):
        read(server.answer("/x.safetensors", lambda h: answers.pop(0)(h)))


def test_layers_whose_markers_are_not_read(server: Server, tmp_path: Path) -> None:
    layer = {"blocks.0.q.weight": (64, 64), "blocks.0.q.weight_scale": (), "blocks.0.q.comfy_quant": (30,)}
    rest = {name: shape for name, shape in WAN.items() if name != "blocks.0.self_attn.q.weight"}
    for dtype, kind, words in [
        ("F8_E4M3", QuantizationType.FP8_E4M3, "fp8_e4m3fn, scaled"),
        ("F8_E5M2", QuantizationType.FP8_E5M2, "fp8_e5m2, scaled"),
        ("I8", QuantizationType.NONE, "only after the download"),
    ]:
        dtypes = {"blocks.0.q.weight": dtype, "blocks.0.q.comfy_quant": "U8"}
        file = shapes_file(tmp_path / f"{dtype}.safetensors", rest | layer, dtypes)
        found = read(server.add(f"/{dtype}.safetensors", file))
        assert isinstance(found.header, Header)
        identity = identify(found.header)
        assert (identity.architecture, identity.quantization) == ("wan-t2v", kind)
        assert words in identity.precision
        assert identity.quantized_layers == 1


@pytest.mark.parametrize("fields", [{}, {"tokens": [f"a word of some length {i}" for i in range(20_000)]}])
def test_gguf(server: Server, tmp_path: Path, fields: dict[str, Any]) -> None:
    file = gguf_file(tmp_path / "a.gguf", WAN, "wan", Kind.Q8_0, fields)
    found = read(server.add("/a.gguf", file))
    assert isinstance(found.header, GgufHeader)
    assert found.header.architecture == "wan"
    assert len(server.seen) == (2 if fields else 1)


def test_gguf_that_ends_in_its_header(server: Server, tmp_path: Path) -> None:
    data = gguf_file(tmp_path / "a.gguf", WAN, "wan").read_bytes()
    (tmp_path / "b.gguf").write_bytes(data[:300])
    found = read(server.add("/b.gguf", tmp_path / "b.gguf"))
    assert isinstance(found.error, InvalidGguf)
    with pytest.raises(RemoteError, match="ends inside its header"):
        read(server.answer("/c.gguf", lambda h: send_all(h, tmp_path / "b.gguf", length=False)))


def in_parts(server: Server, folder: Path, shapes: dict[str, tuple[int, ...]], parts: int) -> str:
    names = list(shapes)
    weights = {}
    for number in range(parts):
        file = f"model-{number + 1:05}-of-{parts:05}.safetensors"
        own = {name: shapes[name] for name in names[number::parts]}
        server.add(f"/r/{file}", shapes_file(folder / file, own))
        weights |= dict.fromkeys(own, file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weights}))
    return server.add(f"/r/{index.name}", index)


def test_a_model_in_parts_is_judged_as_one(server: Server, tmp_path: Path) -> None:
    found = read(in_parts(server, tmp_path, WAN_14B, 6))
    whole = read_header(shapes_file(tmp_path / "whole.safetensors", WAN_14B))
    assert isinstance(found.header, Header)
    assert identify(found.header) == identify(whole)
    assert found.files == 6
    assert found.requests == 7
    assert found.size_bytes == sum(f.stat().st_size for f in tmp_path.glob("model-*"))
    assert found.name == "model.safetensors.index.json"


def test_a_part_that_is_not_there(server: Server, tmp_path: Path) -> None:
    url = in_parts(server, tmp_path, WAN, 2)
    del server.files["/r/model-00002-of-00002.safetensors"]
    with pytest.raises(RemoteError, match=r"00002-of-00002.safetensors does not exist \(404\)"):
        read(url)


@pytest.mark.parametrize(
    "name",
    ["../a.safetensors", "/a.safetensors", "https://evil.com/a.safetensors", "a.bin", "sub/a.safetensors",
     "a\\b.safetensors", "", "..", "a\n.safetensors", "//evil.com/a.safetensors"],
)  # fmt: skip
def test_an_index_names_files_beside_it_alone(server: Server, tmp_path: Path, name: str) -> None:
    index = tmp_path / "m.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": name}}))
    found = read(server.add(f"/{index.name}", index))
    assert isinstance(found.error, InvalidHeader)
    assert found.error.details["problem"] == "index"
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', "{" * 10_000, "\xff"]
)
def test_what_is_no_index(server: Server, tmp_path: Path, text: str) -> None:
    found = shard_names_error(text.encode("latin-1"))
    assert found.details["problem"] == "index"


def shard_names_error(text: bytes) -> InvalidHeader:
    with pytest.raises(InvalidHeader) as caught:
        shard_names("m.safetensors.index.json", text)
    return caught.value


def test_an_index_of_too_many_parts() -> None:
    weights = {str(i): f"{i}.safetensors" for i in range(MAX_SHARDS + 1)}
    assert "names 129 files" in shard_names_error(json.dumps({"weight_map": weights}).encode()).message


def test_two_parts_with_one_tensor(tmp_path: Path) -> None:
    header = read_header(shapes_file(tmp_path / "a.safetensors", {"x": (2,)}))
    with pytest.raises(InvalidHeader, match="two of its parts hold the tensor 'x'"):
        join_shards("i", {"a": header, "b": header})


@given(st.lists(st.lists(st.integers(0, 50), max_size=4), min_size=1, max_size=5))
def test_joined_parts_cover_every_byte(sizes: list[list[int]]) -> None:
    headers = {}
    for part, own in enumerate(sizes):
        tensors, position = {}, 0
        for number, size in enumerate(own):
            tensors[f"{part}.{number}"] = TensorInfo("U8", (size,), position, position + size)
            position += size
        headers[str(part)] = Header(Path("p"), 100 + position, 100, {}, tensors, False)
    joined = join_shards("i", headers)
    ends = 0
    for info in joined.tensors.values():
        assert info.start == ends
        ends = info.end
    assert joined.data_start + ends == joined.file_size == sum(h.file_size for h in headers.values())


def test_the_reader_says_the_same_of_bytes_as_of_a_file(server: Server, tmp_path: Path) -> None:
    file = raw_file(
        tmp_path / "a.safetensors", {"x": {"dtype": "F8_E9", "shape": [1], "data_offsets": [0, 1]}}, b"1"
    )
    found = read(server.add("/a.safetensors", file))
    with pytest.raises(InvalidHeader) as caught:
        read_header(file)
    assert found.error is not None
    assert str(found.error) == str(caught.value)
