"""What a training leaves behind, for people, for TensorBoard and for `evaluate`.

model.safetensors       the model to use: the last one, replaced after every epoch
best.safetensors        that of the epoch which did best on the held-out pictures
checkpoints/            the whole state at some steps, for --resume
recipe.json             every number that it was trained with
training_images.txt     what it was trained on, so that evaluation can leave it out
bad_images.csv          what could not be read, and why
metrics.jsonl           a line for each epoch
tensorboard/            the same and more, for TensorBoard
curves.png, confusion_matrix.png
"""

import csv
import io
import json
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from inception_v3.errors import InputError
from inception_v3.support.files import write_error, atomic_write
from inception_v3.training import state as training_state
from inception_v3.training import trackers
from inception_v3.training.recipe import Recipe
from inception_v3.training.state import State
from inception_v3.weights.load import save
from inception_v3.weights.read import MODEL_FILE

if TYPE_CHECKING:
    from inception_v3.evaluation.evaluate import Metrics
    from inception_v3.weights.model import InceptionV3

BEST_FILE = "best.safetensors"
CHECKPOINTS = "checkpoints"
TRAINING_IMAGES = "training_images.txt"
BAD_IMAGES = "bad_images.csv"
PLOTS = ("curves.png", "confusion_matrix.png")
PRODUCED = (MODEL_FILE, BEST_FILE, "recipe.json", TRAINING_IMAGES, BAD_IMAGES, "metrics.jsonl", *PLOTS)


