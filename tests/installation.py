"""Environments with this package installed from its wheel, for the tests of the installation."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from conftest import ROOT

UV = ROOT / ".uv" / "bin" / "uv"  # `make setup` installs it
NO_INDEX = ("error sending request", "Failed to fetch", "dns error", "Connection refused")


def run(*command: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command, without this repository's own source."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run([*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=1200)


def uv(*arguments: object, cwd: Path | None = None) -> str:
    """Run uv, and return its output. Skips the test if the package index cannot be reached."""
    result = run(UV, *arguments, cwd=cwd)
    if result.returncode and any(sign in result.stderr for sign in NO_INDEX):
        pytest.skip(f"the package index cannot be reached: {result.stderr.strip().splitlines()[-1]}")
    assert result.returncode == 0, result.stderr
    return result.stdout


def build_wheel(folder: Path) -> Path:
    uv("build", "--wheel", "--quiet", "--out-dir", folder, ROOT)
    (wheel,) = folder.glob("*.whl")
    return wheel


@dataclass(frozen=True)
class Environment:
    """A virtual environment with this package."""

    path: Path

    def run(self, *arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run `inception-v3 ARGUMENTS`."""
        return run(self.path / "bin" / "inception-v3", *arguments, cwd=cwd)

    def python(self, code: str) -> str:
        """Run Python code, and return what it prints."""
        result = run(self.path / "bin" / "python", "-c", code)
        assert result.returncode == 0, result.stderr
        return result.stdout

    @property
    def packages(self) -> set[str]:
        """The names of the installed packages."""
        lines = uv("pip", "freeze", "--quiet", "--python", self.path).splitlines()
        return {line.partition("==")[0].partition(" @ ")[0] for line in lines}

    @property
    def megabytes(self) -> float:
        """The size of all files on the disk."""
        return sum(file.lstat().st_blocks * 512 for file in self.path.rglob("*")) / 1e6


def install(path: Path, requirement: str, *options: object, python: object = sys.executable) -> Environment:
    uv("venv", "--quiet", "--python", python, path)
    uv("pip", "install", "--quiet", "--python", path, requirement, *options)
    return Environment(path)


def locked_versions(file: Path) -> Path:
    """A file of constraints with the versions of uv.lock, so that a new version of a package cannot fail a test."""
    export = ("--locked", "--no-hashes", "--no-emit-project", "--no-default-groups", "--all-extras")
    uv("export", "--quiet", *export, "--output-file", file, cwd=ROOT)
    return file


def pythons() -> list[str]:
    """The programs of Python 3.11 to 3.13 on this machine, one for each version."""
    programs = []
    for version in ("3.11", "3.12", "3.13"):
        pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
        candidates = [shutil.which(f"python{version}"), *sorted(pyenv.glob(f"{version}.*/bin/python{version}"))]
        # The python3.12 of pyenv may be a script that only reports an error.
        working = (each for each in candidates if each and run(each, "-c", "").returncode == 0)
        programs += [str(program) for program in [next(working, None)] if program]
    return programs
