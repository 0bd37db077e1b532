"""The training loop. `train` reads from top to bottom; the functions below it are its steps."""

import math
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from typing import Any, NoReturn, cast

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, get_total_norm
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from inception_v3.data import Batch, LabelledImages, TrainingBatches, batches
from inception_v3.data.workers import WorkerError
from inception_v3.errors import InputError
from inception_v3.evaluation.evaluate import Metrics, evaluate, gather_metrics
from inception_v3.network.sync_batch_norm import synchronise_batch_norm
from inception_v3.support.arguments import checked
from inception_v3.support.cpu import keep_freed_memory
from inception_v3.support.devices import autocast, explain_out_of_memory, has_bf16
from inception_v3.support.distributed import ProcessGroup
from inception_v3.support.seeds import derive_seed
from inception_v3.support.signals import Interrupted
from inception_v3.support.streams import new_console
from inception_v3.training import augment, losses, optimizers, schedules
from inception_v3.training import state as training_state
from inception_v3.training.interrupts import StopSignals
from inception_v3.training.model import (
    apply_recipe,
    check_batch_size,
    one_value_layers,
    prepare_model,
    set_training_mode,
    uses_aux_head,
)
from inception_v3.training.recipe import DEFAULT_OPTIONS, Recipe, TrainingOptions
from inception_v3.training.reporter import TrainingReporter
from inception_v3.training.run_folder import RunFolder
from inception_v3.training.state import TrainingProgress
from inception_v3.weights.model import InceptionV3

DIVERGED, DIVERGED_STEPS = 10, 50  # a training has diverged if the loss is 10 times the first for 50 steps in a row
SAVE_SECONDS = 120  # between saved states without `save_every`: the most work that a kill can cost


@dataclass
class TrainingJob:
    """The objects that the steps of one training work on."""

    train_set: LabelledImages
    test_set: LabelledImages
    run: RunFolder
    recipe: Recipe
    options: TrainingOptions
    group: ProcessGroup
    device: torch.device
    model: InceptionV3
    loader: TrainingBatches
    optimizer: torch.optim.Optimizer
    averaged: AveragedModel  # the running average of the model
    class_weights: Tensor | None
    identity: dict[str, Any]  # what a saved state must have in common with this training
    reporter: TrainingReporter
    progress: TrainingProgress = field(default_factory=TrainingProgress)
    signals: StopSignals = field(default_factory=StopSignals)
    saved_at: float = field(default_factory=time.monotonic)
    last_indices: list[int] = field(default_factory=list)  # of this process's images in the last step

    @property
    def averaged_model(self) -> InceptionV3:
        return cast(InceptionV3, self.averaged.module)

    @property
    def steps(self) -> int:
        return self.recipe.epochs * len(self.loader)

    @cached_property
    def network(self) -> nn.Module:
        """The model, or a wrapper that averages the gradients of several processes. It is built in the first step."""
        return self.group.data_parallel(self.model, find_unused_parameters=not all(self._epochs_with_aux_head()))

    @property
    def uses_aux_head(self) -> bool:
        """Whether the auxiliary loss is a part of the loss in some epochs."""
        return any(self._epochs_with_aux_head())

    def _epochs_with_aux_head(self) -> list[bool]:
        sizes = [schedules.image_size(self.recipe, epoch) for epoch in range(self.recipe.epochs)]
        return [uses_aux_head(self.model, self.recipe, size) for size in sizes]

    @cached_property
    def test_loader(self) -> DataLoader[Any]:
        """Batches of this process's part of the held-out images."""
        images = self.test_set.subset(self.group.indices(len(self.test_set)))
        batch_size, workers = self.recipe.batch_size, self.options.workers
        return batches(images, self.model.preprocessing, batch_size, workers=workers)


