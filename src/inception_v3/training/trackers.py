"""Where the figures of a training can be followed: TensorBoard, MLflow, Weights & Biases."""

import os
import time
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from inception_v3.errors import InputError

PROJECT = "inception-v3"  # MLflow's experiment, W&B's project

# For each: the module that it needs, and the extra that brings it.
NEEDS = {"tensorboard": ("tensorboard", "train"), "mlflow": ("mlflow", "mlflow"), "wandb": ("wandb", "wandb")}


class Tracker(Protocol):
    def log(self, step: int, figures: dict[str, float]) -> None:
        """Figures after so many steps."""

    def close(self) -> None: ...


class TensorBoard:
    """Event files in RUN/tensorboard; `tensorboard --logdir RUN` shows them."""

    def __init__(self, run: Path, settings: dict[str, Any], step: int) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        # What a broken run wrote after the step that this one goes on from is not shown.
        self._writer: Any = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1 if step else None)

    def log(self, step: int, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class MLflow:
    """A run of the server that MLFLOW_TRACKING_URI names, or else in files in RUN/mlruns."""

    def __init__(self, run: Path, settings: dict[str, Any], step: int) -> None:
        if "MLFLOW_TRACKING_URI" not in os.environ:
            os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"  # MLflow 3 wants to be asked for files
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        address = os.environ.get("MLFLOW_TRACKING_URI", (run / "mlruns").resolve().as_uri())
        self._client: Any = MlflowClient(address, registry_uri=address)
        self._run = _remembered(run / "mlflow_run.txt") if step else ""
        if not self._run:
            experiment = self._client.get_experiment_by_name(PROJECT)
            number = experiment.experiment_id if experiment else self._client.create_experiment(PROJECT)
            self._run = self._client.create_run(number, run_name=run.resolve().name).info.run_id
            (run / "mlflow_run.txt").write_text(self._run)
            self._client.log_batch(self._run, params=[Param(key, str(value)) for key, value in settings.items()])

    def log(self, step: int, figures: dict[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self._run, [Metric(name, value, now, step) for name, value in figures.items()])

    def close(self) -> None:
        self._client.set_terminated(self._run)


class WandB:
    """A run of Weights & Biases, files in RUN/wandb; its own variables, such as WANDB_MODE=offline, apply."""

    def __init__(self, run: Path, settings: dict[str, Any], step: int) -> None:
        import wandb

        known = _remembered(run / "wandb_run.txt") if step else ""
        self._run: Any = wandb.init(
            dir=run,
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.resolve().name,
            config=settings,
            id=known or None,
            resume="allow" if known else None,
        )
        (run / "wandb_run.txt").write_text(self._run.id)

    def log(self, step: int, figures: dict[str, float]) -> None:
        self._run.log(figures, step=step)

    def close(self) -> None:
        self._run.finish()


MAKERS: dict[str, Callable[[Path, dict[str, Any], int], Tracker]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WandB,
}


def check(names: Sequence[str]) -> None:
    """Raises InputError for a tracker that is not known or not installed, naming the extra."""
    for name in names:
        if name not in NEEDS:
            raise InputError(f"--track {name}: no such tracker; there are {', '.join(NEEDS)}", exit_status=2)
        if not installed(name):
            message = f"--track {name}: not installed; pip install 'inception-v3[{NEEDS[name][1]}]'"
            raise InputError(message, exit_status=2)


def installed(name: str) -> bool:
    return find_spec(NEEDS[name][0]) is not None


class Trackers:
    """Several as one. What fails is told once and left out: a training goes on without its audience."""

    def __init__(self, names: Sequence[str], run: Path, settings: dict[str, Any], step: int = 0) -> None:
        self._open: dict[str, Tracker] = {}
        for name in names:
            self._try(name, self._start, name, run, settings, step)

    def log(self, step: int, figures: dict[str, float]) -> None:
        for name, tracker in list(self._open.items()):
            self._try(name, tracker.log, step, figures)

    def close(self) -> None:
        for name, tracker in list(self._open.items()):
            self._try(name, tracker.close)

    def _start(self, name: str, run: Path, settings: dict[str, Any], step: int) -> None:
        self._open[name] = MAKERS[name](run, settings, step)

    def _try(self, name: str, act: Callable[..., None], *arguments: Any) -> None:
        try:
            act(*arguments)
        except Exception as error:  # of programs that are not ours, and not what the user came for
            self._open.pop(name, None)
            reason = str(error).strip().splitlines() or [type(error).__name__]
            warnings.warn(f"{name} has failed and is left out from here on ({reason[0]})", stacklevel=3)


def _remembered(file: Path) -> str:
    """The name that a tracker gave this run before it was broken off."""
    try:
        return file.read_text().strip()
    except OSError:
        return ""
