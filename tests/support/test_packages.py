"""The command that installs a missing package works where the user is: in a clone or elsewhere, with pip or uv."""

import importlib.metadata
import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from inception_v3.errors import InputError
from inception_v3.support import packages
from inception_v3.support.packages import import_package, install_command, require_packages

InstallFrom = Callable[..., None]


@pytest.fixture
def install_from(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> InstallFrom:
    """Let the package seem to be installed from a path by pip, in the environment that is active."""

    def pretend(origin: Path | None, *, with_pip: bool = True) -> None:
        folder = tmp_path / "site" / "inception_v3-0.1.0.dist-info"
        folder.mkdir(parents=True)
        requirements = "Requires-Dist: numpy>=1\nRequires-Dist: torch>=2.6; extra == 'torch'\n"
        requirements += "Requires-Dist: scipy; extra == 'torch'\nRequires-Dist: h5py; extra == 'keras'\n"
        (folder / "METADATA").write_text(f"Name: inception-v3\nVersion: 0.1.0\n{requirements}")
        if origin:
            (folder / "direct_url.json").write_text(json.dumps({"url": origin.as_uri()}))
        installed = importlib.metadata.Distribution.at(folder)
        monkeypatch.setattr(packages, "distribution", lambda name: installed)
        monkeypatch.setattr(packages, "SOURCE", tmp_path / "site")
        monkeypatch.setattr(packages, "find_spec", lambda name: True if name == "pip" and with_pip else None)
        monkeypatch.setattr(packages, "which", lambda name: str(Path(sys.executable).with_name(name)))

    return pretend


def test_in_the_clone_it_is_dot(install_from: InstallFrom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_from(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert install_command("keras") == "pip install '.[keras]'"


def test_outside_the_clone_it_is_its_path(install_from: InstallFrom, tmp_path: Path) -> None:
    clone = tmp_path / "my clone"
    clone.mkdir()
    install_from(clone)
    assert install_command("keras") == f"pip install '{clone}[keras]'"


def test_a_package_that_runs_in_its_clone_stays_editable(
    install_from: InstallFrom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_from(tmp_path)
    (tmp_path / "site" / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path / "site")
    assert install_command("torch") == "pip install -e '.[torch]'"


def test_a_wheel_is_named(install_from: InstallFrom, tmp_path: Path) -> None:
    wheel = tmp_path / "inception_v3-0.1.0-py3-none-any.whl"
    wheel.touch()
    install_from(wheel)
    assert install_command("torch") == f"pip install '{wheel}[torch]'"


@pytest.mark.parametrize("origin", ["deleted.whl", None])
def test_without_a_clone_or_wheel_the_packages_are_named(
    install_from: InstallFrom, tmp_path: Path, origin: str | None
) -> None:
    install_from(tmp_path / origin if origin else None)
    assert install_command("torch") == "pip install 'torch>=2.6' scipy"


def test_an_environment_without_pip_is_named_to_uv(install_from: InstallFrom, tmp_path: Path) -> None:
    install_from(None, with_pip=False)
    assert install_command("keras") == f"uv pip install h5py --python {shlex.quote(sys.prefix)}"


def test_an_environment_that_is_not_active_gets_its_own_pip(
    install_from: InstallFrom, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_from(None)
    monkeypatch.setattr(packages, "which", lambda name: "/usr/bin/pip")
    assert install_command("keras") == f"{sys.executable} -m pip install h5py"


def test_a_missing_package_is_an_error_of_one_line(install_from: InstallFrom) -> None:
    install_from(None)
    for check in (
        lambda: require_packages(("h5py",), "x.h5", "keras"),
        lambda: import_package("h5py.h5f", "x.h5", "keras"),
    ):
        with pytest.raises(InputError, match=r"^x.h5 needs h5py; pip install h5py$") as error:
            check()
        assert error.value.exit_status == 2


def test_a_package_that_is_installed_is_imported() -> None:
    assert import_package("json.decoder", "x.json", "data") is sys.modules["json.decoder"]


def test_a_broken_import_is_not_reported_as_a_missing_extra(tmp_path: Path) -> None:
    """Only the packages of the extra `torch` are: other missing modules are a bug."""
    code = (
        "import sys; sys.argv = ['inception-v3', 'describe', '--verbose']\n"
        "sys.modules['inception_v3.network.describe'] = None\n"
        "from inception_v3.cli import main; main()"
    )
    failed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert failed.returncode == 1
    assert "Traceback" in failed.stderr
