"""What a training leaves behind, for people, for TensorBoard and for `evaluate`.

model.safetensors       the model to use, replaced after every epoch
recipe.json             every number that it was trained with
training_images.txt     what it was trained on, so that evaluation can leave it out
bad_images.csv          what could not be read, and why
metrics.jsonl           a line for each epoch
tensorboard/            the same, for TensorBoard
curves.png, confusion_matrix.png
"""

import csv
import io
import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inception_v3.checkpoint import MODEL_FILE
from inception_v3.errors import InputError
from inception_v3.files import cannot_write, replacing
from inception_v3.recipe import Recipe

if TYPE_CHECKING:
    from inception_v3.evaluate import Metrics

TRAINING_IMAGES = "training_images.txt"
BAD_IMAGES = "bad_images.csv"
PLOTS = ("curves.png", "confusion_matrix.png")
PRODUCED = (MODEL_FILE, "recipe.json", TRAINING_IMAGES, BAD_IMAGES, "metrics.jsonl", *PLOTS)


class RunFolder:
    """Raises InputError where the folder holds a run already, cannot be written, or the disk is full."""

    def __init__(self, path: Path, *, overwrite: bool = False) -> None:
        self.path = path
        self.model_file = path / MODEL_FILE
        self.bad_images_file = path / BAD_IMAGES
        self.epochs: list[dict[str, float]] = []
        self.missing: list[str] = []  # extras that would have drawn or logged something
        self._bad: dict[str, str] = {}
        if self.model_file.exists() and not overwrite:
            raise InputError(f"{path}: holds a model already; give another --out, or --overwrite", exit_status=2)
        try:
            path.mkdir(parents=True, exist_ok=True)
            for name in PRODUCED:
                (path / name).unlink(missing_ok=True)
            for events in (path / "tensorboard").glob("events.out.tfevents.*"):
                events.unlink()
        except OSError as error:
            raise cannot_write(path, error) from error
        self._writer = self._tensorboard()

    def _tensorboard(self) -> Any:
        try:
            from torch.utils.tensorboard.writer import SummaryWriter
        except ImportError:
            self.missing.append("TensorBoard logs")
            return None
        return SummaryWriter(str(self.path / "tensorboard"))

    def start(self, recipe: Recipe, training_images: list[str]) -> None:
        self._write("recipe.json", json.dumps(asdict(recipe), indent=2) + "\n")
        self._write(TRAINING_IMAGES, "".join(f"{name}\n" for name in training_images))

    def bad_image(self, name: str, reason: str) -> None:
        """Note a picture that cannot be read."""
        if name not in self._bad:
            self._bad[name] = reason
            table = io.StringIO()
            csv.writer(table, lineterminator="\n").writerows([("image", "reason"), *self.bad_images])
            self._write(BAD_IMAGES, table.getvalue())

    @property
    def bad_images(self) -> list[tuple[str, str]]:
        return sorted(self._bad.items())

    def log(self, **figures: float) -> None:
        """The figures of one epoch."""
        self.epochs.append(figures)
        self._write("metrics.jsonl", "".join(json.dumps(epoch) + "\n" for epoch in self.epochs))
        if self._writer is not None:
            try:
                for name, value in figures.items():
                    self._writer.add_scalar(name, value, int(figures["epoch"]))
                self._writer.flush()
            except OSError as error:
                raise cannot_write(self.path / "tensorboard", error) from error

    def finish(self, metrics: "Metrics") -> None:
        """The curves and the confusion matrix."""
        try:
            from inception_v3 import plots
        except ImportError:
            self.missing.append("curves and confusion matrix")
            return
        with replacing(self.path / "curves.png") as temporary:
            plots.curves(self.epochs, temporary)
        with replacing(self.path / "confusion_matrix.png") as temporary:
            plots.confusion_matrix(metrics.confusion, metrics.class_names, temporary)

    def close(self) -> None:
        if self._writer is not None:
            with suppress(OSError):  # a full disk has been told already
                self._writer.close()

    def _write(self, name: str, text: str) -> None:
        with replacing(self.path / name) as temporary:
            temporary.write_text(text, "utf-8")


def training_images(model_path: Path) -> set[str]:
    """The names of the pictures that the model of this run folder, or file in one, was trained on."""
    folder = model_path if model_path.is_dir() else model_path.parent
    try:
        return set((folder / TRAINING_IMAGES).read_text("utf-8").splitlines())
    except OSError:
        return set()