@checked
def train(
    train_set: LabelledImages,
    test_set: LabelledImages,
    run: RunFolder,
    recipe: Recipe,
    device: torch.device,
    *,
    model: InceptionV3 | None = None,
    start: str = "random weights",
    start_figures: Mapping[str, float] | None = None,
    rate_factors: Mapping[str, float] | None = None,
    options: TrainingOptions = DEFAULT_OPTIONS,
    group: ProcessGroup | None = None,
    console: Console | None = None,
) -> Metrics:
    """Train a model; returns the evaluation of the running average of its weights on `test_set`.

    If the run folder holds a state of this training, the training resumes there. It ends with the weights that it would
    have had without the interruption.

    Args:
        model: trained in place, instead of a new model with random weights.
        start: describes `model`. A state is resumed only by a training with the same `start`.
        start_figures: the line of `model` in metrics.jsonl, as epoch 0. best.safetensors is this model until an epoch
            has a higher held_out_top1.
        rate_factors: learning rates of parts of the model, as for optimizers.build_optimizer.
        group: the processes that train together (support/distributed.py).

    Raises:
        InputError: the model does not fit the recipe or the classes, there is too little memory or disk space, no image
            of a class can be read, the saved state is of another training, another process has ended, or the training
            diverges. The last good state is kept.
        Interrupted: after Ctrl-C, SIGTERM or SIGHUP, when everything is saved. It is a KeyboardInterrupt.
    """
    group = group or ProcessGroup(device=device)
    if device.type == "cpu":
        keep_freed_memory()
    torch.manual_seed(options.seed)
    is_given = model is not None
    model = prepare_model(model, recipe, train_set, device)
    check_batch_size(model, recipe, len(train_set), group.world_size)
    loader = training_batches(train_set, model, recipe, options, group)
    apply_recipe(model, recipe, recipe.epochs * len(loader))
    job = TrainingJob(
        train_set,
        test_set,
        run,
        recipe,
        options,
        group,
        device,
        model,
        loader,
        optimizer=optimizers.build_optimizer(recipe, model, rate_factors),
        averaged=optimizers.moving_average(model, schedules.ema_decay(recipe)),
        class_weights=losses.class_weights(recipe.class_weights, train_set.class_names, train_set.labels, device),
        identity=training_state.identify(recipe, train_set, test_set, options.seed, start, rate_factors),
        reporter=TrainingReporter(
            console or new_console(stderr=True), run, recipe, len(train_set), log_steps=options.log_steps
        ),
    )
    start_or_resume(job)
    metrics = None
    with job.signals, job.reporter.show_progress(job.progress):
        if is_given and not job.progress.step:  # if the process is killed, the given model is not lost
            if start_figures:
                job.progress.epochs.append({**start_figures})
                job.progress.best_top1 = start_figures["held_out_top1"]
            save_state(job)
            save_model(job, best=bool(job.progress.epochs))
        while job.progress.epoch < recipe.epochs:
            train_epoch(job)
            metrics = finish_epoch(job)
        if metrics is None:  # all epochs were done before
            metrics = evaluate_average(job)
            if is_given:  # `finetune` may have put the best model in its place
                save_model(job, metrics)
        run.draw_plots(metrics, job.progress.epochs, losses.describe_loss(recipe, aux_head=job.uses_aux_head))
        run.write_card()
    job.reporter.report_end(job.progress, training_precision(recipe, device))
    return metrics


# -------------------------------------------------------------------------------------------------- before the loop


def training_batches(
    train_set: LabelledImages, model: InceptionV3, recipe: Recipe, options: TrainingOptions, group: ProcessGroup
) -> TrainingBatches:
    """The batches of this process, one for each step."""
    return TrainingBatches(
        train_set,
        model.preprocessing,
        recipe.batch_size * recipe.accumulate * group.world_size,
        augment=augment.AUGMENTS[recipe.augment],
        seed=options.seed,
        workers=options.workers,
        process=group.rank,
        processes=group.world_size,
        pin_memory=next(model.parameters()).is_cuda,
    )


def start_or_resume(job: TrainingJob) -> None:
    """Restore the latest state, if there is one, and start the run folder."""
    recipe, group, reporter = job.recipe, job.group, job.reporter
    state = group.broadcast_object(job.run.read_latest_state())
    if state:
        state.check(job.identity)
        job.progress = state.restore(job.model, job.averaged_model, job.optimizer)
        job.averaged.n_averaged.fill_(job.progress.step + 1)
    job.run.start(recipe, job.train_set.names, job.progress.step)
    job.progress.bad_images |= dict(job.train_set.bad) | dict(job.test_set.bad)
    job.run.write_bad_images(job.progress.bad_images)
    if recipe.sync_batch_norm and group.world_size > 1:
        synchronise_batch_norm(job.model)

    reporter.print(
        f"{len(job.train_set):,} images to train on, {len(job.test_set):,} held out, "
        f"{len(job.train_set.class_names)} classes; {recipe.image_size}x{recipe.image_size}, {job.device}, "
        f"{training_precision(recipe, job.device)}"
        + (f", {group.world_size} processes" if group.world_size > 1 else "")
    )
    if job.progress.epoch == recipe.epochs:
        reporter.print("all epochs are already done")
    elif job.progress.step:
        reporter.print(f"resuming after step {job.progress.step:,} of {job.steps:,}, in epoch {job.progress.epoch + 1}")
    for warning in schedules.settling_warnings(recipe, job.steps):
        reporter.print(warning, "yellow")


