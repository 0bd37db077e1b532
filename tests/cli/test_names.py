"""Names are data: results hold them as they are, and a terminal shows every character of them."""

import csv
import io
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import inception_v3
from inception_v3 import cli
from inception_v3.errors import InputError
from inception_v3.reports.pages import write_page
from inception_v3.support.text import csv_record, from_utf8, printable, to_json, to_utf8
from inception_v3.weights.formats.state_dict_file import open_file

pytestmark = pytest.mark.usefixtures("one_thread")

# A name of a file, and how a terminal shows it.
SHOWN = {
    "a\udcff.png": r"a\udcff.png",  # the byte 0xff
    "two\nlines.png": r"two\nlines.png",
    "return\rx.png": r"return\rx.png",
    "red\x1b[31m.png": r"red\x1b[31m.png",
    "c1\x9b31m.png": r"c1\x9b31m.png",
    "right\u202egnp.png": r"right\u202egnp.png",
    "zero\u200bwidth.png": r"zero\u200bwidth.png",
    "[red]markup :smile:.png": "[red]markup :smile:.png",
    "=HYPERLINK(1).png": "=HYPERLINK(1).png",
    'quote",comma.png': 'quote",comma.png',
    r"text\udcff.png": r"text\udcff.png",
    "grün.png": "grün.png",
}
Run = Callable[[str], tuple[int, str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images with such names, two of them not images, and a network with such a name of a class."""
    folder = tmp_path_factory.mktemp("names")
    (folder / "images").mkdir()
    for name in SHOWN:
        Image.new("RGB", (80, 80), (len(name), 0, 0)).save(folder / "image.png")
        (folder / "image.png").rename(folder / "images" / name)
    (folder / "images" / "bad\x1b]8;;x\n.png").write_text("hello")
    network = inception_v3.InceptionV3(num_classes=2, depth_multiplier=0.1, min_depth=8, image_size=75).eval()
    network.preprocessing, network.class_names = inception_v3.Preprocessing((75, 75)), ["[red]\x1b[31mcat", "\u202edog"]
    inception_v3.save(network, folder / "model.safetensors")
    return folder


@pytest.fixture
def run(folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(folder)

    def run(options: str) -> tuple[int, str, str]:
        command = f"inception-v3 predict model.safetensors images --engine pytorch --allow-unreadable 100% {options}"
        monkeypatch.setattr(sys, "argv", command.split())
        with pytest.raises(SystemExit) as exited:
            cli.main()
        return int(exited.value.code or 0), *capfd.readouterr()

    return run


def images_in(folder: Path, names: list[str]) -> set[str]:
    """The names of files below images/ that these names of results open."""
    assert len(names) == len(set(names)) == len(SHOWN) + 1
    assert all((folder / name).is_file() for name in names)
    return {Path(name).name for name in names if "bad" not in name}


def test_a_terminal_shows_every_character_of_a_name(run: Run) -> None:
    status, out, err = run("")
    assert status == 0
    assert {line.split("  ")[0] for line in out.splitlines()} == {f"images/{shown}" for shown in SHOWN.values()}
    assert all(r"  [red]\x1b[31mcat " in line and r"  \u202edog " in line for line in out.splitlines())
    assert r"images/bad\x1b]8;;x\n.png: not a supported image" in err
    assert all(line == printable(line) for line in (out + err).splitlines())


def test_json_has_the_names_that_open_the_files(run: Run, folder: Path) -> None:
    status, out, _ = run("--json")
    assert status == 0
    assert images_in(folder, [json.loads(line)["image"] for line in out.splitlines()]) == set(SHOWN)
    assert all(line == printable(line) for line in out.splitlines())


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_results_have_the_names_that_open_the_files_and_can_be_resumed(run: Run, folder: Path, suffix: str) -> None:
    for shard in ("1/2", "2/2") if suffix == "parquet" else ("1/1",):
        assert run(f"--out all.{suffix} --shard {shard} --quiet")[0] == 0
    file = folder / f"all.{suffix}"
    if suffix == "jsonl":
        names = [json.loads(line)["image"] for line in file.read_text("utf-8").splitlines()]
    elif suffix == "csv":
        with file.open(encoding="utf-8", newline="") as opened:
            names = [from_utf8(row["image"]) for row in csv.DictReader(opened)]
    else:
        dataset = pytest.importorskip("pyarrow.dataset").dataset(file)
        names = [from_utf8(name) for name in dataset.to_table()["image"].to_pylist()]
    assert images_in(folder, names) == set(SHOWN)
    if suffix != "parquet":
        _, _, err = run(f"--out all.{suffix} --shard 1/1 --resume")
        assert f"{len(SHOWN) + 1} images are done already" in err
        assert "\n0 images, " in err


def test_a_csv_table_that_was_cut_off_inside_a_name_is_resumed(run: Run, folder: Path) -> None:
    assert run("--out cut.csv --quiet")[0] == 0
    table = (folder / "cut.csv").read_bytes()
    (folder / "cut.csv").write_bytes(table[: table.index(b"two\nlines") + 6])
    assert run("--out cut.csv --resume --quiet")[0] == 0
    texts = table.decode(), (folder / "cut.csv").read_bytes().decode()
    before, after = (list(csv.reader(io.StringIO(text, newline=""))) for text in texts)
    assert [row[0] for row in after] == [row[0] for row in before]


@pytest.mark.parametrize(
    "cell", ["=1+1", "+1", "-1", "@x", "\tx", "\rx", "x\ny", 'a "b", c', "x\0y", "", r"\udcff", "\udcff"]
)
def test_a_csv_table_holds_the_text_as_it_is(cell: str) -> None:
    """A formula of a spreadsheet is not changed: a program must find the file by its name."""
    record = csv_record([cell, "end"])
    assert record.encode()
    assert [from_utf8(text) for text in next(csv.reader([record]))] == [cell, "end"]


@pytest.mark.parametrize(
    "text", ["\udcff", r"\udcff", "\\\udcff", r"\u005cudcff", r"\u005c", "猫", "👩\u200d👧", "\x7f\x85\u2028"]
)
def test_json_csv_and_parquet_give_the_text_again(text: str) -> None:
    assert from_utf8(to_utf8(text)) == text
    assert json.loads(to_json(text)) == text
    assert (to_utf8(text) + to_json(text)).encode()


@pytest.mark.parametrize("text", ["👩\u200d👧", "می\u200cخواهم", "क्\u200dष", "naïve 猫"])
def test_emoji_and_scripts_that_need_joiners_stay_readable(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    "text", ["pay\u200dpal", "\u2066x", "\u200fx", "\u061cx", "\ufeffx", "x\u00ad", "\u3164", "\U000e0041"]
)
def test_characters_that_cannot_be_seen_are_shown(text: str) -> None:
    assert printable(text).isascii()
    assert printable(printable(text)) == printable(text)


def test_a_page_shows_every_character(tmp_path: Path) -> None:
    hostile = "<b>\x1b[31m\0\u202e\udcff"
    values = {"title": hostile, "scores": [], "tiles": [], "warnings": [hostile], "facts": [], "groups": []}
    write_page(tmp_path / "page.html", "fidelity/report.html", values | {"unreadable": [], "thumbnail": 1})
    page = (tmp_path / "page.html").read_text("utf-8")
    assert page.count(r"&lt;b&gt;\x1b[31m\x00\u202e\udcff") >= 2
    assert all(line == printable(line) or "\t" in line for line in page.splitlines())


OUTSIDE_UTF8 = "a\udcff\x1b\n"


def test_a_folder_with_a_name_outside_utf8_holds_models_exports_and_results(
    folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = folder / OUTSIDE_UTF8
    parent.mkdir()
    model = str(parent / f"{OUTSIDE_UTF8}.safetensors")
    shutil.copy(folder / "model.safetensors", model)
    image = str(folder / "images" / "grün.png")

    def succeeds(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["inception-v3", *arguments])
        with pytest.raises(SystemExit) as exited:
            cli.main()
        out, err = capfd.readouterr()
        assert not exited.value.code, err
        assert all(line == printable(line) for line in (out + err).splitlines())

    succeeds("convert", model, str(parent / "copy.safetensors"), "--to", "native")
    for options in ((), ("--resume",)):
        succeeds("predict", model, image, "--engine", "pytorch", "--out", str(parent / "rows.parquet"), *options)
    for suffix, engine in ((".onnx", "onnxruntime"), (".xml", "openvino"), (".pt2", "")):
        pytest.importorskip(engine or "torch")
        for name in ("run", OUTSIDE_UTF8) if engine else (OUTSIDE_UTF8,):  # torch.export takes seconds
            succeeds("export", model, str(parent / name) + suffix)
            if engine:
                succeeds("predict", str(parent / name) + suffix, image, "--engine", engine)
    assert not list(parent.glob(".inception-v3*"))


def test_a_state_dict_in_a_folder_with_a_name_outside_utf8_is_read(tmp_path: Path) -> None:
    folder = tmp_path / OUTSIDE_UTF8
    folder.mkdir()
    values = {"fc.bias": torch.ones(3)}
    torch.save(values, folder / "weights.pth")
    save_file(values, folder / "weights.safetensors")
    for file in folder.iterdir():
        opened = open_file(file)
        assert opened.read("fc.bias", opened.root["fc.bias"]).tolist() == [1, 1, 1]


def test_a_terminal_shows_every_character_of_the_name_of_a_tensor(tmp_path: Path) -> None:
    torch.save({"red\x1b[31m\n\u202e": torch.ones(1).int()}, tmp_path / "weights.pth")
    opened = open_file(tmp_path / "weights.pth")
    with pytest.raises(InputError, match=re.escape(r"red\x1b[31m \u202e is torch.int32")):
        opened.read(*next(iter(opened.root.items())))
