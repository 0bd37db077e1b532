"""Batches of pixels: decoded, augmented and resized, in worker processes where that pays."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from inception_v3.data.pictures import Pictures
from inception_v3.errors import InputError
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.support.seeds import epoch_order, derive_seed

Augment = Callable[[Image], Tensor]


@dataclass
class Batch:
    """uint8 pictures (N, 3, H, W), labels (N,), their places in the data set, and (name, reason) of what could not be
    read."""

    images: Tensor
    labels: Tensor
    indices: Tensor
    bad: list[tuple[str, str]]

    def pin_memory(self) -> "Batch":
        return Batch(self.images.pin_memory(), self.labels, self.indices, self.bad)


@dataclass(frozen=True)
class Draw:
    """One picture in one epoch of a training: all that a worker needs to change it the same way every time."""

    place: int
    seed: int
    size: int


Item = tuple[int, Tensor | None, int, tuple[str, str] | None]  # place, pixels, label, and (name, reason) without pixels


class PixelDataset(Dataset[Item]):
    """Decodes and resizes, and augments what is asked for by a `Draw`.

    A picture that cannot be read comes back as None with its name and the reason.
    """

    def __init__(
        self,
        pictures: Pictures,
        preprocessing: Preprocessing,
        augment: Callable[[Preprocessing], Augment] | None = None,
        views: Augment | None = None,
    ) -> None:
        self.pictures, self.preprocessing, self.augment = pictures, preprocessing, augment
        self.views = views or preprocessing.pixels
        self._steps: dict[int, Augment] = {}  # for each size

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, asked: int | Draw) -> Item:
        place = asked.place if isinstance(asked, Draw) else asked
        label = self.pictures.labels[place]
        try:
            image = self.pictures.open(place)
        except InputError as error:
            return place, None, label, (self.pictures.names[place], str(error))
        if isinstance(asked, int):
            return place, self.views(image), label, None
        # The generator of this process is set for this picture, and put back: worker or not, it makes no difference.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(asked.seed)
            return place, self._for_size(asked.size)(image), label, None

    def _for_size(self, size: int) -> Augment:
        if size not in self._steps:
            preprocessing = self.preprocessing.at(size)
            self._steps[size] = self.augment(preprocessing) if self.augment else preprocessing.pixels
        return self._steps[size]


def collate(items: list[Item], size: tuple[int, int]) -> Batch:
    good = [(index, pixels, label) for index, pixels, label, _ in items if pixels is not None]
    images = torch.stack([pixels for _, pixels, _ in good]) if good else torch.empty(0, 3, *size, dtype=torch.uint8)
    return Batch(
        images,
        torch.tensor([label for *_, label in good], dtype=torch.long),
        torch.tensor([index for index, *_ in good], dtype=torch.long),
        [bad for *_, bad in items if bad is not None],
    )


def batches(
    pictures: Pictures,
    preprocessing: Preprocessing,
    batch_size: int,
    *,
    views: Augment | None = None,
    workers: int = 0,
) -> DataLoader[Any]:
    """A DataLoader of `Batch`: every picture once, in order, as prediction sees it, or the `views` of each."""
    return _Loader(
        PixelDataset(pictures, preprocessing, views=views),
        batch_size,
        num_workers=workers,
        collate_fn=partial(collate, size=preprocessing.image_size),
        worker_init_fn=_leave_signals_to_the_main_process,
        persistent_workers=workers > 0,
    )


class _Loader(DataLoader[Any]):
    """Ctrl-C waits while workers start: in libraries' own code around a fork it would be lost, or end in a crash."""

    def __iter__(self) -> Any:
        with _later(signal.SIGINT):
            return super().__iter__()


@contextmanager
def _later(number: int) -> Iterator[None]:
    """A signal that comes in here is dealt with at the end."""
    if threading.current_thread() is not threading.main_thread():  # others may not ask for signals
        yield
        return
    came: list[int] = []
    before = signal.signal(number, lambda came_now, _: came.append(came_now))
    try:
        yield
    finally:
        signal.signal(number, before)
        if came:
            signal.raise_signal(number)


class TrainingBatches:
    """The steps of a training, epoch after epoch: shuffled, augmented, shared out to the processes.

    What is in a step depends on the seed, the epoch and where in its order the step begins, and on nothing else.
    """

    def __init__(
        self,
        pictures: Pictures,
        preprocessing: Preprocessing,
        step_size: int,
        *,
        augment: Callable[[Preprocessing], Augment] | None = None,
        seed: int = 0,
        workers: int = 0,
        process: int = 0,
        processes: int = 1,
        pin_memory: bool = False,
    ) -> None:
        self._steps = _Steps(len(pictures), step_size, seed, process, processes)
        self._loader = _Loader(
            PixelDataset(pictures, preprocessing, augment),
            batch_sampler=self._steps,
            num_workers=workers,
            collate_fn=partial(collate, size=preprocessing.image_size),
            worker_init_fn=_leave_signals_to_the_main_process,
            pin_memory=pin_memory,  # for a GPU, which then fetches while it computes
            persistent_workers=workers > 0,  # they outlive the epoch: what to draw reaches them with each step
        )

    def __len__(self) -> int:
        """Steps of a whole epoch."""
        return -(-self._steps.count // self._steps.size)

    def epoch(self, epoch: int, image_size: int, start: int = 0) -> Iterator[tuple[int, Batch]]:
        """The rest of an epoch, counted from 0, from a place in its order on.

        Of each step: how many pictures all processes have in it, readable or not, and this process's share.
        """
        self._steps.begin(epoch, image_size, start)
        yield from zip(self._steps.lengths(), self._loader, strict=True)


class _Steps(Sampler[list[Draw]]):
    def __init__(self, count: int, size: int, seed: int, process: int, processes: int) -> None:
        self.count, self.size, self.seed, self.process, self.processes = count, size, seed, process, processes
        self.begin(0, 0, 0)

    def begin(self, epoch: int, image_size: int, start: int) -> None:
        self._epoch, self._image_size, self._start = epoch, image_size, start

    def lengths(self) -> list[int]:
        return [min(self.size, self.count - at) for at in range(self._start, self.count, self.size)]

    def __iter__(self) -> Iterator[list[Draw]]:
        order = epoch_order(self.seed, self._epoch, self.count)
        at = self._start
        for length in self.lengths():
            # In a row, and the first process has no fewer than the others.
            first, last = (at - (-length * process // self.processes) for process in (self.process, self.process + 1))
            yield [
                Draw(place, derive_seed("picture", self.seed, self._epoch, place), self._image_size)
                for place in order[first:last]
            ]
            at += length


def _leave_signals_to_the_main_process(_: int) -> None:
    """Ctrl-C and SIGTERM often go to all processes at once, and the main one still needs the others to stop well."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not hasattr(signal, "sigwaitinfo"):
        return  # macOS does not tell who asks: SIGTERM ends workers there
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_when_the_main_process_asks, daemon=True).start()


def _end_when_the_main_process_asks() -> None:
    """As multiprocessing does of processes that are left when it ends; a handler in Python is not told who asks."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
