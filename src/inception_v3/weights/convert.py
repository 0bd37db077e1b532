"""Convert weights between frameworks and verify that the outputs match."""

import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from inception_v3.errors import InputError
from inception_v3.images.preprocessing import PREPROCESSINGS, Preprocessing
from inception_v3.support.files import (
    atomic_write,
    check_writable,
    is_stream,
    staging_folder,
    write_error,
    write_target,
)
from inception_v3.weights.formats.base import WritableFormat
from inception_v3.weights.formats.registry import find_writer, formats_by_suffix
from inception_v3.weights.formats.weights import Weights, fold_gamma
from inception_v3.weights.load import load, save
from inception_v3.weights.model import InceptionV3
from inception_v3.weights.programs.program import MissingProgramError, ProgramError
from inception_v3.weights.read import read_weights

IMAGES = 2  # number of images of random pixels, on which outputs are compared
LIMIT = 1e-4  # a larger difference is an error; rounding to float32 causes about 1e-6

Outputs = dict[str, Tensor]  # by end point


@dataclass
class ProgramCheck:
    """The largest difference from the expected outputs, if a program runs the destination.

    `program` is inception-v3 itself if the format's own program could not be used; `instead_of` then gives the reason.
    """

    program: str
    difference: float
    instead_of: str | None = None


@dataclass
class Conversion:
    """The result of a conversion. `difference` is the largest difference of logits, relative to the largest logit."""

    source: str
    destination: str
    source_format: str
    format: str
    image_size: tuple[int, int]  # (height, width) of the images on which the outputs were compared
    difference: float
    check: ProgramCheck | None = None
    reasons: list[str] = field(default_factory=list)  # why the outputs differ, if that was allowed
    folded: int = 0  # the number of layers whose gamma was folded into kernel and mean
    dropped: list[str] = field(default_factory=list)  # what the format cannot store


def convert(
    source: str,
    destination: Path,
    to: str | None = None,
    *,
    allow_difference: bool = False,
    fold: bool = True,
    check: bool = False,
    python: str | Path = sys.executable,
    weights_file: Path | None = None,
    announce: Callable[[str], object] = lambda message: None,
    report: Callable[[str], object] = lambda message: None,
    **facts: Any,
) -> Conversion:
    """Read `source`, write `destination` in another format, read it back, and compare the outputs of both.

    An existing destination is replaced only after the comparison.

    Args:
        source: a path or a published name, as for `load`.
        destination: the file to write.
        to: the name of the format. By default the destination's suffix determines it.
        allow_difference: write the file even if the format's program will compute other outputs.
        fold: fold a gamma into kernel and mean if the format has no gamma. False refuses the conversion.
        check: run the format's own program on the file too, if it is installed.
        python: the Python interpreter in which this program is installed.
        weights_file: a file to use instead of downloading a published name.
        announce: called with a message before each long step.
        report: called with a line about what the format cannot store, before the destination is written.
        facts: other options of `load`, such as `state` and `mean`.

    Raises:
        InputError: the format's program would compute other outputs and `allow_difference` is not set; a gamma to
            fold and `fold` is False; a file name that the program does not read; and everything that `load` and
            `save` raise. Nothing is written then.
    """
    candidates = _requested_formats(destination, to)
    model = load(source, weights_file=weights_file, **facts)
    assert model.origin is not None  # `load` sets it
    weights = model.to_weights()
    format = next((each for each in candidates if not each.differences(weights)), candidates[-1])
    folded = _folded_layers(weights, format, destination, fold)
    with _staged(destination) as staged:
        announce(f"writing {destination} and comparing")
        save(model, staged, format.name, allow_difference=allow_difference)
        with warnings.catch_warnings(action="ignore"):  # of what is known about the model that was written
            stored, origin = read_weights(staged, format.name)
            activation = model.settings.output_activation
            reloaded = InceptionV3.from_weights(stored, origin, output_activation=activation)
        pixels = torch.randint(256, (IMAGES, 3, *model.image_size), generator=torch.Generator().manual_seed(0))
        expected = outputs(model, pixels)
        conversion = Conversion(
            source=source,
            destination=str(destination),
            source_format=model.origin.format,
            format=format.name,
            image_size=model.image_size,
            difference=difference(expected, outputs(reloaded, pixels)),
            reasons=format.differences(weights),
            folded=len(folded),
            dropped=_dropped(model, reloaded, stored),
        )
        if check:
            announce(f"running {format.name}'s program")
            conversion.check = _check(conversion, format, staged, expected, pixels, reloaded, python)
        if not allow_difference:
            _require_equal_outputs(conversion)
        _require_no_loss(conversion, model.origin.file)
        if conversion.dropped:
            report(f"{destination}: {format.name} files do not store {' and '.join(conversion.dropped)}")
    return conversion


