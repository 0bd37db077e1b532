"""The other programs with an Inception V3: how each loads a file that was written for it, and runs its network.

`python peers.py PROGRAM FILE SETTINGS` runs one of them in a process of its own. The current folder holds images.npy
and gets outputs.npz, with the outputs by end point, and report.json: the program and its version, or what went wrong.

This file imports nothing of this project, which the other Python need not have. Each function imports only its program.
"""

import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

Settings = dict[str, Any]  # the options of InceptionV3 for the weights
Outputs = dict[str, np.ndarray]


def load_torchvision(path: str, settings: Settings) -> Any:
    """Load torchvision's network without `transform_input`, which converts from ImageNet's mean and std to [-1, 1]."""
    import torch

    network = import_module("torchvision").models.inception_v3(
        weights=None,
        init_weights=False,
        transform_input=False,
        num_classes=settings["num_classes"],
        aux_logits=settings["create_aux_logits"],
    )
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True), strict=True)
    return network


def load_timm(path: str, settings: Settings) -> Any:
    timm = import_module("timm")
    network = timm.create_model(
        "inception_v3",
        pretrained=False,
        num_classes=settings["num_classes"],
        aux_logits=settings["create_aux_logits"],
    )
    timm.models.load_checkpoint(network, path, strict=True)
    return network


def load_pytorch_fid(path: str, settings: Settings) -> Any:
    """Let pytorch-fid's own function build and load the network, with `path` in place of its download."""
    import torch

    inception: Any = import_module("pytorch_fid.inception")
    inception.load_state_dict_from_url = lambda *_, **__: torch.load(path, map_location="cpu", weights_only=True)
    return inception.fid_inception_v3()


def load_keras(path: str, settings: Settings, image_size: tuple[int, ...]) -> Any:
    """Load the network of Keras Applications, on PyTorch if that is installed and on TensorFlow otherwise."""
    os.environ["KERAS_BACKEND"] = "torch" if find_spec("torch") else "tensorflow"
    top = not settings["final_endpoint"]
    with import_module("h5py").File(path, "r") as file:
        is_whole = "model_config" in file.attrs
    if is_whole:
        keras: Any = import_module("keras")
        network = keras.models.load_model(path, compile=False)
        if top:
            network.layers[-1].activation = keras.activations.linear
        return network
    applications: Any = import_module("keras.applications")  # Keras 2 does not import it by itself
    options = {"classes": settings["num_classes"], "classifier_activation": None} if top else {}
    network = applications.InceptionV3(weights=None, include_top=top, input_shape=(*image_size, 3), **options)
    network.load_weights(path)
    return network


def run_on_pytorch(load: Callable[[str, Settings], Any], path: str, images: np.ndarray, settings: Settings) -> Outputs:
    """Run torchvision's network or one with its interface, which returns the auxiliary logits only in training."""
    import torch

    network = load(path, settings).eval()
    aux = settings["create_aux_logits"]
    network.training = aux  # of the outermost module only: dropout and BatchNorm inside stay in evaluation mode
    with torch.inference_mode():
        outputs = network(torch.from_numpy(images))
    heads = outputs if aux else (outputs,)
    return {name: head.numpy() for name, head in zip(("Logits", "AuxLogits"), heads, strict=False)}


def run_keras(path: str, images: np.ndarray, settings: Settings) -> Outputs:
    network = load_keras(path, settings, images.shape[2:])
    if any(type(layer).__name__ == "Rescaling" for layer in network.layers):  # it takes pixels 0 to 255
        images = np.rint((images + 1) * 127.5)
    output = network.predict(images.transpose(0, 2, 3, 1), verbose=0)
    last = settings["final_endpoint"]
    return {last: output.transpose(0, 3, 1, 2)} if last else {"Logits": output}


def run_tf_slim(path: str, images: np.ndarray, settings: Settings) -> Outputs:
    """Run TF-Slim's network on TensorFlow, and return every end point."""
    tf, slim = import_module("tensorflow.compat.v1"), import_module("tf_slim.nets.inception_v3")
    arg_scope = import_module("tf_slim.ops.arg_scope").arg_scope
    tf.disable_eager_execution()
    with arg_scope(slim.inception_v3_arg_scope()):
        _, end_points = slim.inception_v3(
            tf.constant(images.transpose(0, 2, 3, 1)),
            is_training=False,
            spatial_squeeze=False,
            num_classes=settings["num_classes"],
            depth_multiplier=settings["depth_multiplier"],
            min_depth=settings["min_depth"],
            create_aux_logits=settings["create_aux_logits"],
        )
    with tf.Session() as session:
        tf.train.Saver().restore(session, path)
        outputs = session.run(end_points)
    return {name: value.transpose(0, 3, 1, 2) for name, value in outputs.items()}


# By the name of the program's Python distribution. Each takes a file, images (N, 3, H, W) in [-1, 1] and settings, and
# returns the outputs in NCHW by end point.
PROGRAMS: dict[str, Callable[..., Any]] = {
    "torchvision": partial(run_on_pytorch, load_torchvision),
    "timm": partial(run_on_pytorch, load_timm),
    "pytorch-fid": partial(run_on_pytorch, load_pytorch_fid),
    "keras": run_keras,
    "tf-slim": run_tf_slim,
}


def main() -> None:
    program, path, settings = sys.argv[1:]
    try:
        np.savez("outputs.npz", **PROGRAMS[program](path, np.load("images.npy"), json.loads(settings)))
        with suppress(PackageNotFoundError):  # a nightly build is a distribution of another name
            program = f"{program} {version(program)}"
        report: dict[str, Any] = {"program": program}
    except Exception as error:  # the program may raise anything
        first_line = str(error).strip().partition("\n")[0][:200]
        missing = isinstance(error, ImportError)
        report = {"problem": first_line if missing else f"{type(error).__name__}: {first_line}", "missing": missing}
    Path("report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main()
