"""Scores of generated images: FID, KID, Inception Score and the rest, each equal to its reference.

>>> from inception_v3.fidelity import FrechetInceptionDistance, fidelity
>>> fidelity("generated/", "real/", weights="pt_inception-2015-12-05.pth").scores["fid"]

Names load when they are first touched; the Metrics need torchmetrics.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inception_v3.fidelity.frechet import frechet_distance as frechet_distance
    from inception_v3.fidelity.metrics import DensityCoverage as DensityCoverage
    from inception_v3.fidelity.metrics import FrechetInceptionDistance as FrechetInceptionDistance
    from inception_v3.fidelity.metrics import InceptionScore as InceptionScore
    from inception_v3.fidelity.metrics import KernelInceptionDistance as KernelInceptionDistance
    from inception_v3.fidelity.metrics import PrecisionRecall as PrecisionRecall
    from inception_v3.fidelity.metrics import SpatialFrechetInceptionDistance as SpatialFrechetInceptionDistance
    from inception_v3.fidelity.run import fidelity as fidelity
    from inception_v3.fidelity.statistics import Moments as Moments

_HOMES = {
    "DensityCoverage": "metrics",
    "FrechetInceptionDistance": "metrics",
    "InceptionScore": "metrics",
    "KernelInceptionDistance": "metrics",
    "Moments": "statistics",
    "PrecisionRecall": "metrics",
    "SpatialFrechetInceptionDistance": "metrics",
    "fidelity": "run",
    "frechet_distance": "frechet",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'inception_v3.fidelity' has no attribute {name!r}")
    return getattr(import_module(f"inception_v3.fidelity.{_HOMES[name]}"), name)
