"""Exports a trained network to a file that other programs run.

The input of the file is prepared pixels, uint8 (N, H, W, 3). Everything after the preparation is folded into the
network. The file also holds a description: the preprocessing, the classes, and how far its outputs are from the
network's own (exported/description.py).
"""

import os
import random
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from inception_v3.errors import InputError
from inception_v3.images.find import ImageSource
from inception_v3.inference.engines.base import FEATURES, LOGITS, Pixels, Precision, Run
from inception_v3.inference.engines.graph import Graph, build_graph, swap_pools
from inception_v3.inference.exported.base import ExportFormat
from inception_v3.inference.exported.check import MIN_AGREEMENT, compare, reference_network, rejection_reason
from inception_v3.inference.exported.description import Description
from inception_v3.inference.exported.registry import FORMATS, SUFFIXES, load_format
from inception_v3.inference.pipeline import prepared_pixels
from inception_v3.inference.quantise import BATCH_SIZE, MIN_IMAGES, check_calibration_images, quantise
from inception_v3.support.files import atomic_write, staging_folder, write_error, write_target
from inception_v3.support.packages import require_packages
from inception_v3.weights.model import InceptionV3

MAX_CALIBRATION_IMAGES, MAX_CHECK_IMAGES = 300, 500
GENERATED_IMAGES = 16  # noise on which fp32 is checked if no images are given


@dataclass(frozen=True)
class _Images:
    """Pixels (N, H, W, 3) to calibrate int8 on and others to check on, their source, and the library that resized."""

    calibration: Pixels
    held_out: Pixels
    source: str
    preparation: str


def export(
    model: InceptionV3,
    out: Path,
    *,
    precision: Precision = "fp32",
    images: Sequence[ImageSource] | None = None,
    images_name: str = "images",
    outputs: Sequence[str] = (LOGITS, FEATURES),
    any_size: bool = False,
    min_agreement: float | None = None,
    checksum: str = "",
    progress: Callable[[str], None] = lambda step: None,
) -> Description:
    """Write a network to `out`, whose suffix selects the format, and return the description in the file.

    An existing file is replaced only when the new file is complete. Nothing is written if the check of the new file
    fails. Core ML files are written without a check, since only Apple's systems run them.

    Args:
        precision: fp32, or a lower precision that the format has.
        images: a lower precision is checked on these images. int8 is calibrated on a part of them and checked on the
            others.
            Without images, fp32 is checked on noise.
        images_name: what to call the images in messages and in the description.
        outputs: the end points that the file returns.
        any_size: accept images of any size. The network needs global_pool.
        min_agreement: the fraction of images whose top class must be that of float32; by default MIN_AGREEMENT.
        checksum: recorded as the checksum of the model's own file.
        progress: called with the name of each step.

    Raises InputError: an unknown suffix; a precision or an option that the format or the network does not support;
        images that are missing, too few, or all of one class; an agreement below the minimum; a missing package.
    """
    format = _select_format(out, precision)
    _check_options(precision, images, outputs)
    require_packages(format.packages, f"exporting to {format.suffix}", format.extra)
    model = model.eval().float()
    try:
        graph = swap_pools(build_graph(model, any_size=any_size, outputs=outputs))
    except ValueError as error:
        raise InputError(f"{out}: {error}", exit_status=2) from error
    reference = reference_network(model, graph.outputs)
    progress("preparing images")
    prepared = _prepare_images(model, precision, images, images_name)
    description = Description(
        settings=model.settings,
        preprocessing=model.preprocessing,
        class_names=model.class_names,
        outputs=graph.outputs,
        precision=precision,
        any_size=any_size,
        weights=checksum,
    )
    with _staging_folder(out, format) as folder:
        file = folder / f"model{out.suffix}"
        progress("calibrating int8; this takes minutes" if precision == "int8" else "writing the network")
        description = _write(file, format, graph, description, prepared, reference, min_agreement)
        if not format.runs_here:
            message = f"{out}: not checked, since only {format.program} runs it; compare its outputs there"
            warnings.warn(message, stacklevel=2)
        else:
            progress("comparing the file with the network")
            description = replace(description, numbers=format.weights_checksum(file))
            description = _check(
                out, format.run(file, precision, graph.outputs), reference, prepared, description, min_agreement
            )
            format.write_description(file, description.to_json())
        _move(file, format, out)
    return description


