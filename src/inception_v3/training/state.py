"""The whole of a training at one moment, as one file: what it needs to go on as if it had never stopped.

safetensors, never pickle: the tensors are `model.NAME`, `average.NAME` and `optimizer.SLOT.NAME`; the metadata hold, as
JSON, where the training stands (`progress`) and what it is (`identity`: recipe, data, seed). No generator's state is
here, because no generator runs on from step to step (seeds.py).
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
from inception_v3.support.files import atomic_write
from inception_v3.training.recipe import Recipe

FORMAT = "inception_v3 training state"
VERSION = "1"


@dataclass
class Progress:
    """Where a training stands. Sums are over the pictures of the running epoch."""

    epoch: int = 0  # whole epochs that are done
    place: int = 0  # pictures of the running epoch that are done, in its order
    step: int = 0  # steps that are done
    loss: float = 0.0
    right: int = 0
    seen: int = 0  # pictures that could be read
    first_loss: float = 0.0  # of the first step
    steps_astray: int = 0  # in a row, with a loss far above it
    best_top1: float = -1.0
    epochs: list[dict[str, float]] = field(default_factory=list)  # the figures of each
    bad_images: dict[str, str] = field(default_factory=dict)  # what could not be read, and why
    learning_rate: float = 0.0  # of the last step

    def end_epoch(self) -> None:
        self.epoch, self.place, self.loss, self.right, self.seen = self.epoch + 1, 0, 0.0, 0, 0


def identity(
    recipe: Recipe,
    train_set: LabelledImages,
    test_set: LabelledImages,
    *,
    seed: int,
    start: str,
    rate_factors: Mapping[str, float] | None,
) -> dict[str, Any]:
    """What makes a training this one and no other. The number of processes does not; pictures count by name."""
    found = asdict(recipe) | {"seed": seed, "start": start, "rate_factors": dict(rate_factors or {})}
    for name, pictures in (("training pictures", train_set), ("held-out pictures", test_set)):
        content = json.dumps([list(pictures.class_names), list(pictures.names), list(map(int, pictures.labels))])
        digest = hashlib.sha256(content.encode()).hexdigest()[:12]
        found[name] = f"{len(pictures):,} of {len(pictures.class_names)} classes (digest {digest})"
    return found


def write(
    path: Path,
    model: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    identity: dict[str, Any],
) -> None:
    """Write everything to `path`, which is replaced when the whole is on the disk. Raises InputError: a full disk."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"average.{name}": tensor for name, tensor in average.state_dict().items()}
    for name, parameter in model.named_parameters():
        for slot, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{slot}.{name}"] = value
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "progress": json.dumps(asdict(progress)),
        "identity": json.dumps(identity),
    }
    # safetensors knows neither channels_last nor the GPU
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, metadata)


@dataclass
class State:
    """What a file holds."""

    path: Path
    tensors: dict[str, Tensor]
    progress: Progress
    identity: dict[str, Any]

    def check(self, identity: dict[str, Any]) -> None:
        """Raises InputError, naming what differs: this state is of another training."""
        now = json.loads(json.dumps(identity))  # which makes lists of tuples
        keys = [key for key in now if now[key] != self.identity.get(key)]
        if keys:
            differences = "; ".join(f"{key} was {self.identity.get(key)} and is {now[key]} now" for key in keys)
            raise InputError(
                f"{self.path}: the state of another training: {differences}; give what it had, or --overwrite to start "
                "again",
                exit_status=2,
            )

    def restore(self, model: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
        """Put everything in its place, in the layout and on the device that it has there; where training stands."""
        with torch.no_grad():
            for prefix, module in (("model", model), ("average", average)):
                for name, tensor in module.state_dict().items():
                    tensor.copy_(self.tensors[f"{prefix}.{name}"])
        parameters = dict(model.named_parameters())
        for key, value in self.tensors.items():
            kind, _, rest = key.partition(".")
            if kind == "optimizer":
                slot, _, name = rest.partition(".")
                parameter = parameters[name]
                like = torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value.clone()
                optimizer.state[parameter][slot] = like
        return self.progress


def read(path: Path) -> State:
    """Raises InputError: damaged, or not a training state of this version."""
    try:
        with safe_open(path, "pt") as opened:
            metadata = opened.metadata() or {}
            if metadata.get("format") != FORMAT or metadata.get("version") != VERSION:
                raise InputError(f"{path}: not a training state of this version")
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            progress = Progress(**json.loads(metadata["progress"]))
            return State(path, tensors, progress, json.loads(metadata["identity"]))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); the file is damaged") from error
