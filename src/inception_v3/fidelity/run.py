"""From two names of sets of pictures to all scores: what `inception-v3 fidelity` does, as one function."""

from collections.abc import Collection
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path

import torch

from inception_v3.errors import InputError
from inception_v3.fidelity.advice import advice
from inception_v3.fidelity.cache import FeatureCache
from inception_v3.fidelity.conventions import Convention, find_convention
from inception_v3.fidelity.features import extract, sample
from inception_v3.fidelity.frechet import frechet_distance
from inception_v3.fidelity.network import WEIGHTS, Dtype, EngineFeatures, Network, load_network
from inception_v3.fidelity.rounding import REVISION
from inception_v3.fidelity.scores import SCORES, Fidelity, Progress, Side, measure, no_progress, one_picture
from inception_v3.fidelity.sources import open_source
from inception_v3.fidelity.statistics import Statistics, gaussian, load_statistics
from inception_v3.support.cpu import core_count
from inception_v3.support.files import cache_folder
from inception_v3.weights.model import InceptionV3

MAX_CALLERS = 4  # batches that are on their way through a processor at once; each takes memory
FITTED = 300  # pictures at most that int8 is fitted to
# Pictures of each set, or the share of them, that a lower precision is judged on: 16 tell its effect to 0.3 % of FID,
# twice as many to 0.2 % (`benchmarks/fidelity.py --effect`), and each takes twice the time of one in that precision.
EFFECT_PICTURES, EFFECT_SHARE = 16, 1 / 64


def fidelity(
    generated: str | Path,
    reference: str | Path | None = None,
    *,
    like: str | None = None,
    mode: str | None = None,
    weights: str | Path | InceptionV3 = WEIGHTS,
    any_weights: bool = False,
    scores: Collection[str] = tuple(SCORES),
    dtype: Dtype = "fp32",
    device: str | torch.device = "cpu",
    cache: str | Path | None = None,
    use_cache: bool = True,
    batch_size: int | None = None,
    workers: int | None = None,
    strict: bool = False,
    seed: int | None = None,
    kid_subsets: int | None = None,
    kid_subset_size: int | None = None,
    is_splits: int | None = None,
    progress: Progress = no_progress,
) -> Fidelity:
    """Score generated pictures against a reference; without one, by the Inception Score alone.

    Both are what `sources.open_source` takes. `like` and `mode` name a convention; by default it is clean-fid's
    with the exact distance. Features go to the folder `cache` (by default the user's) and come from there, but for
    those of int8, which is fitted to pictures of these sets.

    Raises InputError: a set that cannot be read or has one picture, statistics of another convention or network,
    a network that is not that of 2015, an unreadable picture where `strict`.
    """
    convention = _with_options(find_convention(like, mode), seed, kid_subsets, kid_subset_size, is_splits)
    if unknown := [name for name in scores if name not in SCORES]:
        raise InputError(f"no score {unknown[0]!r}; there are {', '.join(SCORES)}", exit_status=2)
    sides = [_open(argument, convention) for argument in (generated, reference) if argument is not None]
    for side in sides:
        if side.source.count == 1 and reference is not None:
            raise one_picture(side)
    on_cpu = torch.device(device).type == "cpu"
    callers = workers or min(core_count(), MAX_CALLERS) if on_cpu else 1
    first: Dtype = "fp32" if dtype == "int8" else dtype
    network = load_network(weights, dtype=first, device=device, any_weights=any_weights, callers=callers)
    for side in sides:
        _check(side, convention, network, named=bool(like or mode))
    folder = Path(cache or cache_folder("features")) if use_cache else None
    if dtype == "int8":
        network = _in_int8(network, sides, convention, progress)
    # Features of int8 are of the pictures that it was fitted to as well.
    kept = _cache(network, convention, folder) if folder and dtype != "int8" else None
    try:
        for side in sides:
            if side.source.count != 0:
                side.features = extract(
                    side.source,
                    network,
                    convention,
                    cache=kept,
                    batch_size=batch_size,
                    workers=workers,
                    strict=strict,
                    progress=progress(side.name, side.source.count),
                )
    finally:
        if kept is not None:
            kept.close()
    result = Fidelity(sides[0], sides[1] if len(sides) > 1 else None, convention, network)
    measure(result, scores, progress)
    result.warnings = advice(result)
    if kept is not None and kept.problem:
        result.notes.append(kept.problem)
    if dtype != "fp32" and len(sides) == 2:
        try:
            _judge_precision(result, network.exact(), folder, progress)
        except InputError as error:
            result.notes.append(f"what {dtype} does to FID could not be measured: {error}")
    return result


