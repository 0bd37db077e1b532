"""Measures the explanations of one image of 299x299, beside the plain pass of the network and beside other libraries.

    python benchmarks/explain.py                          # the full-width network with random weights, 7 rounds
    python benchmarks/explain.py --rounds 1 --lines grad-cam,memory --explanations 50

Ours and the peer take turns in one process, in the opposite order in every second round. The ratio is the median over
the rounds. Of `occlusion`, it is our windows per second over the images per second of the engine. Of `memory`, it is
the growth of the resident memory in kB for each explanation, over the last half of them (Linux).
"""

import argparse
import os
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from captum.attr import IntegratedGradients
from PIL import Image
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from steady_memory import memory
from torch import Tensor, nn

from inception_v3.benchmarking.synthetic import random_network, synthetic_images
from inception_v3.explain.ablation import ablate, branch_names
from inception_v3.explain.attribution import cams, gradients
from inception_v3.explain.attribution.attribute import attribute
from inception_v3.explain.attribution.occlusion import occlude, places, window_and_stride
from inception_v3.explain.attribution.result import AttributionOptions
from inception_v3.explain.views import View
from inception_v3.inference.choose import open_model
from inception_v3.weights.model import InceptionV3

Call = Callable[[], object]
BATCH_SIZE = 8  # of integrated gradients
LABEL = torch.tensor([3])


class LogitsOf(nn.Module):
    """The network as the other libraries expect it: from images to logits."""

    def __init__(self, model: InceptionV3) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images, end_points=())[0]


@dataclass(frozen=True)
class Inputs:
    """The network, an image as the network reads it (1, 3, 299, 299) and as a View, steps of integrated gradients."""

    model: InceptionV3
    pixels: Tensor
    view: View
    steps: int

    def plain(self) -> Tensor:
        """The eager pass at batch 1."""
        with torch.inference_mode():
            return self.model(self.pixels, end_points=())[0]


def seconds(call: Call) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def by_turns(ours: Call, peer: Call, rounds: int) -> list[tuple[float, float]]:
    """The seconds of both in each round, after one call that is not counted."""
    ours(), peer()
    measured = []
    for number in range(rounds):
        if number % 2:
            theirs, own = seconds(peer), seconds(ours)
        else:
            own, theirs = seconds(ours), seconds(peer)
        measured.append((own, theirs))
    return measured


def end_points(inputs: Inputs) -> tuple[Call, Call]:
    names = (*inputs.model.base_end_points, *branch_names(inputs.model))
    assert len(names) == 18 + 42

    def arrays() -> dict[str, np.ndarray]:
        with torch.inference_mode():
            return {name: net.numpy() for name, net in inputs.model(inputs.pixels, end_points=names)[1].items()}

    return arrays, inputs.plain


def grad_cam(inputs: Inputs) -> tuple[Call, Call]:
    def theirs() -> object:
        with GradCAM(LogitsOf(inputs.model), [inputs.model.Mixed_7c]) as method:  # whose hooks stay only inside
            return method(inputs.pixels, [ClassifierOutputTarget(int(LABEL))])

    return lambda: cams.grad_cam(inputs.model, inputs.pixels, LABEL), theirs


def integrated_gradients(inputs: Inputs) -> tuple[Call, Call]:
    model, pixels, steps = inputs.model, inputs.pixels, inputs.steps
    peer = IntegratedGradients(LogitsOf(model))
    return (
        lambda: gradients.integrated_gradients(model, pixels, LABEL, steps=steps, batch_size=BATCH_SIZE),
        lambda: peer.attribute(pixels, target=LABEL, n_steps=steps, internal_batch_size=BATCH_SIZE),
    )