def training_precision(recipe: Recipe, device: torch.device) -> str:
    """The precision in which the steps are computed."""
    return "bf16" if recipe.precision == "auto" and has_bf16(device) else "fp32"


# ---------------------------------------------------------------------------------------------------- in every epoch


def train_epoch(job: TrainingJob) -> None:
    """Train on the remaining images of the current epoch."""
    recipe, progress, throughput = job.recipe, job.progress, job.reporter.throughput
    size = schedules.image_size(recipe, progress.epoch)
    aux_head = uses_aux_head(job.model, recipe, size)
    one_value = one_value_layers(job.model, recipe, size, job.group.world_size)
    set_training_mode(job.model, recipe)
    throughput.start()
    for count, batch in throughput.measure_waits(next_batches(job, size)):
        kept = without_single_image(batch, recipe.batch_size) if one_value else batch
        numbers = len(kept.labels), len(batch.labels) - len(kept.labels), job.signals.number
        readable, left_out, stop_requested = job.group.sum(*numbers)
        if left_out:
            job.reporter.print_once(
                f"a batch of one image is left out: at {size}x{size} BatchNorm would see one value per channel in "
                f"{one_value[0]}; it is another image in each epoch, and another batch_size avoids it",
                "yellow",
            )
        if stop_requested:
            save_and_stop(job)
        progress.bad_images |= dict(batch.bad)
        # The learning rate of the middle of the step, so that the first step of a warm-up is not zero.
        epochs = progress.epoch + (progress.position + count / 2) / len(job.train_set)
        progress.position += count
        if readable:
            train_step(job, kept, int(readable), schedules.learning_rate(recipe, epochs), aux_head)
    if not progress.images_seen:
        raise InputError("none of the training images can be read")


def next_batches(job: TrainingJob, size: int) -> Iterator[tuple[int, Batch]]:
    """The remaining batches of the epoch, as `TrainingBatches.epoch` yields them.

    After a signal while a batch is awaited, the last one is empty. A failure of a worker process is raised after the
    state is saved, unless other processes would have to save theirs too.
    """
    progress = job.progress
    try:
        yield from job.signals.interruptible(job.loader.epoch(progress.epoch, size, progress.position))
    except Interrupted:
        no_images = torch.empty(0, 3, size, size, dtype=torch.uint8), torch.empty(0, dtype=torch.long)
        yield 0, Batch(*no_images, no_images[1], [])
    except WorkerError:
        if job.group.world_size == 1 and progress.step and not progress.diverging_steps:
            save_state(job)
        raise


def without_single_image(batch: Batch, batch_size: int) -> Batch:
    """The batch of a step without its last image, if that image would go through the network by itself."""
    count = len(batch.labels) - (len(batch.labels) % batch_size == 1)
    return Batch(batch.images[:count], batch.labels[:count], batch.indices[:count], batch.bad)


def finish_epoch(job: TrainingJob) -> Metrics:
    """Evaluate the averaged model, write the figures of the epoch, and save the model and the state."""
    progress, run, train_set = job.progress, job.run, job.train_set
    # A training that may be diverging is not saved, except at its end.
    is_good = not progress.diverging_steps or progress.epoch + 1 == job.recipe.epochs
    if is_good:
        save_state(job)  # after a kill, the run resumes with the evaluation
    metrics = evaluate_average(job)
    if not metrics.count:
        raise InputError("none of the held-out images can be read")
    if not len(metrics.finite_predictions):
        fail(job, "the outputs for the held-out images are not finite", progress.step)
    for bad_images in job.group.gather([progress.bad_images]):
        progress.bad_images |= bad_images | dict(metrics.bad)
    run.write_bad_images(progress.bad_images)
    if progress.epoch == 0 and progress.bad_images:
        columns = zip(train_set.labels, train_set.names, strict=True)
        train_set.check_classes_readable([label for label, name in columns if name not in progress.bad_images])
    progress.epochs.append(job.reporter.report_epoch(progress, metrics))
    run.write_metrics(progress.epochs)
    is_best = metrics.top1 > progress.best_top1
    progress.best_top1 = max(metrics.top1, progress.best_top1)
    if is_good:
        save_model(job, metrics, best=is_best)
    progress.end_epoch()
    if is_good:
        save_state(job)
        run.delete_old_states()
    return metrics


