"""The scores as papers write them: name, direction, meaning and source, and numbers with three significant digits."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class ScoreName:
    """A score as it is shown.

    Attributes:
        key: its key in `FidelityResult.scores`. The keys of its spread begin with `stem`.
        name, arrow: as papers write them. The arrow points to better values; a score without a better end has none.
        meaning: one line.
        source: the paper, or "" for a score of this program.
    """

    key: str
    name: str
    arrow: str
    meaning: str
    source: str = ""

    @property
    def stem(self) -> str:
        """The beginning of the keys of its spread: `kid` for `kid_mean` and `kid_std`."""
        return self.key.removesuffix("_mean")

    @property
    def title(self) -> str:
        """The name with its arrow, such as "FID ↓"."""
        return f"{self.name} {self.arrow}".rstrip()


SCORE_NAMES = (
    ScoreName(
        "fid",
        "FID",
        "↓",
        "Fréchet distance between the features of the two sets: quality and variety in one",
        "Heusel et al. 2017, arXiv 1706.08500",
    ),
    ScoreName(
        "fid_infinity",
        "FID∞",
        "↓",
        "FID extrapolated to infinitely many images, so without its bias",
        "Chong and Forsyth 2020, arXiv 1911.07023",
    ),
    ScoreName(
        "kid_mean",
        "KID",
        "↓",
        "Squared MMD of the features with a cubic kernel: unbiased, also for few images",
        "Bińkowski et al. 2018, arXiv 1801.01401",
    ),
    ScoreName(
        "is_mean",
        "IS",
        "↑",
        "Inception Score: a clear class in each image, and many classes in all; needs no reference images",
        "Salimans et al. 2016, arXiv 1606.03498",
    ),
    ScoreName(
        "precision",
        "Precision",
        "↑",
        "The fraction of generated images that lie among the reference images",
        "Kynkäänniemi et al. 2019, arXiv 1904.06991",
    ),
    ScoreName(
        "recall",
        "Recall",
        "↑",
        "The fraction of reference images that lie among the generated images",
        "Kynkäänniemi et al. 2019, arXiv 1904.06991",
    ),
    ScoreName(
        "density",
        "Density",
        "↑",
        "The mean number of reference neighbourhoods that contain a generated image, divided by k",
        "Naeem et al. 2020, arXiv 2002.09797",
    ),
    ScoreName(
        "coverage",
        "Coverage",
        "↑",
        "The fraction of reference images with a generated image in their neighbourhood",
        "Naeem et al. 2020, arXiv 2002.09797",
    ),
    ScoreName(
        "sfid",
        "sFID",
        "↓",
        "FID on features that keep their position in the image: layout",
        "Nash et al. 2021, arXiv 2103.03841",
    ),
    ScoreName(
        "memorisation_distance",
        "Distance to nearest reference image",
        "",
        "The mean over the generated images; far below the distance among reference images means copies",
    ),
    ScoreName(
        "memorisation_distance_min",
        "Smallest distance to a reference image",
        "",
        "The smallest over the generated images; 0 means a copy",
    ),
    ScoreName(
        "memorisation_distance_reference",
        "Distance among reference images",
        "",
        "The mean from each reference image to the nearest other one, for comparison",
    ),
)


def three_digits(value: float) -> str:
    """The value with three significant digits and no exponent for large values: 12.0, 0.00123, 1300."""
    text = f"{value:#.3g}"
    return f"{float(text):.0f}" if "e+" in text else text.removesuffix(".")


def names_of(keys: Iterable[str]) -> list[ScoreName]:
    """The names of scores by their keys, without those of spreads. A score that is not in SCORE_NAMES has its key."""
    known = {score.key: score for score in SCORE_NAMES}
    values = (key for key in keys if not key.endswith(("_std", "_low", "_high")))
    return [known.get(key) or ScoreName(key, key.removesuffix("_mean"), "", "") for key in values]
