"""Batches of pixels: images are decoded, augmented and resized, optionally in worker processes."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from inception_v3.data.labelled_images import LabelledImages
from inception_v3.data.workers import (
    can_start_workers,
    choose_sender,
    explain_each,
    explain_worker_failure,
    start_worker,
    starting_workers,
)
from inception_v3.errors import InputError
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.support.arguments import BatchSize, Workers, checked
from inception_v3.support.seeds import derive_seed, epoch_order

ImageTransform = Callable[[Image], Tensor]  # an RGB image to uint8 (3, H, W)
PREFETCHED, HELD = 2, 2  # batches: computed ahead by each worker, and those that the main process uses and copies
Augmentation = Callable[[Preprocessing], ImageTransform]  # returns the transform for the image size of a Preprocessing


@dataclass
class Batch:
    """The images of a batch, and those that could not be read.

    images: uint8 (N, 3, H, W); (N, crops, 3, H, W) if the transform returns several crops of each image.
    labels: int64 (N,).
    indices: of the images in the data set, int64 (N,).
    bad: (name, reason) of each image that could not be read. These images are not among the N.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    bad: list[tuple[str, str]]

    def pin_memory(self) -> "Batch":
        return Batch(self.images.pin_memory(), self.labels, self.indices, self.bad)


@dataclass(frozen=True)
class AugmentedIndex:
    """The index of an image in the data set, with the seed and the image size of its augmentation."""

    index: int
    seed: int
    image_size: int


Sample = tuple[int, Tensor | None, int, tuple[str, str] | None]  # (index, pixels, label, (name, reason) without pixels)


class PixelDataset(Dataset[Sample]):
    """Decodes and transforms images: with `augment` for an `AugmentedIndex`, with `transform` for a plain index.

    The sample of an image that cannot be read has None instead of pixels, and the image's name and the reason.
    """

    def __init__(
        self,
        images: LabelledImages,
        preprocessing: Preprocessing,
        augment: Augmentation | None = None,
        transform: ImageTransform | None = None,
    ) -> None:
        self.images, self.preprocessing, self.augment = images, preprocessing, augment
        self.transform = transform or preprocessing.pixels
        self._augmentations: dict[int, ImageTransform] = {}  # by image size

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, item: int | AugmentedIndex) -> Sample:
        index = item.index if isinstance(item, AugmentedIndex) else item
        label = self.images.labels[index]
        try:
            image = self.images.open(index)
        except InputError as error:
            return index, None, label, (self.images.names[index], str(error))
        if isinstance(item, int):
            return index, self.transform(image), label, None
        # Seed the global generator for this image only, so that the number of workers does not change the result.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(item.seed)
            return index, self._augmentation(item.image_size)(image), label, None

    def _augmentation(self, size: int) -> ImageTransform:
        if size not in self._augmentations:
            preprocessing = self.preprocessing.at(size)
            self._augmentations[size] = self.augment(preprocessing) if self.augment else preprocessing.pixels
        return self._augmentations[size]


def _collate(samples: list[Sample], size: tuple[int, int], send: Callable[[Batch], Any] | None) -> Any:
    """The batch of the samples. In a worker process, `send` prepares it to be sent."""
    readable = [(index, pixels, label) for index, pixels, label, _ in samples if pixels is not None]
    batch = Batch(
        torch.stack([pixels for _, pixels, _ in readable]) if readable else torch.empty(0, 3, *size, dtype=torch.uint8),
        torch.tensor([label for *_, label in readable], dtype=torch.long),
        torch.tensor([index for index, *_ in readable], dtype=torch.long),
        [bad for *_, bad in samples if bad is not None],
    )
    return send(batch) if send else batch


