"""FID of two folders of JPEGs: the whole command in turns with pytorch-fid, torch-fidelity and clean-fid.

    python benchmarks/fidelity.py --images 1000                      # the table of speed
    python benchmarks/fidelity.py --images 100 --peer pytorch-fid    # a part of it, in two minutes
    python benchmarks/fidelity.py --parity [--only clean-fid]        # the table of parity, on images of many kinds
    python benchmarks/fidelity.py --frechet --rounds 3               # only the distance, compared with scipy's sqrtm
    python benchmarks/fidelity.py --effect --images 1000             # how well a few images measure the effect of bf16

Each program runs in its own process, timed from its start to its result, with the same random weights in place of its
download. Rounds are interleaved so that a busy machine slows all programs alike. Ratios are taken within a round.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]
SIZE = (256, 256)
PEERS = ("pytorch-fid", "torch-fidelity", "clean-fid")
NETWORK = "network only"


def random_weights(path: Path) -> None:
    """Save random weights in the format that pytorch-fid and torch-fidelity download."""
    import torch
    import torchvision

    import conftest

    options = {"num_classes": 1008, "aux_logits": False, "weights": None, "init_weights": False}
    state = torchvision.models.inception_v3(**options).state_dict()
    conftest.randomise_2015(state)
    torch.save(state, path)


@contextlib.contextmanager
def weights_and_sets(count: int) -> Iterator[tuple[Path, list[Path]]]:
    """A file of random weights and two folders of `count` JPEGs each."""
    from fidelity_inputs import image_folder

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        random_weights(folder / "weights.pth")
        sets = [image_folder(folder / name, count, seed, SIZE, ".jpg") for name, seed in (("a", 0), ("b", 10**6))]
        yield folder / "weights.pth", sets


# --- the programs ---


def ours(generated: Path, reference: Path, weights: Path, like: str | None, *options: str) -> list[str]:
    """The command line of this package."""
    arguments = [str(generated), str(reference), "--weights-file", str(weights), "--no-cache", "--json"]
    arguments += ["--like", like] if like else []
    return [sys.executable, "-m", "inception_v3", "fidelity", *arguments, *options]


def pytorch_fid(generated: Path, reference: Path, weights: Path) -> float:
    import pytorch_fid.fid_score as fid_score

    from fidelity_peers import replace_downloads

    with replace_downloads(weights):
        paths = [str(generated), str(reference)]
        return float(fid_score.calculate_fid_given_paths(paths, 50, "cpu", 2048, min(8, os.cpu_count() or 1)))


def torch_fidelity(generated: Path, reference: Path, weights: Path) -> float:
    from torch_fidelity import calculate_metrics

    metrics = calculate_metrics(
        input1=str(generated),
        input2=str(reference),
        fid=True,
        cuda=False,
        verbose=False,
        cache=False,
        feature_extractor_weights_path=str(weights),
    )
    return float(metrics["frechet_inception_distance"])


def clean_fid(generated: Path, reference: Path, weights: Path) -> float:
    import cleanfid.fid
    import torch

    from fidelity_peers import clean_fid_model, replace_downloads

    with replace_downloads(weights):
        return float(
            cleanfid.fid.compute_fid(
                str(generated),
                str(reference),
                mode="clean",
                device=torch.device("cpu"),
                custom_feat_extractor=clean_fid_model("clean", weights),
                num_workers=os.cpu_count() or 1,
                verbose=False,
            )
        )


def network_rate(generated: Path, reference: Path, weights: Path, dtype: str) -> float:
    """Images per second of the network, without decoding and resizing."""
    import torch

    from inception_v3.fidelity.network import load_network

    network = load_network(weights, dtype="bf16" if dtype == "bf16" else "fp32")
    images = torch.rand(16, 3, 299, 299) * 2 - 1
    network.features(images)
    batches = max(len(list(generated.iterdir())) // 16, 2)
    start = time.perf_counter()
    for _ in range(batches):
        network.features(images)
    return 16 * batches / (time.perf_counter() - start)


PROGRAMS: dict[str, Callable[[Path, Path, Path], float]] = {
    "pytorch-fid": pytorch_fid,
    "torch-fidelity": torch_fidelity,
    "clean-fid": clean_fid,
    NETWORK: lambda *paths: network_rate(*paths, "fp32"),
    f"{NETWORK}, bf16": lambda *paths: network_rate(*paths, "bf16"),
}
COMMANDS: dict[str, Callable[[Path, Path, Path], list[str]]] = {
    **{f"ours, --like {peer}": lambda *paths, peer=peer: ours(*paths, peer, "--scores", "fid") for peer in PEERS},
    "ours, all scores": lambda *paths: ours(*paths, None),
    **{
        f"ours, --like {peer}, bf16": lambda *paths, peer=peer: ours(
            *paths, peer, "--scores", "fid", "--precision", "bf16"
        )
        for peer in PEERS
    },
}
ORDER = (*PEERS, *COMMANDS, NETWORK, f"{NETWORK}, bf16")


# --- speed ---


def run_program(name: str, *paths: Path) -> dict[str, float]:
    """Run a program in its own process: its number (FID or rate), wall seconds, CPU seconds, peak memory in MB."""
    if name in COMMANDS:
        command = COMMANDS[name](*paths)
    else:
        command = [sys.executable, __file__, "--run", name, *map(str, paths)]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status or not printed:
        raise SystemExit(f"{name} failed; run it by itself with --run to see why")
    return {
        "number": json.loads(printed)["fid"] if name in COMMANDS else float(printed.split()[-1]),
        "seconds": time.perf_counter() - start,
        "cpu": usage.ru_utime + usage.ru_stime,
        "memory": usage.ru_maxrss / 1024,
    }


def race(count: int, rounds: int, only: str, peer: str | None) -> None:
    """Print the table of speed."""
    names = [name for name in ORDER if only in name and (not peer or peer in name or NETWORK in name)]
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    with weights_and_sets(count) as (weights, sets):
        for _ in range(rounds):
            for name in names:
                runs[name].append(run_program(name, *sets, weights))
                print(f"{name}: {runs[name][-1]}", file=sys.stderr)
    print(f"2 x {count} JPEGs of {SIZE[0]}x{SIZE[1]}, {os.cpu_count()} cores, medians of {rounds}\n")
    print("| program | FID | images/s | times its peer | FID differs by | of the network's rate | CPU s | peak MB |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    rates = {
        name: [run["number"] if NETWORK in name else 2 * count / run["seconds"] for run in runs[name]] for name in names
    }
    for name in names:
        print(f"| {name} | {' | '.join(speed_cells(name, runs, rates))} |")


def speed_cells(name: str, runs: dict[str, list[dict[str, float]]], rates: dict[str, list[float]]) -> list[str]:
    """The cells of a program's row in the table of speed."""
    fid = runs[name][0]["number"]
    compared = next((peer for peer in PEERS if peer in name and peer != name and peer in runs), None)
    network = NETWORK + (", bf16" if "bf16" in name else "")
    cells = ["" if NETWORK in name else f"{fid:.6g}", f"{median(rates[name]):.1f}", "", "", ""]
    if compared:
        times = [ours / theirs for ours, theirs in zip(rates[name], rates[compared], strict=True)]
        cells[2] = f"{median(times):.2f}" + (f" ({min(times):.2f} to {max(times):.2f})" if len(times) > 1 else "")
        cells[3] = f"{abs(fid / runs[compared][0]['number'] - 1):.1e}"
    if name.startswith("ours") and network in rates:
        fraction = median(ours / theirs for ours, theirs in zip(rates[name], rates[network], strict=True))
        cells[4] = f"{fraction:.0%}"
    return cells + [f"{median(run[key] for run in runs[name]):.0f}" for key in ("cpu", "memory")]


