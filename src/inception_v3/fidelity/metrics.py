"""The scores as torchmetrics' Metrics, for training loops: update, compute, reset, sync between processes.

    fid = FrechetInceptionDistance(weights="pt_inception-2015-12-05.pth", reset_real_features=False)
    for images in loader:  # uint8 (N, 3, H, W)
        fid.update(images, real=True)
    ...
    fid.update_from(generator, 10_000)  # generator(32) gives 32 images
    fid.compute()

Memory does not grow with the images: means and covariances merge, and what needs the features themselves (KID,
neighbours) keeps a random sample of at most `max_features` of each set. torchmetrics comes with
`pip install 'inception-v3[metrics]'`. Its FeatureShare lets several of these share one run of the network.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from inception_v3.fidelity import manifold
from inception_v3.fidelity.conventions import KidSampling, find_convention
from inception_v3.fidelity.extrapolation import extrapolate
from inception_v3.fidelity.frechet import frechet_distance
from inception_v3.fidelity.kernel import kernel_distance
from inception_v3.fidelity.network import WEIGHTS, Dtype, load_network
from inception_v3.fidelity.statistics import Moments, gaussian
from inception_v3.weights.model import InceptionV3

Features = int | nn.Module
Generator = Callable[[int], Tensor]


class Extractor(nn.Module):
    """uint8 images (N, 3, H, W) to features (N, num_features), by a convention and the network of 2015.

    With `spatial` the 2023 of sFID, else the 2048 of all others. Arguments are those of `load_network` and
    `find_convention`, and so are the errors.
    """

    def __init__(
        self,
        weights: str | Path | InceptionV3 = WEIGHTS,
        *,
        like: str | None = None,
        mode: str | None = None,
        spatial: bool = False,
        dtype: Dtype = "fp32",
        device: str | torch.device = "cpu",
        any_weights: bool = False,
    ) -> None:
        super().__init__()
        self.convention = find_convention(like, mode)
        self.network = load_network(weights, dtype=dtype, device=device, any_weights=any_weights)
        self.spatial = spatial
        self.num_features = self.network.spatial_width if spatial else self.network.width

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        """The network goes along with `metric.to(device)`; its precision stays."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.network = self.network.to(fn(torch.empty(0)).device)
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Raises ValueError: images of another shape or type."""
        if images.ndim != 4 or images.shape[1] != 3 or images.dtype != torch.uint8:
            raise ValueError(f"images must be uint8 (N, 3, H, W), not {images.dtype} {tuple(images.shape)}")
        with torch.autocast(self.network.device.type, enabled=False):  # a training loop's must not reach the scores
            pooled, spatial = self.network.features(self.convention.resize(images))
        return spatial if self.spatial else pooled

    def extra_repr(self) -> str:
        """What FeatureShare compares before it takes one network for another."""
        features = "spatial" if self.spatial else "pooled"
        return f"{self.convention.name}, {features}, {self.network.dtype}, weights {self.network.checksum[:12]}"


class FidelityMetric(Metric):
    """What all share: the network, and how images come in.

    Args:
        feature: 2048, the network of 2015; or a module of your own from images to features (N, D), which gets
            them as they are.
        normalize: images are floats in [0, 1], and become uint8 by (images * 255).byte(), as in torchmetrics.
        reset_real_features: `reset` forgets the real images too.
        options: of Extractor (weights, like, mode, dtype, device, any_weights), then those of Metric.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better: bool | None = True
    feature_network = "inception"
    names_of_features: tuple[int | str, ...] = (2048,)
    real_states: tuple[str, ...] = ()
    spatial = False

    def __init__(
        self, feature: Features | str = 2048, normalize: bool = False, reset_real_features: bool = True, **options: Any
    ) -> None:
        names = ("weights", "like", "mode", "dtype", "device", "any_weights")
        chosen = {name: options.pop(name) for name in names if name in options}
        super().__init__(**options)
        if not isinstance(feature, nn.Module) and feature not in self.names_of_features:
            known = " or ".join(map(repr, self.names_of_features))
            raise ValueError(f"feature must be {known} or a module, not {feature!r}")
        self.own = not isinstance(feature, nn.Module)
        self.inception = feature if isinstance(feature, nn.Module) else Extractor(spatial=self.spatial, **chosen)
        self.expected = self.inception.num_features if isinstance(self.inception, Extractor) else None
        self.logits = torch.from_numpy(self.inception.network.logits) if isinstance(self.inception, Extractor) else None
        self.normalize = normalize
        self.reset_real_features = reset_real_features

    def _width(self) -> int:
        """Features that an image has; a module that does not say is tried."""
        if (width := getattr(self.inception, "num_features", None)) is not None:
            return int(width)
        images = torch.zeros(1, 3, 299, 299, dtype=torch.float32 if self.normalize else torch.uint8)
        return self._features(images).shape[1]

    def _features(self, images: Tensor) -> Tensor:
        if self.own and self.normalize:
            images = (images * 255).byte()
        with torch.no_grad():
            features: Tensor = self.inception(images)
        if self.expected not in (None, features.shape[1]):
            found = f"{features.shape[1]} features came where {type(self).__name__} needs {self.expected}"
            raise ValueError(f"{found}: a FeatureShare gave it another's network; leave it out of that one")
        return features.to(self.device)

    def forward(self, *images: Any, **more: Any) -> None:
        """The same as `update`: of one batch there is no score, and `compute` gives that of all."""
        self.update(*images, **more)

    def update_from(self, generator: Generator, count: int, batch_size: int = 32) -> None:
        """Add `count` generated images: `generator(n)` gives n, as `update` takes them."""
        for start in range(0, count, batch_size):
            with torch.no_grad():
                images = generator(min(batch_size, count - start))
            self._generated(images)

    def _generated(self, imgs: Tensor) -> None:
        self.update(imgs, real=False)

    def reset(self) -> None:
        states = [] if self.reset_real_features else [(name, getattr(self, name)) for name in self.real_states]
        kept = {name: [*state] if isinstance(state, list) else state for name, state in states}  # lists are emptied
        super().reset()
        for name, state in kept.items():
            setattr(self, name, state)


