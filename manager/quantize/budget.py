"""One of several formats for each layer, so that all of them together are small enough. Pure.

A multiple-choice knapsack: of every layer exactly one choice is taken, the noise of all choices is
to be least, and their bytes may not exceed the budget. :class:`Budget` prepares a family of answers
that does not depend on the budget and picks from it, so more room never gives more noise. The family
holds the exact answers as long as there are at most ``POINTS`` of them (:attr:`Budget.exact`); beyond
that it also holds every answer of the Lagrangian relaxation, so the noise is above the best possible
by less than one step of that relaxation, which is one layer's change of format.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

POINTS = 4096


class Choice(NamedTuple):
    """What one format costs a layer: bytes in the file, and the sum of squares that it changes."""

    nbytes: int
    noise: float


class _Stage(NamedTuple):
    """Of each point after one more layer: the point before it, and the choice for this layer."""

    before: npt.NDArray[np.int32]
    choice: npt.NDArray[np.int32]


class Budget:
    """The answers for one list of layers, whatever the budget.

    Args:
        layers: the choices of each layer, at least one.
        points: how many answers are kept while layers are added.
    """

    def __init__(self, layers: Sequence[Sequence[Choice]], points: int = POINTS) -> None:
        self._layers = [list(choices) for choices in layers]
        self._points = points
        self.exact = True
        self._stages: list[_Stage] = []
        self._sizes = np.zeros(1, np.int64)
        self._noises = np.zeros(1)
        for choices in self._layers:
            self._add(choices)
        self._start, self._steps = _relaxation(self._layers)

    @property
    def smallest(self) -> int:
        """The bytes below which no choice is possible."""
        return sum(min(choice.nbytes for choice in choices) for choices in self._layers)

    def pick(self, nbytes: int) -> list[int] | None:
        """Return the index of the choice for each layer; None when nothing is that small."""
        if nbytes < self.smallest:
            return None
        return min((self._relaxed(nbytes), self._listed(nbytes)), key=self._noise)

    def _noise(self, picked: Sequence[int]) -> float:
        return sum(choices[i].noise for choices, i in zip(self._layers, picked, strict=True))

    def _relaxed(self, nbytes: int) -> list[int]:
        """Take the steps of the relaxation, the most useful first, while there is room."""
        picked = list(self._start)
        left = nbytes - sum(choices[i].nbytes for choices, i in zip(self._layers, picked, strict=True))
        for step in self._steps:
            if step.nbytes > left:
                break  # going on with smaller steps would make less of more room
            left -= step.nbytes
            picked[step.layer] = step.choice
        return picked

    def _listed(self, nbytes: int) -> list[int]:
        """Take the best of the kept answers that is small enough; the smallest of all is among them."""
        at = int(np.searchsorted(self._sizes, nbytes, side="right")) - 1
        picked = []
        for stage in reversed(self._stages):
            picked.append(int(stage.choice[at]))
            at = int(stage.before[at])
        return picked[::-1]

    def _add(self, choices: Sequence[Choice]) -> None:
        """Combine every answer so far with every choice, and keep those that nothing betters."""
        count = len(choices)
        sizes = (self._sizes[:, None] + np.array([c.nbytes for c in choices], np.int64)).reshape(-1)
        noises = (self._noises[:, None] + np.array([c.noise for c in choices])).reshape(-1)
        order = np.lexsort((noises, sizes))
        ordered = noises[order]
        best = np.minimum.accumulate(ordered)
        better = np.ones(len(order), bool)
        better[1:] = ordered[1:] < best[:-1]
        kept = order[better]
        if len(kept) > self._points:
            self.exact = False
            kept = self._thin(kept, sizes)
        self._sizes, self._noises = sizes[kept], noises[kept]
        self._stages.append(_Stage((kept // count).astype(np.int32), (kept % count).astype(np.int32)))

    def _thin(self, kept: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Keep the first of the answers in each of many equal ranges of size."""
        found = sizes[kept]
        spread = (found[-1] - found[0]) / self._points or 1
        ranges = ((found - found[0]) / spread).astype(np.int64)
        first = np.ones(len(kept), bool)
        first[1:] = ranges[1:] != ranges[:-1]
        first[-1] = True
        return kept[first]


class _Step(NamedTuple):
    layer: int
    choice: int
    nbytes: int
    noise: float


def _relaxation(layers: Sequence[Sequence[Choice]]) -> tuple[list[int], list[_Step]]:
    """Return the smallest choices, and the steps up from them in order of noise saved per byte."""
    start, steps = [], []
    for number, choices in enumerate(layers):
        hull = convex_hull(choices)
        start.append(hull[0])
        for below, above in pairwise(hull):
            more = choices[above].nbytes - choices[below].nbytes
            saved = choices[below].noise - choices[above].noise
            steps.append(_Step(number, above, more, saved))
    steps.sort(key=lambda step: (-step.noise / step.nbytes, step.layer, step.nbytes))
    return start, steps


def convex_hull(choices: Sequence[Choice]) -> list[int]:
    """Return the choices on the lower convex hull of noise over bytes, the smallest first."""
    order = sorted(range(len(choices)), key=lambda i: (choices[i].nbytes, choices[i].noise, i))
    hull: list[int] = []
    for i in order:
        if hull and choices[i].noise >= choices[hull[-1]].noise:
            continue
        while len(hull) > 1 and not _below(choices[hull[-2]], choices[hull[-1]], choices[i]):
            hull.pop()
        hull.append(i)
    return hull


def _below(a: Choice, b: Choice, c: Choice) -> bool:
    """Tell whether ``b`` lies below the line from ``a`` to ``c``."""
    return (a.noise - b.noise) * (c.nbytes - a.nbytes) > (a.noise - c.noise) * (b.nbytes - a.nbytes)
