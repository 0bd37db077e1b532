"""Fine-tuning: a network that knows pictures learns new classes of them.

First a new last layer alone, on features that are computed once (bottlenecks.py) and to its optimum (logistic.py):
minutes for the first run on a set of pictures, seconds for every later one. Then, where asked for, chosen layers too,
with smaller rates (train.py).
"""

import difflib
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, cast

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import DataLoader

from inception_v3.data import Batch, LabelledImages
from inception_v3.data.sequences import concatenate
from inception_v3.errors import InputError
from inception_v3.evaluation.evaluate import Metrics, evaluate
from inception_v3.finetuning.bottlenecks import HEADS, BottleneckCache, Precision, bottlenecks, last_layer
from inception_v3.finetuning.logistic import fit_head
from inception_v3.network import architecture
from inception_v3.network.architecture import BASE_END_POINTS, Size
from inception_v3.support.devices import precision_context
from inception_v3.support.progress import progress_bar
from inception_v3.training.model import check_memory
from inception_v3.training.recipe import Recipe, load_recipe
from inception_v3.training.run_folder import RunFolder
from inception_v3.weights.model import InceptionV3

UNFROZEN = 0.1  # of the last layer's learning rate: that of layers which only adapt


@dataclass
class TrainedHead:
    """`metrics` judges the pictures that training never saw, `training` those that it saw."""

    l2: float
    losses: dict[float, float]  # of the strengths that were tried
    metrics: Metrics
    training: Metrics
    computed: int  # features that were not in the cache
    not_kept: str | None  # why the cache took no more
    seconds: dict[str, float]


@dataclass
class FineTuned:
    """`metrics` judges the model that stays; `head` is None where a broken-off training was gone on with."""

    metrics: Metrics
    head: TrainedHead | None


def with_new_head(model: InceptionV3, class_names: list[str], image_size: Size | None = None) -> InceptionV3:
    """The model's base under a last layer for other classes, which is still to be trained; without auxiliary head.

    The base's tensors are those of `model`, not copies. `image_size` replaces that of the model's preprocessing.
    Raises InputError: the model is cut before its last module, or the size is too small for it.
    """
    last = model.settings.final_endpoint
    if last not in (None, BASE_END_POINTS[-1]):
        raise InputError(f"the network ends at {last}, and fine-tuning needs it up to {BASE_END_POINTS[-1]}")
    old = model.preprocessing
    size = image_size or old.image_size
    if min(size) < architecture.minimum_size():
        raise InputError(f"image_size must be at least {architecture.minimum_size()}, not {min(size)}", exit_status=2)
    settings = replace(
        model.settings,
        num_classes=len(class_names),
        create_aux_logits=False,
        spatial_squeeze=True,
        global_pool=model.settings.global_pool or architecture.needs_global_pool(size),
        image_size=size,
        final_endpoint=None,
    )
    with torch.device("meta"):
        new = InceptionV3(**settings)
    tensors = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(HEADS)}
    device = next(model.parameters()).device
    for name, tensor in new.state_dict().items():
        if name not in tensors:
            tensors[name] = torch.zeros(tensor.shape, device=device)
    new.load_state_dict(tensors, assign=True)
    new.preprocessing = old.at(size)
    new.class_names = class_names
    return new.eval()


def rate_factors(asked: str) -> dict[str, float]:
    """Learning-rate factors of parameters, by the start of their names, for optimizers.build_optimizer.

    `asked` is `all`, or end points of the base or starts of their names, such as "Mixed_7a,Mixed_7b" or "Mixed_7",
    each with a factor of its own, "Mixed_7=0.1,Mixed_6e=0.01", or UNFROZEN. The last layer has 1; all else stays as
    it is. Raises InputError: a name that is no layer with weights, a factor that is not in (0, 1].
    """
    layers = [point.name for point in architecture.end_points() if point.parameters and point.name in BASE_END_POINTS]
    factors = {"": 0.0, "Logits.": 1.0}
    for one in filter(None, map(str.strip, asked.split(","))):
        name, given, factor = one.partition("=")
        try:
            value = float(factor) if given else UNFROZEN
        except ValueError:
            value = math.nan
        if not 0 < value <= 1:
            raise InputError(f"--unfreeze {one}: the factor must be greater than 0 and at most 1", exit_status=2)
        found = [layer for layer in layers if name == "all" or layer.startswith(name)]
        if not found or not name:
            close = difflib.get_close_matches(name, layers, 1)
            hint = f"did you mean {close[0]}?" if close else f"there are all, {', '.join(layers)}"
            raise InputError(f"--unfreeze {name}: no such layer; {hint}", exit_status=2)
        factors |= {f"{layer}.": value for layer in found}
    if len(factors) == 2:
        raise InputError(
            "--unfreeze: no layer is named; give end points such as Mixed_7a,Mixed_7b,Mixed_7c", exit_status=2
        )
    return factors


