"""Run the Inception V3 of Keras Applications, on PyTorch if that is installed and on TensorFlow otherwise."""

import os
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np


def load_network(path: str, settings: dict[str, Any], image_size: tuple[int, int]) -> Any:
    """Load the network for images of this height and width, whatever backend the user's configuration names."""
    os.environ["KERAS_BACKEND"] = "torch" if find_spec("torch") else "tensorflow"
    applications: Any = import_module("keras.applications")  # Keras 2 does not import it by itself
    top = not settings["final_endpoint"]
    options = {"classes": settings["num_classes"], "classifier_activation": None} if top else {}
    network = applications.InceptionV3(weights=None, include_top=top, input_shape=(*image_size, 3), **options)
    network.load_weights(path)
    return network


def run(path: str, images: np.ndarray, settings: dict[str, Any]) -> dict[str, np.ndarray]:
    network = load_network(path, settings, images.shape[2:])
    output = network.predict(images.transpose(0, 2, 3, 1), verbose=0)
    last = settings["final_endpoint"]
    return {last: output.transpose(0, 3, 1, 2)} if last else {"Logits": output}
