"""Labels from the names of image files and from CSV tables: --labels-from-name and --labels."""

import json
import shutil
import threading
import time
import tracemalloc
import warnings
from collections import Counter
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest
from PIL import Image

from archives import write_tar
from inception_v3 import cli
from inception_v3.data import LabelledImages, LabelsFrom, file_labels, load_data, load_held_out
from inception_v3.errors import InputError

KAGGLE = [f"train/{pet}.{number}" for pet in ("cat", "dog") for number in range(5)] + ["test1/1", "test1/2"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write_images(folder: Path, names: list[str], suffix: str = ".png") -> Path:
    for number, name in enumerate(names):
        path = folder / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((9, 9, 3), number, np.uint8)).save(path)
    return folder


def pack(folder: Path, form: str) -> str:
    if form == "folder":
        return str(folder)
    if form == "shards":
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        for number in range(2):
            part = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files[number::2]}
            write_tar(folder.parent / f"{number}.tar", part)
        return f"{folder.parent}/*.tar"
    return shutil.make_archive(str(folder), "gztar" if form == "tar.gz" else form, folder.parent, folder.name)


def labels(images: LabelledImages) -> dict[str, str]:
    """The class by the file's name without its suffix."""
    names = (Path(name).stem for name in images.names)
    return {name: images.class_names[label] for name, label in zip(names, images.labels, strict=True)}


def all_labels(address: str, labels_from: LabelsFrom) -> dict[str, str]:
    train, held_out = load_data(address, labels_from)
    return labels(train) | labels(held_out)


every_form = pytest.mark.parametrize("form", ["folder", "zip", "tar", "tar.gz", "shards"])


# ------------------------------------------------------------------------------------------- names of files


@every_form
@pytest.mark.parametrize("expression", [r"^([a-z]+)\.", r"^(?P<label>cat|dog)\.", r"(^)(?P<label>cat|dog)"])
def test_the_group_of_the_expression_is_the_class(tmp_path: Path, form: str, expression: str) -> None:
    address = pack(write_images(tmp_path / "pets", KAGGLE), form)
    with pytest.warns(
        UserWarning, match=r"2 images have names that do not match .* \(first: .*test1/1\.png\); left out"
    ):
        train, held_out = load_data(address, LabelsFrom(name=expression))
    assert train.class_names == held_out.class_names == ["cat", "dog"]
    assert Counter([*train.labels, *held_out.labels]) == {0: 5, 1: 5}
    assert all(label in name for name, label in (labels(train) | labels(held_out)).items())
    assert np.asarray(train.open(0)).tolist() == np.full((9, 9, 3), KAGGLE.index(path_of(train.names[0]))).tolist()


def path_of(name: str) -> str:
    return "/".join(name.split("/")[-2:]).removesuffix(".png")


def test_an_expression_with_a_slash_matches_the_path_below_the_data(tmp_path: Path) -> None:
    write_images(tmp_path / "a" / "b", [f"{pet}/raw/{number}" for pet in ("cat", "dog") for number in range(5)])
    train, held_out = load_data(str(tmp_path / "a"), LabelsFrom(name="^([a-z]+)/raw/"))
    assert Counter([*train.labels, *held_out.labels]) == {0: 5, 1: 5}


@every_form
def test_split_folders_are_the_splits_of_images_with_labels(tmp_path: Path, form: str) -> None:
    names = [f"{split}/{pet}_{n}" for split in ("Train", "VAL") for pet in ("cat", "dog") for n in range(3)]
    address = pack(write_images(tmp_path / "pets", [*names, "other/cat_9"]), form)
    with pytest.warns(UserWarning, match="left out .*: in neither the training nor the held-out split") as caught:
        train, held_out = load_data(address, LabelsFrom(name="^([a-z]+)_"))
    assert {name.split("/")[-2] for name in train.names} == {"Train"}
    assert {name.split("/")[-2] for name in held_out.names} == {"VAL"}
    assert (len(train), len(held_out)) == (6, 6)
    assert sum("left out" in str(warning.message) for warning in caught) == 1


