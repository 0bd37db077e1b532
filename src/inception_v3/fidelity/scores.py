"""The registry of all scores, each computed from the features of two sets.

To add a score, write a function that takes the result so far and a progress callback and returns a value for each of
the score's keys, and list it in SCORES.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from inception_v3.errors import InputError, NoScoreError
from inception_v3.fidelity.extrapolation import extrapolate, half_count
from inception_v3.fidelity.frechet import frechet_distance
from inception_v3.fidelity.inception_score import inception_score
from inception_v3.fidelity.kernel import kernel_distance
from inception_v3.fidelity.neighbours import (
    DENSITY_K,
    PRECISION_K,
    NeighbourScores,
    check_neighbour_count,
    compare_neighbours,
    distance_count,
)
from inception_v3.fidelity.result import ComparedSet, FidelityResult
from inception_v3.support.progress import StartStep, no_progress
from inception_v3.support.text import choose

NEIGHBOURS_STEP, INTERVAL_STEP = SCORE_STEPS = ("nearest neighbours", "interval of FID")  # steps that are not of images


@dataclass(frozen=True)
class Score:
    """The keys of a score in `FidelityResult.scores`, and the function that computes their values.

    The function raises NoScoreError if these sets cannot have the score.
    """

    keys: tuple[str, ...]
    compute: Callable[[FidelityResult, StartStep], Iterable[float]]
    needs_reference: bool = True


def compute_scores(
    result: FidelityResult, requested: Collection[str] | None = None, progress: StartStep = no_progress
) -> None:
    """Compute the requested scores (None: all) into `result.scores`, and add notes on scores that are not possible.

    Raises InputError: a set of one image, or the only requested score is not possible.
    """
    requested = SCORES if requested is None else requested
    result.scores = {key: None for score in SCORES.values() for key in score.keys}
    if result.reference is not None:
        for side in result.sets.values():
            check_covariance(side, side.facts.count)
    for name, score in SCORES.items():
        if name not in requested or (result.reference is None and score.needs_reference):
            continue
        try:
            result.scores.update(zip(score.keys, score.compute(result, progress), strict=True))
        except NoScoreError as error:
            if len(requested) == 1:
                raise InputError(f"{name}: {error}") from error
            result.notes.append(f"no {name}: {error}")


def check_score_names(requested: Collection[str] | None, *, has_reference: bool = True) -> None:
    """Check the names of scores. Raises InputError for an unknown name, or if all of them need a missing reference."""
    names = [choose("--scores", name, SCORES) for name in requested or ()]
    if names and not has_reference and all(SCORES[name].needs_reference for name in names):
        raise InputError(f"--scores {','.join(names)}: needs images to compare with; give REFERENCE too", exit_status=2)


def check_covariance(side: ComparedSet, count: int | None) -> None:
    """Check that a set can have a covariance. Raises InputError if it has only one image."""
    if count == 1:
        raise InputError(f"{side.name}: one image has no covariance, which FID needs; give two or more")


def neighbour_scores(result: FidelityResult, progress: StartStep, k: int = 0) -> NeighbourScores:
    """The nearest-neighbour scores, computed once for all scores and the HTML page that need them.

    Small sets use fewer neighbours. Raises NoScoreError: a set has no more than `k` images, or only statistics.
    """
    generated, reference = result.generated.pooled, result.required_reference.pooled
    check_neighbour_count(generated, reference, k)
    if result.neighbours is None:
        available = min(len(generated), len(reference)) - 1
        result.neighbours = compare_neighbours(
            generated,
            reference,
            k=min(PRECISION_K, available),
            density_k=min(DENSITY_K, available),
            progress=progress(NEIGHBOURS_STEP, distance_count(len(generated), len(reference))),
        )
    return result.neighbours


def _fid(result: FidelityResult, progress: StartStep) -> Iterable[float]:
    generated, reference = (side.distribution("pooled") for side in result.sets.values())
    return (frechet_distance(generated, reference, result.convention.trace_method),)


def _sfid(result: FidelityResult, progress: StartStep) -> Iterable[float]:
    generated, reference = (side.distribution("spatial") for side in result.sets.values())
    return (frechet_distance(generated, reference, result.convention.spatial_trace_method),)


def _fid_infinity(result: FidelityResult, progress: StartStep) -> Iterable[float]:
    generated, reference = (
        side.distribution("pooled") if side.statistics else side.pooled for side in result.sets.values()
    )
    fid = result.scores["fid"]
    if fid is None:
        (fid,) = _fid(result, progress)
    extrapolation = extrapolate(
        generated,
        reference,
        fid=fid,
        seed=result.convention.kid.seed,
        progress=progress(INTERVAL_STEP, half_count(generated, reference) + 1),
    )
    return *extrapolation.fid_interval, extrapolation.infinity, *extrapolation.infinity_interval


def _kid(result: FidelityResult, progress: StartStep) -> Iterable[float]:
    return kernel_distance(result.generated.pooled, result.required_reference.pooled, result.convention.kid)


def _inception_score(result: FidelityResult, progress: StartStep) -> Iterable[float]:
    return inception_score(result.generated.pooled, result.network.logits, result.convention.inception_score)


def _precision(result: FidelityResult, progress: StartStep) -> Iterable[float]:
    scores = neighbour_scores(result, progress, PRECISION_K)
    return scores.precision, scores.recall


def _density(result: FidelityResult, progress: StartStep) -> Iterable[float]:
    scores = neighbour_scores(result, progress, DENSITY_K)
    return scores.density, scores.coverage


def _memorisation(result: FidelityResult, progress: StartStep) -> Iterable[float]:
    return neighbour_scores(result, progress).memorisation


SCORES = {
    "fid": Score(("fid",), _fid),
    "fid-infinity": Score(
        ("fid_low", "fid_high", "fid_infinity", "fid_infinity_low", "fid_infinity_high"), _fid_infinity
    ),
    "kid": Score(("kid_mean", "kid_std"), _kid),
    "is": Score(("is_mean", "is_std"), _inception_score, needs_reference=False),
    "precision": Score(("precision", "recall"), _precision),
    "density": Score(("density", "coverage"), _density),
    "sfid": Score(("sfid",), _sfid),
    "memorisation": Score(
        ("memorisation_distance", "memorisation_distance_min", "memorisation_distance_reference"), _memorisation
    ),
}
