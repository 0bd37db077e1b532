"""Fine-tuning: a trained network learns new classes.

First, only a new last layer is trained, to its optimum (logistic.py), with features that are computed once
(bottlenecks.py). That takes minutes for new images, and seconds if the features are cached. Then, if requested, other
layers are trained too, with smaller learning rates (training/train.py).
"""

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from inception_v3.data import LabelledImages, batches
from inception_v3.data.sequences import concatenate
from inception_v3.errors import InputError
from inception_v3.evaluation.evaluate import Metrics, evaluate, log_probabilities, merge, predictions
from inception_v3.finetuning.bottlenecks import HEAD_PREFIXES, Bottlenecks, bottlenecks, last_layer
from inception_v3.finetuning.folds import CrossValidation, assign_folds, check_folds, content_groups
from inception_v3.finetuning.logistic import FittedHead, fit_head
from inception_v3.inference.choose import fastest_engine
from inception_v3.inference.engines.base import Precision
from inception_v3.inference.feature_store import FeatureStore
from inception_v3.network import architecture
from inception_v3.network.architecture import BASE_END_POINTS
from inception_v3.support.arguments import BatchSize, CountFromTwo, Range, check_fields, checked
from inception_v3.support.devices import precision_context
from inception_v3.support.progress import Advance, ignore, show_progress, summary
from inception_v3.support.streams import new_console, print_text
from inception_v3.support.text import suggest
from inception_v3.training.model import check_batch_size, check_memory
from inception_v3.training.recipe import DEFAULT_OPTIONS, Recipe, TrainingOptions, load_recipe
from inception_v3.training.run_folder import RunFolder
from inception_v3.weights import BEST_FILE
from inception_v3.weights.load import load
from inception_v3.weights.model import InceptionV3


@dataclass(frozen=True)
class HeadOptions:
    """How to train the last layer."""

    l2: Annotated[float, Range(minimum=0)] | None = (
        None  # strength of the L2 penalty; None chooses it by holding out a part of the training images
    )
    precision: Precision = "fp32"  # of the features, and so of the last layer
    batch_size: BatchSize = 32  # images per batch while the features are computed
    folds: CountFromTwo | None = None  # number of folds of a cross-validation before the last layer is trained

    def __post_init__(self) -> None:
        check_fields(self)


DEFAULT_HEAD = HeadOptions()
Keep = Literal["best", "last"]  # the weights to keep of a training of more layers


@dataclass
class TrainedHead:
    """The result of training the last layer."""

    l2: float
    losses: dict[float, float]  # of held-out training images, by the strength of each L2 penalty that was tried
    metrics: Metrics  # on the held-out images
    training: Metrics  # on the training images
    computed: int  # number of images whose features were not in the store
    seconds: dict[str, float]  # spent on "features" and on "head"
    folds: CrossValidation | None = None  # None if it was not requested

    def held_out_figures(self) -> dict[str, float]:
        """The line of metrics.jsonl: epoch 0."""
        figures = {"epoch": 0, "loss": self.training.loss, "accuracy": self.training.top1}
        return figures | self.metrics.held_out_figures()


@dataclass(frozen=True)
class Unfreezing:
    """The figures of a training of more layers, and the weights that were kept of it."""

    keep: Keep
    epoch: int  # of the kept weights: 0 is the trained last layer, before other layers were trained
    epochs: list[dict[str, float]]  # the lines of metrics.jsonl; runs that began with an earlier version lack epoch 0

    def as_dict(self) -> dict[str, Any]:
        """The kept weights, and the figures before unfreezing ("head") and after the last epoch ("unfrozen")."""
        held_out: list[dict[str, Any]] = [
            {name.removeprefix("held_out_"): value for name, value in figures.items() if name.startswith("held_out_")}
            for figures in (self.epochs[0], self.epochs[-1])
        ]
        for figures in held_out:
            figures["top1_interval"] = [figures.pop(name, None) for name in ("top1_low", "top1_high")]
        head, unfrozen = held_out
        return {
            "keep": self.keep,
            "kept": "unfrozen" if self.epoch else "head",
            "kept_epoch": self.epoch,
            "head": head if self.epochs[0]["epoch"] == 0 else None,
            "unfrozen": unfrozen,
        }


