"""`inception-v3 patches`"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inception_v3.cli.common import (
    MIN_AGREEMENT_HELP,
    MODEL_HELP,
    NO_FACTS,
    Device,
    Json,
    ModelFacts,
    Names,
    OptionalBatchSize,
    Overwrite,
    WeightsFile,
    engine_option,
    messages,
    model_option,
    note,
    output_option,
    precision_option,
    print_json,
    print_line,
    warn,
)
from inception_v3.cli.predict import AllowUnreadable, report_unreadable
from inception_v3.errors import InputError
from inception_v3.inference.engines.registry import CHOICES, PRECISIONS
from inception_v3.support.files import check_folder
from inception_v3.support.progress import StartShownStep, show_progress, summary
from inception_v3.support.system_errors import is_folder, list_folder
from inception_v3.support.text import choose

if TYPE_CHECKING:
    from inception_v3.explain.patches.images import ImageSet
    from inception_v3.explain.patches.result import PatchSet
    from inception_v3.inference.choose import OpenedModel


def _parse_modules(value: str) -> Names:
    from inception_v3.network.architecture import MODULES

    known = [module.name for module in MODULES]
    return Names(dict.fromkeys(choose("--modules", name, known) for name in str(value).split(",")))


def patches(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
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
    precision: Annotated[
        str | None, precision_option(PRECISIONS, show_default="the fastest that passed its check")
    ] = None,
    min_agreement: Annotated[
        float | None, model_option(metavar="FRACTION", min=0, max=1, help=MIN_AGREEMENT_HELP)
    ] = None,
    device: Device = None,
    weights_file: WeightsFile = None,
    facts: ModelFacts = NO_FACTS,
    as_json: Json = False,
) -> None:
    """Show, for every channel of every module, the nine images and places that excite it most, as a web page.

    Exit status: 0, success; 1, failed; 2, wrong arguments;
    3, finished, but some images could not be read (0 with --allow-unreadable).
    """
    if not overwrite and is_folder(out) and next(iter(list_folder(out)), None):
        raise InputError(f"{out}: is not empty; give another --out, or --overwrite", exit_status=2)
    check_folder(out)
    from inception_v3.explain.patches.images import find_images

    images = find_images(data)
    from inception_v3.explain.patches.search import search
    from inception_v3.inference.choose import check_classifier, open_engine

    with show_progress(messages) as start_step:
        names, fields = _fields(model, images, modules, device, weights_file, facts, start_step)
        opened = open_engine(
            model,
            engine,
            precision,
            device,
            min_agreement=min_agreement,
            weights_file=weights_file,
            **facts,
            batch_size=batch_size,
            callers=None,
            outputs=("Logits",) if per_class else (),
            peaks=names,
        )
        if per_class:
            check_classifier(model, opened.description.settings)
        note(f"{opened.engine}: {opened.reason}")
        step = start_step("searching", images.count)
        result = search(opened, images, names, fields, per_class=per_class, batch_size=batch_size, advance=step)
        lost = result.save(out, start_step)
    for name, reason in (*result.failed, *lost):
        warn(reason if name in reason else f"{name}: {reason}")
    failed = len({name for name, _ in (*result.failed, *lost)})
    count = result.count + len(result.failed)
    note(summary(count, failed, step.seconds, f"{opened.engine.name} {opened.engine.precision}"))
    _print(result, model, opened, out, as_json)
    if failed:
        report_unreadable(failed, count, allow_unreadable, None)


def _fields(
    model: str,
    images: "ImageSet",
    modules: Names | None,
    device: str | None,
    weights_file: Path | None,
    facts: ModelFacts,
    start_step: StartShownStep,
) -> tuple[tuple[str, ...], dict[str, int]]:
    """The modules to search, and the size of their patches: measured if the model has gradients, else a typical one.

    Raises InputError: the network lacks one of the modules.
    """
    from inception_v3.explain.patches.fields import measure_fields, module_names, typical_fields
    from inception_v3.inference.exported.registry import exports_in, read_description, recognise
    from inception_v3.support.packages import require_packages
    from inception_v3.weights import MODEL_FILE

    path = Path(model)
    is_folder_of_exports = is_folder(path) and not (path / MODEL_FILE).exists() and exports_in(path)
    if recognise(path) or is_folder_of_exports:
        file = path if recognise(path) else exports_in(path)[0]
        names = _choose_modules(model, modules, module_names(read_description(file).settings))
        return names, typical_fields(names)
    require_packages(("torch",), f"{model}: not an exported network; any other model", "torch")
    from inception_v3.support.devices import pick_device
    from inception_v3.weights.load import load

    network = load(model, pick_device(device), weights_file=weights_file, **facts)
    names = _choose_modules(model, modules, module_names(network.settings))
    return names, measure_fields(network, images, names, start_step("measuring fields", len(names), "modules"))


def _choose_modules(model: str, wanted: Names | None, known: tuple[str, ...]) -> tuple[str, ...]:
    """The wanted modules, by default all. Raises InputError: the network lacks one, or it has none."""
    for name in wanted or ():
        if name not in known:
            raise InputError(f"--modules {name}: {model} ends before it; it has {', '.join(known)}", exit_status=2)
    if not known:
        raise InputError(f"{model}: this network ends before the first module, Mixed_5b", exit_status=2)
    return tuple(wanted or known)


def _print(result: "PatchSet", model: str, opened: "OpenedModel", out: Path, as_json: bool) -> None:
    groups = {group.name: (group.channels, result.active(group), group.field) for group in result.groups}
    if as_json:
        names = ("channels", "active", "field")
        print_json(
            {
                "out": str(out),
                "model": model,
                "engine": opened.engine.name,
                "precision": opened.engine.precision,
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
