"""`inception-v3 export`"""

import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from inception_v3.cli.common import (
    END_POINTS_HELP,
    MIN_AGREEMENT_HELP,
    NO_FACTS,
    Json,
    ModelArgument,
    ModelFacts,
    Names,
    WeightsFile,
    choice,
    data_option,
    detail,
    end_points_option,
    note,
    output_option,
    precision_option,
    print_json,
    print_line,
    terminal,
)
from inception_v3.errors import InputError
from inception_v3.inference.engines.registry import PRECISIONS
from inception_v3.inference.exported.registry import FORMATS, SUFFIXES

if TYPE_CHECKING:
    from inception_v3.inference.engines.base import Precision
    from inception_v3.inference.exported.description import Description
    from inception_v3.support.progress import Step

OUT = f"A file ({', '.join(SUFFIXES)}) or a folder. By default the folder exported/ in the run folder."


def export(
    model: ModelArgument,
    out: Annotated[Path | None, typer.Argument(help=OUT)] = None,
    to: Annotated[
        str | None,
        choice(
            "--to",
            (*FORMATS, "triton"),
            "The format, if OUT is a folder",
            heading="Output",
            show_default="openvino, or by the suffix of OUT",
        ),
    ] = None,
    precision: Annotated[
        Names | None,
        precision_option(PRECISIONS, several=True, show_default="fp32"),
    ] = None,
    images: Annotated[
        list[str] | None,
        data_option(metavar="PATH", help="Images to check a lower precision on, and to calibrate int8 on."),
    ] = None,
    end_points: Annotated[
        Names | None,
        end_points_option(help=f"Export these end points{END_POINTS_HELP}", show_default="Logits,AvgPool_1a"),
    ] = None,
    any_size: Annotated[
        bool, output_option("--any-size", help="Accept images of any size; needs a network with global_pool.")
    ] = False,
    min_agreement: Annotated[
        float | None,
        output_option(metavar="FRACTION", min=0, max=1, help=MIN_AGREEMENT_HELP),
    ] = None,
    runtime: Annotated[
        Path | None,
        output_option(
            metavar="FOLDER", help="For a page (.html): a folder with npm's onnxruntime-web. By default npm fetches it."
        ),
    ] = None,
    weights_file: WeightsFile = None,
    facts: ModelFacts = NO_FACTS,
    as_json: Json = False,
) -> None:
    """Export a model for other runtimes, with its class names and preprocessing, and check its outputs.

    `predict` runs .onnx and .xml files without PyTorch, and chooses the fastest file of a folder whose check passed.
    """
    from inception_v3.inference.engines.base import FEATURES, LOGITS

    precisions = cast("list[Precision]", precision or ["fp32"])
    outputs = end_points or (LOGITS, FEATURES)
    if out is None:
        if not Path(model).is_dir():
            raise InputError("name a file or folder to write to, after the model", exit_status=2)
        out = Path(model) / "exported"
    files = _output_files(out, to, precisions)
    if to == "triton" and end_points is not None:
        raise InputError("a Triton model returns logits and features; leave out --end-points", exit_status=2)
    from inception_v3.images.addresses import collect
    from inception_v3.inference.choose import check_has_weights
    from inception_v3.inference.export import check_count, check_options, export, prepare_images
    from inception_v3.inference.exported.offline.runtime import load_runtime
    from inception_v3.inference.triton import write_triton
    from inception_v3.support.files import checksum
    from inception_v3.support.progress import duration, show_line
    from inception_v3.support.text import count_of
    from inception_v3.weights.load import load
    from inception_v3.weights.read import peek

    inputs = [path for path in (model, weights_file, *(images or ())) if path]
    for each, file in files.items():
        check_options(file, each, bool(images), outputs, inputs)
    if any(file.suffix == ".html" for file in files.values()):
        load_runtime(runtime, note)
    elif runtime is not None:
        raise InputError("--runtime is only for a page; name a file that ends in .html", exit_status=2)
    peek(model, weights_file)
    check_has_weights(model, facts)
    sources = collect(images) if images else None
    for each in files if sources is not None else ():
        check_count(len(sources or ()), each)
    network = load(model, weights_file=weights_file, **facts)
    assert network.origin is not None
    detail(f"loaded {network.origin.file}")
    weights = checksum(network.origin.file)
    started = time.monotonic()
    with show_line(terminal(), unit="") as line:
        _show_step(line, "export", "preparing images")
        name = " ".join(images or ())
        prepared = prepare_images(network, precisions, sources, name, outputs) if sources else None
        written, errors = _export_each(
            files,
            line,
            partial(
                export,
                network,
                images=prepared,
                outputs=outputs,
                any_size=any_size,
                min_agreement=min_agreement,
                checksum=weights,
                runtime=runtime,
                report=note,
            ),
        )
    if to == "triton" and written:
        write_triton(out, next(iter(written.values())))
    note(f"{count_of(len(written), 'file')} written in {duration(time.monotonic() - started)}")
    if as_json:
        print_json({name: asdict(description) for name, description in written.items()})
    else:
        _print(written)
    if errors:
        raise InputError("; ".join(map(str, errors)), exit_status=max(error.exit_status for error in errors))


def _export_each(
    files: "dict[Precision, Path]", line: "Step", export: "Callable[..., Description]"
) -> "tuple[dict[str, Description], list[InputError]]":
    """Export in each precision. Returns the descriptions by the names of the files, and the errors of the others.

    Raises InputError if the only file cannot be written.
    """
    written, errors = {}, []
    for precision, file in files.items():
        try:
            written[str(file)] = export(file, precision=precision, progress=partial(_show_step, line, precision))
            detail(f"wrote {file}")
        except InputError as error:
            if len(files) == 1:
                raise
            errors.append(error)
    return written, errors


def _show_step(line: "Step", precision: str, name: str) -> None:
    line.name = f"{precision}: {name}"
    line(1)


def _output_files(out: Path, to: str | None, precisions: "list[Precision]") -> "dict[Precision, Path]":
    """The file to write for each precision. Raises InputError if OUT, --to and --precision do not fit together."""
    suffixes = {name: suffix for name, (suffix, _) in FORMATS.items()}
    if out.suffix in SUFFIXES:
        if to is not None and suffixes.get(to) != out.suffix:
            raise InputError(f"{out} is not a file of format {to}; leave out --to", exit_status=2)
        if len(precisions) > 1:
            raise InputError(f"{out} is one file; give a folder for several precisions", exit_status=2)
        return {precisions[0]: out}
    if out.suffix and not out.is_dir():
        raise InputError(f"{out}: the name must end in {', '.join(SUFFIXES)}, or be a folder", exit_status=2)
    if to == "triton":
        if len(precisions) > 1:
            raise InputError("a Triton model has one precision; export each to its own repository", exit_status=2)
        return {precisions[0]: out / "inception_v3" / "1" / "model.onnx"}
    return {precision: out / f"{precision}{suffixes[to or 'openvino']}" for precision in precisions}


def _print(written: "dict[str, Description]") -> None:
    for name, description in written.items():
        print_line(f"{name}: {description}")
        if (speed := description.speed) is not None:
            print_line(f"  {speed.batches:.1f} images/s, {1000 / speed.single:.0f} ms for one image ({speed.cpu})")
        if name.endswith(".html"):
            print_line(f"  {Path(name).stat().st_size / 1e6:.1f} MB; open it in a browser, no connection is needed")
        if description.kept_higher:
            print_line(f"  kept in a higher precision: {', '.join(description.kept_higher)}")
