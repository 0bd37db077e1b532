"""The network as the scores need it: one function from images to features, and what identifies it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inception_v3.errors import InputError
from inception_v3.fidelity.rounding import rounded
from inception_v3.inference.choose import open_graph
from inception_v3.inference.engines.base import Engine
from inception_v3.inference.engines.graph import Graph, build_graph, swap_pools
from inception_v3.network.settings import GRAPH_2015
from inception_v3.weights.formats import fid_2015
from inception_v3.weights.load import load
from inception_v3.weights.model import InceptionV3

WEIGHTS = "fid:2015-12-05"
SPATIAL_LAYER, SPATIAL_CHANNELS = "Mixed_6d.Branch_0", 7  # of sFID: mixed_6/conv in OpenAI's evaluator.py
Dtype = Literal["fp32", "bf16", "int8"]
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
    callers: int = 1  # threads that may take features at once, each with its share of the processor

    def to(self, device: torch.device) -> "Network":
        """The same on another device, where what computes the features can go there."""
        if device == self.device or not isinstance(self.features, EngineFeatures):
            return self
        return replace(self, features=self.features.to(device), device=device)

    def int8(self, images: Tensor) -> "Network":
        """The same in int8, fitted to images as `features` takes them. Raises InputError: too few, another device, or
        a package that is missing."""
        from inception_v3.inference.quantise import int8_engine

        if self.device.type != "cpu" or not isinstance(self.features, EngineFeatures):
            raise InputError("int8 is for processors; take bf16 on a GPU", exit_status=2)
        engine = int8_engine(self.features.graph, images.numpy(), self.callers)
        features = EngineFeatures(self.features.graph, "int8", self.device, self.callers, engine)
        return replace(self, features=features, dtype="int8")

    def exact(self) -> "Network":
        """The same in float32, where what computes the features can be had so."""
        if self.dtype == "fp32" or not isinstance(self.features, EngineFeatures):
            return self
        return replace(self, features=self.features.to(self.device, "fp32"), dtype="fp32")


def load_network(
    weights: str | Path | InceptionV3 = WEIGHTS,
    *,
    dtype: Dtype = "fp32",
    device: str | torch.device = "cpu",
    any_weights: bool = False,
    callers: int = 1,
) -> Network:
    """The network of 2015 from a file of any format, a name, or a model (which stays as it is).

    Raises InputError: no such file, damaged, or another network unless `any_weights`; int8, which `Network.int8` makes
    of a network in float32.
    """
    if dtype == "int8":
        raise InputError("int8 is fitted to pictures; `inception-v3 fidelity --precision int8` does it", exit_status=2)
    model = weights if isinstance(weights, InceptionV3) else load(weights)
    name = "this model" if model is weights else str(weights)
    if model.settings.final_endpoint:
        raise InputError(f"{name}: ends at {model.settings['final_endpoint']}; scores need all layers")
    reasons = fid_2015.differences(model)
    if reasons and not any_weights:
        remedy = "give the weights of inception-2015-12-05, or --any-weights for scores that compare with no others"
        raise InputError(f"{name}: not the network of 2015 ({reasons[0]}); {remedy}")
    # on the CPU and in float32 whatever the model is, so that the same weights have the same checksum
    weights_of = {key: tensor.detach().cpu().float() for key, tensor in model.state_dict().items()}
    logits = next(tensor for key, tensor in weights_of.items() if key.startswith("Logits.") and tensor.ndim == 4)
    channels = weights_of[f"{SPATIAL_LAYER}.Conv2d_0a_1x1.weights"].shape[0]
    spatial = f"{SPATIAL_LAYER.replace('.', '/')}/Conv2d_0a_1x1"
    graph = swap_pools(build_graph(model, any_size=True, outputs=("Mixed_7c", spatial), from_pixels=False))
    return Network(
        features=EngineFeatures(graph, dtype, torch.device(device), callers),
        width=logits.shape[1],
        spatial_width=17 * 17 * min(channels, SPATIAL_CHANNELS),
        checksum=_checksum(weights_of, _other_settings(model)),
        logits=logits.flatten(1).numpy(),
        dtype=dtype,
        device=torch.device(device),
        callers=callers,
    )


def _other_settings(model: InceptionV3) -> dict[str, Any]:
    """Those that change what the same weights compute, where they are not those of 2015."""
    names = ("count_padding", "mixed_7c_pool", "batch_norm_epsilon")
    return {name: model.settings[name] for name in names if model.settings[name] != GRAPH_2015[name]}


def _checksum(tensors: dict[str, Tensor], settings: dict[str, Any]) -> str:
    """SHA-256 of every tensor under its name, and of settings where there are some."""
    digest = sha256()
    if settings:
        digest.update(repr(sorted(settings.items())).encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tuple(tensors[name].shape)}".encode())
        digest.update(np.ascontiguousarray(tensors[name].numpy()).data)
    return digest.hexdigest()


class EngineFeatures:
    """Those of an engine; by default the fastest that is installed for it, see engines/choose.py."""

    def __init__(
        self, graph: Graph, dtype: Dtype, device: torch.device, callers: int = 1, engine: Engine | None = None
    ) -> None:
        self.graph, self.dtype, self.callers = graph, dtype, callers
        run = rounded(graph) if dtype == "bf16" else graph
        self.engine = engine or open_graph(run, "auto", dtype, str(device), callers=callers)[0]

    def to(self, device: torch.device, dtype: Dtype | None = None) -> "EngineFeatures":
        return EngineFeatures(self.graph, dtype or self.dtype, device, self.callers)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copied and sent to other processes as what it is built from: sessions of other libraries stay behind."""
        return EngineFeatures, (self.graph, self.dtype, torch.device(self.engine.device.lower()), self.callers)

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        last, spatial = self.engine.run(images.cpu().numpy()).values()
        spatial = spatial[:, :SPATIAL_CHANNELS].transpose(0, 2, 3, 1).reshape(len(spatial), -1)
        return torch.from_numpy(last.mean((2, 3))), torch.from_numpy(np.ascontiguousarray(spatial))
