"""`inception-v3 train`"""

import os
import re
import shlex
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from inception_v3.cli.common import (
    MAX_SEED,
    Device,
    Json,
    Workers,
    check_outside_data,
    messages,
    choose_worker_count,
    warn_unreadable,
    print_run,
    unreadable_lines,
    warn,
)
from inception_v3.errors import InputError

FITTING = {  # recipes by kind of data
    "digits": "digits",
    "mnist": "mnist",
    "fashion-mnist": "mnist",  # of the same number and size, and in grey too
    "cifar10": "cifar10",
    "cifar100": "cifar10",
}


def train(
    data: Annotated[
        str, typer.Argument(help="digits, or a folder of class/image files, with or without train/ and val/.")
    ],
    out: Annotated[Path, typer.Option(help="The run folder: model, logs, plots.")],
    recipe: Annotated[
        str | None, typer.Option(help="paper, digits, photos ... or a .toml file. By default what fits the data.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Times that every picture is seen.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Pictures at once, in each process.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="The peak of the learning rate.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Height and width that the network sees, 75 or more.")] = None,
    depth_multiplier: Annotated[float | None, typer.Option(help="Factor on every layer's width.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Of weights, order and augmentation.")] = 0,
    device: Device = None,
    workers: Workers = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run that --out holds.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run that --out holds.")] = False,
    save_every: Annotated[
        int | None, typer.Option(min=1, help="Steps between two saved states. By default two minutes.")
    ] = None,
    keep: Annotated[int, typer.Option(min=1, help="How many of the newest saved states to keep.")] = 2,
    track: Annotated[
        list[str] | None, typer.Option(help="mlflow or wandb, beside TensorBoard. Repeat for more.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train the network on labelled pictures, and judge it on others that it never saw."""
    from inception_v3.training.recipe import load_recipe

    if resume and overwrite:
        raise InputError("--resume goes on with a run, --overwrite deletes it: give one of them", exit_status=2)
    check_outside_data(data, out)
    chosen = load_recipe(recipe or FITTING.get(re.split("[:+]", data)[0], "photos")).with_options(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        image_size=image_size,
        depth_multiplier=depth_multiplier,
    )
    from inception_v3.data import load_data
    from inception_v3.support.devices import pick_device
    from inception_v3.support.distributed import local_device, process_group
    from inception_v3.training.interrupts import Interrupted
    from inception_v3.training.run_folder import RunFolder
    from inception_v3.training.train import train

    place = local_device(pick_device(device))
    with ExitStack() as stack:
        processes = stack.enter_context(process_group(place))
        train_set, test_set = load_data(data)
        run = stack.enter_context(
            RunFolder(out, overwrite=overwrite, resume=resume, keep=keep, track=track or (), writer=not processes.rank)
        )
        console = Console(quiet=True) if processes.rank else messages
        if run.missing and run.writer:
            warn(f"no {', '.join(run.missing)}: pip install 'inception-v3[train]' for them")
        if resume and run.writer and not run.last_state_file:
            warn(f"{out}: nothing to go on with; this is a new run")
        try:
            metrics = train(
                train_set,
                test_set,
                run,
                chosen,
                place,
                seed=seed,
                workers=choose_worker_count(workers, len(train_set), data),
                save_every=save_every,
                group=processes,
                console=console,
            )
        except Interrupted as interrupted:
            console.print(f"go on with: {command_to_go_on()}", highlight=False, markup=False, soft_wrap=True)
            raise typer.Exit(interrupted.exit_status) from interrupted
    if processes.rank:
        return
    warn_unreadable(unreadable_lines(run.bad_images), len(train_set) + len(test_set), run.bad_images_file)
    print_run(run, data, metrics, as_json)


def command_to_go_on() -> str:
    """This process's own command, with --resume."""
    program = ["inception-v3"]
    if sys.argv[0].endswith(".py"):
        launcher = "python"
        if "LOCAL_WORLD_SIZE" in os.environ:
            launcher = f"torchrun --nproc-per-node {os.environ['LOCAL_WORLD_SIZE']}"
        program = [*launcher.split(), "-m", "inception_v3"]
    options = [option for option in sys.argv[1:] if option not in ("--overwrite", "--resume")]
    return shlex.join([*program, *options, "--resume"])
