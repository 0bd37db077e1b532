"""Conventions: how each program prepares images and draws samples, so that its scores can be reproduced.

All of them decode images in the same manner (`stored_image.decode_image`). They differ in the resize to 299x299 and in
the scale of the pixels, and therefore in every score. To add one, list it in CONVENTIONS.
"""

from dataclasses import replace

from inception_v3.fidelity.conventions.base import Convention as Convention
from inception_v3.fidelity.conventions.base import InceptionScoreSplits, KidSampling
from inception_v3.fidelity.conventions.resize import half_pixel_bilinear, pillow_bicubic, tensorflow_bilinear
from inception_v3.support.text import choose

# KID of clean-fid as in its fid.py, kernel_distance: drawn from NumPy's global state, with subsets no larger than the
# smaller set.
CLEAN = Convention("clean-fid", pillow_bicubic, kid=KidSampling(reference_first=True))
CONVENTIONS = {
    convention.name: convention
    for convention in (
        CLEAN,
        replace(CLEAN, name="clean-fid:legacy-pytorch", resize=half_pixel_bilinear),
        replace(CLEAN, name="clean-fid:legacy-tensorflow", resize=tensorflow_bilinear),
        Convention("pytorch-fid", half_pixel_bilinear),
        Convention("torch-fidelity", tensorflow_bilinear, "eigvals", kid=KidSampling(shrinks=False)),
        Convention("tensorflow", tensorflow_bilinear),  # the original implementation of FID
        Convention(  # OpenAI's evaluator for ADM: guided-diffusion, evaluator.py
            "adm",
            tensorflow_bilinear,
            spatial_trace_method="sqrtm",
            prefer_statistics=True,
            inception_score=InceptionScoreSplits(images=5000, seed=None),
        ),
    )
}
PROGRAMS = tuple(name for name in CONVENTIONS if ":" not in name)
MODES = ("clean", *(name.partition(":")[2] for name in CONVENTIONS if ":" in name))  # of clean-fid
# clean-fid's resize, with the exact distance instead of scipy's.
DEFAULT = replace(CLEAN, name="inception-v3", trace_method=None)


def find_convention(like: str | None = None, mode: str | None = None) -> Convention:
    """The convention with the name `like`; by default DEFAULT.

    `mode` is one of MODES, with or without `like="clean-fid"`. `like` may also contain it after a colon, as in
    "clean-fid:legacy-pytorch". Raises InputError, which lists the known names, for an unknown convention.
    """
    if like is None and mode is None:
        return DEFAULT
    name = ":".join(part for part in (like or "clean-fid", mode) if part).lower()
    name = name.replace("_", "-").replace("clean-fid-", "clean-fid:")
    return CONVENTIONS[choose("--like", "clean-fid" if name == "clean-fid:clean" else name, CONVENTIONS)]


def same_features(name: str, convention: Convention) -> bool:
    """Whether the convention of this name computes the same features: it has the same resize and scale."""
    known = CONVENTIONS | {DEFAULT.name: DEFAULT}
    return name == convention.name or (name in known and known[name].pixels == convention.pixels)
