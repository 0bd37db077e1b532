"""What an expert would say of a comparison before believing its number: one line each."""

import numpy as np
from numpy.typing import NDArray

from inception_v3.fidelity.features import FeatureSet
from inception_v3.fidelity.scores import Fidelity, Side, told_sizes

ENOUGH = 10_000  # images, below which published figures cannot be compared with
TINY = 150  # pixels of the shorter side, which the network reads at more than twice the size
LOSSY = {"JPEG", "MPO", "WEBP", "AVIF"}
DIFFER = 0.05  # share of a set that makes it differ from the other


def advice(result: Fidelity) -> list[str]:
    """Warnings, the gravest first: sets that overlap or were stored differently, then their number."""
    told: list[str] = []
    if result.reference is not None:
        told += _overlap(result.generated, result.reference)
        told += _stored(result.generated, result.reference)
    for role, side in zip(("generated", "reference"), result.sides, strict=False):
        if side.features is not None:
            told += _within(role, side.features)
    if result.reference is not None:
        told += _sizes(result.generated, result.reference)
        told += _counts(result, result.reference)
        told += _precisions(result, result.reference)
    return told


def _overlap(generated: Side, reference: Side) -> list[str]:
    if generated.features is None or reference.features is None:
        return []
    if not (shared := int(np.isin(_whole(generated.features.keys), _whole(reference.features.keys)).sum())):
        return []
    return [
        f"{shared} of {generated.count} generated images are in the reference too: scores are too good; leave them out "
        "of one set"
    ]


def _stored(generated: Side, reference: Side) -> list[str]:
    told = []
    if generated.formats and reference.formats:
        lossy = [
            sum(count for kind, count in side.formats.items() if kind in LOSSY) / sum(side.formats.values())
            for side in (generated, reference)
        ]
        if abs(lossy[0] - lossy[1]) > DIFFER:
            kinds = " and ".join(sorted(LOSSY & (generated.formats.keys() | reference.formats.keys())))
            told.append(
                f"{lossy[0]:.0%} of the generated images are {kinds}, {lossy[1]:.0%} of the reference: the traces of "
                "lossy compression alone raise FID; store both sets alike, best as PNG"
            )
    gray = [side.gray / side.count for side in (generated, reference) if side.gray is not None and side.count]
    if len(gray) == 2 and abs(gray[0] - gray[1]) > DIFFER:
        told.append(
            f"{gray[0]:.0%} of the generated images are gray, {gray[1]:.0%} of the reference: FID measures the "
            "colour; use sets of one kind"
        )
    return told


def _whole(keys: NDArray[np.uint8]) -> NDArray[np.void]:
    """Each row of bytes as one value."""
    return np.ascontiguousarray(keys).view(f"V{keys.shape[1]}")[:, 0]


def _within(role: str, features: FeatureSet) -> list[str]:
    told = []
    if twice := len(features) - len(np.unique(_whole(features.keys))):
        told.append(f"{twice} of {len(features)} {role} images are copies of others in the set: they count twice")
    tiny = sum(count for size, count in features.sizes.items() if min(size) < TINY)
    if tiny > DIFFER * len(features):
        sizes = {f"{width}x{height}": 0 for (width, height), _ in features.sizes.most_common()}
        told.append(
            f"{tiny} of {len(features)} {role} images ({told_sizes(sizes)}) are enlarged more than twice to 299x299: "
            "the scores compare blur and tell little of detail"
        )
    return told


def _sizes(generated: Side, reference: Side) -> list[str]:
    sizes = [generated.sizes, reference.sizes]
    if not all(sizes) or max(_unmatched(*sizes), _unmatched(*sizes[::-1])) <= DIFFER:
        return []
    return [
        f"generated images are {told_sizes(sizes[0])}, the reference's {told_sizes(sizes[1])}: the resize to 299x299 "
        "differs; bring both sets to one size in one way first"
    ]


def _unmatched(some: dict[str, int], others: dict[str, int]) -> float:
    """The share of images of a size that the other set does not have."""
    return sum(count for size, count in some.items() if size not in others) / max(sum(some.values()), 1)


def _precisions(result: Fidelity, reference: Side) -> list[str]:
    """Saved statistics may come from a network in another one."""
    made = {
        side.statistics.dtype if side.statistics else result.network.dtype for side in (result.generated, reference)
    }
    known = sorted(precision for precision in made if precision)
    if len(known) < 2:
        return []
    return [f"one set was read in {known[0]}, the other in {known[1]}: FID measures the rounding too; use one for both"]


def _counts(result: Fidelity, reference: Side) -> list[str]:
    told = []
    counts = result.generated.count, reference.count
    known = [count for count in counts if count is not None]
    low, high = result.scores.get("fid_low"), result.scores.get("fid_high")
    if known and min(known) < ENOUGH:
        interval = f" (95 % interval {low:.4g} to {high:.4g})" if low is not None and high is not None else ""
        told.append(
            f"{min(known):,} images are few: FID is biased upwards below {ENOUGH:,}{interval}; compare it only with "
            "FID of as many images, or use FID-infinity or KID"
        )
    if len(known) == 2 and known[0] != known[1]:
        told.append(
            f"{known[0]:,} generated and {known[1]:,} reference images: FID depends on both numbers; state them"
        )
    return told
