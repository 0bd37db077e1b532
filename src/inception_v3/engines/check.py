"""How far an engine's answers are from the network's own: measured when the engine is made, and kept with it."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from inception_v3.engines.artefact import BOUNDS, LARGEST, Check, Description
from inception_v3.engines.base import LOGITS, Answers, Pixels

if TYPE_CHECKING:
    from inception_v3.network import InceptionV3

Run = Callable[[Pixels], Answers]


def network_itself(model: "InceptionV3", outputs: tuple[str, ...]) -> Run:
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
    """Both on the same pixels. Without logits among the answers it is they that differ, relative to the largest.

    Raises ValueError for no pixels at all, or answers that are no numbers.
    """
    pictures = agreeing = 0
    largest = total = count = 0.0
    for pixels in batches:
        found, expected = run(pixels), reference(pixels)
        pictures += len(pixels)
        if LOGITS in expected:
            agreeing += int((found[LOGITS].argmax(1) == expected[LOGITS].argmax(1)).sum())
            pairs = [(softmax(found[LOGITS]), softmax(expected[LOGITS]))]
        else:
            agreeing += len(pixels)
            scales = {name: float(np.abs(values).max()) or 1.0 for name, values in expected.items()}
            pairs = [(found[name] / scales[name], expected[name] / scales[name]) for name in expected]
        for ours, theirs in pairs:
            difference = np.abs(ours.astype(np.float64) - theirs)
            if not np.isfinite(difference).all():
                raise ValueError("its answers are no finite numbers")
            largest = max(largest, float(difference.max()))
            total, count = total + float(difference.sum()), count + difference.size
    if not pictures:
        raise ValueError("no pictures to compare on")
    compared: Literal["probabilities", "end points"] = "probabilities" if LOGITS in expected else "end points"
    return Check(pictures, source, preparation, agreeing / pictures, largest, total / count, compared)


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities (N, classes) of logits."""
    powers = np.exp(logits - logits.max(1, keepdims=True))
    shares: NDArray[np.float32] = powers / powers.sum(1, keepdims=True)
    return shares


def why_not(description: Description, bound: float | None = None) -> str | None:
    """The reason not to trust an exported network on its own, or None: its check is missing or below the bound.

    A `bound` of the user's own is all that counts; by default it is BOUNDS, and LARGEST too.
    """
    largest = LARGEST[description.precision] if bound is None else 1.0
    bound = BOUNDS[description.precision] if bound is None else bound
    if description.check is None:
        return f"{description.precision} was never checked against fp32"
    if description.check.max_difference > largest:
        return (
            f"{description.precision} differs from fp32 by {description.check.max_difference:.1e}, more than {largest}"
        )
    if description.check.top_1_agreement < bound:
        found = description.check.top_1_agreement
        return f"{description.precision} agrees with fp32 on {found:.2%} of pictures, less than {bound:.2%}"
    return None