# --- parity ---


def parity(only: str) -> None:
    """Print the table of parity: all scores and features, compared with the programs' own for batches of one image."""
    from fidelity_inputs import image_folder, unusual_images

    programs = parity_programs()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        random_weights(folder / "weights.pth")
        unusual_images(folder / "odd")
        image_folder(folder / "JPEGs", 20, 50, SIZE, ".jpg")
        image_folder(folder / "PNGs", 20, 90, (150, 200))
        print(
            "| convention | sets | FID here | FID there | difference | features | KID mean, std | IS mean, std | P, R |"
        )
        print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
        for name, (features, distance) in programs.items():
            if name != only if only in programs else only not in name:
                continue
            theirs = {
                part: features(sorted((folder / part).rglob("*.*"), key=str), folder / "weights.pth")
                for part in ("odd", "JPEGs", "PNGs")
            }
            for first, second in (("odd", "JPEGs"), ("PNGs", "JPEGs"), ("odd", "odd")):
                expected = distance(theirs[first], theirs[second])
                cells = parity_cells(name, folder, (first, second), theirs, expected)
                print(f"| {name} | {first}, {second} | {' | '.join(cells)} |", flush=True)


def parity_programs() -> dict[str, tuple[Callable[[list[Path], Path], Any], Callable[[Any, Any], float]]]:
    """For each convention the functions of its program from files to features, and from features to a distance."""
    import fidelity_peers as peers

    def torch_fidelity_distance(first: Any, second: Any) -> float:
        return peers.torch_fidelity_distance(first["2048"], second["2048"])

    def clean_fid_features(mode: str) -> Callable[[list[Path], Path], Any]:
        return lambda files, weights: peers.clean_fid_features(files, weights, mode)

    return {
        "pytorch-fid": (peers.pytorch_fid_features, peers.pytorch_fid_distance),
        "torch-fidelity": (peers.torch_fidelity_features, torch_fidelity_distance),
        "clean-fid": (clean_fid_features("clean"), peers.clean_fid_distance),
        "clean-fid:legacy-pytorch": (clean_fid_features("legacy_pytorch"), peers.clean_fid_distance),
        "clean-fid:legacy-tensorflow": (clean_fid_features("legacy_tensorflow"), peers.clean_fid_distance),
    }


