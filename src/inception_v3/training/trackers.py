"""Experiment trackers that show the figures of a training: TensorBoard, MLflow, Weights & Biases."""

import os
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from inception_v3.errors import InputError
from inception_v3.support.files import write_text
from inception_v3.support.packages import install_command, missing_packages
from inception_v3.support.text import choose

PROJECT = "inception-v3"  # MLflow's experiment, W&B's project


class Tracker(Protocol):
    def log(self, step: int, figures: dict[str, float]) -> None:
        """Record figures, by name, after step number `step`."""

    def close(self) -> None: ...


class TensorBoard:
    """Event files in RUN/tensorboard; `tensorboard --logdir RUN` shows them."""

    def __init__(self, run: Path, settings: dict[str, Any], step: int) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        # An interrupted run may have logged steps after the state from which this one resumes.
        self._writer: Any = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1 if step else None)

    def log(self, step: int, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class MLflow:
    """A run on the server in MLFLOW_TRACKING_URI, or in files in RUN/mlruns."""

    def __init__(self, run: Path, settings: dict[str, Any], step: int) -> None:
        if "MLFLOW_TRACKING_URI" not in os.environ:
            os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"  # MLflow 3 writes no files without it
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        address = os.environ.get("MLFLOW_TRACKING_URI", (run / "mlruns").resolve().as_uri())
        self._client: Any = MlflowClient(address, registry_uri=address)
        self._run = _stored_id(run / "mlflow_run.txt") if step else ""
        if not self._run:
            experiment = self._client.get_experiment_by_name(PROJECT)
            number = experiment.experiment_id if experiment else self._client.create_experiment(PROJECT)
            self._run = self._client.create_run(number, run_name=run.resolve().name).info.run_id
            write_text(run / "mlflow_run.txt", self._run)
            self._client.log_batch(self._run, params=[Param(key, str(value)) for key, value in settings.items()])

    def log(self, step: int, figures: dict[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self._run, [Metric(name, value, now, step) for name, value in figures.items()])

    def close(self) -> None:
        self._client.set_terminated(self._run)


class WandB:
    """A run of Weights & Biases with its files in RUN/wandb. W&B's variables, such as WANDB_MODE=offline, apply."""

    def __init__(self, run: Path, settings: dict[str, Any], step: int) -> None:
        import wandb

        stored_id = _stored_id(run / "wandb_run.txt") if step else ""
        self._run: Any = wandb.init(
            dir=run,
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.resolve().name,
            config=settings,
            id=stored_id or None,
            resume="allow" if stored_id else None,
        )
        write_text(run / "wandb_run.txt", self._run.id)

    def log(self, step: int, figures: dict[str, float]) -> None:
        self._run.log(figures, step=step)

    def close(self) -> None:
        self._run.finish()


# By name, which is also the name of the package that the tracker needs.
TRACKERS: dict[str, Callable[[Path, dict[str, Any], int], Tracker]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WandB,
}
EXTRAS = {"tensorboard": "train", "mlflow": "mlflow", "wandb": "wandb"}  # extras of this package that install them


def check_installed(names: Sequence[str]) -> None:
    """Raise InputError if a tracker is unknown or not installed, naming the extra that installs it."""
    for name in names:
        choose("--track", name, TRACKERS)
        if missing_packages((name,)):
            raise InputError(f"--track {name}: not installed; {install_command(EXTRAS[name])}", exit_status=2)


class Trackers:
    """Several trackers as one. A tracker that fails is dropped with a warning, and the training continues."""

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
        self._open[name] = TRACKERS[name](run, settings, step)

    def _try(self, name: str, function: Callable[..., None], *arguments: Any) -> None:
        try:
            function(*arguments)
        except Exception as error:  # these packages raise exceptions of any kind
            self._open.pop(name, None)
            reason = str(error).strip().splitlines() or [type(error).__name__]
            warnings.warn(f"{name} has failed ({reason[0]}); training continues without it", stacklevel=3)


def _stored_id(file: Path) -> str:
    """The ID that the tracker gave this run before it was interrupted; empty if there is none."""
    return file.read_text().strip() if file.exists() else ""
