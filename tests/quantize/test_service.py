"""Quantizing as a person asks for it: names, earlier results, refusals, and what is left behind."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from managed_models.manager import __version__
from managed_models.manager.demo import layouts
from managed_models.manager.demo.tiny import write_random_model
from managed_models.manager.errors import (
    AlreadyQuantized,
    BadInput,
    Cancelled,
    FileError,
    InvalidOutputName,
    ManagedModelsError,
    ModelNotFound,
    NonFiniteWeights,
    NotEnoughDisk,
    NothingToQuantize,
    NotSafetensors,
    OutputExists,
)
from managed_models.manager.files import file_sha256
from managed_models.manager.formats.safetensors import read_header
from managed_models.manager.formats.writer import FileLayout, TensorSpec
from managed_models.manager.identify import ModelIdentity, identify
from managed_models.manager.identify.reading import read_identity
from managed_models.manager.integrity import verify_file
from managed_models.manager.lineage import made_from
from managed_models.manager.local_host import LocalHost
from managed_models.manager.quantize.formats import FORMATS
from managed_models.manager.quantize.keep_rules import keep_rule
from managed_models.manager.quantize.names import derived_name
from managed_models.manager.quantize.request import QuantizeRequest
from managed_models.manager.quantize.service import Quantizer
from managed_models.manager.report import render_quantize
from managed_models.manager.watch import Nobody
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support.files import raw_file, shapes_file

Tensors = dict[str, torch.Tensor]
WAN = layouts.wan21_t2v(width=64, ffn=128, layers=1)
# Formats that turn the weights take 256 columns at a time.
WIDE = layouts.wan21_t2v(width=256, ffn=256, layers=1)
LAYER = "blocks.0.ffn.0.weight"


@pytest.fixture(autouse=True, scope="module")
def _one_torch_thread() -> Iterator[None]:
    """Keep torch's threads from waiting for each other where other work fills the processor."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def write_wan(
    path: Path,
    dtype: str = "BF16",
    change: Callable[[Tensors], Any] | None = None,
    seed: int = 0,
    layout: dict[str, tuple[int, ...]] = WAN,
) -> Path:
    """Write a very small Wan; ``change`` edits its tensors first."""
    write_random_model(path, layout, seed, dtype)
    if change:
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, {"format": "pt"})
    return path


def layout_for(format: str) -> dict[str, tuple[int, ...]]:
    return WIDE if FORMATS[format].column_multiple > 64 else WAN


def make_quantizer(watch: Any = None) -> Quantizer:
    return Quantizer(lambda path: identify(read_header(path)), watch)


def quantize(source: Path, output: Path | None = None, watch: Any = None, **options: Any) -> dict[str, Any]:
    request = QuantizeRequest(**options)
    quantizer = make_quantizer(watch)
    return quantizer.quantize(source, output or quantizer.output_path(source, request), request)


class State(NamedTuple):
    """What changes when a file is written again."""

    inode: int
    mtime_ns: int
    content: bytes

    @classmethod
    def of(cls, path: Path) -> State:
        status = path.stat()
        return cls(status.st_ino, status.st_mtime_ns, path.read_bytes())


@contextmanager
def nothing_changes(folder: Path) -> Iterator[None]:
    """Hold the folder to be the same after the block: no new file, no lost one, no other bytes."""
    before = {path: State.of(path) for path in folder.iterdir() if path.is_file()}
    yield
    assert {path: State.of(path) for path in folder.iterdir() if path.is_file()} == before


@pytest.fixture
def wan(tmp_path: Path) -> Path:
    return write_wan(tmp_path / "wan_bf16.safetensors")


# Requests


