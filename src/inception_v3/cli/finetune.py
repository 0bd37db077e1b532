"""`inception-v3 finetune`"""

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inception_v3.cli.common import (
    MAX_SEED,
    MODEL_HELP,
    BatchSize,
    Device,
    Json,
    WeightsFile,
    Workers,
    check_outside_data,
    choose_worker_count,
    default_run_folder,
    messages,
    print_run,
    unreadable_lines,
    warn,
    warn_unreadable,
)
from inception_v3.errors import InputError
from inception_v3.support.files import cache_folder, checksum

if TYPE_CHECKING:
    from inception_v3.finetuning.finetune import TrainedHead
    from inception_v3.weights.model import InceptionV3


def finetune(
    weights: Annotated[str, typer.Argument(help=MODEL_HELP)],
    data: Annotated[
        str,
        typer.Argument(
            help="digits, a folder of class/image files, with or without train/ and val/, or another address "
            "(docs/data.md)."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="The run folder: model, figures, plots. By default runs/ and the data's name.")
    ] = None,
    unfreeze: Annotated[
        str | None,
        typer.Option(
            help="Further layers to train after the last layer has been trained: end points, prefixes of their names "
            "such as Mixed_7, or all. NAME=FACTOR scales the learning rate, by default by 0.1."
        ),
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder of the feature store. By default in the user's cache folder.")
    ] = None,
    l2: Annotated[
        float | None,
        typer.Option(help="L2 penalty on the last layer. By default chosen on held-out training images."),
    ] = None,
    precision: Annotated[
        str,
        typer.Option(help="Precision of the features: fp32, or bf16, which is faster where the hardware has it."),
    ] = "fp32",
    image_size: Annotated[int | None, typer.Option(help="Height and width of the network's input, 75 or more.")] = None,
    batch_size: BatchSize = 32,
    recipe: Annotated[str, typer.Option(help="For --unfreeze: a recipe's name, or a .toml file.")] = "finetune",
    epochs: Annotated[int | None, typer.Option(help="For --unfreeze: passes over the training images.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="For --unfreeze: learning rate of the last layer.")
    ] = None,
    seed: Annotated[
        int,
        typer.Option(min=0, max=MAX_SEED, help="For --unfreeze: seed for the order of the images and augmentation."),
    ] = 0,
    device: Device = None,
    workers: Workers = None,
    weights_file: WeightsFile = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume the run in --out.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")] = False,
    as_json: Json = False,
) -> None:
    """Fine-tune a trained network on new classes.

    The last layer is trained on features that are computed once; --unfreeze then trains more layers.
    """
    from inception_v3.cli.train import check_only_one, show_resume_command, warn_of_missing

    check_only_one(resume, overwrite)
    _check_options(l2, precision, resume_head=resume and unfreeze is None)
    folder = out or default_run_folder(data)
    check_outside_data(data, folder)
    from inception_v3.training.recipe import TrainingOptions, load_recipe

    chosen_recipe = load_recipe(recipe).with_options(epochs=epochs, learning_rate=learning_rate)
    if data == "digits" and recipe == "finetune":
        chosen_recipe = chosen_recipe.with_options(augment="handwriting")  # most mirrored digits are not digits
    from inception_v3.data import load_data
    from inception_v3.finetuning.finetune import HeadOptions, finetune, rate_factors, with_new_head
    from inception_v3.inference.feature_store import FeatureStore
    from inception_v3.support.devices import has_bf16, pick_device
    from inception_v3.training.run_folder import BEST_FILE, RunFolder
    from inception_v3.weights.load import load
    from inception_v3.weights.read import MODEL_FILE

    factors = None if unfreeze is None else rate_factors(unfreeze)
    local_device = pick_device(device)
    if precision == "bf16" and not has_bf16(local_device):
        raise InputError(f"--precision bf16: this {local_device.type} does not support it; use fp32", exit_status=2)
    train_set, test_set = load_data(data)
    loaded = load(weights, local_device, weights_file=weights_file)
    model = with_new_head(loaded, train_set.class_names, None if image_size is None else (image_size, image_size))
    if factors is not None and not chosen_recipe.freeze_batch_norm:
        warn(f"{recipe}: BatchNorm's statistics will change, in frozen layers too; freeze_batch_norm = true keeps them")
    if Path(weights).resolve() in [(folder / name).resolve() for name in ("", MODEL_FILE, BEST_FILE)]:
        raise InputError(f"{folder}: would replace the weights to start from; give another --out", exit_status=2)
    store = FeatureStore(cache or cache_folder("features"))
    with RunFolder(folder, overwrite=overwrite, resume=resume) as run:
        if factors is not None:
            warn_of_missing(run)
        try:
            with show_resume_command(messages):
                result = finetune(
                    model,
                    train_set,
                    test_set,
                    run,
                    store,
                    head=HeadOptions(l2, "bf16" if precision == "bf16" else "fp32", batch_size),
                    unfreeze=factors,
                    recipe=chosen_recipe,
                    start="given weights" if factors is None else _name_and_checksum(loaded),
                    options=TrainingOptions(seed, choose_worker_count(workers, len(train_set), data)),
                    console=messages,
                )
        except KeyboardInterrupt:
            messages.print("the features computed so far are kept; run the same command again to continue")
            raise
        finally:
            store.close()
            for message in store.messages:
                warn(message)
    warn_unreadable(unreadable_lines(run.bad_images), len(train_set) + len(test_set), run.bad_images_file)
    print_run(run, data, result.metrics, as_json, weights=weights, head=result.head and _head_as_dict(result.head))


def _check_options(l2: float | None, precision: str, *, resume_head: bool) -> None:
    """Check the options before anything slow is imported. Raises InputError for options that cannot work."""
    if l2 is not None and not 0 <= l2 < math.inf:
        raise InputError(f"--l2 must be zero or more, not {l2}", exit_status=2)
    if precision not in ("fp32", "bf16"):
        raise InputError(f"--precision must be fp32 or bf16, not {precision}", exit_status=2)
    if resume_head:
        raise InputError(
            "--resume works only with --unfreeze; leave it out: cached features are reused anyway", exit_status=2
        )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("finetune runs in one process; start it without torchrun", exit_status=2)


def _head_as_dict(head: "TrainedHead") -> dict[str, Any]:
    """The results of training the last layer, for --json."""
    metrics = {"training": head.training, "held_out": head.metrics}
    return {
        "l2": head.l2,
        "l2_losses": {str(strength): loss for strength, loss in head.losses.items()},
        "computed": head.computed,
        "cached": head.training.count + head.metrics.count - head.computed,
        "seconds": head.seconds,
    } | {name: {"count": part.count, "top1": part.top1, "loss": part.loss} for name, part in metrics.items()}


def _name_and_checksum(model: "InceptionV3") -> str:
    """The file name and checksum of the weights. A resumed training must start from the same weights, at any path."""
    assert model.origin is not None  # set by `load`
    return f"{model.origin.file.name} (sha256 {checksum(model.origin.file)[:12]})"
