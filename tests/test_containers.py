"""Every command in places like those of a container: no traceback, no hang, the documented exit status."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from confined import COMMANDS, Place, container, write_large_inputs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.getuid() != 0 or shutil.which("unshare") is None, reason="needs root and unshare"),
]
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}  # no way around the encoding ASCII
# Also run elsewhere, and takes a minute or more.
LONG = ("bench-peers", "predict-compile", "convert-keras", "convert-timm", "convert-torchvision")
SHORT = [name for name in COMMANDS if name not in LONG]
# The options of `container`, and variables.
PLACES: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "64 MB of shared memory, and ASCII": ({"shared_memory": "64m"}, ASCII),
    "4 MB of shared memory, home and cache read-only": ({"shared_memory": "4m", "read_only": True}, {}),
    "another user, home and cache read-only": ({"read_only": True, "user": 65534}, {}),
    "another user, and ASCII": ({"user": 65534}, ASCII),
}


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that every user may enter, unlike pytest's own, with the inputs."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        write_large_inputs(Path(name, "inputs"))
        yield Path(name)


@pytest.fixture
def place(folder: Path, request: pytest.FixtureRequest) -> Iterator[Place]:
    place = Place(folder / str(hash(request.node.name)))
    yield place
    shutil.rmtree(place.folder)


def can_run_python(user: int | None) -> bool:
    """Whether a user can start this Python, which may be installed in root's home."""
    try:
        return subprocess.run([sys.executable, "-c", ""], user=user, group=user).returncode == 0
    except PermissionError:
        return False


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("name", SHORT)
def test_a_command_succeeds(name: str, where: str, folder: Path, place: Place) -> None:
    options, environment = PLACES[where]
    if (name == "bench" or COMMANDS[name].script) and not can_run_python(options.get("user")):
        pytest.skip(f"{name} starts Python, which that user may not run here")
    done = place.run(COMMANDS[name], folder / "inputs", container(place, **options), **environment)
    assert not re.search("Traceback|unexpected", done.stdout + done.stderr), done.stderr
    assert done.returncode == 0, done.stderr
    assert place.foreign_files(COMMANDS[name]) == []


@pytest.mark.parametrize("name", SHORT)
def test_with_one_gigabyte_of_address_space_a_command_succeeds_or_fails_with_one_line(
    name: str, folder: Path, place: Place
) -> None:
    done = place.run(COMMANDS[name], folder / "inputs", container(place, address_space=1 << 30))
    assert not re.search("Traceback|unexpected", done.stdout + done.stderr), done.stderr
    assert done.returncode in (0, 1, 2), done.stderr
    if done.returncode:
        lines = done.stderr.splitlines()
        assert [line for line in lines if line.startswith("error: ")] == lines[-1:]
