"""The command line: its output as text and JSON, and one clear line for every error."""

import io
import json
import os
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import safetensors.torch
import torch
import typer
from PIL import Image
from rich.console import Console
from typer.core import TyperGroup

import inception_v3
import options
from inception_v3 import cli, explain
from inception_v3.cli import common
from inception_v3.inference.engines.base import Precision
from inception_v3.inference.engines.registry import PRECISIONS
from inception_v3.network import architecture
from inception_v3.network.drawing import plan, svg
from inception_v3.network.settings import Settings
from inception_v3.support.progress import progress_bar

pytestmark = pytest.mark.usefixtures("one_thread")

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command in this process; return its exit status, stdout and stderr."""

    def command(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["inception-v3", *map(str, arguments)])
        with pytest.raises(SystemExit) as exited:
            cli.main()
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return int(exited.value.code or 0), out, err

    return command


@pytest.fixture
def model(tmp_path: Path, random_model: Callable[..., inception_v3.InceptionV3]) -> Path:
    """The file of a model with two classes."""
    network = random_model(num_classes=2, image_size=75)
    network.preprocessing = inception_v3.Preprocessing((75, 75))
    network.class_names = ["cat", "dog"]
    inception_v3.save(network, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in which the command runs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_image(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (80, 90, 3), dtype=np.uint8)).save(path)
    return path


def one_line(err: str) -> str:
    """The only error message in stderr."""
    lines = [line for line in err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, err
    return lines[0]


# ------------------------------------------------------------------------------------------------ describe


def test_describe_prints_the_network_as_json(run: Run) -> None:
    status, out, _ = run("describe", "--json")
    described = json.loads(out)
    assert status == 0
    assert round(described["base"]["macs"] / 1e9, 3) == 5.711
    assert described["base"]["parameters"] == 21_802_784
    shapes = {row["name"]: (row["height"], row["width"], row["channels"]) for row in described["end_points"]}
    assert shapes == {p.name: (p.height, p.width, p.channels) for p in architecture.end_points()}


def set_columns(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    """The width of the terminal, also of the console, which reads it once in a process."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(common.output, "_width", columns)


