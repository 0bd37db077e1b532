"""OpenVINO's IR: an .xml file with the network and the description, and a .bin file with the weights."""

import re
from html import escape
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from inception_v3.inference.engines.base import Precision, Run
from inception_v3.inference.engines.graph import Graph
from inception_v3.inference.engines.openvino import OpenvinoEngine, read_graph
from inception_v3.inference.exported.base import ExportFormat
from inception_v3.inference.exported.description import KEY, MAX_BYTES, Description
from inception_v3.network.architecture import Size
from inception_v3.support.files import checksum


class OpenvinoFormat(ExportFormat):
    """OpenVINO's IR, written from ONNX. OpenVINO checks the file."""

    program = "OpenVINO"
    precisions = ("fp32", "bf16", "int8")
    packages = ("openvino", "onnx")
    extra = "openvino"

    def recognises(self, path: Path, head: bytes) -> bool:
        return b"<net " in head

    def read_description(self, path: Path) -> str | None:
        """The description is one attribute. A search finds its element, so that the rest need not be parsed."""
        if path.stat().st_size > MAX_BYTES:
            raise ValueError("larger than such a file can be")
        element = re.search(rf'<{KEY}>\s*(<description value="[^"<]*" />)', path.read_text("utf-8"))
        return ElementTree.fromstring(element[1]).get("value") if element else None

    def write_description(self, file: Path, text: str) -> None:
        """Add it to rt_info, where OpenVINO records how a model was made."""
        before, end, after = file.read_text("utf-8").rpartition("\t</rt_info>")
        assert end, "OpenVINO writes rt_info into every model"
        element = f'\t\t<{KEY}>\n\t\t\t<description value="{escape(text)}" />\n\t\t</{KEY}>\n'
        file.write_text(before + element + end + after, "utf-8")

    def weights_checksum(self, path: Path) -> str:
        return checksum(path.with_suffix(".bin"))

    def files(self, file: Path) -> list[Path]:
        return [file.with_suffix(".bin"), file]

    def convert(self, graph: Graph, precision: Precision = "fp32", example_size: Size = (299, 299)) -> Any:
        return read_graph(graph)

    def save(self, model: Any, file: Path, description: Description) -> None:
        import openvino

        openvino.save_model(model, file, compress_to_fp16=False)

    def run_file(self, file: Path, description: Description) -> Run:
        return OpenvinoEngine(file, description.precision).run

    def run_model(self, model: Any) -> Run:
        return OpenvinoEngine(model, "int8").run
