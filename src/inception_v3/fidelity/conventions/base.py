"""The class `Convention`, and the classes that describe how it samples images."""

from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import TYPE_CHECKING

from inception_v3.fidelity.conventions.resize import DESCRIPTIONS
from inception_v3.fidelity.frechet import TraceMethod
from inception_v3.fidelity.neighbours import DENSITY_K, PRECISION_K
from inception_v3.support.text import count_of

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

    def subset_size(self, images: int) -> int:
        """The number of images in each subset, if the smaller set has this many images."""
        return min(self.size, images) if self.shrinks else self.size

    def __str__(self) -> str:
        size = f"{'at most ' * self.shrinks}{count_of(self.size, 'image')}"
        first = "reference" if self.reference_first else "generated"
        return f"KID of {count_of(self.subsets, 'subset')} of {size} ({first} images drawn first)"


@dataclass(frozen=True)
class InceptionScoreSplits:
    """How the Inception Score splits the images: into `splits` parts, or into parts of `images` images each.

    They are shuffled by RandomState(`seed`), or kept in order if it is None.
    """

    splits: int = 10
    images: int | None = None
    seed: int | None = 2020

    def count_parts(self, images: int) -> int:
        """The number of parts that this many images are split into."""
        return self.splits if self.images is None else -(-images // self.images)

    def __str__(self) -> str:
        parts = count_of(self.splits, "part") if self.images is None else f"parts of {count_of(self.images, 'image')}"
        return f"Inception Score of {parts} ({'in order' if self.seed is None else 'shuffled'})"


# In words, by TraceMethod: how the trace of the Fréchet distance is computed.
_DISTANCES = {
    None: "the exact distance",
    "sqrtm": "the distance by scipy's sqrtm",
    "eigvals": "the distance by numpy.linalg.eigvals",
}


@dataclass(frozen=True)
class Convention:
    """How one program prepares images and computes scores. `--like NAME` selects it.

    Attributes:
        resize: uint8 images (N, 3, H, W) to the network's input, float32 (N, 3, 299, 299) near [-1, 1].
        trace_method: how the program computes the trace in FID, whose rounding is visible if covariances are singular;
            None for the exact distance.
        spatial_trace_method: the same for sFID, which only ADM's evaluator has.
        prefer_statistics: if an .npz file holds statistics and images, FID uses the statistics.
        changes: the options that replaced values of this convention, such as "--seed 5", or "".
    """

    name: str
    resize: "Callable[[Tensor], Tensor]"
    trace_method: TraceMethod | None = "sqrtm"
    spatial_trace_method: TraceMethod | None = None
    prefer_statistics: bool = False
    kid: KidSampling = KidSampling()
    inception_score: InceptionScoreSplits = InceptionScoreSplits()
    changes: str = ""

    @property
    def pixels(self) -> str:
        """The name of the resize, and part of the names of feature caches. Equal names mean equal network inputs."""
        return self.resize.__name__

    @property
    def label(self) -> str:
        """The name, and the options that changed the convention. Different conventions have different labels."""
        return f"{self.name} with {self.changes}" if self.changes else self.name

    @property
    def preprocessing(self) -> str:
        """How images become the network's input, in words. Features, and so statistics, depend on nothing else."""
        return f"images decoded by Pillow, {DESCRIPTIONS.get(self.pixels, self.pixels)}"

    def describe(self, keys: Container[str]) -> str:
        """All that the scores with these keys (of `FidelityResult.scores`) depend on, apart from the network."""
        parts = {
            "fid": f"FID with {_DISTANCES[self.trace_method]}",
            "sfid": f"sFID with {_DISTANCES[self.spatial_trace_method]}",
            "kid_mean": str(self.kid),
            "is_mean": str(self.inception_score),
            "precision": f"Precision and Recall with k = {PRECISION_K}",
            "density": f"Density and Coverage with k = {DENSITY_K}",
        }
        return "; ".join([self.preprocessing, *(text for key, text in parts.items() if key in keys)])

    def seed(self, keys: Container[str]) -> int | None:
        """The seed that the scores with these keys depend on; None if they depend on none."""
        if "kid_mean" in keys or "fid_infinity" in keys:
            return self.kid.seed
        return self.inception_score.seed if "is_mean" in keys else None
