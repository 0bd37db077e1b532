"""The conventions of clean-fid's three modes."""

from dataclasses import replace

from inception_v3.fidelity.conventions.base import Convention, KidSampling
from inception_v3.fidelity.conventions.resize import half_pixel_bilinear, pillow_bicubic, tensorflow_bilinear

# KID as in fid.py, kernel_distance: drawn from NumPy's global state, with subsets no larger than the smaller set.
CLEAN = Convention("clean-fid", pillow_bicubic, kid=KidSampling(reference_first=True))
LEGACY_PYTORCH = replace(CLEAN, name="clean-fid:legacy-pytorch", resize=half_pixel_bilinear)
LEGACY_TENSORFLOW = replace(CLEAN, name="clean-fid:legacy-tensorflow", resize=tensorflow_bilinear)
