"""The command line: `inception-v3 train | evaluate | predict | convert | describe`.

PyTorch is imported inside the commands that need it, so that help and mistakes answer at once.
"""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from inception_v3.errors import InputError

if TYPE_CHECKING:
    from inception_v3.evaluate import Metrics

app = typer.Typer(
    help="Inception V3: train it, judge it, use it, look inside.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
output, messages = Console(), Console(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ... By default the GPU where there is one.")]
Workers = Annotated[int | None, typer.Option(min=0, help="Processes that decode pictures.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Pictures that the network takes at once.")]


@app.command()
def train(
    data: Annotated[
        str, typer.Argument(help="digits, or a folder of class/image files, with or without train/ and val/.")
    ],
    out: Annotated[Path, typer.Option(help="The run folder: model, logs, plots.")],
    recipe: Annotated[
        str | None, typer.Option(help="digits, photos, or a .toml file. By default what fits the data.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Times that every picture is seen.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Pictures a step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="The rate at its height.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Height and width that the network sees, 75 or more.")] = None,
    depth_multiplier: Annotated[float | None, typer.Option(help="Factor on every layer's width.")] = None,
    seed: Annotated[int, typer.Option(help="Of weights, order and augmentation.")] = 0,
    device: Device = None,
    workers: Workers = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run that --out holds.")] = False,
) -> None:
    """Train the network on labelled pictures; what it never saw judges it at the end."""
    from inception_v3.recipe import load_recipe

    chosen = load_recipe(recipe or ("digits" if data == "digits" else "photos")).with_options(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        image_size=image_size,
        depth_multiplier=depth_multiplier,
    )
    from inception_v3.data import load_data
    from inception_v3.devices import pick_device
    from inception_v3.run_folder import RunFolder
    from inception_v3.train import train

    place = pick_device(device)
    train_set, test_set = load_data(data)
    run = RunFolder(out, overwrite=overwrite)
    if run.missing:
        _warn(f"no {', '.join(run.missing)}: pip install 'inception-v3[train]' for them")
    metrics = train(
        train_set,
        test_set,
        run,
        chosen,
        place,
        seed=seed,
        workers=_workers(workers, len(train_set), data),
        console=messages,
    )
    _show_bad([reason for _, reason in run.bad_images], len(train_set) + len(test_set), run.bad_images_file)
    output.print(
        f"{out}: top-1 {metrics.top1:.2%}, top-5 {metrics.top5:.2%} on {metrics.count} held-out pictures",
        highlight=False,
    )


def _warn(text: str) -> None:
    messages.print(text, style="yellow", highlight=False, markup=False, soft_wrap=True)


def _show_bad(reasons: list[str], count: int, listed: Path | None = None) -> None:
    """What could not be read, at the end, where it is seen."""
    if reasons:
        where = f"; {listed} lists them" if listed else ""
        _warn(f"{len(reasons)} of {count} pictures could not be read{where}:")
        for reason in reasons[:10]:
            _warn(f"  {reason}")
        if len(reasons) > 10:
            _warn(f"  and {len(reasons) - 10} more")


def _workers(asked: int | None, pictures: int, data: str) -> int:
    """Decoding photographs is worth processes of its own, a few or tiny pictures are not."""
    if asked is not None:
        return asked
    return 0 if data == "digits" or pictures < 200 else min(os.cpu_count() or 1, 8)


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="A run folder, a model.safetensors or a TF-Slim checkpoint.")],
    data: Annotated[str, typer.Argument(help="digits, or a folder of class/image files.")],
    batch_size: BatchSize = 32,
    device: Device = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Judge a model on held-out pictures: top-1, top-5, and every class by itself."""
    from inception_v3 import checkpoint
    from inception_v3.data import batches, load_held_out
    from inception_v3.devices import pick_device
    from inception_v3.evaluate import evaluate
    from inception_v3.progress import progress_bar
    from inception_v3.run_folder import training_images

    network = checkpoint.load(model, pick_device(device))
    pictures = load_held_out(data, network.class_names, training_images(model))
    loader = batches(pictures, network.preprocessing, batch_size, workers=_workers(workers, len(pictures), data))
    with progress_bar(messages) as progress:
        bar = progress.add_task("evaluating", total=len(pictures), figures="")
        metrics = evaluate(network, loader, pictures.class_names, lambda done: progress.advance(bar, done))
    metrics.bad = [(pictures.names[int(place)], reason) for place, reason in metrics.bad]
    if as_json:
        print(json.dumps(metrics.as_dict()))
    else:
        _show(metrics)
    _show_bad([reason for _, reason in metrics.bad], len(pictures))


def _show(metrics: "Metrics") -> None:
    from rich.table import Table

    table = Table("class", title=f"{metrics.count} pictures")
    for name in ("pictures", "recall", "precision"):
        table.add_column(name, justify="right")
    for row in metrics.per_class():
        shares = ["–" if row[key] is None else f"{row[key]:.1%}" for key in ("recall", "precision")]
        table.add_row(row["class"], str(row["count"]), *shares)
    output.print(table)
    output.print(f"top-1 {metrics.top1:.2%}  top-5 {metrics.top5:.2%}  loss {metrics.loss:.4f}", highlight=False)


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="A run folder, a model.safetensors or a TF-Slim checkpoint.")],
    images: Annotated[
        list[str], typer.Argument(help="Files, folders, patterns such as '*.jpg', or - for standard input.")
    ],
    top: Annotated[int, typer.Option(min=1, help="How many classes to name.")] = 5,
    batch_size: BatchSize = 16,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Name the likeliest classes of pictures; with --json a line for each picture."""
    from inception_v3.images import expand

    sources = expand(images)
    from inception_v3 import checkpoint
    from inception_v3.devices import pick_device
    from inception_v3.predict import predict

    network = checkpoint.load(model, pick_device(device))
    failed = count = 0
    for prediction in predict(network, sources, top=top, batch_size=batch_size):
        count += 1
        if prediction.error is not None:
            failed += 1
            _warn(prediction.error)
        if as_json:
            print(json.dumps(prediction.as_dict(), ensure_ascii=False), flush=True)
        elif prediction.error is None:
            ranked = "  ".join(f"{name} {share:.1%}" for name, share in prediction.classes)
            print(f"{prediction.image}  {ranked}", flush=True)
    if failed:
        raise InputError(f"{failed} of {count} pictures could not be read; the lines above say why")


@app.command()
def convert(
    source: Annotated[str, typer.Argument(help="A run folder or a file of any format that is read here.")],
    destination: Annotated[Path, typer.Argument(help="The file to write.")],
    to: Annotated[str | None, typer.Option(help="The format; without it the destination's name tells.")] = None,
    allow_difference: Annotated[
        bool, typer.Option("--allow-difference", help="Write it though its program computes other numbers.")
    ] = False,
    no_fold: Annotated[bool, typer.Option("--no-fold", help="Refuse to fold a gamma into kernel and mean.")] = False,
    as_json: Json = False,
) -> None:
    """Write weights for another program, and show that they still say the same."""
    from inception_v3.convert import convert

    done = convert(source, destination, to, allow_difference=allow_difference, fold=not no_fold)
    if as_json:
        print(json.dumps(done.as_dict()))
        return
    print(f"{destination}: {done.source_format} to {done.format}; the logits differ by {done.difference:.1e}")
    for reason in done.reasons:
        _warn(f"  {reason}")
    if done.folded:
        _warn(f"  gamma of {done.folded} layers folded into kernel and mean: exact, but training further differs")
    if done.dropped:
        _warn(f"  {done.format} has no place for {', '.join(done.dropped)}")


@app.command()
def describe(
    height: Annotated[int, typer.Option(help="Of the images.")] = 299,
    width: Annotated[int, typer.Option(help="Of the images.")] = 299,
    depth_multiplier: Annotated[float, typer.Option(help="Factor on every layer's width.")] = 1.0,
    num_classes: Annotated[int, typer.Option(help="Outputs of both heads.")] = 1000,
    as_json: Json = False,
) -> None:
    """Show the network's table: end points, branches, shapes, parameters, MACs, receptive fields."""
    from inception_v3.describe import description, table

    described = _checked(
        description, height=height, width=width, depth_multiplier=depth_multiplier, num_classes=num_classes
    )
    if as_json:
        print(json.dumps(described))
    else:
        output.print(table(described))


def _checked(function: Any, **options: Any) -> Any:
    """Call a function that raises ValueError for a wrong option, and name the option in the error."""
    try:
        return function(**options)
    except ValueError as error:
        raise InputError(str(error), exit_status=2) from error


def main() -> None:
    """Run a command; one line and an exit status in place of a traceback for anything the user can mend."""
    try:
        app(standalone_mode=True)
    except InputError as error:
        messages.print(f"error: {error}", style="bold red", highlight=False, markup=False, soft_wrap=True)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        messages.print("interrupted")
        sys.exit(130)
    except BrokenPipeError:  # the reader, such as head, has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
