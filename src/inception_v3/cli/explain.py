"""`inception-v3 explain`"""

import math
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from inception_v3.cli.common import (
    NO_FACTS,
    Device,
    ImageArguments,
    Json,
    ModelArgument,
    ModelFacts,
    Overwrite,
    Seed,
    WeightsFile,
    check_empty,
    check_seed,
    choice,
    data_option,
    engine_option,
    file_stem,
    handle_views,
    load_network,
    model_option,
    note,
    output_option,
    precision_option,
    print_json,
    print_line,
    warn,
)
from inception_v3.errors import InputError
from inception_v3.explain.attribution.result import KINDS, AttributionOptions
from inception_v3.inference.engines.registry import CHOICES, PRECISIONS
from inception_v3.network.architecture import AUX_INPUT, BASE_END_POINTS
from inception_v3.support.files import check_folder
from inception_v3.support.progress import StartShownStep
from inception_v3.support.text import suggest

if TYPE_CHECKING:
    from inception_v3.explain.attribution.result import Attribution
    from inception_v3.explain.views import View
    from inception_v3.images.preprocessing import Preprocessing
    from inception_v3.weights.model import InceptionV3

    Explain = Callable[[View], Attribution]

METHODS = tuple(KINDS)
HEADS = ("Logits", "AuxLogits")


def explain(
    model: ModelArgument,
    images: ImageArguments,
    method: Annotated[
        str, choice("--method", tuple(KINDS), "How the score is explained", heading="Model")
    ] = "grad-cam",
    class_name: Annotated[
        str | None,
        model_option(
            "--class",
            metavar="NAME",
            help="Name or number of the class.",
            show_default="the class with the highest score",
        ),
    ] = None,
    end_point: Annotated[
        str | None,
        model_option(
            metavar="NAME",
            help="End point whose map a class activation map uses, such as Mixed_6e.",
            show_default="the last one before the head",
        ),
    ] = None,
    head: Annotated[str, choice("--head", HEADS, "The head whose score is explained", heading="Model")] = "Logits",
    out: Annotated[
        Path, output_option(metavar="FOLDER", help="Folder for a picture and the values of each image.")
    ] = Path("explained"),
    overwrite: Overwrite = False,
    sanity: Annotated[
        bool,
        output_option(
            "--sanity",
            help="Also check each result: randomise the network layer by layer, and insert and delete the positions.",
        ),
    ] = False,
    steps: Annotated[int, data_option(min=1, metavar="N", help="Points of integrated gradients.")] = 50,
    samples: Annotated[int, data_option(min=1, metavar="N", help="Noisy images of SmoothGrad.")] = 50,
    noise: Annotated[
        float, data_option(min=0, max=1, metavar="FRACTION", help="Noise of SmoothGrad, of the range of values.")
    ] = 0.15,
    window: Annotated[
        int | None,
        data_option(min=1, metavar="N", help="Side of an occluded square.", show_default="a sixth of the image"),
    ] = None,
    stride: Annotated[
        int | None,
        data_option(min=1, metavar="N", help="Pixels from one square to the next.", show_default="half a square"),
    ] = None,
    batch_size: Annotated[int, data_option(min=1, max=4096, metavar="N", help="Images computed at once.")] = 8,
    seed: Seed = 0,
    engine: Annotated[str, engine_option(CHOICES)] = "auto",
    precision: Annotated[str | None, precision_option(PRECISIONS, show_default="fp32, or that of the file")] = None,
    device: Device = None,
    weights_file: WeightsFile = None,
    facts: ModelFacts = NO_FACTS,
    as_json: Json = False,
) -> None:
    """Show which positions of images speak for a class, as pictures and .npy files.

    Exit status: 0, success; 1, failed; 2, wrong arguments;
    3, finished, but some images could not be read or have no result.
    """
    from inception_v3.explain.attribution.exported import needs_no_gradients
    from inception_v3.images.addresses import count_images
    from inception_v3.inference.exported.registry import recognise
    from inception_v3.support.packages import require_packages

    require_packages(("matplotlib",), "the pictures of `explain`", "explain")
    check_seed(seed)
    options = AttributionOptions(
        method=method,  # type: ignore[arg-type]
        class_name=class_name,
        end_point=end_point,
        head=head,  # type: ignore[arg-type]
        steps=steps,
        samples=samples,
        noise=noise,
        window=window,
        stride=stride,
        seed=seed,
        batch_size=batch_size,
    )
    _check_options(options, engine, precision, overwrite, out)
    check_folder(out)
    total = count_images(images)
    uses_engine = method == "occlusion" and head == "Logits"
    uses_weights = not sanity and needs_no_gradients(options) and recognise(Path(model)) is not None
    is_loaded = sanity or not (uses_engine or uses_weights)
    network = _load(model, options, device, weights_file, facts, sanity) if is_loaded else None
    if uses_engine:
        explain_view, preprocessing = _through_engine(model, options, engine, precision, device, weights_file, facts)
    elif uses_weights:
        explain_view, preprocessing = _by_the_weights(Path(model), options, device, facts)
    else:
        assert network is not None
        explain_view, preprocessing = _in_pytorch(network, options), network.preprocessing

    def handle(number: int, view: "View", start_step: StartShownStep) -> None:
        result = explain_view(view)
        if result.remark:
            warn(f"{view.name}: {result.remark}")
        checked = _check(network, result, options, start_step) if sanity and network else {}
        _print(result, _write(result, out, number), checked, as_json)

    handle_views(images, preprocessing, method, total, handle)


