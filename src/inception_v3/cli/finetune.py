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
    default_run_folder,
    check_outside_data,
    messages,
    choose_worker_count,
    warn_unreadable,
    print_run,
    unreadable_lines,
    warn,
)
from inception_v3.errors import InputError
from inception_v3.support.files import cache_folder, checksum

if TYPE_CHECKING:
    from inception_v3.finetuning.finetune import TrainedHead
    from inception_v3.weights.model import InceptionV3


def finetune(
    weights: Annotated[str, typer.Argument(help=MODEL_HELP)],
    data: Annotated[
        str, typer.Argument(help="digits, or a folder of class/image files, with or without train/ and val/.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="The run folder: model, figures, plots. By default runs/ and the data's name.")
    ] = None,
    unfreeze: Annotated[
        str | None,
        typer.Option(
            help="Layers to train too after the last one: end points or starts of their names, as Mixed_7, or all; "
            "NAME=FACTOR sets the factor on the learning rate, else 0.1."
        ),
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder of the features of earlier runs. By default in ~/.cache.")
    ] = None,
    l2: Annotated[
        float | None, typer.Option(help="Penalty on the last layer. By default chosen by held-out training pictures.")
    ] = None,
    precision: Annotated[
        str, typer.Option(help="Of the features: fp32, or bf16, which is faster where the processor has it.")
    ] = "fp32",
    image_size: Annotated[int | None, typer.Option(help="Height and width that the network sees, 75 or more.")] = None,
    batch_size: BatchSize = 32,
    recipe: Annotated[str, typer.Option(help="For --unfreeze: a recipe's name, or a .toml file.")] = "finetune",
    epochs: Annotated[int | None, typer.Option(help="For --unfreeze: times that every picture is seen.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="For --unfreeze: that of the last layer.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="For --unfreeze: of order and augmentation.")] = 0,
    device: Device = None,
    workers: Workers = None,
    weights_file: WeightsFile = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run that --out holds.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run that --out holds.")] = False,
    as_json: Json = False,
) -> None:
    """Teach a trained network new classes: first its last layer, from features that are computed once."""
    if l2 is not None and not 0 <= l2 < math.inf:
        raise InputError(f"--l2 must be zero or more, not {l2}", exit_status=2)
    if precision not in ("fp32", "bf16"):
        raise InputError(f"--precision must be fp32 or bf16, not {precision}", exit_status=2)
    if resume and overwrite:
        raise InputError("--resume goes on with a run, --overwrite deletes it: give one of them", exit_status=2)
    if resume and unfreeze is None:
        raise InputError("--resume goes on with --unfreeze; features are kept without it", exit_status=2)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("finetune is the work of one process; start it without torchrun", exit_status=2)
    folder = out or default_run_folder(data)
    check_outside_data(data, folder)
    from inception_v3.training.recipe import load_recipe

    chosen = load_recipe(recipe).with_options(epochs=epochs, learning_rate=learning_rate)
    if data == "digits" and recipe == "finetune":
        chosen = chosen.with_options(augment="handwriting")  # a mirrored digit is another sign
    from inception_v3.cli.train import command_to_go_on
    from inception_v3.data import load_data
    from inception_v3.finetuning.bottlenecks import BottleneckCache
    from inception_v3.finetuning.finetune import finetune, rate_factors, with_new_head
    from inception_v3.support.devices import has_bf16, pick_device
    from inception_v3.training.interrupts import Interrupted
    from inception_v3.training.run_folder import BEST_FILE, RunFolder
    from inception_v3.weights.load import load
    from inception_v3.weights.read import MODEL_FILE

    factors = None if unfreeze is None else rate_factors(unfreeze)
    place = pick_device(device)
    if precision == "bf16" and not has_bf16(place):
        raise InputError(f"--precision bf16: not on this {place.type}, which does not compute in it", exit_status=2)
    train_set, test_set = load_data(data)
    size = None if image_size is None else (image_size, image_size)
    loaded = load(weights, place, weights_file=weights_file)
    network = with_new_head(loaded, train_set.class_names, size)
    if factors is not None and not chosen.freeze_batch_norm:
        warn(f"{recipe}: BatchNorm's statistics will move, in frozen layers too; freeze_batch_norm = true keeps them")
    if Path(weights).resolve() in (folder.resolve(), *((folder / name).resolve() for name in (MODEL_FILE, BEST_FILE))):
        raise InputError(f"{folder}: the weights are there, and would be replaced; give another --out", exit_status=2)
    features = BottleneckCache(cache or cache_folder("bottlenecks"))
    with RunFolder(folder, overwrite=overwrite, resume=resume) as run:
        if run.missing and factors is not None:
            warn(f"no {', '.join(run.missing)}: pip install 'inception-v3[train]' for them")
        try:
            done = finetune(
                network,
                train_set,
                test_set,
                run,
                features,
                l2=l2,
                precision="bf16" if precision == "bf16" else "fp32",
                batch_size=batch_size,
                workers=choose_worker_count(workers, len(train_set), data),
                unfreeze=factors,
                recipe=chosen,
                start="given weights" if factors is None else _identity(loaded),
                seed=seed,
                console=messages,
            )
        except Interrupted as interrupted:
            messages.print(f"go on with: {command_to_go_on()}", highlight=False, markup=False, soft_wrap=True)
            raise typer.Exit(interrupted.exit_status) from interrupted
        except KeyboardInterrupt:
            messages.print("the features so far are kept; the same command goes on from there")
            raise
    pictures = len(train_set) + len(test_set)
    if done.head and done.head.not_kept:
        warn(f"the cache takes no more, and the next run will do again what is not in it: {done.head.not_kept}")
    warn_unreadable(unreadable_lines(run.bad_images), pictures, run.bad_images_file)
    print_run(run, data, done.metrics, as_json, weights=weights, head=done.head and _head(done.head))


def _head(head: "TrainedHead") -> dict[str, Any]:
    judged = (("training", head.training), ("held_out", head.metrics))
    return {
        "l2": head.l2,
        "l2_losses": {str(strength): loss for strength, loss in head.losses.items()},
        "computed": head.computed,
        "cached": head.training.count + head.metrics.count - head.computed,
        "seconds": head.seconds,
    } | {name: {"count": one.count, "top1": one.top1, "loss": one.loss} for name, one in judged}


def _identity(model: "InceptionV3") -> str:
    """What a state is gone on with from: the same weights, however their place is spelled."""
    assert model.origin is not None  # of what was loaded
    return f"{model.origin.file.name} (sha256 {checksum(model.origin.file)[:12]})"
