"""Print the table of docs/explain.md: attributions beside Captum's and pytorch-grad-cam's, in float64.

    PYTHONPATH=src python tests/explain_report.py

The network is that of tests/explain/test_attribution.py, which tests the bound: small, with random weights and
statistics. A difference is the largest of all values, divided by the largest value.
"""

import sys
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from captum.attr import DeepLift, GuidedBackprop, IntegratedGradients, NoiseTunnel, Occlusion, Saliency
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent / "explain"))
import test_attribution as of_attribution
from test_attribution import CLASSES, LogitsOf, random_network, twin

from inception_v3.explain.attribution import cams, gradients
from inception_v3.explain.attribution.occlusion import occlusion
from inception_v3.explain.attribution.result import Head
from inception_v3.explain.attribution.scores import network_scores

Pair = tuple[str, str, Tensor, Tensor]  # method, network, ours, theirs


def pairs_of_captum(images: Tensor, head: Head) -> Iterator[Pair]:
    """Methods that Captum computes on the network itself."""
    model = random_network()
    network, base = LogitsOf(model, head), torch.full_like(images[:1], -0.3)
    yield (
        "integrated gradients",
        head,
        gradients.integrated_gradients(model, images, CLASSES, head, baselines=base, steps=20),
        IntegratedGradients(network).attribute(images, base, CLASSES, n_steps=20),
    )
    theirs = Saliency(network).attribute(images, CLASSES, abs=False)
    yield "gradient", head, gradients.plain_gradient(model, images, CLASSES, head), theirs
    torch.manual_seed(7)
    tunnel = NoiseTunnel(Saliency(network))
    theirs = tunnel.attribute(images[:1], nt_type="smoothgrad", nt_samples=4, stdevs=0.2, target=CLASSES[:1], abs=False)
    torch.manual_seed(7)
    noise = torch.normal(0, torch.full((4, *images.shape[1:]), 0.2)).double()
    yield "SmoothGrad", head, gradients.smooth_grad(model, images[:1], CLASSES[:1], head, noise=noise), theirs
    theirs = Occlusion(network).attribute(images[:1], (3, 30, 30), (3, 20, 20), baselines=0.1, target=CLASSES[:1])

    def scores(batch: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return network_scores(model, torch.from_numpy(batch), CLASSES[:1].expand(len(batch)), head)[0].numpy()

    ours = occlusion(scores, images[0].numpy(), 0.1, window=30, stride=20, axes=(1, 2), batch_size=8)
    yield "occlusion", head, torch.from_numpy(ours).expand(1, 3, *ours.shape), theirs


def pairs_of_the_twin(images: Tensor) -> Iterator[Pair]:
    """Methods for which Captum needs a module for every ReLU."""
    model, baselines = random_network(), torch.full_like(images, 0.2)
    where = "Logits, twin of modules"
    ours = gradients.deep_lift(model, images, CLASSES, baselines=baselines)
    yield "DeepLIFT", where, ours, DeepLift(twin(model)).attribute(images, baselines, CLASSES)
    ours = gradients.guided_backprop(model, images, CLASSES)
    yield "guided backpropagation", where, ours, GuidedBackprop(twin(model)).attribute(images, CLASSES)


def pairs_of_grad_cam(images: Tensor, head: Head) -> Iterator[Pair]:
    """Maps before pytorch-grad-cam scales them to [0, 1]."""
    model = random_network()
    methods = {
        "Grad-CAM": (cams.grad_cam, of_attribution.GradCAM),
        "Grad-CAM++": (cams.grad_cam_plus_plus, of_attribution.GradCAMPlusPlus),
        "Layer-CAM": (cams.layer_cam, of_attribution.LayerCAM),
    }
    for name, (function, library) in methods.items():
        for end_point in ("Mixed_5b", "Mixed_6e"):
            theirs = of_attribution.library_map(library, model, images, end_point, head)
            ours = function(model, images, CLASSES, end_point, head)
            yield f"{name}, {end_point}", head, ours, torch.from_numpy(theirs)


def main() -> None:
    warnings.filterwarnings("ignore")  # Captum's about tensors and hooks that it changes
    images = torch.randn(2, 3, 107, 107, generator=torch.Generator().manual_seed(1)).double().clamp(-1, 1)
    print("| method | head | compared with | largest difference |")
    print("| --- | --- | --- | ---: |")
    captum, grad_cam = f"Captum {version('captum')}", f"pytorch-grad-cam {version('grad-cam')}"
    rows = [
        *((captum, pair) for head in ("Logits", "AuxLogits") for pair in pairs_of_captum(images, head)),
        *((captum, pair) for pair in pairs_of_the_twin(images)),
        *((grad_cam, pair) for head in ("Logits", "AuxLogits") for pair in pairs_of_grad_cam(images, head)),
    ]
    for judge, (method, where, ours, theirs) in rows:
        difference = float((ours - theirs).abs().max() / theirs.abs().max())
        print(f"| {method} | {where} | {judge} | {difference:.0e} |", flush=True)


if __name__ == "__main__":
    main()
