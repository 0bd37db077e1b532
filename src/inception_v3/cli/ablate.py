"""`inception-v3 ablate`"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from inception_v3.cli.common import (
    NO_FACTS,
    Device,
    ImageArguments,
    Json,
    ModelArgument,
    ModelFacts,
    Names,
    WeightsFile,
    choice,
    handle_views,
    load_network,
    model_option,
    output_option,
    print_json,
    print_line,
)
from inception_v3.errors import InputError
from inception_v3.reports.shown import PLOT_SUFFIXES

if TYPE_CHECKING:
    from inception_v3.explain.ablation import Ablation
    from inception_v3.explain.views import View
    from inception_v3.support.progress import StartShownStep
    from inception_v3.weights.model import InceptionV3

SHOWN = 5  # classes in --json


def ablate(
    model: ModelArgument,
    images: ImageArguments,
    silence: Annotated[
        Names | None,
        model_option(
            metavar="NAME,...",
            parser=lambda value: Names(dict.fromkeys(name.strip() for name in str(value).split(","))),
            help="What is silenced, each alone: modules and layers such as Mixed_5b, branches such as "
            "Mixed_5b/Branch_1, channels such as Mixed_5b:12.",
            show_default="all branches",
        ),
    ] = None,
    replacement: Annotated[
        str,
        choice("--replacement", ("zero", "mean"), "What replaces the values, the mean over the image's positions or"),
    ] = "zero",
    plot: Annotated[
        Path | None, output_option(metavar="FILE", help="Write a plot of the only image, as PNG, PDF or SVG.")
    ] = None,
    device: Device = None,
    weights_file: WeightsFile = None,
    facts: ModelFacts = NO_FACTS,
    as_json: Json = False,
) -> None:
    """Show what happens to the classes of images when a part of the network is silenced.

    Exit status: 0, success; 1, failed; 2, wrong arguments;
    3, finished, but some images could not be read or have no result.
    """
    from inception_v3.images.addresses import count_images
    from inception_v3.support.files import check_outputs, check_suffix
    from inception_v3.support.packages import require_packages

    total = count_images(images)
    check_outputs((plot,), (model, *images))
    if plot is not None:
        check_suffix(plot, PLOT_SUFFIXES, "a plot")
        require_packages(("matplotlib",), "--plot", "explain")
        if total != 1:
            raise InputError("--plot is for one image; leave it out, or give one image", exit_status=2)
    network = load_network(model, device, weights_file, facts, "its parts cannot be silenced")
    from inception_v3.explain.ablation import branch_names, part_channels

    names = branch_names(network) if silence is None else tuple(silence)
    try:
        part_channels(network, names)
    except ValueError as error:
        raise InputError(f"--silence: {error}", exit_status=2) from error

    def handle(_: int, view: "View", __: "StartShownStep") -> None:
        result = _ablate(network, view, names, replacement)
        _print(result, as_json)
        if plot is not None:
            result.save(plot)

    handle_views(images, network.preprocessing, "silencing", total, handle)


def _ablate(network: "InceptionV3", view: "View", names: Sequence[str], replacement: str) -> "Ablation":
    from inception_v3.explain.ablation import ablate

    try:
        return ablate(network, view, names, replacement)  # type: ignore[arg-type]
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{error}") from error


def _print(result: "Ablation", as_json: bool) -> None:
    facts = result.as_dict(SHOWN)
    if as_json:
        print_json(facts, allow_nan=False)
        return
    top, (probability, *_) = facts["classes"][0], facts["probability"]
    print_line(f"{result.image}: {top} {probability:.4f}")
    for name, row in facts["silenced"].items():
        now = f", then {row['top']}" if row["top"] != top else ""
        print_line(f"    without {name + ':':<22} {row['probability'][0]:.4f}{now}")
