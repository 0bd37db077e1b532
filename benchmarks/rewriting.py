"""What averaging after 1x1 convolutions gains (engines/graph.swap_pools), in each engine and precision.

    python benchmarks/rewriting.py [--batch-size 16] [--rounds 15]

`plain` is the folded network, which averages before them; `swap` averages after. The two of an engine take turns in one
process, in the opposite order in every second round; `swap` is the median over the rounds of its speed over the plain
network's in the same round.
"""

import argparse
import statistics
import time
from typing import Any

import numpy as np

from inception_v3.benchmarking.stand_ins import generated, random_network
from inception_v3.inference.engines.base import LOGITS, Engine, Pixels, Precision
from inception_v3.inference.engines.graph import Graph, build_graph, swap_pools
from inception_v3.inference.engines.onnx_graph import to_onnx
from inception_v3.inference.engines.quantise import Form, onnx_form, openvino_form, quantise


def pytorch(graph: Graph, precision: Precision, pixels: Pixels) -> Engine:
    from inception_v3.inference.engines.pytorch import PyTorchEngine

    return PyTorchEngine(graph, precision)


def onnxruntime(graph: Graph, precision: Precision, pixels: Pixels) -> Engine:
    from inception_v3.inference.engines.onnxruntime import OnnxRuntimeEngine

    model = quantised(graph, onnx_form(), pixels) if precision == "int8" else to_onnx(graph)
    return OnnxRuntimeEngine(model.SerializeToString(), precision)


def openvino(graph: Graph, precision: Precision, pixels: Pixels) -> Engine:
    from inception_v3.inference.engines.openvino import OpenvinoEngine

    network = quantised(graph, openvino_form(), pixels) if precision == "int8" else to_onnx(graph).SerializeToString()
    return OpenvinoEngine(network, precision)


def quantised(graph: Graph, form: Form, pixels: Pixels) -> Any:
    """Every layer in int8, whatever it says."""
    return quantise(graph, form, pixels, lambda held: {LOGITS: np.zeros((len(held), 1), np.float32)}, pixels[:1], 0)[0]


ENGINES = {"pytorch": pytorch, "onnxruntime": onnxruntime, "openvino": openvino}
PRECISIONS: dict[str, tuple[Precision, ...]] = {
    "pytorch": ("fp32", "bf16"),
    "onnxruntime": ("fp32", "int8"),
    "openvino": ("fp32", "bf16", "int8"),
}


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
    pictures = generated(16, (299, 299))
    batch = np.resize(pictures, (options.batch_size, *pictures.shape[1:]))
    plain = build_graph(random_network(pictures))
    graphs = {"plain": plain, "swap": swap_pools(plain)}
    print(f"| batch {options.batch_size}, {options.rounds} rounds | plain, images/s | swap |")
    print("| --- | ---: | ---: |")
    for name in options.engines.split(","):
        for precision in PRECISIONS[name]:
            racing = {way: ENGINES[name](graph, precision, pictures) for way, graph in graphs.items()}
            times: dict[str, list[float]] = {way: [] for way in racing}
            for number in range(options.rounds + 1):
                for way in list(racing)[:: -1 if number % 2 else 1]:
                    times[way].append(seconds(racing[way], batch))
            times = {way: measured[1:] for way, measured in times.items()}  # without the warm-up
            gain = statistics.median(
                before / after for before, after in zip(times["plain"], times["swap"], strict=True)
            )
            rate = len(batch) / statistics.median(times["plain"])
            print(f"| {name} {precision} | {rate:.1f} | {gain:.3f} |", flush=True)


if __name__ == "__main__":
    main()
