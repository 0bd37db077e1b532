"""Measure how much of an engine's speed `predict` keeps, from a folder of JPEGs to the top 5 classes in JSON lines.

    python benchmarks/predict_folder.py                        # the full-width network, random weights, exported
    python benchmarks/predict_folder.py --model FILE           # any network that `inception-v3 predict` takes
    python benchmarks/predict_folder.py --fake 13              # an engine that only waits, 13 ms for each image
    python benchmarks/predict_folder.py --callers 1 2          # `predict` on all cores, and with two threads

In each round, first the engine runs on the prepared pixels of all images, in the same batches as `predict` uses. Then
the folder goes through `predict` to a file, once for each number of --callers. They alternate, so that a noisy machine
affects all of them. Medians are printed.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from inception_v3.images.addresses import expand
from inception_v3.images.find import ImageSource
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.inference.choose import OpenedModel, open_engine
from inception_v3.inference.engines.base import Engine
from inception_v3.inference.pipeline import default_resizer, run_pipeline
from inception_v3.inference.predict import predict
from inception_v3.inference.results import open_results
from inception_v3.inference.schedule import FIRST_BATCH


class FakeEngine:
    """Waits as long as a network would compute, without using the CPU."""

    name, precision, callers = "fake", "none", 1

    def __init__(self, milliseconds: float) -> None:
        self.seconds = milliseconds / 1000
        self.logits = np.random.default_rng(0).normal(size=(1, 1000)).astype(np.float32)

    def predict(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        time.sleep(self.seconds * len(pixels))
        return self.logits.repeat(len(pixels), 0), np.zeros((len(pixels), 2048), np.float32)


class RecordingEngine:
    """Passes batches on to another engine, and keeps a copy of their pixels."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.name, self.precision, self.callers = engine, engine.name, engine.precision, 1
        self.batches: list[np.ndarray] = []

    def predict(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.batches.append(pixels.copy())
        return self.engine.predict(pixels)


def write_images(folder: Path, count: int, width: int, height: int) -> None:
    """Write JPEGs like those of a camera: smooth, with edges and grain."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width] / 375
    for number in range(count):
        a, b, c, d = rng.uniform(5, 40, 4)
        waves = np.stack([np.sin(a * x + b * y), np.sin(c * y), np.sign(np.sin(d * x * y))], -1)
        noise = rng.normal(0, 8, (height, width, 1))
        pixels = (128 + 90 * waves + noise).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:06}.jpg", quality=90)


def export_networks(folder: Path, precisions: list[str]) -> dict[str, Path]:
    """Export the full-width network with random weights in each precision: fp32 to ONNX, the others to OpenVINO."""
    from inception_v3.benchmarking.synthetic import random_network, synthetic_images
    from inception_v3.inference.export import export

    model, files, sample = random_network(synthetic_images(16, (299, 299))), {}, []
    for number, pixels in enumerate(
        synthetic_images(96, (299, 299), seed=1)
    ):  # this network predicts many classes for them
        sample.append(ImageSource(str(number), folder / f"sample-{number}.png"))
        Image.fromarray(pixels).save(folder / f"sample-{number}.png")
    for precision in precisions:
        files[precision] = folder / (f"{precision}.onnx" if precision == "fp32" else f"{precision}.xml")
        export(model, files[precision], precision=precision, images=sample, min_agreement=0)  # type: ignore[arg-type]
    return files


def measure(opened: OpenedModel | None, folder: Path, options: argparse.Namespace, engines: list[Engine]) -> None:
    """Print a row of the table for each of the engines, which `predict` uses in turn; `opened` is None for FakeEngine.

    `opened` runs the prepared pixels on all cores.
    """
    limit: Engine = engines[0] if opened is None else opened.engine
    preprocessing = Preprocessing() if opened is None else opened.description.preprocessing
    names = [str(number) for number in range(1000)] if opened is None else opened.description.names()
    resize = options.resize or default_resizer()
    pipeline_options = {"batch_size": options.batch_size, "decode": options.decode, "resize": resize}
    paths = [str(folder)]
    recorder = RecordingEngine(limit)
    count = sum(1 for _ in run_pipeline(recorder, preprocessing, expand(paths), **pipeline_options))  # type: ignore[arg-type]
    assert len(recorder.batches[0]) == FIRST_BATCH
    engine_speeds: list[float] = []
    folder_speeds: list[list[float]] = [[] for _ in engines]
    cpu_milliseconds: list[list[float]] = [[] for _ in engines]
    for _ in range(options.rounds):
        started = time.perf_counter()
        for pixels in recorder.batches:
            limit.predict(pixels)
        engine_speeds.append(count / (time.perf_counter() - started))
        for engine, speeds, milliseconds in zip(engines, folder_speeds, cpu_milliseconds, strict=True):
            with tempfile.TemporaryDirectory() as out:
                results = open_results(Path(out) / "out.jsonl", {}, top=5, resume=False)
                started, cpu_started = time.perf_counter(), time.process_time()
                for prediction in predict(engine, preprocessing, names, expand(paths), top=5, **pipeline_options):  # type: ignore[arg-type]
                    results.write(prediction)
                results.close()
                speeds.append(count / (time.perf_counter() - started))
                milliseconds.append((time.process_time() - cpu_started) / count * 1000)
    for engine, speeds, milliseconds in zip(engines, folder_speeds, cpu_milliseconds, strict=True):
        fractions = [speed / alone for speed, alone in zip(speeds, engine_speeds, strict=True)]
        figures = [f"{statistics.median(engine_speeds):.1f}", f"{statistics.median(speeds):.1f}"]
        figures += [f"{statistics.median(fractions):.1%}", f"{statistics.median(milliseconds):.1f}"]
        settings = [engine.name, engine.precision, str(engine.callers), resize, options.decode]
        print(f"| {' | '.join([*settings, *figures])} |", flush=True)


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
    parser.add_argument("--callers", type=int, nargs="+", default=[1], help="threads that run batches at once")
    parser.add_argument("--decode", choices=("exact", "scaled"), default="exact")
    parser.add_argument("--resize", choices=("torchvision", "pillow"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "images")
        folder.mkdir()
        write_images(folder, options.pictures, *options.size)
        files = {name: Path(options.model or "") for name in options.precision}
        if options.model is None and options.fake is None:
            files = export_networks(Path(temporary), options.precision)
        print(f"{options.pictures} JPEGs of {options.size[0]}x{options.size[1]}, {options.rounds} rounds, medians")
        print(
            "| engine | precision | callers | resize | decode | engine, images/s | folder, images/s | fraction | "
            "CPU ms/image |"
        )
        print("| --- | --- | ---: | --- | --- | ---: | ---: | ---: | ---: |")
        if options.fake is not None:
            measure(None, folder, options, [FakeEngine(options.fake)])  # type: ignore[list-item]
            return
        for name, file in files.items():
            single, *opened = (
                open_engine(file, options.engine, name, min_agreement=0, callers=callers)
                for callers in (1, *options.callers)
            )
            measure(single, folder, options, [each.engine for each in opened])


if __name__ == "__main__":
    main()
