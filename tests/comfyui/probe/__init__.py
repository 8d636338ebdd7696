"""An extension for tests and benchmarks: notes which files ComfyUI reads and when it samples.

It also keeps a clone of a model for itself, as careless extensions do.
"""

import json
import os
import time

import comfy.sample
import comfy.utils

_LOG = os.environ.get("MANAGED_MODELS_PROBE")
_kept = []


def _note(kind, **facts):
    if _LOG:
        with open(_LOG, "a", encoding="utf-8") as log:
            log.write(json.dumps({"kind": kind, "time": time.time(), **facts}) + "\n")


def _wait():
    """Make a load as slow as a test asks for, by a file beside the log."""
    delay = f"{_LOG}.delay"
    if _LOG and os.path.exists(delay):
        with open(delay, encoding="utf-8") as file:
            time.sleep(float(file.read()))


def _noting(function, kind, describe):
    def call(*arguments, **options):
        _note(kind, **describe(*arguments))
        if kind == "read":
            _wait()
        return function(*arguments, **options)

    return call


comfy.utils.load_torch_file = _noting(
    comfy.utils.load_torch_file, "read", lambda path, *rest: {"path": str(path)}
)
comfy.sample.sample = _noting(comfy.sample.sample, "sample", lambda *rest: {})


class KeepModel:
    """Keeps a clone for as long as the process lives, or lets go of all."""

    INPUT_TYPES = classmethod(
        lambda cls: {"required": {"keep": ("BOOLEAN", {"default": True})}, "optional": {"model": ("MODEL",)}}
    )
    RETURN_TYPES = ("INT",)
    FUNCTION = "run"
    OUTPUT_NODE = True
    CATEGORY = "test"

    def run(self, keep, model=None):
        if keep:
            _kept.append(model.clone())
        else:
            _kept.clear()
        return {"ui": {"kept": [len(_kept)]}, "result": (len(_kept),)}


class CountModels:
    """Counts the diffusion models that the garbage collector finds, and those that ComfyUI has loaded."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {}})
    RETURN_TYPES = ("INT",)
    FUNCTION = "run"
    OUTPUT_NODE = True
    CATEGORY = "test"

    @classmethod
    def IS_CHANGED(cls):
        return float("nan")

    def run(self):
        import gc

        from comfy.model_base import BaseModel
        from comfy.model_management import loaded_models

        gc.collect()
        alive = [type(found).__name__ for found in gc.get_objects() if isinstance(found, BaseModel)]
        loaded = [type(patcher.model).__name__ for patcher in loaded_models() if patcher is not None]
        return {"ui": {"alive": sorted(alive), "loaded": sorted(loaded)}, "result": (len(alive),)}


class ProbeConditioning:
    """Zeros in place of a prompt, for runs without our own extension."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"width": ("INT", {"default": 4096, "max": 16384})}})
    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "run"
    CATEGORY = "test"

    def run(self, width):
        import torch

        return ([[torch.zeros(1, 8, width), {}]],)


_costs = {}


def _timed(function, name):
    def call(*arguments, **options):
        start = time.perf_counter()
        try:
            return function(*arguments, **options)
        finally:
            count, seconds = _costs.get(name, (0, 0.0))
            _costs[name] = (count + 1, seconds + time.perf_counter() - start)

    return call


class ProbeCosts:
    """What cache providers cost since the last time this ran: calls and seconds, by function."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {}})
    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True
    CATEGORY = "test"
    _measuring = False

    @classmethod
    def IS_CHANGED(cls):
        return float("nan")

    def run(self):
        found = {name: [count, seconds] for name, (count, seconds) in _costs.items()}
        _costs.clear()
        if not ProbeCosts._measuring:
            ProbeCosts._measuring = True
            self._begin()
        return {"ui": {"costs": [found]}}

    def _begin(self):
        from comfy_execution import cache_provider

        cache_provider._serialize_cache_key = _timed(cache_provider._serialize_cache_key, "ComfyUI hashing")
        for provider in cache_provider._get_cache_providers():
            for name in ("should_cache", "on_prompt_start", "on_prompt_end"):
                setattr(provider, name, _timed(getattr(provider, name), name))


class NameModel:
    """Gives a text that every input takes, as a model's name comes over a link."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"name": ("STRING", {"default": ""})}})
    RETURN_TYPES = ("*",)
    FUNCTION = "run"
    CATEGORY = "test"

    def run(self, name):
        return (name,)


NODE_CLASS_MAPPINGS = {
    "NameModel": NameModel,
    "ProbeCosts": ProbeCosts,
    "KeepModel": KeepModel,
    "CountModels": CountModels,
    "ProbeConditioning": ProbeConditioning,
}
