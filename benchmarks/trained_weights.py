"""How much bf16 and int8 change the outputs of trained networks, and their accuracy and speed.

    python benchmarks/trained_weights.py MODEL IMAGES            # the tables of errors and accuracy
    python benchmarks/trained_weights.py MODEL IMAGES --speed    # the table of speed, on a machine that is idle

MODEL is anything that `load` reads, and IMAGES a folder of class/image files. Every second image of each class is used
to fine-tune MODEL to these classes with `inception-v3 finetune`, and to calibrate int8. The other
images are used only for the tables: MODEL and the fine-tuned network, in every precision of every engine, are compared
with the network itself, which PyTorch runs layer by layer in float32.

With `--speed` the engines take turns, as in `inception-v3 bench`, and the speeds are medians over the rounds.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from inception_v3 import InceptionV3, load
from inception_v3.benchmarking.bench import bench, write_model_file
from inception_v3.benchmarking.systems import Candidate, list_candidates
from inception_v3.evaluation.evaluate import wilson_interval
from inception_v3.images.addresses import collect
from inception_v3.inference.choose import open_engine
from inception_v3.inference.engines.base import FEATURES, LOGITS, Outputs, Pixels, Run
from inception_v3.inference.engines.graph import build_graph, swap_pools
from inception_v3.inference.engines.registry import ENGINES, load_engine
from inception_v3.inference.export import CheckImages, prepare_images
from inception_v3.inference.exported.check import compare
from inception_v3.inference.exported.description import AgreementCheck
from inception_v3.inference.exported.registry import load_format
from inception_v3.inference.pipeline import prepared_pixels
from inception_v3.inference.quantise import quantise

CHOSEN = [name for name in ENGINES if name != "compile"]
HEADINGS = {
    "errors": "| network | engine | precision | probability, largest | mean | KL | feature, largest | mean |",
    "accuracy": "| network | engine | precision | in int8 | same class as fp32 | top-1 | 95 % interval |",
    "speed": "| engine | precision | one image, images/s | × | batches of 16, images/s | × |",
}
LEFT_COLUMNS = {"errors": 3, "accuracy": 3, "speed": 2}


@dataclass(frozen=True)
class Compared:
    """An engine in one precision: its outputs compared with the network's own, as probabilities and as features."""

    name: str
    candidate: Candidate
    int8_share: float
    probabilities: AgreementCheck
    features: AgreementCheck

    def errors(self) -> list[str]:
        both = self.probabilities, self.features
        (largest, mean), features = ([f"{each.max_difference:.0e}", f"{each.mean_difference:.0e}"] for each in both)
        return [*self.labels(), largest, mean, f"{self.probabilities.mean_kl:.0e}", *features]

    def accuracy(self) -> list[str]:
        check, share = self.probabilities, self.int8_share
        interval = "–"
        if check.accuracy is not None:
            interval = " to ".join(f"{end:.0%}" for end in wilson_interval(check.accuracy, check.pictures))
        accuracy = "–" if check.accuracy is None else f"{check.accuracy:.1%}"
        in_int8 = f"{share:.1%}" if share else "–"
        return [*self.labels(), in_int8, f"{check.top_1_agreement:.1%}", accuracy, interval]

    def labels(self) -> list[str]:
        return [self.name, self.candidate.system.name, self.candidate.precision]


def halve(images: Path, folder: Path) -> None:
    """Link the images of each class into `folder`, by turns into train/ and val/."""
    for of_class in sorted(images.iterdir()):
        for number, file in enumerate(sorted(of_class.iterdir())):
            link = folder / ("val" if number % 2 else "train") / of_class.name / file.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file.absolute())


