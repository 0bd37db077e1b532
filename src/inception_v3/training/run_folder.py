"""The run folder: everything that a training writes, for people, for TensorBoard and for `evaluate`.

model.safetensors       the model to use: that of the last epoch, replaced after every epoch
best.safetensors        the model of the epoch with the best top-1 accuracy on the held-out images
checkpoints/            complete states of the training at some steps, for --resume
recipe.json             the recipe
training_images.txt     the names of the training images, so that evaluation can leave them out
bad_images.csv          the images that could not be read, with the reason
metrics.jsonl           one line per epoch
tensorboard/            the same figures and more, for TensorBoard
curves.png, confusion_matrix.png
README.md               the model card, as the Hugging Face hub reads it: results, origin, data, licence
"""

import json
import os
import shutil
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inception_v3.data.labelled_images import LabelledImages
from inception_v3.errors import InputError
from inception_v3.support.arguments import Count, checked
from inception_v3.support.files import atomic_write, check_folder, file_lock, write_errors, write_text
from inception_v3.support.json_values import parse_json
from inception_v3.support.packages import missing_packages
from inception_v3.support.system_errors import file_status, is_folder, list_folder, read_error
from inception_v3.support.text import csv_record, text_line
from inception_v3.training import state as training_state
from inception_v3.training import trackers
from inception_v3.training.recipe import Recipe
from inception_v3.training.state import TrainingState
from inception_v3.weights import BEST_FILE, MODEL_FILE
from inception_v3.weights.load import load, save
from inception_v3.weights.read import base_of

if TYPE_CHECKING:
    from inception_v3.evaluation.evaluate import Metrics
    from inception_v3.weights.model import InceptionV3

CHECKPOINTS = "checkpoints"
TRAINING_IMAGES = "training_images.txt"
BAD_IMAGES = "bad_images.csv"
CARD_MARK = "<!-- inception-v3 replaces this file after a training; remove this line to keep your own text -->"
PRODUCED = (MODEL_FILE, BEST_FILE, "recipe.json", TRAINING_IMAGES, BAD_IMAGES, "metrics.jsonl", "curves.png",
            "confusion_matrix.png")  # fmt: skip


