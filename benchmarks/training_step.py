"""The training step of this network beside torchvision's: time and peak memory.

    python benchmarks/training_step.py

All train on the same batch at 299x299, in channels_last and bf16 autocast, with the auxiliary loss and RMSProp with
momentum, and nothing is compiled. Each has a process of its own. The processes take turns step by step, so that
whatever else the machine does slows all of them alike: ratios are medians over the turns, peak memory is what the
system saw.
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
import torch.nn.functional as F
from torch import Tensor

from inception_v3.devices import keep_freed_memory
from inception_v3.losses import classification_loss, kernels
from inception_v3.network import InceptionV3
from inception_v3.optimizers import RMSProp, moving_average

Step = Callable[[], float]


def torchvision_step(images: Tensor, labels: Tensor) -> Step:
    from torchvision.models import inception_v3

    model = inception_v3(init_weights=False).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.RMSprop(model.parameters(), lr=0.001, alpha=0.9, eps=1.0, momentum=0.9, foreach=True)

    def step() -> float:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            logits, aux_logits = model(images)
            loss = F.cross_entropy(logits, labels) + 0.4 * F.cross_entropy(aux_logits, labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def our_step(images: Tensor, labels: Tensor, whole_recipe: bool = False) -> Step:
    keep_freed_memory()
    model = InceptionV3().to(memory_format=torch.channels_last).train()
    optimizer = RMSProp(model.parameters(), lr=0.001)
    averaged = moving_average(model, 0.9999) if whole_recipe else None

    def step() -> float:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            logits, heads = model(images, end_points=("AuxLogits",))
        loss = classification_loss(logits.float(), labels, heads["AuxLogits"].float())
        loss.backward()
        if averaged:
            decayed = kernels(model)
            torch._foreach_add_([kernel.grad for kernel in decayed], [one.detach() for one in decayed], alpha=0.00004)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 2.0)
        optimizer.step()
        if averaged:
            averaged.update_parameters(model)
        return loss.item()

    return step


def torchvision_step_keeping_memory(images: Tensor, labels: Tensor) -> Step:
    keep_freed_memory()
    return torchvision_step(images, labels)


CONTESTANTS: dict[str, Callable[..., Step]] = {
    "torchvision": torchvision_step,
    "torchvision, keeping freed memory": torchvision_step_keeping_memory,
    "this network": our_step,
    "this network with L2, clipping and running average": lambda *batch: our_step(*batch, whole_recipe=True),
}


def batch(size: int, image_size: int = 299) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    images = torch.rand(size, 3, image_size, image_size) * 2 - 1
    return images.contiguous(memory_format=torch.channels_last), torch.randint(1000, (size,))


def contestant(name: str, batch_size: int) -> None:
    """Make one step for each line that comes in, and answer with its seconds, CPU seconds and the peak memory."""
    step = CONTESTANTS[name](*batch(batch_size))
    for _ in range(2):
        step()
    print(flush=True)
    for _ in sys.stdin:
        started, cpu_started = time.perf_counter(), time.process_time()
        step()
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
        status = Path("/proc/self/status").read_text()  # getrusage would count the parent's memory too
        peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
        print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_mb": peak / 1024}), flush=True)


def race(names: list[str], rounds: int, options: list[str], threads: int) -> dict[str, list[dict[str, float]]]:
    # Waiting threads sleep, so that CPU seconds are work.
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}
    processes: dict[str, Any] = {}
    results: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for name in names:
        command = [sys.executable, __file__, "--contestant", name, *options]
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--contestant", choices=CONTESTANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contestant:
        contestant(options.contestant, options.batch_size)
        return
    results = race(list(CONTESTANTS), options.rounds, ["--batch-size", str(options.batch_size)], options.threads)
    print(
        f"Batch {options.batch_size}, {options.threads} threads, PyTorch {torch.__version__}, {options.rounds} rounds\n"
    )
    print("| training step | seconds | images/s | times torchvision | the same in CPU time | peak memory, MB |")
    print("| --- | --- | --- | --- | --- | --- |")
    base = results["torchvision"]
    for name, steps in results.items():
        seconds = statistics.median(step["seconds"] for step in steps)
        speed, cpu_speed = (
            statistics.median(theirs[key] / ours[key] for theirs, ours in zip(base, steps, strict=True))
            for key in ("seconds", "cpu_seconds")
        )
        rate, peak = options.batch_size / seconds, max(step["peak_mb"] for step in steps)
        print(f"| {name} | {seconds:.2f} | {rate:.1f} | {speed:.2f} | {cpu_speed:.2f} | {peak:.0f} |")


if __name__ == "__main__":
    main()
