"""What is left of an engine's speed from a folder of JPEGs to top-5 in JSON lines.

    python benchmarks/predict_folder.py                        # the full-width network, random weights, exported
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

from inception_v3.images.find import ImageSource, expand
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.inference.choose import OpenedModel, open_engine
from inception_v3.inference.engines.base import Engine
from inception_v3.inference.pipeline import FIRST_BATCH, resizer, run
from inception_v3.inference.predict import predict
from inception_v3.inference.results import open_results


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


def make(folder: Path, precisions: list[str]) -> dict[str, Path]:
    """The full-width network with random weights, exported in each precision: to ONNX in fp32, else to OpenVINO."""
    from inception_v3.benchmarking.synthetic import synthetic_images, random_network
    from inception_v3.inference.export import export

    model, files, sample = random_network(synthetic_images(16, (299, 299))), {}, []
    for number, pixels in enumerate(synthetic_images(96, (299, 299), seed=1)):  # of many classes to this network
        sample.append(ImageSource(str(number), folder / f"sample-{number}.png"))
        Image.fromarray(pixels).save(folder / f"sample-{number}.png")
    for precision in precisions:
        files[precision] = folder / (f"{precision}.onnx" if precision == "fp32" else f"{precision}.xml")
        export(model, files[precision], precision=precision, images=sample, min_agreement=0)  # type: ignore[arg-type]
    return files


def measure(opened: OpenedModel | None, folder: Path, options: argparse.Namespace) -> None:
    engine: Engine = FakeEngine(options.fake) if opened is None else opened.engine  # type: ignore[assignment]
    preprocessing = Preprocessing() if opened is None else opened.description.preprocessing
    names = [str(number) for number in range(1000)] if opened is None else opened.description.names()
    how = {"batch_size": options.batch_size, "decode": options.decode, "resize": options.resize or resizer()}
    sources = [str(folder)]
    batches: list[np.ndarray] = []

    class Keeping:
        name, precision = engine.name, engine.precision

        def predict(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            batches.append(pixels.copy())
            return engine.predict(pixels)

    count = sum(1 for _ in run(Keeping(), preprocessing, expand(sources), **how))  # type: ignore[arg-type]
    assert len(batches[0]) == FIRST_BATCH
    alone, through, processor = [], [], []
    for _ in range(options.rounds):
        started = time.perf_counter()
        for pixels in batches:
            engine.predict(pixels)
        alone.append(count / (time.perf_counter() - started))
        with tempfile.TemporaryDirectory() as place:
            results = open_results(Path(place) / "out.jsonl", {}, top=5, resume=False)
            started, cpu = time.perf_counter(), time.process_time()
            for prediction in predict(engine, preprocessing, names, expand(sources), top=5, **how):  # type: ignore[arg-type]
                results.write(prediction)
            results.close()
            through.append(count / (time.perf_counter() - started))
            processor.append((time.process_time() - cpu) / count * 1000)
    ratios = [one / other for one, other in zip(through, alone, strict=True)]
    told = [engine.name, engine.precision, how["resize"], how["decode"]]
    figures = [f"{statistics.median(alone):.1f}", f"{statistics.median(through):.1f}"]
    figures += [f"{statistics.median(ratios):.1%}", f"{statistics.median(processor):.1f}"]
    print(f"| {' | '.join([*told, *figures])} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--fake", type=float, metavar="MS")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16", "int8"])
    parser.add_argument("--pictures", type=int, default=160)
    parser.add_argument("--size", type=int, nargs=2, default=(500, 375), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--decode", choices=("exact", "scaled"), default="exact")
    parser.add_argument("--resize", choices=("torchvision", "pillow"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "pictures")
        folder.mkdir()
        write_pictures(folder, options.pictures, *options.size)
        opened: list[OpenedModel | None] = [None]
        if options.model is not None:
            opened = [open_engine(options.model, options.engine, one, min_agreement=0) for one in options.precision]
        elif options.fake is None:
            files = make(Path(place), options.precision)
            opened = [open_engine(file, options.engine, one, min_agreement=0) for one, file in files.items()]
        print(f"{options.pictures} JPEGs of {options.size[0]}x{options.size[1]}, {options.rounds} rounds, medians")
        print("| engine | precision | resize | decode | network alone, 1/s | folder, 1/s | share | CPU ms a picture |")
        print("| --- | --- | --- | --- | ---: | ---: | ---: | ---: |")
        for one in opened:
            measure(one, folder, options)


if __name__ == "__main__":
    main()
