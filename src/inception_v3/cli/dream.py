"""`inception-v3 dream`"""

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
    Pictures,
    Preview,
    Seed,
    WeightsFile,
    check_pictures,
    check_seed,
    handle_views,
    load_network,
    model_option,
    picture_file,
    print_json,
    print_line,
    shown_steps,
    training_option,
)
from inception_v3.errors import InputError
from inception_v3.support.files import check_writable

if TYPE_CHECKING:
    from inception_v3.explain.deep_dream import Dream
    from inception_v3.explain.targets import Target
    from inception_v3.explain.views import View
    from inception_v3.support.progress import StartShownStep
    from inception_v3.weights.model import InceptionV3


def dream(
    model: ModelArgument,
    images: ImageArguments,
    end_point: Annotated[
        str,
        model_option(metavar="NAME", help="End point that is excited, such as Mixed_5d, or a channel: Mixed_5d:12."),
    ] = "Mixed_6c",
    octaves: Annotated[int, training_option(min=1, max=20, metavar="N", help="Sizes at which the image changes.")] = 4,
    octave_scale: Annotated[
        float, training_option(min=1.01, max=10, metavar="RATIO", help="Ratio of two of these sizes.")
    ] = 1.4,
    steps: Annotated[int, training_option(min=1, metavar="N", help="Steps at each size.")] = 10,
    step_size: Annotated[
        float,
        training_option(min=0.01, max=255, metavar="LEVELS", help="Mean change of a pixel in a step, of 255 levels."),
    ] = 1.5,
    out: Pictures = Path("dreams"),
    overwrite: Overwrite = False,
    preview: Preview = None,
    seed: Seed = 0,
    device: Device = None,
    weights_file: WeightsFile = None,
    facts: ModelFacts = NO_FACTS,
    as_json: Json = False,
) -> None:
    """Change images so that they excite a part of the network more (DeepDream). They keep their size.

    Exit status: 0, success; 1, failed; 2, wrong arguments; 3, finished, but some images could not be read or changed.
    """
    from inception_v3.images.addresses import count_images

    check_seed(seed)
    total = count_images(images)
    check_pictures(out, preview, overwrite, (model, *images))
    network = load_network(model, device, weights_file, facts, "it has no gradients", needs_classes=False)
    from inception_v3.explain.deep_dream import DreamOptions, dream

    options = DreamOptions(octaves, octave_scale, steps, step_size, seed)
    target = _find_target(network, end_point)

    def handle(number: int, view: "View", start_step: "StartShownStep") -> str | None:
        step = start_step(Path(view.name).name, None, "steps")
        try:
            result = dream(network, view, target, options, on_step=shown_steps(step, preview))
        except (InputError, ValueError) as error:
            return str(error)
        file = picture_file(out, number, Path(view.name).stem, is_only=total == 1)
        check_writable(file, (model, *images))
        result.save(file)
        _print(result, file, as_json)
        return None

    handle_views(images, network.preprocessing, "images", total, handle)


def _find_target(network: "InceptionV3", name: str) -> "Target":
    """Raises InputError: no such end point or channel, or none that a dream can excite."""
    from inception_v3.explain.deep_dream import check_target
    from inception_v3.explain.targets import find_target

    try:
        return check_target(network, find_target(network, name))
    except ValueError as error:
        raise InputError(f"--end-point: {error}", exit_status=2) from error


def _print(result: "Dream", file: Path, as_json: bool) -> None:
    if as_json:
        print_json(result.as_dict() | {"file": str(file)}, allow_nan=False)
    else:
        shown = f"activation of {result.target} {result.start:.4g} before, {result.activation:.4g} now"
        print_line(f"{result.image_name}: {shown}: {file}")
