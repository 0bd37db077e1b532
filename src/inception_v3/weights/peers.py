"""The other programs, run on a file that was written for them: their own loader, their own network.

`answers` runs this very file as a script in a process of its own, so that whatever a framework prints, downloads,
sets or takes is gone with it. As a script it imports nothing of this project: another environment's Python,
such as the one that TF-Slim needs, can run it too.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

Answers = dict[str, np.ndarray]  # NCHW; Logits and AuxLogits, or the last map of a network without heads
Settings = Mapping[str, Any]


class CannotRunError(Exception):
    """The framework is not installed, or refuses the file. `missing` tells which of the two."""

    def __init__(self, message: str, *, missing: bool) -> None:
        super().__init__(message)
        self.missing = missing


def answers(
    format: str, path: Path, images: np.ndarray, settings: Settings, python: str | Path = sys.executable
) -> tuple[str, Answers]:
    """The program that a format belongs to, with its version, and what it computes from `path`.

    `images` are float32, (N, 3, H, W), in [-1, 1]; `settings` are those of the model that was written, since most
    files do not tell them. `python` is the interpreter that has the framework. Raises CannotRunError.
    """
    with TemporaryDirectory() as folder:
        place = Path(folder)
        np.save(place / "images.npy", images)
        environment = os.environ | {
            "PYTHONSAFEPATH": "1",  # the script's folder holds modules with common names, such as `data`
            "CUDA_VISIBLE_DEVICES": "-1",
            "KERAS_HOME": folder,  # neither the user's configuration nor a new one
            "KERAS_TORCH_DEVICE": "cpu",
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "HF_HUB_OFFLINE": "1",
        }
        command = [str(python), __file__, format, str(path.absolute()), json.dumps(dict(settings))]
        try:
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True)
        except OSError as error:
            raise CannotRunError(f"{python} cannot be run ({error.strerror or error})", missing=False) from error
        try:
            told = json.loads((place / "told.json").read_text())
        except (OSError, ValueError) as error:  # killed, say for the memory it took; or no NumPy there
            *_, last = ["", *done.stderr.decode(errors="replace").split("\n")[:-1]]
            raise CannotRunError(f"exit status {done.returncode} {last[:200]}".strip(), missing=False) from error
        if "program" not in told:
            raise CannotRunError(told["problem"], missing=told["missing"])
        with np.load(place / "answers.npz") as found:
            return told["program"], dict(found)


# --------------------------------------------------------------------------------- in the other process, by format


def run_torchvision(path: str, images: np.ndarray, settings: Settings) -> Answers:
    """`transform_input` is for images scaled by ImageNet's mean and deviation; these are in [-1, 1] already."""
    import torch
    import torchvision

    network = torchvision.models.inception_v3(
        weights=None,
        init_weights=False,
        transform_input=False,
        num_classes=settings["num_classes"],
        aux_logits=settings["create_aux_logits"],
    )
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True), strict=True)
    return _run_torch(network, images, settings["create_aux_logits"])


def run_timm(path: str, images: np.ndarray, settings: Settings) -> Answers:
    timm = import_module("timm")
    options = {"num_classes": settings["num_classes"], "aux_logits": settings["create_aux_logits"]}
    network = timm.create_model("inception_v3", pretrained=False, **options)
    timm.models.load_checkpoint(network, path, strict=True)
    return _run_torch(network, images, settings["create_aux_logits"])


def run_pytorch_fid(path: str, images: np.ndarray, settings: Settings) -> Answers:
    """Its own function builds and loads; the file takes the place of the download."""
    import torch

    inception: Any = import_module("pytorch_fid.inception")

    def load(*_: object, **__: object) -> Any:
        return torch.load(path, map_location="cpu", weights_only=True)

    inception.load_state_dict_from_url = load
    return _run_torch(inception.fid_inception_v3(), images, aux=False)


def _run_torch(network: Any, images: np.ndarray, aux: bool) -> Answers:
    """With the auxiliary logits, which torchvision's and timm's networks give in training alone."""
    import torch

    network.eval()
    network.training = aux  # of the whole; dropout and BatchNorm inside stay in inference
    with torch.inference_mode():
        found = network(torch.from_numpy(images))
    heads = found if aux else (found,)
    return {name: head.numpy() for name, head in zip(("Logits", "AuxLogits"), heads, strict=False)}


def run_keras(path: str, images: np.ndarray, settings: Settings) -> Answers:
    os.environ["KERAS_BACKEND"] = "torch" if find_spec("torch") else "tensorflow"
    applications: Any = import_module("keras.applications")  # which Keras 2 does not import by itself
    last = settings["final_endpoint"]
    options = {} if last else {"classes": settings["num_classes"], "classifier_activation": None}
    network = applications.InceptionV3(
        weights=None, include_top=not last, input_shape=(*images.shape[2:], 3), **options
    )
    network.load_weights(path)
    found = network.predict(images.transpose(0, 2, 3, 1), verbose=0)
    return {last: found.transpose(0, 3, 1, 2)} if last else {"Logits": found}


def run_tf_slim(path: str, images: np.ndarray, settings: Settings) -> Answers:
    tf, slim = import_module("tensorflow.compat.v1"), import_module("tf_slim.nets.inception_v3")
    arg_scope = import_module("tf_slim.ops.arg_scope").arg_scope
    tf.disable_eager_execution()
    names = ("num_classes", "depth_multiplier", "min_depth", "create_aux_logits")
    with arg_scope(slim.inception_v3_arg_scope()):
        _, end_points = slim.inception_v3(
            tf.constant(images.transpose(0, 2, 3, 1)),
            is_training=False,
            spatial_squeeze=False,
            **{name: settings[name] for name in names},
        )
    with tf.Session() as session:
        tf.train.Saver().restore(session, path)
        found = session.run(end_points)
    return {name: value.transpose(0, 3, 1, 2) for name, value in found.items()}


# How to run each format's program, and what its distribution is called.
PEERS: dict[str, tuple[Callable[[str, np.ndarray, Settings], Answers], str]] = {
    "torchvision": (run_torchvision, "torchvision"),
    "timm": (run_timm, "timm"),
    "fid-2015": (run_pytorch_fid, "pytorch-fid"),
    "keras": (run_keras, "keras"),
    "tf-slim": (run_tf_slim, "tf-slim"),
}


def main() -> None:
    """FORMAT FILE SETTINGS: images.npy of the current folder to answers.npz, and what happened to told.json."""
    format, path, settings = sys.argv[1:]
    run, program = PEERS[format]
    try:
        found = run(path, np.load("images.npy"), json.loads(settings))
        np.savez("answers.npz", **found)  # type: ignore[arg-type]
        with suppress(PackageNotFoundError):  # a nightly build has another name
            program = f"{program} {version(program)}"
        told: dict[str, Any] = {"program": program}
    except Exception as error:  # whatever another program may raise
        first_line = str(error).strip().partition("\n")[0][:200]
        missing = isinstance(error, ImportError)
        told = {"problem": first_line if missing else f"{type(error).__name__}: {first_line}", "missing": missing}
    Path("told.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
