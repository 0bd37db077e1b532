"""Inception V3 as TF-Slim published it, complete and exact, in PyTorch.

>>> import inception_v3
>>> model = inception_v3.load("runs/digits")
>>> logits, end_points = model(model.preprocess(inception_v3.open_image("seven.png")))

Public names are imported on first use (PEP 562), so `import inception_v3` does not import PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from inception_v3.support.privacy import switch_off_telemetry

if TYPE_CHECKING:
    from inception_v3.errors import InputError as InputError
    from inception_v3.images.decode import open_image as open_image
    from inception_v3.images.preprocessing import Preprocessing as Preprocessing
    from inception_v3.inference.predict import Predictor as Predictor
    from inception_v3.weights.load import load as load
    from inception_v3.weights.load import save as save
    from inception_v3.weights.model import InceptionV3 as InceptionV3

__version__ = "0.1.0"

switch_off_telemetry()  # of every library that this package imports

_MODULES = {  # the module that defines each public name
    "InceptionV3": "weights.model",
    "InputError": "errors",
    "Predictor": "inference.predict",
    "Preprocessing": "images.preprocessing",
    "load": "weights.load",
    "open_image": "images.decode",
    "save": "weights.load",
}
__all__ = ["InceptionV3", "InputError", "Predictor", "Preprocessing", "load", "open_image", "save"]


def __getattr__(name: str) -> Any:
    if name == "explain":  # a folder with names of its own
        return import_module("inception_v3.explain")
    if name not in _MODULES:
        raise AttributeError(f"module 'inception_v3' has no attribute {name!r}")
    try:
        return getattr(import_module(f"inception_v3.{_MODULES[name]}"), name)
    except ModuleNotFoundError as error:
        from inception_v3.support.packages import install_command

        message = f"inception_v3.{name} needs {error.name}; {install_command('torch')}"
        raise ModuleNotFoundError(message, name=error.name) from error


def __dir__() -> list[str]:
    return sorted(__all__)
