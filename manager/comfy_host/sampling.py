"""Being told when a model samples, through ComfyUI's wrappers, which every clone inherits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

_KEY = "managed_models"


class Listener(NamedTuple):
    """Called on the prompt worker with the ids of the models that sample; the first also with the
    shape of the latent, ``(batch, channels, ...)``, empty when it has none."""

    started: Callable[[list[str], tuple[int, ...]], None]
    ended: Callable[[list[str]], None]


def announce_sampling(patcher: Any, model_id: str, listener: Listener) -> None:
    """Tell ``listener`` of every run of the sampler with this model, or with a clone made later."""
    from comfy.patcher_extension import WrappersMP

    def around(executor: Any, noise: Any, *arguments: Any, **options: Any) -> Any:
        listener.started([model_id], tuple(getattr(noise, "shape", ())))
        try:
            return executor(noise, *arguments, **options)
        finally:
            listener.ended([model_id])

    patcher.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, _KEY)
    patcher.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, _KEY, around)
