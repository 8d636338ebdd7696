"""The formats as data: what they take, what they store, and the parts of their layouts."""

from __future__ import annotations

import json

import pytest
import torch
from managed_models.manager.errors import BadInput
from managed_models.manager.quantize.choices import COMFY_QUANT, FORMAT_NAMES, SCALED_FP8
from managed_models.manager.quantize.formats import FORMATS, with_layout
from managed_models.manager.quantize.kernels_blocks import block_magnitude, tiled
from managed_models.manager.quantize.kernels_rotated import LEVELS, Nearest, turn
from managed_models.manager.quantize.packing import width_is_read
from support.encoding import encode, hadamard, untiled

# Bits for each weight of a large layer, its scales included.
BITS = {
    "fp8_e4m3fn_scaled": 8.0,
    "fp8_e5m2_scaled": 8.0,
    "int8": 8.0,
    "int8_convrot": 8.0,
    "mxfp8": 8.25,
    "nvfp4": 4.5,
    "w4a8": 4.5,
    "w4a4": 4.0,
    "bf16": 16.0,
    "fp16": 16.0,
}


def test_every_format_of_the_contract_is_there() -> None:
    assert FORMATS.keys() == BITS.keys()


@pytest.mark.parametrize("name", FORMATS)
def test_bits_per_weight(name: str) -> None:
    stored = sum(spec.nbytes for spec in FORMATS[name].outputs("", (4096, 4096)))
    assert 8 * stored / 4096**2 == pytest.approx(BITS[name], abs=0.02)


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("fp8_e4m3fn_scaled", (64, 64), ""),
        ("fp8_e4m3fn_scaled", (16, 64), "smaller than 32"),
        ("fp8_e4m3fn_scaled", (64, 40), "blocks of 16"),
        ("fp8_e4m3fn_scaled", (40, 64), "blocks of 16"),
        ("fp8_e4m3fn_scaled", (64, 64, 3), "not the weight of a linear layer"),
        ("int8", (64,), "not the weight of a linear layer"),
        ("int8_convrot", (64, 256), ""),
        ("int8_convrot", (64, 640), "blocks of 256"),
        ("w4a8", (64, 128), "blocks of 256"),
        ("w4a4", (64, 512), ""),
        ("mxfp8", (64, 48), "blocks of 32"),
        ("mxfp8", (48, 64), "blocks of 32"),
        ("nvfp4", (48, 48), ""),
        ("bf16", (3,), ""),
    ],
)
def test_a_shape_that_a_format_cannot_take_has_a_reason(
    name: str, shape: tuple[int, ...], words: str
) -> None:
    reason = FORMATS[name].fits(shape)
    assert words in reason
    assert bool(reason) == bool(words)