def _check_options(options: AttributionOptions, engine: str, precision: str | None, overwrite: bool, out: Path) -> None:
    """Raises InputError: options that do not belong together, or results that would be replaced."""
    kind = KINDS[options.method]
    if options.end_point and not kind.of_end_point:
        maps = ", ".join(name for name, kind in KINDS.items() if kind.of_end_point)
        raise InputError(f"--end-point is for the methods {maps}; leave it out", exit_status=2)
    if options.method != "occlusion" and (engine != "auto" or precision):
        raise InputError("--engine and --precision are for --method occlusion; leave them out", exit_status=2)
    check_empty(out, overwrite)


def _through_engine(
    model: str,
    options: AttributionOptions,
    engine: str,
    precision: str | None,
    device: str | None,
    weights_file: Path | None,
    facts: ModelFacts,
) -> "tuple[Explain, Preprocessing]":
    """Occlusion by the engine that `predict` would use."""
    from inception_v3.explain.attribution.finite import first_not_finite_in_file
    from inception_v3.explain.attribution.occlusion import occlude
    from inception_v3.inference.choose import check_classifier, open_engine
    from inception_v3.inference.exported.registry import recognise

    opened = open_engine(model, engine, precision, device, weights_file=weights_file, **facts)
    check_classifier(model, opened.description.settings, opened.description.outputs)
    note(f"{opened.engine}: {opened.reason}")
    load = cache(partial(load_network, model, device, weights_file, facts, ""))

    def locate(view: "View") -> str:
        if recognise(opened.file):
            return first_not_finite_in_file(opened.file, opened.description.preprocessing.array(view.image)[None])
        from inception_v3.explain.attribution.scores import first_not_finite

        return first_not_finite(load(), load().preprocess(view.image))

    return partial(occlude, opened, options=options, locate=locate), opened.description.preprocessing


def _by_the_weights(
    file: Path, options: AttributionOptions, device: str | None, facts: ModelFacts
) -> "tuple[Explain, Preprocessing]":
    """Grad-CAM of an exported network, by the classifier's weights."""
    from inception_v3.explain.attribution.exported import exported_grad_cam, open_with_map
    from inception_v3.inference.choose import stated_in_export

    if facts:
        raise stated_in_export(file, facts)
    if device not in (None, "cpu"):
        raise InputError(f"--device {device}: the map of {file} is computed on the CPU; leave it out", exit_status=2)
    network = open_with_map(file)
    note(f"{file}: Grad-CAM by the weights of the linear head")
    return partial(exported_grad_cam, network, options=options), network.description.preprocessing


