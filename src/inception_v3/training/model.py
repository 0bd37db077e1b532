"""The network as a recipe wants it: built, fitted to the length of the training, and which of its parts take part."""

import os
from dataclasses import replace

import torch

from inception_v3.errors import InputError
from inception_v3.evaluation.evaluate import check_classes
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.network.architecture import end_points
from inception_v3.network.layers import BatchNorm
from inception_v3.training.recipe import Recipe
from inception_v3.training.schedules import batch_norm_decay
from inception_v3.weights.model import InceptionV3


def new_model(recipe: Recipe, class_names: list[str]) -> InceptionV3:
    """Random weights, drawn from torch's global generator."""
    side = recipe.image_size
    heads = [point for point in end_points(height=side, width=side) if point.name in ("AuxLogits", "Logits")]
    model = InceptionV3(
        num_classes=len(class_names),
        depth_multiplier=recipe.depth_multiplier,
        global_pool=any(head.height > 1 for head in heads),  # TF-Slim's pools leave a map of pictures above 346 pixels
        image_size=side,
    )
    model.preprocessing = Preprocessing.named(recipe.preprocessing, side)
    if recipe.preprocessing in ("inception", "slim"):  # in the others it is a part of the name
        model.preprocessing = replace(model.preprocessing, crop_fraction=recipe.crop_fraction)
    model.class_names = class_names
    return model


def check_fit(model: InceptionV3, recipe: Recipe, class_names: list[str]) -> None:
    """Raises InputError where a model tells other classes apart, or is judged on pictures of another size."""
    check_classes(model, class_names)
    if model.class_names not in (None, class_names):
        raise InputError("the model's classes are not those of the data, in their order; give it a new head")
    if (size := model.preprocessing.image_size) != (recipe.image_size, recipe.image_size):
        message = f"the model reads pictures of {size[0]}x{size[1]}, and the recipe's image_size is {recipe.image_size}"
        raise InputError(f"{message}; make them the same")


def check_memory(recipe: Recipe, pictures: int, classes: int, device: torch.device, *, training: bool = True) -> None:
    """Raises InputError where weights and the maps that a step keeps are for sure more than the device's memory.

    Counted are end points alone, in bfloat16, and of every weight its average, its gradient and one of the optimizer's;
    without `training` the largest end point and the weights.
    """
    side = recipe.image_size
    points = end_points(height=side, width=side, num_classes=classes, depth_multiplier=recipe.depth_multiplier)
    maps = [point.height * point.width * point.channels for point in points]
    kept, of_weight = (sum(maps), 16) if training else (max(maps), 4)
    needed = of_weight * sum(point.parameters for point in points) + 2 * min(recipe.batch_size, pictures) * kept
    if device.type == "cuda":
        there = torch.cuda.mem_get_info(device)[1]
    else:
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise InputError(
            f"a step would take {needed / 2**30:,.0f} GiB or more, and {device} has {there / 2**30:,.0f}: lower "
            "batch_size (accumulate makes up for it), image_size or depth_multiplier",
            exit_status=2,
        )


def fit_to(model: InceptionV3, recipe: Recipe, steps: int) -> None:
    """Set what depends on the recipe and not on the weights."""
    model.settings = replace(model.settings, dropout_keep_prob=recipe.dropout_keep_prob)
    if not recipe.freeze_batch_norm:
        model.set_batch_norm_decay(batch_norm_decay(recipe, steps * recipe.accumulate))


def accelerated(model: InceptionV3) -> InceptionV3:
    """The model with the faster CPU kernels of network/accelerate.py; without that file, the model as it is."""
    try:
        from inception_v3.network.accelerate import accelerate
    except ModuleNotFoundError:
        return model
    return accelerate(model)


def training_mode(model: InceptionV3, recipe: Recipe) -> None:
    model.train()
    if recipe.freeze_batch_norm:
        for layer in batch_norms(model):
            layer.eval()


def uses_aux_head(model: InceptionV3, recipe: Recipe, image_size: int) -> bool:
    """Whether the auxiliary loss takes part: not where pictures leave a map that is smaller than its convolution."""
    if not recipe.aux_weight or not model.settings.create_aux_logits:
        return False

    def kernels(height: int, width: int) -> list[tuple[int, int]]:
        (head,) = (point for point in end_points(height=height, width=width) if point.name == "AuxLogits")
        return [layer.kernel for layer in head.layers if layer.normalized]

    return kernels(image_size, image_size) == kernels(*model.image_size)


def batch_norms(model: InceptionV3) -> list[BatchNorm]:
    return [module for module in model.modules() if isinstance(module, BatchNorm)]
