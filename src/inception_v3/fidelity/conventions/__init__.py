"""Conventions: how each program prepares images and draws samples, so that its scores can be reproduced.

All of them decode images in the same manner (`stored_image.decode_image`). They differ in the resize to 299x299 and in
the scale of the pixels, and therefore in every score. To add one, write a file with a `Convention` and list it here.
"""

from dataclasses import replace

from inception_v3.fidelity.conventions import adm, clean_fid, pytorch_fid, tensorflow, torch_fidelity
from inception_v3.fidelity.conventions.base import Convention as Convention
from inception_v3.support.text import choose

CONVENTIONS = {
    convention.name: convention
    for convention in (
        clean_fid.CLEAN,
        clean_fid.LEGACY_PYTORCH,
        clean_fid.LEGACY_TENSORFLOW,
        pytorch_fid.PYTORCH_FID,
        torch_fidelity.TORCH_FIDELITY,
        tensorflow.TENSORFLOW,
        adm.ADM,
    )
}
PROGRAMS = tuple(name for name in CONVENTIONS if ":" not in name)
MODES = ("clean", *(name.partition(":")[2] for name in CONVENTIONS if ":" in name))  # of clean-fid
# clean-fid's resize, with the exact distance instead of scipy's.
DEFAULT = replace(clean_fid.CLEAN, trace_method=None)


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