def test_the_defaults_are_those_of_the_contract() -> None:
    assert QuantizeRequest() == QuantizeRequest(
        format="fp8_e4m3fn_scaled",
        policy="recommended",
        target_size_gb=0,
        quality="fast",
        keep_patterns="",
        layout="comfy_quant",
        overwrite=False,
        allow_requantize=False,
        allow_nonfinite=False,
        max_memory_gb=0,
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target_size_gb": 4.0}, "target_size_gb is 4, and the policy is recommended"),
        ({"policy": "size_budget"}, "no GPU is known here"),
        ({"policy": "size_budget", "target_size_gb": 1.0, "layout": "scaled_fp8"}, "mixes formats"),
        ({"format": "int8", "layout": "scaled_fp8"}, "older form of fp8"),
        ({"format": "bf16", "layout": "scaled_fp8"}, "older form of fp8"),
        ({"max_memory_gb": -1.0}, "max_memory_gb is -1.0"),
        ({"max_memory_gb": math.nan}, "max_memory_gb is nan"),
        ({"policy": "size_budget", "target_size_gb": math.inf}, "target_size_gb is inf"),
        ({"policy": "size_budget", "target_size_gb": 1e6}, "target_size_gb is 1000000.0"),
    ],
)
def test_what_does_not_go_together_is_refused(wan: Path, options: dict[str, Any], words: str) -> None:
    with nothing_changes(wan.parent), pytest.raises(BadInput, match=words) as caught:
        quantize(wan, **options)
    assert caught.value.code == "bad_input"
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("format", "fp9"),
        ("format", ""),
        ("format", "FP8_E4M3FN_SCALED"),
        ("policy", "some"),
        ("quality", "worst"),
        ("layout", "gguf"),
        ("keep_patterns", "ffn, *"),
    ],
)
def test_what_does_not_exist_is_refused_with_the_choices(wan: Path, option: str, value: str) -> None:
    with nothing_changes(wan.parent), pytest.raises(BadInput) as caught:
        quantize(wan, **{option: value})
    assert caught.value.code == "bad_input"
    assert caught.value.remedy


# Names


@pytest.mark.parametrize(
    ("source", "format", "expected"),
    [
        ("wan_bf16.safetensors", "fp8_e4m3fn_scaled", "wan_fp8_e4m3fn_scaled.safetensors"),
        ("wan-fp16.safetensors", "int8", "wan_int8.safetensors"),
        ("wan.fp32.safetensors", "bf16", "wan_bf16.safetensors"),
        ("wan.safetensors", "int8", "wan_int8.safetensors"),
        ("wan2.1.v1.safetensors", "fp16", "wan2.1.v1_fp16.safetensors"),
        ("bf16.safetensors", "int8", "bf16_int8.safetensors"),
    ],
)
def test_a_derived_name_replaces_the_precision(source: str, format: str, expected: str) -> None:
    assert derived_name(source, FORMATS[format].suffix) == expected
    request = QuantizeRequest(format=format)
    assert make_quantizer().output_path(Path("/m", source), request) == Path("/m", expected)


def test_other_recipes_get_other_names() -> None:
    requests = [
        QuantizeRequest(),
        QuantizeRequest(policy="everything"),
        QuantizeRequest(keep_patterns="ffn"),
        QuantizeRequest(keep_patterns="attn"),
        QuantizeRequest(format="int8"),
        QuantizeRequest(quality="best"),
        QuantizeRequest(layout="scaled_fp8"),
        QuantizeRequest(policy="size_budget", target_size_gb=1),
        QuantizeRequest(policy="size_budget", target_size_gb=1.25),
        QuantizeRequest(policy="size_budget", target_size_gb=1, quality="best"),
    ]
    names = {make_quantizer().output_path(Path("wan.safetensors"), request).name for request in requests}
    assert len(names) == len(requests)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("mine", "mine.safetensors"),
        ("mine.safetensors", "mine.safetensors"),
        ("mine.SAFETENSORS", "mine.SAFETENSORS"),
        ("  mine  ", "mine.safetensors"),
        ("v1.5", "v1.5.safetensors"),
        ("größe 模型", "größe 模型.safetensors"),
    ],
)
def test_a_given_name_gets_its_ending(given: str, expected: str) -> None:
    path = make_quantizer().output_path(Path("/models/wan.safetensors"), QuantizeRequest(), given)
    assert path == Path("/models", expected)


@pytest.mark.parametrize(
    "name",
    [
        "../wan",
        "sub/wan",
        "sub\\wan",
        "..\\wan",
        "/etc/wan",
        "C:\\wan",
        "C:wan",
        ".",
        "..",
        "   ",
        "wan\0",
        "wan\n2",
        "wan:stream",
        "wan?",
        "wan*",
        'wan"',
        "a<b",
        "a|b",
        "wan.ckpt",
        "wan.pt",
        "wan.gguf",
        "wan.sft",
        "wan/",
    ],
)
def test_a_name_that_is_no_plain_file_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidOutputName):
        make_quantizer().output_path(Path("/models/wan.safetensors"), QuantizeRequest(), name)