@pytest.mark.parametrize("columns", [80, 140])
def test_describe_prints_a_line_for_each_branch_and_a_legend(
    run: Run, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    set_columns(monkeypatch, columns)
    status, out, _ = run("describe", "--height", 107, "--width", 139, "--depth-multiplier", 0.5)
    lines = out.splitlines()
    assert status == 0
    assert max(map(len, lines)) <= columns
    assert lines[0] == "Inception V3 at 107x139, depth_multiplier=0.5"
    words = [line.split() for line in lines]
    assert ["Conv2d_1a_3x3", "3x3/2", "V", "16", "53x69x16", "480", "1.6", "3"] in words
    for point in architecture.end_points(height=107, width=139, depth_multiplier=0.5):
        (line,) = [line for line in lines if line.startswith(f"{point.name} ")]
        assert f" {point.height}x{point.width}x{point.channels} " in line
    branches = [line for line in lines if line.startswith("  Branch_")]
    assert len(branches) == 42
    longest = ["Branch_2", "1x1", "64", "→", "7x1", "64", "→", "1x7", "64", "→", "7x1", "64", "→", "1x7", "96"]
    assert sum(line.split()[: len(longest)] == longest for line in branches) == 1
    assert ("2x3x96" in " ".join(branches)) == (columns == 140), "wide lines have the figures of branches too"
    legend = " ".join(out[out.index("3x3/2 V 32  ") :].split())
    for sign in ("stride 2, VALID padding", "followed by", "side by side", "receptive field:", "multiply-accumulates"):
        assert sign in legend


def test_a_branch_that_is_longer_than_the_line_is_continued_under_its_layers(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_columns(monkeypatch, 44)
    lines = run("describe")[1].splitlines()
    index = lines.index("  Branch_2  1x1 128 → 7x1 128 → 1x7 128 →")
    assert lines[index + 1] == "            7x1 128 → 1x7 192"


def test_describe_of_an_end_point_shows_the_arithmetic_of_each_step(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    set_columns(monkeypatch, 80)
    status, out, _ = run("describe", "mixed_5b")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert status == 0
    assert max(map(len, out.splitlines())) <= 80
    assert lines[0] == "Mixed_5b of Inception V3 at 299x299"
    start = lines.index("Mixed_5b/Branch_1")
    assert lines[start : start + 15] == [
        *("Mixed_5b/Branch_1", "", "Conv2d_0a_1x1 1x1 48 35x35x192 → 35x35x48", "size ⌈35 / 1⌉ = 35"),
        *("channels 48 filters", "parameters 1·1·192·48 + 3·48 = 9,360", "MACs 35·35 · 1·1·192·48 = 11,289,600"),
        *("field 31 + (1 − 1)·8 = 31", "", "Conv2d_0b_5x5 5x5 64 35x35x48 → 35x35x64", "size ⌈35 / 1⌉ = 35"),
        *("channels 64 filters", "parameters 5·5·48·64 + 3·64 = 76,992", "MACs 35·35 · 5·5·48·64 = 94,080,000"),
        "field 31 + (5 − 1)·8 = 63",
    ]
    assert "channels 64 + 64 + 96 + 32 = 256" in lines
    assert "size (299 − 3) / 2 + 1 = 149" in " ".join(run("describe", "Conv2d_1a_3x3")[1].split())
    assert "size height ⌊(108 − 3) / 2⌋ + 1 = 53" in " ".join(
        run("describe", "Conv2d_1a_3x3", "--height", 108)[1].split()
    )


def test_describe_shows_the_inner_steps_of_the_auxiliary_head_and_of_a_branch(run: Run) -> None:
    auxiliary = run("describe", "AuxLogits")[1]
    for layer in ("AvgPool_1a_5x5", "Conv2d_1b_1x1", "Conv2d_2a_5x5", "Conv2d_2b_1x1"):
        assert layer in auxiliary
    assert "(17 − 5) / 3 + 1 = 5" in auxiliary
    assert "384 + 384 = 768" in run("describe", "Mixed_7b/Branch_1")[1]
    assert "dropout" in run("describe", "PreLogits")[1]


def test_the_steps_are_in_the_json_of_the_network_and_of_an_end_point(run: Run) -> None:
    network = json.loads(run("describe", "--json")[1])
    one = json.loads(run("describe", "Mixed_5b", "--json")[1])
    (same,) = [row["steps"] for row in network["end_points"] if row["name"] == "Mixed_5b"]
    assert one["steps"] == same
    assert one["receptive_field"] == {"size": [63, 63], "stride": [8, 8], "padding": [18, 18]}
    assert one["parameters"] == 256_368
    assert one["steps"][-1]["channels"] == "64 + 64 + 96 + 32 = 256"


def test_describe_prints_the_receptive_field_of_every_branch_and_layer(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_columns(monkeypatch, 80)
    status, out, _ = run("describe", "--receptive-fields")
    assert status == 0
    assert max(map(len, out.splitlines())) <= 80
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if "│" in line]
    assert len(rows) == len(explain.all_receptive_fields())
    assert ["Mixed_7c", "1311", "32", "618", "37"] in rows
    assert ["Mixed_7b/Branch_1/Conv2d_0b_1x3", "1055x1119", "32", "490x522", "37"] in rows


def test_describe_prints_receptive_fields_as_json(run: Run) -> None:
    described = json.loads(run("describe", "--json")[1])
    status, out, _ = run("describe", "--receptive-fields", "--json", "--height", 107)
    fields = json.loads(out).pop("receptive_fields")
    assert status == 0
    assert described.keys() == json.loads(out).keys() - {"receptive_fields"}
    assert {row["name"]: row["size"] for row in fields} == {
        name: list(field.size) for name, field in explain.all_receptive_fields((107, 299)).items()
    }
    assert fields[0] == {"name": "Conv2d_1a_3x3", "size": [3, 3], "stride": [2, 2], "padding": [0, 0], "centre": [1, 1]}


def test_the_page_about_receptive_fields_shows_rows_that_describe_prints(run: Run) -> None:
    page = (Path(__file__).parents[2] / "docs" / "explain.md").read_text("utf-8")
    shown = [line.split() for line in page.splitlines() if line.startswith("    ") and "_" in line and "│" in line]
    printed = [line.split() for line in run("describe", "--receptive-fields")[1].splitlines()]
    assert len(shown) > 30
    assert [line for line in printed if line in shown] == shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--depth-multiplier", "0"), "depth_multiplier must be greater than zero"),
        (("--height", "74"), "at least 75x75"),
        (("--num-classes", "0"), "num_classes must be at least 1"),
        (("--num-classes", str(10**12)), "--num-classes must be a finite number, at most 1,000,000, not 1000000000000"),
        (("--depth-multiplier", "inf"), "--depth-multiplier must be a finite number, at most 1,000,000, not inf"),
        (("--depth-multiplier", "nan"), "--depth-multiplier must be a finite number, at most 1,000,000, not nan"),
        (("--depth-multiplier", "1e308"), "--depth-multiplier must be a finite number, at most 1,000,000, not 1e+308"),
        (("--depth-multiplier", "101"), "depth_multiplier must be greater than zero and at most 100"),
        (("--height", "100001"), "height must be at least 1 and at most 100,000"),
        (("Mixed_5bb",), "END_POINT: no such value Mixed_5bb; did you mean Mixed_5b?"),
        (("Mixed_5b/Branch_9",), "did you mean Mixed_5b/Branch_"),
        (("Mixed_5b", "--receptive-fields"), "--receptive-fields shows all end points"),
    ],
)
def test_describe_refuses_impossible_options(run: Run, arguments: tuple[str, ...], message: str) -> None:
    status, out, err = run("describe", *arguments)
    assert (status, out) == (2, "")
    assert message in one_line(err)


def test_no_command_takes_a_number_that_is_not_finite_or_very_large(run: Run) -> None:
    """Every numeric option of every command, found in its function, so that a new option is in this test too."""
    tried = 0
    for name in cli.COMMANDS:
        command = cli.LazyCommands().get_command(None, name)
        needed = ["x" for parameter in command.params if parameter.param_type_name == "argument" and parameter.required]
        for option in command.params:
            kind = option.type.name.removesuffix(" range")
            if kind not in ("int", "float"):
                continue
            wrong = [10**30] + ["nan", "inf", "1e308"] * (kind == "float")
            for value in wrong:
                out = ["--out", "x"] if any("--out" in other.opts for other in command.params) else []
                status, printed, err = run(name, *needed, *out, option.opts[-1], value)
                assert (status, printed) == (2, ""), (name, option.opts, value)
                assert option.opts[-1] in one_line(err)
                tried += 1
    assert tried > 40


# ---------------------------------------------------------------------------------------------------- draw


def test_draw_writes_svg_by_default_and_prints_it_with_a_dash(run: Run, in_tmp: Path) -> None:
    assert run("draw")[:2] == (0, "inception-v3.svg: the network at 299x299\n")
    assert (in_tmp / "inception-v3.svg").read_text("utf-8") == svg(plan(Settings()))
    assert run("draw", "--module", "mixed_6B")[:2] == (0, "Mixed_6b.svg: Mixed_6b at 299x299\n")
    assert (in_tmp / "Mixed_6b.svg").read_text("utf-8") == svg(plan(Settings(), "Mixed_6b"))
    layers = "Mixed_5b_Branch_1.svg: Mixed_5b/Branch_1 at 299x299\n"
    assert run("draw", "--module", "Mixed_5b/Branch_1")[:2] == (0, layers)
    status, out, _ = run("draw", "--out", "-", "--language", "zh")
    assert status == 0
    assert ET.canonicalize(out) == ET.canonicalize(svg(plan(Settings()), language="zh"))
    assert sorted(path.name for path in in_tmp.iterdir()) == [
        "Mixed_5b_Branch_1.svg",
        "Mixed_6b.svg",
        "inception-v3.svg",
    ]


def test_draw_takes_the_options_of_a_network(run: Run, in_tmp: Path) -> None:
    options = ("--height", 107, "--width", 139, "--depth-multiplier", 0.5, "--num-classes", 7, "--no-aux")
    assert run("draw", *options, "--theme", "dark")[0] == 0
    settings = Settings(image_size=(107, 139), depth_multiplier=0.5, num_classes=7, create_aux_logits=False)
    assert (in_tmp / "inception-v3.svg").read_text("utf-8") == svg(plan(settings), dark=True)


def test_draw_of_a_model_shows_its_own_layers(run: Run, in_tmp: Path) -> None:
    network = inception_v3.InceptionV3(num_classes=3, depth_multiplier=0.1, image_size=75, hidden_units=(8,))
    inception_v3.save(network, in_tmp / "model.safetensors")
    status, out, err = run("draw", "model.safetensors", "--json")
    assert status == 0, err
    assert json.loads(out) == {"out": "inception-v3.svg", "end_point": None, "image_size": [75, 75]}
    drawn = (in_tmp / "inception-v3.svg").read_text("utf-8")
    assert drawn == svg(plan(network.settings))
    assert "Hidden_1" in drawn


def test_draw_writes_png_and_pdf(run: Run, in_tmp: Path) -> None:
    for name, start in (("layer.PNG", b"\x89PNG"), ("layer.pdf", b"%PDF")):
        assert run("draw", "--module", "Conv2d_1a_3x3", "--out", name)[:2] == (0, f"{name}: Conv2d_1a_3x3 at 299x299\n")
        assert (in_tmp / name).read_bytes().startswith(start)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--out", "x.jpg"), "x.jpg: a drawing is saved as .svg, .png or .pdf; change the suffix"),
        (("--out", "x"), "x: a drawing is saved as .svg, .png or .pdf; change the suffix"),
        (("--out", "."), "a drawing is saved as"),
        (("--module", "Mixed_6bb"), "did you mean Mixed_6b?"),
        (("--module", "AuxLogits", "--no-aux"), "--module: no such value AuxLogits"),
        (("--height", "74"), "at least 75x75"),
        (("--language", "fr"), "--language: no such value fr; choose from en, zh"),
        (("--theme", "blue"), "--theme: no such value blue; choose from auto, light, dark"),
        (("--font", "Noto Sans"), "--font is for PNG and PDF"),
        (("--out", "x.png", "--font", "No Such Font"), "--font No Such Font: no such file, and no such font"),
        (("--out", "x.png", "--language", "zh", "--font", "DejaVu Sans"), "--font DejaVu Sans: has no glyph for"),
        (("--mean", "0.5"), "--mean is about a MODEL, and none is given; leave it out"),
        (("model.safetensors", "--num-classes", "3"), "--num-classes is for a drawing without MODEL"),
        (("--json", "--out", "-"), "--json and --out - both print the result; use only one of them"),
    ],
)
def test_draw_refuses_what_it_cannot_draw(run: Run, in_tmp: Path, arguments: tuple[str, ...], message: str) -> None:
    status, out, err = run("draw", *arguments)
    assert (status, out) == (2, "")
    assert message in one_line(err)
    assert list(in_tmp.iterdir()) == []


