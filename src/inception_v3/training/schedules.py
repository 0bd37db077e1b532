"""Values that change during a training: the learning rate, the image size, and the decay of moving averages."""

import math

from inception_v3.support.text import count_of
from inception_v3.training.recipe import Recipe

BATCH_NORM_DECAY, EMA_DECAY = 0.9997, 0.9999  # TF-Slim's and the released training's, for a hundred thousand steps


def learning_rate(recipe: Recipe, epochs: float) -> float:
    """The learning rate after `epochs`, fractional too: linear warm-up, then stairs, or half a cosine to zero."""
    warmup = min(1.0, epochs / recipe.warmup_epochs) if recipe.warmup_epochs else 1.0
    if recipe.schedule == "stairs":
        decay = recipe.learning_rate_decay ** math.floor(epochs / recipe.decay_epochs + 1e-9)
    else:
        length = recipe.epochs - recipe.warmup_epochs
        progress = (epochs - recipe.warmup_epochs) / length if length > 0 else 0.0
        decay = (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0))) / 2
    return recipe.learning_rate * warmup * decay


def image_size(recipe: Recipe, epoch: int) -> int:
    """The image size in an epoch, counted from 0. The last epoch always has the last size."""
    if not recipe.image_sizes or epoch == recipe.epochs - 1:
        return recipe.image_size
    position = (epoch + 0.5) / recipe.epochs * sum(fraction for fraction, _ in recipe.image_sizes)
    for fraction, size in recipe.image_sizes:
        position -= fraction
        if position < 0:
            return size
    return recipe.image_size


def batch_norm_decay(recipe: Recipe, updates: int) -> float:
    """The decay of BatchNorm's moving averages. "auto" averages over the last 5 % of the updates, at most 0.9997."""
    if isinstance(recipe.batch_norm_decay, str):
        return min(BATCH_NORM_DECAY, 1 - 1 / max(2.0, updates / 20))
    return recipe.batch_norm_decay


def ema_decay(recipe: Recipe) -> float:
    """The decay of the running average of the weights, after its warm-up."""
    return EMA_DECAY if isinstance(recipe.ema_decay, str) else recipe.ema_decay


def warmed_up_decay(decay: float, step: int) -> float:
    """The decay of a running average at a step, counted from 1: at most (1 + step) / (10 + step).

    It averages over the last ninth of the steps so far, and so suits a training of any length.
    Source: tf.train.ExponentialMovingAverage with `num_updates`.
    """
    return min(decay, (1 + step) / (10 + step))


def settling_warnings(recipe: Recipe, steps: int) -> list[str]:
    """Warnings about averages in which the initial value still weighs more than 1 % when the training ends."""
    updates = steps * recipe.accumulate
    in_statistics = 0.0 if recipe.freeze_batch_norm else batch_norm_decay(recipe, updates) ** updates
    in_weights = math.prod(warmed_up_decay(ema_decay(recipe), step) for step in range(1, min(steps, 1000) + 1))
    return [
        f"{key} = {value} cannot settle in {count_of(steps, 'step')}: {left:.0%} of {average} will still be their "
        "initial value; train longer" + ("" if value == "auto" else f', or use {key} = "auto"')
        for key, value, left, average in (
            ("batch_norm_decay", recipe.batch_norm_decay, in_statistics, "BatchNorm's statistics"),
            ("ema_decay", recipe.ema_decay, in_weights, "the averaged weights"),
        )
        if left > 0.01
    ]
