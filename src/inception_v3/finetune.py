"""Fine-tuning: a network that knows pictures learns new classes of them.

First a new last layer alone, on features that are computed once (bottlenecks.py) and to its optimum (logistic.py):
minutes for the first run on a set of pictures, seconds for every later one.
"""

import time
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, cast

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import DataLoader

from inception_v3 import architecture, checkpoint
from inception_v3.architecture import BASE_END_POINTS, Size
from inception_v3.bottlenecks import HEADS, BottleneckCache, Precision, bottlenecks, in_precision, last_layer
from inception_v3.data import Batch, Pictures
from inception_v3.errors import InputError
from inception_v3.evaluate import Metrics, evaluate
from inception_v3.files import replacing
from inception_v3.logistic import Head, fit_head
from inception_v3.network import InceptionV3
from inception_v3.progress import progress_bar
from inception_v3.run_folder import TRAINING_IMAGES, RunFolder

WHOLE_MAP = 8  # the last pool's kernel: of a larger map it would leave several answers an image


@dataclass
class FineTuned:
    """`metrics` judges the pictures that training never saw, `training` those that it saw."""

    metrics: Metrics
    training: Metrics
    head: Head
    computed: int  # features that were not in the cache
    not_kept: str | None  # why the cache took no more
    seconds: dict[str, float]


def with_new_head(model: InceptionV3, class_names: list[str], image_size: Size | None = None) -> InceptionV3:
    """The model's base under a last layer for other classes, which is still to be trained; without auxiliary head.

    The base's tensors are those of `model`, not copies. `image_size` replaces that of the model's preprocessing.
    Raises InputError: the model is cut before its last module, or the size is too small for it.
    """
    last = model.settings["final_endpoint"]
    if last not in (None, BASE_END_POINTS[-1]):
        raise InputError(f"the network ends at {last}, and fine-tuning needs it up to {BASE_END_POINTS[-1]}")
    old = model.preprocessing
    size = image_size or old.image_size
    if min(size) < architecture.minimum_size():
        raise InputError(f"image_size must be at least {architecture.minimum_size()}, not {min(size)}", exit_status=2)
    end = architecture.end_points(height=size[0], width=size[1], final_endpoint=BASE_END_POINTS[-1])[-1]
    settings = model.settings | {
        "num_classes": len(class_names),
        "create_aux_logits": False,
        "spatial_squeeze": True,
        "global_pool": model.settings["global_pool"] or max(end.height, end.width) > WHOLE_MAP,
        "image_size": size,
        "final_endpoint": None,
    }
    with torch.device("meta"):
        new = InceptionV3(**settings)
    tensors = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(HEADS)}
    device = next(model.parameters()).device
    for name, tensor in new.state_dict().items():
        if name not in tensors:
            tensors[name] = torch.zeros(tensor.shape, device=device)
    new.load_state_dict(tensors, assign=True)
    resize = old.resize and round(old.resize * min(size) / min(old.image_size))
    new.preprocessing = replace(old, image_size=size, resize=resize)
    new.class_names = class_names
    return new.eval()


def finetune(
    model: InceptionV3,
    train_set: Pictures,
    test_set: Pictures,
    run: RunFolder,
    cache: BottleneckCache,
    *,
    l2: float | None = None,
    precision: Precision = "fp32",
    batch_size: int = 32,
    workers: int = 0,
    console: Console | None = None,
) -> FineTuned:
    """Train the last layer of `model`, as `with_new_head` returns it, and leave a run folder.

    `l2` is the strength of the penalty; None chooses one by pictures of `train_set` (logistic.py). Nothing is chosen
    by looking at `test_set`.
    Raises InputError: of a class no picture can be read, or the disk is full. Features that were computed before
    an interrupt are in the cache.
    """
    console = console or Console(stderr=True)
    started = time.perf_counter()
    both = Pictures(
        train_set.class_names,
        [*train_set.sources, *test_set.sources],
        [*train_set.labels, *test_set.labels],
        [*train_set.names, *test_set.names],
    )
    with progress_bar(console) as progress:
        files = progress.add_task("looking at files", total=len(both), figures="")
        features = progress.add_task("features", total=len(both), figures="")
        found = bottlenecks(
            model,
            both,
            cache,
            precision=precision,
            batch_size=batch_size,
            workers=workers,
            on_file=lambda: progress.advance(files),
            on_features=lambda done: progress.advance(features, done),
        )
    for name, reason in found.bad:
        run.bad_image(name, reason)
    seconds = {"features": time.perf_counter() - started}

    started = time.perf_counter()
    labels = torch.tensor(both.labels)[found.places]
    to_train = found.places < len(train_set)
    _check_classes(labels[to_train], both.class_names)
    if bool(to_train.all()):
        raise InputError("none of the held-out pictures can be read")
    device = next(model.parameters()).device
    head = fit_head(found.features[to_train].to(device), labels[to_train].to(device), len(both.class_names), l2)
    state = {"weights": head.weights[:, :, None, None], "biases": head.biases}
    last_layer(model).load_state_dict(state)
    training = judge(model, found.features[to_train], labels[to_train], precision)
    metrics = judge(model, found.features[~to_train], labels[~to_train], precision)
    seconds["head"] = time.perf_counter() - started

    with replacing(run.path / TRAINING_IMAGES) as temporary:
        temporary.write_text("".join(f"{name}\n" for name in train_set.names), "utf-8")
    checkpoint.save(model, run.model_file, training={"head": {"l2": head.l2, "precision": precision}})
    run.log(epoch=0, loss=training.loss, accuracy=training.top1, held_out_loss=metrics.loss, held_out_top1=metrics.top1)
    run.finish(metrics)
    run.close()
    return FineTuned(metrics, training, head, found.computed, found.not_kept, seconds)


def _check_classes(labels: Tensor, class_names: list[str]) -> None:
    counts = torch.bincount(labels, minlength=len(class_names))
    if not bool(counts.all()):
        raise InputError(f"class {class_names[int(counts.argmin())]}: none of its training pictures can be read")


def judge(model: InceptionV3, features: Tensor, labels: Tensor, precision: Precision = "fp32") -> Metrics:
    """What `evaluate` says of the model on the pictures with these features (N, D), without running its base."""
    assert model.class_names is not None
    parts = torch.split(torch.arange(len(labels)), 512)
    batches = [Batch(features[part][:, :, None, None], labels[part], part, []) for part in parts]
    alone = cast(InceptionV3, _LastLayer(model, precision))
    return evaluate(alone, cast("DataLoader[Any]", batches), model.class_names)


class _LastLayer(nn.Module):
    """The last layer as a network that reads features in the place of images."""

    def __init__(self, model: InceptionV3, precision: Precision) -> None:
        super().__init__()
        self.layer, self.settings, self.precision = last_layer(model), model.settings, precision
        self.preprocessing = SimpleNamespace(scale=lambda features: features)

    def forward(self, features: Tensor, end_points: tuple[str, ...] = ()) -> tuple[Tensor, dict[str, Tensor]]:
        device = features.device
        with torch.autocast(device.type, enabled=False), in_precision(device, self.precision):
            return self.layer(features).flatten(1), {}