def evaluate_average(job: TrainingJob) -> Metrics:
    """Evaluate the first process's averaged model on `test_set`; each process takes a part of the images."""
    job.group.broadcast(job.averaged_model.state_dict().values())
    class_names, metrics = job.train_set.class_names, None
    with suppress(Interrupted):
        loader = job.signals.interruptible(job.test_loader)
        metrics = evaluate(job.averaged_model, loader, class_names, partial(report_evaluation, job))
    (stopped,) = job.group.sum(metrics is None)
    if stopped or metrics is None:
        save_and_stop(job)
    return gather_metrics(job.group, job.group.indices(len(job.test_set)), metrics)


def report_evaluation(job: TrainingJob, count: int) -> None:
    """Called after each batch of the evaluation. Raises Interrupted after a signal."""
    job.signals.check()
    job.reporter.report_evaluation()


# --------------------------------------------------------------------------------------------------- in every step


def train_step(job: TrainingJob, batch: Batch, readable: int, learning_rate: float, aux_head: bool) -> None:
    """Update the weights and their average, and save the state if it is time.

    `batch` is this process's part of the step; `readable` is the number of images of all processes.
    """
    recipe, progress, group = job.recipe, job.progress, job.group
    optimizers.set_learning_rate(job.optimizer, learning_rate)
    job.optimizer.zero_grad()
    torch.manual_seed(derive_seed("step", job.options.seed, progress.step, group.rank))
    image_weight = group.world_size / readable  # the gradients are averaged over the processes
    with explain_out_of_memory(job.device):
        sums = add_gradients(job.network, job.model, batch, recipe, aux_head, job.class_weights, image_weight)
    add_l2(job.model, recipe)
    gradient_norm = clip(job.model, recipe.clip_norm)
    # Only the clock of the first process counts, so that all processes save at the same step.
    overdue = job.run.writer and time.monotonic() - job.saved_at > SAVE_SECONDS
    loss, correct, save_is_due = group.sum(*sums, overdue)
    progress.step, progress.learning_rate = progress.step + 1, learning_rate
    job.last_indices = batch.indices.tolist()
    if reason := divergence(progress, loss / readable, gradient_norm, len(job.train_set.class_names)):
        fail(job, reason, progress.step - max(1, progress.diverging_steps))
    if not progress.diverging_steps:
        job.run.delete_old_states()
    with explain_out_of_memory(job.device):  # the first step allocates the optimizer's state
        job.optimizer.step()
    job.averaged.update_parameters(job.model)

    progress.loss += loss
    progress.correct += int(correct)
    progress.images_seen += readable
    job.reporter.throughput.images += readable
    job.reporter.report_step(progress, loss / readable, correct / readable, gradient_norm)
    if job.options.save_every:
        save_is_due = progress.step % job.options.save_every == 0
    if save_is_due and not progress.diverging_steps:
        save_state(job)


def add_gradients(
    network: nn.Module,
    model: InceptionV3,
    batch: Batch,
    recipe: Recipe,
    aux_head: bool,
    class_weights: Tensor | None,
    image_weight: float,
) -> tuple[float, float]:
    """Add this process's part of a step to the gradients; returns the sums of the loss and of correct predictions.

    The images go through the network in batches of the recipe's size.

    Args:
        network: the model, or its wrapper that averages gradients over the processes.
        batch: the readable images of this process, uint8 (N, 3, H, W); N may be 0.
        aux_head: whether the auxiliary loss is a part of the loss.
        image_weight: the weight of one image in the gradient.
    """
    device = next(model.parameters()).device
    images, labels = batch.images, batch.labels
    if not len(labels):  # the other processes wait for a gradient: train on a black image with the weight 0
        images, labels, image_weight = images.new_zeros(1, *images.shape[1:]), labels.new_zeros(1), 0.0
    parts = list(zip(*(torch.split(tensor, recipe.batch_size) for tensor in (images, labels)), strict=True))
    total_loss, correct = torch.zeros((), device=device), torch.zeros((), device=device)
    for number, (images, labels) in enumerate(parts, 1):
        images = model.preprocessing.scale(images.to(device, non_blocking=True))
        labels = targets = labels.to(device)
        if recipe.mixup or recipe.cutmix:
            images, targets = augment.mix(images, labels, recipe, model.settings.num_classes)
        # Only the last backward pass of a step averages the gradients over the processes.
        with nullcontext() if number == len(parts) else ProcessGroup.no_sync(network):
            with autocast(device) if recipe.precision == "auto" else nullcontext():
                images = images.contiguous(memory_format=torch.channels_last)
                logits, end_points = network(images, ("AuxLogits",) if aux_head else ())
            loss = losses.classification_loss(
                logits.float(),
                targets,
                end_points["AuxLogits"].float() if aux_head else None,
                label_smoothing=recipe.label_smoothing,
                aux_weight=recipe.aux_weight,
                class_weights=class_weights,
            )
            torch.autograd.backward(loss * (len(labels) * image_weight))
        if image_weight:
            total_loss += loss.detach() * len(labels)
            correct += (logits.argmax(1) == labels).sum()
    return total_loss.item(), correct.item()


