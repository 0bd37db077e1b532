"""Opens a page of `inception-v3 export` from disk in Chromium, without a network, and compares it with `predict`.

Prints the size of the page and of ONNX Runtime in it, the seconds from opening it to the first result, the seconds of
an image, and how far the probabilities are from those of MODEL: the .onnx file of the same precision, or the run for
fp32. With --levels, ONNX Runtime runs the .onnx file at each of its levels of optimisation, and two tables have the
largest and the mean differences between the page and these.

    python benchmarks/offline_page.py pets.html pets.onnx photos/*/*.png --jpeg
    python benchmarks/offline_page.py pets-int8.html pets-int8.onnx photos/*/*.png --levels
"""

import argparse
import re
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from browser import open_browser
from inception_v3 import Predictor
from inception_v3.images.decode import open_image
from inception_v3.inference.exported.registry import read_description
from inception_v3.network.probabilities import probabilities

RUNTIME = re.compile('id="(?:worker|wasm)-data">([^<]*)')  # the parts of a page that hold it
LEVELS = {
    "all": "ORT_ENABLE_ALL",
    "extended": "ORT_ENABLE_EXTENDED",
    "basic": "ORT_ENABLE_BASIC",
    "none": "ORT_DISABLE_ALL",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("model")
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--jpeg", action="store_true", help="compare JPEGs of quality 75 and 90 of the images too")
    parser.add_argument("--levels", action="store_true", help="compare ONNX Runtime's levels of optimisation")
    options = parser.parse_args()
    predictor = Predictor(options.model)
    runtime = sum(map(len, RUNTIME.findall(options.page.read_text("utf-8"))))
    print(f"{options.page.stat().st_size / 1e6:.1f} MB, of which ONNX Runtime {runtime / 1e6:.1f} MB")
    print("| images | count | first result (s) | an image (s) | same top class | largest | mean | above 0.01 |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    report("as they are", options.page, predictor, options.images)
    for quality in (75, 90) if options.jpeg else ():
        with tempfile.TemporaryDirectory() as folder:
            report(f"JPEG {quality}", options.page, predictor, as_jpeg(options.images, Path(folder), quality))
    if options.levels:
        report_levels(options.page, Path(options.model), options.images)


def as_jpeg(images: list[Path], folder: Path, quality: int) -> list[Path]:
    """The images, enlarged to 640 pixels, as JPEG files."""
    files = [folder / f"{number:04}.jpg" for number in range(len(images))]
    for image, file in zip(images, files, strict=True):
        decoded = open_image(image)
        side = 640 / max(decoded.size)
        size = [max(1, round(length * side)) for length in decoded.size]
        decoded.resize((size[0], size[1]), Image.Resampling.BICUBIC).save(file, quality=quality)
    return files


def report(name: str, page: Path, predictor: Predictor, images: list[Path]) -> None:
    """Print one row of the table."""
    first, seconds, names, scores = classify(page, images)
    predictions = [dict(each.classes) for each in predictor(images, top=len(names))]
    expected = np.array([[prediction[name] for name in names] for prediction in predictions])
    differences = np.abs(scores - expected)
    same = int((scores.argmax(1) == expected.argmax(1)).sum())
    above = int((differences.max(1) > 0.01).sum())
    figures = f"{first:.1f} | {seconds:.2f} | {same} | {differences.max():.1e} | {differences.mean():.1e} | {above}"
    print(f"| {name} | {len(images)} | {figures} |")


def report_levels(page: Path, model: Path, images: list[Path]) -> None:
    """Print the differences of the probabilities between the page and the levels of optimisation."""
    rows = {"the page": classify(page, images)[-1]} | {level: run_level(model, level, images) for level in LEVELS}
    for title, figure in (("largest", np.max), ("mean", np.mean)):
        print(f"\n| {title} | {' | '.join(LEVELS)} |\n| --- |{' ---: |' * len(LEVELS)}")
        for number, (name, values) in enumerate([*rows.items()][:-1]):
            cells = [f"{figure(np.abs(values - rows[level])):.1e}" for level in [*LEVELS][number:]]
            print(f"| {' | '.join([name, *[''] * number, *cells])} |")


def run_level(model: Path, level: str, images: list[Path]) -> np.ndarray:
    """Probabilities (N, classes) of images, which are run one after another, at a level of optimisation."""
    description = read_description(model)
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, LEVELS[level])
    session = onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
    pixels = (description.preprocessing.array(open_image(image))[None] for image in images)
    logits = np.concatenate([session.run(["Logits"], {session.get_inputs()[0].name: each})[0] for each in pixels])
    return probabilities(logits, description.settings.output_activation)


def classify(page: Path, images: list[Path]) -> tuple[float, float, list[str], np.ndarray]:
    """Seconds to the first result, seconds of an image, class names, and probabilities (N, classes)."""
    with open_browser() as browser:
        opened = browser.new_context(offline=True).new_page()
        opened.set_default_timeout(600_000)
        started = time.perf_counter()
        opened.goto(page.absolute().as_uri())
        opened.set_input_files("#files", images)
        opened.wait_for_selector(".classes")
        first = time.perf_counter() - started
        opened.wait_for_selector("#results:not(:has([aria-busy=true]))")
        results = opened.evaluate("[...images.values()].map(({ scores, milliseconds }) => [scores, milliseconds])")
        names = opened.evaluate("facts.class_names")
    scores, milliseconds = zip(*results, strict=True)
    return first, sum(milliseconds) / 1000 / len(images), names, np.array(scores)


if __name__ == "__main__":
    main()
