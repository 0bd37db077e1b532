"""The score of a class, which an attribution explains: its logit."""

from collections.abc import Collection

import torch
from torch import Tensor

from inception_v3.errors import NotFiniteError
from inception_v3.explain.attribution.finite import names_up_to
from inception_v3.explain.attribution.result import Head
from inception_v3.inference.pipeline import not_finite
from inception_v3.network.architecture import OutputActivation
from inception_v3.network.network import EndPoints, InceptionV3Network
from inception_v3.weights.model import InceptionV3


def class_scores(logits: Tensor, classes: Tensor, activation: OutputActivation = "softmax") -> Tensor:
    """The logits (N,) of one class for each image, from logits (N, outputs) and classes (N,), int64.

    One output with a sigmoid stands for two classes: the score of the first is minus the logit.
    """
    if activation == "sigmoid" and logits.shape[1] == 1:
        return logits[:, 0] * (2 * classes - 1)
    return logits.gather(1, classes[:, None])[:, 0]


def network_scores(
    model: InceptionV3Network,
    images: Tensor,
    classes: Tensor,
    head: Head = "Logits",
    end_points: Collection[str] = (),
) -> tuple[Tensor, EndPoints]:
    """Run the network on images (N, 3, H, W): the scores (N,) of classes (N,), and the requested end points.

    Raises ValueError: the network is in training mode, has no such head, or more than one prediction for an image.
    """
    check_model(model, head)
    wanted = {*end_points, head} - {"Logits"}
    logits, outputs = model(images, end_points=wanted)
    logits = outputs.pop(head) if head == "AuxLogits" else logits
    if logits.dim() != 2:
        raise ValueError("the network has a map of logits; build it with global_pool=True for one prediction an image")
    return class_scores(logits, classes.to(logits.device), model.settings.output_activation), outputs


def check_mode(model: InceptionV3Network) -> None:
    """Raise ValueError for a model in training mode."""
    if model.training:
        raise ValueError("the model is in training mode, where dropout changes the scores; call model.eval()")


def check_model(model: InceptionV3Network, head: Head = "Logits") -> None:
    """Raise ValueError for a model whose scores cannot be explained: in training mode, or without the head."""
    check_mode(model)
    if model.settings.final_endpoint:
        raise ValueError(f"this network ends at {model.settings.final_endpoint} and has no classes")
    if head not in model.end_point_names:
        raise ValueError(f"this network has no head {head!r}; use 'Logits'")


def class_labels(model: InceptionV3) -> list[str]:
    """The class names; the class numbers if there are no names."""
    return model.class_names or [str(number) for number in range(model.settings.class_count)]


def check_finite(
    model: InceptionV3Network, images: Tensor, outputs: Tensor, image_name: str, head: Head = "Logits"
) -> None:
    """Raise NotFiniteError for outputs of images (N, 3, H, W), with the layer in which that starts."""
    if not outputs.isfinite().all():
        raise NotFiniteError(not_finite(image_name, first_not_finite(model, images, head)))


@torch.no_grad()
def first_not_finite(model: InceptionV3Network, images: Tensor, head: Head = "Logits") -> str:
    """The first layer, branch or end point on the way to a head whose output has an infinite value or NaN."""
    if not images.isfinite().all():
        return "the image"
    names = names_up_to(model.settings, head)
    _, outputs = model(images, end_points=names)
    return next((name for name in names if not outputs[name].isfinite().all()), head)


def image_gradients(
    model: InceptionV3Network, images: Tensor, classes: Tensor, head: Head = "Logits"
) -> tuple[Tensor, Tensor]:
    """The scores (N,), and their gradients with respect to images (N, 3, H, W), of the same shape."""
    with torch.enable_grad():
        # On a CPU, this layout saves a sixth of the time.
        images = images.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
        scores, _ = network_scores(model, images, classes, head)
        return scores.detach(), torch.autograd.grad(scores.sum(), images)[0]
