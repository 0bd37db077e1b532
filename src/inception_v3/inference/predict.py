"""Predict the classes of any number of images, in order."""

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from inception_v3.images.addresses import expand
from inception_v3.images.decode import MinimumSize, open_image
from inception_v3.images.find import ImageSource, check_pixels
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.inference.choose import check_classifier, open_engine
from inception_v3.inference.engines.base import Engine, Inputs, Outputs
from inception_v3.inference.pipeline import Decode, Openable, Resizer, not_finite, run_pipeline
from inception_v3.inference.schedule import FIRST_BATCH
from inception_v3.network.architecture import OutputActivation
from inception_v3.network.probabilities import class_logits, probabilities
from inception_v3.support.arguments import BatchSize, Count, checked

ImageInput = str | Path | Image | NDArray[np.uint8]


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
    """Predict the classes of images in one line. An exported network runs without importing PyTorch.

    >>> predictor = Predictor("model.onnx")
    >>> for prediction in predictor(["photos", "cat.jpg"]):
    ...     print(prediction.image, prediction.classes[0])
    >>> predictor.predict_bytes(request.body).classes[0]

    The arguments are those of inference.choose.open_engine. The attributes `engine`, `description` and `reason` show
    which engine was chosen, what it runs, and why it was chosen.

    The same image gives the same bits as a file, as bytes, as a Pillow image and as an array.

    Thread-safe: several threads may call one Predictor at the same time, and each gets the results that it would get
    alone. The images of all calls are decoded at the same time; the engine computes a batch of one call after another
    (with `callers=n`, those of n calls at once). What a call takes and returns belongs to its thread: an iterator, and
    a Pillow image that is not loaded yet (`image.load()`).

    Several processes: open the Predictors in processes that start with `multiprocessing.get_context("spawn")`, or that
    are forked before the first Predictor is opened. A process that is forked later has none of the engine's threads;
    there, a Predictor and its calls raise InputError.

    Raises:
        TypeError, ValueError: as open_engine does, for arguments.
        InputError: as open_engine does, or the network has no classifier.
    """

    @checked
    def __init__(self, model: str | Path, engine: str = "auto", precision: str | None = None, **options: Any) -> None:
        opened = open_engine(model, engine, precision, **options)
        check_classifier(model, opened.description.settings, opened.description.outputs)
        self.engine, self.description, self.reason = opened.engine, opened.description, opened.reason
        self._shared_engine = _SharedEngine(opened.engine)

    @checked
    def __call__(
        self,
        images: "ImageInput | Iterable[ImageInput]",
        *,
        top: Count = 5,
        batch_size: BatchSize | None = None,
        decode: Decode = "exact",
    ) -> Iterator[Prediction]:
        """Yield a Prediction for each image, in order, as soon as it is computed.

        Args:
            images: one image or several, of any of these kinds. Files, patterns, or folders, which are searched
                recursively. Pillow images of any mode, which are treated as their files would be: turned upright by
                their EXIF orientation, and on a white background. Arrays, uint8 of shape (H, W, 3) in RGB, (H, W) in
                gray or (H, W, 4) in RGBA, with values from 0 to 255. Pillow images and arrays are named by their index:
                `images[0]`. A list is checked at once; any other iterable is read a few batches ahead.
            top: the number of classes to return for each image; all classes if there are fewer.
            batch_size: images in a batch; by default what suits the engine.
            decode: see `pipeline.run_pipeline`. Pillow images are always decoded at their full size.

        Raises:
            InputError: no such file, an empty folder, or a pattern without a match.
            ValueError: an array of another shape or dtype, such as floats; another argument with a wrong value.
            TypeError: an image of another type, such as bytes; another argument of a wrong type.
        """
        return self._predict(find_sources(images), top, batch_size, decode)

    @overload
    def predict_bytes(
        self, data: bytes, *, top: int = 5, batch_size: int | None = None, decode: Decode = "exact"
    ) -> Prediction: ...

    @overload
    def predict_bytes(
        self, data: Iterable[bytes], *, top: int = 5, batch_size: int | None = None, decode: Decode = "exact"
    ) -> list[Prediction]: ...

    @checked
    def predict_bytes(
        self,
        data: "bytes | Iterable[bytes]",
        *,
        top: Count = 5,
        batch_size: BatchSize | None = None,
        decode: Decode = "exact",
    ) -> Prediction | list[Prediction]:
        """Predict from the bytes of an image file, such as an upload: a Prediction, or a list of them for several.

        An image that cannot be read does not stop the others: its Prediction has the reason as `error`. The images are
        named `data`, or by their index `data[0]`. The other arguments are those of a call.

        Raises:
            TypeError: not bytes; or another argument, as in a call.
            ValueError: as in a call.
        """
        if isinstance(data, bytes | bytearray | memoryview):
            (prediction,) = self._predict([_bytes_source("data", data)], top, 1, decode)
            return prediction
        if isinstance(data, str | Mapping) or not isinstance(data, Iterable):
            raise _not_bytes("data", data)
        sources = (_bytes_source(f"data[{index}]", item) for index, item in enumerate(data))
        return list(self._predict(sources, top, batch_size, decode))

    def _predict(
        self, sources: Iterable[Openable], top: int, batch_size: int | None, decode: Decode
    ) -> Iterator[Prediction]:
        return predict(
            self._shared_engine,
            self.description.preprocessing,
            self.description.names(),
            sources,
            activation=self.description.settings.output_activation,
            top=top,
            batch_size=batch_size or self.engine.batch_size,
            decode=decode,
        )


