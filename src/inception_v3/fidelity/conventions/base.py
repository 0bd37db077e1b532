"""The class `Convention`, and the classes that describe how it samples images."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from inception_v3.fidelity.frechet import TraceMethod

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class KidSampling:
    """How KID draws its subsets: their number and size, and the seed of NumPy's RandomState.

    `reference_first`: indices of the reference set are drawn before those of the generated set. `shrinks`: sets with
    fewer images than `size` get smaller subsets; without `shrinks` such sets have no KID.
    """

    subsets: int = 100
    size: int = 1000
    seed: int = 2020
    reference_first: bool = False
    shrinks: bool = True


@dataclass(frozen=True)
class InceptionScoreSplits:
    """How the Inception Score splits the images: into `splits` parts, or into parts of `images` images each.

    They are shuffled by RandomState(`seed`), or kept in order if it is None.
    """

    splits: int = 10
    images: int | None = None
    seed: int | None = 2020


@dataclass(frozen=True)
class Convention:
    """How one program prepares images and computes scores. `--like NAME` selects it.

    Attributes:
        resize: uint8 images (N, 3, H, W) to the network's input, float32 (N, 3, 299, 299) near [-1, 1].
        trace_method: how the program computes the trace in FID, whose rounding is visible if covariances are singular;
            None for the exact distance.
        spatial_trace_method: the same for sFID, which only ADM's evaluator has.
        prefer_statistics: if an .npz file holds statistics and images, FID uses the statistics.
    """

    name: str
    resize: "Callable[[Tensor], Tensor]"
    trace_method: TraceMethod | None = "sqrtm"
    spatial_trace_method: TraceMethod | None = None
    prefer_statistics: bool = False
    kid: KidSampling = KidSampling()
    inception_score: InceptionScoreSplits = InceptionScoreSplits()

    @property
    def pixels(self) -> str:
        """The name of the resize, and part of the names of feature caches. Equal names mean equal network inputs."""
        return self.resize.__name__
