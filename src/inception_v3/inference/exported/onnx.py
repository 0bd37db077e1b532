"""ONNX: an .onnx file with the description in its metadata."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inception_v3.inference.engines import onnx_file
from inception_v3.inference.engines.base import Precision
from inception_v3.inference.engines.graph import Graph
from inception_v3.inference.exported.base import ExportFormat, find_description
from inception_v3.inference.exported.description import KEY, MAX_BYTES, Description


class OnnxFormat(ExportFormat):
    """ONNX with opset 17. ONNX Runtime checks the file."""

    engine = "onnxruntime"
    keeps_names = True

    def recognises(self, path: Path, head: bytes) -> bool:
        """A ModelProto starts with the version of the format (field 1) and the name of its writer (field 2)."""
        return head[:1] == b"\x08" and head[2:3] == b"\x12"

    def read_description(self, path: Path) -> str | None:
        return find_description(onnx_file.metadata(path, MAX_BYTES))

    def write_description(self, file: Path, text: str) -> None:
        onnx_file.add_metadata(file, KEY, text)

    def weights_checksum(self, path: Path) -> str:
        return onnx_file.checksum(path)

    def convert(self, graph: Graph, precision: Precision = "fp32") -> Any:
        from inception_v3.inference.engines.onnx_graph import to_onnx

        return to_onnx(graph)

    def constant(self, path: Path, name: str) -> NDArray[np.floating] | None:
        import onnx

        found = (tensor for tensor in onnx.load(path).graph.initializer if tensor.name == name)
        return next((onnx.numpy_helper.to_array(tensor) for tensor in found), None)

    def save(self, model: Any, file: Path, description: Description) -> None:
        file.write_bytes(model.SerializeToString())
