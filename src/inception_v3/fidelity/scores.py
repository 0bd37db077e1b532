"""Every score of two sets of pictures from the features that they share: a table, and what each row computes."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from inception_v3.errors import InputError, NoScoreError
from inception_v3.fidelity.conventions import Convention
from inception_v3.fidelity.extrapolation import extrapolate, repetitions
from inception_v3.fidelity.features import FeatureSet
from inception_v3.fidelity.frechet import Gaussian, frechet_distance
from inception_v3.fidelity.inception_score import inception_score
from inception_v3.fidelity.kernel import kernel_distance
from inception_v3.fidelity.manifold import DENSITY_K, PRECISION_K, Manifold, check_neighbours, compare, pairs
from inception_v3.fidelity.network import Network
from inception_v3.fidelity.rows import Rows
from inception_v3.fidelity.sources import Source
from inception_v3.fidelity.statistics import Statistics, gaussian

# A bar for a step: told its name and size (None: unknown), it gives what is called with each amount done.
Progress = Callable[[str, int | None], Callable[[int], None]]


def no_progress(step: str, total: int | None) -> Callable[[int], None]:
    return lambda done: None


@dataclass
class Side:
    """One of the two sets: its features, its statistics, or both."""

    source: Source
    features: FeatureSet | None = None
    statistics: Statistics | None = None

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def count(self) -> int | None:
        if self.features is not None:
            return len(self.features)
        return self.statistics.count if self.statistics else None

    @property
    def sizes(self) -> dict[str, int]:
        """Pictures of each "width x height", the most common first."""
        if self.features is not None:
            return {f"{width}x{height}": count for (width, height), count in self.features.sizes.most_common()}
        return self.statistics.sizes if self.statistics else {}

    @property
    def formats(self) -> dict[str, int]:
        """Pictures of each kind of file, the most common first; empty where saved statistics do not say."""
        if self.features is not None:
            return dict(self.features.formats.most_common())
        return self.statistics.formats if self.statistics else {}

    @property
    def gray(self) -> int | None:
        """Pictures without colour."""
        if self.features is not None:
            return self.features.gray
        return self.statistics.gray if self.statistics else None

    @property
    def pooled(self) -> Rows:
        """Raises NoScoreError: there are statistics alone."""
        if self.features is None:
            raise NoScoreError(f"{self.name} holds statistics and no pictures")
        return self.features.pooled

    def distribution(self, over: Literal["pooled", "spatial"]) -> Gaussian:
        """Raises NoScoreError: saved statistics without it."""
        if self.statistics is None:
            assert self.features is not None
            return gaussian(getattr(self.features, over))
        found: Gaussian | None = getattr(self.statistics, over)
        if found is None:
            raise NoScoreError(f"{self.name} holds no mu_s and sigma_s")
        return found


@dataclass
class Fidelity:
    """What was measured. `scores` has the keys of SCORES, None where a score was not asked for or not possible.

    `notes` say why one was not possible, `warnings` what makes the others doubtful. `fid_change` is what a lower
    precision of the network did to FID, as a share of it, on the first `fid_change_pictures` of each set.
    """

    generated: Side
    reference: Side | None
    convention: Convention
    network: Network
    scores: dict[str, float | None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    neighbours: Manifold | None = None
    fid_change: float | None = None
    fid_change_pictures: int | None = None

    @property
    def sides(self) -> list[Side]:
        return [self.generated] if self.reference is None else [self.generated, self.reference]

    @property
    def against(self) -> Side:
        """The reference, where there is one."""
        assert self.reference is not None
        return self.reference

    def facts(self) -> list[str]:
        """For people: what the scores are of, and how they were made."""
        lines = [
            f"{role} {side.name}: {side.count} images, {told_sizes(side.sizes)}"
            for role, side in zip(("generated", "reference"), self.sides, strict=False)
        ]
        lines.append(f"weights {self.network.checksum[:12]}, {self.network.dtype}")
        if self.fid_change is not None:
            change = f"{self.fid_change:+.3%} (on {self.fid_change_pictures} images of each set)"
            lines.append(f"{self.network.dtype} changes FID by {change}")
        return lines

    def as_dict(self) -> dict[str, Any]:
        """Flat: numbers and text, and three lists."""
        told: dict[str, Any] = dict(self.scores)
        for role, side in zip(("generated", "reference"), self.sides, strict=False):
            told[role] = side.name
            told[f"{role}_count"] = side.count
            told[f"{role}_sizes"] = told_sizes(side.sizes)
            told[f"{role}_unreadable"] = side.features.bad_count if side.features else 0
        told |= {"convention": self.convention.name, "weights": self.network.checksum, "dtype": self.network.dtype}
        if self.fid_change is not None:
            told |= {"fid_change": self.fid_change, "fid_change_pictures": self.fid_change_pictures}
        unreadable = [reason for side in self.sides if side.features for reason in side.features.bad]
        return told | {"warnings": self.warnings, "notes": self.notes, "unreadable": unreadable}


def told_scores(scores: dict[str, float | None]) -> list[tuple[str, str, str]]:
    """For people: of each score that there is its name, its value, and what stands beside it, or nothing."""
    rows = []
    for key, value in scores.items():
        name, beside = key.removesuffix("_mean"), ""
        if value is None or key.endswith(("_std", "_low", "_high")):
            continue
        if (spread := scores.get(f"{name}_std")) is not None:
            beside = f"± {spread:.6g}"
        low, high = scores.get(f"{name}_low"), scores.get(f"{name}_high")
        if low is not None and high is not None:
            beside = f"95 %: {low:.6g} to {high:.6g}"
        rows.append((name, f"{value:.6g}", beside))
    return rows


def told_sizes(sizes: dict[str, int]) -> str:
    """'256x256', or the most common of many."""
    names = list(sizes)
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} and {len(names) - 1} other sizes"


# --- the table ---


def _fid(result: Fidelity, progress: Progress) -> Iterable[float]:
    return (_frechet(result, "pooled"),)


def _sfid(result: Fidelity, progress: Progress) -> Iterable[float]:
    return (_frechet(result, "spatial"),)


def _frechet(result: Fidelity, over: Literal["pooled", "spatial"]) -> float:
    first, second = (side.distribution(over) for side in result.sides)
    # of sFID there is one reference, OpenAI's: the others have none whose rounding could be kept
    named = over == "pooled" or result.convention.name == "adm"
    return frechet_distance(first, second, result.convention.reference if named else None)


def _fid_infinity(result: Fidelity, progress: Progress) -> Iterable[float]:
    generated, reference = (
        side.distribution("pooled") if side.statistics else side.pooled for side in (result.generated, result.against)
    )
    fid = result.scores["fid"]
    advance = progress("interval of FID", repetitions(generated, reference) + 1)
    found = extrapolate(
        generated,
        reference,
        fid=_frechet(result, "pooled") if fid is None else fid,
        seed=result.convention.kid.seed,
        progress=advance,
    )
    return *found.fid_interval, found.infinity, *found.infinity_interval


def _kid(result: Fidelity, progress: Progress) -> Iterable[float]:
    return kernel_distance(result.generated.pooled, result.against.pooled, result.convention.kid)


def _inception_score(result: Fidelity, progress: Progress) -> Iterable[float]:
    return inception_score(result.generated.pooled, result.network.logits, result.convention.inception_score)


def neighbours(result: Fidelity, progress: Progress) -> Manifold:
    """What three scores and the page are made of, worked out by the first; of few pictures with fewer neighbours.

    Raises NoScoreError: statistics without pictures.
    """
    if result.neighbours is None:
        generated, reference = result.generated.pooled, result.against.pooled
        advance = progress("nearest neighbours", pairs(len(generated), len(reference)))
        there = min(len(generated), len(reference)) - 1
        ks = {"k": min(PRECISION_K, there), "density_k": min(DENSITY_K, there)}
        result.neighbours = compare(generated, reference, **ks, progress=advance)
    return result.neighbours


def _precision(result: Fidelity, progress: Progress) -> Iterable[float]:
    check_neighbours(result.generated.pooled, result.against.pooled, PRECISION_K)
    found = neighbours(result, progress)
    return found.precision, found.recall


def _density(result: Fidelity, progress: Progress) -> Iterable[float]:
    check_neighbours(result.generated.pooled, result.against.pooled, DENSITY_K)
    found = neighbours(result, progress)
    return found.density, found.coverage


def _memorisation(result: Fidelity, progress: Progress) -> Iterable[float]:
    found = neighbours(result, progress)
    return float(found.nearest.mean()), float(found.nearest.min()), float(found.spacing.mean())


@dataclass(frozen=True)
class Score:
    """The keys of its numbers, and the function that gives them; it raises NoScoreError where they cannot be had."""

    keys: tuple[str, ...]
    compute: Callable[[Fidelity, Progress], Iterable[float]]


SCORES = {
    "fid": Score(("fid",), _fid),
    "fid-infinity": Score(
        ("fid_low", "fid_high", "fid_infinity", "fid_infinity_low", "fid_infinity_high"), _fid_infinity
    ),
    "kid": Score(("kid_mean", "kid_std"), _kid),
    "is": Score(("is_mean", "is_std"), _inception_score),
    "precision": Score(("precision", "recall"), _precision),
    "density": Score(("density", "coverage"), _density),
    "sfid": Score(("sfid",), _sfid),
    # mean and least distance of a generated image to a real one; and of a real one to another, to measure by
    "memorisation": Score(
        ("memorisation_distance", "memorisation_distance_min", "memorisation_distance_reference"), _memorisation
    ),
}
ALONE = ("is",)  # needs no reference


def one_picture(side: Side) -> InputError:
    return InputError(f"{side.name}: one picture has no covariance, which FID needs; give two or more")


def measure(result: Fidelity, wanted: Collection[str] = tuple(SCORES), progress: Progress = no_progress) -> None:
    """Fill in `result.scores`; why one cannot be had goes to `result.notes`.

    Raises InputError: a set of one picture, or the only score that was asked for cannot be had.
    """
    result.scores = {key: None for score in SCORES.values() for key in score.keys}
    if result.reference is not None:
        for side in result.sides:
            if side.count == 1:
                raise one_picture(side)
    for name, score in SCORES.items():
        if name not in wanted or (result.reference is None and name not in ALONE):
            continue
        try:
            result.scores.update(zip(score.keys, score.compute(result, progress), strict=True))
        except NoScoreError as error:
            if len(wanted) == 1:
                raise InputError(f"{name}: {error}") from error
            result.notes.append(f"no {name}: {error}")