@pytest.mark.parametrize("name", [n for n, f in FORMATS.items() if f.kind != "cast"])
def test_a_layer_is_itself_its_scales_and_its_marker(name: str) -> None:
    target = FORMATS[name]
    specs = target.outputs("blocks.0.q", (256, 512))
    assert [specs[0].name, specs[-1].name] == ["blocks.0.q.weight", "blocks.0.q.comfy_quant"]
    assert specs[0].shape == (256, 512 // target.packed)
    assert specs[-1].nbytes == len(target.marker)
    assert json.loads(target.marker)["format"] == target.comfy_format == target.requires
    assert target.file_tensors("") == []


def test_the_older_layout_marks_the_file() -> None:
    target = with_layout(FORMATS["fp8_e4m3fn_scaled"], SCALED_FP8)
    names = [spec.name for spec in target.outputs("q", (64, 64))]
    assert names == ["q.weight", "q.scale_weight"]
    assert target.marker == b""
    assert target.requires == ""
    [(spec, content)] = target.file_tensors("model.diffusion_model.")
    assert (spec.name, spec.shape) == ("model.diffusion_model.scaled_fp8", (2,))
    assert len(content) == spec.nbytes == 2


def test_the_older_layout_keeps_the_other_fp8_within_the_range_of_the_first() -> None:
    """Newer versions of ComfyUI read all layers of that layout as fp8_e4m3fn."""
    target = with_layout(FORMATS["fp8_e5m2_scaled"], SCALED_FP8)
    assert (target.dtype, target.largest) == ("F8_E5M2", 448.0)
    weights = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    codes = encode("fp8_e5m2_scaled", weights).weight
    assert float(codes.float().abs().max()) > 448
    from managed_models.manager.quantize.encoding import make_encoder

    encoder = make_encoder(target, (64, 64))
    encoder.look(weights)
    out = torch.empty(64, 64, dtype=torch.float8_e5m2)
    encoded = encoder.encode(weights, out, lambda: None)
    assert encoded.sides.keys() == {".scale_weight"}
    read_as_first = out.to(torch.float8_e4m3fn).float()
    assert float((read_as_first - out.float()).abs().max()) <= 2**-10


@pytest.mark.parametrize("name", [n for n, f in FORMATS.items() if f.kind != "tensor"])
def test_the_older_layout_is_for_fp8_alone(name: str) -> None:
    with pytest.raises(BadInput, match=f"older form of fp8, and {name} has no such form"):
        with_layout(FORMATS[name], SCALED_FP8)
    assert with_layout(FORMATS[name], COMFY_QUANT) is FORMATS[name]


def test_the_names_to_choose_from_are_those_of_the_formats() -> None:
    assert tuple(FORMATS) == FORMAT_NAMES


def test_an_unknown_layout_is_refused() -> None:
    with pytest.raises(BadInput, match="layout is 'newer'"):
        with_layout(FORMATS["int8"], "newer")


# Parts of the layouts


@pytest.mark.parametrize("shape", [(128, 4), (160, 8), (32, 1), (300, 7), (256, 40)])
def test_scales_lie_in_tiles(shape: tuple[int, int]) -> None:
    scales = torch.randint(1, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = tiled(scales)
    assert found.shape[0] % 128 == 0
    assert found.shape[1] % 4 == 0
    assert torch.equal(untiled(found, *shape), scales)
    assert int((found != 0).sum()) == scales.numel()


@pytest.mark.parametrize("columns", [256, 768])
def test_turning_multiplies_by_the_matrix(columns: int) -> None:
    rows = torch.randn(5, columns, generator=torch.Generator().manual_seed(0))
    turned = turn(rows)
    expected = rows.double().view(5, -1, 256) @ hadamard()
    found = turned.values.t().reshape(5, -1, 256).double()
    assert torch.allclose(found, expected, atol=1e-5)
    again = turn(turned.values.t().reshape(5, columns))
    assert torch.allclose(again.values.t().reshape(5, columns), rows, atol=1e-5)


def test_the_nearest_level_is_found() -> None:
    levels = torch.tensor(LEVELS)
    values = torch.cat([torch.linspace(-1.2, 1.2, 4001), levels, (levels[1:] + levels[:-1]) / 2])
    found = Nearest(levels).codes(values)
    apart = (values.unsqueeze(1) - levels).abs()
    best = apart.min(1).values
    assert torch.allclose(apart.gather(1, found.long().unsqueeze(1))[:, 0], best, atol=1e-6)


def test_levels_too_near_to_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="too near"):
        Nearest(torch.linspace(-1e-3, 1e-3, 16))


@pytest.mark.parametrize(("rows", "columns"), [(4, 32), (5, 16), (6, 16), (1, 16), (1, 32)])
def test_the_largest_of_each_block(rows: int, columns: int) -> None:
    blocks = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows))
    blocks[0, 3] = -9.0
    assert torch.equal(block_magnitude(blocks), blocks.abs().amax(1))


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("img_in.weight", True),
        ("head.head.weight", True),
        ("time_embedding.0.weight", True),
        ("label_emb.0.0.weight", True),
        ("x_embedder.proj.1.weight", True),
        ("input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight", True),
        ("input_blocks.1.1.transformer_blocks.0.attn2.to_v.weight", False),
        ("input_blocks.1.1.transformer_blocks.1.attn2.to_k.weight", False),
        ("transformer_blocks.0.attn2.to_k.weight", True),
        ("transformer_blocks.10.attn2.to_k.weight", False),
        ("blocks.0.norm1.linear.weight", True),
        ("blocks.10.norm1.linear.weight", False),
        ("blocks.0.self_attn.q.weight", False),
        ("double_blocks.0.img_attn.qkv.weight", False),
        ("noise_refiner.0.attention.qkv.weight", False),
        ("model.layers.0.mlp.up_proj.weight", False),
        ("encoder.block.0.layer.1.DenseReluDense.wi_0.weight", False),
    ],
)
def test_layers_whose_shape_tells_comfyui_the_dimensions_are_not_packed(name: str, read: bool) -> None:
    assert width_is_read(name) is read
