"""TensorFlow checkpoints without TensorFlow: reading, writing, and damaged files.

TensorFlow itself, from the environment `.oracle`, writes the checkpoints that these tests read, and reads those that
they write.
"""

import errno
import json
import shutil
import struct
import subprocess
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import google_crc32c
import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inception_v3.errors import InputError
from inception_v3.weights.formats import tensorflow_checkpoint as checkpoint

ORACLE = Path(__file__).parents[2] / ".oracle" / "bin" / "python"

LONG = "scope/" * 400 + "weights"
NAMED = "Größe/権重/🙂"
PREAMBLE = """
import json, os, pathlib, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
import numpy as np
import tensorflow as tf
tf1 = tf.compat.v1
out = pathlib.Path(sys.argv[1])
"""

# Saves the values of each checkpoint NAME beside it, as NAME.npz. Variable names are stored as values, since some are
# too long for the names of files in a zip archive.
SAVE = """
rng = np.random.default_rng(0)
def table(values):
    return {"names": np.array(json.dumps(list(values))), **{f"v{i}": v for i, v in enumerate(values.values())}}

def session():
    return tf1.Session(config=tf1.ConfigProto(
        device_count={"CPU": 3}, intra_op_parallelism_threads=1, inter_op_parallelism_threads=1))

values = {
    "float16": (rng.normal(size=(3, 4)) * 100).astype("float16"),
    "float32": np.array([[0.0, -0.0, np.inf], [-np.inf, np.nan, 1e-45]], "float32"),
    "float64": rng.normal(size=(2, 3, 4, 5)),
    "int32": np.array([-2**31, -1, 0, 1, 127, 128, 2**31 - 1], "int32"),
    "int64": np.array([[-2**63, -1, 0], [300, 2**40, 2**63 - 1]], "int64"),
    "scalar/float": np.float32(2.5),
    "scalar/int": np.int64(123456),
    "scalar/zero": np.int32(0),
    "empty": np.zeros((0, 3), "float32"),
    "empty/int": np.zeros((2, 0), "int64"),
    "one": np.ones((1, 1, 1, 1), "float32"),
    sys.argv[2]: rng.normal(size=7).astype("float32"),
    sys.argv[3]: rng.normal(size=(2, 2)).astype("float32"),
    # TensorFlow begins a new block of a table at 256 KiB.
    "big/a": rng.normal(size=90_000).astype("float16"),
    "big/b": rng.integers(-2**31, 2**31, 100_000).astype("int32"),
    "big/c": rng.normal(size=(300, 400)).astype("float32"),
}
bfloat16 = np.array([1, -2.5, 2.0**127, -0.0, np.inf, 2.0**-126], "float32")
with tf.Graph().as_default(), session() as s:
    variables = {}
    for i, (name, value) in enumerate(values.items()):
        with tf1.device(f"/cpu:{i % 3}"):
            variables[name] = tf1.get_variable(f"v{i}", initializer=tf.constant(value), use_resource=False)
    with tf1.device("/cpu:0"):
        text = tf1.get_variable("text", initializer=tf.constant(["a", "bc"]))
        half = tf1.get_variable("half", initializer=tf.cast(tf.constant(bfloat16), tf.bfloat16))
    s.run(tf1.global_variables_initializer())
    def save(name, variables, **options):
        tf1.train.Saver(variables, **options).save(s, str(out / name), write_meta_graph=False, write_state=False)
    everything = variables | {"text": text, "half": half}
    save("v1", variables | {"text": text}, write_version=1)
    save("v2", everything)
    save("v2-sharded", everything, sharded=True)
    np.savez(out / "v1.npz", **table(values))
    np.savez(out / "v2.npz", **table(values | {"half": bfloat16}))

with tf.Graph().as_default(), session() as s:
    parts, whole = [], {}
    for name, shape, partitions in (("rows", (7, 3), (3, 1)), ("columns", (4, 1000, 2), (1, 2, 1))):
        partitioner = tf1.fixed_size_partitioner(max(partitions), axis=int(np.argmax(partitions)))
        for device, part in enumerate(tf1.get_variable(name, shape, partitioner=partitioner)):
            parts.append(part)
    s.run(tf1.global_variables_initializer())
    rows, columns = s.run(parts[:3]), s.run(parts[3:])
    whole = {"rows": np.concatenate(rows, 0), "columns": np.concatenate(columns, 1)}
    save("partitioned-v1", None, write_version=1)
    save("partitioned-v2", None)
    np.savez(out / "partitioned.npz", **table(whole))

with tf.Graph().as_default(), session() as s:
    def device(op, _numbers=iter(range(10**6))):
        return f"/cpu:{next(_numbers) % 3}" if op.type in ("VariableV2", "VarHandleOp") else "/cpu:0"
    with tf1.device(device):
        variable = tf1.get_variable(
            "rows", (7, 3), partitioner=tf1.fixed_size_partitioner(3), use_resource=False)
    s.run(tf1.global_variables_initializer())
    save("partitioned-sharded", None, sharded=True)
    save("partitioned-sharded-v1", None, sharded=True, write_version=1)
    np.savez(out / "partitioned-sharded.npz", **table({"rows": np.concatenate(s.run(list(variable)), 0)}))

with tf.Graph().as_default(), session() as s:
    variables = {
        "a/weights": tf1.get_variable("a", initializer=tf.constant([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])),
        "half": tf1.get_variable("half", initializer=tf.constant([1.5, -2.0], tf.float16)),
        "negative": tf1.get_variable("negative", initializer=tf.constant([-1, 2])),
        "step": tf1.get_variable("step", initializer=tf.constant(300, tf.int64)),
        "rows": tf1.get_variable("rows", (3, 2), partitioner=tf1.fixed_size_partitioner(2)),
    }
    s.run(tf1.global_variables_initializer())
    save("small-v1", variables, write_version=1)
    save("small-v2", variables)
    values = {name: s.run(variable) for name, variable in variables.items() if name != "rows"}
    values["rows"] = np.concatenate(s.run(list(variables["rows"])))
    np.savez(out / "small.npz", **table(values))

model = tf.train.Checkpoint(weights=tf.Variable([1.0, 2.0]), step=tf.Variable(3, dtype=tf.int64))
model.write(str(out / "object"))
"""

