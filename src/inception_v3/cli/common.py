"""Shared by the commands: the vocabulary of options, messages, and how results and unreadable images are printed.

Every option that several commands have is defined here once. `docs/commands.md` shows which command has which.
"""

import json
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inception_v3.cluster.options import ClusterOptions, parse_actors
from inception_v3.errors import InputError, NotFiniteError
from inception_v3.inference.engines.registry import PRECISIONS
from inception_v3.support.arguments import MAX_BATCH_SIZE, MAX_SEED
from inception_v3.support.text import choose, percent, printable, to_json, to_utf8
from inception_v3.support.verbosity import verbosity

if TYPE_CHECKING:
    from fractions import Fraction

    import torch
    from rich.console import Console

    from inception_v3.cluster.session import Cluster
    from inception_v3.data import LabelsFrom
    from inception_v3.evaluation.evaluate import Metrics
    from inception_v3.explain.pictures import Pixels
    from inception_v3.explain.views import View
    from inception_v3.images.preprocessing import Preprocessing
    from inception_v3.support.progress import StartShownStep, Step
    from inception_v3.training.run_folder import RunFolder
    from inception_v3.weights.model import InceptionV3

    output: Console
    messages: Console

# ----------------------------------------------------------------------------------------------------- options

HEADINGS = ("Model", "Data", "Training", "Output", "Running")  # of the options in --help
model_option, data_option, training_option, output_option, running_option = (
    partial(typer.Option, rich_help_panel=heading) for heading in HEADINGS
)


class Names(tuple[str, ...]):
    """The names in the value of an option that takes several, separated by commas."""


def choice(
    option: str,
    choices: Sequence[str],
    help: str,
    *,
    several: bool = False,
    convert: Callable[[str], Any] = str,
    heading: str = "Running",
    **settings: Any,
) -> Any:
    """An option that takes one of `choices`, or with `several` a list of them, which it returns as Names.

    The choices are appended to the help text, and the chosen one is passed to `convert`.
    """

    def parse(value: str) -> Any:
        if several:
            return Names(dict.fromkeys(choose(option, name, choices) for name in value.split(",")))
        return convert(choose(option, str(value), choices))

    listed = f"{', '.join(choices)}{'; several, separated by commas' if several else ''}"
    settings = {"metavar": "NAME,..." if several else "NAME"} | settings
    return typer.Option(option, parser=parse, help=f"{help}: {listed}.", rich_help_panel=heading, **settings)


def _parse_end_points(value: str) -> Names:
    """Raises InputError: a name of no end point. Those that depend on the network are checked when it is loaded."""
    from inception_v3.network import architecture

    known = architecture.outer_first(architecture.with_inner(architecture.end_points()))
    return Names(
        dict.fromkeys(
            name if DEPENDENT_END_POINT.match(name) else choose("--end-points", name, known)
            for name in str(value).split(",")
        )
    )


DEPENDENT_END_POINT = re.compile("Hidden_|Logits/|AuxLogits/Conv2d_2a_")  # on hidden layers and the image size
END_POINTS_HELP = (
    ", separated by commas, such as Mixed_5b, Mixed_5b/Branch_1 or Mixed_5b/Branch_1/Conv2d_0b_5x5. "
    "`describe --json` lists all names."
)
end_points_option = partial(
    typer.Option, "--end-points", metavar="NAME,...", parser=_parse_end_points, rich_help_panel="Output"
)
precision_option = partial(choice, "--precision", help="Precision of the network")
engine_option = partial(choice, "--engine", help="Engine that runs the network")

