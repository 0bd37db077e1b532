"""Print how large the installations are and how long they take: the table of docs/dependencies.md.

    .venv/bin/python benchmarks/installation.py
    .venv/bin/python benchmarks/installation.py --cpu-wheel FILE    # PyTorch for CPUs from a file instead of its index
    .venv/bin/python benchmarks/installation.py --packages          # the sizes of the packages in .venv

Each installation is made by uv in a fresh environment, without uv's cache, so the times include the downloads. Sizes
are those of `du -sm`, with compiled bytecode. The last row is this clone's own .venv, if `make setup` has made it.
"""

import argparse
import importlib.metadata
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
UV = ROOT / ".uv" / "bin" / "uv"


def size(folder: Path) -> str:
    """The size of a folder on the disk."""
    done = subprocess.run(["du", "-sm", folder], capture_output=True, text=True, check=True)
    return f"{int(done.stdout.split()[0]):,} MB"


def measure(*packages: str) -> tuple[str, str]:
    """The size and the time of an environment with these packages."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([UV, "venv", "--quiet", "--python", "3.11", folder], check=True)
        started = time.perf_counter()
        options = ["--quiet", "--no-cache", "--compile-bytecode", "--python", folder]
        subprocess.run([UV, "pip", "install", *options, *packages], check=True)
        return size(Path(folder)), f"{time.perf_counter() - started:.0f} s"


def print_packages() -> None:
    """Print the size of each package in this environment, without the packages that it depends on."""
    for package in sorted(importlib.metadata.distributions(), key=lambda package: package.name.lower()):
        paths = [Path(str(package.locate_file(file))) for file in package.files or ()]
        print(f"{package.name} {sum(path.stat().st_size for path in paths if path.is_file()) / 1e6:.1f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu-wheel", type=Path)
    parser.add_argument("--packages", action="store_true")
    options = parser.parse_args()
    if options.packages:
        print_packages()
        return
    cpu = [str(options.cpu_wheel)] if options.cpu_wheel else ["--torch-backend=cpu"]
    rows = {
        "pip install .": [str(ROOT)],
        "pip install '.[torch]'": [f"{ROOT}[torch]"],
        "uv pip install --torch-backend=cpu '.[torch]'": [*cpu, f"{ROOT}[torch]"],
    }
    print("| command, in a clone | size | time |")
    print("| --- | ---: | ---: |")
    for command, packages in rows.items():
        print(f"| `{command}` | {' | '.join(measure(*packages))} |", flush=True)
    if (ROOT / ".venv" / ".complete").exists():
        print(f"| `make setup` | {size(ROOT / '.venv')} | |")


if __name__ == "__main__":
    main()
