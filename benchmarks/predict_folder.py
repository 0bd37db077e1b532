"""What is left of an engine's speed from a folder of JPEGs to top-5 in JSON lines.

    python benchmarks/predict_folder.py                        # the full-width network, random weights, PyTorch
    python benchmarks/predict_folder.py --model FILE           # any network that `inception-v3 predict` takes
    python benchmarks/predict_folder.py --fake 13              # an engine that only waits 13 ms a picture

In each round the network alone runs on the same pictures, prepared before and in the same batches, and then the
folder goes through `predict` to a file. Rounds take turns, so that a noisy machine disturbs both; medians are printed.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from inception_v3.engines import Engine
from inception_v3.images import expand
from inception_v3.pipeline import FIRST_BATCH, resizer, run
from inception_v3.predict import predict
from inception_v3.preprocessing import Preprocessing
from inception_v3.results import open_results


class FakeEngine:
    """It waits as long as a network would compute, and leaves the processor to others."""

    name, precision = "fake", "none"

    def __init__(self, milliseconds: float) -> None:
        self.seconds = milliseconds / 1000
        self.logits = np.random.default_rng(0).normal(size=(1, 1000)).astype(np.float32)

    def predict(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        time.sleep(self.seconds * len(pixels))
        return self.logits.repeat(len(pixels), 0), np.zeros((len(pixels), 2048), np.float32)


def write_pictures(folder: Path, count: int, width: int, height: int) -> None:
    """Photographs as a camera would save them: smooth, with edges and grain."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width] / 375
    for number in range(count):
        a, b, c, d = rng.uniform(5, 40, 4)
        waves = np.stack([np.sin(a * x + b * y), np.sin(c * y), np.sign(np.sin(d * x * y))], -1)
        noise = rng.normal(0, 8, (height, width, 1))
        pixels = (128 + 90 * waves + noise).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:06}.jpg", quality=90)


def load(options: argparse.Namespace) -> tuple[Engine, Preprocessing, list[str]]:
    if options.fake is not None:
        return FakeEngine(options.fake), Preprocessing(), [str(number) for number in range(1000)]
    if options.model is not None:
        from inception_v3.cli.predict import _load

        network = _load(options.model, None, None)
        return network.engine, network.preprocessing, network.class_names
    from inception_v3 import InceptionV3
    from inception_v3.engines.pytorch import PyTorch

    model = InceptionV3(num_classes=1000, create_aux_logits=False).eval()
    return PyTorch(model), model.preprocessing, [str(number) for number in range(1000)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--fake", type=float, metavar="MS")
    parser.add_argument("--pictures", type=int, default=160)
    parser.add_argument("--size", type=int, nargs=2, default=(500, 375), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--decode", choices=("exact", "scaled"), default="exact")
    parser.add_argument("--resize", choices=("torchvision", "pillow"))
    options = parser.parse_args()
    engine, preprocessing, names = load(options)
    how = {"batch_size": options.batch_size, "decode": options.decode, "resize": options.resize or resizer()}
    alone, through, processor = [], [], []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "pictures"
        folder.mkdir()
        write_pictures(folder, options.pictures, *options.size)
        batches: list[np.ndarray] = []

        class Keeping:
            name, precision = engine.name, engine.precision

            def predict(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
                batches.append(pixels.copy())
                return engine.predict(pixels)

        for _ in run(Keeping(), preprocessing, expand([str(folder)]), **how):
            pass
        assert len(batches[0]) == FIRST_BATCH
        for round_ in range(options.rounds):
            started = time.perf_counter()
            for pixels in batches:
                engine.predict(pixels)
            alone.append(options.pictures / (time.perf_counter() - started))
            results = open_results(Path(place) / f"{round_}.jsonl", {}, top=5, resume=False)
            started, cpu = time.perf_counter(), time.process_time()
            for prediction in predict(engine, preprocessing, names, expand([str(folder)]), top=5, **how):
                results.write(prediction)
            results.close()
            through.append(options.pictures / (time.perf_counter() - started))
            processor.append((time.process_time() - cpu) / options.pictures * 1000)
    ratios = [one / other for one, other in zip(through, alone, strict=True)]
    print(f"{options.pictures} JPEGs of {options.size[0]}x{options.size[1]}, {options.rounds} rounds, medians")
    print("| engine | precision | resize | decode | network alone, 1/s | folder, 1/s | share | CPU ms a picture |")
    print("| --- | --- | --- | --- | ---: | ---: | ---: | ---: |")
    told = [engine.name, engine.precision, how["resize"], how["decode"]]
    figures = [f"{statistics.median(alone):.1f}", f"{statistics.median(through):.1f}"]
    figures += [f"{statistics.median(ratios):.1%}", f"{statistics.median(processor):.1f}"]
    print(f"| {' | '.join([*told, *figures])} |")


if __name__ == "__main__":
    main()