def _require_no_loss(conversion: Conversion, source: Path) -> None:
    """Raise InputError if the source would be replaced by a file that holds less."""
    destination = Path(conversion.destination)
    lost = conversion.dropped + conversion.reasons
    if lost and destination.exists() and destination.samefile(source):
        raise InputError(
            f"{destination}: not written, because it is the source and would lose {lost[0]}; choose another name"
        )


def _requested_formats(destination: Path, to: str | None) -> list[WritableFormat]:
    """The formats to choose from. Raises InputError, before anything is read, for a destination that cannot work."""
    check_writable(destination)
    if to is not None:
        format = find_writer(to)
        _check_suffix(destination, format)
        return [format]
    by_suffix = formats_by_suffix()
    if destination.suffix not in by_suffix:
        known = ", ".join(
            f"{suffix} {' or '.join(format.name for format in formats)}" for suffix, formats in by_suffix.items()
        )
        raise InputError(
            f"{destination}: its suffix does not determine a format ({known}); give --to FORMAT", exit_status=2
        )
    return by_suffix[destination.suffix]


def _check_suffix(destination: Path, format: WritableFormat) -> None:
    """Raise InputError if the format's program could not read a file of that name."""
    remedy = f"let it end in {' or '.join(format.required_suffixes or format.suffixes)}"
    if format.required_suffixes and not destination.name.endswith(format.required_suffixes):
        raise InputError(f"{destination}: not a name that {format.name}'s program reads; {remedy}", exit_status=2)
    if destination.suffix in format.forbidden_suffixes:
        raise InputError(
            f"{destination}: the name of a {format.name} file cannot end in {destination.suffix}; {remedy}",
            exit_status=2,
        )


def _folded_layers(weights: Weights, format: WritableFormat, destination: Path, fold: bool) -> list[str]:
    """The layers whose gamma is folded in this format. Raises InputError if there are any and `fold` is False."""
    folded = [] if format.has_gamma else fold_gamma(weights.tensors)[1]
    if folded and not fold:
        raise InputError(
            f"{destination}: {format.name} has no gamma, and in {len(folded)} layers it is not 1; leave out --no-fold "
            "to fold it into kernel and mean, which is exact in inference"
        )
    return folded


def _dropped(model: InceptionV3, reloaded: InceptionV3, stored: Weights) -> list[str]:
    """The parts of the model that the written file does not contain. `stored` is what was read from it."""
    activation = "output_activation"
    output = model.settings.output_activation
    options = _lost_preparation(model.preprocessing, stored.preprocessing)
    listed = ", ".join(f"{name} {_shown(value)}" for name, value in options.items())
    lost = {
        f"how images are prepared ({listed})": options,
        "that the outputs are no probabilities" if output == "none" else f"the {output} of the outputs": (
            activation in stored.undetermined or model.settings[activation] != stored.settings[activation]
        ),
        "AuxLogits": model.settings.create_aux_logits and not reloaded.settings.create_aux_logits,
        "class names": model.class_names and stored.class_names != model.class_names,
    }
    return [name for name, is_lost in lost.items() if is_lost]


def _lost_preparation(ours: Preprocessing, theirs: Preprocessing) -> dict[str, Any]:
    """How a model resizes and crops images, where the written file has another way; {} for a known program's way."""
    if any(replace(ours, mean=way.mean, std=way.std) == way.at(ours.image_size) for way in PREPROCESSINGS.values()):
        return {}
    known = asdict(theirs)
    kept = ("image_size", "mean", "std")
    return {name: value for name, value in asdict(ours).items() if value != known[name] and name not in kept}