# The facts about a result


def test_the_details_are_json_and_true(wan: Path) -> None:
    output = wan.with_name("wan_fp8_e4m3fn_scaled.safetensors")
    details = quantize(wan)
    assert json.loads(json.dumps(details)) == details
    linear = [name for name, shape in WAN.items() if name.endswith(".weight") and len(shape) == 2]
    written = load_file(output)
    changed = [name for name in linear if written[name].dtype == torch.float8_e4m3fn]
    share = sum(math.prod(WAN[n]) for n in changed) / sum(math.prod(WAN[n]) for n in linear)
    layers, kept = details.pop("layers"), details.pop("kept")
    measured = {"seconds": 0, "layer_errors": {}, "mean_error": 0, "total_error": 0, "worst": []}
    assert details | measured == {
        "source": "wan_bf16.safetensors",
        "output": "wan_fp8_e4m3fn_scaled.safetensors",
        "path": str(output),
        "reused": False,
        "format": "fp8_e4m3fn_scaled",
        "format_words": "fp8_e4m3fn, scaled",
        "architecture": "Wan 2.1 or Wan 2.2 14B text-to-video",
        "policy": "recommended",
        "quality": "fast",
        "layout": "comfy_quant",
        "rule": {
            "name": "wan",
            "known": True,
            "used": True,
            "source": keep_rule("wan").source,
            "patterns": list(keep_rule("wan").patterns),
            "keep_patterns": [],
        },
        "policy_rule": "wan",
        "requantized_layers": 0,
        "sampled_layers": 0,
        "resumed_bytes": 0,
        "stored_as": "bf16",
        "source_bytes": wan.stat().st_size,
        "output_bytes": output.stat().st_size,
        "linear_layers": len(linear),
        "changed_layers": len(changed),
        "changed_share": pytest.approx(share),
        "kept_layers": {"kept by the recommended policy": len(linear) - len(changed)},
        "kept_names": [n.removesuffix(".weight") for n in linear if n not in changed],
        "formats": [
            {
                "format": "fp8_e4m3fn_scaled",
                "layers": len(changed),
                "weights": sum(math.prod(WAN[n]) for n in changed),
                "bytes": sum(math.prod(WAN[n]) + 4 + len('{"format": "float8_e4m3fn"}') for n in changed),
            }
        ],
        "layer_formats": ["float8_e4m3fn"],
        "missing_formats": [],
        "budget": None,
        "layer_errors": {},
        "worst": [],
        "mean_error": 0,
        "total_error": 0,
        "made_with": {"managed_models": __version__, "torch": importlib.metadata.version("torch")},
        "source_sha256": hashlib.sha256(wan.read_bytes()).hexdigest(),
        "loads_here": True,
        "seconds": 0,
    }
    original = load_file(wan)
    noise = signal = 0.0
    for name in changed:
        layer = name.removesuffix(".weight")
        exact = original[name].double()
        change = written[name].double() * written[f"{layer}.weight_scale"].double() - exact
        error = float(change.norm() / exact.norm())
        assert details["layer_errors"][layer] == pytest.approx(error, rel=1e-2)
        noise, signal = noise + error**2 * exact.numel(), signal + exact.numel()
    changes = [
        (written[n].double() * written[f"{n}_scale"].double() - original[n].double()).square().sum()
        for n in changed
    ]
    total = math.sqrt(sum(changes) / sum(original[n].double().square().sum() for n in changed))
    assert details["total_error"] == pytest.approx(total, rel=1e-2)
    assert set(details["layer_errors"]) == {n.removesuffix(".weight") for n in changed}
    by_error = sorted(details["layer_errors"].values(), reverse=True)
    assert [details["layer_errors"][name] for name in details["worst"]] == by_error[:10]
    assert [layer["name"] for layer in layers] == list(details["layer_errors"])
    for layer in layers:
        assert layer["error"] == details["layer_errors"][layer["name"]]
        assert layer["sqnr_db"] == pytest.approx(-20 * math.log10(layer["error"]), abs=0.01)
        assert (layer["format"], layer["was"]) == ("fp8_e4m3fn_scaled", "BF16")
        assert tuple(layer["shape"]) == WAN[f"{layer['name']}.weight"]
    assert {layer["name"] for group in kept for layer in group["layers"]} == set(details["kept_names"])
    assert details["mean_error"] == pytest.approx(math.sqrt(noise / signal), rel=1e-2)


