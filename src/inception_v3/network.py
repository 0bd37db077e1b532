"""InceptionV3: the PyTorch module, built from the tables of architecture.py.

A variable's name in `state_dict()` is TF-Slim's with dots: `Mixed_5b.Branch_0.Conv2d_0a_1x1.weights` is
`InceptionV3/Mixed_5b/Branch_0/Conv2d_0a_1x1/weights`, its axes OIHW where TensorFlow has HWIO.
"""

import re
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inception_v3 import architecture, pointwise
from inception_v3.architecture import (
    AUX_INPUT,
    BASE_END_POINTS,
    HEAD_END_POINTS,
    MAXIMUM_OF_2015,
    Layer,
    Mixed,
    Pool,
    Size,
)
from inception_v3.architecture import Branch as BranchTable
from inception_v3.hub import HubMixin
from inception_v3.layers import BatchNorm, Conv2d, Pool2d
from inception_v3.preprocessing import Preprocessing

if TYPE_CHECKING:
    from PIL.Image import Image

EndPoints = dict[str, Tensor]


class Branch(nn.Module):
    """One column of an Inception module: steps in a row, each one layer or several joined along the channels."""

    def __init__(self, steps: BranchTable, layers: dict[str, nn.Module]) -> None:
        super().__init__()
        self.steps = [[table.name for table in (step if isinstance(step, tuple) else (step,))] for step in steps]
        for names in self.steps:
            for name in names:
                self.add_module(name, layers[name])

    def beginning(self) -> "pointwise.Beginning | None":
        """The 1x1 convolution that reads the input of the module, and the average pool before it if there is one."""
        first, second = (self.get_submodule(names[0]) for names in (self.steps[0], self.steps[-1]))
        if type(first) is Pool2d and first.kind == "avg":
            return (first, second) if type(second) is Conv2d else None
        return (None, first) if type(first) is Conv2d and first.kernel == (1, 1) else None

    def forward(self, net: Tensor, done: int = 0) -> Tensor:
        """(N, C, H, W) to (N, C', H', W'); `net` has the first steps behind it where some are `done`."""
        for names in self.steps[done:]:
            outputs = [self.get_submodule(name)(net) for name in names]
            net = outputs[0] if len(outputs) == 1 else torch.cat(outputs, 1)
        return net


class InceptionModule(nn.Module):
    """Branches of one input, joined along the channels."""

    def __init__(self, branches: dict[str, Branch]) -> None:
        super().__init__()
        for name, branch in branches.items():
            self.add_module(name, branch)

    def forward(self, net: Tensor) -> Tensor:
        begun = self._begin(net) if self.training and pointwise.applies(net, *self.children()) else {}
        return torch.cat([branch(*begun.get(branch, (net,))) for branch in self.children()], 1)

    def _begin(self, net: Tensor) -> dict[nn.Module, tuple[Tensor, int]]:
        """Branches whose 1x1 convolution pointwise.py has done: its output, and the steps that are behind it."""
        beginnings: dict[nn.Module, pointwise.Beginning] = {}
        for branch in self.children():
            if isinstance(branch, Branch) and (beginning := branch.beginning()):
                beginnings[branch] = beginning
        outputs = pointwise.begin(net, list(beginnings.values()))
        return {
            branch: (output, 1 if pool is None else 2)
            for (branch, (pool, _)), output in zip(beginnings.items(), outputs, strict=True)
        }


class Head(nn.Sequential):
    """The layers of a head in a row, under their names; `InceptionV3` runs them."""

    def __init__(self, layers: dict[str, nn.Module]) -> None:
        super().__init__(OrderedDict(layers))


@dataclass(frozen=True)
class Origin:
    """Where a model was loaded from: the path or name that was given, the file behind it, its format.

    `training` is what the file says of how it came to be.
    """

    name: str
    file: Path
    format: str
    training: dict[str, Any] = field(default_factory=dict)

    @property
    def first(self) -> str:
        """Where the weights came from before they were saved here, else where they were found now."""
        told = self.name if re.match("[a-z]{2,}:", self.name) else self.file.name  # a path is the user's own affair
        return str(self.training.get("origin") or f"{told} ({self.format})")


