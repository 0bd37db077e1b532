"""Reports on a training: lines on the console, and figures for its trackers."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from inception_v3.evaluation.evaluate import Metrics
from inception_v3.support.progress import Step, Throughput, show_progress, summary
from inception_v3.support.streams import print_text
from inception_v3.support.text import percent
from inception_v3.training.recipe import Recipe
from inception_v3.training.run_folder import RunFolder
from inception_v3.training.state import TrainingProgress


class TrainingReporter:
    """Prints a line per epoch, and inside `with reporter.show_progress(...)` shows how far the training is.

    With `log_steps`, it also prints a line every `log_steps` steps. `throughput` measures the current epoch.
    """

    def __init__(
        self, console: Console, run: RunFolder, recipe: Recipe, images: int, log_steps: int | None = None
    ) -> None:
        self.console, self.run, self.recipe, self.images = console, run, recipe, images
        self.log_steps = log_steps
        self.throughput = Throughput()
        self._printed: set[str] = set()
        self._step = Step("", None)  # that of show_progress

    @contextmanager
    def show_progress(self, progress: TrainingProgress) -> Iterator[None]:
        """Show the training from here on, by a progress bar on a terminal and by lines elsewhere."""
        with show_progress(self.console) as start_step:
            self._step = start_step("training", self.recipe.epochs * self.images)
            self._step.skip_to(self._images_done(progress))
            self._started, self._first = time.perf_counter(), self._step.done
            yield

    def print(self, text: str, style: str = "") -> None:
        print_text(self.console, text, style)

    def print_once(self, text: str, style: str = "") -> None:
        """Print a text unless it was printed before."""
        if text not in self._printed:
            self._printed.add(text)
            self.print(text, style)

    def report_step(self, progress: TrainingProgress, loss: float, accuracy: float, gradient_norm: float) -> None:
        """Log and print the figures of a step, if they are due; show those of the epoch so far on the bar.

        They are due every `log_steps` steps. Without it, the trackers get every tenth step and nothing is printed.
        """
        self._step.name = f"epoch {progress.epoch + 1}/{self.recipe.epochs}"
        self._step.unreadable = len(progress.bad_images)
        self._step.update(self._images_done(progress), self._line(progress))
        if self.log_steps and progress.step % self.log_steps == 0:
            self.print(f"step {progress.step}: {self._line(progress)}")
        if progress.step % (self.log_steps or 10) == 0:
            figures = {
                "loss": loss,
                "accuracy": accuracy,
                "learning_rate": progress.learning_rate,
                "gradient_norm": gradient_norm,
                "images_per_second": self.throughput.images_per_second,
                "data_wait": self.throughput.wait_fraction,
            }
            self.run.tracker.log(progress.step, {f"train/{name}": value for name, value in figures.items()})

    def report_evaluation(self) -> None:
        """Show that the held-out images are being evaluated."""
        self._step.update(self._step.done, "evaluating the held-out images")

    def report_end(self, progress: TrainingProgress, precision: str) -> None:
        """Print the number of images trained on since the start or the resumption, and how fast."""
        images, seconds = self._images_done(progress) - self._first, time.perf_counter() - self._started
        line = summary(images, len(progress.bad_images), seconds, f"pytorch {precision}")
        self.print(f"training, with its evaluations: {line}")

    def report_epoch(self, progress: TrainingProgress, metrics: Metrics) -> dict[str, float]:
        """Print and log an epoch and its evaluation; returns the figures for metrics.jsonl."""
        figures = {
            "epoch": progress.epoch + 1,
            "loss": progress.loss / progress.images_seen,
            "accuracy": progress.correct / progress.images_seen,
            **metrics.held_out_figures(),
            "learning_rate": progress.learning_rate,
            "images_per_second": self.throughput.images_per_second,
            "data_wait": self.throughput.wait_fraction,
        }
        self.run.tracker.log(progress.step, {f"epoch/{name}": value for name, value in figures.items()})
        held_out = f"held-out top-1 {percent(metrics.top1, metrics.count)}"
        self.print(f"epoch {progress.epoch + 1}/{self.recipe.epochs}: {self._line(progress)}, {held_out}")
        return figures

    def _images_done(self, progress: TrainingProgress) -> int:
        return progress.epoch * self.images + progress.position

    def _line(self, progress: TrainingProgress) -> str:
        loss, accuracy = progress.loss / progress.images_seen, progress.correct / progress.images_seen
        return (
            f"loss {loss:.3f}, accuracy {percent(accuracy, progress.images_seen)}, rate {progress.learning_rate:.2g}, "
            f"{self.throughput.images_per_second:.0f} images/s, {self.throughput.wait_fraction:.0%} waiting for data"
        )
