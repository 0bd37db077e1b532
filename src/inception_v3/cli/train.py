"""`inception-v3 train`"""

from pathlib import Path
from typing import Annotated

import typer

from inception_v3.cli.common import Device, Workers, messages, output, pick_workers, show_bad, warn


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
        warn(f"no {', '.join(run.missing)}: pip install 'inception-v3[train]' for them")
    metrics = train(
        train_set,
        test_set,
        run,
        chosen,
        place,
        seed=seed,
        workers=pick_workers(workers, len(train_set), data),
        console=messages,
    )
    show_bad([reason for _, reason in run.bad_images], len(train_set) + len(test_set), run.bad_images_file)
    output.print(
        f"{out}: top-1 {metrics.top1:.2%}, top-5 {metrics.top5:.2%} on {metrics.count} held-out pictures",
        highlight=False,
    )