def _shown(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


@contextmanager
def _staged(destination: Path) -> Iterator[Path]:
    """Yield a path of the same name in a temporary folder; then move the files written there to the destination.

    After an error nothing is moved, and the message names the destination instead of the temporary path.
    """
    staged = destination
    try:
        with staging_folder(write_target(destination).parent) as folder:
            staged = folder / destination.name
            yield staged
            written = sorted(folder.iterdir())  # a checkpoint's data is moved before its index
            is_prefix = staged not in written
            if is_prefix and is_stream(destination):
                raise InputError(f"{destination}: a format of several files needs a file name", exit_status=2)
            for file in written:
                with atomic_write(destination.with_name(file.name)) as temporary:
                    shutil.move(file, temporary)
            if is_prefix:  # a file of the name of a checkpoint's prefix would be read instead
                destination.unlink(missing_ok=True)
    except InputError as error:
        raise InputError(str(error).replace(str(staged), str(destination)), exit_status=error.exit_status) from error
    except OSError as error:
        raise write_error(destination, error) from error


# ----------------------------------------------------------------------------------------------------- comparing


@torch.inference_mode()
def outputs(model: InceptionV3, pixels: Tensor) -> Outputs:
    """Compute both heads' logits as maps, or the last map of a network without heads, in float64.

    `pixels` are 0 to 255, of shape (N, 3, H, W); the model's own preprocessing scales them. The model is not changed.
    """
    with torch.device("meta"):
        double = InceptionV3(**replace(model.settings, spatial_squeeze=False)).eval()
    tensors = {name: tensor.double() for name, tensor in model.state_dict().items()}
    names = [name for name in ("Logits", "AuxLogits") if name in double.end_point_names]
    images = model.preprocessing.scale(pixels).double()
    _, end_points = functional_call(double, tensors, (images, names or double.end_point_names[-1:]))
    return dict(end_points)


def difference(ours: Outputs, theirs: Outputs) -> float:
    """The largest difference, relative to the largest absolute value, over the end points that both have.

    If one program returns a map and the other a single value per class, the means over the map are compared.
    """
    relative = []
    for name in ours.keys() & theirs.keys():
        left, right = (tensor.double().reshape(*tensor.shape[:2], -1) for tensor in (ours[name], theirs[name]))
        if left.shape != right.shape:
            left, right = left.mean(2), right.mean(2)
        relative.append((left - right).abs().max() / left.abs().max().clamp(min=torch.finfo(torch.float64).tiny))
    return float(torch.stack(relative).max())


def _check(
    conversion: Conversion,
    format: WritableFormat,
    staged: Path,
    expected: Outputs,
    pixels: Tensor,
    reloaded: InceptionV3,
    python: str | Path,
) -> ProgramCheck:
    """Compare with what the format's own program computes from the file, if there is one and it can be run."""
    if format.program is None:
        return ProgramCheck("inception-v3", conversion.difference, f"no other program reads {format.name}")
    is_rescaled = format.rescales and not reloaded.preprocessing.is_half
    images = (pixels.float() if is_rescaled else Preprocessing().scale(pixels)).numpy()
    try:
        program, arrays = format.program.run(staged, images, reloaded.settings, python)
    except MissingProgramError as error:
        return ProgramCheck(
            "inception-v3", conversion.difference, f"{format.name}'s program cannot be run here: {error}"
        )
    except ProgramError as error:
        raise InputError(
            f"{conversion.destination}: not written, because {format.name}'s program cannot use it ({error}); "
            "leave out --check to write it anyway"
        ) from error
    return ProgramCheck(
        program, difference(expected, {name: torch.from_numpy(array) for name, array in arrays.items()})
    )


def _require_equal_outputs(conversion: Conversion) -> None:
    """Raise InputError if the outputs differ although no reason for it is known."""
    measured = {"read back here": conversion.difference}
    if conversion.check:
        measured[f"computed by {conversion.check.program}"] = conversion.check.difference
    for how, value in measured.items():
        if not value <= LIMIT:  # or NaN
            raise InputError(
                f"{conversion.destination}: not written: its logits, {how}, differ by {value:.1e}; "
                "--allow-difference writes it anyway"
            )
