"""The model of a training: built or checked, set up as the recipe requires, and put into training mode."""

import os
from dataclasses import replace

import torch

from inception_v3.data import LabelledImages
from inception_v3.errors import InputError
from inception_v3.evaluation.evaluate import check_classes
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.network.architecture import end_points
from inception_v3.network.layers import BatchNorm
from inception_v3.training.recipe import Recipe
from inception_v3.training.schedules import batch_norm_decay
from inception_v3.weights.model import InceptionV3


def prepare_model(
    model: InceptionV3 | None, recipe: Recipe, train_set: LabelledImages, device: torch.device
) -> InceptionV3:
    """The model to train, on the device and in channels_last: the given one, or a new one with random weights.

    Raises InputError: the given model does not fit the recipe or the classes, or the memory is too small.
    """
    check_memory(recipe, len(train_set), len(train_set.class_names), device)
    model = model or new_model(recipe, train_set.class_names)
    check_model(model, recipe, train_set.class_names)
    model.class_names = train_set.class_names
    return accelerated(model).to(device).to(memory_format=torch.channels_last)


def new_model(recipe: Recipe, class_names: list[str]) -> InceptionV3:
    """A model with random weights, drawn from PyTorch's global generator."""
    side = recipe.image_size
    heads = [point for point in end_points(height=side, width=side) if point.name in ("AuxLogits", "Logits")]
    model = InceptionV3(
        num_classes=len(class_names),
        depth_multiplier=recipe.depth_multiplier,
        global_pool=any(head.height > 1 for head in heads),  # above 346 pixels TF-Slim's pools leave a map
        image_size=side,
    )
    model.preprocessing = Preprocessing.named(recipe.preprocessing, side)
    if recipe.preprocessing in ("inception", "slim"):  # the others have a fixed crop
        model.preprocessing = replace(model.preprocessing, crop_fraction=recipe.crop_fraction)
    model.class_names = class_names
    return model


def check_model(model: InceptionV3, recipe: Recipe, class_names: list[str]) -> None:
    """Raise InputError if the model has other classes than the data, or another image size than the recipe."""
    check_classes(model, class_names)
    if (activation := model.settings.output_activation) != "softmax":
        raise InputError(
            f"the model's output activation is {activation}, but training needs softmax; give it a new head with "
            "`inception-v3 finetune`"
        )
    if model.class_names not in (None, class_names):
        raise InputError("the model's classes are not those of the data, in the same order; give it a new head")
    if (size := model.preprocessing.image_size) != (recipe.image_size, recipe.image_size):
        raise InputError(
            f"the model takes images of {size[0]}x{size[1]}, but the recipe's image_size is {recipe.image_size}; "
            "set them to the same size"
        )


def check_memory(recipe: Recipe, images: int, classes: int, device: torch.device, *, training: bool = True) -> None:
    """Raise InputError if weights and activations certainly exceed the memory of the device.

    This is a lower bound. A training step keeps the end points in bfloat16 and, for every weight, also its average, its
    gradient and one value of the optimizer. Without `training`, only the weights and the largest end point count.
    """
    side = recipe.image_size
    points = end_points(height=side, width=side, num_classes=classes, depth_multiplier=recipe.depth_multiplier)
    maps = [point.height * point.width * point.channels for point in points]
    values_per_image, bytes_per_weight = (sum(maps), 16) if training else (max(maps), 4)
    needed = bytes_per_weight * sum(point.parameters for point in points)
    needed += 2 * min(recipe.batch_size, images) * values_per_image
    if device.type == "cuda":
        memory = torch.cuda.mem_get_info(device)[1]
    else:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        raise InputError(
            f"a step needs {needed / 2**30:,.0f} GiB or more, but {device} has {memory / 2**30:,.0f}: lower batch_size "
            "(accumulate keeps the effective batch size), image_size or depth_multiplier",
            exit_status=2,
        )


def check_batch_size(model: InceptionV3, recipe: Recipe, images: int, processes: int = 1) -> None:
    """Raise InputError if every batch has one image, and BatchNorm would see one value per channel."""
    stages = sorted({size for _, size in recipe.image_sizes} | {recipe.image_size})
    layers = {size: names for size in stages if (names := one_value_layers(model, recipe, size, processes))}
    if not layers or min(recipe.batch_size, -(-images // processes)) > 1:
        return
    size, (layer, *_) = next(iter(layers.items()))
    remedy = "set batch_size to 2 or more" if recipe.batch_size == 1 else "give more images, or use fewer processes"
    if all(name.startswith("AuxLogits/") for names in layers.values() for name in names):
        remedy += ", or aux_weight to 0"
    raise InputError(
        f"a batch of one image cannot train: at {size}x{size} the map of {layer} is 1x1, and BatchNorm would normalise "
        f"a single value per channel to a constant; {remedy}, or freeze_batch_norm to true",
        exit_status=2,
    )


def one_value_layers(model: InceptionV3, recipe: Recipe, image_size: int, processes: int = 1) -> list[str]:
    """The layers in which BatchNorm would see one value per channel if a process trained on a batch of one image.

    PyTorch's BatchNorm raises an error for one value per channel. Its variance is 0, so TensorFlow's and this
    network's output is the offset beta, whatever the image is, and the layers before it get no gradient.
    """
    if recipe.freeze_batch_norm or (recipe.sync_batch_norm and processes > 1):
        return []
    settings = replace(model.settings, create_aux_logits=uses_aux_head(model, recipe, image_size))
    points = settings.end_points(image_size, image_size)
    layers = (layer for point in points for layer in point.layers)
    return [layer.name for layer in layers if layer.has_batch_norm and layer.output.size == (1, 1)]


def apply_recipe(model: InceptionV3, recipe: Recipe, steps: int) -> None:
    """Set the options of the model that the recipe determines: dropout, and the decay of BatchNorm's averages."""
    model.settings = replace(model.settings, dropout_keep_prob=recipe.dropout_keep_prob)
    if not recipe.freeze_batch_norm:
        model.set_batch_norm_decay(batch_norm_decay(recipe, steps * recipe.accumulate))


def accelerated(model: InceptionV3) -> InceptionV3:
    """The model with the faster CPU kernels of network/accelerate.py; without that file, the unchanged model."""
    try:
        from inception_v3.network.accelerate import accelerate
    except ModuleNotFoundError:
        return model
    return accelerate(model)


def set_training_mode(model: InceptionV3, recipe: Recipe) -> None:
    """Put the model into training mode. BatchNorm stays in evaluation mode if the recipe freezes it."""
    model.train()
    for module in model.modules():
        if recipe.freeze_batch_norm and isinstance(module, BatchNorm):
            module.eval()


def uses_aux_head(model: InceptionV3, recipe: Recipe, image_size: int) -> bool:
    """Whether the auxiliary head trains with images of this size.

    The head does not train if the map in front of its convolution is smaller than the kernel that the model has.
    """
    if not recipe.aux_weight or not model.settings.create_aux_logits:
        return False
    return _aux_kernels(image_size, image_size) == _aux_kernels(*model.image_size)


def _aux_kernels(height: int, width: int) -> list[tuple[int, int]]:
    (head,) = (point for point in end_points(height=height, width=width) if point.name == "AuxLogits")
    return [layer.kernel for layer in head.layers if layer.normalized]