class RunFolder:
    """Of several processes the first alone is the writer; to the others every call here does nothing.

    Raises InputError where the folder holds a run already and neither `overwrite` nor `resume` was asked for, is in
    use by another training, cannot be written, or the disk is full.
    """

    def __init__(
        self,
        path: Path,
        *,
        overwrite: bool = False,
        resume: bool = False,
        keep: int = 2,
        track: Sequence[str] = (),
        writer: bool = True,
    ) -> None:
        self.path, self.keep, self.writer = path, keep, writer
        self.model_file = path / MODEL_FILE
        self.best_file = path / BEST_FILE
        self.bad_images_file = path / BAD_IMAGES
        self.bad_images: list[tuple[str, str]] = []
        self.missing = [] if trackers.installed("tensorboard") else ["TensorBoard logs"]
        self.tracker: trackers.Tracker = trackers.Trackers((), path, {})
        trackers.check(track)
        self._track = [*([] if self.missing else ["tensorboard"]), *(one for one in track if one != "tensorboard")]
        self._lock: Any = None
        self._replaces = False  # an earlier run, which stays until this one begins
        if not writer:
            return
        if not overwrite and self._states() and not resume:
            message = f"{path}: holds a run already; --resume goes on with it, --overwrite starts again"
            raise InputError(f"{message}, another --out leaves it", exit_status=2)
        if not overwrite and self.model_file.exists() and not self._states():
            message = f"{path}: holds a model already, and no state to go on from; --overwrite starts again"
            raise InputError(f"{message}, another --out leaves it", exit_status=2)
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(path)
            for left in [*path.glob(".*.partial"), *(path / CHECKPOINTS).glob(".*.partial")]:
                left.unlink()  # of a process that was killed while it wrote
        except OSError as error:
            raise write_error(path, error) from error
        self._replaces = not (resume and self._states())

    def begin(self) -> None:
        """Remove what an earlier run left. Called when nothing that was asked for can turn out to be impossible."""
        if not self._replaces:
            return
        self._replaces = False
        events = (self.path / "tensorboard").glob("events.out.tfevents.*")
        try:
            for file in [*(self.path / name for name in PRODUCED), *self._states(), *events]:
                file.unlink(missing_ok=True)
        except OSError as error:
            raise write_error(self.path, error) from error

    def _states(self) -> list[Path]:
        """Of this run, the newest first."""
        files = (self.path / CHECKPOINTS).glob("step-*.safetensors")
        return [] if self._replaces else sorted(files, reverse=True)

    def latest_state(self) -> State | None:
        """The newest state that can be read, or None where there is none at all. Raises InputError: all damaged."""
        states = self._states() if self.writer else []
        for number, file in enumerate(states, 1):
            try:
                return training_state.read(file)
            except InputError as error:
                if number == len(states):
                    raise
                warnings.warn(f"{error}; the one before it is taken", stacklevel=2)
        return None

    def start(self, recipe: Recipe, training_images: Sequence[str], step: int = 0) -> None:
        """What is known before the first step, or before the one that a training goes on with."""
        if self.writer:
            self.begin()
            self._write("recipe.json", json.dumps(asdict(recipe), indent=2) + "\n")
            self.list_training_images(training_images)
            self.tracker = trackers.Trackers(self._track, self.path, asdict(recipe), step)

    def list_training_images(self, names: Sequence[str]) -> None:
        if self.writer:
            self._write(TRAINING_IMAGES, "".join(f"{name}\n" for name in names))

    def list_bad(self, bad_images: Mapping[str, str]) -> None:
        """The pictures that cannot be read, and why."""
        if self.writer and sorted(bad_images.items()) != self.bad_images:
            self.bad_images = sorted(bad_images.items())
            table = io.StringIO()
            csv.writer(table, lineterminator="\n").writerows([("image", "reason"), *self.bad_images])
            self._write(BAD_IMAGES, table.getvalue())

    def save_model(self, model: "InceptionV3", training: dict[str, Any], *, best: bool = False) -> None:
        """The model to use, and once more where it is the best so far."""
        if self.writer:
            save(model, self.model_file, training=training)
            if best:
                with atomic_write(self.best_file) as temporary:
                    shutil.copyfile(self.model_file, temporary)

    def log(self, epochs: Sequence[Mapping[str, float]]) -> None:
        """The figures of every epoch so far."""
        if self.writer:
            self._write("metrics.jsonl", "".join(json.dumps(epoch) + "\n" for epoch in epochs))

    def state_file(self, step: int) -> Path:
        return self.path / CHECKPOINTS / f"step-{step:08}.safetensors"

    @property
    def last_state_file(self) -> Path | None:
        """The newest state that there is."""
        return next(iter(self._states()), None)

    def forget_state(self, step: int) -> None:
        """Remove the state of a step, if there is one: it is no good."""
        if self.writer:
            self.state_file(step).unlink(missing_ok=True)

    def forget_old_states(self) -> None:
        """Keep the newest few. Called after a new one is whole and known to be good, so that neither a full disk nor
        weights that are no numbers cost one."""
        if not self.writer:
            return
        for file in self._states()[self.keep :]:
            file.unlink(missing_ok=True)

    def finish(self, metrics: "Metrics", epochs: list[dict[str, float]]) -> None:
        """The curves, of any epochs that there are, and the confusion matrix."""
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
                plots.curves(epochs, temporary)
        if len(metrics.class_names) > MATRIX_CLASSES:
            return
        with atomic_write(self.path / "confusion_matrix.png") as temporary:
            plots.confusion_matrix(metrics.confusion, metrics.class_names, temporary)

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self.tracker.close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _write(self, name: str, text: str) -> None:
        with atomic_write(self.path / name) as temporary:
            temporary.write_text(text, "utf-8")


def _locked(path: Path) -> Any:
    """An open file that no other process can lock until this one closes it, or ends in whatever way."""
    import fcntl

    file = (path / ".lock").open("w")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock, worker processes do not inherit it
    except (BlockingIOError, PermissionError) as error:
        file.close()
        raise InputError(f"{path}: another training is running there; wait for it, or give another --out") from error
    return file


def training_images(model_path: Path) -> set[str]:
    """The names of the pictures that the model of this run folder, or file in one, was trained on."""
    folder = model_path if model_path.is_dir() else model_path.parent
    try:
        return set((folder / TRAINING_IMAGES).read_text("utf-8").splitlines())
    except OSError:
        return set()
