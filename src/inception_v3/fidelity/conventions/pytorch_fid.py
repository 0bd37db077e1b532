"""The convention of pytorch-fid."""

from inception_v3.fidelity.conventions.base import Convention
from inception_v3.fidelity.conventions.resize import half_pixel_bilinear

PYTORCH_FID = Convention("pytorch-fid", half_pixel_bilinear)
