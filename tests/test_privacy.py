"""Nothing connects to a host, identifies the user, or writes a file that docs/privacy.md does not name."""

import os
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

from confined import COMMANDS, Command, Place, connections, run, strace, write_inputs, write_large_inputs, written_files
from conftest import ROOT
from inception_v3.cli import COMMANDS as NAMES
from inception_v3.support.privacy import FOLDERS, SWITCHES, TELEMETRY_PACKAGE

PAGE = (ROOT / "docs" / "privacy.md").read_text()
needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
PREDICT = "import inception_v3; print(next(inception_v3.Predictor({model!r}{options})({image!r})).classes)"
NO_COMMAND = Command("")  # writes nothing


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def large_inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_large_inputs(tmp_path_factory.mktemp("inputs"))


def test_every_command_is_run() -> None:
    assert {command.line.split()[0] for command in COMMANDS.values()} == {*NAMES}


@pytest.mark.parametrize("name", ["predict-onnx", "predict-xml", "cache"])
def test_a_command_writes_only_its_outputs_and_its_own_cache(name: str, inputs: Path, tmp_path: Path) -> None:
    place = Place(tmp_path / "place")
    done = place.run(COMMANDS[name], inputs)
    assert done.returncode == 0, done.stderr
    assert place.foreign_files(COMMANDS[name]) == []


@pytest.mark.slow
@needs_strace
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_neither_connects_nor_looks_up_a_host(name: str, large_inputs: Path, tmp_path: Path) -> None:
    place, log = Place(tmp_path / "place"), tmp_path / "log"
    done = place.run(COMMANDS[name], large_inputs, strace(log))
    assert done.returncode == 0, done.stderr
    check(place, log, COMMANDS[name])


@pytest.mark.slow
@needs_strace
@pytest.mark.parametrize(("model", "options"), [("run.onnx", ""), ("run.xml", ", engine='openvino'")])
def test_a_python_program_neither_connects_nor_looks_up_a_host(
    model: str, options: str, inputs: Path, tmp_path: Path
) -> None:
    place, log = Place(tmp_path / "place"), tmp_path / "log"
    code = PREDICT.format(model=str(inputs / model), options=options, image=str(inputs / "images/val/cat/0.png"))
    done = run([*strace(log), sys.executable, "-c", code], place.folder / "work", place.environment)
    assert done.returncode == 0, done.stderr
    check(place, log, NO_COMMAND)


@pytest.mark.slow
@needs_strace
@pytest.mark.parametrize(
    ("code", "seen"),
    [
        ("import socket\ntry: socket.getaddrinfo('a.invalid', 80)\nexcept OSError: pass", "/etc/hosts"),
        ("import socket\nsocket.socket(type=socket.SOCK_DGRAM).connect(('192.0.2.1', 80))", "192.0.2.1"),
    ],
)
def test_strace_records_a_look_up_and_a_connection(code: str, seen: str, tmp_path: Path) -> None:
    place, log = Place(tmp_path / "place"), tmp_path / "log"
    run([*strace(log), sys.executable, "-c", code], tmp_path, place.environment)
    assert any(seen in call for call in connections(log))


def check(place: Place, log: Path, command: Command) -> None:
    assert connections(log) == []
    assert place.foreign_files(command) == []
    known = (f"{place.folder}/*", *command.elsewhere)
    assert [path for path in written_files(log) if not any(fnmatch(path, pattern) for pattern in known)] == []


def test_importing_the_package_switches_the_telemetry_off_and_keeps_what_the_user_has_set() -> None:
    code = f"import inception_v3, os, sys; print(*(os.environ[name] for name in {[*SWITCHES]}))"
    code += f"; print(sys.modules[{TELEMETRY_PACKAGE!r}])"
    unset = {name: value for name, value in os.environ.items() if name not in SWITCHES}
    name, *others = SWITCHES
    for environment, expected in (
        (unset, [*SWITCHES.values()]),
        (unset | {name: "0"}, ["0", *(SWITCHES[other] for other in others)]),
    ):
        printed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True).stdout
        assert printed.splitlines() == [" ".join(expected), "None"]


@pytest.mark.parametrize("name", [*SWITCHES, *FOLDERS, TELEMETRY_PACKAGE])
def test_the_page_names_every_switch(name: str) -> None:
    assert f"`{name}" in PAGE


@pytest.mark.parametrize("usable", [True, False])
def test_files_of_libraries_are_in_our_cache_or_deleted_at_the_exit(usable: bool, tmp_path: Path) -> None:
    place = Place(tmp_path / "place")
    cache = place.folder / "cache"
    if not usable:
        cache.rmdir()
        cache.touch()  # nobody can create a folder in a file, not even root
    code = f"""
import os, pathlib
from inception_v3.support.privacy import redirect_files
redirect_files()
for name in {[*FOLDERS]}:
    pathlib.Path(os.environ[name]).mkdir(parents=True)
    print(os.environ[name])
"""
    done = run([sys.executable, "-c", code], tmp_path, place.environment)
    base = cache / "inception-v3" if usable else place.folder / "tmp"
    assert done.stderr == ""
    assert [Path(line).name for line in done.stdout.splitlines()] == [*FOLDERS.values()]
    assert all(base in Path(line).parents for line in done.stdout.splitlines())
    assert place.foreign_files(NO_COMMAND) == []


def test_a_folder_that_the_user_has_set_is_kept(tmp_path: Path) -> None:
    place = Place(tmp_path / "place")
    code = "import os; from inception_v3.support.privacy import redirect_files; redirect_files(); print(*os.environ)"
    environment = place.environment | {"MPLCONFIGDIR": "fonts", "HF_HOME": "hub"}
    done = run([sys.executable, "-c", code + "; print(os.environ['MPLCONFIGDIR'])"], tmp_path, environment)
    names, fonts = done.stdout.splitlines()
    assert fonts == "fonts"
    assert "HF_DATASETS_CACHE" not in names.split(), "HF_HOME moves it"
