"""FID of two folders of JPEGs: the whole command beside pytorch-fid, torch-fidelity and clean-fid, in turns.

    python benchmarks/fidelity.py --images 1000                      # the table of speed
    python benchmarks/fidelity.py --images 100 --peer pytorch-fid    # a part of it, in two minutes
    python benchmarks/fidelity.py --parity [--only clean-fid]        # the table of parity, on pictures of every kind
    python benchmarks/fidelity.py --frechet --rounds 3               # the distance alone, beside scipy's sqrtm
    python benchmarks/fidelity.py --effect --images 1000             # how well a few pictures tell what bf16 does

Every program runs in a process of its own, from its start to its number, with the same random weights in place of
its download. Rounds are interleaved, so that a busy machine slows all alike; ratios are taken within a round.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]
SIZE = (256, 256)
PEERS = ("pytorch-fid", "torch-fidelity", "clean-fid")


def random_weights(path: Path) -> None:
    """A file as pytorch-fid and torch-fidelity fetch it, every tensor random."""
    import torch
    import torchvision

    import conftest

    options = {"num_classes": 1008, "aux_logits": False, "weights": None, "init_weights": False}
    state = torchvision.models.inception_v3(**options).state_dict()
    conftest.randomise_2015(state)
    torch.save(state, path)


# --- each program, whole ---


def ours(generated: Path, reference: Path, weights: Path, like: str | None, *options: str) -> list[str]:
    given = [str(generated), str(reference), "--weights-file", str(weights), "--no-cache", "--json"]
    given += ["--like", like] if like else []
    return [sys.executable, "-m", "inception_v3", "fidelity", *given, *options]


def pytorch_fid(generated: Path, reference: Path, weights: Path) -> float:
    import pytorch_fid.fid_score as fid_score

    from fidelity_peers import replace_downloads

    with replace_downloads(weights):
        paths = [str(generated), str(reference)]
        return float(fid_score.calculate_fid_given_paths(paths, 50, "cpu", 2048, min(8, os.cpu_count() or 1)))


def torch_fidelity(generated: Path, reference: Path, weights: Path) -> float:
    from torch_fidelity import calculate_metrics

    found = calculate_metrics(
        input1=str(generated),
        input2=str(reference),
        fid=True,
        cuda=False,
        verbose=False,
        cache=False,
        feature_extractor_weights_path=str(weights),
    )
    return float(found["frechet_inception_distance"])


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


def engine(generated: Path, reference: Path, weights: Path, dtype: str) -> float:
    """Pictures a second of the network alone, on pictures that are ready."""
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
    "the network alone": lambda *given: engine(*given, "fp32"),
    "the network alone, bf16": lambda *given: engine(*given, "bf16"),
}
COMMANDS: dict[str, Callable[[Path, Path, Path], list[str]]] = {
    **{f"ours, --like {peer}": lambda *given, peer=peer: ours(*given, peer, "--scores", "fid") for peer in PEERS},
    "ours, all scores": lambda *given: ours(*given, None),
    **{
        f"ours, --like {peer}, bf16": lambda *given, peer=peer: ours(
            *given, peer, "--scores", "fid", "--precision", "bf16"
        )
        for peer in PEERS
    },
}
ORDER = (*PEERS, *COMMANDS, "the network alone", "the network alone, bf16")


def timed(name: str, *paths: Path) -> dict[str, float]:
    """One run in a process of its own: its number, seconds from start to end, seconds of CPU, peak memory in MB."""
    if name in COMMANDS:
        command = COMMANDS[name](*paths)
    else:
        command = [sys.executable, __file__, "--run", name, *map(str, paths)]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    told = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status or not told:
        raise SystemExit(f"{name} failed; run it alone with --run to see why")
    return {
        "number": json.loads(told)["fid"] if name in COMMANDS else float(told.split()[-1]),
        "seconds": time.perf_counter() - start,
        "cpu": usage.ru_utime + usage.ru_stime,
        "memory": usage.ru_maxrss / 1024,
    }


def race(count: int, rounds: int, only: str, peer: str | None) -> None:
    from fidelity_inputs import image_folder

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        weights = folder / "weights.pth"
        random_weights(weights)
        sets = [image_folder(folder / name, count, seed, SIZE, ".jpg") for name, seed in (("a", 0), ("b", 10**6))]
        names = [name for name in ORDER if only in name and (not peer or peer in name or "alone" in name)]
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
        for _ in range(rounds):
            for name in names:
                runs[name].append(timed(name, *sets, weights))
                print(f"{name}: {runs[name][-1]}", file=sys.stderr)
    print(f"2 x {count} JPEGs of {SIZE[0]}x{SIZE[1]}, {os.cpu_count()} cores, medians of {rounds}\n")
    print("| program | FID | pictures/s | times its peer | FID differs by | of the network's rate | CPU s | peak MB |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    rates = {
        name: [run["number"] if "alone" in name else 2 * count / run["seconds"] for run in found]
        for name, found in runs.items()
    }
    for name, found in runs.items():
        fid = found[0]["number"]
        of = next((peer for peer in PEERS if peer in name and peer != name and peer in runs), None)
        alone = "the network alone" + (", bf16" if "bf16" in name else "")
        cells = ["" if "alone" in name else f"{fid:.6g}", f"{median(rates[name]):.1f}", "", "", ""]
        if of:
            times = [ours / theirs for ours, theirs in zip(rates[name], rates[of], strict=True)]
            cells[2] = f"{median(times):.2f}" + (f" ({min(times):.2f} to {max(times):.2f})" if rounds > 1 else "")
            cells[3] = f"{abs(fid / runs[of][0]['number'] - 1):.1e}"
        if name.startswith("ours") and alone in rates:
            share = median(ours / network for ours, network in zip(rates[name], rates[alone], strict=True))
            cells[4] = f"{share:.0%}"
        cells += [f"{median(run[key] for run in found):.0f}" for key in ("cpu", "memory")]
        print(f"| {name} | {' | '.join(cells)} |")


def parity(only: str) -> None:
    """Every score and the features beside the programs' own, each of their files alone in a batch."""
    import cleanfid.fid
    import numpy as np
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric

    import fidelity_peers as peers
    from fidelity_inputs import image_folder, unusual_images
    from inception_v3.fidelity.run import fidelity

    Features = Callable[[list[Path], Path], Any]
    table: list[tuple[str, Features, Callable[[Any, Any], float]]] = [
        ("pytorch-fid", peers.pytorch_fid_features, peers.pytorch_fid_distance),
        (
            "torch-fidelity", peers.torch_fidelity_features,
            lambda first, second: peers.torch_fidelity_distance(first["2048"], second["2048"]),
        ),
        *(
            (f"clean-fid{':' if mode else ''}{mode}",
             lambda f, w, m=mode or "clean": peers.clean_fid_features(f, w, m.replace("-", "_")),
             peers.clean_fid_distance)
            for mode in ("", "legacy-pytorch", "legacy-tensorflow")
        ),
    ]  # fmt: skip

    def pooled(features: Any) -> Any:
        return np.asarray(features["2048"] if isinstance(features, dict) else features, np.float64)

    def others(name: str, first: Any, second: Any) -> dict[str, float]:
        """What else the program has, from its own features in float64."""
        if name.startswith("clean-fid"):
            np.random.seed(2020)
            return {"kid_mean": cleanfid.fid.kernel_distance(*(x.astype(np.float64) for x in (first, second)))}
        if name == "pytorch-fid":
            return {}
        both = [side["2048"].double() for side in (first, second)]
        kid = kid_features_to_metric(*both, kid_subsets=20, kid_subset_size=8, verbose=False)
        score = isc_features_to_metric(first["logits_unbiased"].double(), 3)
        near = prc_features_to_metric(*both, verbose=False)
        return {
            "kid_mean": kid["kernel_inception_distance_mean"],
            "kid_std": kid["kernel_inception_distance_std"],
            "is_mean": score["inception_score_mean"],
            "is_std": score["inception_score_std"],
            "precision": near["precision"],
            "recall": near["recall"],
        }

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        weights = folder / "weights.pth"
        random_weights(weights)
        unusual_images(folder / "odd")
        image_folder(folder / "JPEGs", 20, 50, SIZE, ".jpg")
        image_folder(folder / "PNGs", 20, 90, (150, 200))
        print(
            "| convention | sets | FID here | FID there | difference | features | KID mean, std | IS mean, std | P, R |"
        )
        print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
        names = [name for name, *_ in table]
        for name, features, distance in table:
            if name != only if only in names else only not in name:
                continue
            theirs = {
                part.name: features(sorted(part.rglob("*.*"), key=str), weights)
                for part in map(folder.joinpath, ("odd", "JPEGs", "PNGs"))
            }
            for first, second in (("odd", "JPEGs"), ("PNGs", "JPEGs"), ("odd", "odd")):
                drawn = {} if name.startswith("clean-fid") else {"kid_subsets": 20, "kid_subset_size": 8}
                ours = fidelity(
                    folder / first,
                    folder / second,
                    like=name,
                    weights=weights,
                    scores=["fid", "kid", "is", "precision"],
                    cache=folder / "cache",
                    is_splits=3,
                    **drawn,
                )
                assert ours.generated.features is not None
                here, (there, other) = (
                    np.asarray(ours.generated.features.pooled),
                    map(pooled, both := (theirs[first], theirs[second])),
                )
                fid, expected, told = ours.scores["fid"] or 0.0, distance(*both), others(name, *both)
                kernel = float(((there @ other.T / 2048 + 1) ** 3).mean())
                cells = [f"{name} | {first}, {second} | {fid:.6f} | {expected:.6f} | {fid - expected:+.1e}"]
                cells.append(f"{np.abs(here - there).max() / np.abs(there).max():.0e}")
                for keys in (("kid_mean", "kid_std"), ("is_mean", "is_std"), ("precision", "recall")):
                    known = [key for key in keys if key in told]
                    apart = [abs((ours.scores[key] or 0.0) - told[key]) for key in known]
                    if keys[0] == "kid_mean":
                        apart = [value / kernel for value in apart]
                    cells.append(", ".join(f"{value:.0e}" for value in apart))
                print(f"| {' | '.join(cells)} |", flush=True)


