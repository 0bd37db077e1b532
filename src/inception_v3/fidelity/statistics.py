"""Mean and covariance of any number of features in constant memory, in float64, and the files that store them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inception_v3.errors import InputError
from inception_v3.fidelity.feature_rows import FeatureRows, row_blocks
from inception_v3.fidelity.frechet import Gaussian
from inception_v3.images.containers import ARCHIVE_ERRORS, read_npz_headers
from inception_v3.support.arguments import Count, checked
from inception_v3.support.files import atomic_write
from inception_v3.support.system_errors import read_error

MAX_WIDTH = 16384  # of saved statistics; a covariance of this width takes 2 GiB in float64


@dataclass(frozen=True)
class Moments:
    """Count, mean (D,) and scatter (D, D), the sum of (x - mean)(x - mean)ᵀ, in float64.

    Parts of any size merge in any order to the moments of all features, up to float64 rounding (Chan, Golub and
    LeVeque 1979).
    """

    count: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    @checked
    def empty(cls, width: Count, device: str | torch.device = "cpu") -> "Moments":
        """The moments of no features, each of which will have `width` numbers."""
        zeros = torch.zeros(width, width, dtype=torch.float64, device=device)
        return cls(0, zeros[0].clone(), zeros)

    def add(self, features: Tensor) -> "Moments":
        """The moments including the rows of `features`, (N, D).

        Raises:
            ValueError: another shape.
        """
        if features.ndim != 2 or features.shape[1] != len(self.mean):
            raise ValueError(f"features must have shape (N, {len(self.mean)}), not {tuple(features.shape)}")
        total = self
        for block in row_blocks(len(features)):
            rows = features[block].to(total.mean.device, torch.float64)
            mean = rows.mean(0)
            centred = rows - mean
            total = total.merge(Moments(len(rows), mean, centred.T @ centred))
        return total

    def merge(self, other: "Moments") -> "Moments":
        """The moments of both sets together."""
        if not self.count or not other.count:
            return self if self.count else other
        count = self.count + other.count
        shift = other.mean - self.mean
        mean = self.mean + shift * (other.count / count)
        between = torch.outer(shift, shift) * (self.count * other.count / count)
        return Moments(count, mean, self.scatter + other.scatter + between)

    def pack(self) -> Tensor:
        """All values in one tensor, (D + 1, D + 1), to be sent to other processes."""
        packed = self.mean.new_zeros(len(self.mean) + 1, len(self.mean) + 1)
        packed[0, 0], packed[0, 1:], packed[1:, 1:] = self.count, self.mean, self.scatter
        return packed

    @classmethod
    def unpack(cls, packed: Tensor) -> "Moments":
        """The moments that `pack` wrote into one tensor."""
        return cls(int(packed[0, 0]), packed[0, 1:], packed[1:, 1:])

    def gaussian(self) -> Gaussian:
        """The distribution, with N - 1 as denominator.

        Raises:
            ValueError: fewer than two features.
        """
        if self.count < 2:
            raise ValueError(f"{self.count} features have no covariance; give two or more")
        return Gaussian(self.mean.cpu().numpy(), (self.scatter / (self.count - 1)).cpu().numpy())


def gaussian(features: NDArray[np.float32] | FeatureRows, rows: NDArray[np.intp] | None = None) -> Gaussian:
    """The distribution of features (N, D) or of some of their rows, computed in constant memory."""
    chosen = np.arange(len(features)) if rows is None else rows
    if len(chosen) <= features.shape[1]:
        return Gaussian.from_features(features[chosen])
    moments = Moments.empty(features.shape[1])
    for block in row_blocks(len(chosen)):
        moments = moments.add(torch.from_numpy(features[chosen[block]]))
    return moments.gaussian()


@dataclass(frozen=True)
class Statistics:
    """The distributions of a set's features, and how they were computed. Unknown fields are None or empty.

    `pooled` is over the 2048 features of FID, `spatial` over the 2023 of sFID. `weights` is the checksum of the
    network, `dtype` its precision. `sizes` maps "WIDTHxHEIGHT" to a number of images, `formats` does so for file
    formats, and `gray` is the number of images without colour.
    """

    pooled: Gaussian
    spatial: Gaussian | None = None
    count: int | None = None
    convention: str | None = None
    weights: str | None = None
    dtype: str | None = None
    sizes: dict[str, int] = field(default_factory=dict)
    formats: dict[str, int] = field(default_factory=dict)
    gray: int | None = None

    def save(self, path: str | Path) -> None:
        """Save as .npz. pytorch-fid and clean-fid read its mu and sigma, ADM's evaluator its mu_s and sigma_s.

        Raises InputError: the disk is full, or the folder cannot be written.
        """
        arrays: dict[str, NDArray[np.generic]] = {"mu": self.pooled.mean, "sigma": self.pooled.covariance}
        if self.spatial is not None:
            arrays |= {"mu_s": self.spatial.mean, "sigma_s": self.spatial.covariance}
        for name in ("count", "convention", "weights", "dtype", "gray"):
            if (value := getattr(self, name)) is not None:
                arrays[name] = np.array(value)
        for name, counts in (("size", self.sizes), ("format", self.formats)):
            arrays[f"{name}s"] = np.array(list(counts), str)
            arrays[f"images_of_{name}"] = np.array(list(counts.values()), np.int64)
        with atomic_write(Path(path)) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)


def load_statistics(path: str | Path) -> Statistics:
    """Load statistics saved by this package, pytorch-fid, clean-fid or ADM's evaluator.

    Files of other programs do not record how they were computed. Raises InputError, with the name of the file:
    damaged, wrong shapes, or values that are not finite.
    """
    name = str(path)
    try:
        shapes = {key: shape for key, (shape, _) in read_npz_headers(Path(path), name).items()}
        with np.load(path, allow_pickle=False) as file:
            pooled = _read_gaussian(name, file, shapes, "mu", "sigma")
            has_spatial = "mu_s" in shapes or "sigma_s" in shapes
            spatial = _read_gaussian(name, file, shapes, "mu_s", "sigma_s") if has_spatial else None
            return Statistics(pooled, spatial, **_read_facts(file, shapes))
    except OSError as error:
        raise read_error(path, error) from error
    except (*ARCHIVE_ERRORS, ValueError, TypeError) as error:
        raise InputError(f"{name}: damaged or truncated ({error}); save the statistics again") from error


def _read_facts(file: Any, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """Read the optional fields of Statistics that have the expected shape."""
    scalars = ("convention", "weights", "dtype", "count", "gray")
    facts: dict[str, Any] = {key: file[key].item() for key in scalars if shapes.get(key) == ()}
    for name in ("size", "format"):
        if f"{name}s" in shapes and shapes[f"{name}s"] == shapes.get(f"images_of_{name}"):
            counts = file[f"images_of_{name}"].tolist()
            facts[f"{name}s"] = dict(zip(file[f"{name}s"].tolist(), counts, strict=True))
    return facts


def _read_gaussian(
    name: str, file: Any, shapes: dict[str, tuple[int, ...]], mean_key: str, covariance_key: str
) -> Gaussian:
    """Read a mean (D,) and a covariance (D, D). Their shapes are checked before memory is allocated."""
    for key in (mean_key, covariance_key):
        if key not in shapes:
            raise InputError(f"{name}: statistics without {key}; save the statistics again")
    (width, *rest), square = shapes[mean_key] or (0,), shapes[covariance_key]
    if rest or square != (width, width) or not 0 < width <= MAX_WIDTH:
        raise InputError(
            f"{name}: {mean_key} of shape {shapes[mean_key]} and {covariance_key} of shape {square} are not a mean and "
            "a covariance; save the statistics again"
        )
    mean, covariance = file[mean_key], file[covariance_key]
    for array in (mean, covariance):
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            raise InputError(f"{name}: holds values that are not finite numbers; compute the statistics again")
    mean, covariance = mean.astype(np.float64), covariance.astype(np.float64)
    largest = float(np.abs(covariance).max())
    if np.abs(covariance - covariance.T).max() > 1e-4 * largest or (np.diagonal(covariance) < -1e-9 * largest).any():
        raise InputError(f"{name}: its covariance is not symmetric or has negative variances; save it again")
    return Gaussian(mean, (covariance + covariance.T) / 2)
