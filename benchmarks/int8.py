"""Compares the precisions of an exported run, and ways to quantise it, on images that were not used for calibration.

    inception-v3 export RUN --precision fp32,bf16,int8 --images IMAGES
    python benchmarks/int8.py RUN IMAGES [--methods] [--rounds 7]

The first table compares the files in RUN/exported: the share of the multiplications in int8, the agreement of the top
class with float32 without ties, the mean KL divergence, the largest and the mean difference of a probability, the
accuracy, and images per second. The files take turns, batch by batch, and the speed is the median over the rounds.

With `--methods`, a second table compares ways to quantise with NNCF, and what this package adds. Only `Logits` stays in
float32 unless the line says otherwise; `export` keeps the convolutions that it names.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nncf
import numpy as np
from nncf.quantization.advanced_parameters import (
    AdvancedQuantizationParameters,
    AdvancedSmoothQuantParameters,
    OverflowFix,
    QuantizationParameters,
)
from nncf.quantization.range_estimator import (
    AggregatorType,
    RangeEstimatorParameters,
    RangeEstimatorParametersSet,
    StatisticsCollectorParameters,
    StatisticsType,
)

from inception_v3.images.addresses import collect
from inception_v3.inference.engines.base import LOGITS, Engine, Pixels
from inception_v3.inference.engines.graph import Graph, build_graph, swap_pools
from inception_v3.inference.engines.onnx_graph import to_onnx
from inception_v3.inference.engines.openvino import OpenvinoEngine, load_core, read_graph
from inception_v3.inference.equalise import equalise
from inception_v3.inference.export import CheckImages, prepare_images
from inception_v3.inference.exported.check import change_in_bf16, compare
from inception_v3.inference.exported.description import AgreementCheck
from inception_v3.inference.exported.registry import read_description
from inception_v3.inference.quantise import EXACT_OPERATIONS, _no_messages, quantise
from inception_v3.inference.sensitivity import channel_maxima
from inception_v3.weights.load import load

HEADER = "| {} | in int8 | agreement | ties | KL | largest | mean | accuracy | {} |\n" + "| --- |" + " ---: |" * 8


def row(name: str, share: str, check: AgreementCheck, last: str) -> str:
    accuracy = "" if check.accuracy is None else f"{check.accuracy:.1%}"
    return (
        f"| {name} | {share} | {check.top_1_agreement:.1%} | {check.ties} | {check.mean_kl:.4f} | "
        f"{check.max_difference:.3f} | {check.mean_difference:.4f} | {accuracy} | {last} |"
    )


def compare_files(run: Path, images: CheckImages, tie_margin: float, rounds: int) -> None:
    descriptions = {file: read_description(file) for file in sorted((run / "exported").glob("*.xml"))}
    engines: dict[Path, Engine] = {
        file: OpenvinoEngine(file, description.precision) for file, description in descriptions.items()
    }
    seconds: dict[Path, list[float]] = {file: [] for file in engines}
    batch = images.held_out[:16]
    for number in range(rounds + 1):
        for file, engine in engines.items():
            started = time.perf_counter()
            engine.run(batch)
            if number:  # the first is a warm-up
                seconds[file].append(time.perf_counter() - started)
    print(HEADER.format(f"{len(images.held_out)} images", "images/s"))
    for file, engine in engines.items():
        check = compare(engine.run, images.reference, "", "", tie_margin=tie_margin, labels=images.labels)
        description = descriptions[file]
        share = f"{description.int8_share:.1%}" if description.precision == "int8" else ""
        print(row(description.precision, share, check, f"{len(batch) / statistics.median(seconds[file]):.1f}"))


def percentile(probability: float) -> RangeEstimatorParameters:
    low, high = (
        StatisticsCollectorParameters(kind, AggregatorType.MEAN, quantile_outlier_prob=probability)
        for kind in (StatisticsType.QUANTILE, StatisticsType.ABS_QUANTILE)
    )
    return RangeEstimatorParameters(low, high)


def methods(graph: Graph, images: CheckImages) -> dict[str, Callable[[], tuple[Any, str]]]:
    """Functions that quantise the network, by name. Each returns the model and the share in int8."""
    pixels = images.calibration
    logits_only = nncf.IgnoredScope(patterns=[f"{LOGITS}(/.*)?"], validate=False)
    exact = nncf.IgnoredScope(patterns=[f"{LOGITS}(/.*)?"], types=list(EXACT_OPERATIONS), validate=False)
    mse = RangeEstimatorParametersSet.HISTOGRAM

    def by_nncf(
        model: Any, scope: Any = logits_only, full: bool = False, **advanced: Any
    ) -> Callable[[], tuple[Any, str]]:
        def run() -> tuple[Any, str]:
            rows = nncf.Dataset([{"pixels": pixels[index : index + 1]} for index in range(len(pixels))])
            options = AdvancedQuantizationParameters(**advanced)
            quantised = nncf.quantize(
                model(),
                rows,
                subset_size=len(pixels),
                ignored_scope=scope,
                fast_bias_correction=not full,
                advanced_parameters=options,
            )
            return quantised, "100.0%"

        return run

    def rescaled() -> Any:
        return read_graph(equalise(graph, channel_maxima(graph, pixels[:64])))

    def plain() -> Any:
        """As OpenVINO reads it, with biases that NNCF does not recognise."""
        return load_core().read_model(to_onnx(graph).SerializeToString())

    def ours() -> tuple[Any, str]:
        network = quantise(graph, read_graph, pixels)
        return network.model, f"{network.share:.1%}"

    def not_rescaled() -> tuple[Any, str]:
        network = quantise(graph, read_graph, pixels)
        patterns = [f"{name}(/.*)?" for name in network.kept]
        scope = nncf.IgnoredScope(patterns=patterns, types=list(EXACT_OPERATIONS), validate=False)
        plain_model, _ = by_nncf(constant, scope, **no_fix, activations_range_estimator_params=mse)()
        return plain_model, f"{network.share:.1%}"

    def constant() -> Any:
        return read_graph(graph)

    no_fix = {"overflow_fix": OverflowFix.DISABLE}
    return {
        "NNCF, Logits too": by_nncf(plain, nncf.IgnoredScope()),
        "NNCF": by_nncf(plain),
        "+ biases corrected": by_nncf(constant),
        "+ full range of the first weights": by_nncf(constant, **no_fix),
        "full bias correction": by_nncf(constant, full=True, **no_fix),
        "percentile 99.99": by_nncf(constant, **no_fix, activations_range_estimator_params=percentile(1e-4)),
        "smallest and largest": by_nncf(
            constant, **no_fix, activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX
        ),
        "MSE": by_nncf(constant, **no_fix, activations_range_estimator_params=mse),
        "SmoothQuant 0.5": by_nncf(
            constant, **no_fix, smooth_quant_alphas=AdvancedSmoothQuantParameters(convolution=0.5, matmul=0.5)
        ),
        "weights with one step a layer": by_nncf(
            constant, **no_fix, weights_quantization_params=QuantizationParameters(per_channel=False)
        ),
        "MSE, pools exact": by_nncf(constant, exact, **no_fix, activations_range_estimator_params=mse),
        "MSE, pools exact, rescaled": by_nncf(rescaled, exact, **no_fix, activations_range_estimator_params=mse),
        "export: that, and sensitive layers kept": ours,
        "export without rescaling": not_rescaled,
        "NNCF's accuracy control, 1 point": lambda: (accuracy_control(constant(), images), ""),
    }


def accuracy_control(model: Any, images: CheckImages) -> Any:
    """NNCF reverts layers until the agreement of the top class on half of the held-out images drops by 1 % at most."""
    half = images.held_out[::2]
    expected = np.concatenate([outputs[LOGITS] for _, outputs in images.reference]).argmax(1)[::2]

    def agreement(compiled: Any, _: Any) -> tuple[float, list[float]]:
        top = np.concatenate([compiled([row[None]])[LOGITS] for row in half]).argmax(1)
        return float((top == expected).mean()), (top == expected).astype(float).tolist()

    def rows(pixels: Pixels) -> nncf.Dataset:
        return nncf.Dataset([{"pixels": pixels[index : index + 1]} for index in range(len(pixels))])

    return nncf.quantize_with_accuracy_control(
        model, rows(images.calibration), rows(half), agreement, max_drop=0.01, subset_size=len(images.calibration)
    )


def compare_methods(graph: Graph, images: CheckImages, tie_margin: float, chosen: str) -> None:
    print("\n" + HEADER.format(f"{len(images.held_out)} images", "seconds"))
    for name, quantise_network in methods(graph, images).items():
        if chosen not in name:
            continue
        started = time.perf_counter()
        with _no_messages():
            model, share = quantise_network()
        seconds = time.perf_counter() - started
        run = OpenvinoEngine(model, "int8").run
        check = compare(run, images.reference, "", "", tie_margin=tie_margin, labels=images.labels)
        print(row(name, share, check, f"{seconds:.0f}"), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("images")
    parser.add_argument("--methods", nargs="?", const="", help="compare methods; only those whose name contains a text")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    model = load(str(options.run)).eval().float()
    graph = swap_pools(build_graph(model))
    images = prepare_images(model, ["int8"], collect([options.images]))
    tie_margin = change_in_bf16(graph, images.reference)
    compare_files(options.run, images, tie_margin, options.rounds)
    if options.methods is not None:
        compare_methods(graph, images, tie_margin, options.methods)


if __name__ == "__main__":
    main()
