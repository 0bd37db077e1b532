"""`inception-v3 predict`"""

import json
from typing import Annotated

import typer

from inception_v3.cli.common import MODEL, BatchSize, Device, Json, WeightsFile, warn
from inception_v3.errors import InputError


def predict(
    model: Annotated[str, typer.Argument(help=MODEL)],
    images: Annotated[
        list[str], typer.Argument(help="Files, folders, patterns such as '*.jpg', or - for standard input.")
    ],
    top: Annotated[int, typer.Option(min=1, help="How many classes to name.")] = 5,
    batch_size: BatchSize = 16,
    device: Device = None,
    weights_file: WeightsFile = None,
    as_json: Json = False,
) -> None:
    """Name the likeliest classes of pictures; with --json a line for each picture."""
    from inception_v3.images import expand

    sources = expand(images)
    from inception_v3 import checkpoint
    from inception_v3.devices import pick_device
    from inception_v3.predict import predict

    network = checkpoint.load(model, pick_device(device), weights_file=weights_file)
    failed = count = 0
    for prediction in predict(network, sources, top=top, batch_size=batch_size):
        count += 1
        if prediction.error is not None:
            failed += 1
            warn(prediction.error)
        if as_json:
            print(json.dumps(prediction.as_dict(), ensure_ascii=False), flush=True)
        elif prediction.error is None:
            ranked = "  ".join(f"{name} {share:.1%}" for name, share in prediction.classes)
            print(f"{prediction.image}  {ranked}", flush=True)
    if failed:
        raise InputError(f"{failed} of {count} pictures could not be read; the lines above say why")
