"""Scores of generated images: FID, KID, Inception Score and others, each equal to its reference implementation.

>>> from inception_v3.fidelity import FrechetInceptionDistance, fidelity
>>> fidelity("generated/", "real/", weights="pt_inception-2015-12-05.pth").scores["fid"]

Names are imported when they are first used. The metrics need torchmetrics.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inception_v3.fidelity.frechet import frechet_distance
    from inception_v3.fidelity.metrics import (
        DensityCoverage,
        FrechetInceptionDistance,
        FrechetInceptionDistanceInfinity,
        InceptionScore,
        KernelInceptionDistance,
        MemorisationDistance,
        PrecisionRecall,
        SpatialFrechetInceptionDistance,
    )
    from inception_v3.fidelity.run import fidelity
    from inception_v3.fidelity.statistics import Moments

__all__ = [
    "DensityCoverage",
    "FrechetInceptionDistance",
    "FrechetInceptionDistanceInfinity",
    "InceptionScore",
    "KernelInceptionDistance",
    "MemorisationDistance",
    "Moments",
    "PrecisionRecall",
    "SpatialFrechetInceptionDistance",
    "fidelity",
    "frechet_distance",
]
_MODULES = {"Moments": "statistics", "fidelity": "run", "frechet_distance": "frechet"}  # all others are in metrics.py


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'inception_v3.fidelity' has no attribute {name!r}")
    return getattr(import_module(f"inception_v3.fidelity.{_MODULES.get(name, 'metrics')}"), name)
