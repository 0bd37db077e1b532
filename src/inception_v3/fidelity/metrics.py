"""The scores as torchmetrics Metrics, for training loops: update, compute, reset, and sync between processes.

    fid = FrechetInceptionDistance(weights="pt_inception-2015-12-05.pth", reset_real_features=False)
    for images in loader:  # uint8 (N, 3, H, W)
        fid.update(images, real=True)
    ...
    fid.update_from(generator, 10_000)  # generator(32) returns 32 images
    fid.compute()

Memory does not grow with the number of images: means and covariances are merged, and scores that need the features
themselves (KID, nearest neighbours) keep a random sample of at most `max_features` of each set. torchmetrics is
installed by `pip install '.[metrics]'`. Its FeatureShare lets several metrics share one run of the network.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable
from functools import reduce
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from inception_v3.fidelity.conventions import find_convention
from inception_v3.fidelity.conventions.base import KidSampling
from inception_v3.fidelity.extrapolation import extrapolate
from inception_v3.fidelity.frechet import frechet_distance
from inception_v3.fidelity.kernel import kernel_distance
from inception_v3.fidelity.neighbours import DENSITY_K, PRECISION_K, compare_neighbours
from inception_v3.fidelity.network import load_network
from inception_v3.fidelity.options import DEFAULT_WEIGHTS, NetworkPrecision
from inception_v3.fidelity.statistics import Moments, gaussian
from inception_v3.images.tensors import to_uint8
from inception_v3.support.arguments import BatchSize, Count, CountFromTwo, NumPySeed, Range, checked
from inception_v3.weights.model import InceptionV3

FeatureArgument = int | nn.Module
ImageGenerator = Callable[[int], Tensor]


class InceptionFeatureExtractor(nn.Module):
    """Maps uint8 images (N, 3, H, W) to features (N, num_features) by a convention and the network of 2015.

    With `spatial` these are the 2023 features of sFID, otherwise the 2048 of all other scores. The arguments and the
    errors are those of `load_network` and `find_convention`.
    """

    @checked
    def __init__(
        self,
        weights: str | Path | InceptionV3 = DEFAULT_WEIGHTS,
        *,
        like: str | None = None,
        mode: str | None = None,
        spatial: bool = False,
        dtype: NetworkPrecision = "fp32",
        device: str | torch.device = "cpu",
        any_weights: bool = False,
    ) -> None:
        super().__init__()
        self.convention = find_convention(like, mode)
        self.network = load_network(weights, dtype=dtype, device=device, any_weights=any_weights)
        self.spatial = spatial
        self.num_features = self.network.spatial_width if spatial else self.network.width

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        """Move the network along with `metric.to(device)`. Its precision does not change."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.network = self.network.to(fn(torch.empty(0)).device, self.network.dtype)
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Compute the features of images. Raises TypeError: no tensor. Raises ValueError: another shape or dtype."""
        if not isinstance(images, Tensor):
            raise TypeError(f"images must be a tensor, uint8 (N, 3, H, W), not {type(images).__name__}")
        if images.ndim != 4 or images.shape[1] != 3 or images.dtype != torch.uint8:
            remedy = "; for floats in [0, 1] give the metric normalize=True" if images.is_floating_point() else ""
            raise ValueError(f"images must be uint8 (N, 3, H, W), not {images.dtype} {tuple(images.shape)}{remedy}")
        with torch.autocast(self.network.device.type, enabled=False):  # a training loop's autocast must not apply here
            pooled, spatial = self.network.features(self.convention.resize(images))
        return spatial if self.spatial else pooled

    def extra_repr(self) -> str:
        """FeatureShare compares this text to decide whether two metrics have the same network."""
        return (
            f"{self.convention.name}, {'spatial' if self.spatial else 'pooled'}, {self.network.dtype}, "
            f"weights {self.network.checksum[:12]}"
        )


class FidelityMetric(Metric):
    """The base class of all metrics here: the network, and how images are passed to it.

    Args:
        feature: 2048 for the network of 2015; or your own module from images to features (N, D). It receives the images
            unchanged.
        normalize: images are not uint8 but floats in [0, 1], and are converted by (images * 255).byte() as in
            torchmetrics. `update` raises ValueError for integers, NaN, and values that would wrap around (256/255 or
            more, -1/255 or less). Without `normalize` it raises ValueError for anything but uint8.
        reset_real_features: `reset` also discards the real images.
        options: arguments of InceptionFeatureExtractor (weights, like, mode, dtype, device, any_weights) and of Metric.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better: bool | None = True
    feature_network = "inception"
    feature_names: tuple[int | str, ...] = (2048,)
    real_states: tuple[str, ...] = ()
    spatial = False
    takes_real = True  # whether `update` has the argument `real`

    @checked
    def __init__(
        self,
        feature: FeatureArgument | str = 2048,
        normalize: bool = False,
        reset_real_features: bool = True,
        **options: Any,
    ) -> None:
        names = ("weights", "like", "mode", "dtype", "device", "any_weights")
        extractor_options = {name: options.pop(name) for name in names if name in options}
        super().__init__(**options)
        extractor = None
        if not isinstance(feature, nn.Module):
            if feature not in self.feature_names:
                known = " or ".join(map(repr, self.feature_names))
                raise ValueError(f"feature must be {known} or a module, not {feature!r}")
            extractor = InceptionFeatureExtractor(spatial=self.spatial, **extractor_options)
        self.inception = cast(nn.Module, extractor or feature)
        self.expected_width = extractor.num_features if extractor else None  # None for your own module
        self.logits = torch.from_numpy(extractor.network.logits) if extractor else None
        self.normalize = normalize
        self.reset_real_features = reset_real_features

    def _width(self) -> int:
        """The number of features per image. A module without `num_features` is run once to find out."""
        if (width := getattr(self.inception, "num_features", None)) is not None:
            return int(width)
        images = torch.zeros(1, 3, 299, 299, dtype=torch.float32 if self.normalize else torch.uint8)
        return self._features(images).shape[1]

    def _features(self, images: Tensor) -> Tensor:
        if self.normalize and self.expected_width is not None:
            images = to_uint8(images)
        with torch.no_grad():
            features: Tensor = self.inception(images)
        if self.expected_width not in (None, features.shape[1]):
            raise ValueError(
                f"{type(self).__name__} needs {self.expected_width} features and got {features.shape[1]}: FeatureShare "
                "replaced its network by another metric's; do not share this one"
            )
        return features.to(self.device)

    def forward(self, *images: Any, **more: Any) -> None:
        """The same as `update`: there is no score of a single batch. `compute` returns the score of all images."""
        self.update(*images, **more)

    @checked
    def update_from(
        self, generator: ImageGenerator, count: Annotated[int, Range(minimum=0)], batch_size: BatchSize = 32
    ) -> None:
        """Add `count` generated images. `generator(n)` returns n images in the form that `update` takes."""
        for start in range(0, count, batch_size):
            with torch.no_grad():
                images = generator(min(batch_size, count - start))
            self.update(images, **({"real": False} if self.takes_real else {}))

    def reset(self) -> None:
        states = [] if self.reset_real_features else [(name, getattr(self, name)) for name in self.real_states]
        # Metric.reset empties lists in place, so they are copied.
        kept = {name: [*state] if isinstance(state, list) else state for name, state in states}
        super().reset()
        for name, state in kept.items():
            setattr(self, name, state)


