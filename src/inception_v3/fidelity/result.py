"""The two sets of a comparison, its result, and how results are shown."""

from dataclasses import dataclass, field
from typing import Any, Literal, cast

from inception_v3.errors import NoScoreError
from inception_v3.fidelity.conventions import Convention
from inception_v3.fidelity.feature_rows import FeatureRows
from inception_v3.fidelity.features import FeatureSet
from inception_v3.fidelity.frechet import Gaussian
from inception_v3.fidelity.image_sets import ImageSet
from inception_v3.fidelity.neighbours import NeighbourScores
from inception_v3.fidelity.network import FeatureNetwork
from inception_v3.fidelity.statistics import Statistics, gaussian


@dataclass
class ComparedSet:
    """One of the two compared sets. It has features, statistics, or both."""

    image_set: ImageSet
    features: FeatureSet | None = None
    statistics: Statistics | None = None

    @property
    def name(self) -> str:
        return self.image_set.name

    @property
    def facts(self) -> FeatureSet | Statistics:
        """`count`, `sizes`, `formats` and `gray`, from the features if there are any, otherwise from the statistics."""
        return cast(FeatureSet | Statistics, self.features or self.statistics)

    @property
    def pooled(self) -> FeatureRows:
        """The features of all scores except sFID, (N, width). Raises NoScoreError: there are only statistics."""
        if self.features is None:
            raise NoScoreError(f"{self.name} holds statistics and no images")
        return self.features.pooled

    def distribution(self, kind: Literal["pooled", "spatial"]) -> Gaussian:
        """The distribution of the features of FID or sFID. Raises NoScoreError: the statistics do not include it."""
        if self.statistics is None:
            return gaussian(getattr(self.features, kind))
        distribution: Gaussian | None = getattr(self.statistics, kind)
        if distribution is None:
            raise NoScoreError(f"{self.name} holds no mu_s and sigma_s")
        return distribution


@dataclass
class FidelityResult:
    """The result of a comparison.

    Attributes:
        scores: a value for each key in `scores.SCORES`; None if it was not requested or is not possible.
        notes: why a score is not possible.
        warnings: why a score may be misleading.
        fid_change: the relative change of FID caused by a lower precision of the network, measured on the first
            `fid_change_images` images of each set.
    """

    generated: ComparedSet
    reference: ComparedSet | None
    convention: Convention
    network: FeatureNetwork
    scores: dict[str, float | None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    neighbours: NeighbourScores | None = None
    fid_change: float | None = None
    fid_change_images: int | None = None

    @property
    def sets(self) -> dict[str, ComparedSet]:
        """The generated set and, if there is one, the reference, by these names."""
        return {"generated": self.generated} | ({"reference": self.reference} if self.reference else {})

    @property
    def required_reference(self) -> ComparedSet:
        """The reference, for scores that are only computed with one."""
        return cast(ComparedSet, self.reference)

    @property
    def unreadable(self) -> list[str]:
        """Messages about the unreadable images of both sets."""
        return [message for side in self.sets.values() if side.features for message in side.features.unreadable]

    def describe(self) -> list[str]:
        """Lines of text: the two sets, the network, and the effect of its precision."""
        lines = [
            f"{role} {side.name}: {side.facts.count} images, {format_sizes(side.facts.sizes)}"
            for role, side in self.sets.items()
        ]
        lines.append(f"weights {self.network.checksum[:12]}, {self.network.dtype}")
        if self.fid_change is not None:
            lines.append(
                f"{self.network.dtype} changes FID by {self.fid_change:+.3%} (on {self.fid_change_images} images of "
                "each set)"
            )
        return lines

    def as_dict(self) -> dict[str, Any]:
        """A flat dict of numbers and text for JSON and CSV, with the lists `warnings`, `notes` and `unreadable`."""
        values: dict[str, Any] = dict(self.scores)
        for role, side in self.sets.items():
            values[role] = side.name
            values[f"{role}_count"] = side.facts.count
            values[f"{role}_sizes"] = format_sizes(side.facts.sizes)
            values[f"{role}_unreadable"] = side.features.unreadable_count if side.features else 0
        values |= {"convention": self.convention.name, "weights": self.network.checksum, "dtype": self.network.dtype}
        if self.fid_change is not None:
            values |= {"fid_change": self.fid_change, "fid_change_pictures": self.fid_change_images}
        return values | {"warnings": self.warnings, "notes": self.notes, "unreadable": self.unreadable}


def format_scores(scores: dict[str, float | None]) -> list[tuple[str, str, str]]:
    """Rows for a table: the name of each computed score, its value, and its spread or interval (or "")."""
    rows = []
    for key, value in scores.items():
        if value is None or key.endswith(("_std", "_low", "_high")):
            continue
        name = key.removesuffix("_mean")
        deviation, low, high = (scores.get(f"{name}_{suffix}") for suffix in ("std", "low", "high"))
        spread = "" if deviation is None else f"± {deviation:.6g}"
        if low is not None and high is not None:
            spread = f"95 %: {low:.6g} to {high:.6g}"
        rows.append((name, f"{value:.6g}", spread))
    return rows


def format_sizes(sizes: dict[str, int]) -> str:
    """List up to three sizes, such as "256x256". Of more sizes, show the most common and the number of others."""
    names = list(sizes)
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} and {len(names) - 1} other sizes"