def test_draw_replaces_no_model_and_reports_a_folder_without_permission(run: Run, in_tmp: Path) -> None:
    (in_tmp / "model.svg").write_text("weights")
    assert "is an input and would be lost" in one_line(run("draw", "model.svg", "--out", "model.svg")[2])
    assert (in_tmp / "model.svg").read_text() == "weights"
    assert "/proc/x.svg: cannot be written" in one_line(run("draw", "--out", "/proc/x.svg")[2])


# ------------------------------------------------------------------------------------------------- predict


def test_predict_prints_the_top_classes(run: Run, model: Path, tmp_path: Path) -> None:
    file = write_image(tmp_path / "größe [1].png")
    status, out, _ = run("predict", model, file, "--json")
    assert status == 0
    printed = json.loads(out)
    assert printed["image"] == str(file)
    network = inception_v3.load(model)
    with torch.inference_mode():
        expected = network(network.preprocess(inception_v3.open_image(file)), ())[0].softmax(1)[0]
    probabilities = {row["class"]: row["probability"] for row in printed["predictions"]}
    assert probabilities["cat"] == pytest.approx(expected[0].item(), abs=0.02), "bf16 if the CPU supports it"
    assert list(probabilities.values()) == sorted(probabilities.values(), reverse=True)


def test_predict_takes_files_folders_patterns_and_standard_input(
    run: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        write_image(tmp_path / "images" / "below" / f"{number}.png", number)

    def names(*arguments: object) -> list[str]:
        status, out, err = run("predict", model, *arguments, "--json", "--top", 1)
        assert status == 0, err
        rows = [json.loads(line) for line in out.splitlines()]
        assert all(len(row["predictions"]) == 1 for row in rows)
        return [row["image"] for row in rows]

    everything = [str(tmp_path / "images" / "below" / f"{number}.png") for number in range(3)]
    assert names(*everything) == everything
    assert names(tmp_path / "images") == everything
    assert names(tmp_path / "images" / "*" / "[01].png") == everything[:2]
    stdin = io.TextIOWrapper(io.BytesIO("\n".join(everything).encode()))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert names("-") == everything


def test_an_unreadable_image_is_reported_and_does_not_stop_the_others(run: Run, model: Path, tmp_path: Path) -> None:
    for number in range(4):
        write_image(tmp_path / "images" / f"{number}.png", number)
    (tmp_path / "images" / "1.png").write_text("hello")
    status, out, err = run("predict", model, tmp_path / "images", "--json", "--batch-size", 2)
    rows = [json.loads(line) for line in out.splitlines()]
    assert [Path(row["image"]).name for row in rows] == ["0.png", "1.png", "2.png", "3.png"]
    assert ["error" in row for row in rows] == [False, True, False, False]
    assert status == 3
    assert "1.png" in err
    assert "1 of 4 images" in one_line(err)


def test_predict_without_images_is_an_error(run: Run, model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for missing in ("nothing.png", "*.webp", "empty"):
        status, out, err = run("predict", model, tmp_path / missing)
        assert (status, out) == (2, "")
        assert missing in one_line(err)


def test_predict_prints_probabilities_as_text(run: Run, model: Path, tmp_path: Path) -> None:
    _, out, _ = run("predict", model, write_image(tmp_path / "a.png"))
    assert out.startswith(str(tmp_path / "a.png"))
    assert "cat " in out
    assert "%" in out


# ------------------------------------------------------------------------------------------------ evaluate


def test_evaluate_prints_top_1_top_5_and_every_class(run: Run, model: Path, tmp_path: Path) -> None:
    for number in range(6):
        write_image(tmp_path / "pets" / ("cat" if number % 2 else "dog") / f"{number}.png", number)
    (tmp_path / "pets" / "dog" / "broken.png").write_bytes(b"")
    status, out, err = run("evaluate", model, tmp_path / "pets", "--json")
    metrics = json.loads(out)
    assert status == 0
    assert metrics["count"] == 6
    assert metrics["top5"] == 1.0
    assert [row["class"] for row in metrics["classes"]] == ["cat", "dog"]
    assert metrics["top1"] == sum(metrics["confusion"][i][i] for i in range(2)) / 6
    assert "broken.png" in err
    status, out, _ = run("evaluate", model, tmp_path / "pets")
    assert status == 0
    assert "top-1" in out
    assert "dog" in out


# -------------------------------------------------------------------------------------------- bad input


def test_an_unreadable_model_is_reported_in_one_line_with_its_name(run: Run, model: Path, tmp_path: Path) -> None:
    image = write_image(tmp_path / "a.png")
    truncated, foreign, text = tmp_path / "truncated", tmp_path / "foreign", tmp_path / "text"
    truncated.write_bytes(model.read_bytes()[:1000])
    safetensors.torch.save_file({"x": torch.zeros(1)}, foreign)
    text.write_text("hello")
    for bad in (truncated, foreign, text, tmp_path / "missing"):
        for command in (("predict", bad, image), ("evaluate", bad, "digits")):
            status, out, err = run(*command)
            assert status == 1
            assert out == ""
            assert str(bad) in one_line(err)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("digits", "--depth-multiplier", "0"), "depth_multiplier must be greater than zero"),
        (("digits", "--image-size", "74"), "at least 75"),
        (("digits", "--epochs", "0"), "epochs must be at least 1"),
        (("digits", "--recipe", "nothing"), "no such recipe"),
        (("digits", "--device", "abacus"), "--device abacus"),
        (("/no/such/folder",), "no such folder"),
    ],
)
def test_train_refuses_wrong_options_before_it_writes_anything(
    run: Run, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    status, _, err = run("train", *arguments, "--out", tmp_path / "run")
    assert status == 2
    assert message in one_line(err)
    assert not (tmp_path / "run").exists()


def test_a_run_folder_inside_the_data_is_refused_as_it_would_become_a_class(run: Run, tmp_path: Path) -> None:
    for number in range(4):
        write_image(tmp_path / "pets" / ("cat", "dog")[number % 2] / f"{number}.png", number)
    for command in (("train",), ("finetune", tmp_path / "no weights")):
        status, _, err = run(*command, tmp_path / "pets", "--out", tmp_path / "pets" / "run")
        assert status == 2
        assert "it would be taken for a class" in one_line(err)
    assert sorted(path.name for path in (tmp_path / "pets").iterdir()) == ["cat", "dog"]
    (tmp_path / "pets").rename(tmp_path / "train")
    for split in ("train", "val"):
        status, _, err = run("train", tmp_path, "--out", tmp_path / split / "run")
        assert status == 2
        assert "it would be taken for a class" in one_line(err)


def test_train_then_evaluate_then_predict(run: Run, tmp_path: Path) -> None:
    """On a folder of images with special characters in its name and in the names of its classes."""
    tmp_path, cat = tmp_path / "a[/b]", r"$\frac$"
    for number in range(12):
        write_image(tmp_path / "pets" / (cat if number % 2 else "dog") / f"{number:02}.png", number)
    (tmp_path / "pets" / cat / "broken.png").write_text("text")
    small = ("--image-size", 75, "--depth-multiplier", 0.1, "--epochs", 1)
    status, out, err = run("train", tmp_path / "pets", "--out", tmp_path / "run", *small)
    assert status == 0, err
    assert out.startswith(f"{tmp_path}/run: top-1 ")
    assert "1 of 13 images could not be read" in err
    status, out, _ = run("evaluate", tmp_path / "run", tmp_path / "pets", "--json")
    assert status == 0
    status, resumed, _ = run("train", tmp_path / "pets", "--out", tmp_path / "run", *small, "--resume", "--json")
    assert status == 0
    assert json.loads(resumed)["held_out"]["top1"] == json.loads(out)["top1"]
    assert [bad["image"] for bad in json.loads(resumed)["bad"]] == [f"{cat}/broken.png"]
    assert json.loads(out)["count"] + len(json.loads(out)["bad"]) == 3, "only images that training did not use"
    status, out, _ = run("predict", tmp_path / "run", tmp_path / "pets" / "dog", "--json")
    assert {row["class"] for line in out.splitlines() for row in json.loads(line)["predictions"]} == {cat, "dog"}
    status, _, err = run("train", tmp_path / "pets", "--out", tmp_path / "run", *small)
    assert status == 2
    assert "--overwrite" in one_line(err)


# ------------------------------------------------------------------------------- imports, signals, streams


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_the_package_imports_no_large_library() -> None:
    loaded = python("import sys, inception_v3; dir(inception_v3); print(*sys.modules)").split()
    assert not {"torch", "torchvision", "numpy", "PIL", "typer", "sklearn"} & set(loaded)


def test_every_argument_and_option_has_a_help_text() -> None:
    commands = typer.main.get_command(cli.app)
    assert isinstance(commands, TyperGroup)
    context = typer.Context(commands)
    names = commands.list_commands(context)
    assert names == list(cli.COMMANDS)
    for name in names:
        command = commands.get_command(context, name)
        assert command is not None
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{name}: {parameter.name}"


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["describe"], ["predict", "x", "/no/such.png"]])
def test_help_describe_and_wrong_arguments_do_not_import_pytorch(arguments: list[str]) -> None:
    code = (
        f"import sys; sys.argv = ['inception-v3', *{arguments}]\n"
        "from inception_v3.cli import main\n"
        "try: main()\n"
        "except SystemExit: print('LOADED', *sys.modules)"
    )
    loaded = python(code).split("LOADED")[1].split()
    assert "torch" not in loaded


