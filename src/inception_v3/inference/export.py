"""Exports a trained network to a file that other programs run.

The input of the file is prepared pixels, uint8 (N, H, W, 3). Everything after the preparation is folded into the
network. The file also holds a description: the preprocessing, the classes, and how far its outputs are from the
network's own (exported/description.py).
"""

import os
import random
import shutil
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray

from inception_v3.errors import InputError
from inception_v3.images.find import ImageSource
from inception_v3.inference.engines.base import FEATURES, LOGITS, Pixels, Precision, Run
from inception_v3.inference.engines.graph import Graph, build_graph, swap_pools
from inception_v3.inference.exported.base import ExportFormat
from inception_v3.inference.exported.check import (
    ReferenceOutputs,
    change_in_bf16,
    compare,
    reference_network,
    rejection_reason,
)
from inception_v3.inference.exported.description import Description
from inception_v3.inference.exported.offline.format import PageFormat
from inception_v3.inference.exported.registry import FORMATS, SUFFIXES, load_format
from inception_v3.inference.exported.speed import time_run
from inception_v3.inference.pipeline import prepared_pixels
from inception_v3.inference.quantise import MIN_IMAGES, PACKAGES, Quantised, check_calibration_images, quantise
from inception_v3.network.architecture import OutputActivation
from inception_v3.support.files import (
    atomic_write,
    check_writable,
    staging_folder,
    write_error,
    write_errors,
    write_target,
)
from inception_v3.support.packages import require_packages
from inception_v3.support.system_errors import is_file
from inception_v3.support.text import count_of, nfc, printable
from inception_v3.weights.model import InceptionV3

MAX_CALIBRATION_IMAGES, MAX_CHECK_IMAGES = 300, 500
GENERATED_IMAGES = 16  # noise on which fp32 is checked if no images are given


@dataclass(frozen=True)
class CheckImages:
    """Pixels (N, H, W, 3) to calibrate int8 on and others to check on, and where they come from.

    Attributes:
        calibration, held_out: the pixels; `calibration` is empty unless int8 is exported.
        labels: the classes of the held-out images (N,), if each is in a folder with the name of a class.
        reference: batches of the held-out images with the network's own outputs.
        source, preparation: see AgreementCheck.
    """

    calibration: Pixels
    held_out: Pixels
    labels: NDArray[np.int64] | None
    reference: ReferenceOutputs
    source: str
    preparation: str


def export(
    model: InceptionV3,
    out: Path,
    *,
    precision: Precision = "fp32",
    images: Sequence[ImageSource] | CheckImages | None = None,
    images_name: str = "images",
    outputs: Sequence[str] = (LOGITS, FEATURES),
    any_size: bool = False,
    min_agreement: float | None = None,
    checksum: str = "",
    runtime: Path | None = None,
    progress: Callable[[str], None] = lambda step: None,
    report: Callable[[str], None] = lambda line: None,
) -> Description:
    """Write a network to `out`, whose suffix selects the format, and return the description in the file.

    An existing file is replaced only when the new file is complete. Nothing is written if the check of the new file
    fails. Core ML files are written without a check, since only Apple's systems run them.

    Args:
        precision: fp32, or a lower precision that the format has.
        images: a lower precision is checked on these images. int8 is calibrated on a part of them and checked on the
            others. Without images, fp32 is checked on noise. For several files of a model, prepare the images once
            with `prepare_images`.
        images_name: what to call the images in messages and in the description.
        outputs: the end points that the file returns.
        any_size: accept images of any size. The network needs global_pool.
        min_agreement: the fraction of images whose top class must be that of float32; by default MIN_AGREEMENT.
        checksum: recorded as the checksum of the model's own file.
        runtime: for a page, a folder with npm's onnxruntime-web; by default npm fetches it.
        progress: called with the name of each step.
        report: called with the result of each attempt at int8, and before npm fetches anything.

    Raises InputError: an unknown suffix; a precision or an option that the format or the network does not support;
        images that are missing, too few, or all of one class; an agreement below the minimum; an int8 network with less
        than MIN_INT8_SHARE of its multiplications in int8; a missing package.
    """
    format = check_options(out, precision, images is not None, outputs)
    if isinstance(format, PageFormat):
        format = format.with_parts(out, runtime, _card(model), report)
    model = model.eval().float()
    try:
        graph = swap_pools(build_graph(model, any_size=any_size, outputs=outputs))
    except ValueError as error:
        raise InputError(f"{out}: {error}", exit_status=2) from error
    if not isinstance(images, CheckImages):
        progress("preparing images")
        images = prepare_images(model, [precision], images, images_name, outputs)
    check_count(len(images.held_out) + len(images.calibration), precision)
    description = Description(
        settings=model.settings,
        preprocessing=model.preprocessing,
        class_names=model.class_names,
        outputs=graph.outputs,
        precision=precision,
        any_size=any_size,
        weights=checksum,
    )
    check = partial(
        _check, out, images, _tie_margin(graph, precision, images, model.settings.output_activation, progress)
    )
    target = Path(os.path.realpath(out)) if format.is_folder else write_target(out)
    with write_errors(out), staging_folder(target.parent) as folder:
        file = folder / f"model{out.suffix}"
        if precision == "int8":
            progress("calibrating int8")
            network = _quantise(out, graph, format, description, images, check, min_agreement, report)
            model_object = network.model
            description = replace(description, kept_higher=network.kept, int8_share=network.share)
        else:
            progress("writing the network")
            model_object = format.convert(graph, precision)
        format.save(model_object, file, description)
        if format.runs_here:
            description = _check_file(out, file, format, description, check, min_agreement, progress)
        else:
            message = f"{out}: not checked, since only {format.program} runs it; compare its outputs there"
            warnings.warn(message, stacklevel=2)
        _move(file, format, out)
    return description