def frechet(rounds: int) -> None:
    """Seconds of one distance over 2048 dimensions, from means and covariances or from features."""
    import numpy as np
    from scipy.linalg import sqrtm

    from inception_v3.fidelity.frechet import Gaussian, frechet_distance

    axes = np.linalg.qr(np.random.default_rng(0).normal(size=(2048, 2048)))[0]
    scales = 1 / np.arange(1, 2049) ** 0.7

    def drawn(seed: int, count: int) -> Any:
        return (np.random.default_rng(seed).normal(size=(count, 2048)) * scales) @ axes + seed / 50

    def by_sqrtm(first: Gaussian, second: Gaussian) -> float:
        root = sqrtm(first.covariance @ second.covariance).real
        return float(np.square(first.mean - second.mean).sum() + first.trace + second.trace - 2 * np.trace(root))

    print("| given | here, s (of processor) | scipy's sqrtm, s | distance | difference, in the traces |")
    print("| --- | --- | --- | --- | --- |")
    for count in (5000, 2000, 1000):
        sides = [Gaussian.from_features(drawn(seed, count)) for seed in (1, 2)]
        expected, *theirs = clocked(lambda sides=sides: by_sqrtm(*sides))
        for given in ("features", "covariances") if count < 2048 else ("covariances",):
            runs = []
            for _ in range(rounds):
                # anew, since a distribution keeps its factors
                fresh = [
                    Gaussian(side.mean, centred=side.centred)
                    if given == "features"
                    else Gaussian(side.mean, given_covariance=side.covariance)
                    for side in sides
                ]
                runs.append(clocked(lambda fresh=fresh: frechet_distance(*fresh)))
            distance, *ours = (median(column) for column in zip(*runs, strict=True))
            apart = abs(distance - expected) / (sides[0].trace + sides[1].trace)
            cells = [f"{wall:.2f} ({cpu:.2f})" for wall, cpu in (ours, theirs)]
            print(f"| {given} of {count} images | {' | '.join(cells)} | {distance:.6f} | {apart:.0e} |", flush=True)


