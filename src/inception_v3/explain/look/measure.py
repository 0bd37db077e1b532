"""Looks at images through a network in PyTorch: one pass forward, one backward for each class and each end point.

The network is a copy with BatchNorm folded into the convolutions. Its values differ from the network's by
rounding, less than a gray level of a map.
"""

from collections.abc import Callable
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inception_v3.explain.ablation import branch_names, part_channels, silenced_logits
from inception_v3.explain.attribution.gradients import folded
from inception_v3.explain.attribution.scores import check_mode, class_labels, class_scores
from inception_v3.explain.classes import find_class
from inception_v3.explain.effective_fields import EffectiveField
from inception_v3.explain.look.channels import CAM_SIDE, FIELD_SIDE, map_uri, rounded
from inception_v3.explain.look.outline import outline, settings_for
from inception_v3.explain.look.page import ModelFacts
from inception_v3.explain.look.result import Cam, Field, Look, LookOptions, Silenced
from inception_v3.explain.look.shown import (
    cam_classes,
    first_not_finite,
    look_of,
    prediction,
    strongest_of_parts,
    top_classes,
)
from inception_v3.explain.receptive_fields import all_receptive_fields
from inception_v3.explain.views import View, view_of
from inception_v3.inference.predict import ImageInput
from inception_v3.network.network import EndPoints
from inception_v3.network.probabilities import probabilities
from inception_v3.support.text import printable
from inception_v3.weights.model import InceptionV3
from inception_v3.weights.read import public_name


def look_at(model: InceptionV3, image: ImageInput | View, options: LookOptions | None = None) -> Look:
    """What the network computes from one image; see Look.

    Raises:
        InputError: the image cannot be read; no such class.
        ValueError: a model in training mode, or with more than one prediction for an image.
    """
    view = image if isinstance(image, View) else view_of(image, model.preprocessing)
    return looker(model, options or LookOptions())(view)


def looker(model: InceptionV3, options: LookOptions, name: str = "") -> Callable[[View], Look]:
    """A function that looks at images through a model in evaluation mode. Raises as `look_at` does."""
    check_mode(model)
    if options.class_name is not None and not model.settings.final_endpoint:
        find_class(options.class_name, class_labels(model))
    network, facts = cast(InceptionV3, folded(model)), model_facts(model, name)
    return lambda view: _look(network, facts, view, options)


def model_facts(model: InceptionV3, name: str = "") -> ModelFacts:
    """What the page shows of a model; `name` is by default that of its weights."""
    settings = settings_for(model.settings, model.preprocessing.image_size)
    name = name or (public_name(model.origin.name) if model.origin else "InceptionV3")
    classes = [] if settings.final_endpoint else class_labels(model)
    return ModelFacts(name, settings, classes, model.class_names is not None)


def _look(model: InceptionV3, facts: ModelFacts, view: View, options: LookOptions) -> Look:
    pixels = model.preprocess(view.image).to(next(model.parameters()))
    pixels = pixels.contiguous(memory_format=torch.channels_last).requires_grad_()
    settings = facts.settings
    names = [part.name for part in outline(settings)]
    with torch.enable_grad():
        logits, outputs = model(pixels, end_points=names)
    values = {name: map_of(outputs[name]) for name in names}
    look = look_of(view, model.preprocessing, facts, strongest_of_parts(values, options))
    missing = {}
    if not (settings.create_aux_logits or settings.final_endpoint):
        missing["aux"] = "aux_size" if model.settings.create_aux_logits else "aux"
    start = first_not_finite(look.parts) if pixels.isfinite().all() else "image"
    fields = fields_of(model, pixels, outputs)
    if settings.final_endpoint:
        return look.with_results(fields=fields, not_finite_from=start, missing={"heads": "cut"})
    if logits.dim() != 2:
        raise ValueError(f"{printable(view.name)}: the network has a map of logits; build it with global_pool=True")
    labels, activation = class_labels(model), settings.output_activation
    heads = {
        head: top_classes(outputs[head][0].detach().double().cpu().numpy(), labels, activation, options.top)
        for head in ("Logits", "AuxLogits")
        if head in outputs and outputs[head].isfinite().all()
    }
    if "Logits" not in heads:
        unknown = dict.fromkeys(("heads", "cams", "silenced"), "not_finite")
        return look.with_results(fields=fields, heads=heads, not_finite_from=start, missing=missing | unknown)
    listed = [each.index for each in heads["Logits"]]
    return look.with_results(
        fields=fields,
        heads=heads,
        cams=cams_of(model, logits, outputs, cam_classes(listed, options, labels), labels),
        silenced=_silenced(model, pixels, listed, labels),
        not_finite_from=start,
        missing=missing,
    )


def map_of(output: Tensor) -> NDArray[np.floating]:
    """The output of a part for the only image as (channels, height, width)."""
    values = output[0].detach()
    return np.asarray((values if values.dim() == 3 else values[:, None, None]).float().cpu().numpy())


def cams_of(model: InceptionV3, logits: Tensor, outputs: EndPoints, classes: list[int], labels: list[str]) -> list[Cam]:
    """Grad-CAM (see attribution/cams.py) of several classes on every end point of the base, from one pass forward."""
    maps = {name: outputs[name] for name in model.base_end_points}
    cams = []
    for index in classes:
        score = class_scores(logits, torch.tensor([index], device=logits.device), model.settings.output_activation)
        gradients = torch.autograd.grad(score.sum(), [*maps.values()], retain_graph=True)
        images, highs = {}, {}
        for (name, activations), gradient in zip(maps.items(), gradients, strict=True):
            cam = (gradient.mean((2, 3), keepdim=True) * activations.detach()).sum(1)[0].clamp(min=0).double().cpu()
            highs[name] = rounded([float(cam.max())])[0]
            images[name] = map_uri(cam.numpy(), float(cam.max()), CAM_SIDE)
        cams.append(Cam(index, printable(labels[index]), images, highs))
    return cams


def fields_of(model: InceptionV3, pixels: Tensor, outputs: EndPoints) -> dict[str, Field]:
    """The effective receptive fields of the end points of the base; without those whose gradient is not finite."""
    height, width = pixels.shape[2], pixels.shape[3]
    theoretical = all_receptive_fields((height, width), model.settings)
    fields = {}
    for name in (each for each in model.base_end_points if each in outputs):
        net = outputs[name]
        unit = net.shape[2] // 2, net.shape[3] // 2
        (gradient,) = torch.autograd.grad(net[:, :, unit[0], unit[1]].sum(), pixels, retain_graph=True)
        if not gradient.isfinite().all():
            continue
        absolute = gradient.double().abs().mean((0, 1)).cpu().numpy()
        size = EffectiveField(theoretical[name], unit, absolute, 1).size
        fields[name] = Field(unit, size, map_uri(absolute, float(absolute.max()), FIELD_SIDE))
    return fields


@torch.no_grad()
def _silenced(model: InceptionV3, pixels: Tensor, listed: list[int], labels: list[str]) -> list[Silenced]:
    """The outputs without each branch, as in explain/ablation.py with zeros."""
    branches = branch_names(model)
    logits = silenced_logits(model, pixels.detach(), part_channels(model, branches), "zero")[1:].double().cpu().numpy()
    rows = probabilities(logits, model.settings.output_activation)
    return [
        Silenced(name, rounded(row[listed]), prediction(int(row.argmax()), labels, row))
        for name, row in zip(branches, rows, strict=True)
    ]
