"""Score two sets of images: the whole of `inception-v3 fidelity` as one function."""

from collections.abc import Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from inception_v3.errors import InputError
from inception_v3.fidelity.advice import advice
from inception_v3.fidelity.conventions import DEFAULT, Convention, same_features
from inception_v3.fidelity.features import ComputeSet, extract_features, read_inputs
from inception_v3.fidelity.frechet import frechet_distance
from inception_v3.fidelity.image_sets import open_image_set
from inception_v3.fidelity.network import FeatureNetwork, load_network
from inception_v3.fidelity.options import FidelityOptions
from inception_v3.fidelity.result import ComparedSet, FidelityResult
from inception_v3.fidelity.scores import check_covariance, check_score_names, compute_scores
from inception_v3.fidelity.statistics import Statistics, gaussian, load_statistics
from inception_v3.inference.feature_store import FeatureStore
from inception_v3.support.arguments import check, checked
from inception_v3.support.devices import as_device
from inception_v3.support.progress import StartStep, no_progress
from inception_v3.weights.model import InceptionV3

CALIBRATION_IMAGES = 300  # the most images that int8 is calibrated on
# The effect of a lower precision on FID is measured on at least this many images, and this fraction, of each set. 16
# images show it to 0.3 % of FID, 32 to 0.2 % (`benchmarks/fidelity.py --effect`). An image takes twice as long in fp32.
EFFECT_IMAGES, EFFECT_FRACTION = 16, 1 / 64


@checked
def fidelity(
    generated: str | Path, reference: str | Path | None = None, *, progress: StartStep = no_progress, **options: Any
) -> FidelityResult:
    """Score generated images against a reference set; without a reference, compute only the Inception Score.

    Args:
        generated, reference: a folder, an archive, arrays, shards or saved statistics (`open_image_set`).
        progress: shows the progress of each step.
        options: the fields of `FidelityOptions`, such as `weights`, `like`, `scores` and `device`.

    Raises:
        TypeError, ValueError: an argument of the wrong type or value.
        InputError: a set that cannot be read or has only one image, statistics of another convention or network, a
            network that is not that of 2015 (unless `any_weights`), or an unreadable image if `strict` is set.
    """
    return score_sets(generated, reference, FidelityOptions(**options), progress)


def score_sets(
    generated: str | Path, reference: str | Path | None, options: FidelityOptions, progress: StartStep = no_progress
) -> FidelityResult:
    """The same as `fidelity`, with all options in one object."""
    (outcome,) = score_each([generated], reference, options, progress)
    if isinstance(outcome, InputError):
        raise outcome
    return outcome


def score_each(
    generated: Sequence[str | Path],
    reference: str | Path | None,
    options: FidelityOptions,
    progress: StartStep = no_progress,
    compute: ComputeSet | None = None,
) -> Iterator[FidelityResult | InputError]:
    """Score several generated sets, one after another, against one reference, whose features are computed once.

    A set that cannot be used yields its InputError, and the next one follows. All other errors of `fidelity`, and that
    of the first set if none can be used, are raised before the first set is scored. `compute` computes the features
    of a set, by default this process.
    """
    convention = options.convention()
    check("weights", options.weights, str | Path | InceptionV3)
    as_device(options.device)
    check_score_names(options.scores)
    opened = [_open_or_error(argument, convention, has_reference=reference is not None) for argument in generated]
    sides = [side for side in opened if not isinstance(side, InputError)]
    if not sides and isinstance(first := opened[0], InputError):
        raise first
    other = None if reference is None else _open(reference, convention)
    sets = sides + ([other] if other else [])
    if other is not None:
        check_covariance(other, other.image_set.count)
    network = load_network(
        options.weights,
        dtype="fp32" if options.dtype == "int8" else options.dtype,
        device=options.device,
        any_weights=options.any_weights,
        callers=options.callers(),
    )
    for side in sets:
        _check_statistics(side, convention, network, named=bool(options.like or options.mode))
    if options.dtype == "int8":
        network = _calibrate_int8(network, sets, convention, progress)
    folder = options.cache_folder()
    store = FeatureStore(folder) if folder else None
    with closing(store) if store else nullcontext():
        if other is not None:
            _extract(other, network, convention, options, store, progress, compute)
        for generated_set in opened:
            try:
                if isinstance(generated_set, InputError):
                    raise generated_set
                # A copy of the set, so that its features on disk are deleted with the result.
                result = FidelityResult(replace(generated_set), other, convention, network)
                yield _score(result, options, store, progress, compute)
            except InputError as error:
                yield error


def _open_or_error(argument: str | Path, convention: Convention, *, has_reference: bool) -> ComparedSet | InputError:
    """Open a generated set, or return why it cannot be used, such as too few images for FID."""
    try:
        side = _open(argument, convention)
        if has_reference:
            check_covariance(side, side.image_set.count)
    except InputError as error:
        return error
    return side