class _SharedEngine(Engine):
    """Runs an engine for several threads: for `engine.callers` of them at once, while the others wait."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._turns = engine, threading.BoundedSemaphore(engine.callers)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def run(self, inputs: Inputs) -> Outputs:
        with self._turns:
            return self._engine.run(inputs)


@dataclass(frozen=True)
class _PillowSource:
    """A Pillow image as a source of the pipeline."""

    name: str
    image: Image

    def open(self, minimum_size: MinimumSize | None = None) -> Image:
        """Decode the image in full: decoding at a smaller size would change the caller's image."""

        def full_size(width: int, height: int) -> None:
            if minimum_size is not None:
                minimum_size(width, height)  # the pipeline reserves memory for this size

        return open_image(self.image, name=self.name, minimum_size=full_size)


def find_sources(images: ImageInput | Iterable[ImageInput]) -> Iterator[Openable]:
    """The images of `Predictor.__call__`, each as a source of the pipeline. Those of a list are checked at once.

    Raises InputError, ValueError and TypeError as `Predictor.__call__` does.
    """
    one = (str, Path, Image, np.ndarray, bytes, Mapping)
    if isinstance(images, one) or not isinstance(images, Iterable):
        return iter(_sources("images", [images]))  # type: ignore[list-item]  # which refuses bytes and others
    # All paths in a row are expanded together; every other image is a group of its own.
    groups = groupby(enumerate(images), lambda item: -1 if isinstance(item[1], str | Path) else item[0])
    parts = (_sources(f"images[{index}]", [image for _, image in group]) for index, group in groups)
    return chain.from_iterable(list(parts) if isinstance(images, Sequence) else parts)


def _sources(name: str, images: list[ImageInput]) -> Iterable[Openable]:
    """The sources of one or more paths, or of one Pillow image or array, which is called `name`."""
    image, *_ = images
    if isinstance(image, str | Path):
        return expand(map(str, images))
    if isinstance(image, Image):
        return [_PillowSource(name, image)]
    if not isinstance(image, np.ndarray):
        raise TypeError(
            f"{name} must be a path, a Pillow image or a NumPy array, not {type(image).__name__}; for the bytes of a "
            "file use predict_bytes, for a tensor (3, H, W) tensor.permute(1, 2, 0).numpy()"
        )
    check_pixels(name, image)
    return [ImageSource(name, image)]


def _not_bytes(name: str, data: object) -> TypeError:
    return TypeError(f"{name} must be the bytes of an image file, not {type(data).__name__}; call the Predictor")


def _bytes_source(name: str, data: object) -> ImageSource:
    if not isinstance(data, bytes | bytearray | memoryview):
        raise _not_bytes(name, data)
    return ImageSource(name, bytes(data))


def predict(
    engine: Engine,
    preprocessing: Preprocessing,
    class_names: list[str],
    sources: Iterable[Openable],
    *,
    activation: OutputActivation = "softmax",
    top: int = 5,
    batch_size: int = 16,
    decode: Decode = "exact",
    resize: Resizer | None = None,
    first_batch: int = FIRST_BATCH,
) -> Iterator[Prediction]:
    """Yield a Prediction for each source, in order. An image that cannot be read does not stop the others.

    `activation` makes probabilities of logits, see `top_classes`. `batch_size`, `decode`, `resize` and `first_batch`
    are those of `pipeline.run_pipeline`, and so are the exceptions.
    """
    options: dict[str, Any] = {"batch_size": batch_size, "decode": decode, "resize": resize, "first_batch": first_batch}
    for output in run_pipeline(engine, preprocessing, sources, **options):
        name = output.source.name
        if output.logits is None:
            yield Prediction(name, [], output.error)
        elif not np.isfinite(output.logits).all():
            yield Prediction(name, [], not_finite(output.source.name))
        else:
            yield Prediction(name, top_classes(output.logits, class_names, top, activation))


def top_classes(
    logits: NDArray[np.float32], class_names: list[str], top: int, activation: OutputActivation = "softmax"
) -> list[tuple[str, float]]:
    """The `top` classes with the highest logits, best first, each with its probability, computed in float64.

    `logits` has shape (num_classes,). With "sigmoid" each class has a probability of its own, and they do not sum to 1;
    one logit is that of the second of two classes. Of classes with equal logits, the first in `class_names` is first.
    """
    values = probabilities(logits.astype(np.float64), activation)
    logits = class_logits(logits, activation)
    count = min(top, len(class_names))
    threshold = np.partition(logits, -count)[-count]
    (indices,) = np.nonzero(logits >= threshold)  # more than `count` if several classes have the same logit
    indices = indices[np.argsort(-logits[indices], kind="stable")][:count]
    return [(class_names[index], float(values[index])) for index in indices.tolist()]