@dataclass
class FineTuned:
    """The result of `finetune`."""

    metrics: Metrics  # of the kept model, on the held-out images
    head: TrainedHead | None  # None if a training of more layers was resumed
    unfreezing: Unfreezing | None = None  # None if only the last layer was trained


@checked
def with_new_head(model: InceptionV3, class_names: list[str], image_size: tuple[int, int] | None = None) -> InceptionV3:
    """A model with the base of another and a last layer of zeros for new classes, without other layers in its heads.

    It shares the tensors of the base with `model`. `image_size` replaces that of the preprocessing.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: no class names, or equal ones.
        InputError: the model is cut before its last module, or the size is too small for it.
    """
    if len(set(class_names)) < max(len(class_names), 1):
        raise ValueError(f"class_names must be one or more different names, not {class_names[:10]}")
    final_endpoint = model.settings.final_endpoint
    if final_endpoint not in (None, BASE_END_POINTS[-1]):
        raise InputError(f"the network ends at {final_endpoint}, but fine-tuning needs it up to {BASE_END_POINTS[-1]}")
    size = image_size or model.preprocessing.image_size
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
        hidden_units=(),
        hidden_activation="relu",
        hidden_batch_norm=None,
        output_activation="softmax",
    )
    with torch.device("meta"):
        new_model = InceptionV3(**settings)
    tensors, device = model.state_dict(), next(model.parameters()).device
    tensors = {
        name: torch.zeros(tensor.shape, device=device) if name.startswith(HEAD_PREFIXES) else tensors[name]
        for name, tensor in new_model.state_dict().items()
    }
    new_model.load_state_dict(tensors, assign=True)
    new_model.preprocessing = model.preprocessing.at(size)
    new_model.class_names = class_names
    new_model.origin = model.origin and replace(model.origin, training={"origin": model.origin.first})
    return new_model.eval()


@checked
def rate_factors(layers: str) -> dict[str, float]:
    """Parse --unfreeze into factors on the learning rate, by the start of a parameter's name, for build_optimizer.

    Args:
        layers: `all`, or a list of end points or starts of their names, each with a factor (0.1 by default): "Mixed_7",
            "Mixed_7a,Mixed_7b" or "Mixed_7=0.1,Mixed_6e=0.01". The last layer gets 1, other layers 0.

    Raises:
        InputError: a name of no layer with weights, or a factor outside (0, 1].
    """
    known = [point.name for point in architecture.end_points() if point.parameters and point.name in BASE_END_POINTS]
    factors = {"": 0.0, "Logits.": 1.0}
    for item in filter(None, map(str.strip, layers.split(","))):
        name, separator, factor = item.partition("=")
        try:
            value = float(factor) if separator else 0.1
        except ValueError:
            value = math.nan
        if not 0 < value <= 1:
            raise InputError(f"--unfreeze {item}: the factor must be greater than 0 and at most 1", exit_status=2)
        matches = [layer for layer in known if name == "all" or layer.startswith(name)]
        if not matches or not name:
            raise InputError(f"--unfreeze {name}: no such layer; {suggest(name, ['all', *known])}", exit_status=2)
        factors |= {f"{layer}.": value for layer in matches}
    if len(factors) == 2:
        raise InputError("--unfreeze: no layers; give end points such as Mixed_7a,Mixed_7b,Mixed_7c", exit_status=2)
    return factors


