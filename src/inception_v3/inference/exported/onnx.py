"""ONNX: an .onnx file with the description in its metadata."""

from collections.abc import Iterable
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

    def save(self, model: Any, file: Path, description: Description) -> None:
        file.write_bytes(model.SerializeToString())

    def with_outputs(self, file: Path, names: Iterable[str]) -> Any:
        """As in ExportFormat. Needs the package onnx."""
        import onnx

        model = onnx.load(file)
        known = {value.name: value for value in onnx.shape_inference.infer_shapes(model).graph.value_info}
        present = {output.name for output in model.graph.output}
        for name in names:
            if name not in known and name not in present:
                raise ValueError(f"no value {name!r} in the file")
            if name not in present:
                model.graph.output.append(known[name])
        return model

    def constant(self, model: Any, name: str) -> NDArray[np.floating]:
        from onnx import numpy_helper

        values = {tensor.name: tensor for tensor in model.graph.initializer}
        if name not in values:
            raise ValueError(f"no constant {name!r} in the file")
        return numpy_helper.to_array(values[name])
