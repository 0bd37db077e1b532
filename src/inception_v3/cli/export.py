"""`inception-v3 export`"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from inception_v3.cli.common import MODEL_HELP, Json, WeightsFile
from inception_v3.errors import InputError

if TYPE_CHECKING:
    from inception_v3.inference.engines.base import Precision

OUT = (
    "A file .onnx, .xml (OpenVINO), .pt2 (torch.export) or .mlpackage (Core ML), or a folder; by default exported/ in "
    "the run folder."
)


def export(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    out: Annotated[Path | None, typer.Argument(help=OUT)] = None,
    to: Annotated[
        str | None, typer.Option(help="openvino, onnx, torch-export, coreml or triton, where OUT is a folder.")
    ] = None,
    precision: Annotated[
        str, typer.Option(help="fp32, bf16, fp16, int8; several with commas, where OUT is a folder.")
    ] = "fp32",
    images: Annotated[
        list[str] | None, typer.Option(help="Pictures to check a lower precision on, and to fit int8 to.")
    ] = None,
    end_points: Annotated[
        str | None, typer.Option(help="Export features: end points such as Mixed_6e,AvgPool_1a.")
    ] = None,
    any_size: Annotated[
        bool, typer.Option("--any-size", help="Take pictures of any size; needs a network with global_pool.")
    ] = False,
    min_agreement: Annotated[
        float | None, typer.Option(min=0, max=1, help="Least share of pictures whose first class stays that of fp32.")
    ] = None,
    weights_file: WeightsFile = None,
    as_json: Json = False,
) -> None:
    """Write a network that other programs run, with its classes, its preprocessing, and proof that it says the same.

    `predict` runs what is written without PyTorch, and takes the fastest of a folder whose proof holds.
    """
    from inception_v3.inference.engines.base import FEATURES, LOGITS, Precision

    precisions = precision.split(",")
    for one in precisions:
        if one not in get_args(Precision):
            raise InputError(f"no precision {one!r}; there are {', '.join(get_args(Precision))}", exit_status=2)
    if out is None:
        if not Path(model).is_dir():
            raise InputError("name a file or folder to write to, after the model", exit_status=2)
        out = Path(model) / "exported"
    places = _places(out, to, precisions)
    if to == "triton" and end_points is not None:
        raise InputError("a Triton model answers with logits and features; leave --end-points out", exit_status=2)
    from inception_v3.cli.common import messages, output
    from inception_v3.images.find import expand
    from inception_v3.inference.export import export, write_triton
    from inception_v3.support.files import check_writable, checksum
    from inception_v3.weights.load import load

    for place in places.values():
        check_writable(place if place.suffix != ".mlpackage" else place.with_name(f"{place.name}.zip"))  # a folder
    network = load(model, weights_file=weights_file)
    assert network.origin is not None
    weights = checksum(network.origin.file)
    written = {}
    for each, place in places.items():
        with messages.status("loading", spinner="line") as status:
            written[str(place)] = export(
                network,
                place,
                precision=each,
                images=list(expand(images)) if images else None,
                images_name=" ".join(images or ()),
                outputs=tuple(end_points.split(",")) if end_points else (LOGITS, FEATURES),
                any_size=any_size,
                min_agreement=min_agreement,
                checksum=weights,
                progress=lambda told, each=each: status.update(f"{each}: {told}"),  # type: ignore[misc]
            )
    if to == "triton":
        write_triton(out, next(iter(written.values())))
    if as_json:
        print(json.dumps({place: asdict(told) for place, told in written.items()}))
        return
    for name, told in written.items():
        kept = f"\n  in float32 stayed {', '.join(told.kept_higher)}" if told.kept_higher else ""
        output.print(
            f"{name}: {told.precision}, {told.check or 'not checked'}{kept}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


def _places(out: Path, to: str | None, precisions: list[str]) -> "dict[Precision, Path]":
    """Which file each precision goes to."""
    from inception_v3.inference.exported.description import SUFFIXES

    suffixes = {kind: suffix for suffix, kind in SUFFIXES.items()}
    if out.suffix in SUFFIXES:
        if to is not None and suffixes.get(to) != out.suffix:  # type: ignore[call-overload]
            raise InputError(f"{out} is a file of another kind than {to}; leave one of the two out", exit_status=2)
        if len(precisions) > 1:
            raise InputError(f"{out} is one file; give a folder for several precisions", exit_status=2)
        return {cast("Precision", precisions[0]): out}
    if out.suffix and not out.is_dir():
        raise InputError(f"{out}: the name must end in {', '.join(SUFFIXES)}, or be a folder", exit_status=2)
    if to == "triton":
        if len(precisions) > 1:
            raise InputError(
                "a Triton model has one precision; export each into a repository of its own", exit_status=2
            )
        return {cast("Precision", precisions[0]): out / "inception_v3" / "1" / "model.onnx"}
    to = to or "openvino"
    if to not in suffixes:
        raise InputError(f"no kind {to!r}; there are {', '.join((*suffixes, 'triton'))}", exit_status=2)
    return {cast("Precision", one): out / f"{one}{suffixes[to]}" for one in precisions}
