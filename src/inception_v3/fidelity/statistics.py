"""Mean and covariance of any number of features in constant memory, in float64, and the files that keep them."""

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inception_v3.errors import InputError
from inception_v3.fidelity.frechet import Array, Gaussian
from inception_v3.fidelity.rows import Rows
from inception_v3.fidelity.sources import DAMAGE, header
from inception_v3.support.files import atomic_write
from inception_v3.support.text import printable

ROWS = 2048  # features that are added at once: float64 copies of them are held
MAX_WIDTH = 16384  # of saved statistics: half a GiB in float32 is no mistake, more is


@dataclass(frozen=True)
class Moments:
    """Count, mean (D,) and scatter (D, D), the sum of (x - mean)(x - mean)ᵀ, in float64.

    Parts merge to what all features at once would have given, whatever their sizes and order, up to the
    rounding of float64 (Chan, Golub and LeVeque 1979).
    """

    count: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def empty(cls, width: int, device: str | torch.device = "cpu") -> "Moments":
        zeros = torch.zeros(width, width, dtype=torch.float64, device=device)
        return cls(0, zeros[0].clone(), zeros)

    def add(self, features: Tensor) -> "Moments":
        """With the rows of `features`, (N, D), too."""
        total = self
        for start in range(0, len(features), ROWS):
            rows = features[start : start + ROWS].to(total.mean.device, torch.float64)
            mean = rows.mean(0)
            centred = rows - mean
            total = total.merge(Moments(len(rows), mean, centred.T @ centred))
        return total

    def merge(self, other: "Moments") -> "Moments":
        """Of both sets together."""
        if not self.count or not other.count:
            return self if self.count else other
        count = self.count + other.count
        shift = other.mean - self.mean
        mean = self.mean + shift * (other.count / count)
        between = torch.outer(shift, shift) * (self.count * other.count / count)
        return Moments(count, mean, self.scatter + other.scatter + between)

    def pack(self) -> Tensor:
        """All in one tensor, (D + 1, D + 1): what a process sends to the others."""
        packed = self.mean.new_zeros(len(self.mean) + 1, len(self.mean) + 1)
        packed[0, 0], packed[0, 1:], packed[1:, 1:] = self.count, self.mean, self.scatter
        return packed

    @classmethod
    def unpack(cls, packed: Tensor) -> "Moments":
        return cls(int(packed[0, 0]), packed[0, 1:], packed[1:, 1:])

    def gaussian(self) -> Gaussian:
        """Its mean and covariance, N - 1 in the denominator; at least two features must have come."""
        if self.count < 2:
            raise ValueError(f"{self.count} features have no covariance; give two or more")
        covariance = (self.scatter / (self.count - 1)).cpu().numpy()
        return Gaussian(self.mean.cpu().numpy(), full=covariance)


def gaussian(features: NDArray[np.float32] | Rows, rows: NDArray[np.intp] | None = None) -> Gaussian:
    """That of `features`, (N, D), or of some of its rows; on disk or in memory, in constant memory."""
    chosen = np.arange(len(features)) if rows is None else rows
    if len(chosen) <= features.shape[1]:
        return Gaussian.of(features[chosen])
    moments = Moments.empty(features.shape[1])
    for start in range(0, len(chosen), ROWS):
        moments = moments.add(torch.from_numpy(features[chosen[start : start + ROWS]]))
    return moments.gaussian()


@dataclass(frozen=True)
class Statistics:
    """What one set of images is to the Frechet distance, and how it came to be; None where a file does not say.

    `pooled` is over the 2048 features of FID, `spatial` over the 2023 of sFID. `weights` is the checksum of the
    network, `dtype` its precision. `sizes` are the images of each "width x height", `formats` those of each kind of
    file, `gray` those without colour.
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
        """As .npz, whose mu and sigma pytorch-fid and clean-fid read too, and mu_s and sigma_s ADM's evaluator.

        Raises InputError: a full disk, a place that cannot be written.
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
    """Saved here, or by pytorch-fid, clean-fid or ADM's evaluator, which do not say how.

    Raises InputError, naming the file: damaged, of wrong shapes, or with values that are no finite numbers.
    """
    name = printable(path)
    try:
        with zipfile.ZipFile(path) as archive:
            shapes = dict(_shapes(archive, name))
        for mean, covariance in (("mu", "sigma"), ("mu_s", "sigma_s")):
            _check_shapes(name, shapes, mean, covariance, optional=mean == "mu_s")
        with np.load(path, allow_pickle=False) as file:
            spatial = _gaussian(name, file["mu_s"], file["sigma_s"]) if "mu_s" in shapes else None
            told: dict[str, Any] = {
                key: file[key].item() for key in ("convention", "weights", "dtype") if shapes.get(key) == ()
            }
            told |= {key: int(file[key]) for key in ("count", "gray") if shapes.get(key) == ()}
            for kind in ("size", "format"):
                if f"{kind}s" in shapes and shapes[f"{kind}s"] == shapes.get(f"images_of_{kind}"):
                    counts = file[f"images_of_{kind}"].tolist()
                    told[f"{kind}s"] = dict(zip(file[f"{kind}s"].tolist(), counts, strict=True))
            return Statistics(_gaussian(name, file["mu"], file["sigma"]), spatial, **told)
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror or error}); check the path") from error
    except (*DAMAGE, ValueError, TypeError) as error:
        detail = printable(error)
        raise InputError(f"{name}: damaged or cut short ({detail}); save the statistics again") from error


def _shapes(archive: zipfile.ZipFile, name: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    for entry in archive.namelist():
        if entry.endswith(".npy"):
            with archive.open(entry) as file:
                yield entry.removesuffix(".npy"), header(file, name)[0]


def _check_shapes(name: str, shapes: dict[str, tuple[int, ...]], mean: str, covariance: str, optional: bool) -> None:
    if optional and mean not in shapes and covariance not in shapes:
        return
    if mean not in shapes or covariance not in shapes:
        raise InputError(f"{name}: statistics without {mean if mean not in shapes else covariance}; save them again")
    (width, *rest), square = shapes[mean] or (0,), shapes[covariance]
    if rest or square != (width, width) or not 0 < width <= MAX_WIDTH:
        wrong = f"{mean} of shape {shapes[mean]} and {covariance} of shape {square}"
        raise InputError(f"{name}: {wrong} are no mean and covariance; save the statistics again")


def _gaussian(name: str, mean: Array, covariance: Array) -> Gaussian:
    for array in (mean, covariance):
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            raise InputError(f"{name}: holds values that are no finite numbers; compute the statistics again")
    mean, covariance = mean.astype(np.float64), covariance.astype(np.float64)
    largest = float(np.abs(covariance).max())
    if np.abs(covariance - covariance.T).max() > 1e-4 * largest or (np.diagonal(covariance) < -1e-9 * largest).any():
        raise InputError(f"{name}: its covariance is not symmetric or has negative variances; save it again")
    return Gaussian(mean, full=(covariance + covariance.T) / 2)
