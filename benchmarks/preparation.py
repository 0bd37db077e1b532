"""What each way to decode and resize a JPEG costs on one core, and how far its pixels and answers are from the exact.

    python benchmarks/preparation.py

Differences are from `decode="exact"` resized by torchvision, in levels of 0 to 255 and in probabilities of a thin
network with random weights, whose answers are spread out as a trained one's are.
"""

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from predict_folder import write_pictures

from inception_v3 import InceptionV3
from inception_v3.images.find import ImageSource
from inception_v3.images.preprocessing import PREPROCESSINGS, Preprocessing
from inception_v3.inference.pipeline import _preparation

SIZES = {"500x375": (500, 375), "4000x3000": (4000, 3000)}
PICTURES, ROUNDS = 8, 5


def network() -> InceptionV3:
    model = InceptionV3(num_classes=10, depth_multiplier=0.1, min_depth=8, create_aux_logits=False).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("weights"):
                deviation = (2 / tensor[0].numel()) ** 0.5 * (1 + 9 * name.startswith("Logits"))
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * deviation)
    return model


def probabilities(model: InceptionV3, pixels: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        images = model.preprocessing.scale(torch.from_numpy(pixels).permute(0, 3, 1, 2))
        return model(images, end_points=())[0].softmax(1).numpy()


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = network()
    print("| picture | preprocessing | resize | decode | CPU ms | levels, mean | levels, most | probability, most |")
    print("| --- | --- | --- | --- | ---: | ---: | ---: | ---: |")
    for size, (width, height) in SIZES.items():
        with tempfile.TemporaryDirectory() as place:
            write_pictures(Path(place), PICTURES, width, height)
            sources = [ImageSource(path.name, path) for path in sorted(Path(place).iterdir())]
            for name in PREPROCESSINGS:
                compare(model, size, name, sources)


def compare(model: InceptionV3, size: str, name: str, sources: list[ImageSource]) -> None:
    preprocessing = Preprocessing.named(name)  # type: ignore[arg-type]
    exact = answers = None
    for resize in ("torchvision", "pillow"):
        for decode in ("exact", "scaled") if preprocessing.interpolation != "tensorflow" else ("exact",):
            prepare = _preparation(preprocessing, decode, resize)  # type: ignore[arg-type]
            pixels = np.empty((len(sources), 299, 299, 3), np.uint8)
            seconds = []
            for _ in range(ROUNDS):
                started = time.thread_time()  # of the processor: others may use it too
                for source, row in zip(sources, pixels, strict=True):
                    prepare(source, row)
                seconds.append((time.thread_time() - started) / len(sources))
            found = probabilities(model, pixels)
            if exact is None or answers is None:
                exact, answers = pixels.astype(int), found
            off = np.abs(pixels - exact)
            print(f"| {size} | {name} | {resize} | {decode} | {statistics.median(seconds) * 1000:.2f} | "
                  f"{off.mean():.3f} | {off.max()} | {np.abs(found - answers).max():.1e} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
