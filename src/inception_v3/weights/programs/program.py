"""`Program`: another program with an Inception V3, which this project runs in a process of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from inception_v3.support.privacy import FOLDERS
from inception_v3.support.system_errors import temporary_folder

MAX_SECONDS = 1800.0  # after which a program hangs


class ProgramError(Exception):
    """The program fails on the file, or cannot be run at all."""


class MissingProgramError(ProgramError):
    """The program is not installed."""


@dataclass(frozen=True)
class Program:
    """A program by the name of its Python distribution, which peers.py lists with how it is run."""

    distribution: str

    def run(
        self, path: Path, images: np.ndarray, settings: Mapping[str, Any], python: str | Path = sys.executable
    ) -> tuple[str, dict[str, np.ndarray]]:
        """Let the program load `path` with its own loader and run its own network on images.

        The separate process protects this one from whatever the program prints, downloads, changes or allocates.

        Args:
            path: a file of weights in the program's format.
            images: float32 of shape (N, 3, H, W), as the file takes them.
            settings: the options of InceptionV3 for these weights, most of which the file does not store.
            python: the Python interpreter in which the program is installed: a path, or a command in PATH.

        Returns:
            The distribution with its version, and the outputs in NCHW by end point: Logits and AuxLogits, or the last
            map of a network without heads.

        Raises:
            MissingProgramError: the program is not installed.
            ProgramError: the interpreter cannot be run, or the program fails on the file.
        """
        if os.sep in os.fspath(python):
            # The process starts in another folder. A link is kept: it tells Python its virtual environment.
            python = Path(python).absolute()
        with temporary_folder() as folder:
            np.save(folder / "images.npy", images)
            command = [
                python,
                Path(__file__).with_name("peers.py"),
                self.distribution,
                path.absolute(),
                json.dumps(dict(settings)),
            ]
            environment = os.environ | {
                "PYTHONSAFEPATH": "1",  # do not import modules from the folder of the scripts
                "CUDA_VISIBLE_DEVICES": "-1",
                "KERAS_HOME": str(folder),  # neither read nor create the user's configuration
                "KERAS_TORCH_DEVICE": "cpu",
                "TF_CPP_MIN_LOG_LEVEL": "3",
                "HF_HUB_OFFLINE": "1",
            }
            for variable in FOLDERS:  # of libraries, which create them when the program imports them
                environment.setdefault(variable, str(folder))
            try:
                done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=MAX_SECONDS)
            except OSError as error:
                raise ProgramError(f"{python} cannot be run ({error.strerror or error})") from error
            except subprocess.TimeoutExpired as error:
                raise ProgramError(f"it has not ended after {MAX_SECONDS / 60:.0f} minutes") from error
            try:
                report = json.loads((folder / "report.json").read_text())
            except (OSError, ValueError) as error:  # killed, for example for lack of memory; or there is no NumPy
                *_, last = ["", *done.stderr.decode(errors="replace").split("\n")[:-1]]
                raise ProgramError(f"exit status {done.returncode} {last[:200]}".strip()) from error
            if "program" not in report:
                raise (MissingProgramError if report["missing"] else ProgramError)(report["problem"])
            with np.load(folder / "outputs.npz") as outputs:
                return report["program"], dict(outputs)
