"""Compare the speed of `evaluate` with that of `predict` on the same JPEGs, in the same engine.

    python benchmarks/evaluation.py                 # 1,000 JPEGs, the full-width network with random weights
    python benchmarks/evaluation.py --model FILE --precision bf16

The two alternate, so that a noisy machine affects both. The table shows medians over the rounds, in images per second
from the first file to the last figure.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from predict_folder import write_images

from inception_v3.data import LabelledImages
from inception_v3.evaluation.models import evaluate_engines
from inception_v3.images.addresses import expand
from inception_v3.inference.choose import open_engine, open_model
from inception_v3.inference.predict import predict


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.model is None:
        from inception_v3.benchmarking.synthetic import random_network, synthetic_images

        model = random_network(synthetic_images(16, (299, 299)))
        opened = open_model(model, options.engine, options.precision)
    else:
        opened = open_engine(options.model, options.engine, options.precision)
    description, engine = opened.description, opened.engine
    speeds: dict[str, list[float]] = {"predict": [], "evaluate": []}
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder), options.images, 500, 375)
        files = sorted(Path(folder).iterdir())
        images = LabelledImages(description.names(), files, [0] * len(files), [file.name for file in files])
        for _ in range(options.rounds):
            started = time.perf_counter()
            sources = expand([folder])
            for _ in predict(
                engine, description.preprocessing, description.names(), sources, batch_size=engine.batch_size
            ):
                pass
            speeds["predict"].append(len(files) / (time.perf_counter() - started))
            started = time.perf_counter()
            assert evaluate_engines([opened], images).count == len(files)
            speeds["evaluate"].append(len(files) / (time.perf_counter() - started))
    ratios = [ours / limit for ours, limit in zip(speeds["evaluate"], speeds["predict"], strict=True)]
    print(f"{options.images} JPEGs of 500x375, {options.rounds} rounds, medians")
    print("| engine | precision | predict, images/s | evaluate, images/s | ratio |")
    print("| --- | --- | ---: | ---: | ---: |")
    medians = [f"{statistics.median(values):.1f}" for values in speeds.values()]
    print(f"| {' | '.join([engine.name, engine.precision, *medians])} | {statistics.median(ratios):.3f} |")


if __name__ == "__main__":
    main()
