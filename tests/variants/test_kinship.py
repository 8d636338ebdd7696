"""Which files hold the same model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from managed_models.manager.demo import layouts
from managed_models.manager.formats.safetensors import read_header
from managed_models.manager.variants.kinship import Kin, Link, base_name, layout_fingerprint, links
from support.files import shapes_file

WAN = layouts.wan21_t2v(width=64, ffn=128, layers=1)


def fingerprint(path: Path, shapes: dict[str, Any], dtype: Any = "BF16", **options: Any) -> str:
    return layout_fingerprint(read_header(shapes_file(path, shapes, dtype, **options)))


@pytest.mark.parametrize(
    "change",
    [
        lambda layout: {f"model.diffusion_model.{name}": shape for name, shape in layout.items()},
        lambda layout: dict(reversed(layout.items())),
        lambda layout: layout | {"blocks.0.ffn.0.weight_scale": (), "blocks.0.ffn.0.input_scale": ()},
        lambda layout: {name: shape for name, shape in layout.items() if not name.endswith(".bias")},
    ],
)
def test_a_prefix_scales_and_order_make_no_other_model(
    tmp_path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    assert fingerprint(tmp_path / "a", WAN) == fingerprint(tmp_path / "b", change(dict(WAN)), "F8_E4M3")


@pytest.mark.parametrize(
    "other",
    [
        layouts.wan21_t2v(width=64, ffn=128, layers=2),
        layouts.wan21_t2v(width=128, ffn=128, layers=1),
        # Image-to-video of Wan 2.2 differs from text-to-video in its input channels alone.
        WAN | {"patch_embedding.weight": (64, 36, 1, 2, 2)},
    ],
)
def test_another_size_or_task_is_another_model(tmp_path: Path, other: dict[str, Any]) -> None:
    assert fingerprint(tmp_path / "a", WAN) != fingerprint(tmp_path / "b", other)


def test_two_weights_in_a_byte_count_as_two(tmp_path: Path) -> None:
    packed = {name: (s[0], s[1] // 2) if ".ffn." in name and len(s) == 2 else s for name, s in WAN.items()}
    layers = [name.removesuffix(".weight") for name in packed if ".ffn." in name and name.endswith("weight")]
    marker = {"layers": {layer: {"format": "nvfp4"} for layer in layers}}
    four_bits = fingerprint(
        tmp_path / "b",
        packed,
        {f"{layer}.weight": "U8" for layer in layers},
        metadata={"_quantization_metadata": json.dumps(marker)},
    )
    assert four_bits == fingerprint(tmp_path / "a", WAN)


def test_a_file_without_weights_has_no_fingerprint(tmp_path: Path) -> None:
    assert fingerprint(tmp_path / "a", {"scale": (4,)}) == ""


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("wan2.2_t2v_high_noise_14B_fp16.safetensors", "wan2-2-t2v-high-noise-14b"),
        ("wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors", "wan2-2-t2v-high-noise-14b"),
        ("wan2.2_t2v_low_noise_14B_fp8_scaled.safetensors", "wan2-2-t2v-low-noise-14b"),
        ("flux1-dev.safetensors", "flux1-dev"),
        ("flux1-dev-fp8-e4m3fn.safetensors", "flux1-dev"),
        ("qwen_image_fp8_e4m3fn.safetensors", "qwen-image"),
        ("qwen_image_2512_bf16.safetensors", "qwen-image-2512"),
    ],
)
def test_a_name_without_its_precision(name: str, base: str) -> None:
    assert base_name(Path(name)) == base


def kin(name: str, size: int = 10, mtime: int = 1, source: Any = None, registered: Any = ()) -> Kin:
    about = dict(zip(("name", "size", "mtime_ns"), source, strict=True)) if source else None
    return Kin(Path(name), size, mtime, about, frozenset(registered))


ORIGINAL = kin("m/wan_bf16.safetensors", 100, 5)


@pytest.mark.parametrize(
    ("subject", "other", "link"),
    [
        (ORIGINAL, kin("m/small.safetensors", source=("wan_bf16.safetensors", 100, 5)), Link.LINEAGE),
        (kin("m/small.safetensors", source=("wan_bf16.safetensors", 100, 5)), ORIGINAL, Link.LINEAGE),
        # The original was touched since; or it was renamed, which keeps its time.
        (ORIGINAL, kin("m/small.safetensors", source=("wan_bf16.safetensors", 100, 9)), Link.LINEAGE),
        (ORIGINAL, kin("elsewhere/small.safetensors", source=("old_name.safetensors", 100, 5)), Link.LINEAGE),
        # Another file of that name and size, in another folder.
        (
            ORIGINAL,
            kin("other/small.safetensors", source=("wan_bf16.safetensors", 100, 9)),
            Link.SAME_LAYOUT,
        ),
        (
            kin("m/a.safetensors", source=("gone.safetensors", 100, 5)),
            kin("m/b.safetensors", source=("gone.safetensors", 100, 5)),
            Link.LINEAGE,
        ),
        (
            kin("a.safetensors", registered={("wan", "2.1")}),
            kin("b.safetensors", registered={("wan", "2.1.0+fp8")}),
            Link.REGISTERED,
        ),
        (
            kin("a.safetensors", registered={("wan", "2.1")}),
            kin("b.safetensors", registered={("wan", "2.2")}),
            Link.SAME_LAYOUT,
        ),
        (kin("m/wan_fp8.safetensors"), kin("n/wan-bf16.safetensors"), Link.NAMED_ALIKE),
        (kin("m/model_fp8.safetensors"), kin("m/model.safetensors"), Link.NAMED_ALIKE),
        (kin("m/model_fp8.safetensors"), kin("n/model.safetensors"), Link.SAME_LAYOUT),
        (kin("m/wan_high.safetensors"), kin("m/wan_low.safetensors"), Link.SAME_LAYOUT),
    ],
)
def test_what_links_two_files(subject: Kin, other: Kin, link: Link) -> None:
    assert links(subject, [other]) == [link]


def test_a_link_may_lead_over_another_file_and_is_as_sure_as_its_weakest_step() -> None:
    small = kin("m/tiny.safetensors", 20, 7, source=("wan_bf16.safetensors", 100, 5))
    renamed = kin("n/tiny_fp8.safetensors", 21, 8)
    stranger = kin("m/stranger.safetensors", 22, 9)
    assert links(ORIGINAL, [stranger, renamed, small]) == [
        Link.SAME_LAYOUT,
        Link.NAMED_ALIKE,
        Link.LINEAGE,
    ]
