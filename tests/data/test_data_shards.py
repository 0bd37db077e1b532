"""Tar shards: written by WebDataset, on disk or behind a URL, whole or damaged."""

import contextlib
import gc
import http.server
import io
import json
import pickle
import re
import tarfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
import webdataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from conftest import as_set
from inception_v3.data import batches, load_data, load_held_out
from inception_v3.errors import InputError
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.support import download
from inception_v3.support.files import cache_folder
from processes import run, wait_for_processes

CLASSES = ("cat", "dog", "emu")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def png(seed: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 9, 3), dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def write_shards(folder: Path, split: str, count: int, seed: int = 0, shards: int = 2) -> None:
    """Write them with WebDataset's own writer."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(shards):
        with webdataset.TarWriter(str(folder / f"{split}-{shard:03}.tar")) as writer:
            for number in range(shard, count, shards):
                writer.write({"__key__": f"{number:05}", "png": png(seed + number), "cls": number % 3})


def write_folder(folder: Path, split: str, count: int, seed: int = 0) -> None:
    for number in range(count):
        file = folder / split / CLASSES[number % 3] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(seed + number))


def tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def labelled(count: int, **more: bytes) -> dict[str, bytes]:
    members: dict[str, bytes] = {}
    for number in range(count):
        members |= {f"{number}.png": png(number), f"{number}.cls": str(number % 2).encode()}
    return members | more


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Train and val shards, and a labels.txt."""
    write_shards(tmp_path / "shards", "train", 12)
    write_shards(tmp_path / "shards", "val", 6, seed=100)
    (tmp_path / "shards" / "labels.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    return tmp_path / "shards"


# ------------------------------------------------------------------------------------------------ reading


def test_shards_hold_the_same_images_as_folders(shards: Path, tmp_path: Path) -> None:
    write_folder(tmp_path / "folder", "train", 12)
    write_folder(tmp_path / "folder", "val", 6, seed=100)
    for ours, theirs in zip(load_data(str(shards)), load_data(str(tmp_path / "folder")), strict=True):
        assert ours.class_names == theirs.class_names
        assert as_set(ours) == as_set(theirs)


def test_webdataset_reads_the_same_images_and_labels(shards: Path) -> None:
    train, _ = load_data(str(shards))
    files = sorted(str(file) for file in shards.glob("train-*.tar"))
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):  # webdataset leaves its files open
        theirs = list(webdataset.WebDataset(files, shardshuffle=False).decode("pil").to_tuple("png", "cls"))
        gc.collect()
    assert [label for _, label in theirs] == list(train.labels)
    assert all(image.tobytes() == train.open(index).tobytes() for index, (image, _) in enumerate(theirs))


def test_names_have_the_shard_and_the_member(shards: Path) -> None:
    train, test = load_data(str(shards))
    assert train.names[:2] == ["train-000.tar/00000.png", "train-000.tar/00002.png"]
    assert test.names[0] == "val-000.tar/00000.png"


@pytest.mark.parametrize(
    ("address", "counts"),
    [
        ("", (12, 6)),
        ("/*.tar", (12, 6)),
        ("/{train,val}-{000..001}.tar", (12, 6)),
        ("/train-{000..001}.tar", (9, 3)),
        ("/train-00?.tar", (9, 3)),
        ("/val-*.tar", (3, 3)),
    ],
)
def test_folders_patterns_and_braces_select_shards(shards: Path, address: str, counts: tuple[int, int]) -> None:
    train, test = load_data(f"{shards}{address}")
    assert (len(train), len(test)) == counts
    assert not set(train.names) & set(test.names)


def test_shards_in_neither_split_are_left_out_with_a_warning(shards: Path) -> None:
    write_shards(shards, "extra", 4)
    with pytest.warns(UserWarning, match="left out extra-000.tar, extra-001.tar: in neither"):
        load_data(str(shards))


def test_each_split_may_have_a_folder_of_shards(tmp_path: Path) -> None:
    write_shards(tmp_path / "train", "part", 12)
    write_shards(tmp_path / "validation", "part", 6, seed=100)
    train, test = load_data(str(tmp_path))
    assert (len(train), len(test)) == (12, 6)


def test_an_archive_beside_class_folders_is_ignored(tmp_path: Path) -> None:
    write_folder(tmp_path, "", 12)
    tar(tmp_path / "images.tar", labelled(4))
    assert sum(len(part) for part in load_data(str(tmp_path))) == 12


def test_evaluation_holds_out_the_same_images(shards: Path) -> None:
    train, test = load_data(f"{shards}/train-*.tar")
    again = load_held_out(f"{shards}/train-*.tar", train.class_names, set(train.names))
    assert again.names == test.names
    assert len(load_held_out(str(shards), train.class_names, set(train.names))) == 6


