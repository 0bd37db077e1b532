"""Class activation maps: which positions of a layer's map raise the score of a class.

Each function takes images (N, 3, H, W) in [-1, 1] and classes (N,), int64, and returns maps (N, h, w) of the size of
the end point's map, zero or greater. Raises ValueError: as `network_scores` does, or an end point without a map.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from inception_v3.explain.attribution.result import Head
from inception_v3.explain.attribution.scores import network_scores
from inception_v3.network.architecture import AUX_INPUT, BASE_END_POINTS
from inception_v3.network.network import InceptionV3Network

EPSILON = 1e-6  # of the denominator in Grad-CAM++, as in its authors' code


def last_map(head: Head = "Logits") -> str:
    """The end point with the last map before a head."""
    return AUX_INPUT if head == "AuxLogits" else BASE_END_POINTS[-1]


def grad_cam(
    model: InceptionV3Network, images: Tensor, classes: Tensor, end_point: str | None = None, head: Head = "Logits"
) -> Tensor:
    """Grad-CAM (Selvaraju et al., arXiv 1610.02391, equations 1 and 2): channels weighted by their mean gradient."""
    activations, gradients = _activations_and_gradients(model, images, classes, end_point, head)
    weights = gradients.mean((2, 3), keepdim=True)
    return F.relu((weights * activations).sum(1))


def grad_cam_plus_plus(
    model: InceptionV3Network, images: Tensor, classes: Tensor, end_point: str | None = None, head: Head = "Logits"
) -> Tensor:
    """Grad-CAM++ (Chattopadhay et al., arXiv 1710.11063, equations 10, 11 and 19), of the exponential of the score.

    Its weights depend on the gradient's second and third power, so they change with the scale of the logits.
    """
    activations, gradients = _activations_and_gradients(model, images, classes, end_point, head)
    denominator = 2 * gradients**2 + activations.sum((2, 3), keepdim=True) * gradients**3 + EPSILON
    alphas = torch.where(gradients != 0, gradients**2 / denominator, 0)
    weights = (F.relu(gradients) * alphas).sum((2, 3), keepdim=True)
    return F.relu((weights * activations).sum(1))


def layer_cam(
    model: InceptionV3Network, images: Tensor, classes: Tensor, end_point: str | None = None, head: Head = "Logits"
) -> Tensor:
    """Layer-CAM (Jiang et al., IEEE TIP 2021, eqs. 5 and 6): each position weighted by its own positive gradient."""
    activations, gradients = _activations_and_gradients(model, images, classes, end_point, head)
    return F.relu((F.relu(gradients) * activations).sum(1))


def _activations_and_gradients(
    model: InceptionV3Network, images: Tensor, classes: Tensor, end_point: str | None, head: Head
) -> tuple[Tensor, Tensor]:
    """The map (N, C, h, w) of an end point, and the gradient of the scores with respect to it."""
    name = end_point or last_map(head)
    with torch.enable_grad():
        # The gradient is only needed behind the end point; before it, nothing is kept in memory.
        scores, outputs = network_scores(model, images.detach().requires_grad_(), classes, head, (name,))
        activations = outputs[name]
        if activations.dim() != 4 or (activations.shape[2:] == (1, 1) and name in ("AvgPool_1a", "PreLogits")):
            raise ValueError(f"{name} has no map; give a layer of the base, such as {last_map(head)}")
        (gradients,) = torch.autograd.grad(scores.sum(), activations, allow_unused=True)
    if gradients is None:
        raise ValueError(f"the score of {head} does not depend on {name}; give an end point before it")
    return activations.detach(), gradients
