"""What a whole file is: role, architecture, size and precision."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from managed_models.manager.errors import InvalidHeader
from managed_models.manager.formats.safetensors import Header, read_header
from managed_models.manager.formats.writer import SafetensorsWriter, TensorSpec
from managed_models.manager.identify import Detection, ModelIdentity, identify
from managed_models.manager.model import ModelType, QuantizationType
from support.files import shapes_file

Shapes = dict[str, tuple[int, ...]]
WAN: Shapes = {
    "patch_embedding.weight": (64, 16, 1, 2, 2),
    "head.modulation": (1, 2, 64),
    "head.head.weight": (64, 64),
    "blocks.0.ffn.0.weight": (128, 64),
}
WAN_COUNT = 64 * 16 * 4 + 128 + 64 * 64 + 128 * 64
VAE: Shapes = {"decoder.conv_in.weight": (8, 4, 3, 3)}
CLIP: Shapes = {"text_model.encoder.layers.0.layer_norm1.weight": (768,)}


def prefixed(prefix: str, shapes: Shapes) -> Shapes:
    return {prefix + name: shape for name, shape in shapes.items()}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def header_of(path: Path, shapes: Shapes, dtype: str | Mapping[str, str] = "BF16") -> Header:
    return read_header(shapes_file(path, shapes, dtype))


# Roles


def test_a_diffusion_model(path: Path) -> None:
    identity = identify(header_of(path, WAN))
    assert identity == ModelIdentity(
        role=ModelType.DIFFUSION,
        architecture="wan-t2v",
        title="Wan 2.1 or Wan 2.2 14B text-to-video",
        detected_by="our table",
        prefix="",
        parts=(),
        parameters=WAN_COUNT,
        weight_bytes=2 * WAN_COUNT,
        tensor_count=4,
        dtypes={"bf16": WAN_COUNT},
        precision="bf16",
        quantization=QuantizationType.BF16,
        quantized_layers=0,
    )
    assert identity.recognised
    assert identity.is_diffusion


@pytest.mark.parametrize(
    ("vae", "text", "parts"),
    [
        ("first_stage_model.", "", ("vae",)),
        ("", "cond_stage_model.transformer.", ("text_encoder",)),
        ("vae.", "text_encoders.umt5.", ("vae", "text_encoder")),
        ("first_stage_model.", "conditioner.embedders.0.transformer.", ("vae", "text_encoder")),
    ],
)
def test_a_checkpoint_says_what_it_holds(path: Path, vae: str, text: str, parts: tuple[str, ...]) -> None:
    shapes = prefixed("model.diffusion_model.", WAN)
    shapes |= prefixed(vae, VAE) if vae else {}
    shapes |= prefixed(text, CLIP) if text else {}
    identity = identify(header_of(path, shapes))
    assert (identity.role, identity.architecture) == (ModelType.CHECKPOINT, "wan-t2v")
    assert identity.parts == parts
    assert identity.is_diffusion


def test_figures_of_a_checkpoint_are_those_of_its_model(path: Path) -> None:
    shapes = prefixed("model.diffusion_model.", WAN) | prefixed("first_stage_model.", VAE)
    identity = identify(header_of(path, shapes, {"first_stage_model.decoder.conv_in.weight": "F32"}))
    assert identity.prefix == "model.diffusion_model."
    assert identity.parameters == WAN_COUNT
    assert identity.weight_bytes == 2 * WAN_COUNT
    assert identity.dtypes == {"bf16": WAN_COUNT}
    assert identity.tensor_count == 5


@pytest.mark.parametrize("ending", [".lora_A.weight", ".lora_down.weight", ".hada_w1_a", ".diff_b"])
def test_an_adapter_of_a_model_is_not_that_model(path: Path, ending: str) -> None:
    shapes = WAN | {f"diffusion_model.blocks.0.self_attn.q{ending}": (16, 64)}
    identity = identify(header_of(path, shapes))
    assert (identity.role, identity.architecture, identity.title) == (ModelType.LORA, None, "LoRA")
    assert not identity.is_diffusion
    assert identity.recognised


def test_a_controlnet_with_the_layers_of_a_model_is_not_that_model(path: Path) -> None:
    flux = {"double_blocks.0.img_attn.norm.key_norm.scale": (128,), "img_in.weight": (3072, 64)}
    assert identify(header_of(path, flux)).role is ModelType.DIFFUSION
    identity = identify(header_of(path, flux | {"controlnet_blocks.0.weight": (4, 4)}))
    assert (identity.role, identity.architecture) == (ModelType.CONTROLNET, None)


@pytest.mark.parametrize(("shapes", "role"), [(VAE, ModelType.VAE), (CLIP, ModelType.TEXT_ENCODER)])
def test_a_part_of_its_own(path: Path, shapes: Shapes, role: ModelType) -> None:
    identity = identify(header_of(path, shapes))
    assert (identity.role, identity.architecture, identity.parts) == (role, None, ())
    assert identity.detected_by == "our table"
    assert identity.tensor_count == 1


def test_a_file_that_nobody_knows_shows_a_few_names(path: Path) -> None:
    shapes = {f"strange.{i}": (i,) for i in (9, 3, 7, 1, 8, 2)}
    identity = identify(header_of(path, shapes, "F16"))
    assert (identity.role, identity.architecture, identity.title) == (ModelType.OTHER, None, "unknown")
    assert identity.detected_by == ""
    assert identity.seen == ("strange.9", "strange.3", "strange.7", "strange.1", "strange.8")
    assert not identity.recognised
    assert identity.parameters == 30
    assert identity.precision == "fp16"


def test_a_file_without_tensors(path: Path) -> None:
    identity = identify(header_of(path, {}))
    assert (identity.role, identity.parameters, identity.weight_bytes) == (ModelType.OTHER, 0, 0)
    assert (identity.precision, identity.seen, identity.dtypes) == ("no weights", (), {})


# Figures and precision


def test_types_are_counted_in_weights_most_first(path: Path) -> None:
    kinds = {"blocks.0.ffn.0.weight": "F8_E4M3", "head.modulation": "F32"}
    identity = identify(header_of(path, WAN, kinds))
    assert identity.dtypes == {"fp8_e4m3fn": 8192, "bf16": WAN_COUNT - 8192 - 128, "fp32": 128}
    assert list(identity.dtypes) == ["bf16", "fp8_e4m3fn", "fp32"]
    assert identity.weight_bytes == 8192 + 4 * 128 + 2 * (WAN_COUNT - 8192 - 128)


@pytest.mark.parametrize(
    ("dtype", "precision", "kind"),
    [
        ("F32", "fp32", QuantizationType.NONE),
        ("F16", "fp16", QuantizationType.FP16),
        ("F8_E5M2", "fp8_e5m2", QuantizationType.FP8_E5M2),
    ],
)
def test_the_precision_of_a_plain_file(
    path: Path, dtype: str, precision: str, kind: QuantizationType
) -> None:
    identity = identify(header_of(path, WAN, dict.fromkeys(WAN, dtype)))
    assert (identity.precision, identity.quantization) == (precision, kind)
    assert (identity.quantized_layers, identity.quantization_layout) == (0, "")


def quantized(path: Path, form: str, dtype: str, shape: tuple[int, ...], prefix: str = "") -> Header:
    """A Wan whose one large layer carries a marker."""
    marker = json.dumps({"format": form}).encode()
    layer = f"{prefix}blocks.0.ffn.0"
    shapes = prefixed(prefix, {n: s for n, s in WAN.items() if n != "blocks.0.ffn.0.weight"})
    specs = [TensorSpec(name, "BF16", s) for name, s in shapes.items()]
    specs += [
        TensorSpec(f"{layer}.weight", dtype, shape),
        TensorSpec(f"{layer}.weight_scale", "F32", (128,)),
        TensorSpec(f"{layer}.comfy_quant", "U8", (len(marker),)),
        TensorSpec("first_stage_model.decoder.conv_in.weight", "BF16", (8, 4, 3, 3)),
    ]
    with SafetensorsWriter(path, specs, {}) as writer:
        for spec in specs:
            writer.write(spec.name, marker if spec.name.endswith("comfy_quant") else bytes(spec.nbytes))
        writer.finish({})
    return read_header(path)


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize(
    ("form", "dtype", "shape", "kind"),
    [
        ("float8_e4m3fn", "F8_E4M3", (128, 64), QuantizationType.FP8_E4M3),
        ("int8_tensorwise", "I8", (128, 64), QuantizationType.INT8),
        ("nvfp4", "U8", (128, 32), QuantizationType.NVFP4),  # two weights to a byte
        ("convrot_w4a4", "I8", (128, 32), QuantizationType.W4A4),
        ("asym_w4a8_int8", "U8", (128, 32), QuantizationType.W4A8),
    ],
)
def test_weights_are_counted_also_when_two_share_a_byte(
    path: Path, form: str, dtype: str, shape: tuple[int, ...], kind: QuantizationType, prefix: str
) -> None:
    identity = identify(quantized(path, form, dtype, shape, prefix))
    assert identity.parameters == WAN_COUNT + (0 if prefix else 288)
    assert (identity.quantization, identity.quantized_layers) == (kind, 1)
    assert identity.quantization_layout == "comfy_quant"


def test_bytes_include_what_describes_a_weight_and_counts_do_not(path: Path) -> None:
    identity = identify(quantized(path, "float8_e4m3fn", "F8_E4M3", (128, 64), "net."))
    marker = len(json.dumps({"format": "float8_e4m3fn"}))
    assert identity.weight_bytes == 2 * (WAN_COUNT - 8192) + 8192 + 4 * 128 + marker
    assert identity.dtypes == {"bf16": WAN_COUNT - 8192, "fp8_e4m3fn": 8192}


def test_quantized_parts_beside_the_model_do_not_make_the_model_quantized(path: Path) -> None:
    """Such as an fp8 text encoder in a checkpoint whose diffusion model is bf16."""
    conf = {
        "layers": {"text_encoders.t5.encoder.block.0.layer.0.SelfAttention.q": {"format": "float8_e4m3fn"}}
    }
    shapes = prefixed("model.diffusion_model.", WAN)
    shapes["text_encoders.t5.encoder.block.0.layer.0.SelfAttention.q.weight"] = (4096, 4096)
    kinds = {"text_encoders.t5.encoder.block.0.layer.0.SelfAttention.q.weight": "F8_E4M3"}
    header = read_header(shapes_file(path, shapes, kinds, {"_quantization_metadata": json.dumps(conf)}))
    identity = identify(header)
    assert identity.role is ModelType.CHECKPOINT
    assert identity.dtypes == {"bf16": WAN_COUNT}
    assert (identity.precision, identity.quantization) == ("bf16", QuantizationType.BF16)
    assert (identity.quantized_layers, identity.quantization_layout) == (0, "")


def test_a_broken_marker_breaks_the_file(path: Path) -> None:
    shapes_file(path, WAN | {"blocks.0.ffn.0.comfy_quant": (4,)}, {"blocks.0.ffn.0.comfy_quant": "U8"})
    with pytest.raises(InvalidHeader, match="quantization marker that cannot be read"):
        identify(read_header(path))


# A host's own detection


def test_the_host_knows_better_than_the_table(path: Path) -> None:
    asked: list[Header] = []

    def detect(header: Header) -> Detection:
        asked.append(header)
        return Detection("Flux", "", "ComfyUI 0.33.0")

    header = header_of(path, WAN)
    identity = identify(header, detect)
    assert asked == [header]
    assert (identity.architecture, identity.title) == ("flux-dev", "Flux.1 dev")
    assert identity.detected_by == "ComfyUI 0.33.0"


def test_a_class_of_several_models_is_named_by_its_tensors(path: Path) -> None:
    shapes = WAN | {"patch_embedding.weight": (64, 36, 1, 2, 2)}
    identity = identify(header_of(path, shapes), lambda _: Detection("WAN21_T2V", "", "ComfyUI"))
    assert identity.architecture == "wan2.2-i2v-14b"


def test_a_class_that_our_table_does_not_know_names_itself(path: Path) -> None:
    shapes = prefixed("diffusion.", {"layer.weight": (10, 10)}) | prefixed("vae.", VAE)
    identity = identify(
        header_of(path, shapes), lambda _: Detection("TomorrowsModel", "diffusion.", "ComfyUI 1.0")
    )
    assert (identity.role, identity.architecture) == (ModelType.CHECKPOINT, "tomorrowsmodel")
    assert (identity.title, identity.prefix) == ("TomorrowsModel", "diffusion.")
    assert identity.detected_by == "ComfyUI 1.0"
    assert identity.parameters == 100
    assert identity.seen == ()


def test_our_table_is_asked_when_the_host_finds_nothing(path: Path) -> None:
    identity = identify(header_of(path, WAN), lambda _: None)
    assert (identity.architecture, identity.detected_by) == ("wan-t2v", "our table")


def test_the_host_is_not_asked_about_adapters(path: Path) -> None:
    shapes = WAN | {"blocks.0.q.lora_A.weight": (4, 4)}
    identity = identify(header_of(path, shapes), lambda _: Detection("WAN21_T2V", "", "ComfyUI"))
    assert (identity.role, identity.detected_by) == (ModelType.LORA, "our table")


# Dictionaries


@pytest.mark.parametrize(
    "shapes",
    [WAN, VAE, {"strange": (1,)}, {}, prefixed("model.diffusion_model.", WAN) | prefixed("vae.", VAE)],
    ids=["diffusion", "vae", "unknown", "empty", "checkpoint"],
)
def test_an_identity_survives_json(path: Path, shapes: Shapes) -> None:
    identity = identify(header_of(path, shapes))
    again = ModelIdentity.from_dict(json.loads(json.dumps(identity.to_dict())))
    assert again == identity
    assert isinstance(again.parts, tuple)
    assert isinstance(again.role, ModelType)


def test_reading_a_dictionary_leaves_it_alone(path: Path) -> None:
    facts = identify(header_of(path, WAN)).to_dict()
    before = json.dumps(facts)
    ModelIdentity.from_dict(facts)
    assert json.dumps(facts) == before


def test_facts_of_an_earlier_version_are_still_read(path: Path) -> None:
    identity = identify(header_of(path, WAN))
    facts = identity.to_dict()
    del facts["quantization_layout"]
    assert ModelIdentity.from_dict(facts) == identity


@pytest.mark.parametrize("change", [{"role": "nonsense"}, {"quantization": "fp3"}, {"of_tomorrow": 1}])
def test_facts_of_another_version_are_refused(path: Path, change: dict[str, object]) -> None:
    facts = identify(header_of(path, WAN)).to_dict() | change
    with pytest.raises((ValueError, TypeError)):
        ModelIdentity.from_dict(facts)
