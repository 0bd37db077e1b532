"""The convention of the original FID implementation for TensorFlow."""

from inception_v3.fidelity.conventions.base import Convention
from inception_v3.fidelity.conventions.resize import tensorflow_bilinear

TENSORFLOW = Convention("tensorflow", tensorflow_bilinear)
