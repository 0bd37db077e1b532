"""How good a model is: top-1, top-5, and every class by itself."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from inception_v3.data import Batch
from inception_v3.devices import autocast
from inception_v3.network import InceptionV3


@dataclass
class Metrics:
    """`confusion[i, j]`: pictures of class i that were taken for class j. Rates are 0 to 1."""

    class_names: list[str]
    confusion: np.ndarray
    top5_hits: int
    loss: float
    bad: list[tuple[str, str]] = field(default_factory=list)  # (place in the data set, reason)

    @property
    def count(self) -> int:
        return int(self.confusion.sum())

    @property
    def top1(self) -> float:
        return float(np.trace(self.confusion)) / max(self.count, 1)

    @property
    def top5(self) -> float:
        return self.top5_hits / max(self.count, 1)

    def per_class(self) -> list[dict[str, Any]]:
        """For each class: its name, pictures, recall (of its own pictures, the share found) and precision."""
        right, real, claimed = np.diag(self.confusion), self.confusion.sum(1), self.confusion.sum(0)
        return [
            {
                "class": name,
                "count": int(real[i]),
                "recall": float(right[i] / real[i]) if real[i] else None,
                "precision": float(right[i] / claimed[i]) if claimed[i] else None,
            }
            for i, name in enumerate(self.class_names)
        ]

    def as_dict(self) -> dict[str, Any]:
        return {
            "count": self.count,
            "top1": self.top1,
            "top5": self.top5,
            "loss": self.loss,
            "classes": self.per_class(),
            "confusion": self.confusion.tolist(),
            "bad": [{"image": image, "reason": reason} for image, reason in self.bad],
        }


@torch.inference_mode()
def evaluate(
    model: InceptionV3,
    loader: DataLoader[Any],
    class_names: list[str],
    on_batch: Callable[[int], None] = lambda done: None,
) -> Metrics:
    """Run the model over every batch of data.batches, in inference mode; `on_batch` gets each batch's size.

    Top-5 of a network with fewer than five classes counts as many as there are.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    classes = len(class_names)
    confusion = torch.zeros(classes, classes, dtype=torch.long)
    top5_hits, loss = 0, 0.0
    bad: list[tuple[str, str]] = []
    for batch in loader:
        assert isinstance(batch, Batch)
        bad += batch.bad
        if len(batch.labels):
            images = model.preprocessing.scale(batch.images.to(device)).contiguous(memory_format=torch.channels_last)
            with autocast(device):
                logits, _ = model(images, end_points=())
            logits = logits.float().cpu()
            top5 = logits.topk(min(5, classes)).indices
            confusion.index_put_((batch.labels, top5[:, 0]), torch.ones_like(batch.labels), accumulate=True)
            top5_hits += int((top5 == batch.labels[:, None]).sum())
            loss += float(torch.nn.functional.cross_entropy(logits, batch.labels, reduction="sum"))
        on_batch(len(batch.labels) + len(batch.bad))
    model.train(was_training)
    count = int(confusion.sum())
    return Metrics(class_names, confusion.numpy(), top5_hits, loss / max(count, 1), bad)
