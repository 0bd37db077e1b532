"""FID of two folders of JPEGs: the whole command beside pytorch-fid, torch-fidelity and clean-fid, in turns.

    python benchmarks/fidelity.py                    # 2 x 64 pictures
    python benchmarks/fidelity.py --count 1000       # the figure of docs/fidelity.md
    python benchmarks/fidelity.py --parity           # the table of parity, on pictures of every kind

Every program runs in a process of its own, from its start to its number, with the same random weights in place of
its download. Rounds are interleaved, so that a busy machine slows all alike; the fastest of each counts.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
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


def ours(generated: Path, reference: Path, weights: Path, like: str | None, *options: str) -> float:
    from inception_v3 import cli

    given = ["fidelity", str(generated), str(reference), "--weights-file", str(weights), "--no-cache", "--json"]
    given += ["--like", like] if like else []
    sys.argv = ["inception-v3", *given, *options]
    with contextlib.redirect_stdout(tempfile.TemporaryFile("w+")) as told:
        with contextlib.suppress(SystemExit):
            cli.main()
        told.seek(0)
        return float(json.loads(told.read())["fid"])


def pytorch_fid(generated: Path, reference: Path, weights: Path) -> float:
    import pytorch_fid.fid_score as fid_score

    from fidelity_peers import in_place_of_downloads

    with in_place_of_downloads(weights):
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

    from fidelity_peers import clean_fid_model, in_place_of_downloads

    with in_place_of_downloads(weights):
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
    **{f"ours, --like {peer}": lambda *given, peer=peer: ours(*given, peer, "--scores", "fid") for peer in PEERS},
    "ours, all scores": lambda *given: ours(*given, None),
    **{
        f"ours, --like {peer}, bf16": lambda *given, peer=peer: ours(
            *given, peer, "--scores", "fid", "--precision", "bf16"
        )
        for peer in PEERS
    },
    "the network alone": lambda *given: engine(*given, "fp32"),
    "the network alone, bf16": lambda *given: engine(*given, "bf16"),
}


def timed(name: str, *paths: Path) -> dict[str, float]:
    """One run in a process of its own: its number, seconds from start to end, seconds of CPU, peak memory in MB."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, __file__, "--run", name, *map(str, paths)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    told = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status or not told:
        raise SystemExit(f"{name} failed; run it alone with --run to see why")
    return {
        "number": float(told.split()[-1]),
        "seconds": time.perf_counter() - start,
        "cpu": usage.ru_utime + usage.ru_stime,
        "memory": usage.ru_maxrss / 1024,
    }


def race(count: int, rounds: int, only: str) -> None:
    from fidelity_pictures import folder_of

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        weights = folder / "weights.pth"
        random_weights(weights)
        sets = [folder_of(folder / name, count, seed, SIZE, ".jpg") for name, seed in (("a", 0), ("b", 10**6))]
        best: dict[str, dict[str, float]] = {}
        names = [name for name in PROGRAMS if only in name]
        for _ in range(rounds):
            for name in names:
                found = timed(name, *sets, weights)
                if name not in best or found["seconds"] < best[name]["seconds"]:
                    best[name] = found
                print(f"{name}: {found}", file=sys.stderr)
    print(f"2 x {count} JPEGs of {SIZE[0]}x{SIZE[1]}, {os.cpu_count()} cores, best of {rounds}\n")
    print("| program | FID | pictures/s | times its peer | CPU s | peak MB |\n| --- | --- | --- | --- | --- | --- |")
    for name, found in best.items():
        alone = name.startswith("the network")
        rate = found["number"] if alone else 2 * count / found["seconds"]
        peer = next((peer for peer in PEERS if peer in name and peer != name), None)
        faster = f"{best[peer]['seconds'] / found['seconds']:.2f}" if peer in best else ""
        number = "" if alone else f"{found['number']:.6g}"
        print(f"| {name} | {number} | {rate:.1f} | {faster} | {found['cpu']:.0f} | {found['memory']:.0f} |")


def parity() -> None:
    """FID and features of pictures of every kind, each file alone in a batch, beside the programs' own."""
    import numpy as np

    import fidelity_peers as peers
    from fidelity_pictures import folder_of, odd_pictures
    from inception_v3.fidelity.run import fidelity

    Features = Callable[[list[Path], Path], Any]
    table: list[tuple[str, Features, Callable[[Any, Any], float]]] = [
        ("pytorch-fid", peers.pytorch_fid_features, peers.pytorch_fid_distance),
        ("torch-fidelity", lambda f, w: peers.torch_fidelity_features(f, w)["2048"], peers.torch_fidelity_distance),
        ("clean-fid", lambda f, w: peers.clean_fid_features(f, w, "clean"), peers.clean_fid_distance),
        *(
            (f"clean-fid:{mode}", lambda f, w, m=mode: peers.clean_fid_features(f, w, m.replace("-", "_")),
             peers.clean_fid_distance)
            for mode in ("legacy-pytorch", "legacy-tensorflow")
        ),
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        weights = folder / "weights.pth"
        random_weights(weights)
        odd_pictures(folder / "odd")
        folder_of(folder / "even", 16, 50, (120, 160), ".jpg")
        lists = [sorted(map(str, (folder / name).rglob("*.*"))) for name in ("odd", "even")]
        print("| convention | set | FID here | FID there | difference | features differ by |")
        print("| --- | --- | --- | --- | --- | --- |")
        for name, features, distance in table:
            theirs = [features([Path(file) for file in files], weights) for files in lists]
            for title, second in (("odd against even", 1), ("odd against itself", 0)):
                paths = folder / "odd", folder / ("even" if second else "odd")
                found = fidelity(*paths, like=name, weights=weights, scores=["fid"], cache=folder / "cache")
                expected = distance(theirs[0], theirs[second])
                there = np.asarray(theirs[0])
                assert found.generated.features is not None
                error = np.abs(found.generated.features.pooled - there).max() / np.abs(there).max()
                fid = found.scores["fid"]
                assert fid is not None
                print(f"| {name} | {title} | {fid:.6f} | {expected:.6f} | {fid - expected:+.1e} | {error:.1e} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=64, help="pictures in each folder")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", default="", help="programs whose name has this in it")
    parser.add_argument("--parity", action="store_true")
    parser.add_argument("--run", nargs=4, metavar=("PROGRAM", "GENERATED", "REFERENCE", "WEIGHTS"))
    options = parser.parse_args()
    if options.run:
        name, *paths = options.run
        print(PROGRAMS[name](*map(Path, paths)))
    elif options.parity:
        parity()
    else:
        race(options.count, options.rounds, options.only)


if __name__ == "__main__":
    main()
