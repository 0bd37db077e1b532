"""`inception-v3 look`"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from inception_v3.cli.common import (
    NO_FACTS,
    Device,
    ImageArguments,
    Json,
    ModelArgument,
    ModelFacts,
    Overwrite,
    WeightsFile,
    check_empty,
    choice,
    file_stem,
    handle_views,
    load_network,
    model_option,
    output_option,
    print_json,
    print_line,
)
from inception_v3.errors import InputError
from inception_v3.support.text import count_of, suggest

if TYPE_CHECKING:
    from inception_v3.explain.look.page import ModelFacts as ShownModel
    from inception_v3.explain.look.page import PageOptions
    from inception_v3.explain.look.result import Look, LookOptions
    from inception_v3.explain.views import View
    from inception_v3.images.preprocessing import Preprocessing
    from inception_v3.support.progress import StartShownStep

    LookAt = Callable[[View], Look]

LANGUAGES = ("en", "zh")
MAX_IMAGES = 20  # on one page, of 2 MB each


def look(
    model: ModelArgument,
    images: ImageArguments,
    out: Annotated[
        Path,
        output_option(
            metavar="FILE.html|FOLDER",
            help=f"The page, of up to {MAX_IMAGES} images; or a folder for a page of each image.",
        ),
    ] = Path("look.html"),
    overwrite: Overwrite = False,
    language: Annotated[
        str, choice("--language", LANGUAGES, "Language in which the page opens", heading="Output")
    ] = "en",
    guess: Annotated[
        bool, output_option("--guess", help="Hide the classes until the reader has guessed, for lessons.")
    ] = False,
    top: Annotated[int, output_option(min=1, max=100, metavar="N", help="Classes that are listed.")] = 5,
    class_name: Annotated[
        str | None,
        model_option(
            "--class",
            metavar="NAME",
            help="Name or number of the class whose heat maps are shown first.",
            show_default="the class with the highest score",
        ),
    ] = None,
    end_point: Annotated[
        str, model_option(metavar="NAME", help="End point, branch or layer with which the page opens.")
    ] = "Mixed_5b",
    patches: Annotated[
        Path | None,
        model_option(
            metavar="FOLDER",
            help="Folder that `patches` wrote for this model: the images that excite each channel are shown beside it.",
        ),
    ] = None,
    device: Device = None,
    weights_file: WeightsFile = None,
    facts: ModelFacts = NO_FACTS,
    as_json: Json = False,
) -> None:
    """Show what the network sees in images, layer by layer and branch by branch, as a web page without a server.

    Exit status: 0, success; 1, failed; 2, wrong arguments; 3, finished, but some images could not be read.
    """
    from inception_v3.explain.look.page import PageOptions
    from inception_v3.explain.look.result import LookOptions
    from inception_v3.images.addresses import count_images
    from inception_v3.support.system_errors import is_folder

    total = count_images(images)
    is_page = bool(out.suffix) and not is_folder(out)
    _check_out(out, is_page, overwrite, (model, *images), total, patches)
    options = LookOptions(top=top, class_name=class_name)
    look_at, shown, preprocessing = _open(model, options, device, weights_file, facts)
    _check_names(end_point, class_name, shown)
    page = PageOptions(language=language, guess=guess, open=end_point)  # type: ignore[arg-type]
    looks: list[Look] = []
    results: list[dict[str, object]] = []

    def handle(number: int, view: "View", _: "StartShownStep") -> None:
        if is_page and number >= MAX_IMAGES:
            raise _too_many(out, number + 1)
        looks.append(_look_at(look_at, view))
        results.append({"image": view.name, "top": [[each.name, each.value] for each in looks[-1].main]})
        if not is_page:
            write(out / f"{number:04}-{file_stem(Path(view.name).stem)}.html")

    def write(file: Path) -> None:
        _write(file, shown, looks, page, patches)
        for result in results[-len(looks) :]:
            result["page"] = str(file)
        if not as_json:
            size = file.stat().st_size / 1e6
            print_line(f"{file}: {count_of(len(looks), 'image')}, {size:.1f} MB")
        looks.clear()

    def finish() -> None:
        if looks:
            write(out)
        if as_json:
            print_json({"out": str(out), "model": model, "images": results}, allow_nan=False)

    handle_views(images, preprocessing, "looking", total, handle, finish)


def _check_out(
    out: Path, is_page: bool, overwrite: bool, inputs: tuple[str, ...], total: int | None, patches: Path | None
) -> None:
    """Raises InputError: the page cannot be written, or has too many images; a folder without patches."""
    from inception_v3.explain.look.result import PAGE_SUFFIXES
    from inception_v3.support.files import check_folder, check_outputs, check_suffix

    if patches is not None:
        from inception_v3.explain.look.known_patches import check_patches

        check_patches(patches)
    if is_page:
        check_suffix(out, PAGE_SUFFIXES, "a page")
        if total is not None and total > MAX_IMAGES:
            raise _too_many(out, total)
        check_outputs((out,), inputs)
    else:
        check_empty(out, overwrite)
        check_folder(out)


def _too_many(out: Path, count: int) -> InputError:
    fault = f"{count_of(count, 'image')}, and one page shows at most {MAX_IMAGES}"
    return InputError(f"{out}: {fault}; give fewer images, or a folder as --out for a page of each", exit_status=2)


def _open(
    model: str, options: "LookOptions", device: str | None, weights_file: Path | None, facts: ModelFacts
) -> "tuple[LookAt, ShownModel, Preprocessing]":
    """The function that looks at images, and what the page shows of the model."""
    from inception_v3.inference.exported.registry import recognise

    if recognise(Path(model)):
        from inception_v3.explain.look.exported import exported_looker, open_exported_look
        from inception_v3.inference.choose import stated_in_export

        if facts:
            raise stated_in_export(Path(model), facts)
        if device not in (None, "cpu"):
            raise InputError(f"--device {device}: {model} is computed on the CPU; leave it out", exit_status=2)
        network = open_exported_look(Path(model), options)
        return exported_looker(network, options), network.facts, network.description.preprocessing
    loaded = load_network(model, device, weights_file, facts, "", needs_classes=False)
    from inception_v3.explain.look.measure import looker, model_facts

    name = Path(model).name or model
    return looker(loaded, options, name), model_facts(loaded, name), loaded.preprocessing


def _check_names(name: str, class_name: str | None, shown: "ShownModel") -> None:
    """Raises InputError: the network lacks the end point with which the page opens, or has no classes."""
    from inception_v3.explain.look.outline import outline
    from inception_v3.network.architecture import outer_first

    if class_name is not None and not shown.classes:
        fault = f"{shown.name} ends at {shown.settings.final_endpoint} and has no classes; leave it out"
        raise InputError(f"--class {class_name}: {fault}", exit_status=2)
    known = [part.name for part in outline(shown.settings)]
    if name != "Mixed_5b" and name not in known:
        fault = f"not in {shown.name}; {suggest(name, outer_first(known))}"
        raise InputError(f"--end-point {name or '(empty)'}: {fault}", exit_status=2)


def _look_at(look_at: "LookAt", view: "View") -> "Look":
    try:
        return look_at(view)
    except ValueError as error:
        raise InputError(f"{error}") from error


def _write(file: Path, shown: "ShownModel", looks: "list[Look]", page: "PageOptions", patches: Path | None) -> None:
    from inception_v3.explain.look.page import write_look

    known = {}
    if patches is not None:
        from inception_v3.explain.look.known_patches import read_patches

        known = read_patches(patches, looks)
    write_look(file, shown, [look.as_dict() for look in looks], page, known)
