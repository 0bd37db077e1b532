"""`inception-v3 features`"""

from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

from inception_v3.cli.common import (
    END_POINTS_HELP,
    NO_FACTS,
    Device,
    FastestPrecision,
    Json,
    MinAgreement,
    ModelArgument,
    ModelFacts,
    Names,
    OptionalBatchSize,
    Overwrite,
    Resume,
    WeightsFile,
    check_only_one,
    detail,
    end_points_option,
    engine_option,
    joined,
    note,
    output_option,
    print_json,
    warn,
)
from inception_v3.cli.predict import (
    AllowUnreadable,
    DecodeOption,
    Images,
    are_few,
    describe_run,
    find_images,
    handle_images,
    report_unreadable,
)
from inception_v3.cluster.options import ClusterOptions
from inception_v3.inference.engines.registry import CHOICES

if TYPE_CHECKING:
    from inception_v3.cli.predict import AnyImage
    from inception_v3.cluster.session import Cluster
    from inception_v3.inference.choose import OpenedModel
    from inception_v3.inference.feature_file import FeatureFile
    from inception_v3.inference.pipeline import Decode
    from inception_v3.inference.schedule import Result

    Compute = Callable[[Iterator[AnyImage]], Iterator[Result[Any, None]]]

BATCH_BYTES = 2**28  # of the end points of a batch; larger batches are made smaller


def features(
    model: ModelArgument,
    images: Images,
    out: Annotated[
        Path, output_option(metavar="FILE", help="Write NAME.npz, or NAME.parquet for vectors such as PreLogits.")
    ],
    end_points: Annotated[
        Names | None,
        end_points_option(help=f"Compute these end points{END_POINTS_HELP}", show_default="PreLogits"),
    ] = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    allow_unreadable: AllowUnreadable = None,
    batch_size: OptionalBatchSize = None,
    decode: DecodeOption = "exact",
    engine: Annotated[str, engine_option(CHOICES)] = "auto",
    precision: FastestPrecision = None,
    min_agreement: MinAgreement = None,
    device: Device = None,
    weights_file: WeightsFile = None,
    facts: ModelFacts = NO_FACTS,
    cluster: ClusterOptions | None = None,
    as_json: Json = False,
) -> None:
    """Compute features of images: the outputs of the network's layers, branches and modules (end points).

    PreLogits has 2048 numbers for each image.

    Exit status: 0, success; 1, failed; 2, wrong arguments;
    3, finished, but some images could not be read (0 with --allow-unreadable).
    """
    from inception_v3.images.addresses import count_images
    from inception_v3.inference.feature_file import FeatureFile, check_feature_file
    from inception_v3.support.files import check_not_input

    check_only_one(resume=resume, overwrite=overwrite)
    names = end_points or ("PreLogits",)
    check_feature_file(out, names, resume=resume, overwrite=overwrite)
    check_not_input(out, filter(None, (model, weights_file, *images)))
    sources = find_images(images, cluster)  # reports wrong addresses before the model is loaded
    with joined(cluster) as joined_cluster:
        from inception_v3.inference.choose import open_engine, output_for
        from inception_v3.inference.pipeline import check_decode, end_point_shapes

        options = {"min_agreement": min_agreement, "weights_file": weights_file, **facts, "batch_size": batch_size}
        options["outputs"] = names
        callers = 1 if are_few(images) or cluster else None
        opened = open_engine(model, engine, precision, device, **options, callers=callers)
        preprocessing, outputs = opened.description.preprocessing, opened.description.outputs
        check_decode(cast("Decode", decode), preprocessing)
        sources_of = {name: output_for(name, outputs) for name in names}
        shapes = end_point_shapes(opened.engine, preprocessing.image_size, sources_of)
        image_bytes = 4 * sum(map(prod, shapes.values()))
        size = batch_size or min(opened.engine.batch_size, BATCH_BYTES // image_bytes or 1)
        note(f"{opened.engine}: {opened.reason}")
        detail(f"loaded {opened.file}; batches of {size}")
        settings = {"outputs": sources_of, "batch_size": size, "decode": decode}
        if joined_cluster is None:
            compute = _computer(opened, settings)
        else:
            settings["image_bytes"] = image_bytes
            compute = _computer_on(joined_cluster, model, opened, options | {"device": device}, settings)
        about = describe_run(model, opened, decode) | {"end_points": list(names)}
        described = f"{opened.engine.name} {opened.engine.precision}"
        handle = partial(handle_images, partial(count_images, images), described)
        with closing(FeatureFile(out, about, shapes, resume=resume, overwrite=overwrite)) as file:
            count, failed, earlier = _write(file, images, sources, compute, handle)
    if as_json:
        result = {"out": str(out), "images": count, "failed": failed, "earlier": earlier}
        print_json(result | {"shapes": {name: list(shape) for name, shape in shapes.items()}} | about)
    if failed:
        report_unreadable(failed, count, allow_unreadable, out)


def _computer(opened: "OpenedModel", settings: dict[str, Any]) -> "Compute":
    """The function that computes the features of images in this process."""
    from inception_v3.inference.pipeline import run_end_points

    return partial(run_end_points, opened.engine, opened.description.preprocessing, **settings)


def _computer_on(
    cluster: "Cluster", model: str, opened: "OpenedModel", options: dict[str, Any], settings: dict[str, Any]
) -> "Compute":
    """The function that computes the features of images on a cluster."""
    from inception_v3.cluster.predictions import FeaturesJob, ModelReference, features_on

    return partial(
        features_on, cluster, FeaturesJob(ModelReference.of(model, opened, **options), **settings), note=note
    )


def _write(
    file: "FeatureFile",
    images: list[str],
    sources: "Iterator[AnyImage]",
    compute: "Compute",
    handle: Callable[..., tuple[int, int]],
) -> tuple[int, int, int]:
    """Write the features that the file lacks. Returns the numbers of images in it, of failed and of earlier ones."""
    from inception_v3.images.addresses import count_images
    from inception_v3.inference.results import remaining_images

    remaining = remaining_images(file.finished(), sources)
    if remaining.done:
        note(f"{file.path}: {remaining.done:,} images are done already; continuing")
    if remaining.changed:
        warn("the images differ from those of the earlier run: features are matched by name, new ones are appended")
    file.check_disk_space(count_images(images), remaining.done)
    try:
        count, failed = handle(compute(remaining.sources), file.write, remaining.done)
        if remaining.unmatched:
            warn(f"{file.path}: {remaining.unmatched:,} images that were not given this time are kept in it")
        file.finish()
    except KeyboardInterrupt:
        note(f"the features so far are kept; run the same command with --resume to continue {file.path}")
        raise
    return count + remaining.done, failed + remaining.failed, remaining.done
