"""The convention of torch-fidelity."""

from inception_v3.fidelity.conventions.base import Convention, KidSampling
from inception_v3.fidelity.conventions.resize import tensorflow_bilinear

TORCH_FIDELITY = Convention("torch-fidelity", tensorflow_bilinear, "eigvals", kid=KidSampling(shrinks=False))
