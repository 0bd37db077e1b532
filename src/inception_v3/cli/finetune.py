"""`inception-v3 finetune`"""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inception_v3.cli.common import (
    DATA_HELP,
    NO_FACTS,
    BatchSize,
    Cache,
    Device,
    Epochs,
    Json,
    LabelsFromName,
    LabelsTable,
    LearningRate,
    LogSteps,
    ModelArgument,
    ModelFacts,
    NoCache,
    Overwrite,
    Resume,
    Seed,
    WeightsFile,
    Workers,
    check_bf16,
    check_only_one,
    check_outside_data,
    check_seed,
    choice,
    choose_worker_count,
    default_run_folder,
    detail,
    label_facts,
    labels_from,
    messages,
    note,
    output_option,
    precision_option,
    print_run,
    training_option,
    unreadable_lines,
    warn,
    warn_unreadable,
)
from inception_v3.errors import InputError
from inception_v3.support.files import cache_folder, checksum

if TYPE_CHECKING:
    from inception_v3.finetuning.finetune import FineTuned, TrainedHead
    from inception_v3.inference.feature_store import FeatureStore
    from inception_v3.training.recipe import Recipe
    from inception_v3.weights.model import InceptionV3


def finetune(
    weights: ModelArgument,
    data: Annotated[str, typer.Argument(help=DATA_HELP)],
    out: Annotated[
        Path | None,
        output_option(
            metavar="FOLDER", help="The run folder: model, figures, plots.", show_default="runs/ and the data's name"
        ),
    ] = None,
    unfreeze: Annotated[
        str | None,
        training_option(
            metavar="NAME,...",
            help="Further layers to train after the last layer has been trained: end points, prefixes of their names "
            "such as Mixed_7, or all. NAME=FACTOR scales the learning rate, by default by 0.1.",
        ),
    ] = None,
    keep: Annotated[
        str,
        choice(
            "--keep",
            ("best", "last"),
            "Weights to keep with --unfreeze, of those before it and after each epoch: those with the highest top-1 on "
            "the held-out images, or the last",
            heading="Training",
        ),
    ] = "best",
    folds: Annotated[
        int | None,
        training_option(
            min=2,
            metavar="K",
            help="Cross-validate the last layer: train it K times, each time without another part of all images, and "
            "evaluate it there. The model that is written does not change. Not with --unfreeze.",
        ),
    ] = None,
    cache: Cache = None,
    no_cache: NoCache = False,
    l2: Annotated[
        float | None,
        training_option(
            metavar="PENALTY",
            help="L2 penalty on the last layer.",
            show_default="chosen on held-out training images",
        ),
    ] = None,
    precision: Annotated[str, precision_option(("fp32", "bf16"))] = "fp32",
    batch_size: BatchSize = 32,
    recipe: Annotated[str, training_option(metavar="NAME", help="A recipe's name, or a .toml file.")] = "finetune",
    epochs: Epochs = None,
    learning_rate: LearningRate = None,
    seed: Seed = 0,
    device: Device = None,
    workers: Workers = None,
    labels: LabelsTable = None,
    labels_from_name: LabelsFromName = None,
    weights_file: WeightsFile = None,
    facts: ModelFacts = NO_FACTS,
    resume: Resume = False,
    overwrite: Overwrite = False,
    log_steps: LogSteps = None,
    as_json: Json = False,
) -> None:
    """Fine-tune a trained network on new classes.

    The last layer is trained on features that are computed once; --unfreeze then trains more layers. --recipe,
    --epochs, --learning-rate, --seed, --log-steps, --keep and --resume are for --unfreeze.
    """
    from inception_v3.cli.train import show_resume_command, warn_of_missing

    check_only_one(resume=resume, overwrite=overwrite)
    check_only_one(cache=cache is not None, **{"no-cache": no_cache})
    label_source = labels_from(labels, labels_from_name)
    _check_options(l2, seed, resume_head=resume and unfreeze is None, unfreeze_folds=bool(unfreeze and folds))
    folder = out or default_run_folder(data)
    check_outside_data(data, folder)
    chosen_recipe = _load_recipe(recipe, data, epochs, learning_rate)
    from inception_v3.data import load_data
    from inception_v3.finetuning.advice import advice
    from inception_v3.finetuning.finetune import HeadOptions, finetune, rate_factors, with_new_head
    from inception_v3.finetuning.folds import smallest_class
    from inception_v3.images.addresses import short_name
    from inception_v3.inference.choose import check_has_weights
    from inception_v3.support.devices import pick_device
    from inception_v3.training.recipe import TrainingOptions
    from inception_v3.training.run_folder import RunFolder
    from inception_v3.weights.load import load
    from inception_v3.weights.read import peek

    factors = None if unfreeze is None else rate_factors(unfreeze)
    local_device = pick_device(device)
    check_bf16(precision, local_device)
    peek(weights, weights_file)
    check_has_weights(weights, facts)
    _check_start(weights, folder)
    labelled = label_facts(label_source)
    with (
        RunFolder(folder, overwrite=overwrite, resume=resume, data_name=short_name(data), facts=labelled) as run,
        _feature_store(None if no_cache else cache or cache_folder("features")) as store,
    ):
        train_set, test_set = load_data(data, label_source)
        loaded = load(weights, local_device, weights_file=weights_file, **facts)
        if loaded.settings.hidden_units:
            note(f"{weights}: its hidden layers are left out; the classes are learned from the features before them")
        model = with_new_head(loaded, train_set.class_names, facts.get("image_size"))
        if factors is not None and not chosen_recipe.freeze_batch_norm:
            change = f"{recipe}: BatchNorm's statistics will change, in frozen layers too"
            warn(f"{change}; freeze_batch_norm = true keeps them")
        options = TrainingOptions(seed, choose_worker_count(workers, len(train_set), data), log_steps=log_steps)
        detail(f"{len(train_set)} training images, {len(test_set)} held out, on {local_device}")
        if factors is not None:
            warn_of_missing(run)
        with show_resume_command(messages):
            result = finetune(
                model,
                train_set,
                test_set,
                run,
                store,
                head=HeadOptions(l2, "bf16" if precision == "bf16" else "fp32", batch_size, folds),
                unfreeze=factors,
                keep="last" if keep == "last" else "best",
                recipe=chosen_recipe,
                start="given weights" if factors is None else _name_and_checksum(loaded),
                options=options,
                console=messages,
            )
    warn_unreadable(unreadable_lines(run.bad_images), len(train_set) + len(test_set), run.bad_images_file)
    train_counts, test_counts = (each.counts().tolist() for each in (train_set, test_set))
    lines = advice(train_counts, test_counts, result, partial(smallest_class, train_set, test_set))
    print_run(run, data, result.metrics, as_json, **labelled, weights=weights, **_as_dict(result), advice=lines)
    for line in () if as_json else lines:
        note(line)


