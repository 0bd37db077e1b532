"""Run another program's Inception V3 in a process of its own: `python runner.py SCRIPT DISTRIBUTION FILE SETTINGS`.

SCRIPT is a module in this folder with a function `run(path, images, settings)`. The current folder holds images.npy
and gets outputs.npz, with what `run` returns, and report.json: the program and its version, or what went wrong.
"""

import json
import sys
from contextlib import suppress
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np


def main() -> None:
    script, program, path, settings = sys.argv[1:]
    # A package of this folder only, so that the scripts can import one another but nothing else of this project.
    package = ModuleType("programs")
    package.__path__ = [str(Path(__file__).parent)]
    sys.modules["programs"] = package
    try:
        run = import_module(f"programs.{script}").run
        np.savez("outputs.npz", **run(path, np.load("images.npy"), json.loads(settings)))
        with suppress(PackageNotFoundError):  # a nightly build is a distribution of another name
            program = f"{program} {version(program)}"
        report: dict[str, Any] = {"program": program}
    except Exception as error:  # the program may raise anything
        first_line = str(error).strip().partition("\n")[0][:200]
        missing = isinstance(error, ImportError)
        report = {"problem": first_line if missing else f"{type(error).__name__}: {first_line}", "missing": missing}
    Path("report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main()
