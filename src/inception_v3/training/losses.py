"""The loss: softmax cross-entropy of both heads with class weights, and the parameters that L2 applies to."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inception_v3.errors import InputError
from inception_v3.support.text import suggest
from inception_v3.training.recipe import Recipe


def classification_loss(
    logits: Tensor,
    labels: Tensor,
    aux_logits: Tensor | None = None,
    *,
    label_smoothing: float = 0.0,
    aux_weight: float = 0.4,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Mean softmax cross-entropy, plus `aux_weight` times that of the auxiliary head.

    Args:
        logits, aux_logits: (N, num_classes).
        labels: (N,), or (N, num_classes) with the probability of each class, for mixed images.
        label_smoothing: epsilon in section 7 of the paper: (1 - epsilon) on the label, epsilon / num_classes on every
            class.
        aux_weight: weight of the auxiliary head's loss; 0.4 is from the released code
            (inception/slim/inception_model.py in tensorflow/models).
        class_weights: (num_classes,) factors on the loss of each image. The mean still divides by the number of
            images, so that the gradients of several batches add up.
    """
    loss = F.cross_entropy(logits, labels, label_smoothing=label_smoothing, reduction="none")
    if aux_logits is not None:
        aux_loss = F.cross_entropy(aux_logits, labels, label_smoothing=label_smoothing, reduction="none")
        loss = loss + aux_weight * aux_loss
    if class_weights is not None:
        loss = loss * (class_weights[labels] if labels.dim() == 1 else labels @ class_weights)
    return loss.mean()


def describe_loss(recipe: Recipe, *, aux_head: bool) -> str:
    """What a recipe's training loss is computed from, and what it leaves out; `aux_head` adds the auxiliary loss."""
    parts = ["cross-entropy" + (f" + {recipe.aux_weight:g} × auxiliary loss" if aux_head else "")]
    if recipe.label_smoothing:
        parts.append(f"label smoothing {recipe.label_smoothing:g}")
    if recipe.class_weights != "none":
        parts.append("class weights")
    parts += [name for name in ("mixup", "cutmix") if getattr(recipe, name)]
    penalty = "weight decay" if recipe.optimizer == "adamw" else "L2"
    return ", ".join(parts) + (f" ({penalty} not included)" if recipe.weight_decay else "")


def convolution_kernels(model: nn.Module) -> list[nn.Parameter]:
    """Every convolution kernel, including those of the logits: the parameters that TF-Slim regularises."""
    return [parameter for name, parameter in model.named_parameters() if name.endswith("weights")]


def class_weights(
    weighting: str | Mapping[str, float],
    class_names: Sequence[str],
    labels: Sequence[int],
    device: torch.device | None = None,
) -> Tensor | None:
    """The factor on the loss of each class's images, (num_classes,), or None if all classes count the same.

    "balanced" gives every class the same total weight, and the average image the weight 1. In a table of weights by
    class name, missing classes have the weight 1. Raises InputError for an unknown class name.
    """
    if isinstance(weighting, Mapping):
        for name in weighting:
            if name not in class_names:
                raise InputError(f"class_weights: no class {name}; {suggest(name, class_names)}", exit_status=2)
        return torch.tensor([float(weighting.get(name, 1.0)) for name in class_names], device=device)
    if weighting == "none":
        return None
    counts = torch.bincount(torch.tensor(list(labels)), minlength=len(class_names)).clamp(min=1)
    return (len(labels) / (len(class_names) * counts)).to(device)