def _load(
    model: str,
    options: AttributionOptions,
    device: str | None,
    weights_file: Path | None,
    facts: ModelFacts,
    is_for_sanity: bool,
) -> "InceptionV3":
    """Load the network. Raises InputError: it is an exported network, or lacks the end point or the head."""
    lacks = f"it has no gradients{' for --sanity' if is_for_sanity else ''}"
    network = load_network(model, device, weights_file, facts, lacks)
    if options.head not in network.end_point_names:
        raise InputError(f"--head {options.head}: not in {model}; use --head Logits", exit_status=2)
    if (name := options.end_point) is not None:
        last = AUX_INPUT if options.head == "AuxLogits" else BASE_END_POINTS[-1]
        maps, before = (*network.base_end_points, *network.inner_end_point_names), _up_to(last)
        if name in network.end_point_names and name not in maps:
            raise InputError(f"--end-point {name}: has no map; use one such as {last}", exit_status=2)
        if name not in maps:
            raise InputError(f"--end-point {name or '(empty)'}: not in {model}; {suggest(name, maps)}", exit_status=2)
        if name.split("/")[0] not in (*before, options.head):
            raise InputError(f"--end-point {name}: not before the head {options.head}; use {last}", exit_status=2)
    return network


def _up_to(name: str) -> tuple[str, ...]:
    """The end points of the base up to this one."""
    return BASE_END_POINTS[: BASE_END_POINTS.index(name) + 1]


def _in_pytorch(network: "InceptionV3", options: AttributionOptions) -> "Explain":
    from inception_v3.explain.attribution.attribute import attribute

    def explain_view(view: "View") -> "Attribution":
        try:
            return attribute(network, view, options)
        except InputError:
            raise
        except ValueError as error:
            raise InputError(f"{error}") from error

    return explain_view


def _check(
    network: "InceptionV3", result: "Attribution", options: AttributionOptions, start_step: StartShownStep
) -> dict[str, Any]:
    """The checks of --sanity, as the part of the result that they add."""
    from inception_v3.explain.attribution.checks import curves, randomisation, randomised_layers

    step = start_step("randomising layers", len(randomised_layers(network, result.head)), "layers")
    randomised = randomisation(network, result, options, step)
    drawn = curves(network, result, options.batch_size)
    correlations = zip(randomised.layers, randomised.correlations, strict=True)
    return {
        "randomisation": {layer: None if math.isnan(value) else value for layer, value in correlations},
        "insertion": drawn.insertion_area,
        "deletion": drawn.deletion_area,
    }


def _write(result: "Attribution", out: Path, number: int) -> list[str]:
    """Write the picture and the values of an image. Returns the names of the files."""
    stem = f"{number:04}-{file_stem(Path(result.view.name).stem)}"
    files = [out / f"{stem}.{suffix}" for suffix in ("png", "npy")]
    for file in files:
        result.save(file)
    return [str(file) for file in files]


def _print(result: "Attribution", files: list[str], checked: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(result.as_dict() | checked | {"files": files}, allow_nan=False)
        return
    gap = "" if result.gap is None else f"; the values sum to {result.gap:+.3g} beside the difference of the scores"
    print_line(f"{result.view.name}: {result.class_name}, score {result.score:.3f}{gap}: {files[0]}")
    if checked:
        for layer, correlation in checked["randomisation"].items():
            shown = "a constant map" if correlation is None else f"{correlation:+.2f}"
            print_line(f"    random down to {layer + ':':<24} rank correlation {shown}")
        insertion, deletion = checked["insertion"], checked["deletion"]
        print_line(f"    insertion {insertion:.3f}, better if high; deletion {deletion:.3f}, better if low")