LOAD = """
for name in sys.argv[2:]:
    reader = tf.train.load_checkpoint(str(out / name))
    names = sorted(reader.get_variable_to_shape_map())
    values = {f"v{i}": reader.get_tensor(n) for i, n in enumerate(names)}
    np.savez(out / (name + ".npz"), names=np.array(json.dumps(names)), **values)
    with tf.Graph().as_default(), tf1.Session() as s:
        variables = {n: tf1.get_variable(f"r{i}", initializer=tf.zeros_like(values[f"v{i}"])) for i, n in
                     enumerate(names[:40])}
        if variables:
            tf1.train.Saver(variables).restore(s, str(out / name))
            restored = {f"v{i}": s.run(v) for i, v in enumerate(variables.values())}
            np.savez(out / (name + ".restored.npz"), names=np.array(json.dumps(names[:40])), **restored)
"""


def run_tensorflow(script: str, *arguments: str) -> None:
    if not ORACLE.exists():
        pytest.fail(f"{ORACLE} is missing: run make setup", pytrace=False)
    command = [str(ORACLE), "-c", PREAMBLE + script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def load_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return {name: file[f"v{i}"] for i, name in enumerate(json.loads(str(file["names"])))}


def assert_same(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Names, types, shapes and bits are equal, so that -0.0 and NaN are compared too."""
    assert sorted(actual) == sorted(expected)
    for name, value in expected.items():
        assert (actual[name].dtype, actual[name].shape) == (value.dtype, value.shape), name
        assert actual[name].tobytes() == value.tobytes(), name


def message_of(error: pytest.ExceptionInfo[InputError] | InputError) -> str:
    """The error's message, after checking that it is one line with a remedy."""
    text = str(error.value if isinstance(error, pytest.ExceptionInfo) else error)
    assert len(text.splitlines()) == 1
    assert "; " in text
    return text


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with checkpoints saved by TensorFlow, each with its values beside it."""
    folder = tmp_path_factory.mktemp("saved")
    run_tensorflow(SAVE, str(folder), NAMED, LONG)
    return folder


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


class TestReadingCheckpointsOfTensorFlow:
    @pytest.mark.parametrize("name", ["v1", "v2", "v2-sharded"])
    def test_all_types_shapes_and_names_are_read_bit_for_bit(self, saved: Path, name: str) -> None:
        expected = load_npz(saved / f"{name[:2]}.npz")
        assert {NAMED, LONG, "empty", "scalar/int"} <= set(expected)
        assert_same(checkpoint.read(saved / name), expected)

    @pytest.mark.parametrize(
        "file", ["v2", "v2.index", "v2.data-00000-of-00001", "v2-sharded.index", "v2-sharded.data-00001-of-00003"]
    )
    def test_v2_is_found_by_its_prefix_its_index_or_any_of_its_data_files(self, saved: Path, file: str) -> None:
        assert_same(checkpoint.read(str(saved / file)), load_npz(saved / "v2.npz"))

    def test_bfloat16_becomes_float32(self, saved: Path) -> None:
        half = checkpoint.read(saved / "v2")["half"]
        assert half.dtype == np.float32
        assert half.tolist() == [1, -2.5, 2.0**127, 0, np.inf, 2.0**-126]

    @pytest.mark.parametrize("name", ["partitioned-v1", "partitioned-v2", "partitioned-sharded"])
    def test_a_partitioned_variable_is_assembled(self, saved: Path, name: str) -> None:
        expected = load_npz(saved / f"{name.removesuffix('-v1').removesuffix('-v2')}.npz")
        assert_same(checkpoint.read(saved / name), expected)

    @pytest.mark.parametrize("name", ["v1", "v2", "partitioned-v1"])
    def test_arrays_are_writable_and_share_no_memory(self, saved: Path, name: str) -> None:
        arrays = list(checkpoint.read(saved / name).values())
        assert all(array.flags.writeable and array.flags.c_contiguous for array in arrays)
        for array in arrays:
            array[...] = 0
        assert checkpoint.read(saved / name).keys()

    def test_object_based_checkpoints_are_read_by_their_keys(self, saved: Path) -> None:
        arrays = checkpoint.read(saved / "object")
        assert arrays["weights/.ATTRIBUTES/VARIABLE_VALUE"].tolist() == [1, 2]
        assert arrays["step/.ATTRIBUTES/VARIABLE_VALUE"] == np.int64(3)

    def test_a_variable_spread_over_several_v1_files_is_named_in_the_error(self, saved: Path) -> None:
        with pytest.raises(InputError) as error:
            checkpoint.read(saved / "partitioned-sharded-v1-00000-of-00003")
        assert "'rows' is partly in other files" in message_of(error)


class TestChoosingVariables:
    @pytest.mark.parametrize("name", ["v1", "v2"])
    def test_only_the_wanted_variables_are_read(self, saved: Path, name: str) -> None:
        expected = {k: v for k, v in load_npz(saved / f"{name}.npz").items() if k.startswith("scalar/")}
        assert_same(checkpoint.read(saved / name, wanted=lambda n: n.startswith("scalar/")), expected)

    @pytest.mark.parametrize("name", ["v1", "v2"])
    def test_damage_in_other_variables_does_no_harm(self, copy: Path, name: str) -> None:
        expected = load_npz(copy / f"{name}.npz")
        file = copy / {"v1": "v1", "v2": "v2.data-00000-of-00001"}[name]
        content = file.read_bytes()
        offset = content.index(expected["big/c"][1].tobytes())
        file.write_bytes(content[:offset] + bytes([content[offset] ^ 1]) + content[offset + 1 :])
        assert_same(checkpoint.read(copy / name, lambda n: n == "big/a"), {"big/a": expected["big/a"]})
        with pytest.raises(InputError) as error:
            checkpoint.read(copy / name, lambda n: n == "big/c")
        assert "'big/c': damaged (a wrong checksum" in message_of(error)

    def test_data_files_without_wanted_variables_may_be_missing(self, copy: Path) -> None:
        (copy / "v2-sharded.data-00001-of-00003").unlink()
        arrays = checkpoint.read(copy / "v2-sharded", lambda n: n == "float16")
        assert_same(arrays, {"float16": load_npz(copy / "v2.npz")["float16"]})
        with pytest.raises(InputError, match=r"v2-sharded.data-00001-of-00003 is missing; put it beside"):
            checkpoint.read(copy / "v2-sharded")

    @pytest.mark.parametrize("name", ["v1", "v2"])
    def test_strings_are_skipped_unless_they_are_wanted(self, saved: Path, name: str) -> None:
        assert "text" not in checkpoint.read(saved / name)
        with pytest.raises(InputError, match=r"'text' is of TensorFlow's type 7; save it as float16"):
            checkpoint.read(saved / name, wanted=lambda n: True)

    def test_an_error_raised_by_wanted_is_not_reported_as_damage(self, saved: Path) -> None:
        def choose(name: str) -> bool:
            raise ValueError(name)

        with pytest.raises(ValueError, match="half"):
            checkpoint.read(saved / "object", lambda n: choose("half"))


class TestRecognising:
    @pytest.mark.parametrize("file", ["v1", "v2", "v2.index", "v2.data-00000-of-00001", "partitioned-v1", "object"])
    def test_checkpoints_are_recognised(self, saved: Path, file: str) -> None:
        assert checkpoint.recognises(saved / file)
        assert checkpoint.recognises(str(saved / file))

    def test_v1_is_recognised_by_its_content_whatever_its_name(self, copy: Path) -> None:
        (copy / "v1").rename(copy / "model.safetensors")
        assert checkpoint.recognises(copy / "model.safetensors")
        assert checkpoint.read(copy / "model.safetensors").keys()

    def test_nothing_else_is_recognised(self, saved: Path, tmp_path: Path) -> None:
        for name, content in {"empty": b"", "short": b"1234567", "text": b"words " * 100}.items():
            (tmp_path / name).write_bytes(content)
        (tmp_path / "orphan.data-00000-of-00001").write_bytes(b"1234")
        (tmp_path / "folder.index").mkdir()
        for path in [*tmp_path.iterdir(), tmp_path / "missing", tmp_path / "folder", saved, saved / "v1.npz"]:
            assert not checkpoint.recognises(path)
            with pytest.raises(InputError) as error:
                checkpoint.read(path)
            assert str(path) in message_of(error)
        for strange in ("", ".", "/", "text/below", "/dev/null"):
            assert not checkpoint.recognises(strange)
        for impossible, reason in {"no\0name": "not a path", "x" * 5000: "the name is too long"}.items():
            with pytest.raises(InputError, match=reason):
                checkpoint.recognises(impossible)

    def test_an_index_without_its_suffix_is_refused_with_a_remedy(self, copy: Path) -> None:
        (copy / "v2.index").rename(copy / "renamed")
        with pytest.raises(
            InputError, match=r"renamed: the index of a V2 checkpoint; rename it to the prefix of its data and .index"
        ):
            checkpoint.read(copy / "renamed")


def written() -> dict[str, dict[str, np.ndarray]]:
    """The variables of the checkpoints that are written here and read by TensorFlow."""
    rng = np.random.default_rng(1)
    matrix = rng.normal(size=(30, 40))
    return {
        "types": {dtype: (matrix * 100).astype(dtype) for dtype in ("float16", "float32", "float64", "int32", "int64")}
        | {
            "scalar": np.array(2.5, "float32"),
            "empty": np.zeros((0, 3), "float32"),
            "extremes": np.array([-(2**63), 2**63 - 1]),
            "bits": np.array([-0.0, np.nan, -np.inf, 1e-45], "float32"),
            "transposed": matrix.T,
            "strided": matrix.astype("float32")[::3, ::-2],
            "big-endian": matrix.astype(">f4"),
            "3 MB": rng.normal(size=(750, 1000)).astype("float32"),
            NAMED: rng.normal(size=3),
            LONG: rng.normal(size=(3, 1, 2)),
        },
        "many": {f"layer_{i}/weights": np.full((i % 5, 2), i, "float32") for i in range(10_000)},
        "nothing": {},
    }


@pytest.fixture(scope="session")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with checkpoints written here, each with the values that TensorFlow reads from it beside it."""
    folder = tmp_path_factory.mktemp("written")
    for name, variables in written().items():
        checkpoint.write(folder / name, variables)
    run_tensorflow(LOAD, str(folder), *written())
    return folder


class TestWriting:
    @pytest.mark.parametrize("name", list(written()))
    def test_tensorflow_loads_equal_values(self, loaded: Path, name: str) -> None:
        expected = {k: v.astype(v.dtype.newbyteorder("=")) for k, v in written()[name].items()}
        assert_same(load_npz(loaded / f"{name}.npz"), expected)
        assert_same(checkpoint.read(loaded / name), expected)

    def test_a_saver_restores_equal_values(self, loaded: Path) -> None:
        expected = {k: v.astype(v.dtype.newbyteorder("=")) for k, v in written()["types"].items()}
        assert_same(load_npz(loaded / "types.restored.npz"), expected)

    @settings(deadline=None, max_examples=60)
    @given(
        st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda n: n[0] != "\0"),
            st.sampled_from(["f2", "f4", "f8", "i4", "i8", ">f4", ">i8"]).flatmap(
                lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4))
            ),
            max_size=6,
        )
    )
    def test_written_variables_are_read_back(self, variables: dict[str, np.ndarray]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            checkpoint.write(Path(folder) / "new" / "model.ckpt-1", variables)
            arrays = checkpoint.read(Path(folder) / "new" / "model.ckpt-1")
        assert_same(arrays, {k: v.astype(v.dtype.newbyteorder("=")) for k, v in variables.items()})

    @pytest.mark.parametrize("name", ["", "\0name", "\ud800"])
    def test_names_that_tensorflow_could_not_read_are_refused(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(InputError) as error:
            checkpoint.write(tmp_path / "model", {name: np.zeros(1)})
        assert "rename it" in message_of(error)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("dtype", ["bool", "uint8", "complex64", "U3", "O", "uint16"])
    def test_other_types_are_refused(self, tmp_path: Path, dtype: str) -> None:
        with pytest.raises(InputError, match="'mask' is of type"):
            checkpoint.write(tmp_path / "model", {"mask": np.zeros(1, dtype)})
        assert not list(tmp_path.iterdir())

    def test_after_a_failure_the_old_checkpoint_is_complete(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        old = {"w": np.arange(3.0)}
        checkpoint.write(tmp_path / "model", old)

        def full(path: Path, data: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(Path, "write_bytes", full)  # only the index is written by it, after the data
        with pytest.raises(InputError) as error:
            checkpoint.write(tmp_path / "model", {"w": np.zeros(3)})
        assert "the disk is full" in message_of(error)
        assert_same(checkpoint.read(tmp_path / "model"), old)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["model.data-00000-of-00001", "model.index"]

    def test_an_index_is_never_in_place_without_its_data(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(temporary: Path, target: Path) -> Path:
            if target.suffix == ".index":
                raise PermissionError(errno.EACCES, "Permission denied")
            return replace(temporary, target)

        replace = Path.replace
        monkeypatch.setattr(Path, "replace", refuse)
        with pytest.raises(InputError, match=r"model.index: cannot be written \(Permission denied\); choose another"):
            checkpoint.write(tmp_path / "model", {"w": np.zeros(3)})
        assert [p.name for p in tmp_path.iterdir()] == ["model.data-00000-of-00001"]
        assert not checkpoint.recognises(tmp_path / "model")


@pytest.fixture(scope="session")
def scratch(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which tests overwrite the same files with damaged copies of small checkpoints."""
    return tmp_path_factory.mktemp("scratch")


SMALL = ["small-v1", "small-v2.index", "small-v2.data-00000-of-00001"]


def read_instead(saved: Path, scratch: Path, file: str, content: bytes) -> dict[str, np.ndarray] | None:
    """Read the small checkpoint with other content in one file. Returns None if it is refused with a proper message."""
    for name in SMALL:
        (scratch / name).write_bytes(content if name == file else (saved / name).read_bytes())
    path = scratch / file.split(".")[0]
    arrays, refusal = None, None
    tracemalloc.start()
    try:
        arrays = checkpoint.read(path)
    except InputError as error:
        refusal = error
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 4_000_000
    assert refusal is None or str(path) in message_of(refusal)
    return arrays


class TestDamage:
    @pytest.mark.parametrize("file", SMALL)
    def test_every_truncation_is_refused(self, saved: Path, scratch: Path, file: str) -> None:
        content = (saved / file).read_bytes()
        for length in range(len(content)):
            assert read_instead(saved, scratch, file, content[:length]) is None, length

    @pytest.mark.parametrize("file", SMALL)
    def test_no_changed_byte_changes_a_value(self, saved: Path, scratch: Path, file: str) -> None:
        expected = load_npz(saved / "small.npz")
        content = (saved / file).read_bytes()

        @settings(deadline=None, max_examples=250)
        @given(st.integers(0, len(content) - 1), st.integers(1, 255))
        def check(offset: int, flip: int) -> None:
            changed = content[:offset] + bytes([content[offset] ^ flip]) + content[offset + 1 :]
            arrays = read_instead(saved, scratch, file, changed)
            if arrays is not None:
                assert_same(arrays, expected)

        check()

    @pytest.mark.parametrize("file", SMALL)
    def test_no_replaced_block_of_bytes_changes_a_value(self, saved: Path, scratch: Path, file: str) -> None:
        expected = load_npz(saved / "small.npz")
        content = (saved / file).read_bytes()

        @settings(deadline=None, max_examples=100)
        @given(st.integers(0, len(content)), st.integers(0, len(content)), st.binary(max_size=64))
        def check(start: int, stop: int, other: bytes) -> None:
            arrays = read_instead(
                saved, scratch, file, content[: min(start, stop)] + other + content[max(start, stop) :]
            )
            if arrays is not None:
                assert_same(arrays, expected)

        check()

    @pytest.mark.parametrize("file", SMALL[:2])
    def test_bytes_changed_under_a_right_checksum_are_read_or_refused_without_allocating_memory(
        self, saved: Path, scratch: Path, file: str
    ) -> None:
        records = list(checkpoint.Table(saved / file).items())
        assert_same(read_instead(saved, scratch, file, table(records)) or {}, load_npz(saved / "small.npz"))
        ends = np.cumsum([len(value) for _, value in records])

        @settings(deadline=None, max_examples=250)
        @given(st.integers(0, int(ends[-1]) - 1), st.binary(min_size=1, max_size=4))
        def check(offset: int, other: bytes) -> None:
            number = int(np.searchsorted(ends, offset, "right"))
            key, value = records[number]
            offset -= int(ends[number]) - len(value)
            value = bytes(value[:offset]) + other + bytes(value[offset + len(other) :])
            read_instead(saved, scratch, file, table([*records[:number], (key, value), *records[number + 1 :]]))

        check()

    @settings(deadline=None, max_examples=100)
    @given(content=st.binary(max_size=200))
    def test_tables_of_random_bytes_are_refused(self, saved: Path, scratch: Path, content: bytes) -> None:
        end = struct.pack("<4B", len(content) + 5 & 0x7F | 0x80, len(content) + 5 >> 7, 0, 0)
        for forged in (content + checkpoint.MAGIC, block(content) + end.ljust(40, b"\0") + checkpoint.MAGIC):
            assert read_instead(saved, scratch, "small-v1", forged) is None


# --- forged files with right checksums ---


def number(value: int) -> bytes:
    octets = b""
    value %= 1 << 64
    while value > 127:
        octets, value = octets + bytes([value & 127 | 128]), value >> 7
    return octets + bytes([value])


def field(key: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return number(key << 3) + number(value)
    return number(key << 3 | 2) + number(len(value)) + value


def crc(data: bytes) -> bytes:
    value = google_crc32c.value(data)
    return struct.pack("<I", ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def block(content: bytes, compression: int = 0) -> bytes:
    content += bytes([compression])
    return content + crc(content)


def entry(key: bytes, value: bytes | memoryview, shared: int = 0) -> bytes:
    return number(shared) + number(len(key)) + number(len(value)) + key + bytes(value)


START = struct.pack("<II", 0, 1)  # the list of a block's restart points, of which there is one


def table(records: list[tuple[bytes, Any]] | bytes, compression: int = 0) -> bytes:
    content = records if isinstance(records, bytes) else b"".join(entry(*record) for record in records)
    data = block(content + START, compression)
    index = block(entry(b"\xff" * 4, number(0) + number(len(data) - 5)) + START)
    handles = number(0) + number(0) + number(len(data)) + number(len(index) - 5)
    return data + index + handles.ljust(40, b"\0") + checkpoint.MAGIC


DATA = np.arange(6, dtype="float32").tobytes()


def shape(*lengths: int) -> bytes:
    return field(2, b"".join(field(2, field(1, length)) for length in lengths))


def position(offset: int = 0, size: int = 24, shard: int = 0, checksum: bytes = crc(DATA)) -> bytes:
    return field(3, shard) + field(4, offset) + field(5, size) + number(6 << 3 | 5) + checksum


def v2(value: bytes, *more: tuple[bytes, bytes], header: bytes = b"") -> bytes:
    return table([(b"", field(1, 1) + header), (b"w", value), *more])


def extents(*spans: tuple[int, int]) -> bytes:
    return b"".join(field(1, field(1, start) + field(2, length)) for start, length in spans)


def rows(start: int, length: int) -> bytes:
    """The key of a slice of the matrix `w`, which has 3 columns."""
    return b"\0w\0\1\1\2" + bytes([0x80 + start, 0x80 + length, 0x80, 0x7F])


def sliced(*spans: tuple[int, int]) -> bytes:
    return field(1, 1) + shape(4, 3) + b"".join(field(7, extents((s, n)) + field(1, b"")) for s, n in spans)


FLOAT = field(1, 1)
WHOLE = FLOAT + shape(2, 3) + position()
FORGED_V2 = {
    "shape beyond the file": (v2(FLOAT + shape(1 << 40) + position(size=4 << 40)), "truncated"),
    "shape beyond 64 bits": (v2(FLOAT + shape(*[1 << 40] * 3) + position()), "24 bytes for the shape"),
    "more dimensions than NumPy allows": (v2(FLOAT + shape(*[1] * 100, 6) + position()), "damaged"),
    "no values, of a great length": (
        v2(FLOAT + shape(0, 1 << 62, 1 << 62) + position(size=0, checksum=crc(b""))),
        "damaged",
    ),
    "size unlike the shape": (v2(FLOAT + shape(2, 3) + position(size=20)), "20 bytes for the shape [2, 3]"),
    "negative length": (v2(FLOAT + shape(-2, -3) + position()), "a shape is unknown"),
    "unknown rank": (v2(FLOAT + field(2, field(3, 1)) + position()), "a shape is unknown"),
    "offset beyond the end": (v2(FLOAT + shape(2, 3) + position(offset=1)), "truncated"),
    "negative offset": (v2(FLOAT + shape(2, 3) + position(offset=-1)), "truncated"),
    "negative size": (v2(FLOAT + shape(2, 3) + position(size=-24)), "-24 bytes"),
    "no such data file": (v2(FLOAT + shape(2, 3) + position(shard=1)), "contradict"),
    "another checksum": (v2(FLOAT + shape(2, 3) + position(checksum=crc(b""))), "a wrong checksum"),
    "no checksum": (v2(FLOAT + shape(2, 3) + field(5, 24)), "damaged"),
    "number instead of a message": (v2(field(1, b"\1") + field(2, 3)), "invalid structure"),
    "group": (v2(b"\x0b\x0c"), "a message is truncated"),
    "message beyond the end": (v2(b"\x12\xff\xff\xff\x7f"), "a message is truncated"),
    "endless number": (v2(b"\x08" + b"\xff" * 20), "a number has no end"),
    "name that is not text": (v2(WHOLE, (b"\xff", WHOLE)), "damaged"),
    "the same bytes many times": (v2(WHOLE, *((b"w%d" % n, WHOLE) for n in range(9))), "truncated"),
    "newer format": (v2(WHOLE, header=field(3, field(1, 9) + field(2, 2))), "newer than TensorFlow 2.12"),
    "big-endian": (v2(WHOLE, header=field(2, 1)), "from a big-endian machine"),
    "slice that is not listed": (v2(sliced((0, 2), (2, 2))), "one of its slices is missing"),
    "slices that leave a gap": (v2(sliced((0, 2))), "is partly in other files"),
    "too many slices": (v2(sliced((0, 2), (2, 2), (2, 2))), "slices overlap"),
    "slice outside": (v2(sliced((0, 2), (3, 2))), "a slice exceeds the shape"),
    "slice before the start": (v2(sliced((0, 2), (-1, 2))), "a slice exceeds the shape"),
    "slice of other dimensions": (v2(FLOAT + shape(4, 3) + field(7, extents((0, 4)))), "damaged"),
    "slice of another shape": (
        table([(b"", field(1, 1)), (rows(0, 4), WHOLE), (b"w", sliced((0, 4)))]),
        "contradict",
    ),
    "no variables": (table([(b"key of another program", b"value")]), "no list of variables"),
    "compressed": (table([(b"", field(1, 1))], compression=1), "compressed"),
    "keys out of order": (table([(b"", field(1, 1)), (b"w", WHOLE), (b"v", WHOLE)]), "out of order"),
    "key shared with nothing": (table(entry(b"", b"", shared=9)), "invalid structure"),
    "value beyond the block": (table(b"\0\1\x7fw"), "invalid structure"),
    "long keys that share more and more": (
        table(
            entry(b"", b"\x08\1")
            + entry(b"k" * 60_000, b"")
            + b"".join(entry(b"k", b"", 60_000 + n) for n in range(9_999))
        ),
        "invalid structure",
    ),
    "more restart points than bytes": (
        block(b"\xff" * 9) + b"\0\0\0\x09".ljust(40, b"\0") + checkpoint.MAGIC,
        "too short",
    ),
    "index beyond the end": (b"\0\0\0\xff\xff\x7f".ljust(40, b"\0") + checkpoint.MAGIC, "a block is beyond the end"),
    "index at a negative offset": (b"\0\0".ljust(40, b"\xff") + checkpoint.MAGIC, "a number has no end"),
}


def v1(listed: bytes, tensor: bytes, meta: bytes = b"") -> bytes:
    """A V1 checkpoint that declares the vector `w` as in `listed` and holds `tensor`."""
    everything = field(4, field(1, b""))
    listed = field(1, field(1, field(1, b"w") + listed + everything) + meta)
    return table([(b"", listed), (b"\0w\0\1\1\1\x80\x7f", field(2, field(1, b"w") + field(3, tensor)))])


FORGED_V1 = {
    "shape beyond the file": (
        v1(shape(1 << 40) + field(3, 1), field(5, DATA)),
        "6 values for the shape [1099511627776]",
    ),
    "too few integers": (v1(shape(1 << 40) + field(3, 9), field(10, b"\1\2")), "2 values for the shape"),
    "part of a value": (v1(shape(6) + field(3, 1), field(5, DATA[:-1])), "damaged"),
    "endless integer": (v1(shape(1) + field(3, 3), field(7, b"\xff" * 500_000 + b"\1")), "a number has no end"),
    "unfinished integer": (v1(shape(1) + field(3, 3), field(7, b"\1\xff")), "a number has no end"),
    "values of another type": (v1(shape(6) + field(3, 2), field(5, DATA)), "0 values"),
    "another number of dimensions": (v1(shape(2, 3) + field(3, 1), field(5, DATA)), "damaged"),
    "newer format": (v1(shape(6) + field(3, 1), field(5, DATA), field(2, field(2, 2))), "newer than TensorFlow 2.12"),
    "a variable twice": (
        v1(shape(6) + field(3, 1), field(5, DATA), field(1, field(1, b"w") + field(3, 1))),
        "listed twice",
    ),
    "values that are not there": (
        table([(b"", field(1, field(1, field(1, b"w") + field(3, 1) + field(4, b""))))]),
        "missing",
    ),
}


class TestForgedFiles:
    """Checksums detect accidents, but not an attacker."""

    def test_valid_files_built_in_the_same_way_are_read(self, tmp_path: Path) -> None:
        expected = {"w": np.arange(6, dtype="float32").reshape(2, 3)}
        (tmp_path / "m.index").write_bytes(v2(WHOLE))
        (tmp_path / "m.data-00000-of-00001").write_bytes(DATA)
        assert_same(checkpoint.read(tmp_path / "m"), expected)
        both = [(b"", field(1, 1)), (rows(0, 2), WHOLE), (rows(2, 2), FLOAT + shape(2, 3) + position(24))]
        (tmp_path / "m.index").write_bytes(table([*both, (b"w", sliced((0, 2), (2, 2)))]))
        (tmp_path / "m.data-00000-of-00001").write_bytes(DATA * 2)
        assert_same(checkpoint.read(tmp_path / "m"), {"w": np.concatenate([expected["w"]] * 2)})
        (tmp_path / "v1").write_bytes(v1(shape(6) + field(3, 1), field(5, DATA)))
        assert_same(checkpoint.read(tmp_path / "v1"), {"w": expected["w"].reshape(-1)})

    def test_slices_that_overlap_and_leave_a_gap_are_refused(self, tmp_path: Path) -> None:
        both = [(b"", field(1, 1)), (rows(0, 2), WHOLE), (rows(1, 2), FLOAT + shape(2, 3) + position(24))]
        (tmp_path / "m.index").write_bytes(table([*both, (b"w", sliced((0, 2), (1, 2)))]))
        (tmp_path / "m.data-00000-of-00001").write_bytes(DATA * 2)
        with pytest.raises(InputError, match="slices overlap"):
            checkpoint.read(tmp_path / "m")

    @pytest.mark.parametrize(
        ("file", "content", "reason"),
        [("m.index", *forged) for forged in FORGED_V2.values()] + [("m", *forged) for forged in FORGED_V1.values()],
        ids=[f"V2 {name}" for name in FORGED_V2] + [f"V1 {name}" for name in FORGED_V1],
    )
    def test_forged_files_are_refused_before_memory_is_allocated(
        self, tmp_path: Path, file: str, content: bytes, reason: str
    ) -> None:
        (tmp_path / file).write_bytes(content)
        (tmp_path / "m.data-00000-of-00001").write_bytes(DATA)
        tracemalloc.start()
        with pytest.raises(InputError) as error:
            checkpoint.read(tmp_path / "m")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert reason in message_of(error)
        assert str(tmp_path / file) in str(error.value)
        assert peak < 20_000_000