def test_archives_named_after_splits_are_the_splits_of_images_with_labels(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_images(tmp_path / split, [f"{pet}.{n}" for pet in ("cat", "dog") for n in range(3)])
        shutil.make_archive(str(tmp_path / "zips" / split), "zip", tmp_path, split)
    with pytest.warns(UserWarning, match="6 images are in both the training and the held-out split"):
        train, held_out = load_data(str(tmp_path / "zips"), LabelsFrom(name=r"^([a-z]+)\."))
    assert {name.split("/")[0] for name in train.names} == {"train.zip"}
    assert {name.split("/")[0] for name in held_out.names} == {"test.zip"}


def test_numbers_are_classes_in_numerical_order(tmp_path: Path) -> None:
    write_images(tmp_path, [f"{label}_{number}" for label in (2, 10, 1) for number in range(2)])
    assert load_data(str(tmp_path), LabelsFrom(name="^([0-9]+)_"))[0].class_names == ["1", "2", "10"]


def test_evaluation_leaves_out_the_training_images_with_labels_from_names(tmp_path: Path) -> None:
    source = LabelsFrom(name=r"^([a-z]+)\.")
    write_images(tmp_path / "pets", KAGGLE[:10])
    train, held_out = load_data(str(tmp_path / "pets"), source)
    images = load_held_out(str(tmp_path / "pets"), ["dog", "cat"], set(train.names), labels_from=source)
    assert images.names == held_out.names
    assert labels(images) == labels(held_out)


def test_images_of_which_no_name_matches_are_an_error(tmp_path: Path) -> None:
    write_images(tmp_path, ["a1", "b1"])
    with pytest.raises(
        InputError, match=r"none of its 2 images has a label: .* do not match \^\(x\) \(first: a1\.png\)"
    ):
        load_data(str(tmp_path), LabelsFrom(name="^(x)"))


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("^([a-z+", "not a regular expression"),
        ("*", "not a regular expression"),
        ("^[a-z]+", "has no group"),
        ("(" * 5000 + ")" * 5000, "--labels-from-name"),
    ],
)
def test_an_expression_that_cannot_work_is_wrong_usage(expression: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        LabelsFrom(name=expression)
    assert error.value.exit_status == 2
    assert "\n" not in str(error.value)


def test_an_expression_that_takes_years_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_labels, "MAX_SECONDS", 0.2)
    write_images(tmp_path, ["a" * 60 + "!"])
    started = time.monotonic()
    with pytest.raises(InputError, match=r"takes more than .* without nested repetition"):
        load_data(str(tmp_path), LabelsFrom(name="^(a+)+$"))
    assert time.monotonic() - started < 5


def test_labels_from_names_can_be_read_in_any_thread(tmp_path: Path) -> None:
    write_images(tmp_path, KAGGLE[:10])
    results: list[int] = []
    source = LabelsFrom(name=r"^([a-z]+)\.")
    thread = threading.Thread(target=lambda: results.append(len(load_data(str(tmp_path), source)[0])))
    thread.start()
    thread.join()
    assert results == [8]


# ------------------------------------------------------------------------------------------------- tables

PETS = {f"{pet}{number}": pet for pet in ("cat", "dog") for number in range(5)}


def write_table(path: Path, rows: list[str], encoding: str = "utf-8", ending: str = "\n") -> LabelsFrom:
    path.write_text(ending.join([*rows, ""]), encoding, newline="")
    return LabelsFrom(table=str(path))


