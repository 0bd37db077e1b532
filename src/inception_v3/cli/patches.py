"""`inception-v3 patches`"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inception_v3.cli.common import (
    NO_FACTS,
    Device,
    FastestPrecision,
    Json,
    MinAgreement,
    ModelArgument,
    ModelFacts,
    Names,
    OptionalBatchSize,
    Overwrite,
    WeightsFile,
    check_empty,
    check_outside_data,
    engine_option,
    messages,
    model_option,
    note,
    output_option,
    print_json,
    print_line,
    unreadable_lines,
    warn,
)
from inception_v3.cli.predict import AllowUnreadable, report_unreadable
from inception_v3.inference.engines.registry import CHOICES
from inception_v3.support.files import check_folder
from inception_v3.support.progress import show_progress, summary
from inception_v3.support.text import choose

if TYPE_CHECKING:
    from inception_v3.explain.patches.result import PatchSet


UNITS = {"measuring fields": "modules", "writing sprites": "sprites"}  # of the steps that do not count images


def _parse_modules(value: str) -> Names:
    from inception_v3.network.architecture import MODULES

    known = [module.name for module in MODULES]
    return Names(dict.fromkeys(choose("--modules", name, known) for name in str(value).split(",")))


def patches(
    model: ModelArgument,
    data: Annotated[
        str,
        typer.Argument(help="Images: a data set with classes (docs/data.md), a folder, an archive, or a pattern."),
    ],
    out: Annotated[
        Path, output_option(metavar="FOLDER", help="Folder for the page index.html, the patches and patches.csv.")
    ],
    modules: Annotated[
        Names | None,
        model_option(
            metavar="NAME,...",
            parser=_parse_modules,
            help="Modules whose channels are searched, separated by commas, such as Mixed_5b,Mixed_7c.",
            show_default="all 11",
        ),
    ] = None,
    per_class: Annotated[
        bool, output_option("--per-class", help="Show also the images with the largest logit of each class.")
    ] = False,
    overwrite: Overwrite = False,
    allow_unreadable: AllowUnreadable = None,
    batch_size: OptionalBatchSize = None,
    engine: Annotated[str, engine_option(CHOICES)] = "auto",
    precision: FastestPrecision = None,
    min_agreement: MinAgreement = None,
    device: Device = None,
    weights_file: WeightsFile = None,
    facts: ModelFacts = NO_FACTS,
    as_json: Json = False,
) -> None:
    """Show, for every channel of every module, the nine images and positions that excite it most, as a web page.

    Exit status: 0, success; 1, failed; 2, wrong arguments;
    3, finished, but some images could not be read (0 with --allow-unreadable).
    """
    check_empty(out, overwrite)
    check_folder(out)
    check_outside_data(data, out)
    from inception_v3.explain.patches.find import find_patches

    with show_progress(messages) as start_step:
        result = find_patches(
            model,
            data,
            modules,
            engine=engine,
            precision=precision,
            device=device,
            per_class=per_class,
            batch_size=batch_size,
            min_agreement=min_agreement,
            weights_file=weights_file,
            start_step=lambda name, total: start_step(name, total, UNITS.get(name, "images")),
            report=note,
            **facts,
        )
        lost = result.save(out, start_step)
    unreadable = dict((*result.failed, *lost))
    count = result.count + len(result.failed)
    for line in unreadable_lines(unreadable.items()):
        warn(line)
    note(summary(count, len(unreadable), result.seconds, f"{result.engine} {result.precision}"))
    _print(result, model, out, as_json)
    if unreadable:
        report_unreadable(len(unreadable), count, allow_unreadable, None)


def _print(result: "PatchSet", model: str, out: Path, as_json: bool) -> None:
    groups = {group.name: (group.channels, result.active(group), group.field) for group in result.groups}
    if as_json:
        names = ("channels", "active", "field")
        print_json(
            {
                "out": str(out),
                "model": model,
                "engine": result.engine,
                "precision": result.precision,
                "images": result.count,
                "failed": len(result.failed),
                "duplicates": result.duplicates,
                "modules": {name: dict(zip(names, facts, strict=True)) for name, facts in groups.items()},
            }
        )
        return
    channels, active, _ = map(sum, zip(*groups.values(), strict=True))
    equal = f", {result.duplicates:,} of them equal to others" if result.duplicates else ""
    print_line(f"{out}/index.html: {active:,} of {channels:,} channels are active in {result.count:,} images{equal}")
