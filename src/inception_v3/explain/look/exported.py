"""Looks at images through an exported file, which has no gradients: maps, classes, and Grad-CAM on the last map.

Needs no PyTorch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inception_v3.explain.attribution.exported import LAST_MAP, classifier_weights, linear_cam
from inception_v3.explain.classes import explained_class, find_class
from inception_v3.explain.look.channels import CAM_SIDE, map_uri, rounded
from inception_v3.explain.look.outline import layers_of, outline, settings_for
from inception_v3.explain.look.page import ModelFacts
from inception_v3.explain.look.result import Cam, Look, LookOptions
from inception_v3.explain.look.shown import cam_classes, first_not_finite, look_of, strongest_of_parts, top_classes
from inception_v3.explain.views import View
from inception_v3.inference.choose import open_with_outputs
from inception_v3.inference.engines.base import FEATURES, LOGITS, Run
from inception_v3.inference.exported.description import Description
from inception_v3.inference.exported.registry import read_description, recognise
from inception_v3.network.architecture import BASE_END_POINTS
from inception_v3.network.probabilities import probabilities
from inception_v3.network.settings import Settings
from inception_v3.support.text import printable

Map = NDArray[np.floating]  # (channels, height, width)


@dataclass(frozen=True)
class ExportedLook:
    """An exported file that is open.

    Attributes:
        description: the file's.
        facts: what the page shows of it; its settings are those for images of its size, without the auxiliary head.
        run: from pixels to the values of `outputs`.
        outputs: their names.
        weights: of the classifier, (outputs, channels); None if the head is not linear or the file does not keep them.
    """

    description: Description
    facts: ModelFacts
    run: Run
    outputs: frozenset[str]
    weights: NDArray[np.float64] | None


def open_exported_look(file: Path, options: LookOptions) -> ExportedLook:
    """Open an exported file on the CPU. Raises InputError: no such class, or as `open_with_outputs` does."""
    description = read_description(file)
    facts = facts_of(file.name, description, file)
    settings = facts.settings
    if options.class_name is not None and not settings.final_endpoint:
        find_class(options.class_name, description.names())
    names = sorted({name for layers in layers_of(settings).values() for name in layers})
    run, outputs = open_with_outputs(file, names)
    weights = None if settings.hidden_units else classifier_weights(file)
    has_map = LAST_MAP in outputs or {*layers_of(settings).get(LAST_MAP, "-")} <= outputs
    reason = "hidden" if settings.hidden_units else "no_map" if weights is None or not has_map else ""
    return ExportedLook(description, replace(facts, no_cam_reason=reason), run, outputs, weights)


def facts_of(name: str, description: Description, file: Path) -> ModelFacts:
    """What a page shows of a network that an engine runs. Exported files leave the auxiliary head out."""
    settings, exported = description.settings, recognise(file) is not None
    if exported:
        settings = settings | {"create_aux_logits": False}
    settings = settings_for(settings, description.preprocessing.image_size)
    labels = [] if settings.final_endpoint else description.names()
    return ModelFacts(name, settings, labels, description.class_names is not None, exported)


def exported_looker(network: ExportedLook, options: LookOptions) -> Callable[[View], Look]:
    """A function that looks at images through an exported file."""
    return lambda view: _look(network, view, options)


def _look(network: ExportedLook, view: View, options: LookOptions) -> Look:
    settings, preprocessing = network.facts.settings, network.description.preprocessing
    outputs = network.run(preprocessing.array(view.image)[None].copy())  # PyTorch warns of arrays that are read-only
    values = values_of_parts(settings, outputs)
    parts = strongest_of_parts(values, options)
    missing = {"fields": "exported_fields"}
    if len(parts) < len(outline(settings)):
        missing["parts"] = "exported_parts"
    look = look_of(view, preprocessing, network.facts, parts).with_results(
        not_finite_from=first_not_finite(parts), missing=missing
    )
    if settings.final_endpoint:
        return look.with_results(missing=missing | {"heads": "cut"})
    missing |= {"aux": "exported_aux", "silenced": "exported_silenced"}
    if LOGITS not in outputs:
        return look.with_results(missing=missing | {"heads": "exported_heads"})
    logits = outputs[LOGITS].reshape(-1).astype(np.float64)
    if not np.isfinite(logits).all():
        return look.with_results(missing=missing | {"heads": "not_finite"})
    heads = {LOGITS: top_classes(logits, network.facts.classes, settings.output_activation, options.top)}
    missing["cams"] = "exported_no_cams" if network.facts.no_cam_reason else "exported_cams"
    cams: list[Cam] = []
    if not network.facts.no_cam_reason:
        classes = cam_classes([each.index for each in heads[LOGITS]], options, network.facts.classes)
        cams = [cam_of(network, logits, values[LAST_MAP], index) for index in classes]
    return look.with_results(heads=heads, cams=cams, missing=missing)


def values_of_parts(settings: Settings, outputs: Mapping[str, NDArray[Any]], only: str | None = None) -> dict[str, Map]:
    """The maps of the parts that the file's outputs hold, or of the part `only`."""
    known = dict(outputs)
    if FEATURES in known:
        known.setdefault("PreLogits", known[FEATURES])
    if LOGITS in known:
        predictions = probabilities(known[LOGITS].astype(np.float64), settings.output_activation)
        known.setdefault("Predictions", predictions[:, -known[LOGITS].shape[1] :])
    of_heads = {
        each.name: point.name
        for point in settings.end_points()
        if point.name not in BASE_END_POINTS
        for each in point.inner
    }
    values = {}
    for name, layers in layers_of(settings).items():
        if only not in (None, name):
            continue
        if name in known:
            values[name] = _map(known[name])
        elif of_heads.get(name) in known:
            values[name] = _map(known[of_heads[name]])
        elif all(layer in known for layer in layers):
            values[name] = np.concatenate([_map(known[layer]) for layer in layers])
    return values


def _map(output: NDArray[Any]) -> Map:
    values: NDArray[np.float32] = output[0].astype(np.float32)
    return values if values.ndim == 3 else values.reshape(-1, 1, 1)


def cam_of(network: ExportedLook, logits: NDArray[np.float64], features: Map, index: int) -> Cam:
    """Grad-CAM of a class on the last map, for a network without a `no_cam_reason`."""
    labels = network.facts.classes
    _, of_logits = explained_class(index, labels, logits, network.facts.settings.output_activation)
    assert network.weights is not None  # else there is a no_cam_reason
    cam = linear_cam(of_logits @ network.weights, features)
    high = float(cam.max())
    maps, highs = {LAST_MAP: map_uri(cam, high, CAM_SIDE)}, {LAST_MAP: rounded([high])[0]}
    return Cam(index, printable(labels[index]), maps, highs)
