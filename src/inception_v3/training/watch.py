"""What people see of a training while it runs, and what its trackers are told."""

from types import TracebackType

from rich.console import Console

from inception_v3.evaluation.evaluate import Metrics
from inception_v3.support.progress import Throughput, progress_bar
from inception_v3.training.recipe import Recipe
from inception_v3.training.state import Progress
from inception_v3.training.trackers import Tracker

LOG_STEPS = 10  # trackers are told of every tenth step


class Watch:
    """A live line on a terminal, and a line for each epoch anywhere. `throughput` is that of the running epoch."""

    def __init__(self, console: Console, tracker: Tracker, recipe: Recipe, pictures: int) -> None:
        self.console, self.tracker, self.recipe, self.pictures = console, tracker, recipe, pictures
        self.throughput = Throughput()
        self._progress = progress_bar(console)
        self._bar = self._progress.add_task("", total=recipe.epochs * pictures, figures="")

    def __enter__(self) -> "Watch":
        self._progress.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._progress.stop()

    def say(self, text: str, style: str = "") -> None:
        self.console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)

    def step(self, at: Progress, loss: float, accuracy: float, gradient_norm: float) -> None:
        """After a step: its own loss and accuracy go to the trackers, the epoch's so far to people."""
        self._progress.update(
            self._bar,
            completed=at.epoch * self.pictures + at.place,
            description=f"epoch {at.epoch + 1}/{self.recipe.epochs}",
            figures=self._line(at),
        )
        if at.step % LOG_STEPS == 0:
            figures = {
                "loss": loss,
                "accuracy": accuracy,
                "learning_rate": at.learning_rate,
                "gradient_norm": gradient_norm,
                "images_per_second": self.throughput.images_per_second,
                "data_wait": self.throughput.wait_fraction,
            }
            self.tracker.log(at.step, {f"train/{name}": value for name, value in figures.items()})

    def epoch(self, at: Progress, metrics: Metrics) -> dict[str, float]:
        """After the last step of an epoch and its judgement; the figures are those of metrics.jsonl."""
        figures = {
            "epoch": at.epoch + 1,
            "loss": at.loss / at.seen,
            "accuracy": at.right / at.seen,
            "held_out_loss": metrics.loss,
            "held_out_top1": metrics.top1,
            "learning_rate": at.learning_rate,
            "images_per_second": self.throughput.images_per_second,
            "data_wait": self.throughput.wait_fraction,
        }
        self.tracker.log(at.step, {f"epoch/{name}": value for name, value in figures.items()})
        self.say(f"epoch {at.epoch + 1}/{self.recipe.epochs}: {self._line(at)}, held out {metrics.top1:.1%}")
        return figures

    def _line(self, at: Progress) -> str:
        return (
            f"loss {at.loss / at.seen:.3f}, accuracy {at.right / at.seen:.1%}, rate {at.learning_rate:.2g}, "
            f"{self.throughput.images_per_second:.0f} images/s, {self.throughput.wait_fraction:.0%} waiting for data"
        )
