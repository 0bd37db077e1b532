"""Predict, and compute features, on a cluster: the same outcomes in the same order as the ordinary pipeline."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from inception_v3.cluster.run import Note, pack, run_parts
from inception_v3.cluster.session import Cluster
from inception_v3.errors import InputError
from inception_v3.images.find import ImageSource
from inception_v3.images.located import LocatedImage, open_located
from inception_v3.inference.choose import OpenedModel, check_classifier, open_engine
from inception_v3.inference.pipeline import Decode, Resizer, default_resizer, run_end_points
from inception_v3.inference.predict import Prediction, predict
from inception_v3.inference.schedule import FIRST_BATCH, Result
from inception_v3.support.cpu import limit_cores
from inception_v3.support.files import checksum

PARTS_PER_ACTOR = 8  # at least, so that all actors end at about the same time
MAX_PART_IMAGES = 256  # at most: the images that are computed again after an actor ends


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
        path = Path(model)
        return cls(
            str(path.absolute()) if path.exists() else model,
            checksum(opened.file),
            opened.engine.name,
            opened.engine.precision,
            options,
        )

    def open(self, cpus: int) -> OpenedModel:
        """Open the engine on that many cores. Raises InputError: the file is missing or another one, or no engine."""
        limit_cores(cpus)
        opened = open_engine(self.model, self.engine, self.precision, callers=None, **self.options)
        if checksum(opened.file) != self.sha256:
            fault = "is another file on this node; copy the model to all nodes, or give a path on shared storage"
            raise InputError(f"{opened.file}: {fault}")
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

    def open(self, cpus: int) -> Callable[[ImagePart], list[Prediction]]:
        opened = self.reference.open(cpus)
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


def split(images: Iterable[LocatedImage], batch_size: int, actors: int) -> list[bytes]:
    """The images as packed parts of whole batches, in the batches that one machine computes.

    The first part is small, so that the first results come soon. A part is compressed to a few bytes an image.
    """
    images = list(images)
    fair = len(images) // (actors * PARTS_PER_ACTOR)
    size = max(1, min(fair, MAX_PART_IMAGES) // batch_size) * batch_size
    remaining, parts = iter(images), []
    while chunk := list(islice(remaining, size if parts else FIRST_BATCH + batch_size)):
        parts.append(pack(ImagePart(chunk, batch_size if parts else FIRST_BATCH)))
    return parts


def predict_on(
    cluster: Cluster, job: PredictJob, images: Iterable[LocatedImage], note: Note
) -> Iterator[Prediction]:
    """Yield a Prediction for each image, in order. Raises InputError as `run_parts` does."""
    for result in run_parts(cluster, job, split(images, job.batch_size, cluster.actors[1]), note):
        yield from result.value