class _Loader(DataLoader[Any]):
    """A DataLoader of `Batch`. Iterating raises WorkerError if a worker process cannot start, fails or ends."""

    def __init__(self, dataset: PixelDataset, workers: int, images: int, **options: Any) -> None:
        """`images` is the number of images in a batch of all processes that train together."""
        workers = workers if can_start_workers(workers) else 0
        size = dataset.preprocessing.image_size
        send = choose_sender((PREFETCHED * workers + HELD) * images * 3 * math.prod(size)) if workers else None
        super().__init__(
            dataset,
            num_workers=workers,
            collate_fn=partial(_collate, size=size, send=send),
            worker_init_fn=start_worker,
            prefetch_factor=PREFETCHED if workers else None,
            persistent_workers=workers > 0,  # keep them between epochs: starting them takes long
            **options,
        )
        self._started = False

    def __iter__(self) -> Any:
        if not self.num_workers:
            return super().__iter__()
        with explain_worker_failure():
            if self._started:  # wait for the workers, which may take long
                return explain_each(super().__iter__())
            self._started = True
            with starting_workers():
                return explain_each(super().__iter__())


@checked
def batches(
    images: LabelledImages,
    preprocessing: Preprocessing,
    batch_size: BatchSize,
    *,
    transform: ImageTransform | None = None,
    workers: Workers = 0,
) -> DataLoader[Any]:
    """A DataLoader of `Batch`: every image once, in order, preprocessed as for prediction or with `transform`."""
    return _Loader(PixelDataset(images, preprocessing, transform=transform), workers, batch_size, batch_size=batch_size)


class TrainingBatches:
    """The batches of a training's steps, epoch by epoch: shuffled, augmented, and divided among the processes.

    The images of a step and their augmentation depend only on the seed, the epoch, and the index of the step's first
    image in the order of the epoch.
    """

    def __init__(
        self,
        images: LabelledImages,
        preprocessing: Preprocessing,
        step_size: int,
        *,
        augment: Augmentation | None = None,
        seed: int = 0,
        workers: int = 0,
        process: int = 0,
        processes: int = 1,
        pin_memory: bool = False,
    ) -> None:
        """`step_size` is the number of images per step in all `processes` together; `process` is this one's index."""
        self._sampler = _StepSampler(len(images), step_size, seed, process, processes)
        self._loader = _Loader(
            PixelDataset(images, preprocessing, augment),
            workers,
            step_size,
            batch_sampler=self._sampler,
            pin_memory=pin_memory,  # lets a GPU copy the next batch while it computes
        )

    def __len__(self) -> int:
        """The number of steps in a whole epoch."""
        return -(-self._sampler.count // self._sampler.step_size)

    def epoch(self, epoch: int, image_size: int, start: int = 0) -> Iterator[tuple[int, Batch]]:
        """Iterate over the steps of an epoch, from image `start` on in the order of the epoch. Epochs count from 0.

        Yields the number of images that all processes have in the step, readable or not, and this process's batch.
        """
        self._sampler.begin(epoch, image_size, start)
        yield from zip(self._sampler.lengths(), self._loader, strict=True)


class _StepSampler(Sampler[list[AugmentedIndex]]):
    """Yields the indices of this process's images in each step.

    Each index carries its seed and image size, because persistent workers keep an unchanged copy of the data set.
    """

    def __init__(self, count: int, step_size: int, seed: int, process: int, processes: int) -> None:
        self.count, self.step_size, self.seed, self.process, self.processes = count, step_size, seed, process, processes
        self.begin(0, 0, 0)

    def begin(self, epoch: int, image_size: int, start: int) -> None:
        self._epoch, self._image_size, self._start = epoch, image_size, start

    def lengths(self) -> list[int]:
        return [min(self.step_size, self.count - first) for first in range(self._start, self.count, self.step_size)]

    def __iter__(self) -> Iterator[list[AugmentedIndex]]:
        order = epoch_order(self.seed, self._epoch, self.count)
        for start, length in zip(range(self._start, self.count, self.step_size), self.lengths(), strict=True):
            # Consecutive parts, rounded so that process 0 has no fewer images than the others.
            first, last = (start - (-length * part // self.processes) for part in (self.process, self.process + 1))
            yield [
                AugmentedIndex(index, derive_seed("picture", self.seed, self._epoch, index), self._image_size)
                for index in order[first:last]
            ]
