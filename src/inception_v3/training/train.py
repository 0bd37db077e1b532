"""Training, top to bottom: network, data, schedule, steps, and a judgement on pictures it has not seen."""

import math
import signal
import time
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import asdict
from typing import NoReturn

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, get_total_norm

from inception_v3.data import Batch, LabelledImages, TrainingBatches, batches
from inception_v3.errors import InputError
from inception_v3.evaluation.evaluate import Metrics, evaluate, gather_metrics
from inception_v3.network.sync_batch_norm import synchronise_batch_norm
from inception_v3.support.cpu import keep_freed_memory
from inception_v3.support.devices import autocast, explain_out_of_memory, has_bf16
from inception_v3.support.distributed import ProcessGroup
from inception_v3.support.seeds import derive_seed
from inception_v3.training import schedules
from inception_v3.training import state as training_state
from inception_v3.training.augment import AUGMENTS
from inception_v3.training.interrupts import Interrupted, StopSignals
from inception_v3.training.losses import class_weights, classification_loss, kernels
from inception_v3.training.mixing import mix
from inception_v3.training.model import (
    accelerated,
    check_fit,
    check_memory,
    fit_to,
    new_model,
    training_mode,
    uses_aux_head,
)
from inception_v3.training.optimizers import build_optimizer, moving_average, set_learning_rate
from inception_v3.training.recipe import Recipe
from inception_v3.training.run_folder import RunFolder
from inception_v3.training.state import Progress
from inception_v3.training.watch import Watch
from inception_v3.weights.model import InceptionV3

SAVE_SECONDS = 120  # without `save_every`, a kill loses no more than this
ASTRAY, STEPS_ASTRAY = 10, 50  # a loss so many times that of the start, for so many steps in a row, has diverged


