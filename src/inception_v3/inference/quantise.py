"""int8 by NNCF's post-training quantisation. It is calibrated on images like those that the network will run on."""

import logging
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inception_v3.errors import InputError
from inception_v3.inference.engines.base import LOGITS, PIXELS_INPUT, Pixels, Run
from inception_v3.inference.engines.graph import Graph
from inception_v3.inference.engines.openvino import OpenvinoEngine, read_graph
from inception_v3.inference.exported.base import ExportFormat
from inception_v3.network.architecture import BASE_END_POINTS
from inception_v3.support.packages import require_packages

MIN_IMAGES, GOOD_IMAGES = 32, 300  # for calibration; a lower precision is also checked on MIN_IMAGES or more
SENSITIVITY_IMAGES = 16  # images on which the layers are ranked
BATCH_SIZE = 16


def check_calibration_images(pixels: Pixels, reference: Run) -> None:
    """Check that images are fit for calibration.

    Raises InputError: too few images, images of one colour, or images that `reference` puts all in one class.
    Raises ValueError: not uint8 pixels (N, H, W, 3).
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3:
        raise ValueError(f"pixels must be uint8 (N, H, W, 3), 0 to 255, not {pixels.dtype} {pixels.shape}")
    _check_count(len(pixels))
    if np.ptp(pixels.reshape(len(pixels), -1), 1).max() < 16:
        raise InputError("the images for int8 each contain only one colour; give images like those to be classified")
    if len(set(_classes(reference, pixels).tolist())) == 1:
        raise InputError(f"the network puts all {len(pixels)} images for int8 in one class; give images of all classes")


def _check_count(count: int) -> None:
    if count < MIN_IMAGES:
        raise InputError(f"{count} images are too few for int8; give at least {MIN_IMAGES}, better {GOOD_IMAGES}")


def quantise(
    graph: Graph, format: ExportFormat, pixels: Pixels, reference: Run, held_out: Pixels, min_agreement: float
) -> tuple[Any, tuple[str, ...]]:
    """Quantise a graph with calibration on `pixels`. Returns the model and the end points that stayed in float32.

    No end point stays in float32 if the model's top class is that of `reference` for at least the fraction
    `min_agreement` of the `held_out` images. Otherwise the end points whose quantisation adds most to the error stay:
    first one, then two, four and so on, until the agreement is reached.

    Raises InputError if NNCF is missing.
    """
    expected = _classes(reference, held_out)
    ranking: list[str] = []
    kept: tuple[str, ...] = ()
    while True:
        model = _quantised(format.convert(graph), pixels, kept)
        agreement = float((_classes(format.run(model, "int8", graph.outputs), held_out) == expected).mean())
        if agreement >= min_agreement or (kept and len(kept) == len(ranking)):
            return model, kept
        ranking = ranking or _rank_by_sensitivity(graph, format, pixels)
        kept = tuple(ranking[: max(1, 2 * len(kept))])


def _rank_by_sensitivity(graph: Graph, format: ExportFormat, pixels: Pixels) -> list[str]:
    """The end points, starting with those where int8 adds most to the relative error."""
    computed = {operation.output for operation in graph.operations}
    names = tuple(name for name in (*BASE_END_POINTS, LOGITS) if name in computed)
    graph = replace(graph, outputs=names)
    models = format.convert(graph), _quantised(format.convert(graph), pixels)
    exact, rounded = (format.run(model, "int8", graph.outputs)(pixels[:SENSITIVITY_IMAGES]) for model in models)
    errors = [float(np.linalg.norm(rounded[name] - exact[name]) / np.linalg.norm(exact[name])) for name in names]
    added = np.diff([0.0, *errors])
    return [names[index] for index in np.argsort(-added, kind="stable")]


def int8_engine(graph: Graph, inputs: NDArray[Any], callers: int = 1) -> OpenvinoEngine:
    """An int8 engine on the CPU for a graph in memory, calibrated on `inputs`. Its agreement is not checked.

    For `callers`, see Engine. Raises InputError: too few inputs; OpenVINO or NNCF is missing.
    """
    _check_count(len(inputs))
    require_packages(("openvino", "onnx"), "int8", "int8")
    return OpenvinoEngine(_quantised(read_graph(graph), inputs, input_name=graph.input), "int8", callers=callers)


def _quantised(model: Any, inputs: NDArray[Any], kept: tuple[str, ...] = (), input_name: str = PIXELS_INPUT) -> Any:
    require_packages(("nncf",), "int8", "int8")
    import nncf

    logging.getLogger("nncf").setLevel(logging.ERROR)
    rows = [{input_name: inputs[index : index + 1]} for index in range(len(inputs))]
    scope = nncf.IgnoredScope(patterns=[f"{name}(/.*)?" for name in kept], validate=False)
    with redirect_stdout(sys.stderr):  # NNCF's progress bars must not mix with the command's output
        return nncf.quantize(model, nncf.Dataset(rows), subset_size=len(rows), ignored_scope=scope)


def _classes(run: Run, pixels: Pixels) -> NDArray[np.int64]:
    """The top class of each image, (N,)."""
    starts = range(0, len(pixels), BATCH_SIZE)
    return np.concatenate([run(pixels[start : start + BATCH_SIZE])[LOGITS].argmax(1) for start in starts])