def test_labels_may_be_in_json_and_classes_without_names_are_numbers(tmp_path: Path) -> None:
    members = {}
    for number in range(6):
        members[f"a/b.c/{number}.jpg"] = png(number)
        members[f"a/b.c/{number}.json"] = json.dumps({"label": number % 2, "caption": "?"}).encode()
        members[f"a/b.c/{number}.seg.png"] = png(number + 50)
        members[f"a/b.c/{number}.txt"] = b"a caption"
    with pytest.warns(UserWarning, match="6 images of samples were left out"):
        train, test = load_data(str(tar(tmp_path / "x.tar", members)))
    assert (train.class_names, len(train), len(test)) == (["0", "1"], 4, 2)
    assert set(train.names) | set(test.names) == {f"x.tar/a/b.c/{number}.jpg" for number in range(6)}


def test_a_pickled_subset_reads_the_same_images(shards: Path) -> None:
    train, _ = load_data(str(shards))
    part = pickle.loads(pickle.dumps(train)).subset([11, 0, 5])
    assert [part.open(index).tobytes() for index in range(3)] == [train.open(i).tobytes() for i in (11, 0, 5)]
    loaded = list(batches(train, Preprocessing((75, 75)), 5))
    assert sum(len(batch.labels) for batch in loaded) == 12


def test_a_slow_index_is_cached_until_the_shard_changes(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inception_v3.data.records.MIN_SECONDS_TO_CACHE", -1.0)
    first, _ = load_data(str(shards))
    assert len(list((cache_folder() / "index").iterdir())) == 4
    monkeypatch.setattr("inception_v3.data.shards.read_members", lambda *_: pytest.fail("read again"))
    again, _ = load_data(str(shards))
    assert (again.names, list(again.labels), as_set(again)) == (first.names, list(first.labels), as_set(first))
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(shards.parent / "cache"))
    write_shards(shards, "train", 15)
    assert len(load_data(str(shards))[0]) == 15