def train(
    train_set: LabelledImages,
    test_set: LabelledImages,
    run: RunFolder,
    recipe: Recipe,
    device: torch.device,
    *,
    model: InceptionV3 | None = None,
    start: str = "random weights",
    rate_factors: Mapping[str, float] | None = None,
    seed: int = 0,
    workers: int = 0,
    save_every: int | None = None,
    group: ProcessGroup | None = None,
    console: Console | None = None,
) -> Metrics:
    """Train; the result judges the running average of the weights on `test_set`.

    The last epoch's model is the one that stays; that of the best epoch is kept beside it.

    Args:
        run: where everything goes. If it holds a state of this training, the training goes on from there, and ends
            with the weights that it would have had without a break.
        model: what to start from in place of random weights, of the data's classes and the recipe's image_size; it
            is trained in place. `start` tells in a word what it is: a state is gone on with from the same start alone.
        rate_factors: learning rates of parts of the model, as for optimizers.build_optimizer.
        workers: processes that decode pictures. Their number changes no weight.
        save_every: steps from one saved state to the next; by default two minutes. Each epoch ends with one too.
        group: the processes that share the work (distributed.py).

    Raises InputError: the model is of other classes or pictures, a step needs more memory than there is, the disk is
    full, no picture of a class can be read, the state in `run` is of another training, another process has gone, or the
    loss or a weight is no number or has diverged; the last good state stays. Raises Interrupted, which is a
    KeyboardInterrupt, after Ctrl-C or SIGTERM; everything is saved then.
    """
    group = group or ProcessGroup(device=device)
    if device.type == "cpu":
        keep_freed_memory()
    torch.manual_seed(seed)
    given = model is not None
    check_memory(recipe, len(train_set), len(train_set.class_names), device)
    model = model or new_model(recipe, train_set.class_names)
    check_fit(model, recipe, train_set.class_names)
    model.class_names = train_set.class_names
    model = accelerated(model).to(device).to(memory_format=torch.channels_last)
    loader = TrainingBatches(
        train_set,
        model.preprocessing,
        recipe.batch_size * recipe.accumulate * group.world_size,
        augment=AUGMENTS[recipe.augment],
        seed=seed,
        workers=workers,
        process=group.rank,
        processes=group.world_size,
        pin_memory=device.type == "cuda",
    )
    test_places = group.indices(len(test_set))
    test_loader = batches(test_set.subset(test_places), model.preprocessing, recipe.batch_size, workers=workers)
    steps = recipe.epochs * len(loader)
    fit_to(model, recipe, steps)
    optimizer = build_optimizer(recipe, model, rate_factors)
    averaged = moving_average(model, schedules.ema_decay(recipe))
    averaged_model = averaged.module
    assert isinstance(averaged_model, InceptionV3)
    weights = class_weights(recipe.class_weights, train_set.class_names, train_set.labels)
    weights = None if weights is None else weights.to(device)

    identity = training_state.identity(recipe, train_set, test_set, seed=seed, start=start, rate_factors=rate_factors)
    at = Progress()
    if state := group.broadcast_object(run.latest_state()):
        state.check(identity)
        at = state.restore(model, averaged_model, optimizer)
        averaged.n_averaged.fill_(at.step + 1)
    run.start(recipe, train_set.names, at.step)
    at.bad_images |= dict(train_set.bad) | dict(test_set.bad)  # what the data set itself had to leave out
    run.list_bad(at.bad_images)
    aux_head = {size: uses_aux_head(model, recipe, size) for size in schedules.image_sizes(recipe)}
    network = synchronise_batch_norm(model) if recipe.sync_batch_norm and group.world_size > 1 else model
    network = group.data_parallel(network, find_unused_parameters=not all(aux_head.values()))
    bf16 = recipe.precision == "auto" and has_bf16(device)

    watch = Watch(console or Console(stderr=True), run.tracker, recipe, len(train_set))
    watch.say(
        f"{len(train_set):,} pictures to train on, {len(test_set):,} held out, {len(train_set.class_names)} classes; "
        f"{recipe.image_size}x{recipe.image_size}, {device}, {'bf16' if bf16 else 'fp32'}"
        + (f", {group.world_size} processes" if group.world_size > 1 else "")
    )
    if at.epoch == recipe.epochs:
        watch.say("all epochs are done already")
    elif at.step:
        watch.say(f"going on after step {at.step:,} of {steps:,}, in epoch {at.epoch + 1}")
    for warning in schedules.cannot_settle(recipe, steps):
        watch.say(warning, "yellow")
    metrics: Metrics | None = None
    saved = time.monotonic()
    places: list[int] = []  # of this process's pictures in the last step

    def give_up(trouble: str, bad_step: int) -> NoReturn:
        """`bad_step`: what training does not come back from began with the weights after that step."""
        names = group.gather([train_set.names[place] for place in places])
        run.forget_state(bad_step)
        run.forget_old_states()
        raise InputError(
            f"{trouble} at step {at.step:,}, in epoch {at.epoch + 1}, with a learning rate of {at.learning_rate:.3g}"
            + (f", on {some(names)}" if names else "")
            + ": try a smaller --learning-rate; "
            + (f"the last good state is {run.last_state_file}" if run.last_state_file else "none is saved")
        )

    def save_state() -> None:
        """Older ones stay until the next step, or a judgement, has shown that this one is good."""
        nonlocal saved
        (broken,) = group.sum(not finite(model, averaged_model))  # statistics are each process's own
        if broken:
            give_up("a weight or an average is no finite number", at.step)
        if run.writer:
            training_state.write(run.state_file(at.step), model, averaged_model, optimizer, at, identity)
        saved = time.monotonic()

    def save_model(*, best: bool = False) -> None:
        epochs = at.epoch + at.place / len(train_set)
        run.save_model(averaged_model, {"epochs": epochs, "seed": seed, "recipe": asdict(recipe)}, best=best)

    def stop() -> NoReturn:
        if at.step:
            save_state()
            save_model()
        what = f"; the weights so far are in {run.model_file}" if at.step else ""
        watch.say(f"stopped in epoch {at.epoch + 1}, after step {at.step:,} of {steps:,}{what}")
        raise Interrupted(signals.number or signal.SIGTERM)

    def judge() -> Metrics:
        """Each process judges its share of the pictures with the averages of the first."""
        group.broadcast(averaged_model.state_dict().values())
        share = None
        with suppress(Interrupted):
            share = evaluate(averaged_model, test_loader, train_set.class_names, lambda _: signals.check())
        (stopped,) = group.sum(share is None)
        if stopped or share is None:
            stop()
        return gather_metrics(group, test_places, share)

    with StopSignals() as signals, watch:
        if given and not state:  # with neither, the model's own training would have to be done again
            save_state()
            save_model()
        while at.epoch < recipe.epochs:
            size = schedules.image_size(recipe, at.epoch)
            training_mode(model, recipe)
            watch.throughput.start()
            for taken, batch in watch.throughput.measure_waits(loader.epoch(at.epoch, size, at.place)):
                readable, asked_to_stop = group.sum(len(batch.labels), signals.number)
                if asked_to_stop:
                    stop()
                at.bad_images |= dict(batch.bad)
                # The rate is that of the middle of the step, so that a warm-up's first step moves too.
                rate = schedules.learning_rate(recipe, at.epoch + (at.place + taken / 2) / len(train_set))
                at.place += taken
                if not readable:
                    continue

                set_learning_rate(optimizer, rate)
                optimizer.zero_grad()
                torch.manual_seed(derive_seed("step", seed, at.step, group.rank))
                part = group.world_size / readable  # of a picture in the gradient, which is averaged over the processes
                with explain_out_of_memory(device):
                    sums = add_gradients(network, model, batch, recipe, aux_head[size], weights, part)
                add_l2(model, recipe)
                norm = clip(model, recipe.clip_norm)
                overdue = run.writer and time.monotonic() - saved > SAVE_SECONDS  # by one clock: all save together
                loss, right, late = group.sum(*sums, overdue)
                at.step, at.learning_rate = at.step + 1, rate
                places = batch.indices.tolist()
                if trouble := astray(at, loss / readable, norm, len(train_set.class_names)):
                    give_up(trouble, at.step - max(1, at.steps_astray))
                if not at.steps_astray:
                    run.forget_old_states()
                with explain_out_of_memory(device):  # its slots come with the first step
                    optimizer.step()
                averaged.update_parameters(model)

                at.loss, at.right, at.seen = at.loss + loss, at.right + int(right), at.seen + int(readable)
                watch.throughput.images += int(readable)
                watch.step(at, loss / readable, right / readable, norm)
                due = at.step % save_every == 0 if save_every else late
                if due and not at.steps_astray:
                    save_state()
            if not at.seen:
                raise InputError("none of the training pictures can be read")

            well = not at.steps_astray or at.epoch + 1 == recipe.epochs
            if well:
                save_state()  # what is killed from here on goes on with the judgement
            metrics = judge()
            if not metrics.count:
                raise InputError("none of the held-out pictures can be read")
            if not len(metrics.finite_predictions):
                give_up("no held-out picture gets finite numbers for an answer", at.step)
            for found in group.gather([at.bad_images]):
                at.bad_images |= found | dict(metrics.bad)
            run.list_bad(at.bad_images)
            if at.epoch == 0 and at.bad_images:
                columns = zip(train_set.labels, train_set.names, strict=True)
                train_set.check_classes_readable([label for label, name in columns if name not in at.bad_images])
            at.epochs.append(watch.epoch(at, metrics))
            run.log(at.epochs)
            best, at.best_top1 = metrics.top1 > at.best_top1, max(metrics.top1, at.best_top1)
            if well:
                save_model(best=best)
            at.end_epoch()
            if well:
                save_state()
                run.forget_old_states()
        metrics = metrics or judge()  # of a run whose last epoch was done already
        run.finish(metrics, at.epochs)
    return metrics


