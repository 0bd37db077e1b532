"""The convention of OpenAI's evaluator for ADM (guided-diffusion, evaluator.py)."""

from inception_v3.fidelity.conventions.base import Convention, InceptionScoreSplits
from inception_v3.fidelity.conventions.resize import tensorflow_bilinear

ADM = Convention(
    "adm",
    tensorflow_bilinear,
    spatial_trace_method="sqrtm",
    prefer_statistics=True,
    inception_score=InceptionScoreSplits(images=5000, seed=None),
)
