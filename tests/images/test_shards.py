"""Shards: every image is in exactly one of them, whoever divides, in whatever order."""

import io
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from archives import write_tar, write_zip
from inception_v3.errors import InputError
from inception_v3.images.addresses import expand
from inception_v3.images.find import ImageSource
from inception_v3.images.partition import Shard, shard_range
from inception_v3.images.shards import expand_shard


@given(st.lists(st.text(st.sampled_from("ab/.é\U0010ffff"), max_size=4)), st.integers(1, 12))
def test_each_address_is_in_exactly_one_shard(addresses: list[str], count: int) -> None:
    addresses.sort()
    ranges = [shard_range(addresses, Shard(number, count)) for number in range(1, count + 1)]
    parts = [[address for address in addresses if address in part] for part in ranges]
    assert [address for part in parts for address in part] == addresses, "one after another they are the whole, sorted"
    assert all(set(one).isdisjoint(other) for one in parts for other in parts if one is not other)
    if len(set(addresses)) == len(addresses):
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    for part, members in zip(ranges, parts, strict=True):
        assert all(part.overlaps(address[:end]) for address in members for end in range(len(address) + 1))


@pytest.mark.parametrize(
    "text", ["", "1", "0/4", "5/4", "-1/4", "1/0", "a/4", "1/4/2", "1 / 4", "1/4\n", "1.0/4", "١/4"]
)
def test_a_shard_is_written_as_i_of_n_from_1(text: str) -> None:
    with pytest.raises(
        InputError, match=r"^--shard .*: not a shard; give I/N with I from 1 to N, such as 1/4$"
    ) as error:
        Shard.parse(text)
    assert error.value.exit_status == 2
    assert (str(Shard.parse("1/4")), str(Shard.parse("4/4"))) == ("1/4", "4/4")


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Images in every kind of address; standard input lists paths, a folder and an archive."""
    for name in ("a/2.png", "a.png", "a/b/1.png", "b.png", "listed/x.png", "listed/y.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    members = {f"{number}.png": b"%d" % number for number in (10, 9, 1)}
    write_tar(tmp_path / "set.tar", members)
    write_tar(tmp_path / "set.tar.gz", members)
    write_zip(tmp_path / "set.zip", members)
    write_tar(tmp_path / "listed.tar", members)
    pixels = np.arange(12 * 27, dtype=np.uint8).reshape(12, 3, 3, 3)
    np.save(tmp_path / "array.npy", pixels)
    np.savez(tmp_path / "arrays.npz", one=pixels[:2], two=pixels[2:])
    (tmp_path / "damaged.tar").write_bytes((tmp_path / "set.tar").read_bytes()[:1200])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list").write_text("listed\nb.png\nlisted.tar\nmissing.png\n")
    return ["a", "a.png", "*.tar", "set.{tar.gz,zip}", "array.npy", "arrays.npz", "-"]


def give_standard_input(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def contents(sources: object) -> Counter[tuple[str, object]]:
    """Each image's name with its content."""
    assert hasattr(sources, "__iter__")
    return Counter((source.name, _content(source)) for source in sources)


def _content(source: ImageSource) -> object:
    content = source.content
    return content.tobytes() if isinstance(content, np.ndarray) else str(content)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 60])
def test_all_shards_together_are_the_images_of_the_arguments(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    listed = Path("list").read_bytes()
    give_standard_input(monkeypatch, listed)
    whole = contents(expand(arguments))
    parts = []
    for number in range(1, count + 1):
        give_standard_input(monkeypatch, listed)
        part = expand_shard(arguments[:: 1 if number % 2 else -1], Shard(number, count))
        assert part.count == whole.total()
        parts.append(contents(part.sources))
        assert part.size == parts[-1].total()
    assert sum(parts, Counter()) == whole
    assert all(len(part) <= -(-whole.total() // count) + 1 for part in parts)
    assert sum(name == "damaged.tar" for part in parts for name, _ in part) == 1, "an archive's damage is reported once"


def test_shards_and_checksum_depend_on_the_images_but_not_on_the_folder_that_they_are_in(tmp_path: Path) -> None:
    parts = {}
    for folder, names in (("one", "abcde"), ("elsewhere/deep", "abcde"), ("three", "abcdf")):
        (tmp_path / folder).mkdir(parents=True)
        for name in names:
            (tmp_path / folder / f"{name}.png").touch()
        part = expand_shard([str(tmp_path / folder)], Shard(2, 2))
        parts[folder] = part.checksum, [Path(source.name).name for source in part.sources]
    assert parts["one"] == parts["elsewhere/deep"]
    assert parts["one"][1] == ["c.png", "d.png", "e.png"]
    assert parts["one"][0] != parts["three"][0]


def test_members_of_archives_are_read_only_by_their_shard(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from inception_v3.images import containers

    read: list[str] = []
    image_of = containers._image_of
    monkeypatch.setattr(
        containers, "_image_of", lambda member, name, is_tar: (read.append(name), image_of(member, name, is_tar))[1]
    )
    part = expand_shard(["set.tar", "set.zip"], Shard(2, 3))
    assert read == []
    assert [source.name for source in part.sources] == read == ["set.tar/9.png", "set.zip/1.png"]


def test_an_archive_that_fails_only_while_it_is_read_is_reported_by_the_shard_that_reads_it(
    arguments: list[str],
) -> None:
    part = expand_shard(["set.tar"], Shard(2, 2))
    Path("set.tar").write_bytes(b"")
    (source,) = part.sources
    assert source.name == "set.tar"
    with pytest.raises(InputError, match=r"set\.tar"):
        source.read()


def test_a_url_that_cannot_be_downloaded_stops_a_shard_because_the_whole_is_unknown(arguments: list[str]) -> None:
    with pytest.raises(InputError, match=r"127\.0\.0\.1"):
        expand_shard(["http://127.0.0.1:9/x.tar", "a"], Shard(1, 2))


def test_an_image_in_standard_input_is_in_one_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    png = b"\x89PNG" + bytes(100)
    parts = []
    for number in (1, 2):
        give_standard_input(monkeypatch, png)
        parts += [source.content for source in expand_shard(["-"], Shard(number, 2)).sources]
    assert parts == [png]


def test_a_shard_of_nothing_is_wrong_usage(tmp_path: Path) -> None:
    for argument in (tmp_path, tmp_path / "missing"):
        with pytest.raises(InputError, match=r"no images in this folder|no such file") as error:
            expand_shard([str(argument)], Shard(1, 2))
        assert error.value.exit_status == 2