def add_gradients(
    network: nn.Module,
    model: InceptionV3,
    batch: Batch,
    recipe: Recipe,
    aux_head: bool,
    weights: Tensor | None,
    part: float,
) -> tuple[float, float]:
    """Add up the gradients of this process's pictures in a step, `part` of each; the loss and the hits, summed.

    So many pictures go through the network at once as a batch of the recipe has.
    """
    device = next(model.parameters()).device
    pixels, labels = batch.images, batch.labels
    if not len(labels):  # the others wait for this process's gradient: a black picture, counted as nothing
        pixels, labels, part = pixels.new_zeros(1, *pixels.shape[1:]), labels.new_zeros(1), 0.0
    once = recipe.batch_size
    parts = [(pixels[at : at + once], labels[at : at + once]) for at in range(0, len(labels), once)]
    total_loss, right = torch.zeros((), device=device), torch.zeros((), device=device)
    for number, (pixels, labels) in enumerate(parts, 1):
        images = model.preprocessing.scale(pixels.to(device, non_blocking=True))
        labels = targets = labels.to(device)
        if recipe.mixup or recipe.cutmix:
            images, targets = mix(images, labels, recipe, model.settings.num_classes)
        with nullcontext() if number == len(parts) else ProcessGroup.no_sync(network):
            with autocast(device) if recipe.precision == "auto" else nullcontext():
                logits, found = network(
                    images.contiguous(memory_format=torch.channels_last), ("AuxLogits",) if aux_head else ()
                )
            loss = classification_loss(
                logits.float(),
                targets,
                found["AuxLogits"].float() if aux_head else None,
                label_smoothing=recipe.label_smoothing,
                aux_weight=recipe.aux_weight,
                class_weights=weights,
            )
            torch.autograd.backward(loss * (len(labels) * part))
        if part:
            total_loss += loss.detach() * len(labels)
            right += (logits.argmax(1) == labels).sum()
    return total_loss.item(), right.item()


