"""`inception-v3 draw`"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inception_v3.cli.common import (
    MODEL_HELP,
    NO_FACTS,
    DepthMultiplier,
    Height,
    Json,
    ModelFacts,
    NumClasses,
    WeightsFile,
    Width,
    choice,
    fact_option,
    load_network,
    model_option,
    network_options,
    output_option,
    print_json,
    print_line,
)
from inception_v3.errors import InputError
from inception_v3.support.text import choose

if TYPE_CHECKING:
    from inception_v3.network.drawing import Drawing
    from inception_v3.network.drawing.words import Language
    from inception_v3.network.settings import Settings

SVG, OTHERS = ".svg", (".png", ".pdf")  # matplotlib writes the others
STDOUT = Path("-")


def draw(
    model: Annotated[
        str | None, typer.Argument(help=f"Draw this network. {MODEL_HELP}", show_default="TF-Slim's Inception V3")
    ] = None,
    height: Height = None,
    width: Width = None,
    depth_multiplier: DepthMultiplier = None,
    num_classes: NumClasses = None,
    aux: Annotated[bool, model_option("--aux/--no-aux", help="Whether the auxiliary head is drawn.")] = True,
    module: Annotated[
        str | None,
        output_option(metavar="NAME", help="Draw only this module, branch or layer, large: Mixed_6b, AuxLogits ..."),
    ] = None,
    out: Annotated[
        Path | None,
        output_option(
            metavar="FILE",
            help="The file to write, as .svg, .png or .pdf; - prints SVG.",
            show_default="inception-v3.svg, or the module's name with .svg",
        ),
    ] = None,
    language: Annotated[str, choice("--language", ("en", "zh"), "Language of the texts", heading="Output")] = "en",
    theme: Annotated[
        str,
        choice(
            "--theme", ("auto", "light", "dark"), "Colours; auto is the viewer's theme in SVG, else light",
            heading="Output",
        ),
    ] = "auto",
    font: Annotated[
        str | None,
        output_option(
            metavar="NAME|FILE",
            help="Font of PNG and PDF.",
            show_default="DejaVu Sans, or an installed font with Chinese characters",
        ),
    ] = None,
    weights_file: WeightsFile = None,
    facts: ModelFacts = NO_FACTS,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Draw the architecture: layers, branches, shapes, parameters and MACs, as SVG, PNG or PDF.

    Each layer, branch and module of the SVG has its name in data-end-point, and a tooltip.
    """
    from inception_v3.network.drawing import drawable, plan

    if as_json and out == STDOUT:
        raise InputError("--json and --out - both print the result; use only one of them", exit_status=2)
    _check(out, font, (model,) if model else ())
    given = {
        "height": height, "width": width, "depth_multiplier": depth_multiplier, "num_classes": num_classes,
    }  # fmt: skip
    try:
        settings = _settings(model, given, weights_file, facts)
        settings = settings if aux else settings | {"create_aux_logits": False}
        if module is not None:
            module = choose("--module", module, drawable(settings))
        drawing = plan(settings, module)
    except ValueError as error:
        raise InputError(str(error), exit_status=2) from error
    out = out or Path(f"{(module or 'inception-v3').replace('/', '_')}{SVG}")
    _write(drawing, out, theme, language, font)  # type: ignore[arg-type]
    if as_json:
        print_json({"out": str(out), "end_point": module, "image_size": settings.image_size})
    elif out != STDOUT:
        image_size = "x".join(map(str, settings.image_size))
        print_line(f"{out}: {module or 'the network'} at {image_size}")


def _check(out: Path | None, font: str | None, inputs: Sequence[str]) -> None:
    """Raise InputError if the drawing cannot be written, or --font is given for SVG."""
    from inception_v3.support.files import check_outputs, check_suffix
    from inception_v3.support.packages import require_packages

    if out not in (None, STDOUT):
        check_suffix(out, (SVG, *OTHERS), "a drawing")
        check_outputs((out,), inputs)
        if out.suffix.lower() in OTHERS:
            require_packages(("matplotlib",), "a drawing as PNG or PDF", "explain")
            return
    if font is not None:
        raise InputError("--font is for PNG and PDF; the viewer of an SVG chooses the font", exit_status=2)


def _write(drawing: "Drawing", out: Path, theme: str, language: "Language", font: str | None) -> None:
    from inception_v3.network.drawing import svg
    from inception_v3.support.files import atomic_write, write_text

    suffix = SVG if out == STDOUT else out.suffix.lower()
    if suffix in OTHERS:
        from inception_v3.network.drawing.figure import save

        with atomic_write(out) as temporary:
            save(drawing, temporary, suffix, dark=theme == "dark", language=language, font=font)
        return
    text = svg(drawing, dark=None if theme == "auto" else theme == "dark", language=language)
    if out == STDOUT:
        sys.stdout.write(text.encode("ascii", "xmlcharrefreplace").decode())  # for a stdout of any encoding
    else:
        write_text(out, text)


def _settings(model: str | None, given: dict[str, Any], weights_file: Path | None, facts: ModelFacts) -> "Settings":
    """The settings of the model, or of TF-Slim's network with the given options.

    Raises InputError: options that do not go together. Raises ValueError: options that no network can have.
    """
    from inception_v3.network.settings import Settings

    if model is None:
        if facts or weights_file:
            option = fact_option(next(iter(facts))) if facts else "--weights-file"
            raise InputError(f"{option} is about a MODEL, and none is given; leave it out", exit_status=2)
        options = network_options(**given)
        return Settings(image_size=(options.pop("height"), options.pop("width")), **options)
    if stated := [f"--{name.replace('_', '-')}" for name, value in given.items() if value is not None]:
        remedy = "leave the option out; --image-size sets the height and the width"
        raise InputError(f"{stated[0]} is for a drawing without MODEL, which has its own; {remedy}", exit_status=2)
    remedy = "give the weights it was exported from, or draw the network without MODEL"
    lacks = "its layers are not known"
    return load_network(model, "cpu", weights_file, facts, lacks, remedy=remedy, needs_classes=False).settings
