"""Inception V3 as TF-Slim published it, complete and exact, on PyTorch.

>>> import inception_v3
>>> model = inception_v3.load("runs/digits")
>>> logits, end_points = model(model.preprocess(inception_v3.open_image("seven.png")))

Names load when they are first touched (PEP 562): `import inception_v3` alone does not import PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inception_v3.checkpoint import load as load
    from inception_v3.checkpoint import save as save
    from inception_v3.errors import InputError as InputError
    from inception_v3.images import open_image as open_image
    from inception_v3.network import InceptionV3 as InceptionV3
    from inception_v3.predict import Predictor as Predictor
    from inception_v3.preprocessing import Preprocessing as Preprocessing

__version__ = "0.1.0"

_HOMES = {
    "InceptionV3": "network",
    "InputError": "errors",
    "Predictor": "predict",
    "Preprocessing": "preprocessing",
    "load": "checkpoint",
    "open_image": "images",
    "save": "checkpoint",
}
__all__ = ["InceptionV3", "InputError", "Predictor", "Preprocessing", "load", "open_image", "save"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'inception_v3' has no attribute {name!r}")
    return getattr(import_module(f"inception_v3.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