def add_l2(model: InceptionV3, recipe: Recipe) -> None:
    """The gradient of L2, which so is clipped and scaled too, as where L2 is a part of the loss.

    AdamW does without: it shrinks the kernels by itself.
    """
    if recipe.optimizer != "adamw":
        for kernel in kernels(model):
            if kernel.grad is not None:
                kernel.grad.add_(kernel.detach(), alpha=recipe.weight_decay)


def clip(model: InceptionV3, most: float) -> float:
    """Scale all gradients to a norm of at most `most`, if that is not zero; the norm that they had."""
    if most:
        return clip_grad_norm_(model.parameters(), most).item()
    return get_total_norm(weight.grad for weight in model.parameters() if weight.grad is not None).item()


def astray(at: Progress, loss: float, gradient_norm: float, classes: int) -> str:
    """What is wrong with a loss that training does not come back from, or nothing.

    That of the first step, or of a guess where that is more, is what it is compared with.
    """
    at.first_loss = at.first_loss or max(loss, math.log(classes))
    at.steps_astray = at.steps_astray + 1 if loss > ASTRAY * at.first_loss else 0
    if not math.isfinite(loss):
        return f"the loss is {loss}"
    if not math.isfinite(gradient_norm):
        return f"the gradient's norm is {gradient_norm}"
    if at.steps_astray == STEPS_ASTRAY:
        return f"the loss was more than {ASTRAY} times that of the start for {STEPS_ASTRAY} steps, and is {loss:.3g}"
    return ""


def finite(*modules: nn.Module) -> bool:
    """Whether all weights and statistics are finite numbers."""
    tensors = [tensor for module in modules for tensor in module.state_dict().values()]
    return bool(torch.stack([tensor.isfinite().all() for tensor in tensors]).all())


def some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