def add_l2(model: InceptionV3, recipe: Recipe) -> None:
    """Add the gradient of L2, so that it is clipped and scaled as if L2 were part of the loss.

    AdamW has its own weight decay instead.
    """
    if recipe.optimizer != "adamw":
        for kernel in losses.convolution_kernels(model):
            if kernel.grad is not None:
                kernel.grad.add_(kernel.detach(), alpha=recipe.weight_decay)


def clip(model: InceptionV3, max_norm: float) -> float:
    """Scale all gradients together to a norm of at most `max_norm`, unless it is 0; returns the norm before scaling."""
    if max_norm:
        return clip_grad_norm_(model.parameters(), max_norm).item()
    return get_total_norm(weight.grad for weight in model.parameters() if weight.grad is not None).item()


def divergence(progress: TrainingProgress, loss: float, gradient_norm: float, classes: int) -> str:
    """Describe why the training has diverged in this step, or return ""; call it once per step.

    The loss is compared with that of the first step, but at least with that of a random guess.
    """
    progress.first_loss = progress.first_loss or max(loss, math.log(classes))
    is_far_above = loss > DIVERGED * progress.first_loss
    progress.diverging_steps = progress.diverging_steps + 1 if is_far_above else 0
    if not math.isfinite(loss):
        return f"the loss is {loss}"
    if not math.isfinite(gradient_norm):
        return f"the norm of the gradient is {gradient_norm}"
    if progress.diverging_steps == DIVERGED_STEPS:
        return f"the loss has been over {DIVERGED} times the first loss for {DIVERGED_STEPS} steps, and is {loss:.3g}"
    return ""


# ---------------------------------------------------------------------------------------------- saving and stopping


def save_state(job: TrainingJob) -> None:
    """Save the state of the training, if all its values are finite.

    Older states are deleted only when the next step or evaluation has shown that this one is good.
    """
    progress = job.progress
    tensors = [*job.model.state_dict().values(), *job.averaged_model.state_dict().values()]
    all_finite = torch.stack([tensor.isfinite().all() for tensor in tensors]).all()
    (not_finite,) = job.group.sum(not all_finite)  # each process has its own BatchNorm statistics
    if not_finite:
        fail(job, "a weight or an average is not finite", progress.step)
    if job.run.writer:
        file = job.run.state_file(progress.step)
        training_state.write(file, job.model, job.averaged_model, job.optimizer, progress, job.identity)
    job.saved_at = time.monotonic()


def save_model(job: TrainingJob, metrics: Metrics | None = None, *, best: bool = False) -> None:
    """Save the averaged model with its `metrics` on the held-out images; with `best`, also as the best model."""
    epochs = job.progress.epoch + job.progress.position / len(job.train_set)
    facts = {"epochs": epochs, "seed": job.options.seed, "recipe": asdict(job.recipe)}
    job.run.save_model(job.averaged_model, facts, job.train_set, job.test_set, metrics, best=best)


def save_and_stop(job: TrainingJob) -> NoReturn:
    """Save everything and raise Interrupted."""
    progress, saved = job.progress, ""
    if progress.step:
        save_state(job)
        save_model(job)
        job.run.write_card()
        saved = f"; the weights so far are in {job.run.model_file}"
    job.reporter.print(f"stopped in epoch {progress.epoch + 1}, after step {progress.step:,} of {job.steps:,}{saved}")
    raise Interrupted(job.signals.number or signal.SIGTERM)


def fail(job: TrainingJob, reason: str, bad_step: int) -> NoReturn:
    """Raise InputError for a training that has diverged. The state saved at `bad_step` is not good, and is deleted."""
    progress, run = job.progress, job.run
    names = job.group.gather([job.train_set.names[index] for index in job.last_indices])
    if run.writer:
        run.state_file(bad_step).unlink(missing_ok=True)
    run.delete_old_states()
    images = f", on {', '.join(names[:3])}" if names else ""
    if len(names) > 3:
        images += f" and {len(names) - 3} more"
    raise InputError(
        f"{reason} at step {progress.step:,}, in epoch {progress.epoch + 1}, with a learning rate of "
        f"{progress.learning_rate:.3g}{images}: try a smaller --learning-rate; "
        + (f"the last good state is {run.latest_state_file}" if run.latest_state_file else "no state is saved")
    )
