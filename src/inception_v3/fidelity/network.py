"""The network as the scores need it: one function from images to features, and what identifies it."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from inception_v3 import checkpoint
from inception_v3.errors import InputError
from inception_v3.formats import fid_2015
from inception_v3.layers import BatchNorm, Conv2d
from inception_v3.network import InceptionV3

WEIGHTS = "fid:2015-12-05"
SPATIAL_LAYER, SPATIAL_CHANNELS = "Mixed_6d.Branch_0", 7  # of sFID: mixed_6/conv in OpenAI's evaluator.py
Dtype = Literal["fp32", "bf16"]
Features = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Network:
    """`features` takes float32 images (N, 3, 299, 299) near [-1, 1] and gives float32 features on the CPU:
    the averaged last map (N, width), and 7 channels of Mixed_6d (N, spatial_width) in the order rows, columns,
    channels. An engine that computes the same two can take its place.

    `checksum` is of the weights, whatever file they came in; `logits` are those of the last layer, (classes, width).
    """

    features: Features
    width: int
    spatial_width: int
    checksum: str
    logits: NDArray[np.float32]
    dtype: Dtype
    device: torch.device


def load_network(
    weights: str | Path | InceptionV3 = WEIGHTS,
    *,
    dtype: Dtype = "fp32",
    device: str | torch.device = "cpu",
    any_weights: bool = False,
) -> Network:
    """The network of 2015 from a file of any format, a name, or a model (which stays as it is).

    Raises InputError: no such file, damaged, or another network unless `any_weights`.
    """
    given = isinstance(weights, InceptionV3)
    model = weights if isinstance(weights, InceptionV3) else checkpoint.load(weights)
    name = "this model" if given else str(weights)
    if model.settings["final_endpoint"]:
        raise InputError(f"{name}: ends at {model.settings['final_endpoint']}; scores need all layers")
    reasons = fid_2015.differences(model)
    if reasons and not any_weights:
        remedy = "give the weights of inception-2015-12-05, or --any-weights for scores that compare with no others"
        raise InputError(f"{name}: not the network of 2015 ({reasons[0]}); {remedy}")
    # on the CPU and in float32 whatever the model is, so that the same weights have the same checksum
    weights_of = {key: tensor.detach().cpu().float() for key, tensor in model.state_dict().items()}
    logits = next(tensor for key, tensor in weights_of.items() if key.startswith("Logits.") and tensor.ndim == 4)
    channels = weights_of[f"{SPATIAL_LAYER}.Conv2d_0a_1x1.weights"].shape[0]
    return Network(
        features=PytorchFeatures(deepcopy(model) if given else model, dtype, torch.device(device)),
        width=logits.shape[1],
        spatial_width=17 * 17 * min(channels, SPATIAL_CHANNELS),
        checksum=_checksum(weights_of),
        logits=logits.flatten(1).numpy(),
        dtype=dtype,
        device=torch.device(device),
    )


def _checksum(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of every tensor under its name."""
    digest = sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tuple(tensors[name].shape)}".encode())
        digest.update(np.ascontiguousarray(tensors[name].numpy()).data)
    return digest.hexdigest()


class PytorchFeatures:
    """PyTorch itself, channels_last, BatchNorm folded into the convolutions. Changes the model that it is given."""

    def __init__(self, model: InceptionV3, dtype: Dtype, device: torch.device) -> None:
        for module in model.modules():
            if isinstance(module, Conv2d) and module.BatchNorm is not None:
                _fold(module)
        self.device = device
        self.dtype = torch.bfloat16 if dtype == "bf16" else torch.float32
        model.eval().requires_grad_(False)
        self.model = model.to(device, self.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.spatial: Tensor | None = None
        model.get_submodule(SPATIAL_LAYER).register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, images: tuple[Tensor], output: Tensor) -> None:
        self.spatial = output[:, :SPATIAL_CHANNELS]

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        batch = images.to(self.device, self.dtype).contiguous(memory_format=torch.channels_last)
        with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False):
            net, _ = self.model.base(batch, end_points=())
        spatial, self.spatial = self.spatial, None
        assert spatial is not None
        return net.float().mean((2, 3)).cpu(), spatial.permute(0, 2, 3, 1).flatten(1).float().cpu()


def _fold(layer: Conv2d) -> None:
    """BatchNorm of known statistics is a factor and an offset: both go into the convolution, worked out in float64.

    What follows it stays, since the layer still has a (now empty) BatchNorm: ReLU.
    """
    norm = layer.BatchNorm
    assert isinstance(norm, BatchNorm)
    factor = (norm.moving_variance.double() + norm.epsilon).rsqrt()
    if norm.gamma is not None:
        factor = factor * norm.gamma.double()
    offset = norm.beta.double() - norm.moving_mean.double() * factor
    kernel = layer.weights.double() * factor.view(-1, 1, 1, 1)
    layer.weights = nn.Parameter(kernel.float())
    layer.biases = nn.Parameter(offset.float())
    layer.BatchNorm = nn.Identity()  # type: ignore[assignment]
