"""Names and shapes of the tensors of real architectures, at a width that a processor samples quickly.

Sources: the published model definitions of Wan 2.1, Flux.1, Stable Diffusion 1.5 and TAESD, as
ComfyUI 0.33 builds them; a test loads and samples each in a real ComfyUI.
"""

from __future__ import annotations

from collections.abc import Iterator

Shape = tuple[int, ...]
Layout = dict[str, Shape]


def wan21_t2v(width: int = 256, ffn: int = 2048, layers: int = 12) -> Layout:
    """Wan 2.1 text-to-video: 16 latent channels, text of width 4096."""
    layout: Layout = {"patch_embedding.weight": (width, 16, 1, 2, 2), "patch_embedding.bias": (width,)}
    layout |= _linear("text_embedding.0", 4096, width) | _linear("text_embedding.2", width, width)
    layout |= _linear("time_embedding.0", 256, width) | _linear("time_embedding.2", width, width)
    layout |= _linear("time_projection.1", width, 6 * width)
    for i in range(layers):
        block = f"blocks.{i}"
        layout[f"{block}.modulation"] = (1, 6, width)
        for attention in ("self_attn", "cross_attn"):
            for name in "qkvo":
                layout |= _linear(f"{block}.{attention}.{name}", width, width)
            layout |= _norm(f"{block}.{attention}.norm_q", width, bias=False)
            layout |= _norm(f"{block}.{attention}.norm_k", width, bias=False)
        layout |= _norm(f"{block}.norm3", width)
        layout |= _linear(f"{block}.ffn.0", width, ffn) | _linear(f"{block}.ffn.2", ffn, width)
    layout["head.modulation"] = (1, 2, width)
    return layout | _linear("head.head", width, 64)


def flux(width: int = 256, double: int = 3, single: int = 6, text: int = 64, pooled: int = 32) -> Layout:
    """Flux.1 dev: 16 latent channels in patches of 2 x 2, heads of width 128."""
    layout = _linear("img_in", 64, width) | _linear("txt_in", text, width)
    for name, size in (("time_in", 256), ("vector_in", pooled), ("guidance_in", 256)):
        layout |= _linear(f"{name}.in_layer", size, width) | _linear(f"{name}.out_layer", width, width)
    for i in range(double):
        for stream in ("img", "txt"):
            block = f"double_blocks.{i}.{stream}"
            layout |= _linear(f"{block}_mod.lin", width, 6 * width)
            layout |= _linear(f"{block}_attn.qkv", width, 3 * width)
            layout[f"{block}_attn.norm.query_norm.scale"] = (128,)
            layout[f"{block}_attn.norm.key_norm.scale"] = (128,)
            layout |= _linear(f"{block}_attn.proj", width, width)
            layout |= _linear(f"{block}_mlp.0", width, 4 * width)
            layout |= _linear(f"{block}_mlp.2", 4 * width, width)
    for i in range(single):
        block = f"single_blocks.{i}"
        layout |= _linear(f"{block}.linear1", width, 7 * width)
        layout |= _linear(f"{block}.linear2", 5 * width, width)
        layout[f"{block}.norm.query_norm.scale"] = (128,)
        layout[f"{block}.norm.key_norm.scale"] = (128,)
        layout |= _linear(f"{block}.modulation.lin", width, 3 * width)
    layout |= _linear("final_layer.linear", width, 64)
    return layout | _linear("final_layer.adaLN_modulation.1", width, 2 * width)


def sd15_unet(depth: int = 2) -> Layout:
    """Stable Diffusion 1.5 with one resolution; ``depth`` transformer layers in each of four places."""
    width, time = 320, 1280
    layout = _linear("time_embed.0", width, time) | _linear("time_embed.2", time, time)
    layout |= _conv("input_blocks.0.0", 4, width, 3)
    layout |= _resnet("input_blocks.1.0", width, width, time)
    layout |= _transformer("input_blocks.1.1", width, depth)
    layout |= _resnet("middle_block.0", width, width, time)
    layout |= _transformer("middle_block.1", width, depth)
    layout |= _resnet("middle_block.2", width, width, time)
    for i in range(2):
        layout |= _resnet(f"output_blocks.{i}.0", 2 * width, width, time)
        layout |= _transformer(f"output_blocks.{i}.1", width, depth)
    return layout | _norm("out.0", width) | _conv("out.2", width, 4, 3)