@pytest.mark.parametrize(
    ("form", "key"),
    [
        *(("folder", key) for key in ("{}.png", "{}", "sub/{}.png", "sub/{}", "./sub/{}.png", "sub\\{}.png")),
        *((form, key) for form in ("folder", "zip", "tar.gz") for key in ("pets/sub/{}.png", "{}")),
        *(("shards", key) for key in ("sub/{}.png", "{}")),
    ],
)
def test_rows_name_files_or_paths_with_or_without_their_suffix(tmp_path: Path, form: str, key: str) -> None:
    write_images(tmp_path / "pets" / "sub", [*PETS])
    write_images(tmp_path / "pets" / "more", ["x"])
    table = write_table(
        tmp_path / "t.csv", ["image,label", *(f"{key.format(name)},{pet}" for name, pet in PETS.items())]
    )
    address = pack(tmp_path / "pets", form)
    with pytest.warns(UserWarning, match=r"1 image has no row in .* and no label \(first: .*more/x\.png\)"):
        assert all_labels(address, table) == PETS


def test_rows_may_be_absolute_paths(tmp_path: Path) -> None:
    write_images(tmp_path / "pets", [*PETS])
    rows = ["path,label", *(f"{tmp_path}/pets/{name}.png,{pet}" for name, pet in PETS.items())]
    assert all_labels(str(tmp_path / "pets"), write_table(tmp_path / "t.csv", rows)) == PETS


@pytest.mark.parametrize(
    "header",
    ["filename,label", "File,Class", "category,IMAGE", "path,x,class", "id,breed", " image , label ", "width,label,id"],
)
def test_the_columns_of_files_and_labels_are_found(tmp_path: Path, header: str) -> None:
    write_images(tmp_path / "pets", [*PETS])
    columns = [column.strip().lower() for column in header.split(",")]
    values = {"breed": 1, "label": 1, "class": 1, "category": 1, "x": 2, "width": 2}
    rows = [
        ",".join((f"{name}.png", pet, "7")[values.get(column, 0)] for column in columns) for name, pet in PETS.items()
    ]
    assert all_labels(str(tmp_path / "pets"), write_table(tmp_path / "t.csv", [header, *rows])) == PETS


def test_the_columns_can_be_named(tmp_path: Path) -> None:
    write_images(tmp_path / "pets", [*PETS])
    rows = ["id,label,photo,breed", *(f"9,9,{name},{pet}" for name, pet in PETS.items())]
    table = write_table(tmp_path / "t.csv", rows)
    assert all_labels(str(tmp_path / "pets"), LabelsFrom(table=f"{table.table}:photo,Breed")) == PETS


@pytest.mark.parametrize(
    ("delimiter", "ending", "encoding"),
    [(",", "\n", "utf-8"), (";", "\r\n", "utf-8-sig"), ("\t", "\r\n", "utf-16"), ("\t", "\n", "utf-8")],
)
def test_tables_of_every_delimiter_and_encoding_are_read(
    tmp_path: Path, delimiter: str, ending: str, encoding: str
) -> None:
    names = {f"cafe\u0301, {name}": f"é; {pet}" for name, pet in PETS.items()}  # the name has NFD, the table NFC
    write_images(tmp_path / "pets", [*names])
    rows = [f'"{normalize("NFC", name)}.png"{delimiter}"{pet}"' for name, pet in names.items()]
    table = write_table(tmp_path / "t.csv", [f"image{delimiter}label", *rows], encoding, ending)
    assert all_labels(str(tmp_path / "pets"), table) == names


def test_missing_unknown_repeated_and_incomplete_rows_are_counted(tmp_path: Path) -> None:
    write_images(tmp_path / "pets", [*PETS, "x1", "x2"])
    rows = [f"{name}.png,{pet}" for name, pet in PETS.items()]
    table = write_table(
        tmp_path / "t.csv",
        [
            "image,label",
            *rows,
            "no1.png,cat",
            "no2.png,cat",
            "no3.png,dog",
            rows[0],
            "cat1,cat",
            "x1.png,",
            "x2.png",
            "",
        ],
    )
    with pytest.warns(UserWarning, match="row") as caught:
        assert all_labels(str(tmp_path / "pets"), table) == PETS
    assert [str(warning.message).removeprefix(f"{tmp_path / 'pets'}: ") for warning in caught] == [
        f"2 images have no row in {table.table} (image, label) and no label (first: x1.png); left out",
        f"3 rows name no image (first: no1.png, line 12 of {table.table} (image, label))",
        f"2 rows of {table.table} (image, label) repeat another row",
        f"2 rows of {table.table} (image, label) have no file or no label; ignored",
    ]


