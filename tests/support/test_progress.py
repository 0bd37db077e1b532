"""Progress without a terminal: which lines are printed, when, and what they say."""

import io
import time
from collections.abc import Callable, Iterator

import pytest
from rich.console import Console

from inception_v3.support import progress
from inception_v3.support.progress import BYTES, Step, duration, report, show_line, show_progress, summary
from inception_v3.support.verbosity import verbosity


@pytest.fixture(autouse=True)
def _verbosity() -> Iterator[None]:
    before = vars(verbosity).copy()
    yield
    vars(verbosity).update(before)


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the clock of the progress displays."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def wait(seconds: float) -> None:
        now[0] += seconds

    return wait


def test_a_line_has_done_failed_rate_and_time_left(wait: Callable[[float], None]) -> None:
    step = Step("", 50_000)
    wait(33)
    report(step, 1200, 3)
    assert step.line() == "1,200 of 50,000 images, 3 unreadable, 36.4 images/s, 22 min left"


def test_without_a_total_there_is_no_time_left(wait: Callable[[float], None]) -> None:
    step = Step("", None)
    wait(10)
    step(1)
    assert step.line() == "1 image, 0.1 images/s"


def test_a_finished_step_has_no_time_left(wait: Callable[[float], None]) -> None:
    step = Step("evaluating", 1)
    wait(0.5)
    step(1)
    assert step.line() == "evaluating: 1 of 1 image, 2.0 images/s"


def test_a_total_that_turns_out_too_small_is_not_shown(wait: Callable[[float], None]) -> None:
    step = Step("", 5)
    wait(1)
    step(6)
    assert step.line() == "6 images, 6.0 images/s"


@pytest.mark.parametrize(
    ("unit", "total", "done", "line"),
    [
        (BYTES, 95_100_000, 34_000_000, "step: 34.0 of 95.1 MB, 3.4 MB/s, 18 s left"),
        ("", 400, 100, "step: 25%, 30 s left"),
        ("", None, 1, "step: 10 s so far"),
        ("files", 4, 1, "step: 1 of 4 files, 0.1 files/s, 30 s left"),
    ],
)
def test_other_units_than_images(
    wait: Callable[[float], None], unit: str, total: int | None, done: int, line: str
) -> None:
    step = Step("step", total, unit)
    wait(10)
    step(done)
    assert step.line() == line


def test_figures_of_the_caller_replace_the_rate(wait: Callable[[float], None]) -> None:
    step = Step("epoch 1/2", 40)
    wait(10)
    step.update(20, "loss 1.5")
    assert step.line() == "epoch 1/2: 20 of 40 images, loss 1.5, 10 s left"


def test_a_stalled_step_says_for_how_long(wait: Callable[[float], None]) -> None:
    step = Step("", 50)
    wait(30)
    step(20)
    wait(60)
    assert step.line(idle_after=30) == "20 of 50 images, no progress for 60 s"
    step(30)
    wait(60)
    assert step.line(idle_after=30) == "50 of 50 images, the next step has run for 60 s"


def test_work_done_by_an_earlier_run_does_not_count_in_the_rate(wait: Callable[[float], None]) -> None:
    step = Step("", 1000)
    step.skip_to(900)
    wait(10)
    step(50)
    assert step.line() == "950 of 1,000 images, 5.0 images/s, 10 s left"


def test_the_rate_follows_the_present_speed(wait: Callable[[float], None]) -> None:
    step = Step("", 20_000)
    step(10_000)  # from the feature store, at once
    for _ in range(20):
        step.line()
        wait(30)
        step(30)
    assert step.line() == "10,600 of 20,000 images, 1.0 images/s, 2 h 37 min left"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (99, "99 s"),
        (100, "2 min"),
        (1320, "22 min"),
        (5970, "1 h 40 min"),
        (12_000, "3 h 20 min"),
        (172_800, "2 days 0 h"),
        (356_400, "4 days 3 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_summary_has_images_unreadable_seconds_rate_and_engine() -> None:
    assert summary(347, 2, 9.5, "openvino bf16") == "347 images, 2 unreadable, 9.5 s, 36.5 images/s, openvino bf16"
    assert summary(1, 0, 4) == "1 image, 0 unreadable, 4.0 s, 0.25 images/s"
    assert summary(0, 0, 0, stored=1234) == "0 images, 0 unreadable, 0.0 s, 0.0 images/s, 1,234 more from the store"


def run_for(seconds: float, console: Console | None = None) -> None:
    with show_progress(console) as start_step:
        step = start_step("", 100)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(0.02)
            step(1)


def test_lines_come_at_the_interval_and_only_after_it(capsys: pytest.CaptureFixture[str]) -> None:
    verbosity.log_every = 0.2
    run_for(0.5)
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 2
    assert all(" of 100 images, " in line and line.endswith(" left") for line in err.splitlines())
    verbosity.log_every = 30
    run_for(0.1)
    assert capsys.readouterr().err == ""


def test_a_step_without_news_has_lines_too(capsys: pytest.CaptureFixture[str]) -> None:
    verbosity.log_every = 0.2
    with show_line(None):
        time.sleep(0.7)
    assert "0 images, no progress for " in capsys.readouterr().err


def test_the_line_is_about_the_step_that_changed_last(capsys: pytest.CaptureFixture[str]) -> None:
    verbosity.log_every = 0.2
    with show_progress(None) as start_step:
        first = start_step("first", 10)
        start_step("second", 10)
        time.sleep(0.05)
        first(1)
        time.sleep(0.3)
    assert {line.split(":")[0] for line in capsys.readouterr().err.splitlines()} == {"first"}


@pytest.mark.parametrize("setting", [{"log_every": 0}, {"log_every": 0.1, "quiet": True}])
def test_no_lines_with_quiet_or_zero_seconds(setting: dict[str, float], capsys: pytest.CaptureFixture[str]) -> None:
    vars(verbosity).update(setting)
    run_for(0.3)
    assert capsys.readouterr().err == ""


def test_a_terminal_has_a_live_bar_and_no_lines(capsys: pytest.CaptureFixture[str]) -> None:
    verbosity.log_every = 0.1
    screen = io.StringIO()
    run_for(0.4, Console(file=screen, force_terminal=True, width=100, _environ={"TERM": "xterm"}))
    assert "/100" in screen.getvalue()
    assert capsys.readouterr().err == ""


def test_a_terminal_without_cursor_movement_has_lines(capsys: pytest.CaptureFixture[str]) -> None:
    verbosity.log_every = 0.1
    run_for(0.3, Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "dumb"}))
    assert " of 100 images" in capsys.readouterr().err


def test_the_last_name_of_a_step_reaches_the_terminal() -> None:
    shown: list[str] = []
    step = Step("", None, "", lambda step: shown.append(step.name))
    for name in ("first", "second"):
        step.name = name
        step(1)
    assert shown == ["", "first", "second"]
