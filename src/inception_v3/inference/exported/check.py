"""Compares an exported file with the network, and decides whether the difference is acceptable."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from inception_v3.inference.engines.base import LOGITS, VECTORS, Outputs, Pixels, Precision, Run
from inception_v3.inference.exported.description import AgreementCheck, Description
from inception_v3.support.softmax import softmax

if TYPE_CHECKING:
    from inception_v3.weights.model import InceptionV3

# The fraction of images whose top class must be that of float32, unless the user sets --min-agreement.
MIN_AGREEMENT: dict[Precision, float] = {"fp32": 1.0, "bf16": 0.995, "fp16": 0.995, "int8": 0.99}
# The largest difference that rounding explains, in probabilities or relative to the largest value of an end point.
MAX_DIFFERENCE: dict[Precision, float] = {"fp32": 0.001, "bf16": 0.2, "fp16": 0.1, "int8": 0.5}


def reference_network(model: "InceptionV3", outputs: tuple[str, ...]) -> Run:
    """The reference for every comparison: the model run layer by layer by PyTorch, with nothing folded.

    It runs in the model's dtype, which is float32 except in tests.
    """
    import torch

    dtype = next(model.parameters()).dtype

    @torch.inference_mode()
    def run(pixels: Pixels) -> Outputs:
        images = model.preprocessing.scale(torch.from_numpy(pixels).permute(0, 3, 1, 2).to(dtype))
        _, end_points = model(images.contiguous(memory_format=torch.channels_last), end_points=outputs)
        nets = {name: end_points[name] for name in outputs}
        return {name: (net.flatten(1) if name in VECTORS else net).numpy() for name, net in nets.items()}

    return run


def compare(run: Run, reference: Run, batches: Iterable[Pixels], source: str, preparation: str) -> AgreementCheck:
    """Run both functions on the same pixels and compare the outputs. The result records `source` and `preparation`.

    Raises ValueError: no images, or outputs that are not finite.
    """
    images = disagreeing = values = 0
    largest = total = end_points_largest = 0.0
    top_classes: set[int] = set()
    for pixels in batches:
        outputs, expected = run(pixels), reference(pixels)
        images += len(pixels)
        differences = [_relative_difference(outputs[name], expected[name]) for name in expected]
        if not all(np.isfinite(difference).all() for difference in differences):
            raise ValueError("its outputs are not finite numbers")
        end_points_largest = max(end_points_largest, *(float(difference.max()) for difference in differences))
        if LOGITS in expected:
            classes = expected[LOGITS].argmax(1)
            top_classes |= set(classes.tolist())
            disagreeing += int((outputs[LOGITS].argmax(1) != classes).sum())
            differences = [np.abs(softmax(outputs[LOGITS]).astype(np.float64) - softmax(expected[LOGITS]))]
        for difference in differences:
            largest = max(largest, float(difference.max()))
            total, values = total + float(difference.sum()), values + difference.size
    if not images:
        raise ValueError("no images to compare")
    return AgreementCheck(
        pictures=images,
        source=source,
        preparation=preparation,
        top_1_agreement=(images - disagreeing) / images,
        max_difference=largest,
        mean_difference=total / values,
        end_points_difference=end_points_largest,
        classes=len(top_classes),
        compared="probabilities" if top_classes else "end points",
    )


def _relative_difference(output: NDArray[np.floating], expected: NDArray[np.floating]) -> NDArray[np.float64]:
    """The absolute difference divided by the largest expected value."""
    scale = float(np.abs(expected).max()) or 1.0
    return np.abs(output.astype(np.float64) / scale - expected.astype(np.float64) / scale)


def rejection_reason(description: Description, min_agreement: float | None = None) -> str | None:
    """Why an exported network must not be chosen automatically: its check is missing or fails. None if it passes.

    `min_agreement` replaces MIN_AGREEMENT. For a precision below fp32 it also lifts the limit of MAX_DIFFERENCE, except
    for a network without logits, which has no top class to agree on.
    """
    precision, check = description.precision, description.check
    if check is None:
        return f"{precision} was never checked against fp32"
    limited = min_agreement is None or precision == "fp32" or check.compared == "end points"
    max_difference = MAX_DIFFERENCE[precision] if limited else 1.0
    difference = check.max_difference
    if precision == "fp32":
        difference = max(difference, check.end_points_difference)
    if difference > max_difference:
        return f"{precision} differs from fp32 by {difference:.1e}, more than {max_difference}"
    required = MIN_AGREEMENT[precision] if min_agreement is None else min_agreement
    if check.top_1_agreement < required:
        return f"{precision} agrees with fp32 on {check.top_1_agreement:.2%} of images, less than {required:.2%}"
    return None
