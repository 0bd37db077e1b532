"""From pictures on disk to the likeliest classes, in order, whatever their number."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inception_v3.engines import Engine
from inception_v3.images import Source
from inception_v3.pipeline import Decode, Resizer, run
from inception_v3.preprocessing import Preprocessing


@dataclass(frozen=True)
class Prediction:
    """The likeliest classes of one picture, best first, as (class, probability); or the reason for none."""

    image: str
    classes: list[tuple[str, float]]
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        if self.error is not None:
            return {"image": self.image, "error": self.error}
        return {
            "image": self.image,
            "predictions": [{"class": name, "probability": share} for name, share in self.classes],
        }


def predict(
    engine: Engine,
    preprocessing: Preprocessing,
    class_names: list[str],
    sources: Iterable[Source],
    *,
    top: int = 5,
    batch_size: int = 16,
    decode: Decode = "exact",
    resize: Resizer | None = None,
) -> Iterator[Prediction]:
    """A Prediction for each source, in order; one that cannot be read does not stop the others.

    `decode` and `resize` are those of pipeline.run. Of classes with equal probability the first in the list comes
    first. Raises InputError where the engine fails, after the predictions before that batch.
    """
    for answer in run(engine, preprocessing, sources, batch_size=batch_size, decode=decode, resize=resize):
        name = answer.source.name
        if answer.logits is None:
            yield Prediction(name, [], answer.error)
        elif not np.isfinite(answer.logits).all():
            yield Prediction(name, [], f"{name}: the network's outputs are no finite numbers; check the model")
        else:
            yield Prediction(name, likeliest(answer.logits, class_names, top))


def likeliest(logits: NDArray[np.float32], class_names: list[str], top: int) -> list[tuple[str, float]]:
    """The best classes of one picture with their softmax, computed in float64."""
    powers = np.exp(logits.astype(np.float64) - logits.max())
    count = min(top, len(class_names))
    least = np.partition(logits, -count)[-count]
    (best,) = np.nonzero(logits >= least)  # of equal ones the first count
    best = best[np.argsort(-logits[best], kind="stable")][:count]
    shares = powers[best] / powers.sum()
    return [(class_names[place], share) for place, share in zip(best.tolist(), shares.tolist(), strict=True)]
