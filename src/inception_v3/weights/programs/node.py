"""`NodeProgram`: a package of Node that runs models, such as TensorFlow.js, in a process of its own."""

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np

from inception_v3.support.system_errors import temporary_folder
from inception_v3.weights.programs.program import MAX_SECONDS, MissingProgramError, ProgramError


@dataclass(frozen=True)
class NodeProgram:
    """A package of Node, and the script beside this file that runs it.

    The package is looked for in the current folder and above it, in NODE_PATH, and among those installed globally.
    """

    package: str
    script: str

    def run(
        self, path: Path, images: np.ndarray, settings: Mapping[str, Any], python: object = None
    ) -> tuple[str, dict[str, np.ndarray]]:
        """Let the program load `path` and run it on images, float32 of shape (N, 3, H, W). `python` is not used.

        Returns the package with its version, and the logits, or the last map of a network without heads, in NCHW.
        Raises MissingProgramError: Node or the package is not installed. Raises ProgramError: it fails on the file.
        """
        node = which("node")
        if node is None:
            raise MissingProgramError("Node is not installed; install it from https://nodejs.org")
        with temporary_folder() as folder:
            images.transpose(0, 2, 3, 1).astype("<f4").tofile(folder / "images.bin")
            size = map(str, images.shape[2:])
            output = folder / "outputs.json"
            command: list[str | Path] = [
                node,
                Path(__file__).with_name(self.script),
                Path.cwd(),
                path.absolute(),
                folder / "images.bin",
            ]
            environment = os.environ | {"NODE_PATH": os.pathsep.join(_module_folders())}
            try:
                done = subprocess.run(
                    [*command, *size, output, "logits"], env=environment, capture_output=True, timeout=MAX_SECONDS
                )
            except subprocess.TimeoutExpired as error:
                raise ProgramError(f"it has not ended after {MAX_SECONDS / 60:.0f} minutes") from error
            errors = done.stderr.decode(errors="replace")
            if "MODULE_NOT_FOUND" in errors:
                remedy = f"npm install {self.package} {self.package}-backend-wasm"
                raise MissingProgramError(f"Node has no {self.package}; install it: {remedy}")
            if done.returncode:
                line = next((line for line in errors.splitlines() if "Error" in line), f"status {done.returncode}")
                raise ProgramError(line.strip()[:200])
            outputs = json.loads(output.read_text())
        array = np.array(outputs["values"], np.float32).reshape(outputs["shape"])
        end_point = settings["final_endpoint"]
        named = {end_point: array.transpose(0, 3, 1, 2)} if end_point else {"Logits": array}
        return f"{self.package} {outputs['version']}", named


def _module_folders() -> list[str]:
    """The folders of NODE_PATH, and that of packages that are installed globally."""
    folders = [folder for folder in os.environ.get("NODE_PATH", "").split(os.pathsep) if folder]
    if npm := which("npm"):
        done = subprocess.run([npm, "root", "--global"], capture_output=True, text=True)
        folders += done.stdout.split("\n")[:1]
    return folders
