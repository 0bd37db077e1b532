"""What training minimises: softmax cross-entropy of both heads and L2 on the kernels."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def classification_loss(
    logits: Tensor,
    labels: Tensor,
    aux_logits: Tensor | None = None,
    *,
    label_smoothing: float = 0.0,
    aux_weight: float = 0.4,
) -> Tensor:
    """Mean softmax cross-entropy, plus `aux_weight` times that of the auxiliary head.

    `logits` and `aux_logits` have shape (N, num_classes), `labels` (N,). Label smoothing as section 7 of the
    paper: (1 - e) on the label, e / num_classes on every class. 0.4 is the released code's
    (inception/slim/inception_model.py in tensorflow/models).
    """
    loss = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    if aux_logits is not None:
        loss = loss + aux_weight * F.cross_entropy(aux_logits, labels, label_smoothing=label_smoothing)
    return loss


def kernels(model: nn.Module) -> list[nn.Parameter]:
    """Every convolution kernel, the logits' too: what TF-Slim regularises."""
    return [parameter for name, parameter in model.named_parameters() if name.endswith("weights")]


def l2_regularization(model: nn.Module, weight_decay: float = 0.00004) -> Tensor:
    """weight_decay * sum(w ** 2) / 2 over the kernels, as slim.l2_regularizer."""
    return weight_decay * torch.stack([kernel.square().sum() for kernel in kernels(model)]).sum() / 2