def test_the_file_says_what_it_was_made_from_and_how(wan: Path) -> None:
    details = quantize(wan, format="int8", keep_patterns="self_attn, ffn.2")
    with safe_open(details["path"], "pt") as file:
        metadata = file.metadata()
    origin = made_from(metadata)
    status = wan.stat()
    assert origin == {
        "name": "wan_bf16.safetensors",
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "format": "int8",
        "recipe": {
            "format": "int8",
            "policy": "recommended",
            "keep_patterns": ["self_attn", "ffn.2"],
            "layout": "comfy_quant",
            "quality": "fast",
            "version": 2,
        },
    }
    assert metadata["managed_models.source_sha256"] == hashlib.sha256(wan.read_bytes()).hexdigest()
    assert identify(read_header(details["path"])).quantized_layers == details["changed_layers"]
    assert verify_file(Path(details["path"]))["ok"]


def test_the_metadata_of_the_source_comes_along_but_not_our_old_facts(tmp_path: Path) -> None:
    source = write_wan(tmp_path / "wan.safetensors", "F32")
    said = {"modelspec.title": "Mine", "format": "pt", "managed_models.something": "old"}
    save_file(load_file(source), source, said)
    first = quantize(source, format="bf16")
    second = quantize(Path(first["path"]), format="int8")
    with safe_open(second["path"], "pt") as file:
        metadata = file.metadata()
    assert (metadata["modelspec.title"], metadata["format"]) == ("Mine", "pt")
    assert "managed_models.something" not in metadata
    origin = made_from(metadata)
    assert origin is not None
    assert (origin["name"], origin["format"]) == ("wan_bf16.safetensors", "int8")


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"managed_models.source": "{}", "managed_models.recipe": "{}"},
        {"managed_models.source": "[1]", "managed_models.recipe": "null"},
        {"managed_models.source": "broken"},
    ],
)
def test_any_other_file_was_not_made_by_us(metadata: dict[str, str]) -> None:
    assert made_from(metadata) is None


def test_odd_layers_are_kept_and_listed(tmp_path: Path) -> None:
    def add(tensors: Tensors) -> None:
        tensors["blocks.0.odd.weight"] = torch.ones(100, 64, dtype=torch.bfloat16)
        tensors["blocks.0.small.weight"] = torch.ones(16, 64, dtype=torch.bfloat16)

    details = quantize(write_wan(tmp_path / "wan.safetensors", change=add))
    assert details["kept_layers"]["its shape does not divide into blocks of 16"] == 1
    assert details["kept_layers"]["it is smaller than 32 in one direction"] == 1
    words = render_quantize(details)
    assert "blocks.0.odd (100 x 64)" in words
    assert "blocks.0.small (16 x 64)" in words
    assert {"blocks.0.odd", "blocks.0.small"} < set(details["kept_names"])
    written = load_file(details["path"])
    assert written["blocks.0.odd.weight"].dtype == torch.bfloat16


def test_the_policy_everything_converts_more(wan: Path) -> None:
    recommended, everything = quantize(wan), quantize(wan, policy="everything")
    assert recommended["changed_layers"] < everything["changed_layers"] == everything["linear_layers"]
    assert everything["changed_share"] == 1.0
    assert everything["kept_layers"] == {}
    assert everything["output"] == "wan_fp8_e4m3fn_scaled_everything.safetensors"


def test_an_architecture_without_a_rule_uses_the_generic_one_and_says_so(tmp_path: Path) -> None:
    layout = {
        "t5_yproj.weight": (64, 64),
        "blocks.0.attn.qkv.weight": (192, 64),
        "time_mlp.weight": (64, 64),
        "blocks.0.norm1.weight": (64, 64),
    }
    source = tmp_path / "new.safetensors"
    write_random_model(source, layout)

    def newer(path: Path) -> ModelIdentity:  # as a ComfyUI that knows more than our table names it
        return replace(identify(read_header(path)), architecture="newclass", title="NewClass")

    quantizer = Quantizer(newer)
    details = quantizer.quantize(source, tmp_path / "small.safetensors", QuantizeRequest())
    assert (details["policy_rule"], details["changed_layers"]) == ("generic", 2)
    assert set(details["kept_names"]) == {"time_mlp", "blocks.0.norm1"}
    words = render_quantize(details)
    assert "Rule: generic, for none is known for this architecture" in words
    assert "keeps norm, embed, time_" in words


