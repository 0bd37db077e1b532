"""From one program's file to another's, with the same numbers or with the difference measured."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from inception_v3.errors import InputError
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.network.settings import Settings
from inception_v3.support.files import write_error
from inception_v3.weights import peers
from inception_v3.weights.formats import fid_2015
from inception_v3.weights.formats.registry import find_writer
from inception_v3.weights.formats.weights import fold_gamma
from inception_v3.weights.load import load, save
from inception_v3.weights.model import InceptionV3

SUFFIXES = {
    ".safetensors": "native",
    ".ckpt": "tf-slim",
    ".h5": "keras",
    ".pth": "torchvision",
    ".pt": "torchvision",
    ".bin": "timm",
}
# Programs that go by the end of a name, which must not say something else than what is written.
NAMES = {"keras": (".h5", ".hdf5"), "timm": (".safetensors", ".bin", ".pth", ".pt")}
PICKLED = ("torchvision", "fid-2015")
WITHOUT_GAMMA = ("tf-slim", "keras")
IMAGES = 2  # for the measurement: random pixels, which reach the borders as much as photographs do
LIMIT = 1e-4  # above it the numbers are others; float32 alone makes about 1e-6

Outputs = dict[str, Tensor]


@dataclass
class Check:
    """`program` computed from the destination what differs by `difference`; this one where `instead_of` says why."""

    program: str
    difference: float
    instead_of: str | None = None


@dataclass
class Conversion:
    """What was done. `difference` is the largest one of both heads' logits, over the largest logit."""

    source: str
    destination: str
    source_format: str
    format: str
    image_size: tuple[int, int]  # of the images that were compared
    difference: float
    check: Check | None = None
    reasons: list[str] = field(default_factory=list)  # why the numbers differ, where that was allowed
    folded: int = 0  # layers whose gamma went into kernel and mean
    dropped: list[str] = field(default_factory=list)  # what the format has no place for

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


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
    announce: Callable[[str], object] = lambda what: None,
) -> Conversion:
    """Read `source`, write `destination` in the format `to`, read that again and compare the logits of both.

    `source` is a path or a name, which `weights_file` may stand in for, as in `load`. Without `to` the name of the
    destination tells the format. With `check` the format's own program runs too, by the interpreter `python`, where
    it is installed. The destination is replaced when all has been compared. `announce` is told what takes time.

    Raises InputError, and writes nothing: what the target's program would compute otherwise, unless
    `allow_difference`; a gamma to fold where `fold` is False; a name that its program does not read; and what
    `load` and `save` raise.
    """
    _check_destination(destination, to)
    model = load(source, weights_file=weights_file)
    assert model.origin is not None  # of what was loaded
    name = to or SUFFIXES[destination.suffix]
    if not to and name == "torchvision" and not fid_2015.differences(model):
        name = fid_2015.NAME
    reasons = find_writer(name).differences(model)
    folded = fold_gamma(model.state_dict())[1] if name in WITHOUT_GAMMA else []
    if folded and not fold:
        raise InputError(
            f"{destination}: {name} has no gamma, and {len(folded)} layers have one other than 1; leave out --no-fold "
            "to fold it into kernel and mean, exact in inference"
        )
    with _staged(destination) as staged:
        announce(f"writing {destination} and comparing")
        save(model, staged, name, allow_difference=allow_difference)
        again = load(staged, format=name)
        pixels = torch.randint(256, (IMAGES, 3, *model.image_size), generator=torch.Generator().manual_seed(0))
        ours = outputs(model, pixels)
        done = Conversion(
            source=source,
            destination=str(destination),
            source_format=model.origin.format,
            format=name,
            image_size=model.image_size,
            difference=difference(ours, outputs(again, pixels)),
            reasons=reasons,
            folded=len(folded),
            dropped=_dropped(model, again),
        )
        if check:
            announce(f"running {name}'s program")
            done.check = _check(done, staged, ours, pixels, again.settings, python)
        if not allow_difference:
            _require_the_same(done)
    return done


def _check_destination(destination: Path, to: str | None) -> None:
    """Raise InputError for wrong use, before anything is read."""
    if destination.is_dir():
        raise InputError(f"{destination}: is a folder; name the file to write in it", exit_status=2)
    name = to or SUFFIXES.get(destination.suffix)
    if name is None:
        known = ", ".join(f"{suffix} {format}" for suffix, format in SUFFIXES.items())
        raise InputError(
            f"{destination}: its name does not tell a format to write ({known}); give --to FORMAT", exit_status=2
        )
    find_writer(name)
    if name == "tf-slim" and destination.suffix == ".index":
        raise InputError(f"{destination}: a checkpoint goes by its prefix; leave out .index", exit_status=2)
    ends = NAMES.get(name, ("",))
    if not destination.name.endswith(ends) or (name in PICKLED and destination.suffix == ".safetensors"):
        better = ends[0] or ".pth"
        raise InputError(f"{destination}: {name} goes by the end of a file's name; let it be {better}", exit_status=2)


