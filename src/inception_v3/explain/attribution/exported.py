"""Grad-CAM of an exported network, which has no gradients.

Behind Mixed_7c, the head is an average pool and a linear layer. The mean gradient of a class's score with respect to a
channel is then the class's weight of that channel, divided by the number of places, for every image.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inception_v3.errors import InputError
from inception_v3.explain.attribution.result import Attribution, AttributionOptions
from inception_v3.explain.classes import explained_class
from inception_v3.explain.views import View
from inception_v3.inference.choose import check_classifier
from inception_v3.inference.engines.base import LOGITS, Engine
from inception_v3.inference.engines.registry import load_engine
from inception_v3.inference.exported.description import Description
from inception_v3.inference.exported.registry import check_weights, read_description, recognise
from inception_v3.inference.pipeline import not_finite
from inception_v3.network.architecture import BASE_END_POINTS
from inception_v3.support.packages import require_packages

LAST_MAP = BASE_END_POINTS[-1]


def needs_no_gradients(options: AttributionOptions) -> bool:
    """Whether these options are Grad-CAM on the last map, which an exported network can compute."""
    return options.method == "grad-cam" and options.end_point in (None, LAST_MAP) and options.head == LOGITS


@dataclass(frozen=True)
class ExportedNetwork:
    """An exported network with a linear head, opened with the map before the head as an output.

    Attributes:
        engine: returns Logits and Mixed_7c.
        description: the file's.
        weights: of the classifier, (outputs, channels).
    """

    engine: Engine
    description: Description
    weights: NDArray[np.float64]


def open_with_map(file: Path, device: str | None = None) -> ExportedNetwork:
    """Open an .onnx or OpenVINO file. The map becomes an output of a copy in memory. PyTorch is not needed.

    Raises InputError: another format, a head that is not linear, no classes; or as `open_engine` does.
    """
    format, description = recognise(file), read_description(file)
    check_classifier(file, description.settings, description.outputs)
    if format is None or not format.engine:
        remedy = "give the .onnx or OpenVINO file of this network, or its weights"
        raise InputError(f"{file}: nothing here runs this file to explain it; {remedy}", exit_status=2)
    if description.settings.hidden_units:
        fault = "its head has hidden layers, so without gradients it has no class activation map"
        raise InputError(f"{file}: {fault}; use --method occlusion", exit_status=2)
    require_packages(format.packages, f"a map of {file}", format.extra)
    check_weights(file, description)
    try:
        model = format.with_outputs(file, (LAST_MAP,))
        weights = format.constant(model, f"{LOGITS}/weights")
    except ValueError as error:
        raise InputError(f"{file}: {error}; export it again, or use --method occlusion") from error
    engine = load_engine(format.engine).open(model, description.precision, device)
    return ExportedNetwork(engine, description, weights.reshape(len(weights), -1).astype(np.float64))


def exported_grad_cam(network: ExportedNetwork, view: View, options: AttributionOptions) -> Attribution:
    """Grad-CAM on Mixed_7c, in the precision of the file. Raises InputError: no such class; outputs not finite."""
    outputs = network.engine.run(network.description.preprocessing.array(view.image)[None])
    logits, features = (outputs[name][0].astype(np.float64) for name in (LOGITS, LAST_MAP))
    if not (np.isfinite(logits).all() and np.isfinite(features).all()):
        raise InputError(not_finite(view.name))
    names, activation = network.description.names(), network.description.settings.output_activation
    index, of_logits = explained_class(options.class_name, names, logits, activation)
    weights = of_logits @ network.weights / features[0].size
    values = np.maximum(np.tensordot(weights, features, 1), 0)
    score = float(logits @ of_logits)
    return Attribution(view, "grad-cam", index, names[index], LOGITS, LAST_MAP, score, values)