@pytest.mark.parametrize(
    ("known", "format", "loads"),
    [
        (None, "int8", True),  # nobody knows
        (frozenset(), "int8", False),
        (frozenset({"float8_e4m3fn"}), "int8", False),
        (frozenset({"float8_e4m3fn"}), "fp8_e4m3fn_scaled", True),
        (frozenset({"int8_tensorwise"}), "int8", True),
        (frozenset(), "fp16", True),  # plain weights
    ],
)
def test_the_details_say_whether_this_host_loads_the_result(
    wan: Path, known: frozenset[str] | None, format: str, loads: bool
) -> None:
    quantizer = Quantizer(lambda path: identify(read_header(path)), None, lambda: known)
    for reused in (False, True):
        details = quantizer.quantize(wan, wan.with_name("x.safetensors"), QuantizeRequest(format=format))
        assert (details["reused"], details["loads_here"]) == (reused, loads)


# Finding the earlier result


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_the_same_request_finds_its_earlier_result(tmp_path: Path, format: str) -> None:
    source = write_wan(tmp_path / "wan.safetensors", "F32", layout=layout_for(format))
    first = quantize(source, format=format)
    with nothing_changes(tmp_path):
        second = quantize(source, format=format)
    assert second["reused"]
    assert second["seconds"] is None
    assert second["layer_errors"] == pytest.approx(first["layer_errors"], rel=1e-3)
    same = set(first) - {"reused", "seconds", "layer_errors", "mean_error"}
    assert {key: second[key] for key in same} == {key: first[key] for key in same}
    assert second["mean_error"] == pytest.approx(first["mean_error"], rel=1e-3)


def test_an_earlier_result_is_found_even_when_overwriting_is_allowed(wan: Path) -> None:
    quantize(wan)
    with nothing_changes(wan.parent):
        assert quantize(wan, overwrite=True)["reused"]


def test_a_copied_source_is_recognised_by_its_hash(wan: Path) -> None:
    quantize(wan)
    os.utime(wan, ns=(10**18, 10**18))
    with nothing_changes(wan.parent):
        assert quantize(wan)["reused"]


def test_another_model_of_the_same_shapes_is_not_the_same_source(wan: Path) -> None:
    first = quantize(wan)
    size = wan.stat().st_size
    write_wan(wan, seed=1)
    os.utime(wan, ns=(10**18, 10**18))
    assert wan.stat().st_size == size
    with nothing_changes(wan.parent), pytest.raises(OutputExists, match="was not made from wan_bf16"):
        quantize(wan)
    second = quantize(wan, overwrite=True)
    assert not second["reused"]
    assert second["source_sha256"] == hashlib.sha256(wan.read_bytes()).hexdigest() != first["source_sha256"]


def test_a_source_of_another_size_is_told_apart_without_reading_it(wan: Path) -> None:
    class Reads(Nobody):
        def progress(self, done: int, total: int) -> None:
            raise AssertionError("it was read")

    quantize(wan)
    write_random_model(wan, layouts.wan21_t2v(width=64, ffn=128, layers=2))
    with nothing_changes(wan.parent), pytest.raises(OutputExists):
        quantize(wan, watch=Reads())


@pytest.mark.parametrize(
    "options", [{"format": "int8"}, {"policy": "everything"}, {"keep_patterns": "ffn"}, {"format": "fp16"}]
)
def test_another_recipe_under_that_name_is_refused_until_overwriting_is_allowed(
    wan: Path, options: dict[str, Any]
) -> None:
    output = wan.with_name("mine.safetensors")
    quantize(wan, output)
    with nothing_changes(wan.parent), pytest.raises(OutputExists) as caught:
        quantize(wan, output, **options)
    assert caught.value.details == {"output": str(output)}
    details = quantize(wan, output, **options, overwrite=True)
    assert not details["reused"]
    assert quantize(wan, output, **options)["reused"]