def _merge(packed: Tensor) -> Tensor:
    """Merge the packed moments of several processes, (processes, D + 1, D + 1)."""
    return reduce(Moments.merge, map(Moments.unpack, packed)).pack()


class FrechetInceptionDistance(FidelityMetric):
    """The exact FID of all images. Its state is a float64 mean and covariance of each set, 34 MB each at 2048 features.

    compute() returns a float64 scalar. It raises ValueError if a set has fewer than two images.
    """

    higher_is_better = False
    real_states = ("real_moments",)
    real_moments: Tensor
    fake_moments: Tensor

    def __init__(self, feature: FeatureArgument = 2048, **options: Any) -> None:
        super().__init__(feature, **options)
        empty = Moments.empty(self._width()).pack()
        for name in ("real_moments", "fake_moments"):
            self.add_state(name, empty, dist_reduce_fx=_merge)

    @checked
    def update(self, imgs: Tensor, real: bool) -> None:
        name = "real_moments" if real else "fake_moments"
        moments = Moments.unpack(getattr(self, name).double())
        setattr(self, name, moments.add(self._features(imgs)).pack())

    def compute(self) -> Tensor:
        fake, real = (Moments.unpack(packed.double()).gaussian() for packed in (self.fake_moments, self.real_moments))
        return torch.tensor(frechet_distance(fake, real), dtype=torch.float64, device=self.device)


