"""Training, top to bottom: network, data, schedule, steps, and a judgement on pictures it has not seen."""

import math
import time
from dataclasses import asdict

import torch
from rich.console import Console
from torch.nn.utils import clip_grad_norm_

from inception_v3 import checkpoint
from inception_v3.augment import AUGMENTS
from inception_v3.data import Pictures, batches
from inception_v3.devices import autocast, has_bf16
from inception_v3.errors import InputError
from inception_v3.evaluate import Metrics, evaluate
from inception_v3.losses import classification_loss, kernels
from inception_v3.network import InceptionV3
from inception_v3.optimizers import RMSProp, moving_average
from inception_v3.preprocessing import Preprocessing
from inception_v3.progress import progress_bar
from inception_v3.recipe import Recipe
from inception_v3.run_folder import RunFolder


def learning_rate(recipe: Recipe, done: float) -> float:
    """The rate after a share `done` of the training: a linear warm-up, then stairs of `learning_rate_decay`."""
    stairs = math.floor(done / recipe.decay_every + 1e-9)
    climbing = min(1.0, done / recipe.warmup) if recipe.warmup else 1.0
    return recipe.learning_rate * climbing * recipe.learning_rate_decay**stairs


def train(
    train_set: Pictures,
    test_set: Pictures,
    run: RunFolder,
    recipe: Recipe,
    device: torch.device,
    *,
    seed: int = 0,
    workers: int = 0,
    console: Console | None = None,
) -> Metrics:
    """Train from random weights; the result judges the running average of the weights on `test_set`.

    Nothing is chosen by looking at `test_set`: the last epoch's model is the one that stays.
    Raises InputError: the disk is full, no picture can be read, or the loss is no longer a number (the model
    of the last whole epoch stays). On Ctrl-C the weights so far are saved, and KeyboardInterrupt goes on.
    """
    console = console or Console(stderr=True)
    torch.manual_seed(seed)
    size = (recipe.image_size, recipe.image_size)
    model = InceptionV3(
        num_classes=len(train_set.class_names),
        depth_multiplier=recipe.depth_multiplier,
        dropout_keep_prob=recipe.dropout_keep_prob,
        batch_norm_decay=recipe.batch_norm_decay,
        image_size=size,
    )
    model.preprocessing = Preprocessing(size, recipe.crop_fraction)
    model.class_names = train_set.class_names
    model.to(device).to(memory_format=torch.channels_last)
    averaged = moving_average(model, recipe.ema_decay)
    assert isinstance(averaged.module, InceptionV3)
    averaged_model = averaged.module
    optimizer = RMSProp(model.parameters(), recipe.learning_rate, recipe.rmsprop_decay, recipe.momentum, recipe.epsilon)
    augment = AUGMENTS[recipe.augment]
    loader = batches(
        train_set,
        model.preprocessing,
        recipe.batch_size,
        augment=augment(model.preprocessing) if augment else None,
        shuffle=True,
        workers=workers,
        generator=torch.Generator().manual_seed(seed),
    )
    test_loader = batches(test_set, model.preprocessing, recipe.batch_size, workers=workers)

    run.start(recipe, list(train_set.names))
    console.print(
        f"{len(train_set):,} pictures to train on, {len(test_set):,} held out, {len(train_set.class_names)} classes; "
        f"{size[0]}x{size[1]}, {device}, {'bf16' if has_bf16(device) else 'fp32'}"
    )
    steps, step, epoch = recipe.epochs * len(loader), 0, 0
    progress = progress_bar(console)
    bar = progress.add_task("", total=recipe.epochs * len(train_set), figures="")

    def save(epochs: float) -> None:
        training = {"epochs": epochs, "seed": seed, "recipe": asdict(recipe)}
        checkpoint.save(averaged_model, run.model_file, training=training)

    try:
        progress.start()
        for epoch in range(recipe.epochs):
            model.train()
            started = time.perf_counter()
            total_loss = torch.zeros((), device=device)
            right = torch.zeros((), device=device)
            seen = 0
            for batch in loader:
                for place, reason in batch.bad:
                    run.bad_image(train_set.names[int(place)], reason)
                progress.advance(bar, len(batch.bad) + len(batch.labels))
                rate = learning_rate(recipe, step / steps)
                step += 1
                if not len(batch.labels):
                    continue
                for group in optimizer.param_groups:
                    group["lr"] = rate
                labels = batch.labels.to(device)
                images = model.preprocessing.scale(batch.images.to(device))
                with autocast(device):
                    logits, heads = model(
                        images.contiguous(memory_format=torch.channels_last), end_points=("AuxLogits",)
                    )
                loss = classification_loss(
                    logits.float(),
                    labels,
                    heads["AuxLogits"].float(),
                    label_smoothing=recipe.label_smoothing,
                    aux_weight=recipe.aux_weight,
                )
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                # The gradient of L2 is added, and so is clipped too, as where L2 is a part of the loss.
                for kernel in kernels(model):
                    if kernel.grad is not None:
                        kernel.grad.add_(kernel.detach(), alpha=recipe.weight_decay)
                if recipe.clip_norm:
                    clip_grad_norm_(model.parameters(), recipe.clip_norm)
                optimizer.step()
                averaged.update_parameters(model)

                seen += len(labels)
                total_loss += loss.detach() * len(labels)
                right += (logits.argmax(1) == labels).sum()
                mean_loss = total_loss.item() / seen
                if not math.isfinite(mean_loss):
                    kept = f"{run.model_file} holds epoch {epoch}" if epoch else "nothing was saved"
                    raise InputError(
                        f"the loss is {mean_loss} in epoch {epoch + 1}: try a smaller --learning-rate ({kept})"
                    )
                images_per_second = seen / (time.perf_counter() - started)
                figures = f"loss {mean_loss:.3f}  accuracy {right.item() / seen:.1%}  {images_per_second:.0f} images/s"
                progress.update(bar, description=f"epoch {epoch + 1}/{recipe.epochs}", figures=figures)
            if not seen:
                raise InputError("none of the training pictures can be read")
            metrics = evaluate(averaged_model, test_loader, train_set.class_names)
            for place, reason in metrics.bad:
                run.bad_image(test_set.names[int(place)], reason)
            save(epoch + 1)
            run.log(
                epoch=epoch + 1,
                loss=mean_loss,
                accuracy=right.item() / seen,
                held_out_loss=metrics.loss,
                held_out_top1=metrics.top1,
                learning_rate=rate,
                images_per_second=images_per_second,
            )
            console.print(
                f"epoch {epoch + 1}/{recipe.epochs}: loss {mean_loss:.3f}, accuracy {right.item() / seen:.1%}, "
                f"held out {metrics.top1:.1%}, {images_per_second:.0f} images/s",
                highlight=False,
            )
    except KeyboardInterrupt:
        progress.stop()
        if step:
            save(epoch)
            console.print(
                f"stopped in epoch {epoch + 1}; the weights so far are in {run.model_file}",
                highlight=False,
                soft_wrap=True,
            )
        raise
    finally:
        progress.stop()
        run.close()
    run.finish(metrics)
    return metrics
