"""Which inputs of which nodes name a model file, and the folder type that each is looked up in.

Held against a real ComfyUI by tests/comfyui/test_needs.py. Nodes of extensions are known by their
inputs' names alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

Folders = tuple[str, ...]

_CHECKPOINT: Folders = ("checkpoints",)
_ENCODER: Folders = ("text_encoders",)
_DIFFUSION: Folders = ("diffusion_models",)
_LORA: Folders = ("loras",)
_VAE: Folders = ("vae", "vae_approx")
_CONTROLNET: Folders = ("controlnet",)
_OURS: Folders = ("diffusion_models", "checkpoints")

# In the order in which a node stores its values.
LOADERS: Mapping[str, Mapping[str, Folders]] = {
    "AudioEncoderLoader": {"audio_encoder_name": ("audio_encoders",)},
    "CLIPLoader": {"clip_name": _ENCODER},
    "CLIPVisionLoader": {"clip_name": ("clip_vision",)},
    "CheckpointLoader": {"ckpt_name": _CHECKPOINT},
    "CheckpointLoaderSimple": {"ckpt_name": _CHECKPOINT},
    "ControlNetLoader": {"control_net_name": _CONTROLNET},
    "CreateHookLora": {"lora_name": _LORA},
    "CreateHookLoraModelOnly": {"lora_name": _LORA},
    "CreateHookModelAsLora": {"ckpt_name": _CHECKPOINT},
    "CreateHookModelAsLoraModelOnly": {"ckpt_name": _CHECKPOINT},
    "DiffControlNetLoader": {"control_net_name": _CONTROLNET},
    "DualCLIPLoader": {"clip_name1": _ENCODER, "clip_name2": _ENCODER},
    "FrameInterpolationModelLoader": {"model_name": ("frame_interpolation",)},
    "GLIGENLoader": {"gligen_name": ("gligen",)},
    "HypernetworkLoader": {"hypernetwork_name": ("hypernetworks",)},
    "ImageOnlyCheckpointLoader": {"ckpt_name": _CHECKPOINT},
    "LTXAVTextEncoderLoader": {"text_encoder": _ENCODER, "ckpt_name": _CHECKPOINT},
    "LTXVAudioVAELoader": {"ckpt_name": _CHECKPOINT},
    "LatentUpscaleModelLoader": {"model_name": ("latent_upscale_models",)},
    "LoadBackgroundRemovalModel": {"bg_removal_name": ("background_removal",)},
    "LoadDA3Model": {"model_name": ("geometry_estimation",)},
    "LoadMediaPipeFaceLandmarker": {"model_name": ("detection",)},
    "LoadMoGeModel": {"model_name": ("geometry_estimation",)},
    "LoraLoader": {"lora_name": _LORA},
    "LoraLoaderBypass": {"lora_name": _LORA},
    "LoraLoaderBypassModelOnly": {"lora_name": _LORA},
    "LoraLoaderModelOnly": {"lora_name": _LORA},
    "ModelPatchLoader": {"name": ("model_patches",)},
    "OpticalFlowLoader": {"model_name": ("optical_flow",)},
    "PhotoMakerLoader": {"photomaker_model_name": ("photomaker",)},
    "QuadrupleCLIPLoader": {f"clip_name{i}": _ENCODER for i in range(1, 5)},
    "StyleModelLoader": {"style_model_name": ("style_models",)},
    "TrainLoraNode": {"existing_lora": _LORA},
    "TripleCLIPLoader": {f"clip_name{i}": _ENCODER for i in range(1, 4)},
    "UNETLoader": {"unet_name": _DIFFUSION},
    "UpscaleModelLoader": {"model_name": ("upscale_models",)},
    "VAELoader": {"vae_name": _VAE},
    "unCLIPCheckpointLoader": {"ckpt_name": _CHECKPOINT},
}
# Ours take registered names and hashes too; CheckCompatibility only looks, and lists every folder.
OUR_LOADERS: Mapping[str, Mapping[str, Folders]] = {
    "LoadManagedModel": {"model_name": _OURS},
    "LoadManagedTextEncoder": {
        "clip_name": _ENCODER,
        **{f"clip_name{i}": _ENCODER for i in range(2, 5)},
    },
    "LoadManagedVAE": {"vae_name": _VAE},
    "QuantizeModel": {"model_name": _OURS},
}
# What they hold is text for people, names of what is still to be written, or a question.
NO_MODELS = frozenset({"Note", "MarkdownNote", "CheckCompatibility", "PrimitiveString"})

# Names that extensions give their inputs, as ComfyUI's own loaders do.
_BY_INPUT: tuple[tuple[re.Pattern[str], Folders], ...] = tuple(
    (re.compile(pattern), folders)
    for pattern, folders in (
        (r"ckpt_name\d*", _CHECKPOINT),
        (r"unet_name\d*", _DIFFUSION),
        (r"clip_name\d*|text_encoder(_name)?\d*", _ENCODER),
        (r"vae_name", _VAE),
        (r"(existing_)?lora(_name)?(_?\d+)*", _LORA),
        (r"control_?net(_name)?", _CONTROLNET),
        (r"style_model_name", ("style_models",)),
    )
)


def inputs_of(class_type: str) -> Mapping[str, Folders] | None:
    """Return which inputs of a node name models, in order; None for a node that is not known."""
    return LOADERS.get(class_type) or OUR_LOADERS.get(class_type)


def folders_by_input(name: str) -> Folders:
    """Return where an extension's node probably looks, by its input's name; nothing when nobody can tell."""
    return next((folders for pattern, folders in _BY_INPUT if pattern.fullmatch(name)), ())
