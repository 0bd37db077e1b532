"""What an expert would say of a comparison before believing its number: one line each."""

from collections import Counter

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
    sets = [(role, side.features) for role, side in zip(("generated", "reference"), result.sides, strict=False)]
    known = [(role, features) for role, features in sets if features is not None]
    if len(known) == 2:
        told += _between(known[0][1], known[1][1])
    for role, features in known:
        told += _within(role, features)
    if result.reference is not None:
        told += _sizes(result.generated, result.reference)
        told += _counts(result, result.reference)
    return told


def _between(generated: FeatureSet, reference: FeatureSet) -> list[str]:
    told = []
    if shared := int(np.isin(_whole(generated.keys), _whole(reference.keys)).sum()):
        told.append(
            f"{shared} of {len(generated)} generated images are in the reference too: scores are too good; leave "
            "them out of one set"
        )
    lossy = [sum(count for kind, count in side.formats.items() if kind in LOSSY) / len(side) for side in
             (generated, reference)]  # fmt: skip
    if abs(lossy[0] - lossy[1]) > DIFFER:
        kinds = [_most_common(side.formats) for side in (generated, reference)]
        told.append(
            f"generated images are {kinds[0]}, the reference's {kinds[1]}: the traces of lossy compression alone "
            "raise FID; store both sets alike, best as PNG"
        )
    gray = [side.gray / len(side) for side in (generated, reference)]
    if abs(gray[0] - gray[1]) > DIFFER:
        told.append(
            f"{gray[0]:.0%} of the generated images are gray, {gray[1]:.0%} of the reference: FID measures the "
            "colour; use sets of one kind"
        )
    return told


def _whole(keys: NDArray[np.uint8]) -> NDArray[np.void]:
    """Each row of bytes as one value."""
    return np.ascontiguousarray(keys).view(f"V{keys.shape[1]}")[:, 0]


def _most_common(formats: Counter[str]) -> str:
    return " and ".join(kind for kind, _ in formats.most_common(2))


def _within(role: str, features: FeatureSet) -> list[str]:
    told = []
    if twice := len(features) - len(set(map(bytes, features.keys))):
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


def _counts(result: Fidelity, reference: Side) -> list[str]:
    told = []
    counts = result.generated.count, reference.count
    known = [count for count in counts if count is not None]
    low, high = result.scores.get("fid_low"), result.scores.get("fid_high")
    if known and min(known) < ENOUGH:
        interval = f" (95 % interval {low:.4g} to {high:.4g})" if low is not None and high is not None else ""
        told.append(
            f"{min(known):,} images are few: FID is biased upwards below {ENOUGH:,}{interval}; compare it only with "
            "FID of as many images, or use fid_infinity or KID"
        )
    if len(known) == 2 and known[0] != known[1]:
        told.append(
            f"{known[0]:,} generated and {known[1]:,} reference images: FID depends on both numbers; state them"
        )
    return told
