"""From pictures on disk to the likeliest classes, in order, whatever their number."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inception_v3.images.find import ImageSource, expand
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.inference.choose import open_engine
from inception_v3.inference.engines.base import Engine
from inception_v3.inference.pipeline import Decode, Resizer, run


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


class Predictor:
    """Pictures on disk to classes, in one line; of an exported network without importing PyTorch.

    >>> predictor = Predictor("model.onnx")
    >>> for prediction in predictor(["photos", "one.jpg"]):
    ...     print(prediction.image, prediction.classes[0])

    The arguments are those of engines.choose.open_engine. `engine`, `description` and `reason` tell what was taken
    and why.
    """

    def __init__(self, model: str | Path, engine: str = "auto", precision: str | None = None, **more: Any) -> None:
        opened = open_engine(model, engine, precision, **more)
        self.engine, self.description, self.reason = opened.engine, opened.description, opened.reason

    def __call__(
        self,
        images: str | Path | Sequence[str | Path],
        *,
        top: int = 5,
        batch_size: int | None = None,
        decode: Decode = "exact",
    ) -> Iterator[Prediction]:
        """A Prediction for each file, in order, as they come; folders are gone through."""
        asked = [images] if isinstance(images, str | Path) else images
        return predict(
            self.engine,
            self.description.preprocessing,
            self.description.names(),
            expand([str(one) for one in asked]),
            top=top,
            batch_size=batch_size or self.engine.batch_size,
            decode=decode,
        )


def predict(
    engine: Engine,
    preprocessing: Preprocessing,
    class_names: list[str],
    sources: Iterable[ImageSource],
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