def _with_options(
    convention: Convention,
    seed: int | None,
    kid_subsets: int | None,
    kid_subset_size: int | None,
    is_splits: int | None,
) -> Convention:
    kid, inception = convention.kid, convention.inception_score
    if seed is not None:
        kid = replace(kid, seed=seed)
        inception = inception if inception.seed is None else replace(inception, seed=seed)
    if kid_subsets is not None:
        kid = replace(kid, subsets=kid_subsets)
    if kid_subset_size is not None:
        kid = replace(kid, size=kid_subset_size, shrinks=False)
    if is_splits is not None:
        inception = replace(inception, splits=is_splits, images=None)
    return replace(convention, kid=kid, inception_score=inception)


def _open(argument: str | Path, convention: Convention) -> Side:
    """Of an .npz with pictures and statistics ADM's evaluator takes the statistics for FID, all others the pictures."""
    source = open_source(argument)
    if source.statistics and (source.count == 0 or convention.name == "adm"):
        return Side(source, statistics=load_statistics(source.statistics))
    return Side(source)


def _check(side: Side, convention: Convention, network: Network, *, named: bool) -> None:
    """Statistics that cannot be compared are refused. Those of other programs do not say how they were made."""
    if (made := side.statistics) is None:
        return
    for what, found, width in (("mu", made.pooled, network.width), ("mu_s", made.spatial, network.spatial_width)):
        if found is not None and len(found.mean) != width:
            wrong = f"{what} has {len(found.mean)} features where the network has {width}"
            raise InputError(f"{side.name}: {wrong}; compute the statistics again with this network")
    if made.convention is None and not named:
        raise InputError(
            f"{side.name}: does not say by which convention it was made; name it with --like", exit_status=2
        )
    if made.convention not in (None, convention.name):
        remedy = f"make both by one convention, such as --like {made.convention}"
        raise InputError(
            f"{side.name}: made by {made.convention}, the other set is read by {convention.name}; {remedy}"
        )
    if made.weights not in (None, network.checksum):
        wrong = f"made with the weights {f'{made.weights}'[:12]}, the other set is read with {network.checksum[:12]}"
        raise InputError(f"{side.name}: {wrong}; compute the statistics again with these weights")


def _cache(network: Network, convention: Convention, folder: Path) -> FeatureCache:
    name = f"{network.checksum[:16]}-{convention.pixels}-{network.dtype}"
    if network.dtype != "fp32" and isinstance(network.features, EngineFeatures):  # each engine rounds in its own way
        engine = network.features.engine
        name += f"-{REVISION}-{engine.name}-{network.device.type}"
    return FeatureCache(folder, name, network.width + network.spatial_width)


def _in_int8(network: Network, sides: list[Side], convention: Convention, progress: Progress) -> Network:
    """Fitted to the real pictures; to the generated ones where those are statistics."""
    side = next((side for side in reversed(sides) if side.source.count != 0), None)
    if side is None:
        return network
    done = progress(f"fitting int8 to {side.name}", None)
    fitted = network.int8(sample(side.source, convention, FITTED))
    done(1)
    return fitted


def statistics_of(side: Side, result: Fidelity) -> Statistics:
    """What a file of statistics keeps of a set."""
    if side.features is None:
        assert side.statistics is not None
        return side.statistics
    if len(side.features) < 2:
        raise InputError(f"{side.name}: one picture has no covariance to keep; give two or more")
    return Statistics(
        gaussian(side.features.pooled),
        gaussian(side.features.spatial),
        len(side.features),
        result.convention.name,
        result.network.checksum,
        result.network.dtype,
        side.sizes,
        side.formats,
        side.gray,
    )


def _judge_precision(result: Fidelity, exact: Network, folder: Path | None, progress: Progress) -> None:
    """FID of some pictures by the network in full precision, against FID of the same by the lower one.

    Raises InputError where too few of them can be read.
    """
    low, high = [], []
    pictures = 0
    kept = _cache(exact, result.convention, folder) if folder else None
    with closing(kept) if kept else nullcontext():
        for side in result.sides:
            if side.features is None:
                low.append(side.distribution("pooled"))
                high.append(side.distribution("pooled"))
                continue
            limit = max(EFFECT_PICTURES, int(EFFECT_SHARE * len(side.features)))
            advance = progress(f"{side.name} in fp32", limit)
            features = extract(side.source, exact, result.convention, cache=kept, limit=limit, progress=advance)
            if len(features) < 2:
                raise InputError(f"{side.name}: of its first {limit} pictures {len(features)} can be read")
            low.append(gaussian(side.features.pooled[: len(features)]))
            high.append(gaussian(features.pooled))
            pictures = max(pictures, len(features))
    if not pictures:  # statistics alone were compared
        return
    result.fid_change_pictures = pictures
    of_low, of_high = frechet_distance(low[0], low[1]), frechet_distance(high[0], high[1])
    result.fid_change = (of_low - of_high) / of_high if of_high else 0.0