def test_ctrl_c_while_libraries_are_imported_has_no_traceback(tmp_path: Path) -> None:
    """Here a fake typer sends the signal while it is imported."""
    (tmp_path / "typer.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGINT)")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run([sys.executable, "-m", "inception_v3"], capture_output=True, env=environment)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, b"")


def test_messages_are_not_lost_while_a_thread_decodes_a_tiff() -> None:
    """libtiff prints to descriptor 2 directly, so the descriptor is redirected to /dev/null while a TIFF is decoded."""
    program = """if True:
        import threading, warnings
        from inception_v3 import cli
        from inception_v3.__main__ import main
        from inception_v3.images import decode as images
        from inception_v3.errors import InputError

        decoding, finished = threading.Event(), threading.Event()

        def decode():
            with images._discard_stderr():
                decoding.set()
                finished.wait(60)

        def command(**options):
            threading.Thread(target=decode).start()
            decoding.wait()
            warnings.warn("another engine is taken")
            raise InputError("an image is missing")

        cli.app = command
        try:
            main()
        finally:
            finished.set()
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines() == ["warning: another engine is taken", "error: an image is missing"]


def test_a_command_ends_after_threads_exit_functions_and_buffered_output(model: Path, tmp_path: Path) -> None:
    """It does not wait for PyTorch to be torn down, which takes most of a second."""
    (tmp_path / "end.py").write_text(
        "import atexit, sys, threading\n"
        "from inception_v3.__main__ import main\n"
        "import torch\n"
        "class Destroyed:\n"
        "    def __del__(self): print('destroyed', file=sys.stderr)\n"
        "torch.last = Destroyed()\n"
        "atexit.register(print, 'exit function')\n"
        "threading.Thread(target=lambda: (threading.main_thread().join(), print('thread'))).start()\n"
        "main()\n"
    )
    for source, status in ((model, 0), (tmp_path / "missing.pth", 1)):
        command = [sys.executable, tmp_path / "end.py", "convert", source, tmp_path / f"{status}.safetensors"]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        assert done.returncode == status
        assert done.stdout.endswith("thread\nexit function\n")
        assert "destroyed" not in done.stderr
        assert (tmp_path / f"{status}.safetensors").exists() == (status == 0)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(
    "command",
    [
        "describe",
        "describe --json",
        "predict {model} {photo} --json",
        "predict {model} {photo} --out {out} --json",  # short enough to stay in the buffer until the end
    ],
)
def test_output_that_cannot_be_written_is_reported_in_one_line(command: str, model: Path, tmp_path: Path) -> None:
    given = command.format(model=model, photo=write_image(tmp_path / "photo.png", 1), out=tmp_path / "out.jsonl")
    line = f"{sys.executable} -m inception_v3 {given} > /dev/full"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(line, shell=True, capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert "standard output: cannot be written (No space left on device)" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_version_is_printed(run: Run) -> None:
    assert run("--version")[:2] == (0, f"inception-v3 {inception_v3.__version__}\n")


def test_every_public_name_can_be_imported() -> None:
    for name in inception_v3.__all__:
        assert getattr(inception_v3, name)
    with pytest.raises(AttributeError, match="nothing"):
        inception_v3.nothing  # noqa: B018


def test_a_pipe_closed_by_its_reader_ends_the_command_quietly(model: Path, tmp_path: Path) -> None:
    for number in range(40):
        write_image(tmp_path / "images" / f"{number}.png", number)
    command = f"{sys.executable} -m inception_v3 predict {model} {tmp_path}/images --batch-size 1 | head -n 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.count("\n") == 1
    assert done.stderr.count("\n") == 1, "only the line that names the engine"


# ------------------------------------------------------------------------------------------------- options


def test_the_options_are_those_of_the_documentation() -> None:
    """After a deliberate change, `python tests/options.py --write` updates the page."""
    assert options.PAGE.read_text("utf-8") == options.page()


def test_the_main_help_names_every_command_that_exits_with_status_3() -> None:
    text = " ".join((typer.main.get_command(cli.app).help or "").split())
    *others, last = options.commands_with_status_3()
    assert len(others) == 7
    assert f"3, {', '.join(others)} or {last} finished, but some images could not be read" in text


def test_an_option_means_the_same_in_every_command() -> None:
    for option in options.SHARED:
        texts = {
            parameter.help.split(":")[0]
            for parameters in options.parameters().values()
            for parameter in parameters
            if option in parameter.opts and option != "--out"
        }
        assert len(texts) <= 1, option


def test_the_choices_of_precision_are_all_precisions() -> None:
    assert get_args(Precision) == PRECISIONS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("trian", "digits"), "no such command trian; did you mean train?"),
        (("frobnicate",), "no such command frobnicate; there are train, finetune, evaluate"),
        (("bench", "--precison", "fp32"), "no such option --precison; did you mean --precision?"),
        (("describe", "--jsn"), "no such option --jsn; did you mean --json?"),
        (("predict", "model", "x.png", "--precision", "bf6"), "choose from fp32, bf16, fp16, int8; did you mean bf16?"),
        (("predict", "model", "x.png", "--engine", "openvno"), "--engine: no such value openvno; choose from auto, "),
        (("bench", "--engine", "onnxruntime,openvno"), "did you mean openvino?"),
        (("bench", "--precision", "fp32,,bf16"), "--precision: no such value (empty)"),
        (
            ("finetune", "model", "digits", "--precision", "fp61"),
            "no such value fp61; choose from fp32, bf16",
        ),
        (("evaluate", "model", "digits", "--weights", "row"), "choose from ema, raw; did you mean raw?"),
        (("evaluate", "model", "digits", "--crops", "14"), "--crops: no such value 14; choose from 1, 12, 144"),
        (("predict", "model", "x.png", "--decode", "scale"), "did you mean scaled?"),
        (("convert", "model", "out", "--to", "kears"), "--to: no such value kears; choose from native, "),
        (("export", "model", "out", "--to", "onx"), "did you mean onnx?"),
        (("export", "model", "out", "--end-points", "Mixed_6e,Mixed_6f"), "--end-points: no such value Mixed_6f"),
        (("train", "digits", "--out", "run", "--track", "mlflow,wandv"), "did you mean wandb?"),
        (
            ("train", "digits", "--out", "run", "--recipe", "photo"),
            "or .toml file; did you mean photos?",
        ),
        (("fidelity", "a", "b", "--like", "clean-fd"), "did you mean clean-fid?"),
        (("fidelity", "a", "b", "--mode", "legacy-pytroch"), "did you mean legacy-pytorch?"),
        (("fidelity", "a", "b", "--precision", "fp16"), "choose from fp32, bf16, int8"),
        (("evaluate", "model"), "Missing argument 'data'"),
        (("bench", "--rounds", "0"), "'--rounds': 0 is not in the range"),
        (("train", "digits", "--out", "run", "--seed", 2**63), "--seed 9223372036854775808: too large"),
        (("describe", "--quiet", "--verbose"), "--quiet and --verbose: use only one of them"),
    ],
)
def test_a_misspelt_word_is_reported_in_one_line_with_the_nearest_one(
    run: Run, arguments: tuple[object, ...], message: str
) -> None:
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert message in one_line(err)
    assert err.count("\n") == 1


def test_a_choice_is_also_found_in_upper_case_and_with_underscores(run: Run) -> None:
    _, _, err = run("export", "model", "a.onnx", "--precision", "FP32", "--to", "Torch_Export")
    assert "a.onnx is not a file of format torch-export" in one_line(err)


@pytest.mark.parametrize(("old", "new"), [("--precisions", "--precision"), ("--precisions=", "--precision")])
def test_an_old_spelling_works_with_a_warning_and_is_not_in_the_help(run: Run, old: str, new: str) -> None:
    arguments = [f"{old}int4"] if old.endswith("=") else [old, "int4"]
    _, _, err = run("bench", *arguments)
    warning, error = err.splitlines()
    assert warning.startswith(f"{old.rstrip('=')}: write {new} instead")
    assert error.startswith(f"error: {new}: no such value int4")
    assert f"{old.rstrip('=')} " not in run("bench", "--help")[1]


@pytest.mark.parametrize("width", [80, 120])
def test_help_fits_the_terminal_and_cuts_nothing_off(run: Run, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERMINAL_WIDTH", str(width))
    for command, parameters in options.parameters().items():
        status, out, _ = run(command, "--help")
        assert status == 0
        assert max(map(len, out.splitlines())) <= width
        assert "…" not in out
        for parameter in parameters:
            assert parameter.opts[0] in out


def test_quiet_leaves_results_warnings_and_errors(run: Run, model: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "a.png")
    status, out, err = run("predict", model, tmp_path / "images", "--quiet")
    assert (status, err) == (0, "")
    assert "cat " in out
    (tmp_path / "images" / "b.png").write_text("hello")
    status, _, err = run("predict", model, tmp_path / "images", "--quiet")
    assert status == 3
    assert "b.png" in err.splitlines()[0]
    assert "1 of 2 images" in one_line(err)
    assert progress_bar(Console(force_terminal=True)).disable
    assert ": the fastest" in run("predict", model, tmp_path / "images" / "a.png")[2], "a note without --quiet"


def test_quiet_training_prints_only_its_result_and_log_steps_prints_steps(run: Run, tmp_path: Path) -> None:
    for number in range(12):
        write_image(tmp_path / "pets" / ("cat" if number % 2 else "dog") / f"{number:02}.png", number)
    small = ("--image-size", 75, "--depth-multiplier", 0.1, "--epochs", 1, "--batch-size", 2, "--out", tmp_path / "run")
    status, out, err = run("train", tmp_path / "pets", *small, "--quiet")
    assert (status, err) == (0, "")
    assert out.startswith(f"{tmp_path}/run: top-1 ")
    status, _, err = run("train", tmp_path / "pets", *small, "--overwrite", "--log-steps", 2)
    assert status == 0
    assert [line.split(":")[0] for line in err.splitlines() if line.startswith("step ")] == ["step 2", "step 4"]


def test_verbose_prints_choices_and_times(run: Run, model: Path, tmp_path: Path) -> None:
    status, _, err = run("predict", model, write_image(tmp_path / "a.png"), "--verbose")
    assert status == 0
    assert f"loaded {model}" in err
    assert err.splitlines()[-1].split() == [err.splitlines()[-1].split()[0], "s", "done"]
    assert float(err.splitlines()[-1].split()[0]) >= 0


def test_a_bug_is_one_line_and_with_verbose_a_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(**_: object) -> None:
        raise TypeError("two\nlines")

    monkeypatch.setattr("inception_v3.network.describe.describe_network", fails)
    status, out, err = run("describe")
    assert (status, out) == (1, "")
    assert "unexpected TypeError: two lines (test_cli.py, line " in one_line(err)
    assert "--verbose" in err
    monkeypatch.setattr(sys, "argv", ["inception-v3", "describe", "--verbose"])
    with pytest.raises(TypeError):
        cli.main()


def test_an_unexpected_error_of_a_file_names_the_file(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(**_: object) -> None:
        raise PermissionError(13, "Permission denied", "weights.bin")

    monkeypatch.setattr("inception_v3.network.describe.describe_network", fails)
    assert one_line(run("describe")[2]).startswith("error: weights.bin: no permission to read it; ")


def test_predict_overwrites_results_only_on_request(run: Run, model: Path, tmp_path: Path) -> None:
    image = write_image(tmp_path / "a.png")
    for suffix in ("jsonl", "csv", "parquet"):
        out = tmp_path / f"results.{suffix}"
        predict = ("predict", model, image, "--out", out)
        assert run(*predict, "--top", 2)[0] == 0
        status, _, err = run(*predict, "--top", 1)
        assert status == 2
        assert "--overwrite" in one_line(err)
        assert run(*predict, "--top", 1, "--overwrite")[0] == 0
        assert json.loads(out.with_name(f"{out.name}.about.json").read_text())["top"] == 1
    assert (tmp_path / "results.csv").read_text().startswith("image,error,class_1,probability_1\n")
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 1
    assert "use only one of them" in one_line(run(*predict, "--overwrite", "--resume")[2])
    assert "--out" in one_line(run("predict", model, image, "--overwrite")[2])


def test_csv_to_standard_output_replaces_the_usual_output(run: Run, model: Path, tmp_path: Path) -> None:
    for number in range(4):
        write_image(tmp_path / "pets" / ("cat" if number % 2 else "dog") / f"{number}.png", number)
    status, out, _ = run("evaluate", model, tmp_path / "pets", "--csv", "-")
    assert status == 0
    header, *rows = out.splitlines()
    assert header == "name,class,predicted,probability,right"
    assert len(rows) == 4
    assert "--json and --csv -" in one_line(run("evaluate", model, tmp_path / "pets", "--csv", "-", "--json")[2])