# -------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("0.cls", b"cat", "its label is 'cat', but must be a whole number"),
        ("0.cls", b"", "its label is ''"),
        ("0.cls", b"-1", "its label is '-1'"),
        ("0.cls", b"1.5", "its label is '1.5'"),
        ("0.cls", b"999999999999", "its label is '999999999999'"),
        ("0.cls", b"\xff\n\x1b", "its label is"),
        ("0.cls", b"1" * (2**20 + 1), "bytes are too many for a label"),
        ("0.cls", b"1" * 5000, "its label is '1111"),  # more digits than Python reads
        ("0.json", b"{", "not valid JSON"),
        ("0.json", b"[" * 100_000, "not valid JSON"),
        ("0.json", b'{"label": "dog"}', "its label is 'dog'"),
        ("0.json", b'{"label": true}', "its label is 'True'"),
    ],
)
def test_a_label_that_is_not_a_number_is_reported_in_one_line(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tar(tmp_path / "x.tar", labelled(4) | {name: content})
    with pytest.raises(InputError, match=message) as error:
        load_data(str(path))
    assert str(error.value).startswith(f"{path}: {name}: ")
    assert len(str(error.value).splitlines()) == 1


def test_the_last_extension_of_a_member_is_its_type(tmp_path: Path) -> None:
    members = {name.replace(".", ".1.", 1): content for name, content in labelled(8).items()}
    train, test = load_data(str(tar(tmp_path / "x.tar", members)))
    assert sorted([*train.names, *test.names]) == [f"x.tar/{number}.1.png" for number in range(8)]


def test_images_without_a_label_and_damaged_images_are_reported_as_bad(tmp_path: Path) -> None:
    members = labelled(8) | {"lost.png": png(99), "0.jpg": png(98), "2.png": png(2)[:40]}
    with (
        pytest.warns(UserWarning, match=r"left out x.tar/lost.png: no label: add lost.cls or lost.json"),
        pytest.warns(UserWarning, match=r"1 images of samples were left out \(first: x.tar/0.jpg\)"),
    ):
        train, test = load_data(str(tar(tmp_path / "x.tar", members)))
    assert len(train) + len(test) == 8
    assert train.bad[0] == ("x.tar/lost.png", "no label: add lost.cls or lost.json to the shard")
    (reason,) = [reason for part in (train, test) for batch in batches(part, Preprocessing((75, 75)), 3)
                 for _, reason in batch.bad]  # fmt: skip
    assert reason.startswith("x.tar/2.png: ")


def test_an_image_with_two_labels_is_left_out_with_a_warning(tmp_path: Path) -> None:
    members = labelled(8) | {"0.json": b'{"label": 2}', "1.json": b'{"label": 1}', "2.json": b'{"caption": "a"}'}
    with pytest.warns(UserWarning, match="left out x.tar/0.png: its .cls and its .json have different labels"):
        train, test = load_data(str(tar(tmp_path / "x.tar", members)))
    assert len(train) + len(test) == 7


def test_images_before_the_damage_are_used(tmp_path: Path) -> None:
    path = tar(tmp_path / "x.tar", labelled(8))
    whole = path.read_bytes()
    with tarfile.open(path) as file:
        member = file.getmember("6.png")
    cases = {
        member.offset_data + 100: f"damaged at byte {member.offset} .*cut short",
        member.offset + 100: f"no end mark at byte {member.offset}|damaged at byte {member.offset}",
        member.offset: "no end mark at byte",
    }
    for length, message in cases.items():
        path.write_bytes(whole[:length])
        with pytest.warns(UserWarning, match=rf"left out x.tar: ({message})"):
            train, test = load_data(str(path))
        assert len(train) + len(test) == 6
    flipped = bytearray(whole)
    flipped[member.offset + 150] ^= 0x55  # in its checksum
    path.write_bytes(flipped)
    with pytest.warns(UserWarning, match=f"damaged at byte {member.offset}: the rest is left out"):
        train, test = load_data(str(path))
    assert len(train) + len(test) == 6


def test_a_shard_cut_anywhere_gives_a_warning_or_an_error_of_one_line(tmp_path: Path) -> None:
    path = tar(tmp_path / "x.tar", labelled(8))
    whole = path.read_bytes()
    refused: list[str] = []
    for length in range(0, len(whole), 1777):
        path.write_bytes(whole[:length])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                train, test = load_data(str(path))
            except InputError as error:
                refused.append(str(error))
            else:
                assert len(train) + len(test) <= 8
                assert caught or length > len(whole) - tarfile.RECORDSIZE
    assert refused
    assert all(str(path) in line and "\n" not in line for line in refused)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a tar file"),
        (b"this is text " * 99, "not a tar file"),
        (b"\x1f\x8b" + b"x" * 99, "damaged or truncated"),
        (b"\0" * 10240, "no labelled images"),
    ],
)
def test_a_file_that_is_not_a_shard_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        load_data(str(tmp_path / "x.tar"))
    assert str(tmp_path / "x.tar") in str(error.value)
    tar(tmp_path / "y.tar", labelled(8))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train, test = load_data(str(tmp_path))
    assert len(train) + len(test) == 8, "the other shard is used"
    assert [name for name, _ in train.bad] == (["x.tar"] if content.strip(b"\0") or not content else [])
    assert len(caught) == len(train.bad)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_header_raises_only_input_errors(tmp_path: Path, data: st.DataObject) -> None:
    path = tar(tmp_path / "x.tar", labelled(6))
    broken = bytearray(path.read_bytes())
    header = data.draw(
        st.sampled_from([start for start in range(0, len(broken), 512) if broken[start + 257 :][:5] == b"ustar"])
    )
    for _ in range(data.draw(st.integers(1, 3))):
        broken[header + data.draw(st.integers(0, 511))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):  # a correct checksum, as an attacker would write it
        broken[header + 148 : header + 156] = b" " * 8
        broken[header + 148 : header + 156] = b"%06o\0 " % sum(broken[header : header + 512])
    path.write_bytes(broken)
    with warnings.catch_warnings(), contextlib.suppress(InputError):
        warnings.simplefilter("ignore")
        for part in load_data(str(path)):
            for index in range(len(part)):
                with contextlib.suppress(InputError):
                    part.open(index)


def test_reading_a_member_of_negative_size_ends(tmp_path: Path) -> None:
    path = tar(tmp_path / "x.tar", labelled(6))
    back = tarfile.TarInfo("back.bin")
    back.size = -1024  # written in base 256, tar's form for numbers that its octal digits cannot hold
    whole = path.read_bytes().rstrip(b"\0")
    whole += b"\0" * (-len(whole) % 512)
    path.write_bytes(whole + back.tobuf(tarfile.GNU_FORMAT) + b"\0" * 1024)
    with pytest.warns(UserWarning, match=f"left out x.tar: damaged at byte {len(whole)}"):
        train, test = load_data(str(path))
    assert len(train) + len(test) == 6