def test_patterns_in_another_order_are_another_recipe_only_by_their_text(wan: Path) -> None:
    output = wan.with_name("mine.safetensors")
    quantize(wan, output, keep_patterns="ffn.0,self_attn")
    assert quantize(wan, output, keep_patterns=" ffn.0\nself_attn ")["reused"]


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(b"hello"),
        lambda path: path.write_bytes(b""),
        lambda path: write_wan(path, seed=4),
        lambda path: raw_file(path, {"__metadata__": {"managed_models.source": "{"}}),
    ],
    ids=["text", "empty", "a model", "broken facts"],
)
def test_a_file_of_someone_else_is_never_taken_for_ours(wan: Path, write: Callable[[Path], Any]) -> None:
    output = wan.with_name("mine.safetensors")
    write(output)
    with nothing_changes(wan.parent), pytest.raises(OutputExists):
        quantize(wan, output)
    quantize(wan, output, overwrite=True)
    assert verify_file(output)["ok"]


def test_an_earlier_result_that_was_cut_short_is_made_again_when_allowed(wan: Path) -> None:
    output = Path(quantize(wan)["path"])
    whole = output.read_bytes()
    os.truncate(output, len(whole) - 10)
    with pytest.raises(OutputExists):
        quantize(wan)
    assert not quantize(wan, overwrite=True)["reused"]
    assert output.read_bytes() == whole


def test_a_source_with_the_wrong_time_is_hashed_and_may_be_stopped(wan: Path) -> None:
    quantize(wan)
    os.utime(wan, ns=(10**18, 10**18))
    host = LocalHost()
    host.cancel()
    with nothing_changes(wan.parent), pytest.raises(Cancelled):
        quantize(wan, watch=host)


# Weights that do not fit


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("format", sorted(FORMATS))
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path: Path, format: str, bad: float) -> None:
    def spoil(tensors: Tensors) -> None:
        tensors[LAYER][3, 5] = bad
        tensors["head.head.bias"][0] = bad

    source = write_wan(tmp_path / "wan.safetensors", "F32", spoil, layout=layout_for(format))
    with nothing_changes(tmp_path), pytest.raises(NonFiniteWeights) as caught:
        quantize(source, format=format)
    assert set(caught.value.details["tensors"]) == {LAYER, "head.head.bias"}
    assert LAYER in str(caught.value)


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_weights_that_are_not_finite_are_kept_when_allowed(tmp_path: Path, format: str) -> None:
    def spoil(tensors: Tensors) -> None:
        tensors[LAYER][3, 5] = math.nan

    source = write_wan(tmp_path / "wan.safetensors", "F32", spoil, layout=layout_for(format))
    details = quantize(source, format=format, allow_nonfinite=True)
    written = load_file(details["path"])
    original = load_file(source)[LAYER]
    assert written[LAYER].dtype == torch.float32
    assert written[LAYER].numpy().tobytes() == original.numpy().tobytes()
    assert details["kept_layers"]["it holds NaN or infinite weights"] == 1
    assert "blocks.0.ffn.0" in details["kept_names"]
    assert "blocks.0.ffn.0" not in details["layer_errors"]
    assert verify_file(Path(details["path"]))["ok"]
    again = quantize(source, format=format, allow_nonfinite=True)
    assert again["reused"]
    assert again["layer_errors"] == pytest.approx(details["layer_errors"], rel=1e-3)
    assert again["changed_layers"] == details["changed_layers"]


def test_a_tensor_beyond_fp16_is_kept_and_listed(tmp_path: Path) -> None:
    def push(tensors: Tensors) -> None:
        tensors[LAYER][0, 0] = 1e5

    source = write_wan(tmp_path / "wan.safetensors", "F32", push)
    details = quantize(source, format="fp16")
    written = load_file(details["path"])
    assert torch.equal(written[LAYER], load_file(source)[LAYER])
    assert written["blocks.0.ffn.2.weight"].dtype == torch.float16
    assert details["kept_layers"] == {"its largest weight, 1e+05, is beyond fp16": 1}


