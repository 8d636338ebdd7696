"""Demo models: real layouts, weights that behave, the same bytes for the same seed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from managed_models.manager import ModelType
from managed_models.manager.demo import DEMO_MODELS, layouts, make_demo_model
from managed_models.manager.demo.tiny import encode, write_random_model
from managed_models.manager.errors import BadInput
from managed_models.manager.formats.safetensors import read_header
from managed_models.manager.identify import identify
from managed_models.manager.identify.architectures import find_architecture
from managed_models.manager.model import FOLDER_TYPES
from safetensors.torch import load_file
from support.files import shapes_file


@pytest.mark.parametrize(
    ("kind", "architecture", "role", "parts"),
    [
        ("wan21_t2v", "wan-t2v", ModelType.DIFFUSION, ()),
        ("flux", "flux-dev", ModelType.DIFFUSION, ()),
        ("sd15_checkpoint", "sd1.5", ModelType.CHECKPOINT, ("vae",)),
    ],
)
def test_a_demo_model_is_what_it_says(
    tiny_models: Path, kind: str, architecture: str, role: ModelType, parts: tuple[str, ...]
) -> None:
    model = DEMO_MODELS[kind]
    identity = identify(read_header(tiny_models / model.folder / model.file_name))
    assert (identity.architecture, identity.role, identity.parts) == (architecture, role, parts)
    assert identity.precision == "bf16"
    assert FOLDER_TYPES[model.folder] is role


@pytest.fixture(autouse=True, scope="module")
def _one_torch_thread() -> Iterator[None]:
    """Keep torch's threads from waiting for each other where other work fills the processor."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("kind", sorted(DEMO_MODELS))
def test_a_demo_model_loads_with_the_safetensors_library(tiny_models: Path, kind: str) -> None:
    model = DEMO_MODELS[kind]
    tensors = load_file(tiny_models / model.folder / model.file_name)
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == model.layout()
    for tensor in tensors.values():
        assert tensor.dtype == torch.bfloat16
        assert bool(tensor.isfinite().all())


def test_every_kind_is_tested() -> None:
    assert set(DEMO_MODELS) == {"wan21_t2v", "flux", "sd15_checkpoint"}


@pytest.mark.parametrize(
    ("name", "spread"),
    [("blocks.0.ffn.0.weight", 0.7 / 16), ("text_embedding.0.weight", 0.7 / 64), ("head.head.bias", 0.01)],
)
def test_weights_are_scaled_by_their_inputs(tiny_models: Path, name: str, spread: float) -> None:
    tensors = load_file(tiny_models / "diffusion_models" / DEMO_MODELS["wan21_t2v"].file_name)
    assert float(tensors[name].float().std()) == pytest.approx(spread, rel=0.25)
    assert bool((tensors["blocks.0.norm3.weight"] == 1).all())


def test_the_latents_of_the_vae_keep_their_scale(tiny_models: Path) -> None:
    tensors = load_file(tiny_models / "checkpoints" / DEMO_MODELS["sd15_checkpoint"].file_name)
    assert float(tensors["first_stage_model.vae_scale"]) == pytest.approx(0.18215, rel=1e-2)
    assert float(tensors["first_stage_model.vae_shift"]) == 0.0


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    layout = layouts.wan21_t2v(width=32, ffn=32, layers=1)
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        write_random_model(tmp_path / name, layout, seed)
    first, second, other = ((tmp_path / name).read_bytes() for name in "abc")
    assert first == second != other


def test_a_demo_model_that_is_there_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "diffusion_models" / "tiny_flux_bf16.safetensors"
    path.parent.mkdir()
    path.write_bytes(b"mine")
    assert make_demo_model("flux", tmp_path) == path
    assert path.read_bytes() == b"mine"


def test_an_unknown_kind_names_the_ones_that_exist(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="wan21_t2v, flux, sd15_checkpoint"):
        make_demo_model("sdxl", tmp_path)
    assert os.listdir(tmp_path) == []


# Halfway between two values of bf16 or fp16: these go to the even one.
_TIES = st.sampled_from([1 + odd * 2.0**-bits for odd in (1, 3, 5) for bits in (8, 11)])


@pytest.mark.parametrize(
    ("dtype", "torch_dtype"), [("F32", torch.float32), ("F16", torch.float16), ("BF16", torch.bfloat16)]
)
@settings(deadline=None, max_examples=60)
@given(values=st.lists(st.one_of(st.floats(-60000, 60000, width=32), _TIES), max_size=20))
def test_encoding_rounds_as_torch_does(dtype: str, torch_dtype: torch.dtype, values: list[float]) -> None:
    expected = torch.tensor(values, dtype=torch.float32).to(torch_dtype)
    raw = encode(np.array(values, np.float32), dtype)
    assert raw == expected.view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize(
    ("layout", "architecture"),
    [
        (layouts.wan21_t2v(width=64, ffn=64, layers=1), "wan-t2v"),
        (layouts.flux(width=128, double=1, single=1), "flux-dev"),
        (layouts.sd15_checkpoint(depth=1), "sd1.5"),
        (layouts.sd15_unet(depth=1), "sd1.5"),
    ],
)
def test_a_smaller_layout_is_still_recognised(
    tmp_path: Path, layout: layouts.Layout, architecture: str
) -> None:
    path = shapes_file(tmp_path / "model.safetensors", layout)
    found = find_architecture(read_header(path).tensors)
    assert found is not None
    assert found[0].id == architecture
