"""Run the Inception V3 of Keras Applications, on PyTorch if that is installed and on TensorFlow otherwise."""

import os
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np


def run(path: str, images: np.ndarray, settings: dict[str, Any]) -> dict[str, np.ndarray]:
    os.environ["KERAS_BACKEND"] = "torch" if find_spec("torch") else "tensorflow"
    applications: Any = import_module("keras.applications")  # Keras 2 does not import it by itself
    last = settings["final_endpoint"]
    options = {} if last else {"classes": settings["num_classes"], "classifier_activation": None}
    network = applications.InceptionV3(
        weights=None, include_top=not last, input_shape=(*images.shape[2:], 3), **options
    )
    network.load_weights(path)
    output = network.predict(images.transpose(0, 2, 3, 1), verbose=0)
    return {last: output.transpose(0, 3, 1, 2)} if last else {"Logits": output}