def parity_cells(name: str, folder: Path, sets: tuple[str, str], theirs: dict[str, Any], expected: float) -> list[str]:
    """Score two sets in `folder`, and compare with the scores from the program's features `theirs`."""
    import numpy as np

    from inception_v3.fidelity.run import fidelity

    first, second = sets
    sampling = {} if name.startswith("clean-fid") else {"kid_subsets": 20, "kid_subset_size": 8}
    result = fidelity(
        folder / first,
        folder / second,
        like=name,
        weights=folder / "weights.pth",
        scores=["fid", "kid", "is", "precision"],
        cache=folder / "cache",
        is_splits=3,
        **sampling,
    )
    assert result.generated.features is not None
    our_features = np.asarray(result.generated.features.pooled)
    generated, reference = (pooled(theirs[part]) for part in (first, second))
    fid, other_scores = result.scores["fid"] or 0.0, peer_scores(name, theirs[first], theirs[second])
    kernel = float(((generated @ reference.T / 2048 + 1) ** 3).mean())
    cells = [f"{fid:.6f} | {expected:.6f} | {fid - expected:+.1e}"]
    cells.append(f"{np.abs(our_features - generated).max() / np.abs(generated).max():.0e}")
    for keys in (("kid_mean", "kid_std"), ("is_mean", "is_std"), ("precision", "recall")):
        scale = kernel if keys[0] == "kid_mean" else 1.0
        differences = [
            abs((result.scores[key] or 0.0) - other_scores[key]) / scale for key in keys if key in other_scores
        ]
        cells.append(", ".join(f"{value:.0e}" for value in differences))
    return cells


def pooled(features: Any) -> Any:
    """The 2048 features of a program's output, in float64."""
    import numpy as np

    return np.asarray(features["2048"] if isinstance(features, dict) else features, np.float64)


def peer_scores(name: str, first: Any, second: Any) -> dict[str, float]:
    """The scores besides FID that the program has, from its own features in float64."""
    import numpy as np

    if name.startswith("clean-fid"):
        import cleanfid.fid

        np.random.seed(2020)
        return {"kid_mean": cleanfid.fid.kernel_distance(pooled(first), pooled(second))}
    if name == "pytorch-fid":
        return {}
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric

    both = [side["2048"].double() for side in (first, second)]
    kid = kid_features_to_metric(*both, kid_subsets=20, kid_subset_size=8, verbose=False)
    inception_score = isc_features_to_metric(first["logits_unbiased"].double(), 3)
    neighbours = prc_features_to_metric(*both, verbose=False)
    return {
        "kid_mean": kid["kernel_inception_distance_mean"],
        "kid_std": kid["kernel_inception_distance_std"],
        "is_mean": inception_score["inception_score_mean"],
        "is_std": inception_score["inception_score_std"],
        "precision": neighbours["precision"],
        "recall": neighbours["recall"],
    }


# --- the distance ---


