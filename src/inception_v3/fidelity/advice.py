"""Warnings about comparisons whose scores may mislead, one line each."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from inception_v3.fidelity.features import FeatureSet
from inception_v3.fidelity.result import ComparedSet, FidelityResult, format_sizes

ENOUGH_IMAGES = 10_000  # with fewer, FID cannot be compared with published figures
SMALL_SIDE = 150  # pixels of the shorter side; the network enlarges smaller images more than twice
LOSSY_FORMATS = {"JPEG", "MPO", "WEBP", "AVIF"}
TOLERANCE = 0.05  # the fraction of images that may differ without a warning


def advice(result: FidelityResult) -> list[str]:
    """Warnings, the most serious first: overlap of the sets, differences in storage, then sizes and counts."""
    warnings: list[str] = []
    reference = result.reference
    if reference is not None:
        warnings += [*_overlap(result.generated, reference), *_storage(result.generated, reference)]
    for role, side in result.sets.items():
        if side.features is not None:
            warnings += _within_set(role, side.features)
    if reference is not None:
        warnings += [*_sizes(result.generated, reference), *_counts(result, reference), *_precisions(result)]
    return warnings


def _overlap(generated: ComparedSet, reference: ComparedSet) -> Iterator[str]:
    keys = [_as_values(side.features.pixel_keys) for side in (generated, reference) if side.features]
    if len(keys) == 2 and (shared := int(np.isin(keys[0], keys[1]).sum())):
        yield (
            f"{shared} of {len(keys[0])} generated images {_are(shared)} also in the reference, so the scores are too "
            f"good; remove {_them(shared)} from one set"
        )


def _storage(generated: ComparedSet, reference: ComparedSet) -> Iterator[str]:
    facts = (generated.facts, reference.facts)
    formats = [side.formats for side in facts]
    if all(formats):
        lossy = [
            sum(count for kind, count in counts.items() if kind in LOSSY_FORMATS) / sum(counts.values())
            for counts in formats
        ]
        if abs(lossy[0] - lossy[1]) > TOLERANCE:
            kinds = " and ".join(sorted(LOSSY_FORMATS & (formats[0].keys() | formats[1].keys())))
            yield (
                f"{lossy[0]:.0%} of the generated images are {kinds}, {lossy[1]:.0%} of the reference images: lossy "
                "compression by itself raises FID; store both sets in one format, best as PNG"
            )
    gray = [side.gray / side.count for side in facts if side.gray is not None and side.count]
    if len(gray) == 2 and abs(gray[0] - gray[1]) > TOLERANCE:
        yield (
            f"{gray[0]:.0%} of the generated images are gray, {gray[1]:.0%} of the reference images: FID measures the "
            "missing colour; use two gray or two colour sets"
        )


def _as_values(keys: NDArray[np.uint8]) -> NDArray[np.void]:
    """View each row of bytes, (N, 16), as one value, (N,)."""
    return np.ascontiguousarray(keys).view(f"V{keys.shape[1]}")[:, 0]


def _within_set(role: str, features: FeatureSet) -> Iterator[str]:
    if copies := features.count - len(np.unique(_as_values(features.pixel_keys))):
        fault = (
            "is a copy of another in the set and counts" if copies == 1 else "are copies of others in the set and count"
        )
        yield f"{copies} of {features.count} {role} images {fault} twice; remove {_them(copies)}"
    small = sum(count for size, count in features.sizes.items() if min(map(int, size.split("x"))) < SMALL_SIDE)
    if small > TOLERANCE * features.count:
        yield (
            f"{small} of {features.count} {role} images ({format_sizes(features.sizes)}) {_are(small)} enlarged more "
            "than twice to 299x299: the scores compare blur and hardly any detail"
        )


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _them(count: int) -> str:
    return "it" if count == 1 else "them"


def _sizes(generated: ComparedSet, reference: ComparedSet) -> Iterator[str]:
    first, second = generated.facts.sizes, reference.facts.sizes
    if first and second and max(_unmatched(first, second), _unmatched(second, first)) > TOLERANCE:
        yield (
            f"generated images are {format_sizes(first)}, reference images {format_sizes(second)}: the resize to "
            "299x299 differs; resize both sets to the same size first, by the same method"
        )


def _unmatched(sizes: dict[str, int], others: dict[str, int]) -> float:
    """The fraction of images whose size does not occur in the other set."""
    return sum(count for size, count in sizes.items() if size not in others) / max(sum(sizes.values()), 1)


def _precisions(result: FidelityResult) -> Iterator[str]:
    """Warn if the two sets were computed in different precisions. This can happen with saved statistics."""
    used = {side.statistics.dtype if side.statistics else result.network.dtype for side in result.sets.values()}
    known = sorted(precision for precision in used if precision)
    if len(known) > 1:
        yield (
            f"one set was computed in {known[0]}, the other in {known[1]}: FID measures the rounding too; use the same "
            "--precision for both"
        )


def _counts(result: FidelityResult, reference: ComparedSet) -> Iterator[str]:
    known = [side.facts.count for side in (result.generated, reference) if side.facts.count is not None]
    low, high = result.scores.get("fid_low"), result.scores.get("fid_high")
    if known and min(known) < ENOUGH_IMAGES:
        interval = f" (95 % interval {low:.4g} to {high:.4g})" if low is not None and high is not None else ""
        yield (
            f"{min(known):,} images are few: FID is biased upwards below {ENOUGH_IMAGES:,}{interval}; compare it only "
            "with FID of equally many images, or use FID∞ or KID"
        )
    if len(known) == 2 and known[0] != known[1]:
        yield f"{known[0]:,} generated and {known[1]:,} reference images: FID depends on both counts; report them"
