"""The training step of this network compared with torchvision's: time and peak memory.

    python benchmarks/training_step.py                          compared with torchvision
    python benchmarks/training_step.py --ideas                  this network without each of its faster kernels
    python benchmarks/training_step.py --shares                 the time in convolutions and in everything else
    python benchmarks/training_step.py --device cuda --peers    compared with timm too, and everything compiled

All networks train on the same batch at 299x299, in channels_last and bf16 autocast, with the auxiliary loss (timm has
none) and RMSProp with momentum. Each runs in its own process. The processes take turns step by step, so that other load
on the machine slows all of them alike. Ratios are medians over the turns. Peak memory is that of the process, or on a
GPU what PyTorch allocated.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from inception_v3.data import Batch
from inception_v3.network import accelerate
from inception_v3.network.layers import Conv2d
from inception_v3.network.network import InceptionModule
from inception_v3.support.cpu import keep_freed_memory
from inception_v3.training import optimizers, train
from inception_v3.training.losses import classification_loss
from inception_v3.training.model import accelerated
from inception_v3.training.recipe import load_recipe
from inception_v3.weights.model import InceptionV3

Step = Callable[[], float]
StepBuilder = Callable[[Tensor, Tensor], Step]  # from images and labels


def build_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, loss_of: Callable[[Any], Tensor], images: Tensor
) -> Step:
    """A function that makes one training step and returns the loss."""

    def step() -> float:
        optimizer.zero_grad()
        with torch.autocast(images.device.type, torch.bfloat16):
            outputs = model(images)
        loss = loss_of(outputs)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def peer_step(model: nn.Module, images: Tensor, labels: Tensor, compiled: bool = False) -> Step:
    """The step of another library's network, with PyTorch's RMSprop."""
    model = model.to(images.device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.RMSprop(model.parameters(), lr=0.001, alpha=0.9, eps=1.0, momentum=0.9, foreach=True)

    def loss_of(outputs: Any) -> Tensor:
        logits, aux_logits = outputs if isinstance(outputs, tuple) else (outputs, None)
        return classification_loss(logits.float(), labels, None if aux_logits is None else aux_logits.float())

    return build_step(torch.compile(model) if compiled else model, optimizer, loss_of, images)


def torchvision_step(images: Tensor, labels: Tensor, compiled: bool = False) -> Step:
    from torchvision.models import inception_v3

    return peer_step(inception_v3(init_weights=False), images, labels, compiled)


def timm_step(images: Tensor, labels: Tensor, compiled: bool = False) -> Step:
    import timm

    return peer_step(timm.create_model("inception_v3"), images, labels, compiled)


def our_model(images: Tensor) -> InceptionV3:
    """This network as `inception-v3 train` prepares it."""
    keep_memory(images)
    return accelerated(InceptionV3()).to(images.device, memory_format=torch.channels_last).train()


def our_step(images: Tensor, labels: Tensor, compiled: bool = False) -> Step:
    model = our_model(images)
    optimizer = optimizers.RMSProp(model.parameters(), lr=0.001)
    network = torch.compile(model) if compiled else model

    def loss_of(outputs: Any) -> Tensor:
        return classification_loss(outputs[0].float(), labels, outputs[1]["AuxLogits"].float())

    return build_step(lambda images: network(images, ("AuxLogits",)), optimizer, loss_of, images)


def train_command_step(images: Tensor, labels: Tensor) -> Step:
    """Everything that `inception-v3 train` does in a step with the recipe of the paper."""
    recipe = load_recipe("paper").with_options(precision="auto")
    model = our_model(images)
    optimizer = optimizers.build_optimizer(recipe, model)
    averaged = optimizers.moving_average(model, 0.9999)
    pixels = ((images + 1) * 127.5).to(torch.uint8).cpu().contiguous()
    batch = Batch(pixels, labels.cpu(), torch.arange(len(labels)), [])

    def step() -> float:
        optimizer.zero_grad()
        loss, _ = train.add_gradients(model, model, batch, recipe, True, None, 1 / len(labels))
        train.add_l2(model, recipe)
        train.clip(model, recipe.clip_norm)
        optimizer.step()
        averaged.update_parameters(model)
        return loss

    return step


def keep_memory(images: Tensor) -> None:
    if images.device.type == "cpu":
        keep_freed_memory()


def without(change: Callable[[], None]) -> StepBuilder:
    """The step of this network after a change that disables one of its faster kernels."""

    def builder(images: Tensor, labels: Tensor) -> Step:
        change()
        return our_step(images, labels)

    return builder


accelerated_convolve = accelerate.AcceleratedConv2d.convolve


def convolve_without_product(layer: accelerate.AcceleratedConv2d, images: Tensor) -> Tensor:
    """AcceleratedConv2d.convolve, with PyTorch's convolution where the output is one pixel."""
    if images.shape[2:] == layer.kernel:
        return Conv2d.convolve(layer, images)
    return accelerated_convolve(layer, images)


