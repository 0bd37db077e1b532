"""The network of 2015 as the scores use it: a function from images to features, and its checksum."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inception_v3.errors import InputError
from inception_v3.fidelity.options import DEFAULT_WEIGHTS, NetworkPrecision
from inception_v3.fidelity.rounding import round_weights
from inception_v3.inference.choose import open_graph
from inception_v3.inference.engines.base import Engine
from inception_v3.inference.engines.graph import Graph, build_graph, swap_pools
from inception_v3.network.settings import GRAPH_2015
from inception_v3.support.arguments import Threads, checked
from inception_v3.support.devices import as_device
from inception_v3.support.text import printable
from inception_v3.weights.formats import fid_2015
from inception_v3.weights.load import load
from inception_v3.weights.model import InceptionV3

SPATIAL_LAYER, SPATIAL_CHANNELS = "Mixed_6d.Branch_0", 7  # of sFID: mixed_6/conv in OpenAI's evaluator.py
ExtractFeatures = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class FeatureNetwork:
    """A network that computes the features of both FID and sFID.

    Attributes:
        features: float32 images (N, 3, 299, 299) near [-1, 1] to two float32 tensors on the CPU: the last map averaged
            over its pixels, (N, width), and 7 channels of Mixed_6d, flattened in NHWC order, (N, spatial_width).
        checksum: SHA-256 of the weights, independent of the file format.
        logits: the weights of the last layer, (classes, width).
        callers: the number of threads that may call `features` at once, each on its own part of the cores.
        weights: the name of the file or of the published weights.
        is_published: whether the network has the architecture of 2015, without which no score is comparable.
    """

    features: ExtractFeatures
    width: int
    spatial_width: int
    checksum: str
    logits: NDArray[np.float32]
    dtype: NetworkPrecision
    device: torch.device
    callers: int = 1
    weights: str = "this model"
    is_published: bool = True

    @property
    def engine_name(self) -> str:
        """The engine that runs it: a value of `--engine`."""
        return self.features.engine.name if isinstance(self.features, EngineFeatures) else "pytorch"

    def to(self, device: torch.device, dtype: NetworkPrecision) -> "FeatureNetwork":
        """This network on a device and in a precision. Returns itself if `features` is not an EngineFeatures."""
        if (device, dtype) == (self.device, self.dtype) or not isinstance(self.features, EngineFeatures):
            return self
        features = EngineFeatures(self.features.graph, dtype, device, self.callers)
        return replace(self, features=features, device=device, dtype=dtype)

    def int8(self, images: Tensor) -> "FeatureNetwork":
        """This network in int8, calibrated on images in the form that `features` takes.

        Raises InputError: too few images, not on a CPU, or a missing package.
        """
        from inception_v3.inference.quantise import int8_engine

        if self.device.type != "cpu" or not isinstance(self.features, EngineFeatures):
            raise InputError("int8 runs only on CPUs; use bf16 on a GPU", exit_status=2)
        engine = int8_engine(self.features.graph, images.numpy(), self.callers)
        features = EngineFeatures(self.features.graph, "int8", self.device, self.callers, engine)
        return replace(self, features=features, dtype="int8")


@checked
def load_network(
    weights: str | Path | InceptionV3 = DEFAULT_WEIGHTS,
    *,
    dtype: NetworkPrecision = "fp32",
    device: str | torch.device = "cpu",
    any_weights: bool = False,
    callers: Threads = 1,
) -> FeatureNetwork:
    """Load the network of 2015 from a file of any format, a published name, or a model, which is not changed.

    Raises TypeError and ValueError: an argument of the wrong type, or no such device.
    Raises InputError: a missing or damaged file; another network, unless `any_weights`; `dtype="int8"`, instead of
    which `FeatureNetwork.int8` converts a float32 network.
    """
    if dtype == "int8":
        raise InputError(
            "int8 must be calibrated on images; use `inception-v3 fidelity --precision int8`", exit_status=2
        )
    device = as_device(device)
    model = weights if isinstance(weights, InceptionV3) else load(weights)
    name = "this model" if model is weights else str(weights)
    if model.settings.final_endpoint:
        raise InputError(f"{name}: ends at {model.settings['final_endpoint']}; give a network with all layers")
    differences = fid_2015.differences(model.to_weights())
    if differences and not any_weights:
        raise InputError(
            f"{name}: not the network of 2015 ({differences[0]}); give the weights of inception-2015-12-05, or "
            "--any-weights; the scores are then not comparable with published ones"
        )
    # On the CPU and in float32, so that the same weights always have the same checksum.
    tensors = {key: tensor.detach().cpu().float() for key, tensor in model.state_dict().items()}
    logits = next(tensor for key, tensor in tensors.items() if key.startswith("Logits.") and tensor.ndim == 4)
    channels = tensors[f"{SPATIAL_LAYER}.Conv2d_0a_1x1.weights"].shape[0]
    spatial = f"{SPATIAL_LAYER.replace('.', '/')}/Conv2d_0a_1x1"
    graph = swap_pools(build_graph(model, any_size=True, outputs=("Mixed_7c", spatial), from_pixels=False))
    return FeatureNetwork(
        features=EngineFeatures(graph, dtype, device, callers),
        width=logits.shape[1],
        spatial_width=17 * 17 * min(channels, SPATIAL_CHANNELS),
        checksum=_checksum(tensors, model),
        logits=logits.flatten(1).numpy(),
        dtype=dtype,
        device=device,
        callers=callers,
        weights=printable(name if model is weights else Path(name).name),
        is_published=not differences,
    )


def _checksum(tensors: dict[str, Tensor], model: InceptionV3) -> str:
    """SHA-256 of each tensor and its name, and of settings that change the outputs and are not those of 2015."""
    names = ("count_padding", "mixed_7c_pool", "batch_norm_epsilon")
    settings = {name: model.settings[name] for name in names if model.settings[name] != GRAPH_2015[name]}
    digest = sha256(repr(sorted(settings.items())).encode() if settings else b"")
    for name in sorted(tensors):
        digest.update(f"{name} {tuple(tensors[name].shape)}".encode())
        digest.update(np.ascontiguousarray(tensors[name].numpy()).data)
    return digest.hexdigest()


class EngineFeatures:
    """Computes features by an inference engine: the given one, or the fastest that is installed."""

    def __init__(
        self,
        graph: Graph,
        dtype: NetworkPrecision,
        device: torch.device,
        callers: int = 1,
        engine: Engine | None = None,
    ) -> None:
        self.graph, self.dtype, self.callers = graph, dtype, callers
        rounded = round_weights(graph) if dtype == "bf16" else graph
        self.engine = engine or open_graph(rounded, "auto", dtype, str(device), callers=callers)[0]

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle only the arguments. Sessions of other libraries cannot be pickled; they are opened anew."""
        return EngineFeatures, (self.graph, self.dtype, torch.device(self.engine.device.lower()), self.callers)

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        last, spatial = self.engine.run(images.cpu().numpy()).values()
        spatial = spatial[:, :SPATIAL_CHANNELS].transpose(0, 2, 3, 1).reshape(len(spatial), -1)
        return torch.from_numpy(last.mean((2, 3))), torch.from_numpy(np.ascontiguousarray(spatial))