def _merge(packed: Tensor) -> Tensor:
    """Moments of several processes, (processes, D + 1, D + 1), to those of all."""
    total = Moments.unpack(packed[0])
    for part in packed[1:]:
        total = total.merge(Moments.unpack(part))
    return total.pack()


class FrechetInceptionDistance(FidelityMetric):
    """FID of all images that came, exact; compute() gives a float64 scalar, and ValueError before two of each set.

    It holds a mean and a covariance of each set in float64: 34 MB at 2048 features.
    """

    higher_is_better = False
    real_states = ("real_moments",)
    real_moments: Tensor
    fake_moments: Tensor

    def __init__(self, feature: Features = 2048, **options: Any) -> None:
        super().__init__(feature, **options)
        nothing = Moments.empty(self._width()).pack()
        for name in ("real_moments", "fake_moments"):
            self.add_state(name, nothing, dist_reduce_fx=_merge)

    def update(self, imgs: Tensor, real: bool) -> None:
        name = "real_moments" if real else "fake_moments"
        moments = Moments.unpack(getattr(self, name).double())
        setattr(self, name, moments.add(self._features(imgs)).pack())

    def compute(self) -> Tensor:
        fake, real = (Moments.unpack(packed.double()).gaussian() for packed in (self.fake_moments, self.real_moments))
        return torch.tensor(frechet_distance(fake, real), dtype=torch.float64, device=self.device)


class SpatialFrechetInceptionDistance(FrechetInceptionDistance):
    """sFID: the same over 7 channels of Mixed_6d, where things lie in the image."""

    spatial = True