def _dropped(model: InceptionV3, again: InceptionV3) -> list[str]:
    dropped = ["AuxLogits"] if model.settings.create_aux_logits and not again.settings.create_aux_logits else []
    return [*dropped, "the names of its classes"] if model.class_names and not again.class_names else dropped


@contextmanager
def _staged(destination: Path) -> Iterator[Path]:
    """A path of the same name in a new folder beside; when all went well, what was written there is moved out.

    Errors that name that path name the destination instead. Folders that were missing stay only where all went well.
    """
    made = [folder for folder in destination.absolute().parents if not folder.exists()]
    staged = destination
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".inception-v3.", dir=destination.parent) as folder:
            staged = Path(folder) / destination.name
            yield staged
            written = sorted(Path(folder).iterdir())  # of a checkpoint the data before the index
            for file in written:
                file.replace(destination.with_name(file.name))
            if staged not in written:  # a checkpoint goes by a prefix; a file of that name would be read in its place
                destination.unlink(missing_ok=True)
    except InputError as error:
        message = str(error).replace(str(staged), str(destination))
        raise InputError(message, exit_status=error.exit_status) from error
    except OSError as error:
        raise write_error(destination, error) from error
    finally:
        for new in made:
            with suppress(OSError):  # it holds something
                new.rmdir()


# ----------------------------------------------------------------------------------------------------- comparing


@torch.inference_mode()
def outputs(model: InceptionV3, pixels: Tensor) -> Outputs:
    """Both heads' logits as maps, or the last map of a cut network, in float64; the model itself stays as it is.

    `pixels` are 0 to 255, (N, 3, H, W), and scaled as the model's own preprocessing does.
    """
    with torch.device("meta"):
        double = InceptionV3(**replace(model.settings, spatial_squeeze=False)).eval()
    tensors = {name: tensor.detach().double() for name, tensor in model.state_dict().items()}
    names = [name for name in ("Logits", "AuxLogits") if name in double.end_point_names]
    images = model.preprocessing.scale(pixels).double()
    _, found = functional_call(double, tensors, (images, names or double.end_point_names[-1:]))
    return dict(found)


def difference(ours: Outputs, theirs: Outputs) -> float:
    """The largest absolute difference, over the largest absolute value of the tensor; of those that both have.

    Where one program gives an answer for each place of a map and the other a single one, their means are compared.
    """
    worst = []
    for name in ours.keys() & theirs.keys():
        one, other = (tensor.double().reshape(*tensor.shape[:2], -1) for tensor in (ours[name], theirs[name]))
        if one.shape != other.shape:
            one, other = one.mean(2), other.mean(2)
        worst.append((one - other).abs().max() / one.abs().max().clamp(min=torch.finfo(torch.float64).tiny))
    return float(torch.stack(worst).max())


def _check(
    done: Conversion, staged: Path, ours: Outputs, pixels: Tensor, settings: Settings, python: str | Path
) -> Check:
    """Let the format's own program compute from the file what is compared, or say why it did not."""
    here = "inception-v3"
    if done.format not in peers.PEERS:
        return Check(here, done.difference, f"{done.format} is its own format")
    images = Preprocessing().scale(pixels).numpy()
    try:
        program, theirs = peers.answers(done.format, staged, images, settings, python)
    except peers.CannotRunError as error:
        if error.missing:
            return Check(here, done.difference, f"{done.format} cannot be run here: {error}")
        raise InputError(
            f"{done.destination}: not written, since {done.format}'s program cannot use it ({error}); leave out "
            "--check to write it all the same"
        ) from error
    return Check(program, difference(ours, {name: torch.from_numpy(value) for name, value in theirs.items()}))


def _require_the_same(done: Conversion) -> None:
    """Raise InputError where a difference that nothing explains was measured."""
    measured = {"read back here": done.difference}
    if done.check:
        measured[f"computed by {done.check.program}"] = done.check.difference
    for how, value in measured.items():
        if not value <= LIMIT:  # or no number
            raise InputError(
                f"{done.destination}: not written, since {how} its logits differ by {value:.1e}; --allow-difference "
                "writes it all the same"
            )