class InceptionV3(nn.Module, HubMixin):
    """Inception V3 (arXiv 1512.00567) as tf_slim/nets/inception_v3.py has it.

    `logits, end_points = model(images)` takes floats of shape (N, 3, H, W) in [-1, 1], 75x75 or larger.

    Args:
        num_classes: outputs of both heads.
        depth_multiplier: factor on every layer's width, greater than zero.
        min_depth: the least width that it may leave.
        dropout_keep_prob: share of the 2048 features that training keeps before the logits.
        create_aux_logits: build the auxiliary head.
        spatial_squeeze: logits of shape (N, num_classes); else the map (N, num_classes, h, w).
        global_pool: average the last map whatever its size, as later TF-Slim, torchvision, timm and Keras do
            (not in TF-Slim 1.1, which pools 8x8, stride 2); auxiliary logits are averaged likewise.
        batch_norm_decay: of the moving averages; 0.9997 needs tens of thousands of steps to settle.
        batch_norm_epsilon: added to the variance.
        batch_norm_scale: learn a scale gamma too.
        count_padding: average pools with SAME padding count the zeros of the border, as torchvision and timm do.
        mixed_7c_pool: "max" is the graph of 2015 that FID uses, in the last module's pooling branch alone.
        image_size: the height and width, or one number for both, that the auxiliary head is built for: its
            5x5 convolution shrinks on images below 299 pixels, and its variable with it.
        final_endpoint: build the base up to here and no heads; calls return `(net, end_points)` of this layer.

    Raises:
        ValueError: an option that no network can have.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        depth_multiplier: float = 1.0,
        min_depth: int = 16,
        dropout_keep_prob: float = 0.8,
        create_aux_logits: bool = True,
        spatial_squeeze: bool = True,
        global_pool: bool = False,
        batch_norm_decay: float = 0.9997,
        batch_norm_epsilon: float = 0.001,
        batch_norm_scale: bool = False,
        count_padding: bool = False,
        mixed_7c_pool: Literal["avg", "max"] = "avg",
        image_size: int | Size = 299,
        final_endpoint: str | None = None,
    ) -> None:
        super().__init__()
        if not 0 < dropout_keep_prob <= 1:
            raise ValueError(f"dropout_keep_prob must be in (0, 1], not {dropout_keep_prob}")
        if not 0 <= batch_norm_decay < 1:
            raise ValueError(f"batch_norm_decay must be in [0, 1), not {batch_norm_decay}")
        if mixed_7c_pool not in ("avg", "max"):
            raise ValueError(f"mixed_7c_pool must be avg or max, not {mixed_7c_pool!r}")
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        self.settings: dict[str, Any] = {
            "num_classes": num_classes,
            "depth_multiplier": depth_multiplier,
            "min_depth": min_depth,
            "dropout_keep_prob": dropout_keep_prob,
            "create_aux_logits": create_aux_logits,
            "spatial_squeeze": spatial_squeeze,
            "global_pool": global_pool,
            "batch_norm_decay": batch_norm_decay,
            "batch_norm_epsilon": batch_norm_epsilon,
            "batch_norm_scale": batch_norm_scale,
            "count_padding": count_padding,
            "mixed_7c_pool": mixed_7c_pool,
            "image_size": (height, width),
            "final_endpoint": final_endpoint,
        }
        self.dropout_keep_prob = dropout_keep_prob
        self.spatial_squeeze = spatial_squeeze
        self.global_pool = global_pool
        self.image_size: Size = (height, width)
        self.preprocessing = Preprocessing(image_size=self.image_size)
        self.class_names: list[str] | None = None
        self.origin: Origin | None = None

        points = architecture.end_points(
            height=height,
            width=width,
            num_classes=num_classes,
            depth_multiplier=depth_multiplier,
            min_depth=min_depth,
            create_aux_logits=create_aux_logits,
            final_endpoint=final_endpoint,
        )
        layers = {layer.name: self._build(layer) for point in points for layer in point.layers}

        def below(scope: str) -> dict[str, nn.Module]:
            return {name.removeprefix(scope): layer for name, layer in layers.items() if name.startswith(scope)}

        for node in architecture.BASE[: len(self.base_end_points)]:
            if isinstance(node, Mixed):
                columns = {name: Branch(steps, below(f"{node.name}/{name}/")) for name, steps in node.named_branches}
                self.add_module(node.name, InceptionModule(columns))
            else:
                self.add_module(node.name, layers[node.name])
        if final_endpoint is None:
            self.AuxLogits = Head(below("AuxLogits/")) if create_aux_logits else None
            self.Logits = Head(below("Logits/"))

    def _build(self, layer: Layer) -> nn.Module:
        table = layer.table
        if isinstance(table, Pool):
            kind = self.settings["mixed_7c_pool"] if layer.name == MAXIMUM_OF_2015 else table.kind
            return Pool2d(
                kind, table.kernel, table.stride, table.padding, table.shrinks, self.settings["count_padding"]
            )
        batch_norm = None
        if layer.normalized:
            batch_norm = BatchNorm(
                layer.out_channels,
                self.settings["batch_norm_decay"],
                self.settings["batch_norm_epsilon"],
                self.settings["batch_norm_scale"],
            )
        return Conv2d(
            layer.in_channels,
            layer.out_channels,
            layer.kernel,
            table.stride,
            table.padding,
            stddev=table.stddev,
            batch_norm=batch_norm,
        )

    @property
    def base_end_points(self) -> tuple[str, ...]:
        """The layers of the base that this network holds, in order."""
        last = self.settings["final_endpoint"]
        return BASE_END_POINTS[: BASE_END_POINTS.index(last) + 1] if last else BASE_END_POINTS

    @property
    def end_point_names(self) -> tuple[str, ...]:
        """What a call returns, in order."""
        if self.settings["final_endpoint"]:
            return self.base_end_points
        heads = HEAD_END_POINTS if self.settings["create_aux_logits"] else HEAD_END_POINTS[1:]
        return self.base_end_points + heads

    def preprocess(self, images: "Image | Sequence[Image]") -> Tensor:
        """RGB pictures, one or several, to what this network reads: (N, 3, H, W), on its device."""
        pictures = images if isinstance(images, Sequence) else [images]
        prepared = torch.cat([self.preprocessing(picture) for picture in pictures])
        return prepared.to(next(self.parameters()).device)

    def base(
        self,
        images: Tensor,
        final_endpoint: str | None = None,
        end_points: Collection[str] | None = None,
    ) -> tuple[Tensor, EndPoints]:
        """The network without its heads, run up to `final_endpoint`: TF-Slim's inception_v3_base.

        Args:
            images: (N, 3, H, W) in [-1, 1].
            final_endpoint: the last layer to run; None runs all that the network holds.
            end_points: names to return; None returns every one, `()` none.

        Returns:
            The last tensor and a dictionary of the end points, each (N, C, h, w).

        Raises:
            ValueError: images of the wrong shape or type or too small; a name that is not there.
        """
        names = self.base_end_points
        if final_endpoint is not None:
            _check_names((final_endpoint,), names)
            names = names[: names.index(final_endpoint) + 1]
        _check_names(end_points, names)
        _check_images(images, architecture.minimum_size(names[-1]))
        found: EndPoints = {}
        net = images
        kept = names if end_points is None else end_points
        waiting: Conv2d | None = None  # for the maximum behind it
        for name, following in zip_longest(names, names[1:]):
            layer = self.get_submodule(name)
            if waiting and isinstance(layer, Pool2d):
                net = pointwise.conv_then_max(net, waiting, layer)
                waiting = None
            elif following and name not in kept and pointwise.joins(layer, self.get_submodule(following), net):
                waiting = layer
            else:
                net = layer(net)
            if name in kept:
                found[name] = net
        return net, found

    def forward(self, images: Tensor, end_points: Collection[str] | None = None) -> tuple[Tensor, EndPoints]:
        """Logits and the named end points.

        Args:
            images: (N, 3, H, W) in [-1, 1].
            end_points: names to return; None returns every one, `()` none and keeps no activation alive.
                The auxiliary head runs only where AuxLogits is asked for.

        Returns:
            Logits (N, num_classes), and a dictionary of the end points under TF-Slim's names: maps (N, C, h, w);
            AvgPool_1a and PreLogits (N, 2048, 1, 1); AuxLogits, Logits and Predictions (N, num_classes).

        Raises:
            ValueError: images of the wrong shape or type, too small, or larger than the heads can take (the
                message says which option to change); a name that is not there.
        """
        if self.settings["final_endpoint"]:
            return self.base(images, end_points=end_points)
        known = self.end_point_names
        _check_names(end_points, known)
        wanted = frozenset(known if end_points is None else end_points)
        from_base = [name for name in self.base_end_points if name in wanted]
        if "AuxLogits" in wanted:
            net, found = self.base(images, end_points=[*from_base, AUX_INPUT])
            aux_input = found[AUX_INPUT] if AUX_INPUT in wanted else found.pop(AUX_INPUT)
            found["AuxLogits"] = self._aux_logits(aux_input, images)
            del aux_input
        else:
            net, found = self.base(images, end_points=from_base)

        assert self.Logits is not None
        pool, classify = self.Logits
        net = net.mean((2, 3), keepdim=True) if self.global_pool else pool(net)
        features = F.dropout(net, 1 - self.dropout_keep_prob, self.training)
        logits = self._squeeze(classify(features), images)
        heads = {"AvgPool_1a": net, "PreLogits": features, "Logits": logits}
        found |= {name: tensor for name, tensor in heads.items() if name in wanted}
        if "Predictions" in wanted:
            found["Predictions"] = F.softmax(logits, 1)
        return logits, found

    def _aux_logits(self, net: Tensor, images: Tensor) -> Tensor:
        assert self.AuxLogits is not None
        pool, reduce, convolve, classify = self.AuxLogits
        net = reduce(pool(net))
        assert isinstance(convolve, Conv2d)
        if net.shape[2] < convolve.kernel[0] or net.shape[3] < convolve.kernel[1]:
            raise ValueError(
                f"images of {_size(images.shape[2:])} leave a {_size(net.shape[2:])} map for the auxiliary head, whose "
                f"{_size(convolve.kernel)} convolution was built for image_size={self.image_size}: build the network "
                f"with image_size={tuple(images.shape[2:])}, or leave AuxLogits out of end_points"
            )
        net = convolve(net)
        if self.global_pool:
            net = net.mean((2, 3), keepdim=True)
        return self._squeeze(classify(net), images)

    def _squeeze(self, logits: Tensor, images: Tensor) -> Tensor:
        if not self.spatial_squeeze:
            return logits
        if logits.shape[2:] != (1, 1):
            raise ValueError(
                f"images of {_size(images.shape[2:])} leave a {_size(logits.shape[2:])} map of logits: build the "
                "network with global_pool=True for one answer an image, or with spatial_squeeze=False for the map"
            )
        return logits.flatten(1)


def _check_names(names: Collection[str] | None, known: Sequence[str]) -> None:
    for name in names or ():
        if name not in known:
            raise ValueError(f"no end point {name!r} in this network; there are {', '.join(known)}")


def _check_images(images: Tensor, minimum: int) -> None:
    if images.dim() != 4 or images.shape[1] != 3:
        raise ValueError(f"images must have shape (N, 3, H, W), not {tuple(images.shape)}")
    if not images.is_floating_point():
        raise ValueError(f"images must be floats in [-1, 1], not {images.dtype}")
    if images.shape[2] < minimum or images.shape[3] < minimum:
        raise ValueError(f"images are {_size(images.shape[2:])}: the network needs at least {minimum}x{minimum}")


def _size(size: Sequence[int]) -> str:
    return f"{size[0]}x{size[1]}"