def test_a_model_that_is_wholly_beyond_fp16_has_nothing_to_convert(tmp_path: Path) -> None:
    def push(tensors: Tensors) -> None:
        for tensor in tensors.values():
            tensor.view(-1)[0] = 1e5

    source = write_wan(tmp_path / "wan.safetensors", "F32", push)
    with nothing_changes(tmp_path), pytest.raises(NothingToQuantize, match="No weight of"):
        quantize(source, format="fp16")


# Refusals


@pytest.mark.parametrize("format", ["fp8_e4m3fn_scaled", "int8", "bf16"])
@pytest.mark.parametrize("earlier", ["fp8_e4m3fn_scaled", "int8"])
def test_our_own_quantized_files_are_not_quantized_again(wan: Path, earlier: str, format: str) -> None:
    first = Path(quantize(wan, format=earlier)["path"])
    with nothing_changes(wan.parent), pytest.raises(AlreadyQuantized):
        quantize(first, first.with_name("twice.safetensors"), format=format)


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "I8"])
def test_plain_eight_bit_files_are_not_quantized_again(tmp_path: Path, dtype: str) -> None:
    source = shapes_file(tmp_path / "wan.safetensors", WAN, dtype)
    with nothing_changes(tmp_path), pytest.raises(AlreadyQuantized):
        quantize(source)


def test_the_old_scaled_fp8_layout_is_not_quantized_again(tmp_path: Path) -> None:
    shapes = WAN | {"scaled_fp8": (0,), "blocks.0.ffn.0.scale_weight": (1,)}
    kinds = {name: "F8_E4M3" if len(shape) == 2 else "F32" for name, shape in shapes.items()}
    source = shapes_file(tmp_path / "wan.safetensors", shapes, kinds)
    with nothing_changes(tmp_path), pytest.raises(AlreadyQuantized):
        quantize(source)


def test_nothing_to_quantize(wan: Path) -> None:
    with nothing_changes(wan.parent), pytest.raises(NothingToQuantize) as caught:
        quantize(wan, wan.with_name("x.safetensors"), format="bf16")
    assert "bf16" in str(caught.value)


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({"blocks.0.lora_down.weight": (64, 64), "blocks.0.lora_up.weight": (64, 64)}, "LoRA"),
        ({"decoder.conv_in.weight": (64, 64), "decoder.mid.weight": (64, 64)}, "VAE"),
        ({"a.weight": (64, 64)}, "nobody here recognises"),
    ],
)
def test_a_file_that_is_no_diffusion_model_is_refused(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], words: str
) -> None:
    source = shapes_file(tmp_path / "other.safetensors", shapes)
    with nothing_changes(tmp_path), pytest.raises(BadInput, match=words):
        quantize(source)


@pytest.mark.parametrize(
    ("content", "error"),
    [(b"PK\x03\x04" + bytes(60), NotSafetensors), (b"", NotSafetensors), (b"\x10", FileError)],
)
def test_a_source_that_is_no_safetensors_file_is_refused(
    tmp_path: Path, content: bytes, error: type[ManagedModelsError]
) -> None:
    source = tmp_path / "x.safetensors"
    source.write_bytes(content)
    with nothing_changes(tmp_path), pytest.raises(error):
        quantize(source)


