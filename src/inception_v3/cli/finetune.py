"""`inception-v3 finetune`"""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inception_v3.cli.common import (
    BatchSize,
    Device,
    Json,
    Workers,
    messages,
    output,
    pick_workers,
    show_bad,
    warn,
)
from inception_v3.errors import InputError

if TYPE_CHECKING:
    from inception_v3.finetune import FineTuned
    from inception_v3.run_folder import RunFolder


def finetune(
    weights: Annotated[str, typer.Argument(help="A run folder or a file of any format that is read here.")],
    data: Annotated[
        str, typer.Argument(help="digits, or a folder of class/image files, with or without train/ and val/.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="The run folder: model, figures, plot. By default runs/ and the data's name.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder of the features of earlier runs. By default in ~/.cache.")
    ] = None,
    l2: Annotated[
        float | None, typer.Option(min=0, help="Penalty on the weights. By default chosen by held-out pictures.")
    ] = None,
    precision: Annotated[
        str, typer.Option(help="Of the features: fp32, or bf16, which is faster where the processor has it.")
    ] = "fp32",
    image_size: Annotated[int | None, typer.Option(help="Height and width that the network sees, 75 or more.")] = None,
    batch_size: BatchSize = 32,
    device: Device = None,
    workers: Workers = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run that --out holds.")] = False,
    as_json: Json = False,
) -> None:
    """Teach a trained network new classes: its last layer learns them from features that are computed once."""
    if l2 is not None and not math.isfinite(l2):
        raise InputError(f"--l2 must be a number, not {l2}", exit_status=2)
    if precision not in ("fp32", "bf16"):
        raise InputError(f"--precision must be fp32 or bf16, not {precision}", exit_status=2)
    from inception_v3 import checkpoint
    from inception_v3.bottlenecks import BottleneckCache, default_cache
    from inception_v3.data import load_data
    from inception_v3.devices import has_bf16, pick_device
    from inception_v3.finetune import finetune, with_new_head
    from inception_v3.run_folder import RunFolder

    place = pick_device(device)
    if precision == "bf16" and not has_bf16(place):
        raise InputError(f"--precision bf16: not on this {place.type}, which does not compute in it", exit_status=2)
    train_set, test_set = load_data(data)
    pictures = len(train_set) + len(test_set)
    size = None if image_size is None else (image_size, image_size)
    network = with_new_head(checkpoint.load(weights, place), train_set.class_names, size)
    bottlenecks = BottleneckCache(cache or default_cache())
    run = RunFolder(out or Path("runs") / Path(data).resolve().name, overwrite=overwrite)
    if run.missing:
        warn(f"no {', '.join(run.missing)}: pip install 'inception-v3[train]' for them")
    try:
        done = finetune(
            network,
            train_set,
            test_set,
            run,
            bottlenecks,
            l2=l2,
            precision="bf16" if precision == "bf16" else "fp32",
            batch_size=batch_size,
            workers=pick_workers(workers, pictures, data),
            console=messages,
        )
    except KeyboardInterrupt:
        messages.print("the features so far are kept; the same command goes on from there")
        raise
    if done.not_kept:
        warn(f"the cache takes no more, and the next run will compute again: {done.not_kept}")
    show_bad([reason for _, reason in run.bad_images], pictures, run.bad_images_file)
    if as_json:
        print(json.dumps(_summary(done, run, weights, data, pictures)))
    else:
        _show(done, run, pictures)


def _summary(done: "FineTuned", run: "RunFolder", weights: str, data: str, pictures: int) -> dict[str, Any]:
    return {
        "run": str(run.path),
        "weights": weights,
        "data": data,
        "pictures": pictures,
        "computed": done.computed,
        "l2": done.head.l2,
        "held_out_losses": {str(strength): loss for strength, loss in done.head.losses.items()},
        "training": {"count": done.training.count, "top1": done.training.top1, "loss": done.training.loss},
        "held_out": done.metrics.as_dict(),
        "seconds": done.seconds,
        "bad": [{"image": image, "reason": reason} for image, reason in run.bad_images],
    }


def _show(done: "FineTuned", run: "RunFolder", pictures: int) -> None:
    computed, kept = done.computed, pictures - done.computed - len(run.bad_images)
    messages.print(
        f"features: {computed:,} computed, {kept:,} from the cache, {done.seconds['features']:.1f} s; "
        f"last layer: L2 {done.head.l2:g}, {done.seconds['head']:.1f} s",
        highlight=False,
        soft_wrap=True,
    )
    metrics = done.metrics
    output.print(
        f"{run.path}: top-1 {metrics.top1:.2%}, top-5 {metrics.top5:.2%} on {metrics.count} held-out pictures",
        highlight=False,
        soft_wrap=True,
    )