@pytest.mark.parametrize("second", ["a.png", "./a.png", "a", "pets/a.png"])
def test_two_labels_of_an_image_are_refused(tmp_path: Path, second: str) -> None:
    write_images(tmp_path / "pets", ["a", "b"])
    table = write_table(tmp_path / "t.csv", ["image,label", "a.png,cat", "b.png,dog", f"{second},dog"])
    with pytest.raises(InputError, match=r"a\S* is cat in line 2 and dog in line 4; remove the wrong one") as error:
        load_data(str(tmp_path / "pets"), table)
    assert str(error.value).startswith(str(tmp_path / "t.csv"))


@pytest.mark.parametrize("row", ["1.png", "1"])
def test_a_row_that_names_several_images_is_refused(tmp_path: Path, row: str) -> None:
    write_images(tmp_path / "pets", ["train/1", "train/2", "test/1"])
    table = write_table(tmp_path / "t.csv", ["id,label", f"{row},cat", "2,dog"])
    with pytest.raises(InputError, match=r"line 2 names several images, such as t\w+/1\.png; write the path of each"):
        load_data(str(tmp_path / "pets"), table)


def test_a_table_of_other_images_is_an_error(tmp_path: Path) -> None:
    write_images(tmp_path / "pets", ["cat/1", "dog/1"])
    table = write_table(tmp_path / "t.csv", ["image,label", "a.png,cat", "b.png,dog"])
    with pytest.raises(InputError, match=r"none of its 2 images has a label: .*\(first: cat/1\.png\)") as error:
        load_data(str(tmp_path / "pets"), table)
    assert "a.png" in str(error.value)


def test_a_table_replaces_class_folders(tmp_path: Path) -> None:
    write_images(
        tmp_path / "pets", [f"{'odd' if n % 2 else 'even'}/{pet}{n}" for pet in ("cat", "dog") for n in range(5)]
    )
    rows = ["image,label", *(f"{name}.png,{pet}" for name, pet in PETS.items())]
    assert all_labels(str(tmp_path / "pets"), write_table(tmp_path / "t.csv", rows)) == PETS


