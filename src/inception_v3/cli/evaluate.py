"""`inception-v3 evaluate`"""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from inception_v3.cli.common import (
    MODEL,
    BatchSize,
    Device,
    Json,
    WeightsFile,
    Workers,
    messages,
    output,
    pick_workers,
    show_bad,
)

if TYPE_CHECKING:
    from inception_v3.evaluate import Metrics


def evaluate(
    model: Annotated[str, typer.Argument(help=MODEL)],
    data: Annotated[str, typer.Argument(help="digits, or a folder of class/image files.")],
    batch_size: BatchSize = 32,
    device: Device = None,
    weights_file: WeightsFile = None,
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

    network = checkpoint.load(model, pick_device(device), weights_file=weights_file)
    assert network.origin is not None  # of what was loaded
    pictures = load_held_out(data, network.class_names, training_images(network.origin.file))
    loader = batches(pictures, network.preprocessing, batch_size, workers=pick_workers(workers, len(pictures), data))
    with progress_bar(messages) as progress:
        bar = progress.add_task("evaluating", total=len(pictures), figures="")
        metrics = evaluate(network, loader, pictures.class_names, lambda done: progress.advance(bar, done))
    metrics.bad = [(pictures.names[int(place)], reason) for place, reason in metrics.bad]
    if as_json:
        print(json.dumps(metrics.as_dict()))
    else:
        _show(metrics)
    show_bad([reason for _, reason in metrics.bad], len(pictures))


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