def finetune(
    model: InceptionV3,
    train_set: LabelledImages,
    test_set: LabelledImages,
    run: RunFolder,
    cache: BottleneckCache,
    *,
    l2: float | None = None,
    precision: Precision = "fp32",
    batch_size: int = 32,
    workers: int = 0,
    unfreeze: Mapping[str, float] | None = None,
    recipe: Recipe | None = None,
    start: str = "given weights",
    seed: int = 0,
    console: Console | None = None,
) -> FineTuned:
    """Train the last layer of `model`, as `with_new_head` returns it, then more of it, and leave a run folder.

    Args:
        run: if it holds the state of a training with the same `unfreeze`, that goes on.
        cache: features of pictures that were computed before; the others are added.
        l2: strength of the penalty on the last layer; None chooses one by a part of `train_set` (logistic.py).
        precision: of the features. The last layer answers in it as the whole network does.
        batch_size, workers: of the features, and processes that decode pictures.
        unfreeze: learning-rate factors, as `rate_factors` returns them, to go on with after the last layer.
        recipe: for that; the sizes in it become the model's.
        start: what `model` was, in a word; `seed`: of that training.

    Nothing is chosen by looking at `test_set`.
    Raises InputError: `unfreeze` for a model of pictures that are not square, of a class no picture can be read, the
    disk is full, or as `train` does. Features that were computed before an interrupt are in the cache.
    """
    console = console or Console(stderr=True)
    height, width = model.image_size
    if unfreeze and height != width:
        message = f"--unfreeze trains on square pictures, not {height}x{width}; give --image-size"
        raise InputError(message, exit_status=2)
    recipe = (recipe or load_recipe("finetune")).with_options(
        image_size=height,
        crop_fraction=model.preprocessing.crop_fraction,
        depth_multiplier=model.settings.depth_multiplier,
    )
    device, classes = next(model.parameters()).device, len(train_set.class_names)
    if unfreeze:
        check_memory(recipe, len(train_set), classes, device)
    check_memory(recipe.with_options(batch_size=batch_size), len(train_set), classes, device, training=False)
    head = None
    if not (unfreeze and run.last_state_file):
        head = train_head(
            model,
            train_set,
            test_set,
            run,
            cache,
            l2=l2,
            precision=precision,
            batch_size=batch_size,
            workers=workers,
            console=console,
        )
    if not unfreeze:
        assert head is not None
        run.save_model(model, {"head": {"l2": head.l2, "precision": precision, "seen": head.training.count}})
        return FineTuned(head.metrics, head)
    # The model comes with the first state, which `train` writes before it: beside no state --resume refuses a model.
    from inception_v3.training.train import train  # its optimizers take seconds to import

    metrics = train(
        train_set,
        test_set,
        run,
        recipe,
        device,
        model=model,
        start=f"{start}, last layer first",
        rate_factors=unfreeze,
        seed=seed,
        workers=workers,
        console=console,
    )
    return FineTuned(metrics, head)


def train_head(
    model: InceptionV3,
    train_set: LabelledImages,
    test_set: LabelledImages,
    run: RunFolder,
    cache: BottleneckCache,
    *,
    l2: float | None = None,
    precision: Precision = "fp32",
    batch_size: int = 32,
    workers: int = 0,
    console: Console,
) -> TrainedHead:
    """The first part of `finetune`."""
    started = time.perf_counter()
    both = LabelledImages(
        train_set.class_names,
        concatenate(train_set.sources, test_set.sources),
        [*train_set.labels, *test_set.labels],
        concatenate(train_set.names, test_set.names),
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
    seconds = {"features": time.perf_counter() - started}

    started = time.perf_counter()
    labels = torch.tensor(both.labels)[found.places]
    to_train = found.places < len(train_set)
    train_set.check_classes_readable(labels[to_train].tolist())
    if bool(to_train.all()):
        raise InputError("none of the held-out pictures can be read")
    device = next(model.parameters()).device
    head = fit_head(found.features[to_train].to(device), labels[to_train].to(device), len(both.class_names), l2)
    state = {"weights": head.weights[:, :, None, None], "biases": head.biases}
    last_layer(model).load_state_dict(state)
    training = judge(model, found.features[to_train], labels[to_train], precision)
    metrics = judge(model, found.features[~to_train], labels[~to_train], precision)
    seconds["head"] = time.perf_counter() - started

    run.begin()
    run.list_bad(dict([*train_set.bad, *test_set.bad, *found.bad]))
    run.list_training_images(train_set.names)
    figures = {"epoch": 0, "loss": training.loss, "accuracy": training.top1}
    run.log([figures | {"held_out_loss": metrics.loss, "held_out_top1": metrics.top1}])
    run.finish(metrics, [])
    console.print(
        f"features: {found.computed:,} computed, {len(labels) - found.computed:,} from the cache, "
        f"{seconds['features']:.1f} s; last layer: {seconds['head']:.1f} s, L2 {head.l2:g}, "
        f"held out {metrics.top1:.1%}",
        highlight=False,
        soft_wrap=True,
    )
    return TrainedHead(head.l2, head.losses, metrics, training, found.computed, found.not_kept, seconds)


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
        with torch.autocast(device.type, enabled=False), precision_context(device, self.precision):
            return self.layer(features).flatten(1), {}