def taesd() -> Layout:
    """The tiny autoencoder for Stable Diffusion: 4 latent channels."""
    layout: Layout = {"vae_scale": (), "vae_shift": ()}
    layout |= _conv("taesd_encoder.0", 3, 64, 3)
    for i in range(1, 14):
        name = f"taesd_encoder.{i}"
        layout |= _conv(name, 64, 64, 3, bias=False) if i in (2, 6, 10) else _taesd_block(name)
    layout |= _conv("taesd_encoder.14", 64, 4, 3) | _conv("taesd_decoder.1", 4, 64, 3)
    for i in (3, 4, 5, 7, 8, 9, 10, 12, 13, 14, 15, 17, 18):
        name = f"taesd_decoder.{i}"
        layout |= _conv(name, 64, 64, 3, bias=False) if i in (7, 12, 17) else _taesd_block(name)
    return layout | _conv("taesd_decoder.19", 64, 3, 3)


def sd15_checkpoint(depth: int = 2) -> Layout:
    """A Stable Diffusion 1.5 checkpoint with a TAESD as its VAE and no text encoder."""
    return {f"model.diffusion_model.{name}": shape for name, shape in sd15_unet(depth).items()} | {
        f"first_stage_model.{name}": shape for name, shape in taesd().items()
    }


def _linear(name: str, inputs: int, outputs: int, bias: bool = True) -> Layout:
    layout: Layout = {f"{name}.weight": (outputs, inputs)}
    return layout | ({f"{name}.bias": (outputs,)} if bias else {})


def _norm(name: str, width: int, bias: bool = True) -> Layout:
    layout: Layout = {f"{name}.weight": (width,)}
    return layout | ({f"{name}.bias": (width,)} if bias else {})


def _conv(name: str, inputs: int, outputs: int, kernel: int, bias: bool = True) -> Layout:
    layout: Layout = {f"{name}.weight": (outputs, inputs, kernel, kernel)}
    return layout | ({f"{name}.bias": (outputs,)} if bias else {})


def _resnet(name: str, inputs: int, outputs: int, time: int) -> Layout:
    layout = _norm(f"{name}.in_layers.0", inputs) | _conv(f"{name}.in_layers.2", inputs, outputs, 3)
    layout |= _linear(f"{name}.emb_layers.1", time, outputs)
    layout |= _norm(f"{name}.out_layers.0", outputs) | _conv(f"{name}.out_layers.3", outputs, outputs, 3)
    if inputs != outputs:
        layout |= _conv(f"{name}.skip_connection", inputs, outputs, 1)
    return layout


def _transformer(name: str, width: int, depth: int) -> Layout:
    layout = _norm(f"{name}.norm", width) | _conv(f"{name}.proj_in", width, width, 1)
    for block in _blocks(name, depth):
        for attention, text in (("attn1", width), ("attn2", 768)):
            layout |= _linear(f"{block}.{attention}.to_q", width, width, bias=False)
            layout |= _linear(f"{block}.{attention}.to_k", text, width, bias=False)
            layout |= _linear(f"{block}.{attention}.to_v", text, width, bias=False)
            layout |= _linear(f"{block}.{attention}.to_out.0", width, width)
        layout |= _linear(f"{block}.ff.net.0.proj", width, 8 * width)
        layout |= _linear(f"{block}.ff.net.2", 4 * width, width)
        for i in (1, 2, 3):
            layout |= _norm(f"{block}.norm{i}", width)
    return layout | _conv(f"{name}.proj_out", width, width, 1)


def _blocks(name: str, depth: int) -> Iterator[str]:
    return (f"{name}.transformer_blocks.{i}" for i in range(depth))


def _taesd_block(name: str) -> Layout:
    first, second, third = (_conv(f"{name}.conv.{i}", 64, 64, 3) for i in (0, 2, 4))
    return first | second | third
