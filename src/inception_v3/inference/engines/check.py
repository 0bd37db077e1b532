"""How far an engine's answers are from the network's own: measured when the engine is made, and kept with it."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from inception_v3.inference.exported.check import MIN_AGREEMENT, LARGEST, Check, Description
from inception_v3.inference.engines.base import LOGITS, Answers, Pixels

if TYPE_CHECKING:
    from inception_v3.weights.model import InceptionV3

Map = NDArray[np.floating]
Run = Callable[[Pixels], Answers]


def reference_network(model: "InceptionV3", outputs: tuple[str, ...]) -> Run:
    """The network as it was trained: layer by layer in float32 on PyTorch, nothing folded; what engines are held to."""
    import torch

    dtype = next(model.parameters()).dtype

    @torch.inference_mode()
    def run(pixels: Pixels) -> Answers:
        images = model.preprocessing.scale(torch.from_numpy(pixels).permute(0, 3, 1, 2).to(dtype))
        net, found = model(images.contiguous(memory_format=torch.channels_last), end_points=outputs)
        del net
        flat = ("Logits", "AvgPool_1a")
        return {name: (found[name].flatten(1) if name in flat else found[name]).numpy() for name in outputs}

    return run


def compare(run: Run, reference: Run, batches: Iterable[Pixels], source: str, preparation: str) -> Check:
    """Both on the same pixels.

    Raises ValueError for no pixels at all, or answers that are no numbers.
    """
    pictures = agreeing = 0
    classes: set[int] = set()
    largest = total = count = ends = 0.0
    for pixels in batches:
        found, expected = run(pixels), reference(pixels)
        pictures += len(pixels)
        relative = [_relative(found[name], values) for name, values in expected.items()]
        if LOGITS in expected:
            first = expected[LOGITS].argmax(1)
            classes |= set(first.tolist())
            agreeing += int((found[LOGITS].argmax(1) == first).sum())
            pairs = [(softmax(found[LOGITS]), softmax(expected[LOGITS]))]
        else:
            agreeing += len(pixels)
            pairs = relative
        if not all(np.isfinite(ours).all() for ours, _ in relative):
            raise ValueError("its answers are no finite numbers")
        ends = max(ends, *(float(np.abs(ours - theirs).max()) for ours, theirs in relative))
        for ours, theirs in pairs:
            difference = np.abs(ours.astype(np.float64) - theirs)
            largest = max(largest, float(difference.max()))
            total, count = total + float(difference.sum()), count + difference.size
    if not pictures:
        raise ValueError("no pictures to compare on")
    compared: Literal["probabilities", "end points"] = "probabilities" if LOGITS in expected else "end points"
    return Check(
        pictures=pictures,
        source=source,
        preparation=preparation,
        top_1_agreement=agreeing / pictures,
        max_difference=largest,
        mean_difference=total / count,
        end_points_difference=ends,
        classes=len(classes),
        compared=compared,
    )


def _relative(found: Map, expected: Map) -> tuple[Map, Map]:
    scale = float(np.abs(expected).max()) or 1.0
    return found.astype(np.float64) / scale, expected.astype(np.float64) / scale


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities (N, classes) of logits."""
    powers = np.exp(logits - logits.max(1, keepdims=True))
    shares: NDArray[np.float32] = powers / powers.sum(1, keepdims=True)
    return shares


def why_not(description: Description, bound: float | None = None) -> str | None:
    """The reason not to trust an exported network on its own, or None: its check is missing or below the bound.

    A `bound` of the user's own counts in place of MIN_AGREEMENT, and below fp32 in place of LARGEST too. End points name no
    classes, and fp32 has no excuse: there LARGEST holds whatever the bound.
    """
    if description.check is None:
        return f"{description.precision} was never checked against fp32"
    held = bound is None or description.precision == "fp32" or description.check.compared == "end points"
    largest = LARGEST[description.precision] if held else 1.0
    bound = MIN_AGREEMENT[description.precision] if bound is None else bound
    differs = description.check.max_difference
    if description.precision == "fp32":
        differs = max(differs, description.check.end_points_difference)
    if differs > largest:
        return f"{description.precision} differs from fp32 by {differs:.1e}, more than {largest}"
    if description.check.top_1_agreement < bound:
        found = description.check.top_1_agreement
        return f"{description.precision} agrees with fp32 on {found:.2%} of pictures, less than {bound:.2%}"
    return None