def occlusion(inputs: Inputs) -> tuple[Call, Call]:
    opened, options = open_model(inputs.model, "auto"), AttributionOptions(method="occlusion")
    size, batch_size = inputs.model.image_size, opened.engine.batch_size
    windows = sum(1 for _ in places(*size, *window_and_stride(*size, options)))
    pixels = np.repeat(opened.description.preprocessing.array(inputs.view.image)[None], batch_size, 0)

    def engine() -> None:
        """As many images, in the same batches."""
        for first in range(0, windows, batch_size):
            opened.engine.predict(pixels[: windows - first])

    return lambda: occlude(opened, inputs.view, options), engine


def ablation(inputs: Inputs) -> tuple[Call, Call]:
    return lambda: ablate(inputs.model, inputs.view), inputs.plain


# By line: the two calls, how their seconds (ours, peer) are compared, the aim, and whether a lower ratio is better.
Compare = Callable[[float, float], float]
LINES: dict[str, tuple[Callable[[Inputs], tuple[Call, Call]], str, Compare, float, bool]] = {
    "end-points": (end_points, "plain eager pass", lambda ours, peer: ours / peer, 1.3, True),
    "grad-cam": (grad_cam, "pytorch-grad-cam", lambda ours, peer: ours / peer, 1.0, True),
    "integrated-gradients": (integrated_gradients, "Captum", lambda ours, peer: ours / peer, 1.0, True),
    "occlusion": (occlusion, "the engine alone", lambda ours, peer: peer / ours, 0.9, False),
    "ablation": (ablation, "plain eager pass", lambda ours, peer: ours - peer, 2.5, True),
}


def measure_memory(inputs: Inputs, explanations: int) -> float:
    """The growth of the resident memory in kB for each explanation, over the last half."""
    methods = ("grad-cam", "gradient", "guided-backprop", "layer-cam", "deep-lift")
    counts, sizes = [], []
    for count in range(explanations):
        attribute(inputs.model, inputs.view, AttributionOptions(method=methods[count % len(methods)]))
        counts.append(count)
        sizes.append(memory())
    half = explanations // 2
    print(f"memory: {sizes[0] / 1000:.0f} MB at first, {sizes[half] / 1000:.0f} MB in the middle, "
          f"{sizes[-1] / 1000:.0f} MB after {explanations:,} explanations")  # fmt: skip
    return float(np.polyfit(counts[half:], sizes[half:], 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--lines", default=",".join([*LINES, "memory"]))
    parser.add_argument("--explanations", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=50, help="of integrated gradients")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")  # Captum and pytorch-grad-cam warn about tensors that they change
    pixels = synthetic_images(16, (299, 299))
    model = random_network(pixels).eval()
    image = Image.fromarray(pixels[0])
    inputs = Inputs(model, model.preprocess(image), View.of("synthetic", image, model.preprocessing), options.steps)
    print(f"{torch.get_num_threads()} threads of {os.cpu_count()} CPUs, {options.rounds} rounds, load "
          f"{os.getloadavg()[0]:.1f}")  # fmt: skip
    print("| line | ours, s | peer, s | peer | ratio | aim | met |")
    print("| --- | ---: | ---: | --- | ---: | ---: | --- |")
    for line in options.lines.split(","):
        if line == "memory":
            growth = measure_memory(inputs, options.explanations)
            print(f"| memory | | | | {growth:.1f} kB | flat | {'yes' if growth < 20 else 'no'} |", flush=True)
            continue
        build, peer_name, compare, aim, lower = LINES[line]
        measured = by_turns(*build(inputs), options.rounds)
        ratio = statistics.median(compare(*each) for each in measured)
        own, theirs = (statistics.median(each[index] for each in measured) for index in (0, 1))
        met = "yes" if (ratio <= aim if lower else ratio >= aim) else "no"
        shown = f"{ratio:.2f} s" if line == "ablation" else f"{ratio:.2f}"
        bound = f"{'≤' if lower else '≥'} {aim}{' s' if line == 'ablation' else ''}"
        print(f"| {line} | {own:.3f} | {theirs:.3f} | {peer_name} | {shown} | {bound} | {met} |", flush=True)


if __name__ == "__main__":
    main()