class SpatialFrechetInceptionDistance(FrechetInceptionDistance):
    """sFID: FID over 7 channels of Mixed_6d, which depend on the positions of objects in the image."""

    spatial = True


class SampledMetric(FidelityMetric):
    """Base class of metrics that keep features: of each set up to `max_features`, as a random sample if there are more.

    Each image draws a random number, and the images with the lowest numbers are kept. Samples of several processes, or
    of merge_state, therefore combine into a uniform sample of all images, however many each process added.
    """

    real_states = ("real_sample",)
    real_sample: list[Tensor] | Tensor  # (n, D + 1): the features of each image, and the number that it has drawn
    fake_sample: list[Tensor] | Tensor

    @checked
    def __init__(
        self,
        feature: FeatureArgument = 2048,
        max_features: Annotated[int, Range(minimum=1)] = 10_000,
        seed: NumPySeed = 2020,
        **options: Any,
    ) -> None:
        super().__init__(feature, **options)
        self.max_features = max_features
        self.seed = seed
        self.rng = np.random.RandomState(seed)
        # MetricCollection merges metrics whose states have equal names and nearly equal values. The name of this state
        # keeps metrics with different samples apart.
        self.add_state(f"sample_{max_features}_{seed}", torch.tensor(0), dist_reduce_fx="max")
        for name in ("real_sample", "fake_sample"):
            self.add_state(name, [], dist_reduce_fx="cat")

    @checked
    def update(self, imgs: Tensor, real: bool) -> None:
        name = "real_sample" if real else "fake_sample"
        features = self._features(imgs).float()
        draws = torch.from_numpy(self.rng.random_sample((len(features), 1))).to(features)
        setattr(self, name, [self._sample([*getattr(self, name), torch.cat([features, draws], 1)])])

    def _sample(self, rows: list[Tensor] | Tensor) -> Tensor:
        """Select the rows to keep, in the order in which they came."""
        rows = dim_zero_cat(rows)
        if len(rows) <= self.max_features:
            return rows
        return rows[rows[:, -1].argsort(stable=True)[: self.max_features].sort().values]

    def reset(self) -> None:
        super().reset()
        self.rng.seed(self.seed)

    def _sync_dist(self, *arguments: Any, **options: Any) -> None:
        """Send a tensor of zero rows for a set without images. torchmetrics would send a one-dimensional tensor."""
        for name in ("real_sample", "fake_sample"):
            if not len(getattr(self, name)):
                setattr(self, name, [torch.zeros(0, self._width() + 1, device=self.device)])
        super()._sync_dist(*arguments, **options)

    def _samples(self) -> list[NDArray[np.float32]]:
        """The features of the generated and of the real images. Raises ValueError: a set has no images."""
        samples = []
        for name, rows in (("fake", self.fake_sample), ("real", self.real_sample)):
            if not len(rows):
                raise ValueError(f"no {name} images yet: call update(imgs, real={name == 'real'}) first")
            samples.append(self._sample(rows)[:, :-1].contiguous().cpu().numpy())
        return samples

    def compute(self) -> tuple[Tensor, ...]:
        values = self._scores(*self._samples())
        return tuple(torch.tensor(value, dtype=torch.float64, device=self.device) for value in values)

    @abstractmethod
    def _scores(self, fake: NDArray[np.float32], real: NDArray[np.float32]) -> Iterable[float]:
        """Compute the scores from features (N, D) and (M, D)."""


class KernelInceptionDistance(SampledMetric):
    """KID: mean and standard deviation over `subsets` random subsets of `subset_size` images.

    compute() raises ValueError if a set has fewer images than that.
    """

    higher_is_better = False

    @checked
    def __init__(
        self,
        feature: FeatureArgument = 2048,
        subsets: Count = 100,
        subset_size: CountFromTwo = 1000,
        **options: Any,
    ) -> None:
        super().__init__(feature, **options)
        self.sampling = KidSampling(subsets, subset_size, self.seed, shrinks=False)

    def _scores(self, fake: NDArray[np.float32], real: NDArray[np.float32]) -> Iterable[float]:
        return kernel_distance(fake, real, self.sampling)