@checked
def finetune(
    model: InceptionV3,
    train_set: LabelledImages,
    test_set: LabelledImages,
    run: RunFolder,
    store: FeatureStore,
    *,
    head: HeadOptions = DEFAULT_HEAD,
    unfreeze: Mapping[str, float] | None = None,
    keep: Keep = "best",
    recipe: Recipe | None = None,
    start: str = "given weights",
    options: TrainingOptions = DEFAULT_OPTIONS,
    console: Console | None = None,
) -> FineTuned:
    """Train the last layer of a model from `with_new_head`, then other layers if requested, and write a run folder.

    Only `keep="best"` chooses with `test_set`.

    Args:
        run: if it holds a state of a training with the same `unfreeze`, that training resumes.
        store: features of known images; those of new images are added.
        unfreeze: learning-rate factors, as `rate_factors` returns them, of the layers to train after the last one.
        keep: the weights to keep after that: "best" keeps those with the highest top-1 accuracy on `test_set`, of the
            trained last layer and of every epoch; the earliest of several. "last" keeps those of the last epoch.
        recipe: how to train these layers. The image size, crop fraction and depth multiplier are those of `model`.
        start: a description of the weights from which `model` was made.

    Raises:
        TypeError, ValueError: an argument of the wrong type or value.
        InputError: as `train` and `folds.check_folds` do, or `unfreeze` is used with an image size that is not square.
    """
    console = console or new_console(stderr=True)
    height, width = model.image_size
    if unfreeze and height != width:
        raise InputError(f"--unfreeze needs square images, not {height}x{width}; give --image-size", exit_status=2)
    recipe = (recipe or load_recipe("finetune")).with_options(
        image_size=height,
        crop_fraction=model.preprocessing.crop_fraction,
        depth_multiplier=model.settings.depth_multiplier,
    )
    device, classes = next(model.parameters()).device, len(train_set.class_names)
    if unfreeze:
        check_memory(recipe, len(train_set), classes, device)
        check_batch_size(model, recipe, len(train_set))
    check_memory(recipe.with_options(batch_size=head.batch_size), len(train_set), classes, device, training=False)
    trained = None
    if not (unfreeze and run.latest_state_file):
        trained = train_head(model, train_set, test_set, run, store, head, options.workers, console)
    if trained and not unfreeze:
        facts = {"l2": trained.l2, "precision": head.precision, "seen": trained.training.count}
        facts = {"head": facts} | ({"folds": trained.folds.summary()} if trained.folds else {})
        run.save_model(model, facts, train_set, test_set, trained.metrics)
        run.write_card()
        return FineTuned(trained.metrics, trained)
    # Do not save the model here: --resume refuses a model without a state, and `train` saves both in the right order.
    from inception_v3.training.train import train  # takes seconds to import

    metrics = train(
        train_set,
        test_set,
        run,
        recipe,
        device,
        model=model,
        start=f"{start}, last layer first",
        start_figures=trained.held_out_figures() if trained else None,
        rate_factors=unfreeze,
        options=options,
        console=console,
    )
    unfreezing = Unfreezing(keep, recipe.epochs, run.read_metrics())
    if keep == "best":
        best = load(run.path / BEST_FILE, device)
        assert best.origin is not None  # set by `load`
        unfreezing = replace(unfreezing, epoch=round(best.origin.training["epochs"]))
        if unfreezing.epoch < recipe.epochs:
            best_head = trained if unfreezing.epoch == 0 else None
            metrics = best_head.metrics if best_head else _evaluate(best, test_set, recipe, options)
            run.save_model(best, best.origin.training, train_set, test_set, metrics, best=True)
            run.write_card()
            run.draw_plots(metrics, [])
    return FineTuned(metrics, trained, unfreezing)


def _evaluate(model: InceptionV3, test_set: LabelledImages, recipe: Recipe, options: TrainingOptions) -> Metrics:
    """Evaluate an epoch's model, as `train` does."""
    loader = batches(test_set, model.preprocessing, recipe.batch_size, workers=options.workers)
    return evaluate(model, loader, test_set.class_names)


def train_head(
    model: InceptionV3,
    train_set: LabelledImages,
    test_set: LabelledImages,
    run: RunFolder,
    store: FeatureStore,
    options: HeadOptions,
    workers: int,
    console: Console,
) -> TrainedHead:
    """Train the last layer of `model` in place, and write everything except the model to the run folder."""
    started = time.perf_counter()
    images = LabelledImages(
        train_set.class_names,
        concatenate(train_set.sources, test_set.sources),
        [*train_set.labels, *test_set.labels],
        concatenate(train_set.names, test_set.names),
    )
    groups = content_groups(train_set, test_set) if options.folds else np.arange(len(images))
    if options.folds:  # what cannot work is refused before the features are computed
        check_folds(np.array(images.labels), groups, options.folds, images.class_names)
    result = _bottlenecks_with_progress(model, images, store, options, workers, console)
    features_done = time.perf_counter()

    labels = torch.tensor(images.labels)[result.indices]
    is_training = result.indices < len(train_set)
    train_set.check_classes_readable(labels[is_training].tolist())
    if bool(is_training.all()):
        raise InputError("none of the held-out images can be read")
    features, folds = result.features, None
    with show_progress(console) as start_step:
        fitted = start_step("last layer", (options.folds or 0) + 1, "fits")
        if options.folds:
            readable = (labels.numpy(), groups[result.indices], options.folds)
            check_folds(*readable, images.class_names)
            folds = _cross_validate(model, features, labels, assign_folds(*readable), options, fitted)
        head = _fit(model, features[is_training], labels[is_training], options)
        fitted(1)
    training = evaluate_head(model, features[is_training], labels[is_training], options.precision)
    metrics = evaluate_head(model, features[~is_training], labels[~is_training], options.precision)
    seconds = {"features": features_done - started, "head": time.perf_counter() - features_done}
    trained = TrainedHead(head.l2, head.losses, metrics, training, result.computed, seconds, folds)

    run.remove_old_run()
    run.write_bad_images(dict([*train_set.bad, *test_set.bad, *result.bad]))
    run.write_training_images(train_set.names)
    run.write_metrics([trained.held_out_figures()])
    run.draw_plots(metrics, [])
    for line in _describe(trained):
        print_text(console, line)
    return trained


