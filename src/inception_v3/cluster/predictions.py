"""Predict, and compute features, on a cluster: the same outcomes in the same order as the ordinary pipeline."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

from inception_v3.cluster.run import (
    MAX_PART_IMAGES,
    Note,
    check_same_model,
    pack,
    part_size,
    path_on_nodes,
    run_parts,
)
from inception_v3.cluster.session import Cluster
from inception_v3.images.find import ImageSource
from inception_v3.images.located import LocatedImage, open_located
from inception_v3.inference.choose import OpenedModel, check_classifier, open_engine
from inception_v3.inference.pipeline import Decode, Resizer, default_resizer, run_end_points
from inception_v3.inference.predict import Prediction, predict
from inception_v3.inference.schedule import FIRST_BATCH, Result
from inception_v3.support.files import checksum

FeaturesResult = Result[LocatedImage, None]
MAX_PART_BYTES = 2**25  # of the features of a part, in the object store


@dataclass(frozen=True)
class ModelReference:
    """A model by its path or published name, with the checksum of its file, and the options of `open_engine`."""

    model: str
    sha256: str
    engine: str
    precision: str
    options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, model: str, opened: OpenedModel, **options: Any) -> "ModelReference":
        engine = opened.engine
        return cls(path_on_nodes(model), checksum(opened.file), engine.name, engine.precision, options)

    def open(self) -> OpenedModel:
        """Open the engine. Raises InputError: the file is missing or another one, or the engine is not installed."""
        opened = open_engine(self.model, self.engine, self.precision, callers=None, **self.options)
        check_same_model(opened.file, checksum(opened.file), self.sha256)
        return opened


@dataclass(frozen=True)
class ImagePart:
    """Consecutive images. `first_batch` is the size of the first batch, so that batches are those of one machine."""

    images: list[LocatedImage]
    first_batch: int

    def sources(self) -> Iterator[ImageSource]:
        return open_located(self.images)


@dataclass(frozen=True)
class PredictJob:
    """The arguments of `predict` for one part."""

    reference: ModelReference
    top: int
    batch_size: int
    decode: Decode
    resize: Resizer = field(default_factory=default_resizer)

    def open(self) -> Callable[[ImagePart], list[Prediction]]:
        opened = self.reference.open()
        description = opened.description
        check_classifier(self.reference.model, description.settings, description.outputs)

        def compute(part: ImagePart) -> list[Prediction]:
            return list(
                predict(
                    opened.engine,
                    description.preprocessing,
                    description.names(),
                    part.sources(),
                    activation=description.settings.output_activation,
                    top=self.top,
                    batch_size=self.batch_size,
                    decode=self.decode,
                    resize=self.resize,
                    first_batch=part.first_batch,
                )
            )

        return compute


@dataclass(frozen=True)
class FeaturesJob:
    """The arguments of `run_end_points` for one part."""

    reference: ModelReference
    outputs: dict[str, str]
    batch_size: int
    decode: Decode
    image_bytes: int  # of the features of an image
    resize: Resizer = field(default_factory=default_resizer)

    def open(self) -> Callable[[ImagePart], list[FeaturesResult]]:
        opened = self.reference.open()
        settings: dict[str, Any] = {"batch_size": self.batch_size, "decode": self.decode, "resize": self.resize}

        def compute(part: ImagePart) -> list[FeaturesResult]:
            results = run_end_points(
                opened.engine,
                opened.description.preprocessing,
                part.sources(),
                self.outputs,
                **settings,
                first_batch=part.first_batch,
            )
            pairs = zip(part.images, results, strict=True)
            return [FeaturesResult(image, None, result.outputs, result.error) for image, result in pairs]

        return compute


def split(
    images: Iterable[LocatedImage], first_batch: int, batch_size: int, actors: int, most: int = MAX_PART_IMAGES
) -> list[bytes]:
    """The images as packed parts of whole batches, in the batches that one machine computes.

    The first part is the first batch, which is small, so that the first results come soon. A part is compressed to a
    few bytes an image.
    """
    found = iter(images)
    parts: list[bytes] = []
    if first := list(islice(found, first_batch)):
        parts.append(pack(ImagePart(first, first_batch)))
    ahead: deque[LocatedImage] = deque()
    while True:
        ahead.extend(islice(found, 2 * actors * most - len(ahead)))
        if not ahead:
            return parts
        size = min(part_size(len(ahead), actors, batch_size, most), len(ahead))
        parts.append(pack(ImagePart([ahead.popleft() for _ in range(size)], batch_size)))


def predict_on(cluster: Cluster, job: PredictJob, images: Iterable[LocatedImage], note: Note) -> Iterator[Prediction]:
    """Yield a Prediction for each image, in order. Raises InputError as `run_parts` does."""
    parts = split(images, FIRST_BATCH, job.batch_size, cluster.actors[1])
    yield from chain.from_iterable(run_parts(cluster, job, parts, note))


def features_on(
    cluster: Cluster, job: FeaturesJob, images: Iterable[LocatedImage], note: Note
) -> Iterator[FeaturesResult]:
    """Yield the features of each image, in order. Raises InputError as `run_parts` does."""
    most = min(MAX_PART_IMAGES, MAX_PART_BYTES // job.image_bytes)
    parts = split(images, FIRST_BATCH, job.batch_size, cluster.actors[1], most)
    yield from chain.from_iterable(run_parts(cluster, job, parts, note))
