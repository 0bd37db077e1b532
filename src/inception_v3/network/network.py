"""The network as a plain PyTorch module, built from the tables of architecture.py.

A variable's name in `state_dict()` is TF-Slim's with dots: `Mixed_5b.Branch_0.Conv2d_0a_1x1.weights` is
`InceptionV3/Mixed_5b/Branch_0/Conv2d_0a_1x1/weights`, with the axes OIHW where TensorFlow has HWIO.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inception_v3.network import architecture
from inception_v3.network.architecture import (
    AUX_INPUT,
    BASE_END_POINTS,
    HEAD_END_POINTS,
    Dense,
    Layer,
    Mixed,
    OutputActivation,
    Pool,
    Size,
    unknown_end_point,
    with_inner,
)
from inception_v3.network.architecture import Branch as BranchTable
from inception_v3.network.layers import BatchNorm, Conv2d, HiddenLayer, Pool2d
from inception_v3.network.settings import Settings

EndPoints = dict[str, Tensor]
OUTPUT_ACTIVATIONS: dict[OutputActivation, Callable[[Tensor], Tensor]] = {
    "softmax": lambda logits: F.softmax(logits, 1),
    "sigmoid": torch.sigmoid,
    "none": lambda logits: logits,
}


class Branch(nn.ModuleDict):
    """One branch of an Inception module: steps in sequence. A step is a layer, or several joined along the channels.

    A call adds the output of each layer to the dictionary `inner`, if there is one, under the layer's name.
    """

    def __init__(self, steps: BranchTable, layers: dict[str, nn.Module]) -> None:
        super().__init__(layers)
        self.steps = [[table.name for table in (step if isinstance(step, tuple) else (step,))] for step in steps]

    def forward(self, net: Tensor, inner: EndPoints | None = None) -> Tensor:
        """(N, C, H, W) to (N, C', H', W')."""
        return self.run_from(0, net, inner)

    def run_from(self, first: int, net: Tensor, inner: EndPoints | None = None) -> Tensor:
        """Run the steps from index `first` on, given the output of the step before it."""
        for names in self.steps[first:]:
            outputs = [self[name](net) for name in names]
            if inner is not None:
                inner.update(zip(names, outputs, strict=True))
            net = outputs[0] if len(outputs) == 1 else torch.cat(outputs, 1)
        return net


class InceptionModule(nn.ModuleDict):
    """Branches that read the same input, joined along the channels.

    A call adds the outputs of the branches and their layers to the dictionary `inner`, if there is one. The name of a
    branch is as in `Branch_1`, and that of a layer is `Branch_1/` and its own name.
    """

    def forward(self, net: Tensor, inner: EndPoints | None = None) -> Tensor:
        """(N, C, H, W) to (N, C', H', W')."""
        if inner is None:
            return torch.cat([branch(net) for branch in self.children()], 1)
        outputs = []
        for name, branch in self.named_children():
            layers: EndPoints = {}
            outputs.append(branch(net, layers))
            inner |= {f"{name}/{layer}": output for layer, output in layers.items()} | {name: outputs[-1]}
        return torch.cat(outputs, 1)


def run_layers(
    network: "InceptionV3Network", names: Sequence[str], net: Tensor, kept: Collection[str]
) -> tuple[Tensor, EndPoints]:
    """Run the named layers of the base in sequence; return the last output and those of the layers in `kept`."""
    end_points: EndPoints = {}
    for name in names:
        net = run_layer(network, name, net, kept, end_points)
    return net, end_points


def run_layer(
    network: "InceptionV3Network", name: str, net: Tensor, kept: Collection[str], end_points: EndPoints
) -> Tensor:
    """Run the named layer of the base and return its output. Add it, and those inside it, if they are in `kept`."""
    layer, scope = network.get_submodule(name), f"{name}/"
    if any(each.startswith(scope) for each in kept):
        inner: EndPoints = {}
        net = layer(net, inner)
        end_points |= {scope + each: output for each, output in inner.items() if scope + each in kept}
    else:
        net = layer(net)
    if name in kept:
        end_points[name] = net
    return net


class InceptionV3Network(nn.Module):
    """Inception V3 (arXiv 1512.00567) as tf_slim/nets/inception_v3.py defines it.

    `logits, end_points = network(images)` takes floats of shape (N, 3, H, W) in [-1, 1], 75x75 or larger.

    Raises:
        ValueError: an auxiliary head for images that are too small. Settings has checked the other options.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__()
        self.settings = settings = settings or Settings()
        self.run_layers = run_layers  # accelerate.py replaces it
        layers = {layer.name: _build(layer, settings) for point in settings.end_points() for layer in point.layers}

        def below(scope: str) -> OrderedDict[str, nn.Module]:
            return OrderedDict(
                (name.removeprefix(scope), layer) for name, layer in layers.items() if name.startswith(scope)
            )

        for node in architecture.BASE[: len(self.base_end_points)]:
            if isinstance(node, Mixed):
                branches = {name: Branch(steps, below(f"{node.name}/{name}/")) for name, steps in node.named_branches}
                self.add_module(node.name, InceptionModule(branches))
            else:
                self.add_module(node.name, layers[node.name])
        if settings.final_endpoint is None:
            self.AuxLogits = nn.Sequential(below("AuxLogits/")) if settings.create_aux_logits else None
            self.Logits = nn.Sequential(below("Logits/"))

    @property
    def image_size(self) -> Size:
        """Height and width of the images for which the auxiliary head was built."""
        return self.settings.image_size

    @property
    def base_end_points(self) -> tuple[str, ...]:
        """Names of the layers of the base in this network, in order."""
        last = self.settings.final_endpoint
        return BASE_END_POINTS[: BASE_END_POINTS.index(last) + 1] if last else BASE_END_POINTS

    @property
    def end_point_names(self) -> tuple[str, ...]:
        """Names of the end points that a call returns by default, in order."""
        if self.settings.final_endpoint:
            return self.base_end_points
        hidden = tuple(layer.name for layer in self.settings.hidden_layers)
        aux_logits, pool, features, *outputs = HEAD_END_POINTS
        heads = (aux_logits,) if self.settings.create_aux_logits else ()
        return (*self.base_end_points, *heads, pool, features, *hidden, *outputs)

    @property
    def inner_end_point_names(self) -> tuple[str, ...]:
        """Names of the end points inside these, which a call returns only if they are requested: branches and layers.

        They are TF-Slim's scopes, such as `Mixed_5b/Branch_1`; a layer's name follows that of its branch or head.
        """
        return tuple(each.name for point in self.settings.end_points() for each in point.inner)

    def set_batch_norm_decay(self, decay: float) -> None:
        """Change the decay of the moving averages in every BatchNorm, and in `settings`. Raises as Settings does."""
        self.settings = replace(self.settings, batch_norm_decay=decay)
        for module in self.modules():
            if isinstance(module, BatchNorm):
                module.decay = self.settings.batch_norm_decay

    def base(
        self,
        images: Tensor,
        final_endpoint: str | None = None,
        end_points: Collection[str] | None = None,
    ) -> tuple[Tensor, EndPoints]:
        """Run the network without its heads, up to `final_endpoint`: TF-Slim's inception_v3_base.

        Args:
            images: (N, 3, H, W) in [-1, 1].
            final_endpoint: the last layer to run; None runs all layers of the base. For a branch or a layer in a
                module, the whole module runs.
            end_points: as in a call, but those of the base.

        Returns:
            The output of `final_endpoint`, and a dictionary of end points, each of shape (N, C, h, w).

        Raises:
            TypeError: images that are no tensor; names that are no strings.
            ValueError: images of another shape, dtype or device, or too small; an unknown name.
        """
        names = returned = self.base_end_points
        final = names[-1]
        if final_endpoint is not None:
            (final,) = self._requested((final_endpoint,), names)
            names = names[: names.index(final.split("/")[0]) + 1]
            returned = (*names[:-1], final)
        kept = self._requested(end_points, names) if end_points is not None else returned
        assert isinstance(self.Conv2d_1a_3x3, Conv2d)
        _check_images(images, self.Conv2d_1a_3x3.weights, architecture.minimum_size(names[-1]))
        net, outputs = self.run_layers(self, names, images, kept if final in names else (*kept, final))
        if final not in names:
            net = outputs[final] if final in kept else outputs.pop(final)
        return net, outputs

    def forward(self, images: Tensor, end_points: Collection[str] | None = None) -> tuple[Tensor, EndPoints]:
        """Compute the logits and the requested end points.

        Args:
            images: (N, 3, H, W) in [-1, 1].
            end_points: names of the end points to return, or one name. They are those of `end_point_names`, all of
                which None returns, and the branches and layers of `inner_end_point_names`. `()` returns none, which
                keeps no activation in memory. The auxiliary head only runs if AuxLogits, or a layer in it, is
                requested. In evaluation, None leaves it out for images that are too small for it.

        Returns:
            Logits (N, num_classes), and a dictionary of end points under TF-Slim's names: maps (N, C, h, w);
            AvgPool_1a and PreLogits (N, 2048, 1, 1); hidden layers (N, units, 1, 1); AuxLogits, Logits and
            Predictions (N, num_classes). The output of a layer is that after its BatchNorm and ReLU.
            A network with `final_endpoint` has no heads and returns the output of that layer instead of logits.

        Raises:
            TypeError: images that are no tensor; names that are no strings.
            ValueError: images of another shape, dtype or device, too small, or larger than the heads can take (the
                message names the option to change); an unknown name.
        """
        if self.settings.final_endpoint:
            return self.base(images, end_points=end_points)
        requested = self._requested(end_points, self.end_point_names)
        scopes = {name: name.split("/")[0] for name in requested}
        in_base = [name for name, scope in scopes.items() if scope in BASE_END_POINTS]
        if "AuxLogits" in scopes.values():
            net, outputs = self.base(images, end_points=[*in_base, AUX_INPUT])
            aux_input = outputs[AUX_INPUT] if AUX_INPUT in requested else outputs.pop(AUX_INPUT)
            if end_points is not None or self.training or self._aux_fits(aux_input):
                aux = self._run_aux_head(aux_input, images)
                outputs |= {name: tensor for name, tensor in aux.items() if name in requested}
                del aux
            del aux_input
        else:
            net, outputs = self.base(images, end_points=in_base)

        heads = self.run_head(net, images.shape[2:])
        outputs |= {name: tensor for name, tensor in heads.items() if name in requested}
        logits = heads["Logits"]
        if "Predictions" in requested:
            outputs["Predictions"] = OUTPUT_ACTIVATIONS[self.settings.output_activation](logits)
        return logits, outputs

    def run_head(self, net: Tensor, image_size: Sequence[int]) -> EndPoints:
        """Run the main head on the last map of the base, (N, C, h, w), of images of this size: all its end points.

        Raises ValueError: the head leaves a map of logits, for which the network was not built.
        """
        (pool_name, pool), *hidden, (classifier_name, classify) = self.Logits.named_children()
        net = net.mean((2, 3), keepdim=True) if self.settings.global_pool else pool(net)
        heads = {f"Logits/{pool_name}": net, "AvgPool_1a": net}
        heads["PreLogits"] = net = F.dropout(net, 1 - self.settings.dropout_keep_prob, self.training)
        for name, layer in hidden:
            heads[f"Logits/{name}"] = heads[name] = net = layer(net)
            net = F.dropout(net, 1 - self.settings.hidden_dropout_keep_prob, self.training)
        heads[f"Logits/{classifier_name}"] = net = classify(net)
        return heads | {"Logits": self._squeeze(net, image_size)}

    def _requested(self, names: object, known: Sequence[str]) -> tuple[str, ...]:
        """The requested names; all `known` ones for None. Raises TypeError and ValueError, as a call does.

        A name may also be that of a branch or layer inside one of the `known` end points.
        """
        if names is None:
            return tuple(known)
        if isinstance(names, bytes) or not isinstance(names, Collection):
            raise TypeError(f"end_points must be names, such as [{known[-1]!r}], not {names!r}")
        requested = (names,) if isinstance(names, str) else tuple(names)
        unknown = [name for name in requested if name not in known]
        if unknown:
            points = with_inner(point for point in self.settings.end_points() if point.name in known)
            for name in unknown:
                if not isinstance(name, str):
                    raise TypeError(f"end_points must be names, such as [{known[-1]!r}], not {name!r}")
                if name not in points:
                    raise unknown_end_point(name, points)
        return requested

    def _aux_fits(self, net: Tensor) -> bool:
        """Whether the map from which the auxiliary head reads is large enough for its kernels."""
        assert self.AuxLogits is not None
        pool, _, convolve, _ = self.AuxLogits
        assert isinstance(convolve, Conv2d)
        height, width = pool(net[:1, :1]).shape[2:]
        return bool(height >= convolve.kernel[0] and width >= convolve.kernel[1])

    def _run_aux_head(self, net: Tensor, images: Tensor) -> EndPoints:
        """The logits of the auxiliary head, and the outputs of its layers."""
        assert self.AuxLogits is not None
        pool, reduce, convolve, classify = self.AuxLogits
        names = [f"AuxLogits/{name}" for name, _ in self.AuxLogits.named_children()]
        fits, pooled = self._aux_fits(net), pool(net)
        net = reduced = reduce(pooled)
        assert isinstance(convolve, Conv2d)
        if not fits:
            raise ValueError(
                f"images of {_size(images.shape[2:])} leave a {_size(net.shape[2:])} map for the auxiliary head, whose "
                f"{_size(convolve.kernel)} convolution was built for image_size={self.image_size}: build the network "
                f"with image_size={tuple(images.shape[2:])}, or leave AuxLogits out of end_points"
            )
        net = convolved = convolve(net)
        if self.settings.global_pool:
            net = net.mean((2, 3), keepdim=True)
        net = classify(net)
        outputs = dict(zip(names, (pooled, reduced, convolved, net), strict=True))
        return outputs | {"AuxLogits": self._squeeze(net, images.shape[2:])}

    def _squeeze(self, logits: Tensor, image_size: Sequence[int]) -> Tensor:
        if not self.settings.spatial_squeeze:
            return logits
        if logits.shape[2:] != (1, 1):
            raise ValueError(
                f"images of {_size(image_size)} leave a {_size(logits.shape[2:])} map of logits: build the "
                "network with global_pool=True for one prediction per image, or with spatial_squeeze=False for the map"
            )
        return logits.flatten(1)


def _build(layer: Layer, settings: Settings) -> nn.Module:
    """The module of one layer of the table."""
    table = layer.table
    if isinstance(table, Pool):
        return Pool2d(table.kind, table.kernel, table.stride, table.padding, table.shrinks, settings.count_padding)
    if isinstance(table, Dense):
        norm = BatchNorm(table.width, settings.batch_norm_decay, settings.hidden_batch_norm_epsilon, scale=True)
        first = table.batch_norm == "before"
        return HiddenLayer(
            layer.in_channels,
            table.width,
            table.activation,
            batch_norm=norm if table.batch_norm else None,
            batch_norm_first=first,
        )
    options = settings.batch_norm_decay, settings.batch_norm_epsilon, settings.batch_norm_scale
    return Conv2d(
        layer.in_channels,
        layer.out_channels,
        layer.kernel,
        table.stride,
        table.padding,
        stddev=table.stddev,
        batch_norm=BatchNorm(layer.out_channels, *options) if layer.normalized else None,
    )


def _check_images(images: object, weights: Tensor, minimum: int) -> None:
    if not isinstance(images, Tensor):
        raise TypeError(f"images must be a tensor, not {type(images).__name__}; use model.preprocess(image)")
    if images.dim() != 4 or images.shape[1] != 3:
        raise ValueError(f"images must have shape (N, 3, H, W), not {tuple(images.shape)}{_layout_remedy(images)}")
    if not images.is_floating_point():
        remedy = "use model.preprocess(image), or model.preprocessing.scale(images) for pixels from 0 to 255"
        raise ValueError(f"images must be floats in [-1, 1], not {images.dtype}; {remedy}")
    if images.shape[2] < minimum or images.shape[3] < minimum:
        raise ValueError(f"images are {_size(images.shape[2:])}: the network needs at least {minimum}x{minimum}")
    if images.device != weights.device:
        raise ValueError(f"images are on {images.device}, the network on {weights.device}; use images.to(DEVICE)")
    if images.dtype != weights.dtype and not torch.is_autocast_enabled(images.device.type):
        raise ValueError(f"images are {images.dtype}, the network {weights.dtype}; use images.to({weights.dtype})")


def _layout_remedy(images: Tensor) -> str:
    if images.dim() == 4 and images.shape[3] == 3:
        return "; use images.permute(0, 3, 1, 2)"
    return "; use images[None]" if images.dim() == 3 and images.shape[0] == 3 else ""


def _size(size: Sequence[int]) -> str:
    return f"{size[0]}x{size[1]}"