def open_run(candidate: Candidate, folder: Path, model: InceptionV3, calibration: Pixels) -> tuple[Run, float]:
    """The function that runs a candidate, and the fraction of its multiplications that are in int8.

    int8 is quantised as by `export`, but without its check, which refuses images that are all of one class.
    """
    if candidate.precision == "int8":
        format = load_format(load_engine(candidate.system.name).formats[0])
        graph = swap_pools(build_graph(model))
        network = quantise(graph, format.convert, calibration)
        return format.run(network.model, "int8", graph.outputs), network.share
    file = folder / candidate.file
    if not file.exists():
        write_model_file(candidate, folder, model, [])
    return open_engine(file, candidate.system.name, candidate.precision, min_agreement=0).engine.run, 0.0


def remembering(compute: Run) -> Run:
    """Compute the outputs of each batch once, however often they are compared."""
    known: dict[bytes, Outputs] = {}

    def run(pixels: Pixels) -> Outputs:
        key = pixels.tobytes()
        if key not in known:
            known[key] = compute(pixels)
        return known[key]

    return run


def compare_all(name: str, model: InceptionV3, data: Path, folder: Path) -> Iterator[Compared]:
    """Compare a network in every precision of every engine on the images in `data`/val."""
    calibration, _, _ = prepared_pixels(collect([str(data / "train")]), model.preprocessing, "pillow")
    images = prepare_images(model, ["fp32"], collect([str(data / "val")]))
    folder.mkdir()
    for candidate in list_candidates("cpu", CHOSEN, peers=False, compiled=False):
        print(f"{name}: {candidate}", file=sys.stderr)
        run, share = open_run(candidate, folder, model, calibration)
        yield Compared(name, candidate, share, *checks(run, model, images))


def checks(run: Run, model: InceptionV3, images: CheckImages) -> tuple[AgreementCheck, AgreementCheck]:
    """Compare the probabilities, and the features relative to the largest feature of their batch."""
    run, activation = remembering(run), model.settings.output_activation
    features = [(pixels, {FEATURES: outputs[FEATURES]}) for pixels, outputs in images.reference]
    logits = [(pixels, {LOGITS: outputs[LOGITS]}) for pixels, outputs in images.reference]
    return (
        compare(run, logits, "", "", labels=images.labels, activation=activation),
        compare(run, features, "", ""),
    )


def fine_tune(model: str, data: Path, run: Path) -> InceptionV3:
    command = [sys.executable, "-m", "inception_v3", "finetune", model, str(data), "--out", str(run)]
    print(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout, file=sys.stderr)
    return load(run)


def speeds(model: InceptionV3, images: Path, rounds: int) -> Iterator[list[str]]:
    """A row for each engine and precision; × is the speed relative to the first."""
    result = bench(model, images=collect([str(images)]), engines=CHOSEN, rounds=rounds)
    for name, reason in result.skipped.items():
        print(f"{name}: not measured: {reason}", file=sys.stderr)
    for single, batches in zip(result.rows[::2], result.rows[1::2], strict=True):
        figures = [text for row in (single, batches) for text in (f"{row.images_per_second:.1f}", f"{row.ratio:.2f}")]
        yield [single.engine, single.precision, *figures]


def print_table(kind: str, rows: list[list[str]]) -> None:
    columns, left = len(rows[0]), LEFT_COLUMNS[kind]
    print(f"\n{HEADINGS[kind]}\n|{' --- |' * left}{' ---: |' * (columns - left)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("images", type=Path)
    parser.add_argument("--speed", action="store_true", help="measure the speed of MODEL, and nothing else")
    parser.add_argument("--rounds", type=int, default=10, help="turns of each engine, with --speed")
    options = parser.parse_args()
    if options.speed:
        print_table("speed", list(speeds(load(options.model), options.images, options.rounds)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        halve(options.images, folder / "data")
        networks = {
            "trained": load(options.model),
            "fine-tuned": fine_tune(options.model, folder / "data", folder / "run"),
        }
        compared = [
            row for name, model in networks.items() for row in compare_all(name, model, folder / "data", folder / name)
        ]
        print(f"{compared[0].probabilities.pictures} images")
        print_table("errors", [row.errors() for row in compared])
        print_table("accuracy", [row.accuracy() for row in compared])


if __name__ == "__main__":
    main()