def _score(
    result: FidelityResult,
    options: FidelityOptions,
    store: FeatureStore | None,
    progress: StartStep,
    compute: ComputeSet | None,
) -> FidelityResult:
    """Extract the generated features and compute everything in `result`."""
    _extract(result.generated, result.network, result.convention, options, store, progress, compute)
    compute_scores(result, options.scores, progress)
    result.warnings = advice(result)
    if options.dtype != "fp32" and result.reference is not None:
        try:
            _measure_precision(result, store, progress)
        except InputError as error:
            result.notes.append(f"the effect of {options.dtype} on FID could not be measured: {error}")
    result.notes += store.messages if store else []
    return result


def statistics_of(side: ComparedSet, result: FidelityResult) -> Statistics:
    """The statistics of a set, to be saved. Raises InputError: the set has only one image."""
    if side.features is None:
        assert side.statistics is not None
        return side.statistics
    if side.features.count < 2:
        raise InputError(f"{side.name}: statistics of one image have no covariance; give two or more")
    return Statistics(
        gaussian(side.features.pooled),
        gaussian(side.features.spatial),
        side.features.count,
        result.convention.name,
        result.network.checksum,
        result.network.dtype,
        side.features.sizes,
        side.features.formats,
        side.features.gray,
    )


def _open(argument: str | Path, convention: Convention) -> ComparedSet:
    image_set = open_image_set(argument)
    if image_set.statistics and (image_set.count == 0 or convention.prefer_statistics):
        return ComparedSet(image_set, statistics=load_statistics(image_set.statistics))
    return ComparedSet(image_set)


def _check_statistics(side: ComparedSet, convention: Convention, network: FeatureNetwork, *, named: bool) -> None:
    """Check that saved statistics belong to the convention and the network. Raises InputError.

    Statistics of other programs do not record their convention, so it must be `named` by an option.
    """
    if (saved := side.statistics) is None:
        return
    for key, saved_part, width in (("mu", saved.pooled, network.width), ("mu_s", saved.spatial, network.spatial_width)):
        if saved_part is not None and len(saved_part.mean) != width:
            raise InputError(
                f"{side.name}: {key} has {len(saved_part.mean)} features and the network has {width}; compute the "
                "statistics again with this network"
            )
    if saved.convention is None and not named:
        raise InputError(
            f"{side.name}: does not record which convention it was computed by; name it with --like", exit_status=2
        )
    if saved.convention is not None and not same_features(saved.convention, convention):
        remedy = "no --like" if saved.convention == DEFAULT.name else f"--like {saved.convention}"
        raise InputError(
            f"{side.name}: its statistics were computed by the convention {saved.convention}, whose resize differs "
            f"from that of {convention.name}; use one convention for both sets, such as {remedy}"
        )
    if saved.weights not in (None, network.checksum):
        raise InputError(
            f"{side.name}: its statistics were computed with weights {f'{saved.weights}'[:12]}, and this run uses "
            f"weights {network.checksum[:12]} (the start of their SHA-256); compute the statistics again with these"
        )


def _calibrate_int8(
    network: FeatureNetwork, sets: list[ComparedSet], convention: Convention, progress: StartStep
) -> FeatureNetwork:
    """Calibrate on the reference images, or on the generated images if the reference is statistics."""
    side = next((side for side in reversed(sets) if side.image_set.count != 0), None)
    if side is None:
        return network
    advance = progress(f"calibrating int8 on {side.name}", None)
    calibrated = network.int8(read_inputs(side.image_set, convention, CALIBRATION_IMAGES))
    advance(1)
    return calibrated


def _extract(
    side: ComparedSet,
    network: FeatureNetwork,
    convention: Convention,
    options: FidelityOptions,
    store: FeatureStore | None,
    progress: StartStep,
    compute: ComputeSet | None,
) -> None:
    """Extract the features of a set, if it has images."""
    # int8 features also depend on the images that the network was calibrated on, so they are not stored.
    store = store if options.dtype != "int8" else None
    if side.image_set.count != 0:
        advance = progress(side.name, side.image_set.count)
        side.features = extract_features(
            side.image_set, network, convention, options, store=store, progress=advance, compute=compute
        )


def _measure_precision(result: FidelityResult, store: FeatureStore | None, progress: StartStep) -> None:
    """Compare FID of some images in the lower precision with FID of the same images in float32.

    Raises InputError: too few of these images can be read.
    """
    exact = result.network.to(result.network.device, "fp32")
    lower, full, images = [], [], 0
    for side in result.sets.values():
        if side.features is None:
            lower.append(side.distribution("pooled"))
            full.append(side.distribution("pooled"))
            continue
        limit = max(EFFECT_IMAGES, int(EFFECT_FRACTION * side.features.count))
        advance = progress(f"{side.name} in fp32", limit)
        features = extract_features(
            side.image_set, exact, result.convention, store=store, limit=limit, progress=advance
        )
        if features.count < 2:
            raise InputError(f"{side.name}: only {features.count} of its first {limit} images can be read; give more")
        lower.append(gaussian(side.features.pooled[: features.count]))
        full.append(gaussian(features.pooled))
        images = max(images, features.count)
    if images:
        result.fid_change_images = images
        lower_fid, full_fid = (frechet_distance(first, second) for first, second in (lower, full))
        result.fid_change = (lower_fid - full_fid) / full_fid if full_fid else 0.0
