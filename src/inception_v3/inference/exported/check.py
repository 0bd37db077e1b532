"""Compares an exported file with the network, and decides whether the difference is acceptable."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from inception_v3.inference.engines.base import LOGITS, Outputs, Pixels, Precision, Run, is_vector
from inception_v3.inference.exported.description import AgreementCheck, Description
from inception_v3.network.architecture import OutputActivation
from inception_v3.network.probabilities import class_logits, probabilities

if TYPE_CHECKING:
    from inception_v3.inference.engines.graph import Graph
    from inception_v3.weights.model import InceptionV3

# The fraction of images whose top class must be that of float32, unless the user sets --min-agreement.
MIN_AGREEMENT: dict[Precision, float] = {"fp32": 1.0, "bf16": 0.995, "fp16": 0.995, "int8": 0.98}
# The largest difference that rounding explains, in probabilities or relative to the largest value of an end point.
MAX_DIFFERENCE: dict[Precision, float] = {"fp32": 0.001, "bf16": 0.2, "fp16": 0.1, "int8": 0.5}

MIN_INT8_SHARE = 0.9  # the fraction of an int8 network's multiplications that must be in int8
BATCH_SIZE = 16
TIE_IMAGES = 64  # images on which the change that bf16 causes is measured


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
        return {name: (net.flatten(1) if is_vector(name) else net).numpy() for name, net in nets.items()}

    return run


class ReferenceOutputs:
    """Batches of images with the network's own outputs. They can be iterated several times.

    Vectors are computed once and remembered. Maps take too much memory: they are computed each time.
    """

    def __init__(self, run: Run, pixels: Pixels) -> None:
        self.run, self._pixels = run, pixels
        self._known: dict[int, Outputs] = {}

    def __iter__(self) -> Iterator[tuple[Pixels, Outputs]]:
        for start in range(0, len(self._pixels), BATCH_SIZE):
            pixels = self._pixels[start : start + BATCH_SIZE]
            outputs = self._known.get(start) or self.run(pixels)
            if all(map(is_vector, outputs)):
                self._known[start] = outputs
            yield pixels, outputs


def compare(
    run: Run,
    reference: Iterable[tuple[Pixels, Outputs]],
    source: str,
    preparation: str,
    *,
    tie_margin: float = 0.0,
    labels: NDArray[np.integer] | None = None,
    activation: OutputActivation = "softmax",
) -> AgreementCheck:
    """Run a network on batches of pixels and compare its outputs with those of the `reference`.

    The result records `source` and `preparation`. For `tie_margin` see AgreementCheck. `labels` are the true classes of
    the images (N,). `activation` makes probabilities of logits; with "none" only end points are compared.

    Raises ValueError: no images, or outputs that are not finite.
    """
    images = values = 0
    total = largest = 0.0
    logits, expected_logits = [], []
    for pixels, expected in reference:
        outputs = run(pixels)
        images += len(pixels)
        for name in expected:
            difference = _relative_difference(outputs[name], expected[name])
            if not np.isfinite(difference).all():
                raise ValueError("its outputs are not finite numbers")
            largest, total = max(largest, float(difference.max())), total + float(difference.sum())
            values += difference.size
        if LOGITS in expected:
            logits.append(outputs[LOGITS])
            expected_logits.append(expected[LOGITS])
    if not images:
        raise ValueError("no images to compare")
    check = AgreementCheck(images, source, preparation, 1.0, largest, total / values, largest, compared="end points")
    if not logits or activation == "none":
        return check
    both = np.concatenate(logits), np.concatenate(expected_logits)
    return _compare_probabilities(*both, check, tie_margin, labels, activation)


def _compare_probabilities(
    logits: NDArray[np.floating],
    expected: NDArray[np.floating],
    check: AgreementCheck,
    tie_margin: float,
    labels: NDArray[np.integer] | None,
    activation: OutputActivation,
) -> AgreementCheck:
    """The check with the figures of logits (N, num_classes) and of the network's logits."""
    approximate, true = (
        probabilities(each.astype(np.float64), activation).astype(np.float64) for each in (logits, expected)
    )
    top, true_top = (class_logits(each, activation).argmax(1) for each in (logits, expected))
    ties = _margins(true) <= tie_margin if tie_margin else np.zeros(len(true), bool)
    decided = ~ties if not ties.all() else ties
    divergence = _relative_entropy(true, approximate).sum(1)
    if activation == "sigmoid" and logits.shape[1] > 1:  # each class is a question of its own: yes or no
        divergence += _relative_entropy(1 - true, 1 - approximate).sum(1)
    differences = np.abs(approximate - true)
    return replace(
        check,
        top_1_agreement=float((top == true_top)[decided].mean()),
        max_difference=float(differences.max()),
        mean_difference=float(differences.mean()),
        classes=len(set(true_top.tolist())),
        compared="probabilities",
        ties=int(ties.sum()),
        tie_margin=tie_margin,
        mean_kl=float(divergence.mean()),
        accuracy=None if labels is None else float((top == labels).mean()),
        network_accuracy=None if labels is None else float((true_top == labels).mean()),
    )


def _relative_entropy(true: NDArray[np.float64], approximate: NDArray[np.float64]) -> NDArray[np.float64]:
    """The terms of the Kullback-Leibler divergence, in nats."""
    tiny = np.finfo(np.float64).tiny
    return np.asarray(true * np.log(np.maximum(true, tiny) / np.maximum(approximate, tiny)))


def _margins(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """The difference between the two largest probabilities of each image; 1 for one class."""
    if probabilities.shape[1] < 2:
        return np.ones(len(probabilities))
    ranked: NDArray[np.float64] = np.sort(probabilities, 1)
    return ranked[:, -1] - ranked[:, -2]


def change_in_bf16(
    graph: "Graph",
    reference: Iterable[tuple[Pixels, Outputs]],
    images: int = TIE_IMAGES,
    activation: OutputActivation = "softmax",
) -> float:
    """The largest change of a probability if the weights and every map of the graph are rounded to bf16.

    It is measured on about the first `images` of the `reference`, in float32 with rounding, so that it is the same on
    every CPU. Two classes whose probabilities differ by no more are a tie.
    """
    import torch

    from inception_v3.inference.engines.graph_module import GraphModule

    module, largest, seen = GraphModule(graph), 0.0, 0
    for name, buffer in [*module.named_buffers()]:
        if name.startswith("kernel"):  # replaced, because it may share the memory of the graph
            setattr(module, name, buffer.bfloat16().to(buffer.dtype))
    for pixels, expected in reference:
        if seen >= images:
            break
        seen += len(pixels)
        with torch.inference_mode():
            for index, net in module.steps(torch.from_numpy(pixels)):
                output = graph.operations[index].output
                net[output] = net[output].bfloat16().float()
        logits = net[LOGITS].flatten(1).numpy()
        change = probabilities(logits, activation) - probabilities(expected[LOGITS], activation)
        largest = max(largest, float(np.abs(change).max()))
    return largest


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
    if precision == "int8" and description.int8_share < MIN_INT8_SHARE:
        share = f"only {description.int8_share:.1%}" if description.int8_share else "an unknown fraction"
        return f"int8 has {share} of its multiplications in int8, {MIN_INT8_SHARE:.0%} are needed; export it again"
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
