"""engines/onnx_file.py reads an .onnx file without loading its weights, and reports damage."""

import random
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inception_v3.inference.engines import onnx_file
from inception_v3.inference.engines.onnxruntime import OnnxRuntimeEngine
from inception_v3.support.protocol_buffers import encode_varint, read_varint


def save_product(path: Path, width: int = 300) -> np.ndarray:
    """Save a network that multiplies by a matrix of `width` rows, and return the matrix."""
    matrix = np.random.default_rng(0).normal(size=(width, 300, 1, 1)).astype(np.float32)
    network_input = onnx.helper.make_tensor_value_info(
        "images", onnx.TensorProto.FLOAT, ["batch", 300, "height", "width"]
    )
    output = onnx.helper.make_tensor_value_info("Logits", onnx.TensorProto.FLOAT, ["batch", width])
    nodes = [
        onnx.helper.make_node("Conv", ["images", "matrix"], ["map"]),
        onnx.helper.make_node("Flatten", ["map"], ["Logits"]),
    ]
    constants = [onnx.numpy_helper.from_array(matrix, "matrix")]
    graph = onnx.helper.make_graph(nodes, "product", [network_input], [output], constants)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    model.ir_version = 8
    path.write_bytes(model.SerializeToString())
    return matrix


@pytest.mark.parametrize("width", [1, 7, 300])
def test_the_outline_is_the_same_network_with_its_weights_on_disk(tmp_path: Path, width: int) -> None:
    matrix = save_product(tmp_path / "a file's näme.onnx", width)
    outline = onnx_file.outline(tmp_path / "a file's näme.onnx")
    assert len(outline) < 1000 + 300 * 4, "the large tensor is not in it"
    model = onnx.load_model_from_string(outline)
    onnx.external_data_helper.load_external_data_for_model(model, str(tmp_path))
    assert np.array_equal(onnx.numpy_helper.to_array(model.graph.initializer[0]), matrix)
    whole = onnx.load(tmp_path / "a file's näme.onnx")
    assert model.graph.node == whole.graph.node
    assert model.opset_import == whole.opset_import


def test_the_engine_runs_a_file_and_a_link_to_it(tmp_path: Path) -> None:
    matrix = save_product(tmp_path / "model.onnx")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "link.onnx").symlink_to(tmp_path / "model.onnx")
    rows = np.random.default_rng(1).normal(size=(4, 300, 1, 1)).astype(np.float32)
    for path in (tmp_path / "model.onnx", tmp_path / "elsewhere" / "link.onnx"):
        logits = OnnxRuntimeEngine(path, "fp32").run(rows)["Logits"]
        assert np.allclose(logits, rows[:, :, 0, 0] @ matrix[:, :, 0, 0].T, atol=1e-4)


def test_the_checksum_covers_the_network_and_not_the_metadata(tmp_path: Path) -> None:
    save_product(tmp_path / "model.onnx")
    before = onnx_file.checksum(tmp_path / "model.onnx")
    onnx_file.add_metadata(tmp_path / "model.onnx", "key", "välue")
    assert onnx_file.checksum(tmp_path / "model.onnx") == before
    (entry,) = onnx.load(tmp_path / "model.onnx").metadata_props
    assert (entry.key, entry.value) == ("key", "välue")
    content = bytearray((tmp_path / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "model.onnx").write_bytes(content)
    assert onnx_file.checksum(tmp_path / "model.onnx") != before


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damage_raises_only_value_errors(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    save_product(folder / "model.onnx", 2)
    content = bytearray((folder / "model.onnx").read_bytes())
    offsets = data.draw(st.lists(st.integers(0, 300), min_size=1, max_size=4))
    for offset in offsets:
        content[offset] = data.draw(st.integers(0, 255))
    (folder / "model.onnx").write_bytes(content[: data.draw(st.integers(0, len(content)))])
    for read in (onnx_file.outline, onnx_file.checksum, lambda path: list(onnx_file.metadata(path, 100))):
        try:
            read(folder / "model.onnx")
        except ValueError:
            continue


def test_every_reader_reports_a_truncated_file(tmp_path: Path) -> None:
    save_product(tmp_path / "model.onnx")
    content = (tmp_path / "model.onnx").read_bytes()
    (tmp_path / "model.onnx").write_bytes(content[:-40])
    for read in (onnx_file.outline, onnx_file.checksum, lambda path: list(onnx_file.metadata(path, 100))):
        with pytest.raises(ValueError, match="cut short"):
            read(tmp_path / "model.onnx")


def test_integers_of_any_size_are_read_as_they_were_written() -> None:
    for value in [0, 1, 127, 128, 2**14, 2**63, *(random.Random(0).randrange(2**63) for _ in range(100))]:
        written = encode_varint(value)
        assert read_varint(b"\x80" + written + b"\x80", 1) == (value, 1 + len(written))
