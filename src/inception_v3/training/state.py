"""The complete state of a training in one file, from which it resumes as if it had never stopped.

The file is safetensors, never pickle. Its tensors are `model.NAME`, `average.NAME` and `optimizer.SLOT.NAME`. Its
metadata hold, as JSON, the `progress` of the training and its `identity`: recipe, data and seed. There is no state of a
random generator, because every random number follows from the seed and the step (support/seeds.py).
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from inception_v3.data import LabelledImages
from inception_v3.errors import InputError
from inception_v3.support.files import atomic_write, path_for_library
from inception_v3.support.json_values import check_type, parse_json
from inception_v3.support.system_errors import read_error
from inception_v3.training.recipe import Recipe

FORMAT = "inception_v3 training state"
VERSION = "1"
JSON_KEYS = {"position": "place", "correct": "right", "images_seen": "seen", "diverging_steps": "steps_astray"}


@dataclass
class TrainingProgress:
    """How far a training has come. Sums are over the images of the current epoch and all processes.

    In files, the fields in JSON_KEYS have other names.
    """

    epoch: int = 0  # finished epochs
    position: int = 0  # number of images of the current epoch that are done
    step: int = 0  # finished steps
    loss: float = 0.0
    correct: int = 0
    images_seen: int = 0  # images that could be read
    first_loss: float = 0.0  # of the first step
    diverging_steps: int = 0  # consecutive steps with a loss far above `first_loss`
    best_top1: float = -1.0
    epochs: list[dict[str, float]] = field(default_factory=list)  # of each finished epoch; 0 is a given model
    bad_images: dict[str, str] = field(default_factory=dict)  # images that could not be read, with the reason
    learning_rate: float = 0.0  # of the last step

    def end_epoch(self) -> None:
        self.epoch, self.position, self.loss, self.correct, self.images_seen = self.epoch + 1, 0, 0.0, 0, 0


def identify(
    recipe: Recipe,
    train_set: LabelledImages,
    test_set: LabelledImages,
    seed: int,
    start: str,
    rate_factors: Mapping[str, float] | None,
) -> dict[str, Any]:
    """The values that a training must share with a saved state to resume it; the keys are those of the file.

    The number of processes is not among them. Data sets are compared by classes, image names and labels.
    """
    values = asdict(recipe) | {"seed": seed, "start": start, "rate_factors": dict(rate_factors or {})}
    for key, data in (("training pictures", train_set), ("held-out pictures", test_set)):
        content = json.dumps([list(data.class_names), list(data.names), list(map(int, data.labels))])
        digest = hashlib.sha256(content.encode()).hexdigest()[:12]
        values[key] = f"{len(data):,} of {len(data.class_names)} classes (digest {digest})"
    return values


def write(
    path: Path,
    model: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: TrainingProgress,
    identity: dict[str, Any],
) -> None:
    """Write a state to `path`, atomically. Raises InputError if the disk is full."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"average.{name}": tensor for name, tensor in average.state_dict().items()}
    for name, parameter in model.named_parameters():
        for slot, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{slot}.{name}"] = value
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "progress": json.dumps({JSON_KEYS.get(name, name): value for name, value in asdict(progress).items()}),
        "identity": json.dumps(identity),
    }
    # safetensors knows neither channels_last nor the GPU
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, metadata)


@dataclass
class TrainingState:
    """The content of a state file."""

    path: Path
    tensors: dict[str, Tensor]
    progress: TrainingProgress
    identity: dict[str, Any]

    def check(self, identity: dict[str, Any]) -> None:
        """Raise InputError, naming the differences, if the state belongs to another training."""
        current = json.loads(json.dumps(identity))  # JSON has lists instead of tuples
        differences = [
            f"{key} was {self.identity.get(key)} and is {value} now"
            for key, value in current.items()
            if value != self.identity.get(key)
        ]
        if differences:
            raise InputError(
                f"{self.path}: the state of another training: {'; '.join(differences)}; use the old values, or "
                "--overwrite to start again",
                exit_status=2,
            )

    def restore(self, model: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer) -> TrainingProgress:
        """Copy all values into the model, its average and the optimizer, which keep their devices and layouts."""
        with torch.no_grad():
            for prefix, module in (("model", model), ("average", average)):
                for name, tensor in module.state_dict().items():
                    tensor.copy_(self.tensors[f"{prefix}.{name}"])
        parameters = dict(model.named_parameters())
        for key, value in self.tensors.items():
            kind, slot, name = key.split(".", 2)
            if kind == "optimizer":
                parameter = parameters[name]
                like = torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value.clone()
                optimizer.state[parameter][slot] = like
        return self.progress


def read(path: Path) -> TrainingState:
    """Read a state. Raises InputError if the file is damaged or no training state of this version."""
    names = {key: name for name, key in JSON_KEYS.items()}
    try:
        with path_for_library(path) as file, safe_open(file, "pt") as opened:
            metadata = opened.metadata() or {}
            if metadata.get("format") != FORMAT or metadata.get("version") != VERSION:
                raise InputError(f"{path}: not a training state of this version; train again with --overwrite")
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            values = {names.get(key, key): value for key, value in parse_json(metadata["progress"], dict).items()}
            progress = check_type(values, TrainingProgress, "progress")
            return TrainingState(path, tensors, progress, parse_json(metadata["identity"], dict))
    except OSError as error:
        raise read_error(path, error) from error
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); the file is damaged") from error