class RunFolder:
    """The folder of one training, locked until `close`.

    Of several processes only the first is the `writer`; in the others, no method writes anything.

    Args:
        path: the folder, which is created, and deleted at the end if nothing was written.
        overwrite: replace a run that the folder already holds.
        resume: continue a run that the folder already holds.
        keep: number of saved states to keep.
        track: trackers in addition to TensorBoard (trackers.py).
        data_name: the name of the data set, for the model card.
        facts: stored in every model of the run, beside those about its training.

    Raises:
        InputError: the folder holds a run and neither `overwrite` nor `resume` is set, another training uses it, it
            cannot be written, the disk is full, or a tracker is unknown or not installed.
    """

    @checked
    def __init__(
        self,
        path: str | Path,
        *,
        overwrite: bool = False,
        resume: bool = False,
        keep: Count = 2,
        track: Sequence[str] = (),
        writer: bool = True,
        data_name: str | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = path = Path(path)
        self.keep, self.writer = keep, writer
        self.data_name, self.facts = data_name, dict(facts or {})
        self.model_file = path / MODEL_FILE
        self.bad_images_file = path / BAD_IMAGES
        self.bad_images: list[tuple[str, str]] = []
        self._base: dict[str, Any] | None = None  # facts about the weights that the training starts from
        self.missing = ["TensorBoard logs"] if missing_packages(("tensorboard",)) else []
        self.tracker: trackers.Tracker = trackers.Trackers((), path, {})
        trackers.check_installed(track)
        self._track = [*([] if self.missing else ["tensorboard"]), *(name for name in track if name != "tensorboard")]
        self._lock = ExitStack()
        self._replaces_old_run = False  # the old run stays until the new run starts
        if not writer:
            return
        check_folder(path)
        states = self._states()
        if not overwrite and (not resume if states else file_status(self.model_file) is not None):
            held = "a run; add --resume to continue it," if states else "a model without a saved state; add"
            raise InputError(
                f"{path}: already holds {held} --overwrite to replace it, or give another --out", exit_status=2
            )
        if not self._lock.enter_context(file_lock(path / "run", on_wait=None)):
            raise InputError(f"{path}: in use by another training; wait for it, or give another --out")
        self._replaces_old_run = not (resume and self._states())

    def remove_old_run(self) -> None:
        """Remove the files of the run that this one replaces. Call this after every check that can fail."""
        if not self._replaces_old_run:
            return
        self._replaces_old_run = False
        events = (self.path / "tensorboard").glob("events.out.tfevents.*")
        with write_errors(self.path):
            for file in [*self._states(), *events, *(self.path / name for name in PRODUCED)]:
                Path(os.path.realpath(file)).unlink(missing_ok=True)  # a symbolic link stays
            if self._may_replace_card():
                Path(os.path.realpath(self.card_file)).unlink(missing_ok=True)

    def _states(self) -> list[Path]:
        """The saved states of this run, newest first."""
        return [] if self._replaces_old_run else state_files(self.path)[::-1]

    def read_latest_state(self) -> TrainingState | None:
        """The newest state that can be read, or None if there are no states.

        Raises:
            InputError: all are damaged.
        """
        states = self._states() if self.writer else []
        for number, file in enumerate(states, 1):
            try:
                return training_state.read(file)
            except InputError as error:
                if number == len(states):
                    raise
                warnings.warn(f"{error}; using the state before it", stacklevel=2)
        return None

    def start(self, recipe: Recipe, training_images: Sequence[str], step: int = 0) -> None:
        """Write the recipe and the training images, and start the trackers at `step`."""
        self.remove_old_run()
        self._write("recipe.json", json.dumps(asdict(recipe), indent=2) + "\n")
        self.write_training_images(training_images)
        if self.writer:
            self.tracker = trackers.Trackers(self._track, self.path, asdict(recipe), step)

    def write_training_images(self, names: Sequence[str]) -> None:
        self._write(TRAINING_IMAGES, "".join(f"{text_line(name)}\n" for name in names))

    def write_bad_images(self, bad_images: Mapping[str, str]) -> None:
        """Write the images that cannot be read, with the reasons, if they have changed since the last call."""
        if sorted(bad_images.items()) != self.bad_images:
            self.bad_images = sorted(bad_images.items())
            self._write(BAD_IMAGES, "".join(map(csv_record, [("image", "reason"), *self.bad_images])))

    def save_model(
        self,
        model: "InceptionV3",
        training: dict[str, Any],
        train_set: LabelledImages,
        test_set: LabelledImages,
        metrics: "Metrics | None",
        *,
        best: bool = False,
    ) -> None:
        """Write the model with facts about its training: `training`, its base, its data and its results.

        Args:
            metrics: on `test_set`; None if the model has not been evaluated since its last step.
            best: write it to best.safetensors as well.
        """
        if not self.writer:
            return
        if self._base is None:
            self._base = {} if model.origin is None else base_of(model.origin)
        data = {
            "name": self.data_name,
            "classes": len(train_set.class_names),
            "training_images": len(train_set),
            "held_out_images": len(test_set),
            "held_out_is_drawn": test_set.is_drawn,
        }
        results = None if metrics is None else {"count": metrics.count} | metrics.summary()
        facts = self.facts | {"base": self._base, "data": data, "results": results}
        save(model, self.model_file, training=training | facts)
        if best:
            with atomic_write(self.path / BEST_FILE) as temporary:
                shutil.copyfile(self.model_file, temporary)

    def write_card(self) -> None:
        """Write README.md, the card of model.safetensors. A README.md that this program did not write is kept."""
        if self.writer and self._may_replace_card():
            card = load(self.model_file).generate_model_card()
            self._write("README.md", f"{card}\n{CARD_MARK}\n")

    @property
    def card_file(self) -> Path:
        return self.path / "README.md"

    def _may_replace_card(self) -> bool:
        try:
            return CARD_MARK in self.card_file.read_text("utf-8", "replace")
        except FileNotFoundError:
            return True
        except OSError:  # perhaps the user's own
            return False

    def write_metrics(self, epochs: Sequence[Mapping[str, float]]) -> None:
        """Write the figures of every epoch so far."""
        self._write("metrics.jsonl", "".join(json.dumps(epoch) + "\n" for epoch in epochs))

    def read_metrics(self) -> list[dict[str, float]]:
        """Read the figures that `write_metrics` wrote.

        Raises:
            InputError: the file is missing or damaged.
        """
        file = self.path / "metrics.jsonl"
        try:
            return [parse_json(line, dict) for line in file.read_bytes().splitlines()]
        except OSError as error:
            raise read_error(file, error) from error
        except ValueError as error:
            raise InputError(f"{file}: damaged: {error}; train again with --overwrite") from error

    def state_file(self, step: int) -> Path:
        return self.path / CHECKPOINTS / f"step-{step:08}.safetensors"

    @property
    def latest_state_file(self) -> Path | None:
        """The newest saved state, or None."""
        return next(iter(self._states()), None)

    def delete_old_states(self) -> None:
        """Delete all but the newest `keep` states. Call this once the newest is written and known to be good."""
        for file in self._states()[self.keep :] if self.writer else ():
            file.unlink(missing_ok=True)

    def draw_plots(self, metrics: "Metrics", epochs: list[dict[str, float]], training_loss: str = "") -> None:
        """Draw the curves of the epochs, if there are any, and the confusion matrix, unless it has too many classes.

        `training_loss` describes what the training loss is computed from, for the legend.
        """
        if not self.writer:
            return
        try:
            from inception_v3.evaluation.evaluate import MATRIX_CLASSES
            from inception_v3.reports import plots
        except ImportError:
            self.missing.append("curves and confusion matrix")
            return
        if epochs:
            with atomic_write(self.path / "curves.png") as temporary:
                plots.curves(epochs, temporary, training_loss)
        if len(metrics.class_names) <= MATRIX_CLASSES:
            with atomic_write(self.path / "confusion_matrix.png") as temporary:
                plots.confusion_matrix(metrics.confusion, metrics.class_names, temporary)

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.tracker.close()
        self._lock.close()

    def _write(self, name: str, text: str) -> None:
        if self.writer:
            write_text(self.path / name, text)


def training_images(model_path: Path) -> set[str]:
    """The names of a model's training images, given its run folder or a file in it; empty if they are not known.

    Raises:
        InputError: the file with the names cannot be read.
    """
    file = (model_path if is_folder(model_path) else model_path.parent) / TRAINING_IMAGES
    if file_status(file) is None:
        return set()
    try:
        return set(file.read_text("utf-8").splitlines())
    except OSError as error:
        raise read_error(file, error) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: damaged, not UTF-8 ({error}); restore it, or delete it") from error


def state_files(run: Path) -> list[Path]:
    """The saved states in a run folder, oldest first. Raises InputError: they cannot be listed."""
    folder = run / CHECKPOINTS
    files = list_folder(folder) if is_folder(folder) else []
    return [file for file in files if fnmatch(file.name, "step-*.safetensors")]
