"""Pairing at work: companions of a check, and ``pair``, over real files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from managed_models.manager import AdvancedModelManager
from managed_models.manager.check_options import CheckOptions
from managed_models.manager.checking import Asked
from managed_models.manager.cli.app import app
from managed_models.manager.errors import BadInput, ModelNotFound
from managed_models.manager.formats.safetensors import read_header
from managed_models.manager.host import ModelFolder
from managed_models.manager.local_host import LocalHost
from managed_models.manager.report import render_check, render_pair
from support import pairing_layouts as layouts
from support.files import shapes_file
from typer.testing import CliRunner

FILES: dict[str, tuple[str, layouts.Layout]] = {
    "wan5b.safetensors": ("diffusion_models", layouts.DIFFUSION["wan2.2-5b"]),
    "flux.safetensors": ("diffusion_models", layouts.DIFFUSION["flux-dev"]),
    "wan21_vae.safetensors": ("vae", layouts.VAES["wan2.1"]),
    "wan22_vae.safetensors": ("vae", layouts.VAES["wan2.2"]),
    "umt5.safetensors": ("text_encoders", layouts.TEXT_ENCODERS["umt5-xxl"]),
    "t5.safetensors": ("text_encoders", layouts.TEXT_ENCODERS["t5-xxl"]),
    "flux_ink.safetensors": ("loras", layouts.lora_for(layouts.DIFFUSION["flux-dev"])),
    "odd.safetensors": ("vae", {"a.b": (4, 4)}),
}


@pytest.fixture
def paths(tmp_path: Path) -> dict[str, Path]:
    found = {}
    for name, (folder, shapes) in FILES.items():
        (tmp_path / folder).mkdir(exist_ok=True)
        found[name] = shapes_file(tmp_path / folder / name, shapes)
    return found


@pytest.fixture
def manager(paths: Mapping[str, Path], tmp_path: Path) -> AdvancedModelManager:
    kinds = ("diffusion_models", "vae", "text_encoders", "loras")
    return AdvancedModelManager(host=LocalHost([ModelFolder(kind, tmp_path / kind) for kind in kinds]))


def codes(details: Mapping[str, Any]) -> list[str]:
    return [finding["code"] for finding in details["findings"]]


def test_a_wrong_vae_in_a_check_and_in_pair_has_the_same_words(
    manager: AdvancedModelManager, paths: Mapping[str, Path]
) -> None:
    options = CheckOptions(companions={"vae": paths["wan21_vae.safetensors"]})
    checked = manager.check("wan5b.safetensors", options).to_dict()
    paired = manager.pair("wan5b.safetensors", ["wan21_vae.safetensors"])
    assert not checked["compatible"]
    assert paired["together"] is False
    (finding,) = paired["findings"]
    assert finding in checked["findings"]
    assert (finding["code"], finding["severity"]) == ("vae_mismatch", "blocker")
    assert finding["remedy"] == "Choose wan22_vae.safetensors instead."
    assert "48 latent channels" in finding["needed"]
    assert "16 latent channels" in finding["found"]
    for words in (render_check(checked), render_pair(paired)):
        assert finding["message"] in words
        assert finding["remedy"] in words
    json.dumps(checked)


def test_the_right_files_whoever_is_named_first(manager: AdvancedModelManager) -> None:
    names = ["wan5b.safetensors", "wan22_vae.safetensors", "umt5.safetensors"]
    for i in range(3):
        details = manager.pair(names[i], [*names[:i], *names[i + 1 :]])
        assert details["together"] is True
        assert details["findings"] == []
        assert details["pairing"]["model"]["name"] == "wan5b.safetensors"


def test_a_lora_given_as_a_model_is_judged_as_what_it_is(manager: AdvancedModelManager) -> None:
    details = manager.pair("flux_ink.safetensors", ["wan22_vae.safetensors"])
    assert details["together"] is False
    assert codes(details) == ["pair_mismatch"]
    options = CheckOptions(companions={"vae": Path(manager.library.find_path("flux_ink.safetensors"))})
    assert "wrong_role" in codes(manager.check("wan5b.safetensors", options).to_dict())


def test_broken_files_and_folders_are_findings(manager: AdvancedModelManager, tmp_path: Path) -> None:
    cut = tmp_path / "vae" / "cut.safetensors"
    whole = (tmp_path / "vae" / "wan22_vae.safetensors").read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    details = manager.pair("wan5b.safetensors", ["cut.safetensors", str(tmp_path), "umt5.safetensors"])
    assert details["together"] is False
    assert details["unreadable"] == ["cut.safetensors", tmp_path.name]
    assert codes(details) == ["invalid_header", "file_error"]
    words = render_pair(details)
    assert words.startswith("Not all of these files can be read.")
    assert "download is not complete" in words
    alone = manager.pair(str(cut), ["umt5.safetensors"])
    assert (alone["together"], alone["pairing"]) == (False, None)
    assert "invalid_header" in render_pair(alone) or "not complete" in render_pair(alone)


def test_an_unknown_file_stays_unknown(manager: AdvancedModelManager) -> None:
    details = manager.pair("wan5b.safetensors", ["odd.safetensors"])
    assert (details["together"], codes(details)) == (None, ["pair_unknown"])
    assert "a.b" in details["findings"][0]["message"]
    assert "not all of it is known" in render_pair(details)


def test_what_is_not_there_is_an_error(manager: AdvancedModelManager, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        manager.pair("wan5b.safetensors", ["nothing.safetensors"])
    with pytest.raises(ModelNotFound):
        manager.pair("wan5b.safetensors", [str(tmp_path / "nothing.safetensors")])
    with pytest.raises(BadInput):
        manager.pair("wan5b.safetensors", [])


def test_a_gguf_model_is_compared_too(manager: AdvancedModelManager, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    from support.gguf_files import gguf_file

    shapes = {name: shape for name, shape in layouts.DIFFUSION["flux-dev"].items() if ".1." not in name}
    path = gguf_file(tmp_path / "diffusion_models" / "flux.gguf", shapes, "flux")
    assert manager.pair(str(path), ["flux_ink.safetensors"])["pairing"]["companions"][0]["share"] == 0.5
    details = manager.pair(str(path), ["wan21_vae.safetensors", "t5.safetensors"])
    assert [finding["code"] for finding in details["findings"] if finding["severity"] == "blocker"] == [
        "vae_mismatch"
    ]


def test_a_model_that_is_not_here_is_compared_by_its_header(
    manager: AdvancedModelManager, paths: Mapping[str, Path]
) -> None:
    path = paths["wan5b.safetensors"]
    asked = Asked(
        "https://host/wan5b.safetensors",
        None,
        manager.library.identity(path),
        manager.host.system(),
        CheckOptions(companions={"vae": paths["wan21_vae.safetensors"]}),
        read_header(path),
    )
    advice = manager.pairing.advise(asked)
    assert advice is not None
    assert [finding.code for finding in advice.findings] == ["vae_mismatch"]
    assert advice.details["model"]["latent_channels"] == 48


def test_a_file_that_changed_is_read_again(manager: AdvancedModelManager, paths: Mapping[str, Path]) -> None:
    assert manager.pair("wan5b.safetensors", ["wan21_vae.safetensors"])["together"] is False
    shapes_file(paths["wan21_vae.safetensors"], layouts.VAES["wan2.2"] | {"extra": (3,)})
    assert manager.pair("wan5b.safetensors", ["wan21_vae.safetensors"])["together"] is True


def test_the_command_says_why_and_exits_with_1(
    paths: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MANAGED_MODELS_DB", str(tmp_path / "registry.sqlite"))
    model, wrong = str(paths["flux.safetensors"]), str(paths["umt5.safetensors"])
    bad = CliRunner().invoke(app, ["pair", model, wrong])
    assert bad.exit_code == 1
    assert "umt5.safetensors is the wrong text encoder for Flux.1 dev" in bad.stdout
    as_json = json.loads(CliRunner().invoke(app, ["pair", model, wrong, "--json"]).stdout)
    assert as_json["together"] is False
    assert render_pair(as_json) + "\n" == bad.stdout
    good = CliRunner().invoke(app, ["pair", model, str(paths["flux_ink.safetensors"])])
    assert (good.exit_code, good.stdout.splitlines()[0]) == (0, "These files belong together.")
    checked = CliRunner().invoke(app, ["check", model, "--lora", str(paths["flux_ink.safetensors"])])
    assert "12 of its 12 layers are in the model" in checked.stdout
    wrong_clip = CliRunner().invoke(app, ["check", model, "--clip", wrong])
    assert wrong_clip.exit_code == 1
    assert "wrong text encoder" in wrong_clip.stdout


def test_a_checkpoint_names_what_it_holds(tmp_path: Path) -> None:
    own = {f"model.diffusion_model.{k}": v for k, v in layouts.DIFFUSION["sdxl"].items()}
    own["first_stage_model.decoder.conv_in.weight"] = (512, 4, 3, 3)
    own["conditioner.embedders.0.transformer.x.weight"] = (4, 4)
    path = shapes_file(tmp_path / "sdxl.safetensors", own)
    vae = shapes_file(tmp_path / "wan_vae.safetensors", layouts.VAES["wan2.1"])
    manager = AdvancedModelManager(host=LocalHost([tmp_path]))
    words = render_check(manager.check(str(path)).to_dict())
    assert "Goes with: SDXL VAE (it is in the model's file)" in words
    finding = manager.pair(str(path), [str(vae)])["findings"][0]
    assert "Use the VAE that is in sdxl.safetensors." in finding["remedy"]
