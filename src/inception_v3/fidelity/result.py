"""The two sets of a comparison, its result, and how results are shown."""

from dataclasses import dataclass, field
from typing import Any, Literal, cast

from inception_v3 import __version__
from inception_v3.errors import NoScoreError
from inception_v3.fidelity.conventions import Convention
from inception_v3.fidelity.feature_rows import FeatureRows
from inception_v3.fidelity.features import FeatureSet
from inception_v3.fidelity.frechet import Gaussian
from inception_v3.fidelity.image_sets import ImageSet
from inception_v3.fidelity.neighbours import NeighbourScores
from inception_v3.fidelity.network import FeatureNetwork
from inception_v3.fidelity.score_names import ScoreName, names_of, three_digits
from inception_v3.fidelity.statistics import Statistics, gaussian
from inception_v3.support.text import count_of


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

    def describe(self) -> str:
        """The name, the number of images and their sizes. Statistics of other programs hold neither."""
        count, sizes = self.facts.count, format_sizes(self.facts.sizes)
        if self.features is None:
            of = "an unknown number of images" if count is None else count_of(count, "image")
            return f"{self.name} (only statistics, of {of}{f', {sizes}' if sizes else ''})"
        return f"{self.name} ({count_of(cast(int, count), 'image')}, {sizes})"

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

    @property
    def keys(self) -> list[str]:
        """The keys of the scores that were computed."""
        return [key for key, value in self.scores.items() if value is not None]

    @property
    def convention_text(self) -> str:
        """The convention in full: its label, and all that the computed scores depend on except the network."""
        return f"{self.convention.label} ({self.convention.describe(self.keys)})"

    @property
    def network_text(self) -> str:
        """The weights, their checksum and their precision; a warning if they are not those of 2015."""
        network = self.network
        warning = "" if network.is_published else ", not the network of 2015"
        return f"{network.weights} (SHA-256 {network.checksum[:12]}{warning}) in {network.dtype}"

    def cite_as(self, generated_count: str | None = None) -> str:
        """One sentence with all that a reader needs to compute comparable scores.

        `generated_count` replaces the number of generated images, for several sets.
        """
        counts = [generated_count or _count(self.generated, "generated image")]
        counts += [_count(self.reference, "reference image")] if self.reference else []
        seed = self.convention.seed(self.keys)
        return (
            f"Computed with inception-v3 {__version__} by the convention {self.convention_text}, with the weights "
            f"{self.network_text}, from {' and '.join(counts)}{'' if seed is None else f', with seed {seed}'}."
        )

    def describe(self) -> list[str]:
        """Lines of text: the two sets, and the effect of the network's precision."""
        lines = [f"{role.capitalize()} images: {side.describe()}" for role, side in self.sets.items()]
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
        values |= {"convention": self.convention.label, "weights": self.network.checksum, "dtype": self.network.dtype}
        values |= {"convention_in_full": self.convention_text, "cite_as": self.cite_as()}
        if self.fid_change is not None:
            values |= {"fid_change": self.fid_change, "fid_change_pictures": self.fid_change_images}
        return values | {"warnings": self.warnings, "notes": self.notes, "unreadable": self.unreadable}


def format_scores(result: FidelityResult) -> list[tuple[ScoreName, str, str]]:
    """Each computed score: its name, its value with three significant digits, and its spread or interval (or "")."""
    return [
        (score, three_digits(cast(float, result.scores[score.key])), _spread(result, score))
        for score in names_of(result.keys)
    ]


def _spread(result: FidelityResult, score: ScoreName) -> str:
    deviation, low, high = (result.scores.get(f"{score.stem}_{suffix}") for suffix in ("std", "low", "high"))
    if low is not None and high is not None:
        return f"95 %: {three_digits(low)} to {three_digits(high)}"
    if deviation is None:
        return ""
    return _single_sample(result, score) or f"± {three_digits(deviation)}"


def _single_sample(result: FidelityResult, score: ScoreName) -> str:
    """Why a score of samples has no deviation: only one sample, or all images in each. "" if it has one."""
    counts = [cast(int, side.facts.count) for side in result.sets.values()]
    if score.key == "is_mean":
        return "no deviation: 1 part" if result.convention.inception_score.count_parts(counts[0]) == 1 else ""
    kid = result.convention.kid
    if kid.subsets == 1:
        return "no deviation: 1 subset"
    return "no deviation: each subset has all images" if kid.subset_size(min(counts)) == max(counts) else ""


def _count(side: ComparedSet, noun: str) -> str:
    """The number of images in words, such as "1,000 reference images"."""
    count = side.facts.count
    if count is None:
        return f"an unknown number of {noun}s (statistics without a count)"
    return count_of(count, noun)


def format_sizes(sizes: dict[str, int]) -> str:
    """List up to three sizes, such as "256x256". Of more sizes, show the most common and the number of others."""
    names = list(sizes)
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} and {len(names) - 1} other sizes"
