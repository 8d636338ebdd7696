"""A first scan against reading and checking the headers alone, a rescan against scandir + stat, a search.

.venv/bin/python benchmarks/scan.py [--files 10000] [--models 100000]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from common import claim, load_checkout, median_seconds

load_checkout()

from managed_models.manager.demo import layouts  # noqa: E402
from managed_models.manager.files import FileIdentity  # noqa: E402
from managed_models.manager.formats.safetensors import read_header  # noqa: E402
from managed_models.manager.host import ModelFolder  # noqa: E402
from managed_models.manager.local_host import LocalHost  # noqa: E402
from managed_models.manager.registry import Registry, Scanned  # noqa: E402
from managed_models.manager.scan import Scanner  # noqa: E402
from managed_models.manager.scan.walk import walk  # noqa: E402

PAGE_SECONDS = 0.020


def lora_layout(blocks: int) -> dict[str, tuple[int, ...]]:
    """Return a Wan-like LoRA: eight tensors a block."""
    return {
        f"blocks.{block}.{part}.lora_{side}.weight": (16, 64)
        for block in range(blocks)
        for part in ("self_attn.q", "self_attn.k", "self_attn.v", "ffn.0")
        for side in ("down", "up")
    }


def write(path: Path, shapes: dict[str, tuple[int, ...]], number: int) -> None:
    """Write a file of these shapes over a hole: nothing but the header takes room."""
    header: dict[str, object] = {"__metadata__": {"title": f"model {number}"}}
    position = 0
    for name, shape in shapes.items():
        size = 2
        for dimension in shape:
            size *= dimension
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [position, position + size]}
        position += size
    raw = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        file.truncate(8 + len(raw) + position)


def make_set(root: Path, count: int) -> None:
    """Make the fixed set: of ten files seven LoRAs of 30 or 40 blocks, a Wan 1.3B, a Flux and a VAE-like."""
    kinds = [
        *(("loras", lora_layout(30)) for _ in range(5)),
        *(("loras", lora_layout(40)) for _ in range(2)),
        ("diffusion_models", layouts.wan21_t2v(width=1536, ffn=8960, layers=30)),
        ("diffusion_models", layouts.flux(width=256, double=19, single=38)),
        ("vae", {f"decoder.up.{i}.conv.weight": (64, 64, 3, 3) for i in range(120)}),
    ]
    for number in range(count):
        folder, shapes = kinds[number % len(kinds)]
        directory = root / folder / f"maker_{number // 200:03d}"
        directory.mkdir(parents=True, exist_ok=True)
        write(directory / f"model_{number:05d}.safetensors", shapes, number)


def entries(root: Path) -> Iterator[os.DirEntry[str]]:
    """The floor of listing: scandir and stat, nothing kept."""
    with os.scandir(root) as found:
        for entry in found:
            if entry.is_dir():
                yield from entries(Path(entry.path))
            else:
                entry.stat()
                yield entry


def plain_headers(root: Path) -> int:
    """The floor of reading: every header with struct and json, nothing checked or kept."""
    tensors = 0
    for entry in entries(root):
        with open(entry.path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            tensors += len(json.loads(file.read(length)))
    return tensors


def scans(root: Path) -> list[bool]:
    """Measure first scans into new registries, and rescans."""
    host = LocalHost([ModelFolder(kind, root / kind) for kind in ("loras", "diffusion_models", "vae")])
    bare = median_seconds(lambda: plain_headers(root), 2)
    headers = median_seconds(lambda: [None for e in entries(root) if not read_header(Path(e.path))], 2)
    first = []
    for attempt in range(2):
        registry = Registry(f"sqlite:///{root.parent / f'registry_{attempt}.sqlite'}")
        registry.names()
        start = time.perf_counter()
        result = Scanner(host, registry).scan()
        first.append(time.perf_counter() - start)
        assert len(result.added) == len(result.seen)
        assert not result.broken, result.broken
    listing = median_seconds(lambda: sum(1 for _ in entries(root)), 5)
    scanner = Scanner(host, registry)
    rescan = median_seconds(scanner.scan, 5)
    assert scanner.scan().unchanged == len(result.seen)
    walking = median_seconds(lambda: walk(host), 5)
    print(
        f"{len(result.seen)} files: headers with struct + json {bare:.2f} s, "
        f"read and checked {headers:.2f} s, first scan {min(first):.2f} s "
        f"({min(first) / bare:.1f} x struct + json)"
    )
    print(
        f"scandir + stat {listing * 1e3:.0f} ms, our listing {walking * 1e3:.0f} ms, "
        f"rescan {rescan * 1e3:.0f} ms"
    )
    return [
        claim("first scan / reading the headers alone", min(first) / headers, 4.0, "x"),
        claim("rescan / scandir + stat", rescan / listing, 3.0, "x"),
    ]


def searching(folder: Path, count: int) -> list[bool]:
    """Measure pages of 50 from searches among many models."""
    registry = Registry(f"sqlite:///{folder / 'search.sqlite'}")
    makers = ("anime", "photo", "ink", "clay", "pixel", "oil", "neon")
    step = 2000
    for start in range(0, count, step):
        registry.put_scanned(
            [
                Scanned(
                    file=FileIdentity(Path(f"/models/loras/{makers[n % 7]}/style_{n:06d}.safetensors"), n, n),
                    folder="loras" if n % 3 else "checkpoints",
                    name=f"{makers[n % 7]}/{makers[n // 7 % 7]}_style_{n:06d}.safetensors",
                    node=f"1:{n}",
                    digest=f"{n:032x}",
                    identity={"title": "Wan 2.1 or Wan 2.2 14B text-to-video", "precision": "bf16"},
                    problem=None,
                    reader="benchmark",
                )
                for n in range(start, min(start + step, count))
            ]
        )
    good = []
    for what, text, kind in (
        ("everything", "", None),
        ("a word that fits all", "safetensors", None),
        ("a word that fits a seventh", "neon/", None),
        ("two words", "anime wan", None),
        ("one file", "style_077777", None),
        ("nothing", "no such model", None),
        ("a word within a folder", "clay_", "checkpoints"),
    ):
        page = registry.search(text, kind, 0, 50)
        found = median_seconds(lambda text=text, kind=kind: registry.search(text, kind, 0, 50), 10)
        end = max(0, page.total - 50)
        last = median_seconds(lambda text=text, kind=kind, at=end: registry.search(text, kind, at, 50), 5)
        good.append(
            claim(f"page of 50 of {page.total} among {count}, {what}", found * 1e3, PAGE_SECONDS * 1e3, "ms")
        )
        print(f"      the last page of these: {last * 1e3:.1f} ms")
    return good


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--models", type=int, default=100_000)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="scan-benchmark-"))
    try:
        make_set(folder / "models", options.files)
        good = scans(folder / "models")
        good += searching(folder, options.models)
    finally:
        shutil.rmtree(folder)
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
