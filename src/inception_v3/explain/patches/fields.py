"""The size of the patches of each module: that of its effective receptive field."""

from collections.abc import Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor

from inception_v3.errors import InputError
from inception_v3.explain.effective_fields import effective_field
from inception_v3.explain.patches.images import ImageSet
from inception_v3.explain.receptive_fields import all_receptive_fields
from inception_v3.explain.targets import end_point_map
from inception_v3.network.architecture import MODULES
from inception_v3.network.settings import Settings
from inception_v3.support.progress import Advance, ignore
from inception_v3.weights.model import InceptionV3

IMAGES = 2  # on which an effective field is measured
# For a network whose gradients cannot be computed: measured on four photos with a network that was trained on photos.
MEASURED = {"Mixed_5b": 49, "Mixed_5c": 63, "Mixed_5d": 73, "Mixed_6a": 77, "Mixed_6b": 195, "Mixed_6c": 223,
            "Mixed_6d": 253, "Mixed_6e": 269, "Mixed_7a": 265, "Mixed_7b": 279, "Mixed_7c": 287}  # fmt: skip


def module_names(settings: Settings) -> tuple[str, ...]:
    """The names of the modules of a network: 11 in the whole one, with 10,048 channels."""
    modules = {module.name for module in MODULES}
    return tuple(point.name for point in settings.end_points() if point.name in modules)


def typical_fields(modules: Sequence[str]) -> dict[str, int]:
    """The sides of the effective fields of modules as measured on another network, in pixels of the input."""
    return {name: MEASURED[name] for name in modules}


def measure_fields(
    model: InceptionV3, images: ImageSet, modules: Sequence[str], advance: Advance = ignore
) -> dict[str, int]:
    """The sides of the effective fields of modules in pixels of the input, measured on the first usable images.

    An image is usable if it can be read, and the values of the last module for it are finite. `advance` is called for
    each module. A module that is zero at its centre has the side of its stride. Raises InputError: no image is usable.
    """
    prepared = list(islice(_prepared(model, images, modules[-1]), IMAGES))
    if not prepared:
        raise InputError(f"{images.address}: no image can be read and has finite values; check the files and the model")
    batch = torch.cat(prepared)
    theoretical = all_receptive_fields(model.preprocessing.image_size, model.settings)
    fields = {}
    for name in modules:
        try:
            fields[name] = max(effective_field(model, batch, name).size, *theoretical[name].stride)
        except ValueError as error:
            raise InputError(str(error)) from error
        advance(1)
    return fields


@torch.no_grad()
def _prepared(model: InceptionV3, images: ImageSet, module: str) -> Iterator[Tensor]:
    """The readable images as inputs of the network (1, 3, H, W), if the values of the module are finite."""
    parameter = next(model.parameters())
    for source in images.read():
        try:
            image = model.preprocess(source.open()).to(parameter.device, parameter.dtype)
        except InputError:
            continue
        if end_point_map(model, image, module).isfinite().all():
            yield image