@pytest.mark.parametrize(
    ("content", "columns", "message"),
    [
        (None, "", "no such file"),
        (b"", "", "no column of file names"),
        (b"1.png,cat\n", "", "no column of file names among 1.png, cat; name the columns: "),
        (b"image,x,y\n", "", "no column of labels among image, x, y"),
        (b"image,label,class\n", "", "several columns of labels among image, label, class"),
        (b"image,label\n", ":image,breed", "no column breed among image, label"),
        (b"image,label\n", ":image", "give two columns"),
        (b"image,label\n\xff\xff\xff.png,cat\n", "", "save it as CSV in UTF-8"),
        (b"\xff\xd8\xff\xe0" + bytes(100), "", "--labels"),
        (b"image,label\n" + b'"' + b"x" * 200_000, "", "cannot be read"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_in_one_line(
    tmp_path: Path, content: bytes | None, columns: str, message: str
) -> None:
    write_images(tmp_path / "pets", ["1", "2"])
    if content is not None:
        (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        load_data(str(tmp_path / "pets"), LabelsFrom(table=f"{tmp_path / 't.csv'}{columns}"))
    assert str(error.value).startswith(f"--labels {tmp_path / 't.csv'}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("address", ["digits", "-", "mnist:folder", "{}/x.npz", "{}/x.parquet", "{}/empty"])
def test_data_without_files_of_images_take_no_table(tmp_path: Path, address: str) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("x.npz", "x.parquet"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(
        InputError, match="--labels and --labels-from-name need images in a folder or in archives"
    ) as error:
        load_data(address.format(tmp_path), LabelsFrom(table="t.csv"))
    assert error.value.exit_status == 2


def test_many_labels_take_little_memory_and_time(tmp_path: Path) -> None:
    paths = [f"/data/{number % 100:02}/{'cat' if number % 2 else 'dog'}.{number:07}.jpg" for number in range(20_000)]
    images = LabelledImages.lazy(["all"], [0] * len(paths), Path, paths.__getitem__)
    with (tmp_path / "t.csv").open("w") as file:
        file.writelines(["id,label\n", *(f"{Path(path).stem},{'cat' if 'cat' in path else 'dog'}\n" for path in paths)])
    for source in (LabelsFrom(name=r"^([a-z]+)\."), LabelsFrom(table=str(tmp_path / "t.csv"))):
        started = time.monotonic()
        file_labels.find_labelled_splits(images, paths, source, "data")
        assert time.monotonic() - started < 10  # usually 0.3
        tracemalloc.start()
        splits = file_labels.find_labelled_splits(images, paths, source, "data")
        memory, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert memory < 40 * len(paths)  # what is kept
        assert peak < 300 * len(paths)
        assert len(splits.train()) == len(paths)


# ---------------------------------------------------------------------------------------- the command line


def test_the_commands_take_labels_and_the_run_stores_their_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import inception_v3

    write_images(tmp_path / "pets", KAGGLE[:10])
    table = write_table(
        tmp_path / "t.csv", ["image,label", *(f"{Path(name).name}.png,{name[6:9]}" for name in KAGGLE[:10])]
    )
    options = ["--recipe", "digits", "--epochs", "1", "--image-size", "75", "--depth-multiplier", "0.1", "--json"]

    def run(*arguments: str) -> dict[str, object]:
        monkeypatch.setattr("sys.argv", ["inception-v3", *arguments])
        with warnings.catch_warnings(), pytest.raises(SystemExit) as status:
            cli.main()
        assert not status.value.code
        return json.loads(capsys.readouterr().out)

    data, out = str(tmp_path / "pets"), str(tmp_path / "run")
    by_name = ("--labels-from-name", r"^([a-z]+)\.")
    result = run("train", data, "--out", out, *by_name, *options)
    assert result["labels"] == r"file names that match ^([a-z]+)\."
    model = inception_v3.load(out)
    assert model.class_names == ["cat", "dog"]
    assert model.origin.training["labels"] == result["labels"]
    assert r"file names that match ^([a-z]+)\." in str(model.generate_model_card())
    evaluated = run("evaluate", out, data, "--labels", table.table, "--json")
    assert (evaluated["labels"], evaluated["count"]) == ("the table t.csv", 2)
    tuned = run("finetune", out, data, "--out", str(tmp_path / "tuned"), "--labels", table.table, "--json")
    assert tuned["labels"] == "the table t.csv"
    assert inception_v3.load(tmp_path / "tuned").origin.training["labels"] == tuned["labels"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--labels", "t.csv", "--labels-from-name", "(x)"], "--labels and --labels-from-name: use only one of them"),
        (["--labels-from-name", "(x"], "--labels-from-name (x: not a regular expression"),
        (["--labels-from-name", ""], "the value is empty"),
        (["--labels", "no.csv"], "--labels no.csv: no such file"),
    ],
)
@pytest.mark.parametrize("command", ["train", "finetune"])
def test_options_that_cannot_work_are_wrong_usage(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    options: list[str],
    message: str,
) -> None:
    write_images(tmp_path / "pets", KAGGLE[:10])
    monkeypatch.chdir(tmp_path)
    first = ["torchvision:IMAGENET1K_V1"] if command == "finetune" else []
    monkeypatch.setattr("sys.argv", ["inception-v3", command, *first, "pets", "--out", "run", *options])
    with pytest.raises(SystemExit) as status:
        cli.main()
    assert status.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
