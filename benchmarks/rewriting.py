"""Measures what `swap_pools` (engines/graph.py) gains in each engine and precision.

    python benchmarks/rewriting.py [--batch-size 16] [--rounds 15]

`plain` is the folded network as it is. `swap` has its average pools behind the 1x1 convolutions. The two networks of an
engine take turns in one process, in the opposite order in every second round. The column `swap` is the speed over that
of `plain` in the same round, the median over the rounds.
"""

import argparse
import statistics
import time
from typing import Any

import numpy as np

from inception_v3.benchmarking.synthetic import random_network, synthetic_images
from inception_v3.inference.engines.base import LOGITS, Engine, Pixels, Precision
from inception_v3.inference.engines.graph import Graph, build_graph, swap_pools
from inception_v3.inference.engines.registry import load_engine
from inception_v3.inference.exported.registry import load_format
from inception_v3.inference.quantise import quantise

ENGINES = ("pytorch", "onnxruntime", "openvino")


def build_engine(name: str, graph: Graph, precision: Precision, images: Pixels) -> Engine:
    engine = load_engine(name)
    network: Any = quantised(engine.formats[0], graph, images) if precision == "int8" else graph
    return engine(network, precision, engine.resolve_device("cpu"))


def quantised(format: str, graph: Graph, images: Pixels) -> Any:
    """Every layer in int8, whatever the agreement."""

    def reference(pixels: Pixels) -> dict[str, np.ndarray]:
        return {LOGITS: np.zeros((len(pixels), 1), np.float32)}

    return quantise(graph, load_format(format), images, reference, images[:1], min_agreement=0)[0]


def seconds(engine: Engine, pixels: Pixels) -> float:
    started = time.perf_counter()
    engine.run(pixels)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--engines", default=",".join(ENGINES))
    options = parser.parse_args()
    images = synthetic_images(16, (299, 299))
    batch = np.resize(images, (options.batch_size, *images.shape[1:]))
    plain = build_graph(random_network(images))
    graphs = {"plain": plain, "swap": swap_pools(plain)}
    print(f"| batch {options.batch_size}, {options.rounds} rounds | plain, images/s | swap |")
    print("| --- | ---: | ---: |")
    for name in options.engines.split(","):
        for precision in load_engine(name).precisions["cpu"]:
            engines = {variant: build_engine(name, graph, precision, images) for variant, graph in graphs.items()}
            times: dict[str, list[float]] = {variant: [] for variant in engines}
            for number in range(options.rounds + 1):
                for variant in list(engines)[:: -1 if number % 2 else 1]:
                    times[variant].append(seconds(engines[variant], batch))
            times = {variant: measured[1:] for variant, measured in times.items()}  # without the warm-up
            gain = statistics.median(
                before / after for before, after in zip(times["plain"], times["swap"], strict=True)
            )
            rate = len(batch) / statistics.median(times["plain"])
            print(f"| {name} {precision} | {rate:.1f} | {gain:.3f} |", flush=True)


if __name__ == "__main__":
    main()
