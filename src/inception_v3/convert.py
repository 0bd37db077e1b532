"""From one program's file to another's, with the same numbers or with the difference measured."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from inception_v3 import checkpoint
from inception_v3.errors import InputError
from inception_v3.formats.weights import fold_gamma
from inception_v3.network import InceptionV3

SUFFIXES = {".safetensors": "native", ".ckpt": "tf-slim", ".h5": "keras", ".pth": "torchvision"}
WITHOUT_GAMMA = ("tf-slim", "keras")
IMAGES = 4  # for the measurement: random pixels, which reach the borders as much as photographs do


@dataclass
class Conversion:
    """What was done. `difference` is the largest one of the logits, over the largest logit."""

    source: str
    destination: str
    source_format: str
    format: str
    difference: float
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
    weights_file: Path | None = None,
) -> Conversion:
    """Read `source`, write `destination` in the format `to`, read that again and compare the logits of both.

    `source` is a path or a name, which `weights_file` may stand in for, as in `load`.
    Without `to` the name of the destination tells the format. Raises InputError, and writes nothing: what the
    target's program would compute otherwise, unless `allow_difference`; a gamma to fold where `fold` is False;
    and what `load` and `save` raise.
    """
    name = to or SUFFIXES.get(destination.suffix)
    if name is None:
        raise InputError(
            f"{destination}: its name does not tell the format; give --to {' | '.join(checkpoint.MODULES)}",
            exit_status=2,
        )
    model = checkpoint.load(source, weights_file=weights_file)
    assert model.origin is not None  # of what was loaded
    target = checkpoint.find_format(name)
    folded = fold_gamma(model.state_dict())[1] if name in WITHOUT_GAMMA else []
    if folded and not fold:
        raise InputError(
            f"{destination}: {name} has no gamma, and {len(folded)} layers have one other than 1; leave out --no-fold "
            "to fold it into kernel and mean, exact in inference"
        )
    checkpoint.save(model, destination, name, allow_difference=allow_difference)
    again = checkpoint.load(destination, format=name)
    dropped = ["AuxLogits"] if model.settings["create_aux_logits"] and not again.settings["create_aux_logits"] else []
    return Conversion(
        source=source,
        destination=str(destination),
        source_format=model.origin.format,
        format=name,
        difference=difference(model, again),
        reasons=target.differences(model),
        folded=len(folded),
        dropped=dropped,
    )


@torch.inference_mode()
def difference(one: InceptionV3, other: InceptionV3) -> float:
    """The largest absolute difference of the logits on random pixels, over the largest absolute logit; in float64.

    Each network gets the pixels as its own preprocessing scales them.
    """
    pixels = torch.randint(256, (IMAGES, 3, *one.image_size), generator=torch.Generator().manual_seed(0))
    ours, theirs = (network.double()(network.preprocessing.scale(pixels).double(), ())[0] for network in (one, other))
    return float((ours - theirs).abs().max() / ours.abs().max())
