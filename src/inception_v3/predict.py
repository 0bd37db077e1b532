"""From pictures on disk to the likeliest classes, in batches and in order, whatever their number."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from inception_v3.devices import autocast
from inception_v3.errors import InputError
from inception_v3.images import Source
from inception_v3.network import InceptionV3


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


@torch.inference_mode()
def predict(
    model: InceptionV3, sources: Iterable[Source], *, top: int = 5, batch_size: int = 16
) -> Iterator[Prediction]:
    """A Prediction for each source, in order; one that cannot be read does not stop the others.

    The model should be in inference mode, as `load` returns it. Classes without a name are called by their number.
    """
    device = next(model.parameters()).device
    names = model.class_names or [str(number) for number in range(model.settings["num_classes"])]
    waiting = iter(sources)
    while chunk := list(islice(waiting, batch_size)):
        pixels = [_pixels(model, source) for source in chunk]
        readable = [tensor for tensor in pixels if isinstance(tensor, Tensor)]
        rows: Iterator[tuple[list[float], list[int]]] = iter(())
        if readable:
            images = model.preprocessing.scale(torch.stack(readable).to(device))
            with autocast(device):
                logits, _ = model(images.contiguous(memory_format=torch.channels_last), end_points=())
            best = logits.float().softmax(1).cpu().topk(min(top, len(names)))
            rows = zip(best.values.tolist(), best.indices.tolist(), strict=True)
        for source, tensor in zip(chunk, pixels, strict=True):
            if isinstance(tensor, Tensor):
                shares, classes = next(rows)
                ranked = [(names[place], share) for place, share in zip(classes, shares, strict=True)]
                yield Prediction(source.name, ranked)
            else:
                yield Prediction(source.name, [], tensor)


def _pixels(model: InceptionV3, source: Source) -> Tensor | str:
    try:
        return model.preprocessing.pixels(source.open())
    except InputError as error:
        return str(error)