class SampledMetric(FidelityMetric):
    """Keeps features of each set: all up to `max_features`, then a random sample of so many.

    Each image draws a number, and those with the lowest stay. So the samples of several processes, or those of
    merge_state, are together a sample of all images, however many each saw.
    """

    real_states = ("real_features", "real_draws")
    real_features: list[Tensor] | Tensor
    fake_features: list[Tensor] | Tensor
    real_draws: list[Tensor] | Tensor
    fake_draws: list[Tensor] | Tensor

    def __init__(self, feature: Features = 2048, max_features: int = 10_000, seed: int = 2020, **options: Any) -> None:
        super().__init__(feature, **options)
        self.max_features = max_features
        self.seed = seed
        self.rng = np.random.RandomState(seed)
        # By its name a MetricCollection tells metrics of other samples apart; values are compared nearly.
        self.add_state(f"sample_{max_features}_{seed}", torch.tensor(0), dist_reduce_fx="max")
        for name in ("real", "fake"):
            self.add_state(f"{name}_features", [], dist_reduce_fx="cat")
            self.add_state(f"{name}_draws", [], dist_reduce_fx="cat")

    def update(self, imgs: Tensor, real: bool) -> None:
        name = "real" if real else "fake"
        features = self._features(imgs)
        draws = torch.from_numpy(self.rng.random_sample(len(features))).to(features.device, torch.float32)
        features, draws = self._sample(
            [*getattr(self, f"{name}_features"), features], [*getattr(self, f"{name}_draws"), draws]
        )
        setattr(self, f"{name}_features", [features])
        setattr(self, f"{name}_draws", [draws])

    def _sample(self, features: list[Tensor] | Tensor, draws: list[Tensor] | Tensor) -> tuple[Tensor, Tensor]:
        """The rows that stay, in the order in which they came."""
        every, drawn = dim_zero_cat(features), dim_zero_cat(draws)
        if len(every) <= self.max_features:
            return every, drawn
        rows = drawn.argsort(stable=True)[: self.max_features].sort().values
        return every[rows], drawn[rows]

    def reset(self) -> None:
        super().reset()
        self.rng.seed(self.seed)

    def _sync_dist(self, *arguments: Any, **options: Any) -> None:
        """A process that has none of a set takes part with no rows; torchmetrics would send another shape."""
        for name in ("real", "fake"):
            if not len(getattr(self, f"{name}_features")):
                setattr(self, f"{name}_features", [torch.zeros(0, self._width(), device=self.device)])
                setattr(self, f"{name}_draws", [torch.zeros(0, device=self.device)])
        super()._sync_dist(*arguments, **options)

    def _kept(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Of the generated and the real. Raises ValueError: a set of none."""
        both = []
        for name in ("fake", "real"):
            if not len(kept := getattr(self, f"{name}_features")):
                raise ValueError(f"no {name} images yet: call update(imgs, real={name == 'real'}) first")
            features, _ = self._sample(kept, getattr(self, f"{name}_draws"))
            both.append(features.float().cpu().numpy())
        return both[0], both[1]

    def _tensors(self, *values: float) -> tuple[Tensor, ...]:
        return tuple(torch.tensor(value, dtype=torch.float64, device=self.device) for value in values)


class KernelInceptionDistance(SampledMetric):
    """KID: mean and standard deviation over `subsets` of `subset_size`; ValueError where there are fewer images."""

    higher_is_better = False

    def __init__(self, feature: Features = 2048, subsets: int = 100, subset_size: int = 1000, **options: Any) -> None:
        super().__init__(feature, **options)
        self.sampling = KidSampling(subsets, subset_size, self.seed, shrinks=False)

    def compute(self) -> tuple[Tensor, ...]:
        return self._tensors(*kernel_distance(*self._kept(), self.sampling))


class PrecisionRecall(SampledMetric):
    """Precision and recall, by the k-th neighbour."""

    def __init__(self, feature: Features = 2048, k: int = manifold.PRECISION_K, **options: Any) -> None:
        super().__init__(feature, **options)
        self.k = k

    def compute(self) -> tuple[Tensor, ...]:
        found = manifold.compare(*self._kept(), k=self.k, density_k=self.k)
        return self._tensors(found.precision, found.recall)


class DensityCoverage(SampledMetric):
    """Density and coverage, by the k-th neighbour."""

    def __init__(self, feature: Features = 2048, k: int = manifold.DENSITY_K, **options: Any) -> None:
        super().__init__(feature, **options)
        self.k = k

    def compute(self) -> tuple[Tensor, ...]:
        found = manifold.compare(*self._kept(), k=self.k, density_k=self.k)
        return self._tensors(found.density, found.coverage)


class FrechetInceptionDistanceInfinity(SampledMetric):
    """FID extrapolated to infinitely many images, and the ends of its 95 % interval."""

    higher_is_better = False

    def compute(self) -> tuple[Tensor, ...]:
        fake, real = self._kept()
        found = extrapolate(fake, real, fid=frechet_distance(gaussian(fake), gaussian(real)), seed=self.seed)
        return self._tensors(found.infinity, *found.infinity_interval)


class MemorisationDistance(SampledMetric):
    """Distance of a generated image to the nearest real one: mean and least; and mean from one real to another."""

    def compute(self) -> tuple[Tensor, ...]:
        found = manifold.compare(*self._kept(), k=1, density_k=1)
        return self._tensors(found.nearest.mean(), found.nearest.min(), found.spacing.mean())


class InceptionScore(FidelityMetric):
    """Inception Score of generated images: mean and standard deviation over `splits` parts.

    An image goes to the parts in turn as it comes, so that no logits are kept; with one part the score is that
    of any order. "logits_unbiased" is torchmetrics' name for what it takes; a module of your own gives logits.
    """

    names_of_features = (2048, "logits_unbiased")

    classes: Tensor
    certainty: Tensor
    counts: Tensor

    def __init__(self, feature: Features | str = 2048, splits: int = 10, **options: Any) -> None:
        super().__init__(feature, **options)
        self.splits = splits
        count = self._width() if self.logits is None else len(self.logits)
        self.add_state("classes", torch.zeros(splits, count, dtype=torch.float64), dist_reduce_fx="sum")
        for name in ("certainty", "counts"):
            self.add_state(name, torch.zeros(splits, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, imgs: Tensor) -> None:
        logits = self._features(imgs)
        if self.logits is not None:
            with torch.autocast(logits.device.type, enabled=False):
                logits = logits @ self.logits.to(logits).T
        log_shares = logits.double().log_softmax(1)
        shares = log_shares.exp()
        parts = (torch.arange(len(shares), device=self.device) + int(self.counts.sum())) % self.splits
        self.classes = self.classes.index_add(0, parts, shares)
        self.certainty = self.certainty.index_add(0, parts, (shares * log_shares).sum(1))
        self.counts = self.counts.index_add(0, parts, torch.ones_like(parts, dtype=torch.float64))

    def _generated(self, imgs: Tensor) -> None:
        self.update(imgs)

    def compute(self) -> tuple[Tensor, Tensor]:
        if not bool(self.counts.all()):
            raise ValueError(f"{int(self.counts.sum())} images are fewer than the {self.splits} parts of the score")
        mean = self.classes / self.counts[:, None]
        entropy = torch.special.entr(mean).sum(1)
        scores = (self.certainty / self.counts + entropy).exp()
        return scores.mean(), scores.std(correction=0)