@contextmanager
def _staging_folder(out: Path, format: ExportFormat) -> Iterator[Path]:
    """A temporary folder beside `out`. Raises InputError: it cannot be created, or `out` cannot be written."""
    if format.is_folder and out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file, but a {format.suffix} is a folder; move or delete it")
    target = Path(os.path.realpath(out)) if format.is_folder else write_target(out)
    try:
        with staging_folder(target.parent) as folder:
            yield folder
    except OSError as error:
        raise write_error(out, error) from error


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


def _check_options(precision: Precision, images: Sequence[ImageSource] | None, outputs: Sequence[str]) -> None:
    if precision != "fp32" and images is None:
        raise InputError(f"{precision} is checked on your own images; give some with --images FOLDER", exit_status=2)
    if precision == "int8" and LOGITS not in outputs:
        raise InputError("int8 needs the logits for its check; leave out --end-points, or use fp32", exit_status=2)


def _prepare_images(
    model: InceptionV3, precision: Precision, images: Sequence[ImageSource] | None, images_name: str
) -> _Images:
    """Decode and resize a random choice of the images. Without images, generate noise.

    Raises InputError: no image can be read, or too few are left to check on.
    """
    if images is None:
        size = (GENERATED_IMAGES, *model.preprocessing.image_size, 3)
        noise = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
        return _Images(noise[:0], noise, "generated noise", "none")
    count = MAX_CHECK_IMAGES + (MAX_CALIBRATION_IMAGES if precision == "int8" else 0)
    chosen = list(images)
    if len(chosen) > count:
        chosen = random.Random(0).sample(chosen, count)
    else:
        random.Random(0).shuffle(chosen)
    pixels, errors = prepared_pixels(chosen, model.preprocessing, "pillow")
    for message in errors[:10]:
        warnings.warn(message, stacklevel=3)
    if not len(pixels):
        raise InputError(f"{images_name}: no image in it can be read; give others with --images")
    calibration_count = min(MAX_CALIBRATION_IMAGES, len(pixels) // 2) if precision == "int8" else 0
    calibration, held_out = np.split(pixels, [calibration_count])
    if precision != "fp32" and len(held_out) < MIN_IMAGES:
        required = 2 * MIN_IMAGES if precision == "int8" else MIN_IMAGES
        raise InputError(
            f"{len(held_out)} images are too few to check {precision} on; give at least {required} with --images"
        )
    return _Images(calibration, held_out, images_name, "pillow")


def _write(
    file: Path,
    format: ExportFormat,
    graph: Graph,
    description: Description,
    images: _Images,
    reference: Run,
    min_agreement: float | None,
) -> Description:
    """Convert, quantise if the precision is int8, and save. Returns the description with the layers kept in float32."""
    if description.precision == "int8":
        check_calibration_images(images.calibration, reference)
        required = MIN_AGREEMENT["int8"] if min_agreement is None else min_agreement
        model, kept = quantise(graph, format, images.calibration, reference, images.held_out, required)
        description = replace(description, kept_higher=kept)
    else:
        model = format.convert(graph, description.precision)
    format.save(model, file, description)
    return description


def _check(
    out: Path, run: Run, reference: Run, images: _Images, description: Description, min_agreement: float | None
) -> Description:
    """Compare the written file with the network. Returns the description with the result.

    Raises InputError if the outputs differ too much, or if all images are of one class, which proves nothing.
    """
    batches = (images.held_out[start : start + BATCH_SIZE] for start in range(0, len(images.held_out), BATCH_SIZE))
    try:
        check = compare(run, reference, batches, images.source, images.preparation)
    except ValueError as error:
        raise InputError(f"{out}: {error}; check the model") from error
    if description.precision != "fp32" and check.classes == 1:
        raise InputError(
            f"{out}: the network puts all {check.pictures} images of {images.source} in one class, so the check would "
            "prove nothing; give images of all classes"
        )
    description = replace(description, check=check)
    if rejection := rejection_reason(description, min_agreement):
        raise InputError(
            f"{out}: {rejection} ({images.source}); not written; keep a higher precision, or allow it with "
            "--min-agreement"
        )
    return description


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
