"""Reports on a training: lines on the console, and figures for its trackers."""

from rich.console import Console

from inception_v3.evaluation.evaluate import Metrics
from inception_v3.support.progress import Throughput, progress_bar
from inception_v3.training.recipe import Recipe
from inception_v3.training.run_folder import RunFolder
from inception_v3.training.state import TrainingProgress


class TrainingReporter:
    """Prints a line per epoch, and inside `with reporter.bar` shows a progress bar on a terminal.

    With `log_every`, it also prints a line every so many steps. `throughput` measures the current epoch.
    """

    def __init__(
        self, console: Console, run: RunFolder, recipe: Recipe, images: int, log_every: int | None = None
    ) -> None:
        self.console, self.run, self.recipe, self.images = console, run, recipe, images
        self.log_every = log_every
        self.throughput = Throughput()
        self._printed: set[str] = set()
        self.bar = progress_bar(console)
        self._task = self.bar.add_task("", total=recipe.epochs * images, figures="")

    def print(self, text: str, style: str = "") -> None:
        self.console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)

    def print_once(self, text: str, style: str = "") -> None:
        """Print a text unless it was printed before."""
        if text not in self._printed:
            self._printed.add(text)
            self.print(text, style)

    def report_step(self, progress: TrainingProgress, loss: float, accuracy: float, gradient_norm: float) -> None:
        """Log and print the figures of a step, if they are due; show those of the epoch so far on the bar.

        They are due every `log_every` steps. Without it, the trackers get every tenth step and nothing is printed.
        """
        self.bar.update(
            self._task,
            completed=progress.epoch * self.images + progress.position,
            description=f"epoch {progress.epoch + 1}/{self.recipe.epochs}",
            figures=self._line(progress),
        )
        if self.log_every and progress.step % self.log_every == 0:
            self.print(f"step {progress.step}: {self._line(progress)}")
        if progress.step % (self.log_every or 10) == 0:
            figures = {
                "loss": loss,
                "accuracy": accuracy,
                "learning_rate": progress.learning_rate,
                "gradient_norm": gradient_norm,
                "images_per_second": self.throughput.images_per_second,
                "data_wait": self.throughput.wait_fraction,
            }
            self.run.tracker.log(progress.step, {f"train/{name}": value for name, value in figures.items()})

    def report_epoch(self, progress: TrainingProgress, metrics: Metrics) -> dict[str, float]:
        """Print and log an epoch and its evaluation; returns the figures for metrics.jsonl."""
        figures = {
            "epoch": progress.epoch + 1,
            "loss": progress.loss / progress.images_seen,
            "accuracy": progress.correct / progress.images_seen,
            "held_out_loss": metrics.loss,
            "held_out_top1": metrics.top1,
            "learning_rate": progress.learning_rate,
            "images_per_second": self.throughput.images_per_second,
            "data_wait": self.throughput.wait_fraction,
        }
        self.run.tracker.log(progress.step, {f"epoch/{name}": value for name, value in figures.items()})
        line = f"epoch {progress.epoch + 1}/{self.recipe.epochs}: {self._line(progress)}, held out {metrics.top1:.1%}"
        self.print(line)
        return figures

    def _line(self, progress: TrainingProgress) -> str:
        loss, accuracy = progress.loss / progress.images_seen, progress.correct / progress.images_seen
        return (
            f"loss {loss:.3f}, accuracy {accuracy:.1%}, rate {progress.learning_rate:.2g}, "
            f"{self.throughput.images_per_second:.0f} images/s, {self.throughput.wait_fraction:.0%} waiting for data"
        )
