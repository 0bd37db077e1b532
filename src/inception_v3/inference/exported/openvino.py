"""OpenVINO's IR: an .xml file with the network and the description, and a .bin file with the weights."""

import re
from html import escape
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from inception_v3.inference.engines.base import Precision
from inception_v3.inference.engines.graph import Graph
from inception_v3.inference.engines.openvino import load_core, read_graph
from inception_v3.inference.exported.base import ExportFormat
from inception_v3.inference.exported.description import KEY, MAX_BYTES, Description


class OpenvinoFormat(ExportFormat):
    """OpenVINO's IR, written from ONNX. OpenVINO checks the file."""

    engine = "openvino"
    keeps_names = True
    weights_suffix = ".bin"

    def recognises(self, path: Path, head: bytes) -> bool:
        return b"<net " in head

    def read_description(self, path: Path) -> str | None:
        """Read the description, an attribute. A search finds its element, so that the rest need not be parsed."""
        if path.stat().st_size > MAX_BYTES:
            raise ValueError("larger than such a file can be")
        element = re.search(rf'<{KEY}>\s*(<description value="[^"<]*" />)', path.read_text("utf-8"))
        return ElementTree.fromstring(element[1]).get("value") if element else None

    def write_description(self, file: Path, text: str) -> None:
        """Add the description to rt_info, where OpenVINO records how a model was created."""
        before, end, after = file.read_text("utf-8").rpartition("\t</rt_info>")
        assert end, "OpenVINO writes rt_info into every model"
        element = f'\t\t<{KEY}>\n\t\t\t<description value="{escape(text)}" />\n\t\t</{KEY}>\n'
        file.write_text(before + element + end + after, "utf-8")

    def convert(self, graph: Graph, precision: Precision = "fp32") -> Any:
        return read_graph(graph)

    def constant(self, path: Path, name: str) -> NDArray[np.floating] | None:
        nodes = load_core().read_model(path).get_ops()
        found = (node for node in nodes if (node.get_type_name(), node.get_friendly_name()) == ("Constant", name))
        return next((np.array(node.get_data()) for node in found), None)

    def save(self, model: Any, file: Path, description: Description) -> None:
        import openvino

        try:
            openvino.save_model(model, file, compress_to_fp16=False)
        except RuntimeError:  # without the system's error: write as much, so that the system reports a full disk
            for part in (file, file.with_suffix(self.weights_suffix)):
                part.unlink(missing_ok=True)
            constants = (operation for operation in model.get_ops() if operation.get_type_name() == "Constant")
            file.with_suffix(".trial").write_bytes(bytes(sum(constant.get_byte_size() for constant in constants)))
            raise
