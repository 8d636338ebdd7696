"""What makers write into the names of model files, as data: families of models, and words that tell apart.

Sources: the model lists of ComfyUI's workflow templates and the names under which models are published.
In a pattern, ``~`` stands for any or no separator, ``#`` for a version number, which is the family's
generation; all is lower case. A pattern has to stand alone: no letter or digit may touch it.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Family(NamedTuple):
    """One family of models.

    Attributes:
        id: stable. Families of two ids are two base models.
        title: the name that people know.
        pattern: the first in the text wins, and of those that start there the first row.
        glued: two digits in a row are two numbers: ``wan21`` is 2.1.
        dated: its generations are months (``2509``); what bears none is the first.
    """

    id: str
    title: str
    pattern: str
    glued: bool = False
    dated: bool = False


FAMILIES: tuple[Family, ...] = (
    # Video
    Family("wan-alpha", "Wan Alpha", "wan[-_ ]alpha~#?"),
    Family("wan-animate", "Wan Animate", "wan[-_ ]animate~#?"),
    Family("wan", "Wan", "wan~#?", glued=True),
    Family("hunyuan-video", "HunyuanVideo", "hunyuan~video~#?", glued=True),
    Family("ltx-video", "LTX-Video", "ltxv|ltx[-_ ]video"),
    Family("ltx-2", "LTX-2", "ltx~#"),
    Family("cosmos", "Cosmos", "cosmos(?:~predict)?~#?"),
    Family("mochi", "Mochi", "mochi~#?"),
    Family("cogvideox", "CogVideoX", "cogvideo~x?~#?"),
    Family("svd", "Stable Video Diffusion", "svd|stable~video~diffusion"),
    Family("kandinsky-5", "Kandinsky 5", "kandinsky~5(?:~lite|~pro)?"),
    Family("skyreels", "SkyReels", "skyreels~v?#?"),
    Family("minimax-h", "MiniMax Hailuo", "minimax[-_ ]h#"),
    Family("seedvr", "SeedVR", "seedvr~#?"),
    Family("humo", "HuMo", "^humo"),
    Family("void", "VOID", "^void(?=[-_]pass)"),
    Family("capybara", "Capybara", "^capybara"),
    Family("causal-forcing", "Causal Forcing", "causal~forcing"),
    Family("lightx2v", "LightX2V", "lightx2v"),
    # Pictures
    Family("qwen-image", "Qwen-Image", "qwen[-_ ]?image|qwen(?=[-_ ]edit)", dated=True),
    Family("flux-2", "Flux.2", "flux[-_. ]?2"),
    Family("flux-1", "Flux.1", "flux(?:[-_. ]?1)?"),
    Family("sdxl", "Stable Diffusion XL", "sd~xl|stable~diffusion~xl"),
    Family("pony", "Pony", "pony(?:~diffusion)?(?:~xl)?~v?#?"),
    Family("illustrious", "Illustrious", "illustrious(?:~xl)?~v?#?"),
    Family("noobai", "NoobAI", "noob~ai(?:~xl)?"),
    Family("sd3", "Stable Diffusion 3", "(?:sd|stable~diffusion)[-_ ]?(?P<version>3(?:[._]5)?)"),
    Family(
        "sd2", "Stable Diffusion 2", "(?:sd|stable~diffusion)[-_ ]?v?(?P<version>2[-_.][01])|^v2[-_]1(?=[-_])"
    ),
    Family(
        "sd1",
        "Stable Diffusion 1",
        "(?:sd|stable~diffusion)[-_ ]?v?(?P<version>1[-_.]?[45])|^v1[-_]5(?=[-_]pruned)",
        glued=True,
    ),
    Family("chroma", "Chroma", "chroma~#?"),
    Family("z-image", "Z-Image", "z[-_ ]?image"),
    Family("hidream-i1", "HiDream I1", "hidream~i1(?:~image)?"),
    Family("hidream-e1", "HiDream E1", r"hidream~e(?P<version>1(?:[._-]\d)?)"),
    Family("hidream-o1", "HiDream O1", "hidream~o1(?:~image)?"),
    Family("hunyuan-image", "HunyuanImage", "hunyuan~image~#?", glued=True),
    Family("lumina", "Lumina Image", "lumina(?:~image)?~#?"),
    Family(
        "neta-yume", "NetaYume Lumina", r"neta~yume(?:~lumina)?~v?(?P<version>\d+(?:[._]\d+)*)?", glued=True
    ),
    Family("auraflow", "AuraFlow", "aura~flow~v?#?"),
    Family("anima", "Anima", "anima"),
    Family("ernie-image", "ERNIE-Image", "ernie~image"),
    Family("firered-image", "FireRed-Image", "fire~red~image"),
    Family("longcat-image", "LongCat-Image", "longcat~image"),
    Family("ovis-image", "Ovis-Image", "ovis~image"),
    Family("joyai-image", "JoyAI-Image", "joy(?:ai)?~image"),
    Family("newbie-image", "NewBie-Image", "new~bie~image"),
    Family("boogu-image", "Boogu-Image", "boogu~image"),
    Family("mage-flow", "Mage-Flow", "mage~flow"),
    Family("krea", "Krea", "^krea~#?"),
    Family("ideogram", "Ideogram", "ideogram~#?"),
    Family("omnigen", "OmniGen", "omnigen~#?"),
    Family("pixeldit", "PixelDiT", "pixel~dit"),
    Family("pid", "PID", "^pid"),
    Family("lens", "Lens", "^lens(?=$|[-_](?:turbo|bf16|fp[0-9]|int8))"),
    Family("lotus", "Lotus", "^lotus"),
    Family("chrono-edit", "ChronoEdit", "chrono~edit"),
    Family("sdpose", "SDPose", "sdpose"),
    Family("sam", "SAM", "^sam~#?"),
    Family("rt-detr", "RT-DETR", "rt~detr~v?#?"),
    # Three dimensions, sound
    Family("hunyuan-3d", "Hunyuan3D", "hunyuan~3d(?:~dit)?~v?#?"),
    Family("triposplat", "TripoSplat", "tripo~splat"),
    Family("ace-step", "ACE-Step", "ace(?:~step)?~v?#?", glued=True),
    Family("stable-audio", "Stable Audio", "stable~audio(?:~open)?~#?"),
    Family("minimax-music", "MiniMax Music", "minimax~music~#?"),
    # Text encoders
    Family("umt5", "UMT5", "umt5(?:~xxl)?"),
    Family("byt5", "ByT5", "byt5"),
    Family("t5gemma", "T5Gemma", "t5gemma"),
    Family("t5", "T5", "t5(?:~xxl)?"),
    Family("clip-l", "CLIP-L", "clip[-_ ]l"),
    Family("clip-g", "CLIP-G", "clip[-_ ]g"),
    Family("jina-clip", "Jina CLIP", "jina~clip~v?#?"),
    Family("qwen-vl", "Qwen-VL", "qwen~#?~vl"),
    Family("qwen", "Qwen", r"qwen~(?P<version>\d(?:[._]\d)?)?"),
    Family("gemma", "Gemma", "gemma~#?"),
    Family("llava-llama", "LLaVA Llama", "llava~llama~#?"),
    Family("llama", "Llama", "llama~#?"),
    Family("ministral", "Ministral", "ministral~#?"),
    Family("mistral", "Mistral", "mistral~#?"),
    Family("gpt-oss", "gpt-oss", "gpt~oss"),
    Family("ovis", "Ovis", "ovis~#?"),
    # Vision, sound, pictures made larger
    Family("clip-vision-g", "CLIP vision G", "clip~vision~g"),
    Family("clip-vision-h", "CLIP vision H", "clip~vision~h"),
    Family("sigclip", "SigCLIP vision", "sigclip"),
    Family("dino", "DINO", "dino~v?#?"),
    Family("wav2vec2", "wav2vec 2.0", "wav2vec2"),
    Family("whisper", "Whisper", "whisper"),
    Family("birefnet", "BiRefNet", "birefnet"),
    Family("film-net", "FILM", "film~net"),
    Family("depth-anything", "Depth Anything", "depth~anything~v?#?"),
    Family("moge", "MoGe", "moge~#?"),
    Family("raft", "RAFT", "^raft"),
    Family("realesrgan", "Real-ESRGAN", "real~esrgan"),
    Family("autoencoder", "Flux.1 autoencoder", "^ae$"),
    Family("ema-vae", "Stable Diffusion 1 VAE", "^vae~ft~(?:mse|ema)"),
)


class Axis(str, Enum):
    """What a word is about. Two files that differ on one are not versions of one another."""

    INPUT = "input"
    KIND = "kind"
    ROLE = "role"
    NOISE = "noise"
    SPEED = "speed"
    EDITION = "edition"
    SIZE = "size"
    RESOLUTION = "resolution"
    PRECISION = "precision"
    PRERELEASE = "prerelease"
    RANK = "rank"
    VERSION = "version"
    PACKAGING = "packaging"


class Word(NamedTuple):
    """A word on an axis: ``value`` is what it means, ``\\1`` the group of its pattern."""

    axis: Axis
    value: str
    pattern: str


FULL, EIGHT_BIT, FOUR_BIT, GGUF = "16-bit or more", "8-bit", "4-bit", "GGUF"

# The first row that fits takes its letters away, so a longer word stands above its parts.
WORDS: tuple[Word, ...] = (
    # Which half of a pair
    Word(Axis.NOISE, "high noise", "high~noise|high(?![-_ ]?(?:res|quality))"),
    Word(Axis.NOISE, "low noise", "low~noise|low(?![-_ ]?(?:v?ram|res|quality))"),
    # What goes in and what comes out
    Word(Axis.INPUT, r"\1", "(t2v|i2v|ti2v|flf2v|fl2v|fl2va|ref2v|ref2va|r2v|s2v|v2v|t2i|i2i|ti2i|t2a|t2va)"),
    # How it is stored; before the speeds, for fp8_e4m3fn_fast is an arithmetic
    Word(Axis.PRECISION, FOUR_BIT, r"nv~?fp4|fp4|int4|w4a4|w4a8|awq|svdq|nf4"),
    Word(Axis.PRECISION, EIGHT_BIT, r"mxfp8|fp8~?(?:mixed|scaled)?|int8|e4m3fn?(?:~fast)?|e5m2"),
    Word(Axis.PRECISION, GGUF, r"i?q\d(?:[-_](?:k|\d|xs|xxs|s|m|nl))?(?:[-_][sml])?"),
    Word(Axis.PRECISION, FULL, "bf16|fp16|f16|fp32|f32"),
    # How many steps, and models made for few of them
    Word(Axis.SPEED, r"\1 steps", r"(\d+)~steps?"),
    Word(Axis.SPEED, "distilled", "(?:cfg~)?(?:step~)?distill(?:ed)?"),
    Word(Axis.SPEED, "lightning", "lightning|lightx2v"),
    Word(Axis.SPEED, "turbo", "turbo"),
    Word(Axis.SPEED, "schnell", "schnell"),
    Word(Axis.SPEED, "fast", "fast"),
    Word(Axis.SPEED, "hyper", "hyper(?:~sd)?"),
    Word(Axis.SPEED, "lcm", "lcm"),
    Word(Axis.SPEED, "dmd", r"dmd\d?"),
    Word(Axis.SPEED, "causvid", "caus~vid"),
    # What is being done with a picture
    Word(Axis.KIND, "inpainting", "inpaint(?:ing)?|inp"),
    Word(Axis.KIND, "fill", "fill"),
    Word(Axis.KIND, "edit", "edit"),
    Word(Axis.KIND, "kontext", "kontext"),
    Word(Axis.KIND, "redux", "redux"),
    Word(Axis.KIND, "layered", "layered"),
    Word(Axis.KIND, "canny", "canny"),
    Word(Axis.KIND, "depth", "depth"),
    Word(Axis.KIND, "blur", "blur"),
    Word(Axis.KIND, "union", "union"),
    Word(Axis.KIND, "control", "control~net|control"),
    Word(Axis.KIND, "camera", "camera"),
    Word(Axis.KIND, "fun", "fun"),
    Word(Axis.KIND, "vace", "vace"),
    Word(Axis.KIND, "animate", "animate"),
    Word(Axis.KIND, "refiner", "refiner"),
    Word(Axis.KIND, "unconditional", "uncond(?:itional)?"),
    Word(Axis.KIND, "super-resolution", "sr|super~resolution"),
    Word(Axis.KIND, "upscaler", "upscaler|upsampler"),
    Word(Axis.ROLE, "LoRA", "ic~lora|lora"),
    Word(Axis.ROLE, "audio VAE", "audio~vae"),
    Word(Axis.ROLE, "video VAE", "video~vae"),
    Word(Axis.ROLE, "VAE", "vae|dav"),
    Word(Axis.ROLE, "text encoder", "text~encoder"),
    # Which of a maker's line
    Word(
        Axis.EDITION,
        r"\1",
        "(dev|pro|klein|base|full|large|medium|small|lite|mini|xl|xt|hd|sft|kv|instruct|it)",
    ),
    # How large, for which size of picture
    Word(Axis.SIZE, r"\1B", r"a?(e?\d+(?:\.\d+)?|\d_\d)b"),
    Word(Axis.SIZE, r"\1M", r"(\d+)m"),
    Word(Axis.RESOLUTION, r"\1p", r"(\d{3,4})p"),
    Word(Axis.RESOLUTION, r"\1px", r"(\d{3,4})px"),
    Word(Axis.RANK, r"rank \1", r"(?:avg~)?rank~(\d+)"),
    # Not finished
    Word(Axis.PRERELEASE, "preview", r"preview~\d*"),
    Word(Axis.PRERELEASE, "experimental", r"exp(?:erimental)?~\d*(?:\.\d+)*"),
    Word(Axis.PRERELEASE, "alpha", r"(?<=\d[-_.])alpha~\d*"),
    Word(Axis.PRERELEASE, "beta", r"beta~\d*"),
    Word(Axis.PRERELEASE, "release candidate", r"rc~\d+"),
    # Its own version, beside the family's: with a v, with a point, or a month such as 2509
    Word(Axis.VERSION, r"\1", r"v(\d+(?:[._-]\d+)*)"),
    Word(Axis.VERSION, r"\1", r"(\d+(?:\.\d+)+)"),
    Word(Axis.VERSION, r"\1", r"(2[3-9](?:0[1-9]|1[0-2])|20[2-9]\d(?:0[1-9]|1[0-2])(?:[0-3]\d)?)"),
    # Says nothing about what the model is
    Word(
        Axis.PACKAGING,
        r"\1",
        "(comfy(?:ui)?|kj|scaled|mixed|fn|rowwise|tensorwise|convrot|pruned|ema|ema~only|transformer|unet|dit"
        "|diffusion~model|all~in~one|aio|repackaged|pretrained|model|checkpoint)",
    ),
)
