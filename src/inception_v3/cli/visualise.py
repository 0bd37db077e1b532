"""`inception-v3 visualise`"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inception_v3.cli.common import (
    NO_FACTS,
    Device,
    Json,
    ModelArgument,
    ModelFacts,
    Overwrite,
    Pictures,
    Preview,
    Seed,
    WeightsFile,
    check_pictures,
    check_seed,
    load_network,
    messages,
    model_option,
    picture_file,
    print_json,
    print_line,
    shown_steps,
    training_option,
    warn,
)
from inception_v3.errors import InputError
from inception_v3.support.progress import show_progress

if TYPE_CHECKING:
    from inception_v3.explain.targets import Target
    from inception_v3.explain.visualisation import Visualisation
    from inception_v3.weights.model import InceptionV3


def visualise(
    model: ModelArgument,
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TARGET]...",
            help="Channels such as Mixed_6b:12, units such as Mixed_6b:12@centre or Mixed_6b:12@3,4 (row, column), "
            "directions such as Mixed_6b:direction.npy, or whole end points.",
            show_default=False,
        ),
    ] = None,
    classes: Annotated[
        list[str] | None,
        model_option("--class", metavar="NAME", help="Name or number of a class; may be repeated.", show_default=False),
    ] = None,
    steps: Annotated[int, training_option(min=1, metavar="N", help="Steps of the optimisation.")] = 256,
    size: Annotated[
        int | None,
        training_option(
            min=1,
            max=1024,
            metavar="N",
            help="Height and width of the picture.",
            show_default="those of the network's input",
        ),
    ] = None,
    learning_rate: Annotated[
        float, training_option(min=1e-6, max=100, metavar="RATE", help="Learning rate of Adam.")
    ] = 0.05,
    transforms: Annotated[
        bool,
        training_option("--augment/--no-augment", help="Move, scale and turn the picture in each step."),
    ] = True,
    out: Pictures = Path("visualised"),
    overwrite: Overwrite = False,
    preview: Preview = None,
    seed: Seed = 0,
    device: Device = None,
    weights_file: WeightsFile = None,
    facts: ModelFacts = NO_FACTS,
    as_json: Json = False,
) -> None:
    """Compute pictures that excite a channel, a unit, a direction or a class of the network.

    Exit status: 0, success; 1, failed, or a target has no picture; 2, wrong arguments.
    """
    check_seed(seed)
    names, classes = targets or [], classes or []
    if not names and not classes:
        raise InputError("no target; give one such as Mixed_6b:12, or --class NAME", exit_status=2)
    check_pictures(out, preview, overwrite, (model, *(name.partition(":")[2] for name in names)))
    lacks = "it has no gradients"
    network = load_network(model, device, weights_file, facts, lacks, needs_classes=bool(classes))
    from inception_v3.explain.visualisation import VisualisationOptions, visualise

    options = VisualisationOptions(steps, size, seed, learning_rate, transforms)
    found = _find_targets(network, names, classes)
    failed = False
    with show_progress(messages) as start_step:
        for number, target in enumerate(found):
            step = start_step(target.name, steps, "steps")
            try:
                result = visualise(network, target, options, on_step=shown_steps(step, preview))
            except ValueError as error:
                failed = True
                warn(str(error))
                continue
            file = picture_file(out, number, target.name, is_only=len(found) == 1)
            result.save(file)
            _print(result, file, as_json)
    if failed:
        sys.exit(1)


def _find_targets(network: "InceptionV3", names: list[str], classes: list[str]) -> "list[Target]":
    """Raises InputError: no such target."""
    from inception_v3.explain.targets import find_target

    try:
        found = [find_target(network, name) for name in names]
    except ValueError as error:
        raise InputError(str(error), exit_status=2) from error
    return found + [find_target(network, class_name=name) for name in classes]


def _print(result: "Visualisation", file: Path, as_json: bool) -> None:
    if as_json:
        print_json(result.as_dict() | {"file": str(file)}, allow_nan=False)
    else:
        print_line(f"{result.target}: activation {result.start:.4g} at the start, {result.activation:.4g} now: {file}")
