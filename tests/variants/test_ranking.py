"""Which variant to take, as laws over any set of variants and as a table."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from managed_models.manager.compatibility import FORMAT_UNSUPPORTED
from managed_models.manager.model import QuantizationType
from managed_models.manager.room import VRAM, Room
from managed_models.manager.variants.kinship import Link
from managed_models.manager.variants.ranking import HELPED_CODES, Variant, expected_error, rank, way_out

_numbers = itertools.count()


def variant(**changes: Any) -> Variant:
    needed, available = changes.pop("needed", 10), changes.pop("available", 24)
    facts: dict[str, Any] = {
        "name": f"{next(_numbers)}.safetensors",
        "option": "",
        "folder": "diffusion_models",
        "precision": "bf16",
        "size_bytes": needed,
        "weight_bytes": needed,
        "room": Room(VRAM, needed, available, 1),
        "link": Link.LINEAGE,
        "error": 0.0017,
    }
    return Variant(**(facts | changes))


_CODES = ("vram", "ram", FORMAT_UNSUPPORTED, "extension")
variants = st.builds(
    variant,
    name=st.sampled_from([f"{letter}.safetensors" for letter in "abcdefgh"]),
    needed=st.integers(1, 40),
    link=st.sampled_from([link for link in Link if link is not Link.SUBJECT]),
    error=st.sampled_from([0.0, 0.0017, 0.0236, 0.0265, 0.0331, 0.1]),
    blockers=st.lists(st.sampled_from(_CODES), max_size=1).map(tuple),
)
families = st.lists(variants, max_size=8, unique_by=lambda v: v.name)
subjects = st.builds(
    variant,
    name=st.just("subject.safetensors"),
    needed=st.integers(1, 40),
    link=st.just(Link.SUBJECT),
    blockers=st.lists(st.sampled_from(_CODES), max_size=2).map(tuple),
)


@given(families, st.randoms(use_true_random=False))
def test_the_order_in_which_files_are_found_does_not_matter(found: list[Variant], random: Any) -> None:
    ranked = rank(found)
    random.shuffle(found)
    assert rank(found) == ranked
    assert sorted(v.name for v in ranked) == sorted(v.name for v in found)


@given(families)
def test_the_best_quality_that_fits_and_is_sure_comes_first(found: list[Variant]) -> None:
    good = [v for v in found if v.fits and v.link.sure]
    if good:
        first = rank(found)[0]
        assert first in good
        assert first.error == min(v.error for v in good)
    fits = [v.fits for v in rank(found)]
    assert fits == sorted(fits, reverse=True)


@given(subjects, families, families)
def test_what_is_recommended_fits_and_needs_less(
    subject: Variant, installed: list[Variant], makeable: list[Variant]
) -> None:
    found = way_out(subject, installed, makeable)
    for taken, among in ((found.best, installed), (found.make, makeable), (found.maybe, installed)):
        if taken is None:
            continue
        assert taken in among
        assert taken.fits
        if not subject.room.enough or {"vram", "ram"} & set(subject.blockers):
            assert taken.room.needed_bytes < subject.room.needed_bytes
    if found.best is not None:
        assert found.best.link.sure
        assert (found.make, found.maybe) == (None, None)
        better = [v for v in installed if v.fits and v.link.sure and v.error < found.best.error]
        assert all(v.room.needed_bytes > 0.9 * subject.room.needed_bytes for v in better)
        assert not better or subject.lacks_memory


@given(subjects, families, families)
def test_nothing_is_recommended_where_nothing_helps(
    subject: Variant, installed: list[Variant], makeable: list[Variant]
) -> None:
    found = way_out(subject, installed, makeable)
    if subject.fits or not set(subject.blockers) <= HELPED_CODES:
        assert (found.best, found.make, found.maybe, found.helps) == (None, None, None, False)
    else:
        assert found.helps
        smaller = [v for v in installed if v.room.needed_bytes < 0.9 * subject.room.needed_bytes]
        assert found.best is not None or not any(v.fits and v.link.sure for v in smaller)


BF16 = variant(name="bf16", needed=28, link=Link.SUBJECT)
FP8 = variant(name="fp8", needed=14, error=0.0265)
INT8 = variant(name="int8", needed=14, error=0.0236)
NVFP4 = variant(name="nvfp4", needed=8, error=0.1)
TUNE = variant(name="tune", needed=14, error=0.0089, link=Link.SAME_LAYOUT)


@pytest.mark.parametrize(
    ("subject", "installed", "makeable", "expected"),
    [
        (BF16, [NVFP4, FP8, INT8], [], ("int8", None, None)),
        (BF16, [NVFP4, FP8], [INT8], ("fp8", None, None)),  # what is here, before what takes an hour
        (BF16, [TUNE, FP8], [], ("fp8", None, None)),
        (BF16, [TUNE], [INT8], (None, "int8", "tune")),
        (BF16, [], [], (None, None, None)),
        (BF16, [variant(name="fp16", needed=28)], [], (None, None, None)),
        (variant(needed=14, blockers=(FORMAT_UNSUPPORTED,)), [BF16, INT8], [], ("int8", None, None)),
        # The original is larger than what cannot be read here, and that is no reason against it.
        (
            variant(needed=8, blockers=(FORMAT_UNSUPPORTED,)),
            [variant(name="original", needed=20), NVFP4],
            [],
            ("original", None, None),
        ),
        (variant(needed=8, blockers=("vram",)), [variant(name="larger", needed=9), FP8], [], (None,) * 3),
        (variant(needed=28, blockers=("extension",)), [FP8], [INT8], (None, None, None)),
        (variant(needed=8), [BF16, FP8], [INT8], (None, None, None)),
    ],
)
def test_the_way_out(
    subject: Variant,
    installed: list[Variant],
    makeable: list[Variant],
    expected: tuple[str | None, str | None, str | None],
) -> None:
    found = way_out(subject, installed, makeable)
    assert tuple(v.name if v else None for v in (found.best, found.make, found.maybe)) == expected


def test_the_order_of_quality() -> None:
    order = [
        (QuantizationType.NONE, False),
        (QuantizationType.BF16, False),
        (QuantizationType.INT8_CONVROT, True),
        (QuantizationType.INT8, True),
        (QuantizationType.FP8_E4M3, True),
        (QuantizationType.FP8_E4M3, False),
        (QuantizationType.FP8_E5M2, True),
        (QuantizationType.NVFP4, True),
        (QuantizationType.GGUF, False),
    ]
    errors = [expected_error(*kind) for kind in order]
    assert errors == sorted(errors)
    assert len(set(errors)) == len(errors)
    half = expected_error(QuantizationType.BF16, False)
    assert expected_error(QuantizationType.FP16, False) == half
