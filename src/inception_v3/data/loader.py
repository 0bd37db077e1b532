"""Batches of pixels: decoded, augmented and resized, in worker processes where that pays."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from inception_v3.data.pictures import Pictures
from inception_v3.errors import InputError
from inception_v3.preprocessing import Preprocessing


@dataclass
class Batch:
    """uint8 pictures (N, 3, H, W), labels (N,), their places in the data set, and what could not be read."""

    images: Tensor
    labels: Tensor
    indices: Tensor
    bad: list[tuple[str, str]]  # (file, reason)

    def pin_memory(self) -> "Batch":
        return Batch(self.images.pin_memory(), self.labels, self.indices, self.bad)


class PixelDataset(Dataset[tuple[int, Tensor | None, int, str]]):
    """Decodes, augments and resizes; a picture that cannot be read comes back as None with the reason."""

    def __init__(self, pictures: Pictures, preprocessing: Preprocessing, augment: Any = None) -> None:
        self.pictures, self.preprocessing, self.augment = pictures, preprocessing, augment

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[int, Tensor | None, int, str]:
        label = self.pictures.labels[index]
        try:
            image = self.pictures.open(index)
        except InputError as error:
            return index, None, label, str(error)
        pixels = self.augment(image) if self.augment else self.preprocessing.pixels(image)
        return index, pixels, label, ""


def collate(items: list[tuple[int, Tensor | None, int, str]], size: tuple[int, int]) -> Batch:
    good = [(index, pixels, label) for index, pixels, label, _ in items if pixels is not None]
    images = torch.stack([pixels for _, pixels, _ in good]) if good else torch.empty(0, 3, *size, dtype=torch.uint8)
    return Batch(
        images,
        torch.tensor([label for *_, label in good], dtype=torch.long),
        torch.tensor([index for index, *_ in good], dtype=torch.long),
        [(str(index), reason) for index, pixels, _, reason in items if pixels is None],
    )


def batches(
    pictures: Pictures,
    preprocessing: Preprocessing,
    batch_size: int,
    *,
    augment: Any = None,
    shuffle: bool = False,
    workers: int = 0,
    generator: torch.Generator | None = None,
) -> DataLoader[Any]:
    """A DataLoader of `Batch`; with `shuffle` a new order every epoch, drawn from `generator`."""
    return DataLoader(
        PixelDataset(pictures, preprocessing, augment),
        batch_size,
        shuffle=shuffle,
        num_workers=workers,
        collate_fn=partial(collate, size=preprocessing.image_size),
        generator=generator,
        persistent_workers=workers > 0,
    )
