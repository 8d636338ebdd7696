"""A format per layer within a budget: against every combination where there are few, and by its laws."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from managed_models.manager.quantize.budget import Budget, Choice, convex_hull

_CHOICES = st.lists(
    st.builds(Choice, st.integers(1, 60), st.integers(0, 50).map(float)), min_size=1, max_size=4
)
_LAYERS = st.lists(_CHOICES, min_size=1, max_size=6)


def cost(layers: Sequence[Sequence[Choice]], picked: Sequence[int]) -> tuple[int, float]:
    taken = [choices[i] for choices, i in zip(layers, picked, strict=True)]
    return sum(c.nbytes for c in taken), sum(c.noise for c in taken)


def best_of_all(layers: Sequence[Sequence[Choice]], nbytes: int) -> float | None:
    answers = (cost(layers, picked) for picked in itertools.product(*(range(len(c)) for c in layers)))
    return min((noise for size, noise in answers if size <= nbytes), default=None)


@settings(max_examples=200, deadline=None)
@given(_LAYERS, st.integers(0, 300))
def test_few_layers_get_the_best_of_all_combinations(layers: list[list[Choice]], nbytes: int) -> None:
    budget = Budget(layers)
    picked, best = budget.pick(nbytes), best_of_all(layers, nbytes)
    assert (picked is None) is (best is None) is (nbytes < budget.smallest)
    assert budget.exact
    if picked is not None:
        size, noise = cost(layers, picked)
        assert size <= nbytes
        assert noise == best


@settings(max_examples=100, deadline=None)
@given(_LAYERS, st.integers(1, 8), st.lists(st.integers(0, 300), min_size=2, max_size=6))
def test_more_room_never_gives_more_noise(
    layers: list[list[Choice]], points: int, budgets: list[int]
) -> None:
    budget = Budget(layers, points)  # so few that most answers are thinned out
    noises = []
    for nbytes in sorted(budgets):
        picked = budget.pick(nbytes)
        if picked is None:
            assert not noises
            continue
        size, noise = cost(layers, picked)
        assert size <= nbytes
        noises.append(noise)
    assert noises == sorted(noises, reverse=True)


@settings(max_examples=100, deadline=None)
@given(_LAYERS, st.integers(1, 8), st.integers(0, 300))
def test_thinned_out_answers_are_within_one_step_of_the_best(
    layers: list[list[Choice]], points: int, nbytes: int
) -> None:
    picked, best = Budget(layers, points).pick(nbytes), best_of_all(layers, nbytes)
    if picked is None or best is None:
        return
    steps = [0.0]
    for choices in layers:
        hull = convex_hull(choices)
        steps += [choices[a].noise - choices[b].noise for a, b in itertools.pairwise(hull)]
    assert cost(layers, picked)[1] <= best + max(steps)


def test_a_large_model_is_solved_closely_and_within_its_budget() -> None:
    # 400 layers of three shapes: the noise of the answer against the relaxation, which no answer betters.
    chance = random.Random(1)
    layers = []
    for number in range(400):
        weights = (5120 * 5120, 5120 * 13824, 1536 * 8960)[number % 3]
        scale = weights * chance.uniform(0.5, 2)
        layers.append(
            [
                Choice(2 * weights, 0.0),
                Choice(weights + 20480, 0.0001 * scale),
                Choice(weights + 4, 0.0007 * scale),
                Choice(weights * 9 // 16, 0.009 * scale),
            ]
        )
    budget = Budget(layers)
    assert not budget.exact
    for share in (0.6, 0.8, 1.0, 1.5):
        nbytes = int(sum(choices[1].nbytes for choices in layers) * share)
        size, noise = cost(layers, budget.pick(nbytes) or [])
        bound = relaxed_bound(layers, nbytes)
        assert size <= nbytes
        assert bound * (1 - 1e-9) <= noise <= bound * 1.01


def relaxed_bound(layers: Sequence[Sequence[Choice]], nbytes: int) -> float:
    """Return the noise when a part of a layer may take another format: nothing is below it."""
    start, steps = [], []
    for choices in layers:
        hull = convex_hull(choices)
        start.append(choices[hull[0]])
        steps += [
            (choices[b].nbytes - choices[a].nbytes, choices[a].noise - choices[b].noise)
            for a, b in itertools.pairwise(hull)
        ]
    left, noise = nbytes - sum(c.nbytes for c in start), sum(c.noise for c in start)
    for more, saved in sorted(steps, key=lambda s: -s[1] / s[0]):
        part = min(1.0, max(0.0, left / more))
        left -= more
        noise -= saved * part
    return noise


@pytest.mark.parametrize(
    ("choices", "hull"),
    [
        ([Choice(1, 9.0)], [0]),
        ([Choice(4, 0.0), Choice(1, 9.0), Choice(2, 3.0), Choice(3, 2.9)], [1, 2, 0]),
        ([Choice(2, 5.0), Choice(2, 4.0), Choice(3, 4.0)], [1]),
    ],
)
def test_the_hull_leaves_out_what_a_mixture_betters(choices: list[Choice], hull: list[int]) -> None:
    assert convex_hull(choices) == hull


def test_the_smallest_possible_size_is_told() -> None:
    budget = Budget([[Choice(10, 0.0), Choice(4, 1.0)], [Choice(7, 0.0)]])
    assert budget.smallest == 11
    assert budget.pick(10) is None
    assert budget.pick(11) == [1, 0]
    assert budget.pick(17) == [0, 0]


def test_a_later_step_is_never_taken_without_the_one_before_it() -> None:
    layers = [[Choice(1, 50.0), Choice(10, 10.0), Choice(11, 9.0)], [Choice(1, 5.0)]]
    assert Budget(layers).pick(7) == [0, 0]
    assert Budget(layers).pick(11) == [1, 0]
