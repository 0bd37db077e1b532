"""Grad-CAM of an exported network, which has no gradients.

Behind Mixed_7c, the head is an average pool and a linear layer. The mean gradient of a class's score with respect to a
channel is then the class's weight of that channel, divided by the number of positions, for every image.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inception_v3.errors import InputError, NotFiniteError
from inception_v3.explain.attribution.finite import first_not_finite_in_file
from inception_v3.explain.attribution.result import Attribution, AttributionOptions
from inception_v3.explain.classes import explained_class
from inception_v3.explain.views import View
from inception_v3.inference.choose import check_classifier, open_with_outputs
from inception_v3.inference.engines.base import LOGITS, Run
from inception_v3.inference.exported.description import Description
from inception_v3.inference.exported.registry import read_description, recognise
from inception_v3.inference.pipeline import not_finite
from inception_v3.network.architecture import BASE_END_POINTS

LAST_MAP = BASE_END_POINTS[-1]


def needs_no_gradients(options: AttributionOptions) -> bool:
    """Whether these options are Grad-CAM on the last map, which an exported network can compute."""
    return options.method == "grad-cam" and options.end_point in (None, LAST_MAP) and options.head == LOGITS


@dataclass(frozen=True)
class ExportedNetwork:
    """An exported network with a linear head, opened with the map before the head as an output.

    Attributes:
        file: the exported file.
        run: from pixels to Logits and Mixed_7c.
        description: the file's.
        weights: of the classifier, (outputs, channels).
    """

    file: Path
    run: Run
    description: Description
    weights: NDArray[np.float64]


def open_with_map(file: Path) -> ExportedNetwork:
    """Open an .onnx or OpenVINO file on the CPU. The map becomes an output of a copy in memory. Needs no PyTorch.

    Raises InputError: another format, a head that is not linear, no classes; or as `open_with_outputs` does.
    """
    description = read_description(file)
    check_classifier(file, description.settings, description.outputs)
    if description.settings.hidden_units:
        fault = "its head has hidden layers, so without gradients it has no class activation map"
        raise InputError(f"{file}: {fault}; use --method occlusion", exit_status=2)
    run, outputs = open_with_outputs(file, (LAST_MAP,))
    weights = classifier_weights(file)
    if LAST_MAP not in outputs or weights is None:
        fault = f"its format does not keep {LAST_MAP}; give the .onnx or OpenVINO file of this network, or its weights"
        raise InputError(f"{file}: {fault}", exit_status=2)
    return ExportedNetwork(file, run, description, weights)


def classifier_weights(file: Path) -> NDArray[np.float64] | None:
    """The weights (outputs, channels) of an exported network's classifier; None if its format does not keep them."""
    format = recognise(file)
    weights = format.constant(file, f"{LOGITS}/weights") if format else None
    return None if weights is None else weights.reshape(len(weights), -1).astype(np.float64)


def exported_grad_cam(network: ExportedNetwork, view: View, options: AttributionOptions) -> Attribution:
    """Grad-CAM on Mixed_7c, in the precision of the file. Raises InputError: no such class. Raises NotFiniteError."""
    pixels = network.description.preprocessing.array(view.image)[None]
    outputs = network.run(pixels)
    logits, features = (outputs[name][0].astype(np.float64) for name in (LOGITS, LAST_MAP))
    if not (np.isfinite(logits).all() and np.isfinite(features).all()):
        raise NotFiniteError(not_finite(view.name, first_not_finite_in_file(network.file, pixels)))
    names, activation = network.description.names(), network.description.settings.output_activation
    index, of_logits = explained_class(options.class_name, names, logits, activation)
    values = linear_cam(of_logits @ network.weights, features)
    score = float(logits @ of_logits)
    return Attribution(view, "grad-cam", index, names[index], LOGITS, LAST_MAP, score, values)


def linear_cam(weights: NDArray[np.float64], features: NDArray[np.floating]) -> NDArray[np.float64]:
    """Grad-CAM (h, w) of features (channels, h, w), by a class's weights (channels,) of their means."""
    return np.maximum(np.tensordot(weights / features[0].size, features, 1), 0)
