"""int8 by NNCF's post-training quantisation. It is calibrated on images like those that the network will run on.

Before NNCF, the channels are rescaled (equalise.py). The convolutions whose int8 costs more than it gains stay in a
higher precision: bf16 in OpenVINO on a CPU that has it, float32 elsewhere. docs/export.md compares the methods.
"""

import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from inception_v3.errors import InputError
from inception_v3.inference.engines.base import LOGITS, Inputs, Pixels, Run
from inception_v3.inference.engines.graph import Graph
from inception_v3.inference.engines.openvino import OpenvinoEngine, read_graph
from inception_v3.inference.equalise import equalise
from inception_v3.inference.exported.check import BATCH_SIZE, MIN_INT8_SHARE
from inception_v3.support.packages import require_packages

if TYPE_CHECKING:
    from inception_v3.inference.sensitivity import Sensitivity

PACKAGES = ("nncf",)  # besides those of the format
MIN_IMAGES, GOOD_IMAGES = 32, 300  # for calibration; a lower precision is also checked on MIN_IMAGES or more
RANGE_IMAGES, SENSITIVITY_IMAGES = 64, 8  # of those, for the ranges of the channels, and to rank the convolutions
# A convolution stays in a higher precision if its share of the error that is left is more than NOTICEABLE, and more
# than PAYS times its share of the multiplications.
PAYS, NOTICEABLE = 5.0, 0.05
# Not quantised themselves: OpenVINO's and ONNX's names of pools, which work on the results of convolutions, and of the
# bias after them.
EXACT_OPERATIONS = ("AvgPool", "ReduceMean", "AveragePool", "GlobalAveragePool", "Add")


@dataclass(frozen=True)
class Quantised:
    """A network in int8: a model object of the format, the convolutions that are not, and the share that is.

    `share` is the fraction of the multiplications that are computed in int8.
    """

    model: Any
    kept: tuple[str, ...]
    share: float


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
    if _all_in_one_class(reference, pixels):
        raise InputError(f"the network puts all {len(pixels)} images for int8 in one class; give images of all classes")


def _check_count(count: int) -> None:
    if count < MIN_IMAGES:
        raise InputError(f"{count} images are too few for int8; give at least {MIN_IMAGES}, better {GOOD_IMAGES}")


def quantise(
    graph: Graph,
    convert: Callable[[Graph], Any],
    inputs: Inputs,
    reject: Callable[[Quantised], str | None] = lambda network: None,
) -> Quantised:
    """Quantise a graph with calibration on `inputs`, in the form that the graph takes.

    First only the convolutions stay in a higher precision that add much more to the error than to the work. If
    `reject` gives a reason against the result, as many stay as MIN_INT8_SHARE allows.

    Raises InputError: a missing package, or `reject` gives a reason both times, which is the message.
    """
    require_packages(PACKAGES, "int8", "int8")
    from inception_v3.inference.sensitivity import channel_maxima, sensitivities

    graph = equalise(graph, channel_maxima(graph, _spread(inputs, RANGE_IMAGES)))
    layers = sensitivities(graph, _spread(inputs, SENSITIVITY_IMAGES))
    total = sum(layer.multiplications for layer in layers)
    reason = None
    for kept in dict.fromkeys(kept_layers(layers, *limits) for limits in ((PAYS, NOTICEABLE), (0.0, 0.0))):
        share = 1 - sum(layer.multiplications for layer in layers if layer.name in kept) / total
        network = Quantised(_quantised(convert(graph), inputs, graph.input, kept), kept, share)
        reason = reject(network)
        if reason is None:
            return network
    raise InputError(str(reason))


def kept_layers(layers: "Sequence[Sensitivity]", pays: float, noticeable: float) -> tuple[str, ...]:
    """The convolutions to keep in a higher precision, those that add most to the error for their work first.

    A convolution stays if its share of the error that is left is more than `noticeable`, and more than `pays` times its
    share of the multiplications. Together they have at most 1 - MIN_INT8_SHARE of the multiplications.
    """
    work, error = sum(layer.multiplications for layer in layers), sum(layer.error for layer in layers)
    budget, kept = (1 - MIN_INT8_SHARE) * work, []
    for layer in sorted(layers, key=lambda each: each.error / each.multiplications, reverse=True):
        share = layer.error / max(error, 1e-30)
        pays_off = share > max(noticeable, pays * layer.multiplications / work)
        if pays_off and layer.multiplications <= budget:
            kept.append(layer.name)
            budget, error = budget - layer.multiplications, error - layer.error
    return tuple(kept)


def int8_engine(graph: Graph, inputs: NDArray[Any], callers: int = 1) -> OpenvinoEngine:
    """An int8 engine on the CPU for a graph in memory, calibrated on `inputs`. Its agreement is not checked.

    For `callers`, see Engine. Raises InputError: too few inputs; OpenVINO or NNCF is missing.
    """
    _check_count(len(inputs))
    require_packages(("openvino", "onnx", *PACKAGES), "int8", "int8")
    return OpenvinoEngine(quantise(graph, read_graph, inputs).model, "int8", callers=callers)


def _quantised(model: Any, inputs: Inputs, input_name: str, kept: tuple[str, ...]) -> Any:
    """The model in int8. Activations have one step for a map, chosen by NNCF for the least squared error."""
    with _no_messages():
        import nncf
        from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix
        from nncf.quantization.range_estimator import RangeEstimatorParametersSet

        rows = [{input_name: inputs[index : index + 1]} for index in range(len(inputs))]
        scope = nncf.IgnoredScope(
            patterns=[f"{re.escape(name)}(/.*)?$" for name in kept], types=list(EXACT_OPERATIONS), validate=False
        )
        # NNCF would halve the range of the first weights, for CPUs that are older than int8's instructions.
        options = AdvancedQuantizationParameters(
            overflow_fix=OverflowFix.DISABLE,
            activations_range_estimator_params=RangeEstimatorParametersSet.HISTOGRAM,
        )
        return nncf.quantize(
            model, nncf.Dataset(rows), subset_size=len(rows), ignored_scope=scope, advanced_parameters=options
        )


@contextmanager
def _no_messages() -> Iterator[None]:
    """Discard NNCF's progress bars and notes, and PyTorch's note that a CUDA build of it finds no GPU."""
    for name in ("nncf", "torch.utils.cpp_extension"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        yield


def _spread(inputs: Inputs, count: int) -> Inputs:
    """At most `count` inputs, spread over all."""
    chosen: Inputs = inputs[np.linspace(0, len(inputs) - 1, min(count, len(inputs))).astype(int)]
    return chosen


def _all_in_one_class(run: Run, pixels: Pixels) -> bool:
    """Whether all images have the same top class. Only as many are run as it takes to find a second one."""
    seen: set[int] = set()
    for start in range(0, len(pixels), BATCH_SIZE):
        seen |= set(run(pixels[start : start + BATCH_SIZE])[LOGITS].argmax(1).tolist())
        if len(seen) > 1:
            return False
    return True