def _fit(model: InceptionV3, features: Tensor, labels: Tensor, options: HeadOptions) -> FittedHead:
    """Fit the last layer of `model` in place to images given by their features."""
    device = next(model.parameters()).device
    head = fit_head(features.to(device), labels.to(device), model.settings.num_classes, options.l2)
    last_layer(model).load_state_dict({"weights": head.weights[:, :, None, None], "biases": head.biases})
    return head


def _cross_validate(
    model: InceptionV3,
    features: Tensor,
    labels: Tensor,
    numbers: NDArray[np.int64],
    options: HeadOptions,
    advance: Advance = ignore,
) -> CrossValidation:
    """Train the last layer of `model` once for each fold, and evaluate it on the images of this fold.

    The L2 penalty is chosen for each fold without its images. `numbers` are the folds of the images, (N,).
    """
    folds, penalties = [], []
    for number in range(int(numbers.max()) + 1):
        inside = torch.from_numpy(numbers == number)
        penalties.append(_fit(model, features[~inside], labels[~inside], options).l2)
        fold = evaluate_head(model, features[inside], labels[inside], options.precision)
        fold.predictions["index"] = np.flatnonzero(inside)
        folds.append(fold)
        advance(1)
    return CrossValidation(merge(folds), folds, penalties)


def _describe(head: TrainedHead) -> Iterator[str]:
    """Lines for people: how the last layer was trained, and what it reaches."""
    tried = f", the best of {len(head.losses)} on a part of the training images" if head.losses else ""
    yield f"last layer: {head.seconds['head']:.1f} s, L2 penalty {head.l2:g}{tried}"
    if head.folds:
        yield f"{len(head.folds.each)} folds: {head.folds.metrics.describe('images, each held out once')}"
    yield f"only the last layer trained: {head.metrics.describe('held-out images')}"


def _bottlenecks_with_progress(
    model: InceptionV3,
    images: LabelledImages,
    store: FeatureStore,
    options: HeadOptions,
    workers: int,
    console: Console,
) -> Bottlenecks:
    """The features of the images, with progress bars or lines, and a summary."""
    started = time.perf_counter()
    with show_progress(console) as start_step:
        features = start_step("features", len(images))
        files = start_step("reading files", len(images))
        result = bottlenecks(
            model,
            images,
            store,
            precision=options.precision,
            batch_size=options.batch_size,
            workers=workers,
            on_file=lambda: files(1),
            on_features=features,
        )
    computed = result.computed + len(result.bad)
    engine, _ = fastest_engine(options.precision, str(next(model.parameters()).device))
    line = summary(
        computed,
        len(result.bad),
        time.perf_counter() - started,
        f"{engine.name} {options.precision}",
        stored=len(images) - computed,
    )
    print_text(console, f"features: {line}")
    return result


@torch.inference_mode()
def evaluate_head(model: InceptionV3, features: Tensor, labels: Tensor, precision: Precision = "fp32") -> Metrics:
    """Evaluate the model on images given by their features (N, D), without running its base; labels are (N,)."""
    layer, device = last_layer(model), next(model.parameters()).device
    parts = torch.split(features[:, :, None, None], 512)
    with precision_context(device, precision):
        logits = [layer(part.to(device)).flatten(1).float().cpu() for part in parts]
    rows = predictions(log_probabilities(torch.cat(logits)), labels, torch.arange(len(labels)))
    return Metrics(model.class_names or [], rows, [])
