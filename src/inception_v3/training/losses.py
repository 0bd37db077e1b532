"""What training minimises: softmax cross-entropy of both heads, and which weights L2 is of."""

import difflib
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inception_v3.errors import InputError


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

    `logits` and `aux_logits` have shape (N, num_classes), `labels` (N,), or (N, num_classes) where pictures are
    mixed: the share of each class. Label smoothing as section 7 of the paper: (1 - e) on the label, e / num_classes
    on every class. 0.4 is the released code's (inception/slim/inception_model.py in tensorflow/models).
    `class_weights` (num_classes,) are factors on the loss of each picture; the mean is over pictures, so that
    batches add up.
    """
    loss = F.cross_entropy(logits, labels, label_smoothing=label_smoothing, reduction="none")
    if aux_logits is not None:
        aux_loss = F.cross_entropy(aux_logits, labels, label_smoothing=label_smoothing, reduction="none")
        loss = loss + aux_weight * aux_loss
    if class_weights is not None:
        loss = loss * (class_weights[labels] if labels.dim() == 1 else labels @ class_weights)
    return loss.mean()


def kernels(model: nn.Module) -> list[nn.Parameter]:
    """Every convolution kernel, the logits' too: what TF-Slim regularises."""
    return [parameter for name, parameter in model.named_parameters() if name.endswith("weights")]


def class_weights(asked: str | Mapping[str, float], class_names: Sequence[str], labels: Sequence[int]) -> Tensor | None:
    """The factor on the loss of each class's pictures, (num_classes,), or None where all count alike.

    "balanced" gives every class the same weight in total, and the average picture the weight 1. Of a table, classes
    that it leaves out have 1. Raises InputError for a class that is not there.
    """
    if isinstance(asked, Mapping):
        for name in asked:
            if name not in class_names:
                close = difflib.get_close_matches(name, class_names, 1)
                hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(class_names[:10])}"
                raise InputError(f"class_weights: no class {name}; {hint}", exit_status=2)
        return torch.tensor([float(asked.get(name, 1.0)) for name in class_names])
    if asked == "none":
        return None
    counts = torch.bincount(torch.tensor(list(labels)), minlength=len(class_names)).clamp(min=1)
    return len(labels) / (len(class_names) * counts)
