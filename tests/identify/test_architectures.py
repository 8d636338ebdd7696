"""Every row of the table of architectures is reachable, and real layouts find their row."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from managed_models.manager.formats.safetensors import TensorInfo, read_header
from managed_models.manager.identify import identify
from managed_models.manager.identify.architectures import (
    ARCHITECTURES,
    PREFIXES,
    Architecture,
    architecture_of_class,
    find_architecture,
    match_architecture,
)
from managed_models.manager.model import ModelType
from support.files import shapes_file

Shapes = dict[str, tuple[int, ...]]
ROWS = {row.id: row for row in ARCHITECTURES}
ANY = 7  # a length that no row asks for

# What a row needs besides its own tensors, so that no earlier row matches.
EXTRA: dict[str, Shapes] = {
    "skyreels-i2v": {"vector_in.in_layer.weight": (3072, 768)},
    "hunyuan-video-i2v": {"vector_in.in_layer.weight": (3072, 768)},
    "hunyuan-video": {"vector_in.in_layer.weight": (3072, 768)},
}


def minimal(row: Architecture, choice: int = 0) -> Shapes:
    """The fewest tensors of this architecture; ``choice`` picks among the names that a key allows."""
    shapes: Shapes = {}
    for key in row.keys:
        alternatives = key.split("|")
        shapes[alternatives[min(choice, len(alternatives) - 1)]] = (ANY, ANY)
    for key, shape in row.shapes.items():
        name = key.replace("*", "input_blocks.4.1.transformer_blocks.0.")
        shapes[name] = tuple(ANY if length is None else length for length in shape)
    for name, extra in EXTRA.get(row.id, {}).items():
        shapes.setdefault(name, extra)
    if "input_blocks.7.1.transformer_blocks.9.attn2.to_k.weight" in shapes:
        shapes["input_blocks.7.1.transformer_blocks.9.attn2.to_k.weight"] = (ANY, 2048)
    return shapes


def tensors(shapes: Mapping[str, tuple[int, ...]], prefix: str = "") -> dict[str, TensorInfo]:
    return {prefix + name: TensorInfo("BF16", shape, 0, 2) for name, shape in shapes.items()}


def found_id(shapes: Mapping[str, tuple[int, ...]], prefix: str = "") -> str | None:
    found = find_architecture(tensors(shapes, prefix))
    return found[0].id if found else None


# The table itself


def test_ids_and_titles_are_unique() -> None:
    assert len({row.id for row in ARCHITECTURES}) == len(ARCHITECTURES)
    assert len({row.title for row in ARCHITECTURES}) == len(ARCHITECTURES)


def test_every_row_asks_for_something() -> None:
    assert [row.id for row in ARCHITECTURES if not row.keys and not row.shapes] == []


@pytest.mark.parametrize("row", ARCHITECTURES, ids=lambda row: row.id)
def test_no_row_asks_for_what_must_be_absent(row: Architecture) -> None:
    assert not set(row.absent) & {name for key in (*row.keys, *row.shapes) for name in key.split("|")}


# Every row


@pytest.mark.parametrize("prefix", PREFIXES, ids=repr)
@pytest.mark.parametrize("row", ARCHITECTURES, ids=lambda row: row.id)
def test_every_row_is_found_under_every_prefix(tmp_path: Path, row: Architecture, prefix: str) -> None:
    shapes = {prefix + name: shape for name, shape in minimal(row).items()}
    header = read_header(shapes_file(tmp_path / "m.safetensors", shapes))
    identity = identify(header)
    assert (identity.architecture, identity.prefix) == (row.id, prefix)
    assert identity.title == row.title
    assert identity.role is ModelType.DIFFUSION
    assert identity.detected_by == "our table"


@pytest.mark.parametrize("choice", [1, 2, 3])
@pytest.mark.parametrize(
    "row", [r for r in ARCHITECTURES if any("|" in key for key in r.keys)], ids=lambda row: row.id
)
def test_each_spelling_of_a_key_is_accepted(row: Architecture, choice: int) -> None:
    assert found_id(minimal(row, choice)) == row.id


@pytest.mark.parametrize("row", ARCHITECTURES, ids=lambda row: row.id)
def test_a_row_needs_every_one_of_its_tensors(row: Architecture) -> None:
    shapes = minimal(row)
    needed = {name for key in row.keys for name in key.split("|")} | {k for k in row.shapes if k[0] != "*"}
    for name in needed & set(shapes):
        rest = {n: s for n, s in shapes.items() if n != name}
        assert match_architecture(tensors(rest), "", [row]) is None, name


@pytest.mark.parametrize("row", [r for r in ARCHITECTURES if r.shapes], ids=lambda row: row.id)
def test_a_row_needs_its_shapes(row: Architecture) -> None:
    shapes = minimal(row)
    for key, wanted in row.shapes.items():
        names = [n for n in shapes if n.endswith(key[1:])] if key.startswith("*") else [key]
        for i, length in enumerate(wanted):
            if length is not None:
                other = (*wanted[:i], length + 1, *wanted[i + 1 :])
                wrong = dict.fromkeys(names, tuple(ANY if n is None else n for n in other))
                assert match_architecture(tensors(shapes | wrong), "", [row]) is None, key
        longer = dict.fromkeys(names, tuple(ANY if n is None else n for n in (*wanted, 1)))
        assert match_architecture(tensors(shapes | longer), "", [row]) is None, key


@pytest.mark.parametrize(
    ("row", "name"),
    [(row, name) for row in ARCHITECTURES for name in row.absent],
    ids=lambda v: getattr(v, "id", v),
)
def test_a_row_is_refused_by_what_must_be_absent(row: Architecture, name: str) -> None:
    shapes = minimal(row) | {name: (ANY,)}
    assert match_architecture(tensors(shapes), "", [row]) is None


# Layouts as they are published, written down apart from the table

_HUNYUAN = {
    "txt_in.individual_token_refiner.blocks.0.norm1.weight": (3072,),
    "vector_in.in_layer.weight": (3072, 768),
    "double_blocks.0.img_attn_qkv.weight": (9216, 3072),
}
_HUNYUAN_15 = {
    "txt_in.individual_token_refiner.blocks.0.norm1.weight": (2048,),
    "vision_in.proj.0.weight": (1152,),
    "byt5_in.fc1.weight": (2048, 1472),
}
_FLUX = {
    "double_blocks.0.img_attn.norm.key_norm.scale": (128,),
    "double_blocks.0.img_attn.qkv.weight": (9216, 3072),
    "img_in.weight": (3072, 64),
    "txt_in.weight": (3072, 4096),
    "vector_in.in_layer.weight": (3072, 768),
    "final_layer.linear.weight": (64, 3072),
}
_GUIDANCE = {"guidance_in.in_layer.weight": (3072, 256)}
_WAN_14B = {
    "patch_embedding.weight": (5120, 16, 1, 2, 2),
    "head.modulation": (1, 2, 5120),
    "head.head.weight": (64, 5120),
    "blocks.0.self_attn.q.weight": (5120, 5120),
    "blocks.0.ffn.0.weight": (13824, 5120),
    "text_embedding.0.weight": (5120, 4096),
}
_WAN_CLIP = {"img_emb.proj.0.bias": (1280,), "img_emb.proj.0.weight": (1280,)}
_SD = {
    "input_blocks.0.0.weight": (320, 4, 3, 3),
    "time_embed.0.weight": (1280, 320),
    "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
    "input_blocks.1.1.proj_in.weight": (320, 320, 1, 1),
    "out.2.weight": (4, 320, 3, 3),
}
_SDXL = {
    "input_blocks.0.0.weight": (320, 4, 3, 3),
    "input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": (640, 2048),
    "input_blocks.7.1.transformer_blocks.9.attn2.to_k.weight": (1280, 2048),
    "label_emb.0.0.weight": (1280, 2816),
}
_LUMINA = {"noise_refiner.0.attention.k_norm.weight": (96,), "cap_embedder.1.weight": (2304, 2304)}


def patched(channels: int, width: int = 5120) -> Shapes:
    return {"patch_embedding.weight": (width, channels, 1, 2, 2)}


REAL: dict[str, tuple[str, Shapes]] = {
    "Wan 2.1 T2V 14B": ("wan-t2v", _WAN_14B),
    "Wan 2.1 T2V 1.3B": (
        "wan-t2v",
        _WAN_14B | patched(16, 1536) | {"head.modulation": (1, 2, 1536), "head.head.weight": (64, 1536)},
    ),
    "Wan 2.1 I2V 14B": ("wan2.1-i2v", _WAN_14B | patched(36) | _WAN_CLIP),
    "Wan 2.2 I2V 14B": ("wan2.2-i2v-14b", _WAN_14B | patched(36)),
    "Wan 2.2 TI2V 5B": ("wan2.2-5b", _WAN_14B | patched(48, 3072) | {"head.head.weight": (192, 3072)}),
    "Wan 2.1 VACE": ("wan2.1-vace", _WAN_14B | {"vace_patch_embedding.weight": (5120, 96, 1, 2, 2)}),
    "Wan 2.1 Fun Control": ("wan2.1-fun-control", _WAN_14B | patched(48) | _WAN_CLIP),
    "Wan 2.1 Fun Camera": (
        "wan2.1-camera",
        _WAN_14B | patched(32) | _WAN_CLIP | {"control_adapter.conv.weight": (5120, 1536, 2, 2)},
    ),
    "Wan 2.2 Fun Camera": (
        "wan2.2-camera",
        _WAN_14B | patched(36) | {"control_adapter.conv.weight": (5120, 1536, 2, 2)},
    ),
    "Wan 2.2 Animate": (
        "wan2.2-animate",
        _WAN_14B | patched(36) | _WAN_CLIP | {"face_adapter.fuser_blocks.0.k_norm.weight": (128,)},
    ),
    "Flux.1 dev": ("flux-dev", _FLUX | _GUIDANCE),
    "Flux.1 schnell": ("flux-schnell", _FLUX),
    "Flux.1 Fill": ("flux-fill", _FLUX | _GUIDANCE | {"img_in.weight": (3072, 384)}),
    "Flux.1 dev, newer names": (
        "flux-dev",
        {n.replace("norm.scale", "norm.weight"): s for n, s in (_FLUX | _GUIDANCE).items()},
    ),
    "Flux.2 dev": (
        "flux2",
        _FLUX
        | _GUIDANCE
        | {"double_stream_modulation_img.lin.weight": (36864, 6144), "img_in.weight": (6144, 128)},
    ),
    "Chroma": ("chroma", _FLUX | {"distilled_guidance_layer.norms.0.scale": (5120,)}),
    "HunyuanVideo": ("hunyuan-video", _HUNYUAN | {"img_in.proj.weight": (3072, 16, 1, 2, 2)}),
    "HunyuanVideo I2V": ("hunyuan-video-i2v", _HUNYUAN | {"img_in.proj.weight": (3072, 33, 1, 2, 2)}),
    "SkyReels V1": ("skyreels-i2v", _HUNYUAN | {"img_in.proj.weight": (3072, 32, 1, 2, 2)}),
    "HunyuanVideo 1.5": ("hunyuan-video-1.5", _HUNYUAN_15 | {"img_in.proj.weight": (2048, 65, 1, 1, 1)}),
    "HunyuanVideo 1.5 SR": (
        "hunyuan-video-1.5-sr",
        _HUNYUAN_15 | {"img_in.proj.weight": (2048, 98, 1, 1, 1)},
    ),
    "HunyuanImage 2.1": (
        "hunyuan-image-2.1",
        {
            "txt_in.individual_token_refiner.blocks.0.norm1.weight": (3584,),
            "img_in.proj.weight": (3584, 64, 1, 1),
        },
    ),
    "Stable Diffusion 1.5": ("sd1.5", _SD),
    "Stable Diffusion 1.5 inpainting": ("sd1.5", _SD | {"input_blocks.0.0.weight": (320, 9, 3, 3)}),
    "InstructPix2Pix": ("sd1.5-instruct-pix2pix", _SD | {"input_blocks.0.0.weight": (320, 8, 3, 3)}),
    "Stable Diffusion 2.1": (
        "sd2",
        _SD
        | {
            "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 1024),
            "input_blocks.1.1.proj_in.weight": (320, 320),
        },
    ),
    "SDXL": ("sdxl", _SDXL),
    "SDXL refiner": (
        "sdxl-refiner",
        {
            "input_blocks.0.0.weight": (384, 4, 3, 3),
            "input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": (768, 1280),
            "label_emb.0.0.weight": (1536, 2560),
        },
    ),
    "Lumina 2": ("lumina2", _LUMINA),
    "Z-Image Turbo": ("z-image", _LUMINA | {"cap_embedder.1.weight": (3840, 2560)}),
    "Qwen-Image": (
        "qwen-image",
        {
            "txt_norm.weight": (3584,),
            "img_in.weight": (3072, 64),
            "transformer_blocks.0.attn.to_q.weight": (3072, 3072),
        },
    ),
    "SD 3.5 Large": (
        "sd3.5-large",
        {
            "joint_blocks.0.context_block.attn.qkv.weight": (7296, 2432),
            "x_embedder.proj.weight": (2432, 16, 2, 2),
        },
    ),
    "SD 3.5 Medium": (
        "sd3.5-medium",
        {
            "joint_blocks.0.context_block.attn.qkv.weight": (4608, 1536),
            "joint_blocks.0.x_block.attn2.qkv.weight": (4608, 1536),
            "x_embedder.proj.weight": (1536, 16, 2, 2),
        },
    ),
}


@pytest.mark.parametrize("name", REAL)
def test_a_published_layout_finds_its_row(name: str) -> None:
    expected, shapes = REAL[name]
    assert found_id(shapes) == expected
    assert found_id(shapes, "model.diffusion_model.") == expected


@pytest.mark.parametrize(
    "shapes",
    [
        {},
        {"weight": (4, 4)},
        {"encoder.block.0.layer.0.SelfAttention.q.weight": (4096, 4096)},
        {"decoder.conv_in.weight": (512, 16, 3, 3)},
        {"blocks.0.self_attn.q.weight": (5120, 5120)},  # a Wan block without the rest
        {
            "x.head.modulation": (1, 2, 5120),
            "x.patch_embedding.weight": (5120, 16, 1, 2, 2),
        },  # strange prefix
        # A video model on Stable Diffusion 2, which is another model
        {
            "input_blocks.0.0.weight": (320, 8, 3, 3),
            "input_blocks.1.1.time_stack.0.attn1.to_q.weight": (320, 320),
            "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 1024),
            "input_blocks.1.1.proj_in.weight": (320, 320),
        },
    ],
)
def test_what_no_row_fits(shapes: Shapes) -> None:
    assert found_id(shapes) is None


def test_the_likeliest_prefix_wins() -> None:
    both = tensors(REAL["Flux.1 dev"][1], "net.") | tensors(_WAN_14B, "model.diffusion_model.")
    found = find_architecture(both)
    assert found is not None
    assert (found[0].id, found[1]) == ("wan-t2v", "model.diffusion_model.")


def test_the_end_of_a_name_counts_only_under_the_prefix() -> None:
    elsewhere = tensors(_SD, "net.") | tensors(
        {"input_blocks.0.0.weight": (320, 4, 3, 3)}, "model.diffusion_model."
    )
    assert match_architecture(elsewhere, "model.diffusion_model.") is None
    assert match_architecture(elsewhere, "net.") is ROWS["sd1.5"]


# From ComfyUI's class to our row


def test_a_class_of_one_row() -> None:
    row = architecture_of_class("WAN22_T2V", tensors(REAL["Wan 2.2 TI2V 5B"][1]), "")
    assert row is ROWS["wan2.2-5b"]


@pytest.mark.parametrize(
    ("name", "expected"), [("Wan 2.1 T2V 14B", "wan-t2v"), ("Wan 2.2 I2V 14B", "wan2.2-i2v-14b")]
)
def test_a_class_of_several_rows_is_told_apart_by_the_tensors(name: str, expected: str) -> None:
    row = architecture_of_class("WAN21_T2V", tensors(REAL[name][1], "net."), "net.")
    assert row is ROWS[expected]


def test_a_class_whose_rows_do_not_match_takes_the_most_general() -> None:
    assert architecture_of_class("WAN21_T2V", {}, "") is ROWS["wan-t2v"]
    assert architecture_of_class("SD3", {}, "") is ROWS["sd3"]


def test_a_class_that_the_table_does_not_know() -> None:
    assert architecture_of_class("TomorrowsModel", tensors(_WAN_14B), "") is None
