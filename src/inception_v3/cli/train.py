"""`inception-v3 train`, and functions that `inception-v3 finetune` shares with it."""

import os
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inception_v3.cli.common import (
    DATA_HELP,
    DEPTH_HELP,
    Device,
    Epochs,
    ImageSize,
    Json,
    LabelsFromName,
    LabelsTable,
    LearningRate,
    LogSteps,
    Names,
    Overwrite,
    Resume,
    Seed,
    Workers,
    check_only_one,
    check_outside_data,
    check_seed,
    choice,
    choose_worker_count,
    data_option,
    detail,
    label_facts,
    labels_from,
    messages,
    model_option,
    output_option,
    print_run,
    training_option,
    unreadable_lines,
    warn,
    warn_unreadable,
)
from inception_v3.support.packages import install_command

if TYPE_CHECKING:
    from rich.console import Console

    from inception_v3.training.run_folder import RunFolder

RECIPES = {  # by kind of data; "photos" for any other
    "digits": "digits",
    "mnist": "mnist",
    "fashion-mnist": "mnist",  # the same number and size of images, also grey
    "cifar10": "cifar10",
    "cifar100": "cifar10",
}


def train(
    data: Annotated[str, typer.Argument(help=DATA_HELP)],
    out: Annotated[Path, output_option(metavar="FOLDER", help="The run folder: model, logs, plots.")],
    recipe: Annotated[
        str | None,
        training_option(
            metavar="NAME",
            help="A recipe's name (paper, digits, photos ...), or a .toml file.",
            show_default="depends on the data",
        ),
    ] = None,
    epochs: Epochs = None,
    batch_size: Annotated[int | None, data_option(metavar="N", help="Images per batch, in each process.")] = None,
    learning_rate: LearningRate = None,
    image_size: ImageSize = None,
    depth_multiplier: Annotated[float | None, model_option(metavar="FACTOR", help=DEPTH_HELP)] = None,
    seed: Seed = 0,
    device: Device = None,
    workers: Workers = None,
    labels: LabelsTable = None,
    labels_from_name: LabelsFromName = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    save_every: Annotated[
        int | None,
        output_option(
            min=1, metavar="N", help="Steps between saved states.", show_default="a state is saved every two minutes"
        ),
    ] = None,
    keep: Annotated[int, output_option(min=1, metavar="N", help="Number of saved states to keep.")] = 2,
    track: Annotated[
        list[Names] | None,
        choice("--track", ("mlflow", "wandb"), "Trackers besides TensorBoard", several=True, heading="Output"),
    ] = None,
    log_steps: LogSteps = None,
    as_json: Json = False,
) -> None:
    """Train the network on labelled images, and evaluate it on images that it has not seen."""
    from inception_v3.training.recipe import TrainingOptions, load_recipe

    check_only_one(resume=resume, overwrite=overwrite)
    label_source = labels_from(labels, labels_from_name)
    check_seed(seed)
    check_outside_data(data, out)
    chosen_recipe = load_recipe(recipe or RECIPES.get(re.split("[:+]", data)[0], "photos")).with_options(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        image_size=image_size,
        depth_multiplier=depth_multiplier,
    )
    from inception_v3.data import load_data
    from inception_v3.images.addresses import short_name
    from inception_v3.support.devices import pick_device
    from inception_v3.support.distributed import local_device, process_group
    from inception_v3.support.streams import new_console
    from inception_v3.training.run_folder import RunFolder
    from inception_v3.training.train import train

    own = local_device(pick_device(device))
    with ExitStack() as stack:
        processes = stack.enter_context(process_group(own))
        is_first = processes.rank == 0
        trackers = [*chain(*(track or ()))]
        run = stack.enter_context(
            RunFolder(
                out,
                overwrite=overwrite,
                resume=resume,
                keep=keep,
                track=trackers,
                writer=is_first,
                data_name=short_name(data),
                facts=label_facts(label_source),
            )
        )
        train_set, test_set = load_data(data, label_source)
        detail(f"{len(train_set)} training images, {len(test_set)} held out, on {own}")
        options = TrainingOptions(seed, choose_worker_count(workers, len(train_set), data), save_every, log_steps)
        if is_first:
            warn_of_missing(run)
        if resume and is_first and not run.latest_state_file:
            warn(f"{out}: no saved state to resume; starting a new run")
        console = messages if is_first else new_console(quiet=True)
        stack.enter_context(show_resume_command(console))
        metrics = train(train_set, test_set, run, chosen_recipe, own, options=options, group=processes, console=console)
    if is_first:
        warn_unreadable(unreadable_lines(run.bad_images), len(train_set) + len(test_set), run.bad_images_file)
        print_run(run, data, metrics, as_json, **label_facts(label_source))


def warn_of_missing(run: "RunFolder") -> None:
    """Warn of results that need a package that is not installed."""
    if run.missing:
        warn(f"no {', '.join(run.missing)}: to get them, {install_command('train')}")


@contextmanager
def show_resume_command(console: "Console") -> Iterator[None]:
    """After Ctrl-C, SIGTERM or SIGHUP, print the command that resumes the training, and exit."""
    from inception_v3.support.signals import Interrupted
    from inception_v3.support.streams import print_text

    try:
        yield
    except Interrupted as interrupted:
        print_text(console, f"resume with: {resume_command()}")
        sys.exit(interrupted.exit_status)


def resume_command() -> str:
    """The command line of this process, with --resume."""
    program = ["inception-v3"]
    if sys.argv[0].endswith(".py"):
        launcher = "python"
        if "LOCAL_WORLD_SIZE" in os.environ:
            launcher = f"torchrun --nproc-per-node {os.environ['LOCAL_WORLD_SIZE']}"
        program = [*launcher.split(), "-m", "inception_v3"]
    options = [option for option in sys.argv[1:] if option not in ("--overwrite", "--resume")]
    return shlex.join([*program, *options, "--resume"])