def frechet(rounds: int) -> None:
    """Time one distance over 2048 dimensions, from means and covariances or from features."""
    import numpy as np
    from scipy.linalg import sqrtm

    from inception_v3.fidelity.frechet import Gaussian, frechet_distance

    axes = np.linalg.qr(np.random.default_rng(0).normal(size=(2048, 2048)))[0]
    scales = 1 / np.arange(1, 2049) ** 0.7

    def draw_features(seed: int, count: int) -> Any:
        return (np.random.default_rng(seed).normal(size=(count, 2048)) * scales) @ axes + seed / 50

    def by_sqrtm(first: Gaussian, second: Gaussian) -> float:
        root = sqrtm(first.covariance @ second.covariance).real
        return float(np.square(first.mean - second.mean).sum() + first.trace + second.trace - 2 * np.trace(root))

    print("| given | here, s (CPU s) | scipy's sqrtm, s (CPU s) | distance | difference, in the traces |")
    print("| --- | --- | --- | --- | --- |")
    for count in (5000, 2000, 1000):
        sides = [Gaussian.from_features(draw_features(seed, count)) for seed in (1, 2)]
        expected, *theirs = timed(lambda sides=sides: by_sqrtm(*sides))
        for given in ("features", "covariances") if count < 2048 else ("covariances",):
            runs = []
            for _ in range(rounds):
                # New objects for each round, because a Gaussian caches its factors.
                fresh = [
                    Gaussian(side.mean, centred=side.centred)
                    if given == "features"
                    else Gaussian(side.mean, side.covariance)
                    for side in sides
                ]
                runs.append(timed(lambda fresh=fresh: frechet_distance(*fresh)))
            distance, *ours = (median(column) for column in zip(*runs, strict=True))
            difference = abs(distance - expected) / (sides[0].trace + sides[1].trace)
            cells = [f"{wall:.2f} ({cpu:.2f})" for wall, cpu in (ours, theirs)]
            print(
                f"| {given} of {count} images | {' | '.join(cells)} | {distance:.6f} | {difference:.0e} |", flush=True
            )


def timed(function: Callable[[], float]) -> tuple[float, float, float]:
    """Its result, wall seconds, and CPU seconds."""
    start, cpu_start = time.perf_counter(), time.process_time()
    number = function()
    return number, time.perf_counter() - start, time.process_time() - cpu_start


# --- the effect of bf16 ---


def effect(count: int) -> None:
    """Compare the change of FID by bf16 measured on some images of each set with that of all."""
    import numpy as np

    from inception_v3.fidelity.conventions import find_convention
    from inception_v3.fidelity.features import extract_features
    from inception_v3.fidelity.frechet import Gaussian, frechet_distance
    from inception_v3.fidelity.image_sets import open_image_set
    from inception_v3.fidelity.network import load_network

    convention, features = find_convention("pytorch-fid"), {}
    with weights_and_sets(count) as (weights, sets):
        for dtype in ("fp32", "bf16"):
            network = load_network(weights, dtype=dtype, callers=2)
            features[dtype] = [
                np.asarray(extract_features(open_image_set(folder), network, convention).pooled) for folder in sets
            ]

    def change(rows: Any) -> float:
        full, lower = (
            frechet_distance(*(Gaussian.from_features(side[rows]) for side in features[dtype]))
            for dtype in ("fp32", "bf16")
        )
        return lower / full - 1

    print(f"bf16 changes FID by {change(slice(None)):+.2%} on all {count} images of each set\n")
    print("| images of each set | mean of 300 draws | standard deviation |")
    print("| --- | --- | --- |")
    random = np.random.default_rng(0)
    for some in (8, 16, 32, 64):
        changes = [change(random.choice(count, min(some, count), replace=False)) for _ in range(300)]
        print(f"| {some} | {np.mean(changes):+.2%} | {np.std(changes):.2%} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64, help="in each folder")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--peer", choices=PEERS, help="only this program, and the runs that are compared with it")
    parser.add_argument("--only", default="", help="only programs or conventions whose name contains this text")
    parser.add_argument("--parity", action="store_true", help="print the table of parity")
    parser.add_argument("--frechet", action="store_true", help="time only the distance")
    parser.add_argument("--effect", action="store_true", help="how well some images measure the effect of bf16 on FID")
    parser.add_argument("--run", nargs=4, metavar=("PROGRAM", "GENERATED", "REFERENCE", "WEIGHTS"))
    options = parser.parse_args()
    if options.run:
        name, *paths = options.run
        print(PROGRAMS[name](*map(Path, paths)))
    elif options.parity:
        parity(options.only)
    elif options.frechet:
        frechet(options.rounds)
    elif options.effect:
        effect(options.images)
    else:
        race(options.images, options.rounds, options.only, options.peer)


if __name__ == "__main__":
    main()
