"""The options of `fidelity`. Needs no PyTorch, so the command line can build them first."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from inception_v3.fidelity.conventions import Convention, find_convention
from inception_v3.inference.engines.base import Engine
from inception_v3.support.arguments import BatchSize, Count, CountFromTwo, NumPySeed, Workers, check_fields
from inception_v3.support.files import cache_folder

if TYPE_CHECKING:
    import torch

    from inception_v3.weights.model import InceptionV3

DEFAULT_WEIGHTS = "fid:2015-12-05"
NetworkPrecision = Literal["fp32", "bf16", "int8"]


@dataclass(frozen=True)
class FidelityOptions:
    """How two sets of images are compared.

    Attributes:
        like, mode: the convention (`find_convention`); by default clean-fid's resize and the exact distance.
        weights, any_weights, dtype, device: the network (`load_network`).
        scores: names in `scores.SCORES`; None for all.
        cache, use_cache: the folder of the feature store (by default in the user's cache folder), and whether it is
            used. Features in int8 are never stored.
        batch_size: images per batch; None for 8 on a CPU and 128 on a GPU.
        workers: threads. On a CPU they decode images and run the network, on a GPU they only decode.
        strict: stop at an unreadable image, instead of skipping it.
        seed, kid_subsets, kid_subset_size, is_splits: replace the convention's values for KID and Inception Score.

    Raises TypeError: a field of the wrong type, such as one string as `scores`. Raises ValueError: a wrong value.
    """

    like: str | None = None
    mode: str | None = None
    weights: "str | Path | InceptionV3" = DEFAULT_WEIGHTS
    any_weights: bool = False
    scores: Collection[str] | None = None
    dtype: NetworkPrecision = "fp32"
    device: "str | torch.device" = "cpu"
    cache: str | Path | None = None
    use_cache: bool = True
    batch_size: BatchSize | None = None
    workers: Workers | None = None
    strict: bool = False
    seed: NumPySeed | None = None
    kid_subsets: Count | None = None
    kid_subset_size: CountFromTwo | None = None
    is_splits: Count | None = None

    def __post_init__(self) -> None:
        check_fields(self)

    def convention(self) -> Convention:
        """The convention, with the values of these options. Raises InputError: there is no such convention."""
        convention = find_convention(self.like, self.mode)
        changes: dict[str, Any] = {"seed": self.seed, "subsets": self.kid_subsets, "size": self.kid_subset_size}
        changes["shrinks"] = None if self.kid_subset_size is None else False
        kid = replace(convention.kid, **{name: value for name, value in changes.items() if value is not None})
        splits = convention.inception_score
        if self.seed is not None and splits.seed is not None:
            splits = replace(splits, seed=self.seed)
        if self.is_splits is not None:
            splits = replace(splits, splits=self.is_splits, images=None)
        given = {
            "--seed": self.seed,
            "--kid-subsets": self.kid_subsets,
            "--kid-subset-size": self.kid_subset_size,
            "--is-splits": self.is_splits,
        }
        changed = replace(convention, kid=kid, inception_score=splits)
        options = " ".join(f"{option} {value}" for option, value in given.items() if value is not None)
        return replace(changed, changes=options) if changed != convention else convention

    def callers(self) -> int:
        """The number of threads that run the network at once."""
        on_cpu = str(self.device).startswith("cpu")
        return self.workers or Engine.best_callers("cpu") if on_cpu else 1

    def cache_folder(self) -> Path | None:
        """The folder of the feature store, or None without one. Raises InputError: there is no home folder."""
        return Path(self.cache or cache_folder("features")) if self.use_cache else None
