"""Predict the classes of any number of images, in order."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inception_v3.images.addresses import expand
from inception_v3.images.find import ImageSource
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.inference.choose import open_engine
from inception_v3.inference.engines.base import Engine
from inception_v3.inference.pipeline import Decode, Resizer, run_pipeline
from inception_v3.support.softmax import softmax


@dataclass(frozen=True)
class Prediction:
    """The top classes of one image as (class name, probability), best first, or the reason why there are none."""

    image: str
    classes: list[tuple[str, float]]
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The JSON object of `predict --json`."""
        if self.error is not None:
            return {"image": self.image, "error": self.error}
        return {
            "image": self.image,
            "predictions": [{"class": name, "probability": probability} for name, probability in self.classes],
        }


class Predictor:
    """Predict the classes of image files in one line. An exported network runs without importing PyTorch.

    >>> predictor = Predictor("model.onnx")
    >>> for prediction in predictor(["photos", "cat.jpg"]):
    ...     print(prediction.image, prediction.classes[0])

    The arguments are those of inference.choose.open_engine. The attributes `engine`, `description` and `reason` show
    which engine was chosen, what it runs, and why it was chosen.
    """

    def __init__(self, model: str | Path, engine: str = "auto", precision: str | None = None, **options: Any) -> None:
        opened = open_engine(model, engine, precision, **options)
        self.engine, self.description, self.reason = opened.engine, opened.description, opened.reason

    def __call__(
        self,
        images: str | Path | Sequence[str | Path],
        *,
        top: int = 5,
        batch_size: int | None = None,
        decode: Decode = "exact",
    ) -> Iterator[Prediction]:
        """Yield a Prediction for each image, in order, as soon as it is computed.

        Args:
            images: files, patterns, or folders, which are searched recursively.
            top: the number of classes to return for each image.
            batch_size: images in a batch; by default what suits the engine.
            decode: see `pipeline.run_pipeline`.
        """
        paths = [images] if isinstance(images, str | Path) else images
        return predict(
            self.engine,
            self.description.preprocessing,
            self.description.names(),
            expand([str(path) for path in paths]),
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
    """Yield a Prediction for each source, in order. An image that cannot be read does not stop the others.

    `batch_size`, `decode` and `resize` are those of `pipeline.run_pipeline`, and so are the exceptions. Of classes with
    equal probability, the first in `class_names` comes first.
    """
    for output in run_pipeline(engine, preprocessing, sources, batch_size=batch_size, decode=decode, resize=resize):
        name = output.source.name
        if output.logits is None:
            yield Prediction(name, [], output.error)
        elif not np.isfinite(output.logits).all():
            yield Prediction(name, [], f"{name}: the network's outputs are not finite; check the model")
        else:
            yield Prediction(name, top_classes(output.logits, class_names, top))


def top_classes(logits: NDArray[np.float32], class_names: list[str], top: int) -> list[tuple[str, float]]:
    """The `top` classes with the highest logits, best first, each with its softmax probability, computed in float64.

    `logits` has shape (num_classes,). Of classes with equal logits, the first in `class_names` comes first.
    """
    count = min(top, len(class_names))
    threshold = np.partition(logits, -count)[-count]
    (indices,) = np.nonzero(logits >= threshold)  # more than `count` if several classes have the same logit
    indices = indices[np.argsort(-logits[indices], kind="stable")][:count]
    probabilities = softmax(logits.astype(np.float64))[indices]
    return [(class_names[index], value) for index, value in zip(indices.tolist(), probabilities.tolist(), strict=True)]
