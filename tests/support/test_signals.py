"""Signals that stop a command: nothing is left behind, ignored signals stay ignored, and none is lost."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from inception_v3 import cli
from inception_v3.support.signals import Interrupted, stop_signals_raise

COMMAND = """
import sys, time
from pathlib import Path
from inception_v3 import cli
from inception_v3.support.files import atomic_write

def write():
    with atomic_write(Path("out.txt")) as file:
        file.write_text("half")
        print("here", flush=True)
        {wait}

cli._run = write
cli.main()
"""
SLEEP = "time.sleep(0.5); Path('slept').touch()"
DROPPED = """
        class Finalised:
            def __del__(self):
                time.sleep(1)
        Finalised()
        time.sleep(20)
"""


def start(folder: Path, wait: str = SLEEP, ignored: tuple[int, ...] = ()) -> "subprocess.Popen[str]":
    def ignore() -> None:
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)

    command = [sys.executable, "-c", COMMAND.format(wait=wait)]
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=ignore
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    time.sleep(0.05)
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_command_in_one_line_and_leaves_no_file(tmp_path: Path, number: int) -> None:
    process = start(tmp_path)
    process.send_signal(number)
    _, errors = process.communicate(timeout=5)
    assert (process.returncode, errors) == (128 + number, "interrupted\n")
    assert list(tmp_path.iterdir()) == []


def test_a_signal_that_is_ignored_from_the_start_stays_ignored(tmp_path: Path) -> None:
    """As by nohup, and for a command that a shell script starts in the background."""
    process = start(tmp_path, ignored=(signal.SIGINT, signal.SIGHUP))
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=10)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.txt", "slept"]


def test_a_second_signal_ends_a_command_that_cannot_clean_up(tmp_path: Path) -> None:
    process = start(tmp_path, "try: time.sleep(20)\n        finally: time.sleep(20)")
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=5)
    assert process.returncode == -signal.SIGTERM


def test_a_signal_in_a_callback_is_raised_again_after_python_has_dropped_it(tmp_path: Path) -> None:
    process = start(tmp_path, DROPPED)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=5)
    assert (process.returncode, errors) == (130, "interrupted\n")


def test_the_handlers_of_the_caller_are_put_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with pytest.raises(Interrupted), stop_signals_raise():
        signal.raise_signal(signal.SIGHUP)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def test_a_signal_while_the_command_line_is_parsed_keeps_its_exit_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "check_numbers", lambda _: signal.raise_signal(signal.SIGTERM))
    monkeypatch.setattr(sys, "argv", ["inception-v3", "describe"])
    with pytest.raises(SystemExit) as exited:
        cli.main()
    assert (exited.value.code, capsys.readouterr()) == (143, ("", "interrupted\n"))