def effect(count: int) -> None:
    """What bf16 changes FID by, from some pictures of each set against all of them."""
    import numpy as np

    from fidelity_inputs import image_folder
    from inception_v3.fidelity.conventions import find_convention
    from inception_v3.fidelity.features import extract_features
    from inception_v3.fidelity.frechet import Gaussian, frechet_distance
    from inception_v3.fidelity.network import load_network
    from inception_v3.fidelity.image_sets import open_image_set

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        random_weights(folder / "weights.pth")
        sets = [image_folder(folder / name, count, seed, SIZE, ".jpg") for name, seed in (("a", 0), ("b", 10**6))]
        convention, features = find_convention("pytorch-fid", None), {}
        for dtype in ("fp32", "bf16"):
            network = load_network(folder / "weights.pth", dtype=dtype, callers=2)
            features[dtype] = [np.asarray(extract_features(open_image_set(one), network, convention).pooled) for one in sets]

    def change(places: Any) -> float:
        full, low = (
            frechet_distance(*(Gaussian.from_features(side[places]) for side in features[dtype])) for dtype in ("fp32", "bf16")
        )
        return low / full - 1

    print(f"bf16 changes FID by {change(slice(None)):+.2%} on all {count} images of each set\n")
    print("| images of each set | mean of 300 draws | standard deviation |")
    print("| --- | --- | --- |")
    random = np.random.default_rng(0)
    for some in (8, 16, 32, 64):
        told = [change(random.choice(count, min(some, count), replace=False)) for _ in range(300)]
        print(f"| {some} | {np.mean(told):+.2%} | {np.std(told):.2%} |")


def clocked(run: Callable[[], float]) -> tuple[float, float, float]:
    """Its number, seconds, and seconds of processor."""
    start, processor = time.perf_counter(), time.process_time()
    number = run()
    return number, time.perf_counter() - start, time.process_time() - processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64, help="in each folder")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--peer", choices=PEERS, help="this one, and what is measured against it")
    parser.add_argument("--only", default="", help="programs or conventions whose name has this in it")
    parser.add_argument("--parity", action="store_true", help="print the table of parity")
    parser.add_argument("--frechet", action="store_true", help="time the distance alone")
    parser.add_argument("--effect", action="store_true", help="how well some pictures tell what bf16 does to FID")
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