def test_a_source_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        quantize(tmp_path / "nothing.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there(wan: Path) -> None:
    with nothing_changes(wan.parent), pytest.raises(ModelNotFound, match="There is no folder"):
        quantize(wan, wan.parent / "missing" / "out.safetensors")


def test_a_target_that_is_a_folder(wan: Path) -> None:
    folder = wan.with_name("out.safetensors")
    folder.mkdir()
    with pytest.raises(FileError, match="is a folder"):
        quantize(wan, folder, overwrite=True)


@pytest.mark.parametrize("name", ["out.ckpt", "out", "out.gguf"])
def test_a_target_of_another_kind(wan: Path, name: str) -> None:
    with nothing_changes(wan.parent), pytest.raises(InvalidOutputName):
        quantize(wan, wan.with_name(name))


@pytest.mark.parametrize("link", [None, os.symlink, os.link], ids=["itself", "symlink", "hard link"])
def test_a_source_is_never_its_own_target(wan: Path, link: Callable[[Path, Path], None] | None) -> None:
    target = wan
    if link:
        target = wan.with_name("alias.safetensors")
        link(wan, target)
    with nothing_changes(wan.parent), pytest.raises(BadInput, match="its own target"):
        quantize(wan, target, overwrite=True)


def test_a_full_disk_is_seen_before_anything_is_written(wan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(wan.parent)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with nothing_changes(wan.parent), pytest.raises(NotEnoughDisk, match="1000 bytes are free") as caught:
        quantize(wan)
    assert caught.value.details["free_bytes"] == 1000
    assert caught.value.details["needed_bytes"] > 100_000


@contextmanager
def files_end_at(limit: int) -> Iterator[None]:
    """Let the operating system refuse every byte of a file beyond ``limit``, as a full disk would."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("share", [0.001, 0.5, 0.99], ids=["in the header", "halfway", "at the end"])
def test_a_disk_that_refuses_leaves_nothing_behind(wan: Path, share: float) -> None:
    output = wan.with_name("out.safetensors")
    size = Path(quantize(wan, output)["path"]).stat().st_size
    output.unlink()
    with nothing_changes(wan.parent), files_end_at(int(share * size)), pytest.raises(FileError) as caught:
        quantize(wan, output)
    assert "out.safetensors could not be written" in str(caught.value)


# Stopping


class _StopAt(LocalHost):
    """A host whose person asks to stop once a share of the bytes is done."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self._share = share

    def progress(self, done: int, total: int) -> None:
        if done >= self._share * total:
            self.cancel()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
def test_a_cancelled_job_leaves_nothing_behind(wan: Path, share: float) -> None:
    with nothing_changes(wan.parent), pytest.raises(Cancelled):
        quantize(wan, watch=_StopAt(share))


def test_a_cancelled_job_leaves_the_file_that_it_would_have_replaced(wan: Path) -> None:
    output = wan.with_name("mine.safetensors")
    output.write_bytes(b"old")
    with nothing_changes(wan.parent), pytest.raises(Cancelled):
        quantize(wan, output, watch=_StopAt(0.3), overwrite=True)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("method", ["progress", "throw_if_cancelled"])
def test_a_watch_that_raises_leaves_nothing_behind(
    wan: Path, method: str, error: type[BaseException]
) -> None:
    watch = Nobody()

    def stop(*_: int) -> None:
        raise error

    setattr(watch, method, stop)
    with nothing_changes(wan.parent), pytest.raises(error):
        quantize(wan, watch=watch)


def test_a_job_can_be_given_again_after_it_was_cancelled(wan: Path) -> None:
    host = _StopAt(0.3)
    with pytest.raises(Cancelled):
        quantize(wan, watch=host)
    host._share = 2.0
    assert not quantize(wan, watch=host)["reused"]


def test_a_source_that_changes_meanwhile_leaves_nothing_behind(wan: Path) -> None:
    class Touch(Nobody):
        def progress(self, done: int, total: int) -> None:
            os.utime(wan, ns=(1, 1))

    with pytest.raises(FileError, match="changed while it was being read"):
        quantize(wan, watch=Touch())
    assert os.listdir(wan.parent) == [wan.name]


# Hashing


def test_file_sha256_agrees_with_hashlib_and_tells_how_far_it_is(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(os.urandom(9 << 20))
    seen: list[tuple[int, int]] = []

    class Look(Nobody):
        def progress(self, done: int, total: int) -> None:
            seen.append((done, total))

    assert file_sha256(path, Look()) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert seen == sorted(seen)
    assert seen[-1] == (9 << 20, 9 << 20)


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({"format": "int8"}, 10),
        ({"format": "fp8_e4m3fn_scaled"}, 10),
        ({"format": "int8", "quality": "best"}, 0),
        ({"format": "mxfp8"}, 0),
    ],
)
def test_a_plan_tells_of_how_many_layers_a_part_is_measured(
    tmp_path: Path, options: dict[str, str], count: int
) -> None:
    specs = [TensorSpec(n, "BF16", shape) for n, shape in layouts.wan21_t2v(2048, 4096, 1).items()]
    layout = FileLayout(specs, {"format": "pt"})
    path = tmp_path / "wan.safetensors"
    path.write_bytes(layout.header({"format": "pt"}))
    os.truncate(path, layout.file_size)  # a hole: a plan needs the header alone
    details = Quantizer(read_identity).plan(path, QuantizeRequest(**options))
    assert (details["changed_layers"], details["sampled_layers"]) == (10, count)
