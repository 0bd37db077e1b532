"""How each program turns pictures into what the network reads, and how it draws samples: data and small functions.

All decode alike, `Image.open(path).convert("RGB")`: not turned by EXIF, transparency dropped. They differ in
the resize to 299x299 and in the scale, and so in every score. A resize takes uint8 (N, 3, H, W) to float32
(N, 3, 299, 299) as the network reads it, near [-1, 1].
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from inception_v3.errors import InputError
from inception_v3.fidelity.frechet import Reference

SIZE = 299
Resize = Callable[[Tensor], Tensor]


def pillow_bicubic(images: Tensor) -> Tensor:
    """clean-fid's "clean" (resize.py): each channel as floats, antialiased, clipped, never rounded."""
    resized = np.empty((*images.shape[:2], SIZE, SIZE), np.float32)
    for image, target in zip(images.cpu().numpy(), resized, strict=True):
        for channel, place in zip(image, target, strict=True):
            floats = Image.fromarray(channel.astype(np.float32))
            place[:] = floats.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    return torch.from_numpy(resized.clip(0, 255) / 128 - 1).to(images.device)


def half_pixel_bilinear(images: Tensor) -> Tensor:
    """pytorch-fid (inception.py) and clean-fid's "legacy_pytorch": no antialiasing, on pixels in [0, 1]."""
    return F.interpolate(images / 255, (SIZE, SIZE), mode="bilinear", align_corners=False).mul_(2).sub_(1)


def tensorflow_bilinear(images: Tensor) -> Tensor:
    """TensorFlow 1's ResizeBilinear inside the graph of 2015: pixel i is read at i * length / 299, no antialiasing."""
    return _interpolate(_interpolate(images.float(), 3), 2).div_(128).sub_(1)


def _interpolate(images: Tensor, axis: int) -> Tensor:
    length = images.shape[axis]
    scale = torch.tensor(length / SIZE, dtype=torch.float32, device=images.device)
    places = torch.arange(SIZE, dtype=torch.float32, device=images.device) * scale
    low = places.long()
    share = (places - low).view(-1, *[1] * (3 - axis))
    before, after = images.index_select(axis, low), images.index_select(axis, (low + 1).clamp_max(length - 1))
    return before + (after - before) * share


@dataclass(frozen=True)
class KidSampling:
    """The subsets of KID: how many, how large, drawn from RandomState(seed), which set first."""

    subsets: int = 100
    size: int = 1000
    seed: int = 2020
    reference_first: bool = False
    shrinks: bool = True  # to the smaller set; else that is an error


@dataclass(frozen=True)
class InceptionScoreSplits:
    """The parts of the Inception Score: their number, or the images in each; shuffled by RandomState(seed) or not."""

    splits: int = 10
    images: int | None = None
    seed: int | None = 2020


@dataclass(frozen=True)
class Convention:
    """What `--like NAME` stands for. `reference` is how its Frechet distance behaves where it is singular."""

    name: str
    resize: Resize
    reference: Reference | None = "sqrtm"
    kid: KidSampling = KidSampling()
    inception_score: InceptionScoreSplits = InceptionScoreSplits()

    @property
    def pixels(self) -> str:
        """What the network reads is the same in all conventions where this is."""
        return self.resize.__name__


# clean-fid draws from NumPy's global state, second set first, and takes what is there (fid.py, kernel_distance).
_CLEAN_FID_KID = KidSampling(reference_first=True)
CONVENTIONS = {
    convention.name: convention
    for convention in (
        Convention("clean-fid", pillow_bicubic, kid=_CLEAN_FID_KID),
        Convention("clean-fid:legacy-pytorch", half_pixel_bilinear, kid=_CLEAN_FID_KID),
        Convention("clean-fid:legacy-tensorflow", tensorflow_bilinear, kid=_CLEAN_FID_KID),
        Convention("pytorch-fid", half_pixel_bilinear),
        Convention("torch-fidelity", tensorflow_bilinear, "eigvals", KidSampling(shrinks=False)),
        Convention("tensorflow", tensorflow_bilinear),
        # OpenAI's evaluator.py: parts of 5000 images in the order of the file
        Convention("adm", tensorflow_bilinear, inception_score=InceptionScoreSplits(images=5000, seed=None)),
    )
}
# clean-fid's pictures, but the exact distance.
DEFAULT = replace(CONVENTIONS["clean-fid"], reference=None)


def find_convention(like: str | None = None, mode: str | None = None) -> Convention:
    """The convention of that name; without one, the default. Raises InputError, listing them.

    `mode` is clean-fid's: clean, legacy-pytorch or legacy-tensorflow; it may also follow the name and a colon.
    """
    if like is None and mode is None:
        return DEFAULT
    name = ":".join(part for part in (like or "clean-fid", mode) if part).lower().replace("_", "-")
    name = name.replace("clean-fid-", "clean-fid:")
    name = "clean-fid" if name == "clean-fid:clean" else name
    if name not in CONVENTIONS:
        raise InputError(f"--like {name}: no such convention; there are {', '.join(CONVENTIONS)}", exit_status=2)
    return CONVENTIONS[name]