BASE = "torchvision"
OURS = "this network"
NETWORKS: dict[str, StepBuilder] = {
    BASE: torchvision_step,
    OURS: our_step,
    "this network in `inception-v3 train`, all of the paper's recipe": train_command_step,
}
PEERS: dict[str, StepBuilder] = {
    "timm, no auxiliary head": timm_step,
    "torchvision, compiled": lambda *batch: torchvision_step(*batch, compiled=True),
    "timm, compiled": lambda *batch: timm_step(*batch, compiled=True),
    "this network, compiled": lambda *batch: our_step(*batch, compiled=True),
}
IDEAS: dict[str, StepBuilder] = {
    "without one product for the 1x1 convolutions of a module": without(
        lambda: setattr(accelerate.AcceleratedInceptionModule, "forward", InceptionModule.forward)
    ),
    "without the ReLU behind the maximum": without(lambda: setattr(accelerate, "_can_fuse", lambda *_: False)),
    "without a product for a convolution with one output pixel": without(
        lambda: setattr(accelerate.AcceleratedConv2d, "convolve", convolve_without_product)
    ),
    "without products for kernels' gradients of small maps": without(lambda: setattr(accelerate, "SMALL_MAP", 0)),
    "without keeping freed memory": without(lambda: globals().update(keep_memory=lambda images: None)),
}


def random_batch(size: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    images = torch.rand(size, 3, 299, 299) * 2 - 1
    return images.to(device, memory_format=torch.channels_last), torch.randint(1000, (size,)).to(device)


def step_on_request(name: str, batch_size: int, device: str, shares: bool) -> None:
    """Make one step for each line of stdin, and print its seconds, CPU seconds and the peak memory as JSON.

    With `shares`, make another step that measures the seconds in convolutions.
    """
    step = (NETWORKS | PEERS | IDEAS)[name](*random_batch(batch_size, device))
    for _ in range(3 if device == "cuda" else 2):
        step()
    print(flush=True)
    for _ in sys.stdin:
        started, cpu_started = time.perf_counter(), time.process_time()
        step()  # it reads the loss, so that a GPU has finished everything but the optimizer
        if device == "cuda":
            torch.cuda.synchronize()
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
        if device == "cuda":
            peak = torch.cuda.max_memory_allocated() / 2**20
        else:
            status = Path("/proc/self/status").read_text()  # getrusage would include the memory of the parent
            peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024
        result = {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_mb": peak}
        if shares:
            with ConvolutionTimer() as timer:
                step()
            result["convolving"] = timer.seconds
        print(json.dumps(result), flush=True)


def measure(names: list[str], rounds: int, options: list[str], threads: int) -> dict[str, list[dict[str, float]]]:
    """Start a process for each network and let them take turns; the results of each, in order."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    processes: dict[str, Any] = {}
    results: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for name in names:
        command = [sys.executable, __file__, "--network", name, *options]
        processes[name] = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        processes[name].stdout.readline()
    for _ in range(rounds):
        for name, process in processes.items():
            process.stdin.write("step\n")
            process.stdin.flush()
            results[name].append(json.loads(process.stdout.readline()))
    for process in processes.values():
        process.stdin.close()
        process.wait()
    return results


class ConvolutionTimer(TorchDispatchMode):
    """Measures the seconds in convolutions, forward and backward, and in matrix products.

    A profiler would take memory that the training step keeps for its next step.
    """

    timed = ("convolution", "convolution_backward", "mm", "addmm")
    seconds = 0.0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        started = time.perf_counter()
        outputs = function(*args, **(kwargs or {}))
        if function.overloadpacket.__name__ in self.timed:
            self.seconds += time.perf_counter() - started
        return outputs


def print_shares(results: dict[str, list[dict[str, float]]]) -> None:
    """Print how much of the time of a step is spent in convolutions."""
    print("| milliseconds | a step | convolutions | all else |\n| --- | --- | --- | --- |")
    medians: dict[str, list[float]] = {}
    for name, steps in results.items():
        medians[name] = [statistics.median(step[key] * 1e3 for step in steps) for key in ("seconds", "convolving")]
        total, convolutions = medians[name]
        print(f"| {name} | {total:.0f} | {convolutions:.0f} | {total - convolutions:.0f} |")
    target = medians[BASE][0] / 1.25
    left = target - medians[OURS][1]
    print(f"\nFor 1.25 times the speed of {BASE}, a step may take {target:.0f} ms: {left:.0f} ms for all else here.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--peers", action="store_true", help="also timm, and all networks compiled")
    parser.add_argument("--ideas", action="store_true", help="this network without each of its faster kernels")
    parser.add_argument("--shares", action="store_true", help="the time in convolutions and in everything else")
    parser.add_argument("--network", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: there is no GPU here")
    if options.network:
        step_on_request(options.network, options.batch_size, options.device, options.shares)
        return
    names = [OURS, *IDEAS] if options.ideas else [*NETWORKS, *(PEERS if options.peers else ())]
    base = names[0]
    arguments = ["--batch-size", str(options.batch_size), "--device", options.device]
    if options.shares:
        names, arguments = [BASE, OURS], [*arguments, "--shares"]
    results = measure(names, options.rounds, arguments, options.threads)
    machine = torch.cuda.get_device_name() if options.device == "cuda" else f"{options.threads} threads"
    print(f"Batch {options.batch_size}, {machine}, PyTorch {torch.__version__}, {options.rounds} rounds\n")
    if options.shares:
        print_shares(results)
        return
    print(f"| training step | seconds | images/s | speed, {base} = 1 | the same in CPU time | peak memory, MB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, steps in results.items():
        seconds = statistics.median(step["seconds"] for step in steps)
        speed, cpu_speed = (
            statistics.median(theirs[key] / ours[key] for theirs, ours in zip(results[base], steps, strict=True))
            for key in ("seconds", "cpu_seconds")
        )
        rate, peak = options.batch_size / seconds, max(step["peak_mb"] for step in steps)
        print(f"| {name} | {seconds:.3f} | {rate:.1f} | {speed:.3f} | {cpu_speed:.3f} | {peak:.0f} |")


if __name__ == "__main__":
    main()