def test_a_shard_that_changes_after_it_was_indexed_raises_an_error(tmp_path: Path) -> None:
    path = tar(tmp_path / "x.tar", labelled(8))
    train, _ = load_data(str(path))
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(InputError, match=r"^x.tar/\d.png: .*the shard has changed"):
        train.open(5)
    path.unlink()
    with pytest.raises(InputError, match=r"^x.tar/\d.png: .*there is no such file"):
        train.open(5)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("{0..999999999}.tar", "more than 1,000,000 files"),
        ("x-{000..002}.tar", "x-000.tar: no such folder or file"),
        ("*.tar", "no file matches it"),
        ("tfrecords+download:x", "unknown kind of data set tfrecords\\+download; give cifar10"),
        ("x" * 5000, "the name is too long"),
    ],
)
def test_an_address_without_meaning_is_an_error_of_use(
    address: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message) as error:
        load_data(address)
    assert error.value.exit_status == 2


def test_a_folder_with_several_kinds_of_files_is_refused(shards: Path) -> None:
    (shards / "x.parquet").write_bytes(b"")
    with pytest.raises(InputError, match="several kinds"):
        load_data(str(shards))


# --------------------------------------------------------------------------------------------------- addresses


class FaultyHandler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder and records the requested paths. /cut/ sends half of each file; /slow/ waits first."""

    requested: list[str]

    def do_GET(self) -> None:
        self.requested.append(self.path)
        if self.path.startswith("/cut/"):
            content = (Path(self.directory) / self.path.removeprefix("/cut/")).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
        else:
            if self.path.startswith("/slow/"):
                time.sleep(0.3)
                self.path = self.path.removeprefix("/slow")
            super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(shards: Path) -> Iterator[tuple[str, list[str]]]:
    requested: list[str] = []

    class Handler(FaultyHandler):
        def __init__(self, *arguments: object, **options: object) -> None:
            self.requested = requested
            super().__init__(*arguments, directory=str(shards), **options)  # type: ignore[arg-type]

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", requested
        running.shutdown()


def test_shards_behind_a_url_are_downloaded_once(shards: Path, server: tuple[str, list[str]]) -> None:
    url, requested = server
    address = f"{url}/{{train,val}}-{{000..001}}.tar"
    train, test = load_data(address)
    ours = load_data(str(shards))
    for part, whole in zip((train, test), ours, strict=True):
        assert (part.names, list(part.labels)) == (whole.names, list(whole.labels))
    requested.clear()
    again, _ = load_data(address)
    assert as_set(again) == as_set(train)
    assert not requested
    assert not list(cache_folder().rglob("*.partial"))


def test_only_one_of_several_processes_downloads(server: tuple[str, list[str]], tmp_path: Path) -> None:
    """The processes of torchrun all start at once, when there is no file yet."""
    url, requested = server
    cache = str(tmp_path / "cache")
    address = f"{url}/slow/{{train,val}}-000.tar"
    processes = [
        run(load_at_once, address, tmp_path, log=tmp_path / f"log-{number}", XDG_CACHE_HOME=cache)
        for number in range(3)
    ]
    assert [(process.wait(), process.output) for process in processes] == [(0, "6 and 3\n")] * 3
    assert Counter(requested) == {"/slow/train-000.tar": 1, "/slow/val-000.tar": 1}


def load_at_once(address: str, meeting_folder: Path) -> None:
    wait_for_processes(meeting_folder, 3)
    print(*map(len, load_data(address)), sep=" and ")


def test_evaluation_downloads_only_the_held_out_shards(server: tuple[str, list[str]]) -> None:
    url, requested = server
    assert len(load_held_out(f"{url}/{{train,val}}-000.tar", None)) == 3
    assert all("train" not in path for path in requested)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("URL/missing.tar", r"the server returned 404 .*; check the address"),
        ("URL/cut/train-000.tar", "interrupted after .* MB of .*; check the address and the network"),
        ("http://127.0.0.1:1/x.tar", "cannot be reached"),
        ("nonsense://x/y.tar", "cannot be downloaded|another package"),
        ("memory://nothing/y.tar", "no such file there"),
    ],
)
def test_a_failed_download_is_reported_in_one_line_and_leaves_no_file_but_the_part_to_resume(
    server: tuple[str, list[str]], address: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "PAUSE", 0.0)
    url, _ = server
    with pytest.raises(InputError, match=message) as error:
        load_data(address.replace("URL", url))
    assert str(error.value).startswith(address.replace("URL", url))
    assert "\n" not in str(error.value)
    assert not [
        path
        for path in cache_folder().rglob("*")
        if path.is_file() and not re.search(r"\.(lock|partial|version)$", path.name)
    ]


def test_urls_of_any_scheme_of_fsspec(shards: Path) -> None:
    memory = fsspec.filesystem("memory")
    for file in shards.glob("*.tar"):
        memory.pipe(f"/bucket/{file.name}", file.read_bytes())
    train, test = load_data("memory://bucket/{train,val}-{000..001}.tar")
    assert (len(train), len(test)) == (12, 6)
    train, _ = load_data(f"file://{shards}/train-000.tar")
    assert len(train) == 3