MODEL_HELP = "A run folder, a file of any format, or a name such as torchvision:IMAGENET1K_V1 or hf:owner/name."
DATA_HELP = "digits, a folder of class/image files, with or without train/ and val/, or another address (docs/data.md)."
DEVICE_HELP = "Device to compute on: cpu, cuda, cuda:1 ...; gpu for OpenVINO."
DEPTH_HELP = "Factor on the number of channels of every layer."
MIN_AGREEMENT_HELP = "Minimum fraction of images, 0 to 1, with the top class of fp32, for a lower precision."
MIN_SIZE, MAX_SIZE = 75, 100_000  # of an image in pixels
MAX_STEM = 80  # characters of an image's name in the names of files
FOR_EXPORTS = "`explain --method grad-cam` on Mixed_7c, `explain --method occlusion`, or `compare`"  # without gradients
PREVIEW_SECONDS = 2.0  # between two previews
TOKEN_VARIABLE = "INCEPTION_V3_TOKEN"  # of `serve` and its clients
MAX_NUMBER = 1_000_000  # of every option without a limit of its own, except --seed

ModelArgument = Annotated[str, typer.Argument(help=MODEL_HELP)]
ImageArguments = Annotated[
    list[str], typer.Argument(help="Files, folders, archives, URLs, or patterns such as '*.jpg'.")
]
FastestPrecision = Annotated[str | None, precision_option(PRECISIONS, show_default="the fastest that passed its check")]
MinAgreement = Annotated[float | None, model_option(metavar="FRACTION", min=0, max=1, help=MIN_AGREEMENT_HELP)]
WeightsFile = Annotated[
    Path | None,
    model_option(metavar="FILE", help="A local file to use instead of downloading a published model."),
]


class Numbers(tuple[float, ...]):
    """The numbers in the value of an option, separated by commas."""