def _check_file(
    out: Path,
    file: Path,
    format: ExportFormat,
    description: Description,
    check: Callable[[Run, Description], Description],
    min_agreement: float | None,
    progress: Callable[[str], None],
) -> Description:
    """Check and time a written file, and add the description with the results. Raises InputError: the check fails."""
    progress("comparing the file with the network")
    run = format.run(file, description.precision, description.outputs)
    description = check(run, replace(description, numbers=format.weights_checksum(file)))
    if rejection := _rejection(out, description, min_agreement):
        raise InputError(rejection)
    if not format.program:
        progress("timing the file")
        description = replace(description, speed=time_run(run, description.preprocessing))
    format.write_description(file, description.to_json())
    return description


def _card(model: InceptionV3) -> str:
    """The model card: README.md beside the model's file, or else one from the facts in the model."""
    if model.origin is not None and is_file(file := model.origin.file.with_name("README.md")):
        with suppress(OSError):
            return file.read_text("utf-8", "replace")
    return str(model.generate_model_card())


def prepare_images(
    model: InceptionV3,
    precisions: Sequence[Precision],
    images: Sequence[ImageSource] | None,
    images_name: str = "images",
    outputs: Sequence[str] = (LOGITS, FEATURES),
) -> CheckImages:
    """Decode and resize a random choice of the images, for the exports of a model in these precisions.

    Without images, noise is generated. Raises InputError: no image can be read.
    """
    reference = reference_network(model.eval().float(), tuple(outputs))
    if images is None:
        size = (GENERATED_IMAGES, *model.preprocessing.image_size, 3)
        noise = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
        return CheckImages(noise[:0], noise, None, ReferenceOutputs(reference, noise), "generated noise", "none")
    int8 = "int8" in precisions
    count = MAX_CHECK_IMAGES + MAX_CALIBRATION_IMAGES * int8
    chosen = list(images)
    if len(chosen) > count:
        chosen = random.Random(0).sample(chosen, count)
    else:
        random.Random(0).shuffle(chosen)
    pixels, readable, errors = prepared_pixels(chosen, model.preprocessing, "pillow")
    for message in errors[:10]:
        warnings.warn(message, stacklevel=3)
    if not len(pixels):
        raise InputError(f"{images_name}: no image in it can be read; give others with --images")
    calibration, held_out = np.split(pixels, [min(MAX_CALIBRATION_IMAGES, len(pixels) // 2) * int8])
    labels = _labels(readable[len(calibration) :], model.class_names or [])
    return CheckImages(calibration, held_out, labels, ReferenceOutputs(reference, held_out), images_name, "pillow")


def _labels(sources: Sequence[ImageSource], class_names: Sequence[str]) -> NDArray[np.int64] | None:
    """The classes of the images by the names of their folders; None if a folder is not named like a class."""
    numbers = {name: number for number, name in enumerate(class_names)}
    folders = [nfc(printable(PurePath(source.name).parent.name)) for source in sources]  # as data/folders names classes
    return np.array([numbers[name] for name in folders]) if set(folders) <= numbers.keys() else None


def check_count(count: int, precision: Precision) -> None:
    """Raise InputError if these are too few images to check a lower precision on, and to calibrate int8 on."""
    required = {"fp32": 0, "int8": 2 * MIN_IMAGES}.get(precision, MIN_IMAGES)
    if count < required:
        raise InputError(f"{count} images are too few to check {precision} on; give at least {required} with --images")


def _tie_margin(
    graph: Graph,
    precision: Precision,
    images: CheckImages,
    activation: OutputActivation,
    progress: Callable[[str], None],
) -> float:
    """The difference of probabilities that is a tie for int8; 0 for other precisions, which have no ties."""
    if precision != "int8" or activation == "none":
        return 0.0
    progress("measuring what bf16 changes")
    return change_in_bf16(graph, images.reference, activation=activation)


def _select_format(out: Path, precision: Precision) -> ExportFormat:
    """The format of the suffix of `out`. Raises InputError if it is unknown or lacks the precision."""
    formats = {format.suffix: format for format in map(load_format, FORMATS)}
    if out.suffix not in formats:
        raise InputError(f"{out}: the name must end in {', '.join(SUFFIXES)}", exit_status=2)
    format = formats[out.suffix]
    if precision not in format.precisions:
        others = ", ".join(other.name for other in formats.values() if precision in other.precisions) or "no format"
        own = ", ".join(format.precisions)
        raise InputError(f"{out}: {format.name} has {own}; {precision} is for {others}", exit_status=2)
    return format


def check_options(
    out: Path, precision: Precision, has_images: bool, outputs: Sequence[str], inputs: Iterable[str | Path] = ()
) -> ExportFormat:
    """Check before long work that `export` can write this file. Returns its format.

    Raises InputError, as `export` does: the suffix, the precision, the end points, a missing package, or a path that
    cannot be written or is one of the `inputs`.
    """
    format = _select_format(out, precision)
    if format.is_folder and out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file, but a {format.suffix} is a folder; move or delete it")
    for part in format.files(out) or [out.with_name(f"{out.name}.trial")]:
        check_writable(part, inputs)
    require_packages(format.packages, f"exporting to {format.suffix}", format.extra)
    if precision != "fp32" and not has_images:
        raise InputError(f"{precision} is checked on your own images; give some with --images FOLDER", exit_status=2)
    if isinstance(format, PageFormat) and LOGITS not in outputs:
        raise InputError("a page shows classes, so it needs the logits; leave out --end-points", exit_status=2)
    if precision == "int8" and LOGITS not in outputs:
        raise InputError("int8 needs the logits for its check; leave out --end-points, or use fp32", exit_status=2)
    if precision == "int8":
        require_packages(PACKAGES, "int8", "int8")
    return format


def _quantise(
    out: Path,
    graph: Graph,
    format: ExportFormat,
    description: Description,
    images: CheckImages,
    check: Callable[[Run, Description], Description],
    min_agreement: float | None,
    report: Callable[[str], None],
) -> Quantised:
    """Quantise until the check passes. Raises InputError: unsuitable images, or no attempt passes."""
    check_calibration_images(images.calibration, images.reference.run)

    def reject(network: Quantised) -> str | None:
        attempt = replace(description, kept_higher=network.kept, int8_share=network.share)
        attempt = check(format.run(network.model, "int8", graph.outputs), attempt)
        report(f"{count_of(len(network.kept), 'convolution')} kept in a higher precision: {attempt}")
        return _rejection(out, attempt, min_agreement)

    return quantise(graph, format.convert, images.calibration, reject)


def _rejection(out: Path, description: Description, min_agreement: float | None) -> str | None:
    """Why a network must not be written; None if its check passes."""
    reason = rejection_reason(description, min_agreement)
    if reason is None or description.check is None:
        return reason
    share = f"{description.int8_share:.1%} of the multiplications in int8, " if description.int8_share else ""
    remedy = "check the model" if description.precision == "fp32" else "keep a higher precision"
    if rejection_reason(description, 0.0) is None:
        remedy += ", or allow it with --min-agreement"
    return f"{out}: {reason} ({share}{description.check.source}); not written; {remedy}"


def _check(
    out: Path,
    images: CheckImages,
    tie_margin: float,
    run: Run,
    description: Description,
) -> Description:
    """Compare a written file, or a network in memory, with the model. Returns the description with the result.

    Raises InputError if all images are of one class, which proves nothing, or if the outputs are not finite.
    """
    try:
        check = compare(
            run,
            images.reference,
            images.source,
            images.preparation,
            tie_margin=tie_margin,
            labels=images.labels,
            activation=description.settings.output_activation,
        )
    except ValueError as error:
        raise InputError(f"{out}: {error}; check the model") from error
    if description.precision != "fp32" and check.classes == 1:
        raise InputError(
            f"{out}: the network puts all {check.pictures} images of {images.source} in one class, so the check would "
            "prove nothing; give images of all classes"
        )
    return replace(description, check=check)


def _move(file: Path, format: ExportFormat, out: Path) -> None:
    """Move a file or folder to `out`, and first the file of its weights."""
    if format.is_folder:
        _move_folder(file, Path(os.path.realpath(out)))
    for part, target in zip(format.files(file), format.files(out), strict=True):
        with atomic_write(target) as temporary:
            shutil.move(part, temporary)


def _move_folder(folder: Path, out: Path) -> None:
    """Move a folder to `out`. An existing folder is renamed to .NAME.before first, and renamed back after an error."""
    old = out.with_name(f".{out.name}.before")
    try:
        if out.exists():
            shutil.rmtree(old, ignore_errors=True)
            out.rename(old)
        folder.rename(out)
    except OSError as error:
        if old.exists():
            old.rename(out)
        raise write_error(out, error) from error
    shutil.rmtree(old, ignore_errors=True)