class PrecisionRecall(SampledMetric):
    """Precision and recall, in balls that reach to the k-th neighbour."""

    @checked
    def __init__(self, feature: FeatureArgument = 2048, k: Count = PRECISION_K, **options: Any) -> None:
        super().__init__(feature, **options)
        self.k = k

    def _scores(self, fake: NDArray[np.float32], real: NDArray[np.float32]) -> Iterable[float]:
        scores = compare_neighbours(fake, real, k=self.k, density_k=self.k)
        return scores.precision, scores.recall


class DensityCoverage(SampledMetric):
    """Density and coverage, in balls that reach to the k-th neighbour."""

    @checked
    def __init__(self, feature: FeatureArgument = 2048, k: Count = DENSITY_K, **options: Any) -> None:
        super().__init__(feature, **options)
        self.k = k

    def _scores(self, fake: NDArray[np.float32], real: NDArray[np.float32]) -> Iterable[float]:
        scores = compare_neighbours(fake, real, k=self.k, density_k=self.k)
        return scores.density, scores.coverage


class FrechetInceptionDistanceInfinity(SampledMetric):
    """FID extrapolated to infinitely many images, and the low and high end of its 95 % interval."""

    higher_is_better = False

    def _scores(self, fake: NDArray[np.float32], real: NDArray[np.float32]) -> Iterable[float]:
        extrapolation = extrapolate(fake, real, fid=frechet_distance(gaussian(fake), gaussian(real)), seed=self.seed)
        return extrapolation.infinity, *extrapolation.infinity_interval


class MemorisationDistance(SampledMetric):
    """Mean and minimum distance from generated images to the nearest real one, and the mean among real images."""

    def _scores(self, fake: NDArray[np.float32], real: NDArray[np.float32]) -> Iterable[float]:
        return compare_neighbours(fake, real, k=1, density_k=1).memorisation


class InceptionScore(FidelityMetric):
    """Inception Score of generated images: mean and standard deviation over `splits` parts.

    Images are dealt to the parts in turn, so no logits are stored; with one part the order has no effect.
    `feature="logits_unbiased"` is accepted as in torchmetrics. Your own module must return logits.
    """

    feature_names = (2048, "logits_unbiased")
    takes_real = False

    classes: Tensor  # sums of the probabilities p of each class, (splits, classes)
    certainty: Tensor  # sums of p log p, (splits,)
    counts: Tensor  # images, (splits,)

    @checked
    def __init__(self, feature: FeatureArgument | str = 2048, splits: Count = 10, **options: Any) -> None:
        super().__init__(feature, **options)
        self.splits = splits
        class_count = self._width() if self.logits is None else len(self.logits)
        self.add_state("classes", torch.zeros(splits, class_count, dtype=torch.float64), dist_reduce_fx="sum")
        for name in ("certainty", "counts"):
            self.add_state(name, torch.zeros(splits, dtype=torch.float64), dist_reduce_fx="sum")

    @checked
    def update(self, imgs: Tensor) -> None:
        logits = self._features(imgs)
        if self.logits is not None:
            with torch.autocast(logits.device.type, enabled=False):
                logits = logits @ self.logits.to(logits).T
        log_probabilities = logits.double().log_softmax(1)
        probabilities = log_probabilities.exp()
        parts = (torch.arange(len(logits), device=self.device) + int(self.counts.sum())) % self.splits
        self.classes = self.classes.index_add(0, parts, probabilities)
        self.certainty = self.certainty.index_add(0, parts, (probabilities * log_probabilities).sum(1))
        self.counts = self.counts.index_add(0, parts, torch.ones_like(parts, dtype=torch.float64))

    def compute(self) -> tuple[Tensor, Tensor]:
        if not bool(self.counts.all()):
            raise ValueError(f"{int(self.counts.sum())} images are fewer than the {self.splits} parts of the score")
        mean = self.classes / self.counts[:, None]
        entropy = torch.special.entr(mean).sum(1)
        scores = (self.certainty / self.counts + entropy).exp()
        return scores.mean(), scores.std(correction=0)