def _parse_channels(option: str, is_valid: Callable[[float], bool], value: str) -> Numbers:
    """A number for each channel, or one for all three. Raises InputError."""
    with suppress(ValueError):
        numbers = Numbers(map(float, str(value).split(",")))
        if len(numbers) in (1, 3) and all(map(is_valid, numbers)):
            return Numbers(numbers * (3 // len(numbers)))
    example = "0.485,0.456,0.406" if option == "--mean" else "0.229,0.224,0.225"
    fault = "one number, or three for red, green and blue, of pixels scaled to [0, 1]"
    raise InputError(f"{option} {printable(str(value))}: give {fault}, such as {example}", exit_status=2)


def _parse_size(value: str) -> Numbers:
    """Height and width from N or HEIGHTxWIDTH. Raises InputError."""
    match = re.fullmatch(r"([0-9]{1,6})(?:x([0-9]{1,6}))?", str(value))
    size = Numbers((int(match[1]), int(match[2] or match[1]))) if match else Numbers()
    if not size or min(size) < MIN_SIZE or max(size) > MAX_SIZE:
        fault = f"give N, or HEIGHTxWIDTH such as 211x299, each at least {MIN_SIZE} and at most {MAX_SIZE:,}"
        raise InputError(f"--image-size {printable(str(value))}: {fault}", exit_status=2)
    return size


def _parse_class_names(value: str) -> Names:
    from inception_v3.weights.facts import read_class_names

    return Names(read_class_names(value))


def _channels_option(option: str, is_valid: Callable[[float], bool], help: str) -> Any:
    parse = partial(_parse_channels, option, is_valid)
    return model_option(option, metavar="R,G,B", parser=parse, help=help, show_default="as the file states")


State = Annotated[
    str | None,
    model_option("--state", metavar="KEY", help="Which of several networks in a file, such as model_ema."),
]
# What is stated about a model, as options of every command that takes one, with the names of the arguments of `load`.
MODEL_FACTS: dict[str, Any] = {
    "state": State,
    "mean": Annotated[
        Numbers | None,
        _channels_option("--mean", lambda mean: abs(mean) <= 5, "Mean of the images, for pixels scaled to [0, 1]."),
    ],
    "std": Annotated[
        Numbers | None,
        _channels_option("--std", lambda std: 0 < std <= 5, "Standard deviation of the images, like --mean."),
    ],
    "image_size": Annotated[
        Numbers | None,
        model_option(metavar="N|HxW", parser=_parse_size, help="Height and width of the network's input, 75 or more."),
    ],
    "class_names": Annotated[
        Names | None,
        model_option(metavar="FILE", parser=_parse_class_names, help="Names of the classes, one a line, or JSON."),
    ],
    "transform_input": Annotated[
        bool | None,
        model_option(
            "--transform-input/--no-transform",
            help="Whether the network turns images with --mean and --std, by default ImageNet's, into [-1, 1] as "
            "torchvision's transform_input does; if not, they are its input.",
        ),
    ],
    "output_activation": Annotated[
        str | None,
        choice("--output", ("softmax", "sigmoid"), "What turns the outputs into probabilities", heading="Model"),
    ],
}


def fact_option(name: str) -> str:
    """The option for one of MODEL_FACTS."""
    return f"--{name.removesuffix('_activation').replace('_', '-')}"


# How a command runs on Ray, as options of every command that can, with the defaults.
CLUSTER_OPTIONS: dict[str, tuple[Any, Any]] = {
    "ray": (
        Annotated[
            str | None,
            running_option(
                "--ray",
                metavar="local|ADDRESS",
                help="Compute on Ray: local for several processes here, or HOST:PORT or auto for a cluster.",
            ),
        ],
        None,
    ),
    "actors": (
        Annotated[
            Any,
            running_option(
                metavar="N|MIN:MAX",
                parser=parse_actors,
                help="Processes that hold an engine, with --ray.",
                show_default="as many as fit",
            ),
        ],
        None,
    ),
    "actor_cpus": (
        Annotated[
            int | None,
            running_option(min=1, metavar="N", help="CPUs of each actor.", show_default=f"{ClusterOptions.actor_cpus}"),
        ],
        None,
    ),
    "actor_gpus": (
        Annotated[
            float | None,
            running_option(
                min=0,
                metavar="N",
                help="GPUs of each actor, also a fraction.",
                show_default=f"{ClusterOptions.actor_gpus}",
            ),
        ],
        None,
    ),
    "stall_timeout": (
        Annotated[
            float | None,
            running_option(
                min=1,
                metavar="SECONDS",
                help="With --ray, fail if nothing finishes for so long.",
                show_default=f"{ClusterOptions.stall_timeout}",
            ),
        ],
        None,
    ),
    "dashboard": (
        Annotated[bool, running_option("--dashboard", help="Start Ray's dashboard with --ray local.")],
        False,
    ),
}


def cluster_options(ray: str | None, **options: Any) -> ClusterOptions | None:
    """ClusterOptions from the values of CLUSTER_OPTIONS; None without --ray.

    Raises InputError: --ray is empty, or another of the options is given without it.
    """
    given = {name: value for name, value in options.items() if value is not None and value is not False}
    if ray is None:
        if given:
            option = next(iter(given)).replace("_", "-")
            raise InputError(f"--{option}: only for a run on Ray; give --ray too", exit_status=2)
        return None
    if not ray:
        raise InputError("--ray: the value is empty; give local, auto, or HOST:PORT", exit_status=2)
    return ClusterOptions(ray, **given)


@contextmanager
def joined(options: ClusterOptions | None) -> "Iterator[Cluster | None]":
    """Join the cluster of --ray inside this block; None without --ray. Raises InputError as `join_cluster` does."""
    if options is None:
        yield None
        return
    from inception_v3.cluster.session import join_cluster

    with join_cluster(options, note) as cluster:
        detail(f"Ray {cluster.ray.__version__} on {options.address}: {options.describe_actors(*cluster.actors)}")
        yield cluster


ModelFacts = dict[str, Any]  # the facts that are given, by their names in MODEL_FACTS
NO_FACTS: ModelFacts = {}
LabelsTable = Annotated[
    str | None,
    data_option(
        "--labels",
        metavar="FILE.csv",
        help="Take the labels from a CSV table with a column of file names and one of labels. "
        "FILE.csv:COLUMN,COLUMN names the two.",
    ),
]
LabelsFromName = Annotated[
    str | None,
    data_option(
        "--labels-from-name",
        metavar="REGEX",
        help=r"Take the labels from the names of the files: the first group, or that called label; '^([a-z]+)\.' for "
        "cat.123.jpg.",
    ),
]
ImageSize = Annotated[
    int | None,
    model_option(max=100_000, metavar="N", help="Height and width of the network's input, 75 or more."),
]
Workers = Annotated[
    int | None,
    data_option(min=0, max=256, metavar="N", help="Processes or threads that decode images. Chosen by default."),
]
BatchSize = Annotated[int, data_option(min=1, max=MAX_BATCH_SIZE, metavar="N", help="Images per batch.")]
OptionalBatchSize = Annotated[
    int | None,
    data_option(min=1, max=MAX_BATCH_SIZE, metavar="N", help="Images per batch. The default depends on the device."),
]
Cache = Annotated[
    Path | None,
    data_option(
        metavar="FOLDER",
        file_okay=False,
        readable=False,  # means: need not be readable
        help="Folder for computed features. By default in the user's cache folder.",
    ),
]
NoCache = Annotated[bool, data_option("--no-cache", help="Neither read nor write the features of other runs.")]
# The options of a network that is built from the table, not loaded.
NETWORK_DEFAULTS = {"height": 299, "width": 299, "depth_multiplier": 1.0, "num_classes": 1000}
Height = Annotated[int | None, model_option(metavar="N", help="Height of the images in pixels.", show_default="299")]
Width = Annotated[int | None, model_option(metavar="N", help="Width of the images in pixels.", show_default="299")]
DepthMultiplier = Annotated[float | None, model_option(metavar="FACTOR", help=DEPTH_HELP, show_default="1.0")]
NumClasses = Annotated[int | None, model_option(metavar="N", help="Number of classes.", show_default="1000")]
Epochs = Annotated[int | None, training_option(metavar="N", help="Passes over the training images.")]
LearningRate = Annotated[float | None, training_option(metavar="RATE", help="Peak learning rate.")]
Seed = Annotated[int, running_option(min=0, metavar="N", help="Seed of everything that is random.")]
OptionalSeed = Annotated[int | None, running_option(min=0, metavar="N", help="Seed of everything that is random.")]
Device = Annotated[
    str | None,
    running_option(
        metavar="DEVICE", help=DEVICE_HELP, show_default="a GPU if the engine and PyTorch have one, else cpu"
    ),
]
LogSteps = Annotated[
    int | None,
    running_option(min=1, metavar="N", help="Log every N steps: print the loss, and send figures to the trackers."),
]
Resume = Annotated[bool, output_option("--resume", help="Continue an interrupted run that wrote to --out.")]
Overwrite = Annotated[bool, output_option("--overwrite", help="Replace what --out holds.")]
ReportFile = Annotated[
    Path | None,
    output_option("--report", metavar="FILE.html", help="Write an HTML report, to report.html if this is a folder."),
]
CsvFile = Annotated[
    Path | None,
    output_option("--csv", metavar="FILE.csv", help="Write a CSV table; - prints it instead of the usual output."),
]
Pictures = Annotated[
    Path,
    output_option(
        metavar="FILE|FOLDER",
        help="A picture as .png, .webp or .jpg, its steps as .gif, or its values as .npy; if there are several, their "
        "names are added. Or a folder for PNG files.",
    ),
]
Preview = Annotated[
    Path | None, output_option(metavar="FILE", help="Write the picture every 2 seconds while it is computed.")
]
Json = Annotated[bool, output_option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, running_option("--quiet", help="Print neither progress nor notes; warnings and errors stay.")]
Verbose = Annotated[
    bool,
    running_option("--verbose", help="Print also choices, their reasons, and times; a traceback if there is a bug."),
]


@dataclass(frozen=True)
class Bound:
    """The value of --allow-unreadable: a number of images, or with `is_percentage` a percentage of all images."""

    text: str
    limit: "Fraction"
    is_percentage: bool

    def __str__(self) -> str:
        return self.text

    @staticmethod
    def is_valid(text: str) -> bool:
        return re.fullmatch(r"[0-9]{1,15}|([0-9]{1,2}(\.[0-9]{1,9})?|100)%", text) is not None

    @classmethod
    def parse(cls, text: str) -> "Bound":
        """Raises InputError with exit status 2."""
        from fractions import Fraction

        if not cls.is_valid(text):
            fault = f"{printable(text) or '(empty)'}: not a number of images such as 10, or a percentage such as 0.5%"
            raise InputError(f"--allow-unreadable {fault}; leave the value out to allow any number", exit_status=2)
        return cls(text, Fraction(text.rstrip("%")), text.endswith("%"))

    def permits(self, failed: int, count: int) -> bool:
        return failed * 100 <= self.limit * count if self.is_percentage else failed <= self.limit


def _parse_log_every(value: str | float) -> float:
    """The seconds of --log-every. Raises InputError: not a number of 0 or more."""
    with suppress(ValueError):
        if 0 <= (seconds := float(value)) < math.inf:
            return seconds
    raise InputError(f"--log-every {value}: give a number of seconds, or 0 for no lines", exit_status=2)


LogEvery = Annotated[
    float,
    running_option(
        metavar="SECONDS",
        parser=_parse_log_every,
        help="Seconds between two lines of progress where there is no terminal; 0 for none.",
    ),
]


def network_options(**given: float | None) -> dict[str, Any]:
    """NETWORK_DEFAULTS, replaced by the options that are given."""
    return NETWORK_DEFAULTS | {name: value for name, value in given.items() if value is not None}


def check_only_one(**given: bool) -> None:
    """Raise InputError if more than one of these options is given. The keywords are their names, such as `resume`."""
    options = [f"--{name}" for name, is_given in given.items() if is_given]
    if len(options) > 1:
        raise InputError(f"{' and '.join(options)}: use only one of them", exit_status=2)


def labels_from(table: str | None, name: str | None) -> "LabelsFrom | None":
    """The source of the labels by --labels and --labels-from-name; None without them. Raises InputError."""
    from inception_v3.data.file_labels import LabelsFrom, check_table

    check_only_one(**{"labels": table is not None, "labels-from-name": name is not None})
    if "" in (table, name):
        raise InputError("--labels and --labels-from-name: the value is empty; leave the option out", exit_status=2)
    if table:
        check_table(table)
    return LabelsFrom(name or "", table or "") if table or name else None


def label_facts(source: "LabelsFrom | None") -> dict[str, Any]:
    """The description of the source of the labels, if there is one, for the run folder and --json."""
    return {"labels": str(source)} if source else {}


def check_numbers(options: Mapping[str, Any]) -> None:
    """Raise InputError for a number that no option can have: nan, infinity, or a very large number."""
    for name, value in options.items():
        if isinstance(value, int | float) and name != "seed" and not abs(value) <= MAX_NUMBER:
            limit = f"a finite number, at most {MAX_NUMBER:,}"
            raise InputError(f"--{name.replace('_', '-')} must be {limit}, not {value}", exit_status=2)


def check_seed(seed: int | None, maximum: int = MAX_SEED) -> None:
    """Raise InputError if --seed is too large."""
    if seed is not None and seed > maximum:
        raise InputError(f"--seed {seed}: too large; give at most {maximum}", exit_status=2)


def check_bf16(precision: str | None, device: "torch.device") -> None:
    """Raise InputError if --precision is bf16 and the device has no instructions for it."""
    from inception_v3.support.devices import has_bf16

    if precision == "bf16" and not has_bf16(device):
        raise InputError(f"--precision bf16: this {device.type} does not support it; use fp32", exit_status=2)


def check_report_files(
    report: Path | None,
    table: Path | None,
    as_json: bool = False,
    inputs: Iterable[str | Path] = (),
    other: Path | None = None,
) -> Path | None:
    """Check before hours of work that --report and --csv can be written. Returns the report's file. Raises InputError.

    Neither may replace one of the `inputs`, and they and the `other` output must be different files. A `report` that
    does not end in .html is the folder of report.html.
    """
    from inception_v3.reports.tables import STDOUT
    from inception_v3.support.files import check_outputs

    if report is not None and report.suffix.lower() not in (".html", ".htm"):
        report /= "report.html"
    if as_json and table == STDOUT:
        raise InputError("--json and --csv -: both print the result; use only one of them", exit_status=2)
    check_outputs((report, None if table == STDOUT else table, other), inputs)
    return report


def read_token(file: Path | None) -> str | None:
    """The token of a file or of TOKEN_VARIABLE. Raises InputError: it cannot be read, or it is no token."""
    if file is None and TOKEN_VARIABLE not in os.environ:
        return None
    from inception_v3.support.system_errors import read_error

    try:
        text = os.environ[TOKEN_VARIABLE] if file is None else file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise read_error(file or TOKEN_VARIABLE, error) from error
    token = text.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise InputError(f"{file or TOKEN_VARIABLE}: a token is one word of ASCII characters", exit_status=2)
    return token


def file_stem(name: str) -> str:
    """The name of an image or a target as a part of the name of a file: of at most 80 letters, digits and -._"""
    return re.sub(r"[^\w.-]+", "_", to_utf8(name))[:MAX_STEM]


def check_empty(out: Path, overwrite: bool) -> None:
    """Raise InputError if --out is a folder with files, and --overwrite is not given."""
    from inception_v3.support.system_errors import is_folder, list_folder

    if not overwrite and is_folder(out) and next(iter(list_folder(out)), None):
        raise InputError(f"{out}: is not empty; give another --out, or --overwrite", exit_status=2)


def handle_views(
    images: Iterable[str],
    preprocessing: "Preprocessing",
    name: str,
    total: int | None,
    handle: "Callable[[int, View, StartShownStep], str | None]",
    finish: Callable[[], None] = lambda: None,
) -> None:
    """Call `handle` with the number and the view of each image, with progress under `name`, then `finish`.

    `handle` returns the reason why an image has no result, or None, or raises NotFiniteError. Images without a result
    are reported with those that cannot be read; then the command exits with status 3.
    """
    from inception_v3.cli.common import messages
    from inception_v3.explain.views import views
    from inception_v3.support.progress import show_progress

    failed: list[tuple[str, str]] = []
    with show_progress(messages) as start_step:
        step = start_step(name, total)
        for number, view in enumerate(views(images, preprocessing)):
            try:
                reason = str(view[1]) if isinstance(view, tuple) else handle(number, view, start_step)
            except NotFiniteError as error:
                reason = str(error)
            if reason is not None:
                failed.append((view[0] if isinstance(view, tuple) else view.name, reason))
                step.unreadable += 1
            step(1)
    finish()
    if failed:
        warn_unreadable(unreadable_lines(failed), step.done)
        sys.exit(3)


def load_network(
    model: str,
    device: str | None,
    weights_file: Path | None,
    facts: ModelFacts,
    lacks: str,
    *,
    remedy: str = f"give the weights it was exported from, or use {FOR_EXPORTS}",
    needs_classes: bool = True,
) -> "InceptionV3":
    """Load a network in PyTorch. `lacks` is the reason why an exported one is refused, `remedy` what to do instead.

    Raises InputError: an exported network, no classes where they are needed, or as `load` does.
    """
    from inception_v3.inference.exported.registry import recognise
    from inception_v3.support.devices import pick_device
    from inception_v3.support.packages import require_packages

    if recognise(Path(model)):
        raise InputError(f"{model}: an exported network, so {lacks}; {remedy}", exit_status=2)
    require_packages(("torch",), "explaining a network", "torch")
    from inception_v3.inference.choose import check_classifier
    from inception_v3.weights.load import load

    network = load(model, pick_device(device), weights_file=weights_file, **facts)
    if needs_classes:
        check_classifier(model, network.settings)
    return network


# ------------------------------------------------------------------------------- pictures that are computed


def picture_file(out: Path, number: int, name: str, is_only: bool) -> Path:
    """The file of a picture: a PNG in the folder `out`; else `out`, with the name in it unless it is the only one."""
    stem = f"{number:04}-{file_stem(name)}"
    if _is_picture_folder(out):
        return out / f"{stem}.png"
    return out if is_only else out.with_stem(f"{out.stem}-{stem}")


def check_pictures(out: Path, preview: Path | None, overwrite: bool, inputs: Iterable[str]) -> None:
    """Raise InputError if --out or --preview cannot be written, or has the suffix of another format."""
    from inception_v3.explain.pictures import SUFFIXES
    from inception_v3.support.files import check_folder, check_outputs, check_suffix

    if preview is not None:
        check_suffix(preview, SUFFIXES, "a picture")
    if is_folder := _is_picture_folder(out):
        check_empty(out, overwrite)
        check_folder(out)
    else:
        check_suffix(out, SUFFIXES, "a picture")
    check_outputs((preview, None if is_folder else out), inputs)


def _is_picture_folder(out: Path) -> bool:
    from inception_v3.support.system_errors import is_folder

    return not out.suffix or is_folder(out)


def shown_steps(step: "Step", preview: Path | None) -> "Callable[[int, float, Pixels], None]":
    """A function for each step of an optimisation: shows the activation, and writes the preview now and then."""
    from inception_v3.explain.pictures import save_picture

    written = -math.inf

    def show(number: int, activation: float, pixels: "Pixels") -> None:
        nonlocal written
        step.update(number, f"activation {activation:.4g}")
        if preview is not None and time.monotonic() > written + PREVIEW_SECONDS:
            save_picture(preview, pixels)
            written = time.monotonic()

    return show


# ---------------------------------------------------------------------------------------------------- messages


def set_verbosity(quiet: bool, verbose: bool, log_every: float = 0) -> None:
    """Apply --quiet, --verbose and --log-every to this process. Raises InputError if the first two are given."""
    check_only_one(quiet=quiet, verbose=verbose)
    verbosity.quiet, verbosity.verbose, verbosity.started = quiet, verbose, time.monotonic()
    verbosity.log_every = log_every
    if "messages" in globals():
        globals()["messages"].quiet = quiet


def __getattr__(name: str) -> Any:
    """Create the consoles, `output` for stdout and `messages` for stderr, on first use: importing rich takes time.

    `messages` shows progress and notes, so --quiet silences it. Warnings and errors go through `print_message`.
    """
    if name not in ("output", "messages"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from inception_v3.support.streams import new_console

    globals().update(output=new_console(), messages=new_console(stderr=True, quiet=verbosity.quiet))
    return globals()[name]


def print_message(text: str, style: str = "") -> None:
    """Print a line to stderr as `printable` shows it, also with --quiet."""
    from inception_v3.cli.common import messages
    from inception_v3.support.streams import print_text

    messages.quiet = False
    print_text(messages, text, style)
    messages.quiet = verbosity.quiet


def warn(text: str) -> None:
    """Print a warning to stderr, also with --quiet."""
    print_message(text, style="yellow")


def note(text: str) -> None:
    """Print a line to stderr as `printable` shows it, unless --quiet is given."""
    if not verbosity.quiet:
        print(printable(text), file=sys.stderr)


def print_line(text: str) -> None:
    """Print a line of the result to stdout as `printable` shows it. Raises InputError: stdout cannot be written."""
    print(printable(text), flush=True)


def print_json(value: object, **options: Any) -> None:
    """Print a result to stdout as one line of JSON; see `to_json`. Raises InputError: stdout cannot be written."""
    text = to_json(value, **options)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, **options)  # in ASCII
    print(text, flush=True)


def terminal() -> "Console | None":
    """The console of the messages if stderr is a terminal, else None: rich is then not imported."""
    if not sys.stderr.isatty():
        return None
    from inception_v3.cli.common import messages

    return messages


def detail(text: str) -> None:
    """With --verbose, print a line to stderr, after the seconds since the start of the command."""
    if verbosity.verbose:
        note(f"{time.monotonic() - verbosity.started:7.2f} s  {text}")


def unreadable_lines(images: Iterable[tuple[str, str]]) -> list[str]:
    """Return a line "NAME: REASON" for each (name, reason), or only the reason if it contains the name."""
    return [reason if printable(name) in reason else f"{name}: {reason}" for name, reason in images]


def warn_unreadable(lines: list[str], count: int, listed_in: Path | None = None, bad: int | None = None) -> None:
    """Report the images that could not be read, ten at most.

    `count` is the number of all images, `listed_in` a file with all lines, and `bad` the number of unreadable images if
    `lines` does not hold all of them.
    """
    if lines:
        bad = bad or len(lines)
        warn(f"{bad} of {count} images could not be read{f'; {listed_in} lists them' if listed_in else ''}:")
        for line in lines[:10]:
            warn(f"  {line}")
        if bad > 10:
            warn(f"  and {bad - 10} more")


# ------------------------------------------------------------------------------------------- training commands


def print_run(run: "RunFolder", data: str, metrics: "Metrics", as_json: bool, **more: Any) -> None:
    """Print the result of a training in one line, or as JSON with the values of `more`."""
    if as_json:
        bad = [{"image": image, "reason": reason} for image, reason in run.bad_images]  # training and held-out images
        held_out = {key: value for key, value in metrics.as_dict().items() if key != "bad"}
        result = {"run": str(run.path), "data": data, "held_out": held_out, "bad": bad}
        print_json(result | more, allow_nan=False)
    else:
        top5 = percent(metrics.top5, metrics.count)
        print_line(f"{run.path}: {metrics.describe('held-out images')}, top-5 {top5}")


def choose_worker_count(requested: int | None, images: int, data: str) -> int:
    """Return the number of decoding processes: `requested`, or else 0 for few or tiny images and up to 8 for others."""
    if requested is not None:
        return requested
    return 0 if data == "digits" or images < 200 else min(os.cpu_count() or 1, 8)


def default_run_folder(data: str) -> Path:
    """Return the default of --out: runs/NAME, with the name of the data; for a pattern, with the name of its folder."""
    from inception_v3.images.addresses import short_name

    return Path("runs") / short_name(data)


def check_outside_data(data: str, out: Path) -> None:
    """Raise InputError if the run folder is inside a data folder, where its plots would become images of a class.

    A folder beside train/ is allowed, because it is not a class.
    """
    from inception_v3.data.splits import TRAIN_NAMES, split_name
    from inception_v3.support.system_errors import is_folder, list_folder

    folder, real_out = Path(os.path.realpath(data)), Path(os.path.realpath(out))
    if not (is_folder(data) and real_out.is_relative_to(folder)):
        return
    first, *_ = (*real_out.relative_to(folder).parts, "")
    has_splits = any(split_name(path.name) in TRAIN_NAMES for path in list_folder(folder) if is_folder(path))
    if not has_splits or split_name(first):
        raise InputError(
            f"{out}: inside {data}, where it would be taken for a class; give another --out", exit_status=2
        )
