"""What changes in the course of a training, the rate and the size of the pictures; and averages that fit its length."""

import math

from inception_v3.training.recipe import Recipe

SETTLED = 0.01  # of a moving average: the share of its first value that may be left at the end
BATCH_NORM_DECAY, EMA_DECAY = 0.9997, 0.9999  # TF-Slim's and the released training's, for a hundred thousand steps


def learning_rate(recipe: Recipe, epochs: float) -> float:
    """The rate after so many epochs: a linear warm-up, then stairs, or half a cosine down to zero."""
    climbing = min(1.0, epochs / recipe.warmup_epochs) if recipe.warmup_epochs else 1.0
    if recipe.schedule == "stairs":
        falling = recipe.learning_rate_decay ** math.floor(epochs / recipe.decay_epochs + 1e-9)
    else:
        rest = recipe.epochs - recipe.warmup_epochs
        done = (epochs - recipe.warmup_epochs) / rest if rest > 0 else 0.0
        falling = (1 + math.cos(math.pi * min(max(done, 0.0), 1.0))) / 2
    return recipe.learning_rate * climbing * falling


def image_size(recipe: Recipe, epoch: int) -> int:
    """The size in an epoch, counted from 0: each size has its share of the epochs, the last size the last epoch."""
    if not recipe.image_sizes or epoch == recipe.epochs - 1:
        return recipe.image_size
    done = (epoch + 0.5) / recipe.epochs * sum(share for share, _ in recipe.image_sizes)
    for share, size in recipe.image_sizes:
        done -= share
        if done < 0:
            return size
    return recipe.image_size


def image_sizes(recipe: Recipe) -> set[int]:
    """All sizes that a training goes through."""
    return {image_size(recipe, epoch) for epoch in range(recipe.epochs)}


def batch_norm_decay(recipe: Recipe, updates: int) -> float:
    """The recipe's, or one that averages over the last twentieth of the updates, at most TF-Slim's."""
    if isinstance(recipe.batch_norm_decay, str):
        return min(BATCH_NORM_DECAY, 1 - 1 / max(2.0, updates / 20))
    return recipe.batch_norm_decay


def ema_decay(recipe: Recipe) -> float:
    """Of the running average of the weights, after its warm-up."""
    return EMA_DECAY if isinstance(recipe.ema_decay, str) else recipe.ema_decay


def warmed_up(decay: float, step: int) -> float:
    """The decay of a running average at a step, counted from 1: (1 + step) / (10 + step) where that is less.

    tf.train.ExponentialMovingAverage with `num_updates`. It averages over the last ninth of the steps so far,
    and so fits a training of any length.
    """
    return min(decay, (1 + step) / (10 + step))


def cannot_settle(recipe: Recipe, steps: int) -> list[str]:
    """What is wrong with averages that still hold a part of their first value when the training ends."""
    found = []
    updates = steps * recipe.accumulate
    left = batch_norm_decay(recipe, updates) ** updates
    if left > SETTLED and not recipe.freeze_batch_norm:
        found.append(_warning("batch_norm_decay", recipe.batch_norm_decay, left, "BatchNorm's statistics", steps))
    left = math.prod(warmed_up(ema_decay(recipe), step) for step in range(1, min(steps, 1000) + 1))
    if left > SETTLED:
        found.append(_warning("ema_decay", recipe.ema_decay, left, "the averaged weights", steps))
    return found


def _warning(key: str, value: float | str, left: float, what: str, steps: int) -> str:
    remedy = "train longer" if value == "auto" else f'train longer, or use {key} = "auto"'
    return f"{key} = {value} cannot settle in {steps:,} steps: {left:.0%} of {what} will be their first value; {remedy}"