@contextmanager
def _feature_store(folder: Path | None) -> "Iterator[FeatureStore]":
    """The store of features in a folder, or if it is None, in a temporary one. Warns of the store's faults."""
    from inception_v3.inference.feature_store import FeatureStore
    from inception_v3.support.system_errors import temporary_folder

    with temporary_folder() if folder is None else nullcontext(folder) as path:
        store = FeatureStore(path)
        try:
            yield store
        except KeyboardInterrupt:
            kept = "" if folder is None else "the features computed so far are kept; "
            note(f"{kept}run the same command again to continue")
            raise
        finally:
            store.close()
            for message in store.messages:
                warn(message)


def _check_options(l2: float | None, seed: int, *, resume_head: bool, unfreeze_folds: bool) -> None:
    """Check the options before anything slow is imported. Raises InputError for options that cannot work."""
    check_seed(seed)
    if unfreeze_folds:
        raise InputError(
            "--folds and --unfreeze: only the last layer can be cross-validated; use only one of them", exit_status=2
        )
    if l2 is not None and not 0 <= l2 < math.inf:
        raise InputError(f"--l2 must be zero or more, not {l2}", exit_status=2)
    if resume_head:
        raise InputError(
            "--resume works only with --unfreeze; leave it out: cached features are reused anyway", exit_status=2
        )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("finetune runs in one process; start it without torchrun", exit_status=2)


def _check_start(weights: str, folder: Path) -> None:
    """Raise InputError if the run would replace the weights to start from."""
    from inception_v3.weights import BEST_FILE, MODEL_FILE

    real = os.path.realpath
    if real(weights) in [real(folder / name) for name in ("", MODEL_FILE, BEST_FILE)]:
        raise InputError(f"{folder}: would replace the weights to start from; give another --out", exit_status=2)


def _load_recipe(recipe: str, data: str, epochs: int | None, learning_rate: float | None) -> "Recipe":
    """Load the recipe and apply the options. Raises InputError: no such recipe, or a value that cannot work."""
    from inception_v3.training.recipe import load_recipe

    chosen = load_recipe(recipe).with_options(epochs=epochs, learning_rate=learning_rate)
    if data == "digits" and recipe == "finetune":
        return chosen.with_options(augment="handwriting")  # most mirrored digits are not digits
    return chosen


def _as_dict(result: "FineTuned") -> dict[str, Any]:
    """The results of the last layer, of its cross-validation and of --unfreeze, for --json."""
    head, unfreezing = result.head, result.unfreezing
    return {
        "head": head and _head_as_dict(head),
        "folds": head.folds.as_dict() if head and head.folds else None,
        "unfreeze": unfreezing and unfreezing.as_dict(),
    }


def _head_as_dict(head: "TrainedHead") -> dict[str, Any]:
    """The results of training the last layer, for --json."""
    metrics = {"training": head.training, "held_out": head.metrics}
    return {
        "l2": head.l2,
        "l2_losses": {str(strength): loss for strength, loss in head.losses.items()},
        "computed": head.computed,
        "cached": head.training.count + head.metrics.count - head.computed,
        "seconds": head.seconds,
    } | {name: {"count": part.count} | part.summary() for name, part in metrics.items()}


def _name_and_checksum(model: "InceptionV3") -> str:
    """The file name and checksum of the weights. A resumed training must start from the same weights, at any path."""
    assert model.origin is not None  # set by `load`
    return f"{model.origin.file.name} (sha256 {checksum(model.origin.file)[:12]})"
